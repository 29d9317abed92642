"""PyTorch's longer paths to the layers: ``nn.modules.batchnorm`` is the module ``nn.batchnorm``, and so on."""

from __future__ import annotations

import sys
from types import ModuleType

from tensorlib.nn import (
    activation,
    adaptive,
    attention,
    batchnorm,
    container,
    conv,
    distance,
    dropout,
    flatten,
    fold,
    lazy,
    linear,
    loss,
    module,
    normalization,
    padding,
    pixelshuffle,
    pooling,
    rnn,
    sparse,
    transformer,
    upsampling,
)

#: PyTorch's name of the module -> where its layers are; MultiheadAttention is among PyTorch's activations.
_PATHS: dict[str, ModuleType] = {
    "activation": activation, "adaptive": adaptive, "batchnorm": batchnorm, "channelshuffle": pixelshuffle,
    "container": container, "conv": conv, "distance": distance, "dropout": dropout, "flatten": flatten, "fold": fold,
    "instancenorm": batchnorm, "lazy": lazy, "linear": linear, "loss": loss, "module": module,
    "normalization": normalization, "padding": padding, "pixelshuffle": pixelshuffle, "pooling": pooling, "rnn": rnn,
    "sparse": sparse, "transformer": transformer, "upsampling": upsampling,
}  # fmt: skip
for _name, _module in _PATHS.items():
    globals()[_name] = sys.modules[f"{__name__}.{_name}"] = _module
for _module in (*_PATHS.values(), attention):
    globals().update({k: v for k, v in vars(_module).items() if isinstance(v, type) and issubclass(v, module.Module)})
