"""What a run is made of: the flags that every `tensorlib train` command has, checked once."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import tensorlib as tl
from tensorlib.errors import ArgumentError, CheckpointError, DeviceError

DTYPES = ("float32", "float64", "bfloat16")  # float16 needs loss scaling and gains nothing over bfloat16


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The settings that every run has. A subclass adds those of its model and its data, and changes defaults."""

    data: tuple[str, ...] = ()
    batch: int = 64
    lr: float = 3e-3
    warmup: int = 50
    weight_decay: float = 0.1
    clip: float = 1.0
    checkpoint_interval: int = 200
    threads: int = 0
    device: str = "auto"
    dtype: str = "float32"
    seed: int = 0

    #: What may differ between a run and its resumption. The rest shapes the model, or the losses that were recorded.
    changeable: ClassVar[frozenset[str]] = frozenset({"data", "device", "threads", "checkpoint_interval"})

    #: What is different by default where the run is on a GPU.
    on_gpu: ClassVar[dict[str, Any]] = {"dtype": "bfloat16"}

    @classmethod
    def chosen(cls, given: dict[str, Any]) -> Self:
        """The settings of a new run: what is ``given``, and defaults that suit the device."""
        at = usable_device(given.get("device", cls.device))
        defaults = dict(cls.on_gpu) if at.type in ("cuda", "hip") else {}
        if defaults.get("dtype") == "bfloat16" and not tl.cuda.is_bf16_supported(including_emulation=False):
            del defaults["dtype"]
        return cls(**{**defaults, **given})

    def __post_init__(self) -> None:
        self._at_least_one("batch", "checkpoint_interval")
        for name in ("lr", "clip"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ArgumentError(f"{flag(name)} is {getattr(self, name)}: expected a number above 0")
        for name in ("warmup", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ArgumentError(f"{flag(name)} is {getattr(self, name)}: expected 0 or more")
        if not 0 <= self.threads <= 4096:
            raise ArgumentError(
                f"--threads is {self.threads}: expected a number of processors, or 0 for those that are free"
            )
        if not 0 <= self.seed < 2**63:
            raise ArgumentError(f"--seed is {self.seed}: expected 0 to {2**63 - 1}")
        if self.dtype not in DTYPES:
            raise ArgumentError(f"--dtype is {self.dtype!r}: expected one of {', '.join(DTYPES)}")

    def _at_least_one(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) < 1:
                raise ArgumentError(f"{flag(name)} is {getattr(self, name)}: expected 1 or more")

    @property
    def weights(self) -> tl.dtype:
        """The dtype of weights: float32 under bfloat16 as well, in which small updates would round away."""
        return tl.float64 if self.dtype == "float64" else tl.float32

    def learning_rate(self, step: int, steps: int) -> float:
        """lr (step + 1)/warmup while warming up, then a half cosine from lr down to lr/10 at the last of ``steps``."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, steps - self.warmup)
        return self.lr * (0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, done))))

    def as_dict(self) -> dict[str, Any]:
        """The settings as JSON can hold them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The settings that ``as_dict`` gave."""
        try:
            return cls(**{**values, "data": tuple(values["data"])})
        except (TypeError, KeyError) as error:
            raise CheckpointError(
                f"the settings in the checkpoint are of another version of tensorlib: {error}"
            ) from error

    def resumed(self, given: dict[str, Any]) -> Self:
        """These settings with the ``given`` ones in their place; CheckpointError where the run cannot take them."""
        for name, value in given.items():
            if name not in self.changeable and value != getattr(self, name):
                raise CheckpointError(
                    f"the checkpoint is of a run with {flag(name)} {getattr(self, name)} and "
                    f"{flag(name)} {value} was given: leave it out, or start anew in another --out"
                )
        return dataclasses.replace(self, **given)


def usable_device(name: str) -> tl.device:
    """The device of that name, tried with one small tensor; "auto": a GPU, or the CPU where there is none.

    DeviceError when it is unknown or not there, with the reason.
    """
    if name == "auto":
        name = "cuda" if tl.cuda.is_available() else "cpu"
    try:
        device = tl.device(name)
    except DeviceError as error:
        raise DeviceError(f"--device {name}: {error}") from None
    if device.compile_only:
        raise DeviceError(
            f"--device {name} is a compile-only target, which has no memory to train in: "
            f"expected auto, cpu, cuda[:i] or hip[:i]"
        )
    try:
        return tl.zeros(1, device=device).device
    except DeviceError as error:
        raise DeviceError(f"--device {name}: {str(error).removeprefix('zeros: ')}; or --device cpu") from error


def flag(name: str) -> str:
    """The command-line spelling of a setting."""
    return "--" + name.replace("_", "-")
