"""Forward mode by hand: tensors that carry a tangent within a level.

with dual_level():
    x = make_dual(primal, tangent)
    primal_out, tangent_out = unpack_dual(f(x))
"""

from __future__ import annotations

import threading
from typing import NamedTuple

from tensorlib._core import Tensor
from tensorlib.autograd import dual
from tensorlib.autograd.dual import Dual
from tensorlib.errors import AutogradError

__all__ = ["UnpackedDualTensor", "dual_level", "enter_dual_level", "exit_dual_level", "make_dual", "unpack_dual"]


class _Entered(threading.local):
    level: Dual | None = None


_entered = _Entered()
_current_level = -1  # as PyTorch counts them: 0 inside the one level that there is


class UnpackedDualTensor(NamedTuple):
    """What ``unpack_dual`` gives: (primal, tangent), the tangent None for a tensor that has none."""

    primal: Tensor
    tangent: Tensor | None


def enter_dual_level() -> int:
    """Begin a level: dual tensors can be made. RuntimeError inside another one, as in PyTorch: nest ``func.jvp``."""
    if _entered.level is not None:
        raise AutogradError(
            "Nested forward mode AD is not supported at the moment: forward_ad has one level; nest func.jvp instead"
        )
    global _current_level
    _entered.level = Dual()
    _current_level = 0
    return 0


def exit_dual_level(*, level: int | None = None) -> None:
    """End the level: its tensors have no tangents any more."""
    if _entered.level is None or level not in (None, 0):
        raise AutogradError(
            "Trying to exit a forward AD level that was not the last one that was created. This is not supported."
        )
    global _current_level
    _entered.level = None
    _current_level = -1


class dual_level:
    """A level while entered."""

    def __enter__(self) -> int:
        return enter_dual_level()

    def __exit__(self, *_: object) -> None:
        exit_dual_level()


def make_dual(tensor: Tensor, tangent: Tensor, *, level: int | None = None) -> Tensor:
    """``tensor`` with a tangent of its shape and dtype, of which what is computed from it has one too."""
    if _entered.level is None:
        raise AutogradError(
            "Trying to create a dual Tensor for forward AD but no level exists, make sure to enter_dual_level() first."
        )
    for name, t in (("tensor", tensor), ("tangent", tangent)):
        if t._array.dtype.kind in "iub":
            raise ValueError(f"Expected {name} to be floating point or complex, but got: {t.dtype}")  # type: ignore[attr-defined]
    if tensor._array.shape != tangent._array.shape:
        raise AutogradError(
            f"make_dual: Trying to set a forward gradient that has a different size than that of the original Tensor, "
            f"this is not supported. Tensor is of size {list(tensor._array.shape)} while the given forward gradient is "
            f"of size {list(tangent._array.shape)}."
        )
    if dual.tangent_in(tensor._array, _entered.level) is not None:
        raise AutogradError("make_dual: the tensor already has a forward gradient at this level: unpack it first")
    return dual.make(tensor, tangent, _entered.level)


def unpack_dual(tensor: Tensor, *, level: int | None = None) -> UnpackedDualTensor:
    """(primal, tangent); outside a level, and for a tensor without a tangent, (tensor, None)."""
    here = _entered.level
    if here is None or dual.tangent_in(tensor._array, here) is None:
        return UnpackedDualTensor(tensor if here is None else dual.primal_of(tensor, here), None)
    return UnpackedDualTensor(dual.primal_of(tensor, here), dual.tangent_of(tensor, here))
