"""The declarations, by family. Importing this package fills the registry and gives the public functions their names."""

from tensorlib._dispatch import wrap_dim
from tensorlib.op import declared as _declared
from tensorlib.ops import (
    activation,
    attention,
    convolution,
    create,
    embeddings,
    gather_scatter,
    indexing,
    joining,
    linalg,
    loss,
    memory,
    normalization,
    optim,
    pointwise,
    pooling,
    random,
    reduction,
    reordering,
    softmax,
    triangles,
    views,
)

__all__ = [
    "activation",
    "attention",
    "convolution",
    "create",
    "embeddings",
    "gather_scatter",
    "indexing",
    "joining",
    "linalg",
    "loss",
    "memory",
    "normalization",
    "optim",
    "pointwise",
    "pooling",
    "random",
    "reduction",
    "reordering",
    "softmax",
    "triangles",
    "views",
    "wrap_dim",
]

for _made in _declared():
    if _made.where & {"function", "functional"}:
        for _name in (_made.name, *_made.alias):
            globals()[_name] = _made.public
