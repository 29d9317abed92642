"""Loss scaling: gradients that float16 would round to zero are computed large and divided again before the step."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tensorlib._core import Tensor, modes
from tensorlib._dtypes import float16, float32
from tensorlib.amp.autocast_mode import gpu_is_available
from tensorlib.autograd import no_grad
from tensorlib.errors import CaptureError
from tensorlib.ops import full, isfinite, maximum

if TYPE_CHECKING:
    from tensorlib.optim import Optimizer

_READY, _UNSCALED, _STEPPED = range(3)


class GradScaler:
    """Scale the loss, unscale the gradients, skip the step that met an infinity, adapt the scale.

    scale ← scale · growth_factor after ``growth_interval`` steps without inf or NaN among the gradients,
    scale · backoff_factor after a step with one, which is skipped. Source: Micikevicius et al. 2018, "Mixed Precision
    Training", and PyTorch's GradScaler, whose ``state_dict`` this one reads and writes.

    ``scaler.scale(loss).backward(); scaler.step(optimizer); scaler.update()``, with ``scaler.unscale_(optimizer)``
    before gradients are clipped. enabled=False turns every call into what it would be without a scaler.
    AssertionError for factors on the wrong side of 1, RuntimeError for calls out of order, ValueError for float16
    gradients: parameters stay in float32, autocast makes the narrow copies.
    """

    def __init__(
        self,
        device: str = "cuda",
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        self._device = device
        if enabled and device == "cuda" and not gpu_is_available():
            warnings.warn("GradScaler is enabled, but CUDA is not available. Disabling.", stacklevel=2)
            enabled = False
        self._enabled = enabled
        if growth_factor <= 1.0:
            raise AssertionError("The growth factor must be > 1.0.")
        if backoff_factor >= 1.0:
            raise AssertionError("The backoff factor must be < 1.0.")
        self._init_scale = float(init_scale)
        self._scale: Tensor | None = None
        self._growth_factor, self._backoff_factor = growth_factor, backoff_factor
        self._growth_interval = growth_interval
        self._growth_tracker = 0
        #: For each optimizer since the last update: how far it has come, and whether each device met an infinity.
        self._states: dict[int, tuple[int, list[Tensor]]] = {}

    def _need_scale(self, caller: str) -> Tensor:
        if self._scale is None:
            raise AssertionError(
                f"Attempted {caller} but _scale is None.  This may indicate your script did not use "
                f"scaler.scale(loss or outputs) earlier in the iteration."
            )
        return self._scale

    def scale(self, outputs: Any) -> Any:
        """The outputs, a tensor or an iterable of them in any nesting, times the scale."""
        if not self._enabled:
            return outputs
        if isinstance(outputs, Tensor):
            if self._scale is None:
                if modes.capture is not None:
                    raise CaptureError(
                        "GradScaler.scale: the scale would be made while a graph is captured, and made anew by every "
                        "replay: run one step, on a side stream, before the capture"
                    )
                self._scale = full((), self._init_scale, dtype=float32, device=outputs.device)
            return outputs * self._scale.to(outputs.device)
        if isinstance(outputs, Iterable):
            scaled = [self.scale(v) for v in outputs]
            return type(outputs)(scaled) if isinstance(outputs, (list, tuple)) else iter(scaled)
        raise ValueError("outputs must be a Tensor or an iterable of Tensors")

    def _unscale(self, optimizer: Optimizer) -> list[Tensor]:
        """Divide the gradients; for each device a flag: 1 where one of them is infinite or NaN."""
        inverse = self._need_scale("unscale_").double().reciprocal().float()
        found: dict[Any, Tensor] = {}
        with no_grad():
            for group in optimizer.param_groups:
                for p in group["params"]:
                    if p.grad is None:
                        continue
                    if p.grad.dtype is float16:
                        raise ValueError("Attempting to unscale FP16 gradients.")
                    bad = isfinite(p.grad).all().logical_not().float()
                    seen = found.get(p.grad.device)
                    found[p.grad.device] = bad if seen is None else maximum(seen, bad)
                    p.grad.mul_(inverse.to(p.grad.device))
        return list(found.values())

    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide an optimizer's gradients by the scale, once a step: before they are clipped or looked at."""
        if not self._enabled:
            return
        self._need_scale("unscale_")
        stage, _ = self._states.get(id(optimizer), (_READY, []))
        if stage == _UNSCALED:
            raise RuntimeError("unscale_() has already been called on this optimizer since the last update().")
        if stage == _STEPPED:
            raise RuntimeError("unscale_() is being called after step().")
        self._states[id(optimizer)] = (_UNSCALED, self._unscale(optimizer))

    def step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        """``optimizer.step()`` with unscaled gradients, or nothing when one of them is infinite or NaN."""
        if not self._enabled:
            return optimizer.step(*args, **kwargs)
        if "closure" in kwargs:
            raise RuntimeError("Closure use is not currently supported if GradScaler is enabled.")
        self._need_scale("step")
        if modes.capture is not None:
            raise CaptureError(
                "GradScaler.step: reads from the GPU whether a gradient is infinite, which a graph being captured "
                "cannot wait for: capture forward and backward, and call step() and update() after each replay; with "
                "bfloat16 no scaler is needed"
            )
        stage, found = self._states.get(id(optimizer), (_READY, []))
        if stage == _STEPPED:
            raise RuntimeError("step() has already been called since the last update().")
        if stage == _READY:
            found = self._unscale(optimizer)
        if not found:
            raise AssertionError("No inf checks were recorded for this optimizer.")
        result = None if any(f.item() for f in found) else optimizer.step(*args, **kwargs)
        self._states[id(optimizer)] = (_STEPPED, found)
        return result

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """Adapt the scale to what the steps since the last update met, or set it to ``new_scale``."""
        if not self._enabled:
            return
        scale = self._need_scale("update")
        if new_scale is not None:
            if isinstance(new_scale, Tensor) and (new_scale.numel() != 1 or new_scale.requires_grad):
                raise AssertionError("new_scale should be a float or a 1-element Tensor with requires_grad=False.")
            scale.fill_(float(new_scale))
        else:
            found = [f for _, flags in self._states.values() for f in flags]
            if not found:
                raise AssertionError("No inf checks were recorded prior to update.")
            if any(f.item() for f in found):
                scale.mul_(self._backoff_factor)
                self._growth_tracker = 0
            else:
                self._growth_tracker += 1
                if self._growth_tracker == self._growth_interval:
                    grown = scale * self._growth_factor
                    if isfinite(grown).item():
                        scale.copy_(grown)
                    self._growth_tracker = 0
        self._states.clear()

    def get_scale(self) -> float:
        """The scale; 1 when disabled."""
        if not self._enabled:
            return 1.0
        return self._init_scale if self._scale is None else float(self._scale.item())

    def get_growth_factor(self) -> float:
        """What the scale is multiplied by when it grows."""
        return self._growth_factor

    def set_growth_factor(self, new_factor: float) -> None:
        """Set what the scale is multiplied by when it grows."""
        self._growth_factor = new_factor

    def get_backoff_factor(self) -> float:
        """What the scale is multiplied by after an infinity."""
        return self._backoff_factor

    def set_backoff_factor(self, new_factor: float) -> None:
        """Set what the scale is multiplied by after an infinity."""
        self._backoff_factor = new_factor

    def get_growth_interval(self) -> int:
        """After how many good steps the scale grows."""
        return self._growth_interval

    def set_growth_interval(self, new_interval: int) -> None:
        """Set after how many good steps the scale grows."""
        self._growth_interval = new_interval

    def is_enabled(self) -> bool:
        """Whether this scaler does anything."""
        return self._enabled

    def state_dict(self) -> dict[str, Any]:
        """The scaler's state as numbers; empty when disabled."""
        if not self._enabled:
            return {}
        return {
            "scale": self.get_scale(),
            "growth_factor": self._growth_factor,
            "backoff_factor": self._backoff_factor,
            "growth_interval": self._growth_interval,
            "_growth_tracker": self._growth_tracker,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a saved state. RuntimeError for the empty one of a disabled scaler."""
        if not self._enabled:
            return
        if len(state_dict) == 0:
            raise RuntimeError(
                "The source state dict is empty, possibly because it was saved from a disabled instance of GradScaler."
            )
        self._init_scale = float(state_dict["scale"])
        if self._scale is not None:
            self._scale.fill_(self._init_scale)
        self._growth_factor = state_dict["growth_factor"]
        self._backoff_factor = state_dict["backoff_factor"]
        self._growth_interval = state_dict["growth_interval"]
        self._growth_tracker = state_dict["_growth_tracker"]

    def __getstate__(self) -> dict[str, Any]:
        if self._states:
            raise AssertionError("A GradScaler instance may only be pickled at the beginning of an iteration.")
        state = dict(self.__dict__)
        state["_init_scale"], state["_scale"] = self.get_scale() if self._enabled else self._init_scale, None
        return state
