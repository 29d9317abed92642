"""Normalisation a channel at a time: by the batch (BatchNorm1d …) and by the sample (InstanceNorm1d …)."""

from __future__ import annotations

import warnings
from typing import Any

from tensorlib._core import Tensor
from tensorlib._dtypes import int64
from tensorlib.nn import functional as F
from tensorlib.nn import init
from tensorlib.nn.module import Module
from tensorlib.nn.parameter import Parameter
from tensorlib.ops import empty, ones, zeros

__all__ = [
    "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d", "SyncBatchNorm",
]  # fmt: skip


class _NormBase(Module):
    """Parameters, running statistics and text of the normalisations that work a channel at a time."""

    _version = 2  # 2: num_batches_tracked was added

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        for name, wanted in (("weight", affine), ("bias", affine and bias)):
            value = Parameter(empty(num_features, device=device, dtype=dtype)) if wanted else None
            self.register_parameter(name, value)
        track = track_running_stats
        self.register_buffer("running_mean", zeros(num_features, device=device, dtype=dtype) if track else None)
        self.register_buffer("running_var", ones(num_features, device=device, dtype=dtype) if track else None)
        self.register_buffer("num_batches_tracked", zeros((), device=device, dtype=int64) if track else None)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Mean 0, variance 1, no batches."""
        if self.track_running_stats:
            self.running_mean.zero_()
            self.running_var.fill_(1)
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """Running statistics; weight 1, bias 0."""
        self.reset_running_stats()
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing: Any,
        unexpected: Any,
        errors: Any,
    ) -> None:
        version = local_metadata.get("version", None)
        if (version is None or version < 2) and self.track_running_stats:
            state_dict.setdefault(prefix + "num_batches_tracked", self.num_batches_tracked)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, errors)

    def extra_repr(self) -> str:
        """Sizes and options."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )


class _BatchNorm(_NormBase):
    """(x - mean) / sqrt(var + eps) * weight + bias with one mean and variance a channel. Ioffe & Szegedy 2015.

    Training uses the batch's statistics (biased variance) and moves the running ones by ``momentum``:
    r <- (1 - momentum) r + momentum s, with the unbiased variance; ``momentum=None`` keeps their plain average.
    Evaluation uses the running ones, or the batch's when ``track_running_stats=False``.
    """

    _ndims: tuple[int, ...]
    _expected: str

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim not in self._ndims:
            raise ValueError(f"expected {self._expected} input (got {input.ndim}D input)")

    def forward(self, input: Tensor) -> Tensor:
        """The same shape."""
        self._check_input_dim(input)
        momentum = 0.0 if self.momentum is None else self.momentum
        training, tracks = self.training, self.track_running_stats
        if training and tracks and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked)
        kept = not training or tracks  # statistics that are not tracked must not be written
        return F.batch_norm(
            input,
            self.running_mean if kept else None,
            self.running_var if kept else None,
            self.weight,
            self.bias,
            training or (self.running_mean is None and self.running_var is None),
            momentum,
            self.eps,
        )


class BatchNorm1d(_BatchNorm):
    """Batch normalisation of (n, c) or (n, c, l), a channel at a time."""

    __doc__ += "\n" + (_BatchNorm.__doc__ or "")
    _ndims, _expected = (2, 3), "2D or 3D"


class BatchNorm2d(_BatchNorm):
    """Batch normalisation of (n, c, h, w), a channel at a time."""

    __doc__ += "\n" + (_BatchNorm.__doc__ or "")
    _ndims, _expected = (4,), "4D"


class BatchNorm3d(_BatchNorm):
    """Batch normalisation of (n, c, d, h, w), a channel at a time."""

    __doc__ += "\n" + (_BatchNorm.__doc__ or "")
    _ndims, _expected = (5,), "5D"


class SyncBatchNorm(_BatchNorm):
    """Batch normalisation of (n, c, …) with the statistics of all processes: in one process, those of its batch."""

    __doc__ += "\n" + (_BatchNorm.__doc__ or "")

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any = None,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)
        self.process_group = process_group

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"expected at least 2D input (got {input.ndim}D input)")
        if not input.shape[1]:
            raise ValueError("SyncBatchNorm number of input channels should be non-zero")

    @classmethod
    def convert_sync_batchnorm(cls, module: Module, process_group: Any = None) -> Module:
        """The module with each BatchNorm in it made a SyncBatchNorm of the same parameters and statistics."""
        made = module
        if isinstance(module, _BatchNorm):
            made = cls(
                module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats,
                process_group, bias=module.bias is not None,
            )  # fmt: skip
            made.weight, made.bias = module.weight, module.bias
            made.running_mean, made.running_var = module.running_mean, module.running_var
            made.num_batches_tracked, made.training = module.num_batches_tracked, module.training
        for name, child in module.named_children():
            made.add_module(name, cls.convert_sync_batchnorm(child, process_group))
        return made


class _InstanceNorm(_NormBase):
    """(x - mean) / sqrt(var + eps) * weight + bias, with each sample's own mean and variance a channel.

    Biased variance. ``track_running_stats``: averages over the batch are kept while training and used in evaluation.
    Ulyanov et al. 2016.
    """

    _without_batch: int

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        """The same shape."""
        n = self._without_batch
        if input.ndim not in (n, n + 1):
            raise ValueError(f"expected {n}D or {n + 1}D input (got {input.ndim}D input)")
        channels = input.shape[-n]
        if channels != self.num_features:
            if self.affine:
                raise ValueError(
                    f"expected input's size at dim={input.ndim - n} to match num_features ({self.num_features}), "
                    f"but got: {channels}."
                )
            warnings.warn(
                f"input's size at dim={input.ndim - n} does not match num_features. You can silence this warning by "
                "not passing in num_features, which is not used because affine=False",
                stacklevel=2,
            )
        out = F.instance_norm(
            input if input.ndim > n else input.unsqueeze(0),
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or not self.track_running_stats,
            0.0 if self.momentum is None else self.momentum,
            self.eps,
        )
        return out if input.ndim > n else out.squeeze(0)


class InstanceNorm1d(_InstanceNorm):
    """Instance normalisation of (n, c, l) or (c, l)."""

    __doc__ += "\n" + (_InstanceNorm.__doc__ or "")
    _without_batch = 2


class InstanceNorm2d(_InstanceNorm):
    """Instance normalisation of (n, c, h, w) or (c, h, w)."""

    __doc__ += "\n" + (_InstanceNorm.__doc__ or "")
    _without_batch = 3


class InstanceNorm3d(_InstanceNorm):
    """Instance normalisation of (n, c, d, h, w) or (c, d, h, w)."""

    __doc__ += "\n" + (_InstanceNorm.__doc__ or "")
    _without_batch = 4
