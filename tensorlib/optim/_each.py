"""The optimizers that are written with tensor operations, one parameter at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorlib._core import Tensor, modes
from tensorlib._dtypes import float32
from tensorlib.autograd import no_grad
from tensorlib.errors import CaptureError
from tensorlib.ops import tensor, view_as_real, zeros_like
from tensorlib.optim.optimizer import Optimizer, check_options, evaluate

State = dict[str, Any]


def check(value: Any, name: str, above: float = 0.0, below: float = float("inf"), at: str = "") -> None:
    """ValueError unless above <= value < below."""
    if not above <= value < below:
        raise ValueError(f"Invalid {name}{at}: {value}")


def check_betas(betas: tuple[float, float]) -> None:
    """ValueError unless both are in [0, 1)."""
    for i, beta in enumerate(betas):
        check(beta, "beta parameter", below=1.0, at=f" at index {i}")


class Each(Optimizer):
    """Base of optimizers that update each parameter by itself. A subclass defines ``_start`` and ``_update``.

    ``foreach``, ``fused`` and ``capturable`` are accepted and change nothing. ``step``, the count, is kept on the CPU,
    so that a step asks nothing of a device. Complex parameters are updated as pairs of real numbers.
    """

    #: What PyTorch added to groups over time: a group of an old state_dict gets these.
    _later: dict[str, Any] = {"maximize": False, "differentiable": False, "capturable": False, "foreach": None}  # noqa: RUF012

    #: Whether ``step`` is part of the state.
    _counts = True

    #: Whether an update depends on that count, or on another number that the host keeps.
    _reads_count = True

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        check_options(
            defaults["lr"], defaults.get("foreach"), defaults.get("fused"), defaults.get("differentiable", False)
        )
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for name, value in self._later.items():
                if name in self.defaults:
                    group.setdefault(name, value)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update; returns the closure's loss."""
        loss = evaluate(closure)
        with no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is None:
                        continue
                    state = self.state[p]
                    if modes.capture is not None and p.is_cuda:
                        self._check_capture(bool(state))
                    if not state:
                        if self._counts:
                            state["step"] = tensor(0.0, dtype=float32)
                        self._start(state, p, group)
                    if self._counts:
                        state["step"] += 1
                    self._one(p, state, group)
        return loss

    def _check_capture(self, begun: bool) -> None:
        """CaptureError for a step that a graph would repeat instead of making the next one."""
        if self._reads_count:
            raise CaptureError(
                f"{type(self).__name__}.step: its count of steps is on the host, so that every replay of the graph "
                f"would repeat one step: expected another optimizer in a captured step"
            )
        if not begun:
            raise CaptureError(
                f"{type(self).__name__}.step: its state would be made while a graph is captured, and made anew by "
                f"every replay: run one step, on a side stream, before the capture"
            )

    def _one(self, p: Tensor, state: State, group: dict[str, Any]) -> None:
        g = p.grad
        assert g is not None
        if not p.is_complex():
            self._update(p, -g if group.get("maximize") else g, state, group)
            return
        real = {k: view_as_real(v) if isinstance(v, Tensor) and v.is_complex() else v for k, v in state.items()}
        kept = set(real)
        self._update(view_as_real(p), view_as_real(-g if group.get("maximize") else g), real, group)
        state.update({k: real[k] for k in kept if not (isinstance(state[k], Tensor) and state[k].is_complex())})

    def _start(self, state: State, p: Tensor, group: dict[str, Any]) -> None:
        """Put what is kept between steps, besides ``step``, into ``state``."""

    def _update(self, p: Tensor, g: Tensor, s: State, group: dict[str, Any]) -> None:
        """Change p and s in place, given the gradient g of this step, already negated under ``maximize``."""
        raise TypeError(f"{type(self).__name__} does not define _update()")

    @staticmethod
    def _zeros(state: State, p: Tensor, *names: str) -> None:
        for name in names:
            state[name] = zeros_like(p.detach())


def rate(group: dict[str, Any]) -> float:
    """The group's learning rate as a number."""
    return float(group["lr"])
