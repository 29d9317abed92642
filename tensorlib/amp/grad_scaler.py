"""Loss scaling: gradients that float16 would round to zero are computed large and divided again before the step."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tensorlib._core import Tensor, modes
from tensorlib._dtypes import float16, float32, int32
from tensorlib.amp.autocast_mode import gpu_is_available
from tensorlib.autograd import no_grad
from tensorlib.errors import CaptureError
from tensorlib.ops import full, maximum, view_as_real, zeros
from tensorlib.ops.optim import amp_unscale_, amp_update_scale_

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

    The scale, the count of good steps and whether a gradient is infinite are kept on the device, where SGD, Adam and
    AdamW look at the last of them themselves (as PyTorch's do with fused=True): their steps can be captured in a graph.
    With other optimizers, and on the CPU, the host reads it and leaves out the call of ``optimizer.step``.
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
        self._init_growth_tracker = 0
        self._growth_tracker: Tensor | None = None
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
                self._growth_tracker = full((), self._init_growth_tracker, dtype=int32, device=outputs.device)
            return outputs * self._scale.to(outputs.device)
        if isinstance(outputs, Iterable):
            scaled = [self.scale(v) for v in outputs]
            return type(outputs)(scaled) if isinstance(outputs, (list, tuple)) else iter(scaled)
        raise ValueError("outputs must be a Tensor or an iterable of Tensors")

    def _unscale(self, optimizer: Optimizer) -> list[Tensor]:
        """Divide the gradients; for each device a flag: 1 where one of them is infinite or NaN."""
        scale = self._need_scale("unscale_")
        kinds: dict[Any, dict[Any, list[Tensor]]] = {}
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if p.grad.dtype is float16:
                    raise ValueError("Attempting to unscale FP16 gradients.")
                g = view_as_real(p.grad) if p.grad.is_complex() else p.grad
                kinds.setdefault(g.device, {}).setdefault(g.dtype, []).append(g)
        found = []
        with no_grad():
            for device, grads in kinds.items():
                flag = zeros((), dtype=float32, device=device)
                for same in grads.values():
                    amp_unscale_(same, flag, scale.to(device))
                found.append(flag)
        return found

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
        scale = self._need_scale("step")
        stage, found = self._states.get(id(optimizer), (_READY, []))
        if stage == _STEPPED:
            raise RuntimeError("step() has already been called since the last update().")
        # A flag of the optimizer's own is PyTorch's protocol for optimizers that are written by users.
        itself = getattr(optimizer, "_step_supports_amp_scaling", getattr(optimizer.step, "takes_found_inf", False))
        if modes.capture is not None and not itself:
            raise CaptureError(
                f"GradScaler.step: {type(optimizer).__name__} has the host read whether a gradient is infinite, which "
                f"a graph being captured cannot wait for: use SGD, Adam or AdamW, which look at it on the GPU; or "
                f"capture forward and backward, and call step() and update() after each replay; with bfloat16 no "
                f"scaler is needed"
            )
        if stage == _READY:
            found = self._unscale(optimizer)
        if not found:
            raise AssertionError("No inf checks were recorded for this optimizer.")
        if itself and scale.device.type != "cpu":
            optimizer.grad_scale, optimizer.found_inf = None, self._together(found)  # type: ignore[attr-defined]
            try:
                result = optimizer.step(*args, **kwargs)
            finally:
                del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]
        else:
            result = None if any(f.item() for f in found) else optimizer.step(*args, **kwargs)
        self._states[id(optimizer)] = (_STEPPED, found)
        return result

    def _together(self, found: list[Tensor]) -> Tensor:
        """The flags as one, on the scale's device."""
        device = self._need_scale("step").device
        first, *others = [f.to(device) for f in found]
        for flag in others:
            first = maximum(first, flag)
        return first

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """Adapt the scale to what the steps since the last update met, or set it to ``new_scale``."""
        if not self._enabled:
            return
        scale = self._need_scale("update")
        if new_scale is not None:
            if isinstance(new_scale, Tensor) and (new_scale.numel() != 1 or new_scale.requires_grad):
                raise AssertionError("new_scale should be a float or a 1-element Tensor with requires_grad=False.")
            scale.copy_(new_scale.reshape(())) if isinstance(new_scale, Tensor) else scale.fill_(float(new_scale))
        else:
            found = [f for _, flags in self._states.values() for f in flags]
            if not found:
                raise AssertionError("No inf checks were recorded prior to update.")
            amp_update_scale_(
                scale, self._growth_tracker, self._together(found), growth_factor=self._growth_factor,
                backoff_factor=self._backoff_factor, growth_interval=self._growth_interval,
            )  # fmt: skip
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
            "_growth_tracker": self._get_growth_tracker(),
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
        self._init_growth_tracker = int(state_dict["_growth_tracker"])
        if self._growth_tracker is not None:
            self._growth_tracker.fill_(self._init_growth_tracker)

    def _get_growth_tracker(self) -> int:
        return self._init_growth_tracker if self._growth_tracker is None else int(self._growth_tracker.item())

    def __getstate__(self) -> dict[str, Any]:
        if self._states:
            raise AssertionError("A GradScaler instance may only be pickled at the beginning of an iteration.")
        state = dict(self.__dict__)
        if self._enabled:
            state["_init_scale"], state["_init_growth_tracker"] = self.get_scale(), self._get_growth_tracker()
        state["_scale"] = state["_growth_tracker"] = None
        return state
