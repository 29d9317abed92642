"""An index out of range on a GPU: no memory beyond the tensor is touched, and it is noticed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from simulated import ASSERT, Simulation, simulated

import tensorlib as tl
from tensorlib.errors import DeviceError
from tensorlib.nn import functional as F

INDEXED: list[tuple[str, Callable[[tl.Tensor, tl.Tensor], tl.Tensor]]] = [
    ("gather", lambda x, i: x.gather(0, i.unsqueeze(1))),
    ("index_select", lambda x, i: x.index_select(0, i)),
    ("x[i]", lambda x, i: x[i]),
    ("embedding", lambda x, i: F.embedding(i, x)),
    ("index_put", lambda x, i: x.index_put((i,), tl.zeros(3, device="cuda"))),
    ("scatter_add", lambda x, i: x.scatter_add(0, i.unsqueeze(1), tl.ones(2, 1, device="cuda"))),
]


@pytest.mark.parametrize("kind", ["cuda", "hip"])
@pytest.mark.parametrize("number", range(len(INDEXED)))
def test_an_index_traps(kind: str, number: int) -> None:
    _, act = INDEXED[number]
    with simulated(kind) as sim:
        x = tl.arange(12.0, device="cuda").reshape(4, 3)
        assert act(x, tl.tensor([3, 0], device="cuda")).cpu().ndim
        with pytest.raises(DeviceError, match=r"(?i)assert"):
            act(x, tl.tensor([0, 4], device="cuda")).cpu()
        assert any("index out of bounds" in str(e) for e in sim.exceptions), sim.exceptions
        assert ASSERT == 710


def test_a_class_that_is_none_gives_nan(sim: Simulation) -> None:
    x = tl.randn(3, 5, device="cuda", requires_grad=True)
    target = tl.tensor([1, 7, -1], device="cuda")
    for loss in (
        F.cross_entropy(x, target, reduction="none"),
        F.nll_loss(x, target, reduction="none"),
        F.cross_entropy(x, target, weight=tl.ones(5, device="cuda"), reduction="none"),
    ):
        assert loss.isnan().tolist() == [False, True, True]
    F.cross_entropy(x, target).backward()
    assert x.grad.isnan().any().item()
