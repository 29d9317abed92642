"""What an operator's operands become under autocast: PyTorch's lists, by the names of public operators.

``lower``: products, which gain by a narrow dtype. ``float32``: what loses accuracy in one. ``widest``: operators
whose tensors must be of one dtype. ``keep``: composites here whose parts would be cast, where PyTorch has one operator
that is not. Everything else runs in the dtype that comes. Tensors that are not floating point, float64 ones and those
of another device are never touched.
Source: the PyTorch documentation, "Automatic Mixed Precision package", section Autocast Op Reference.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tensorlib._core import Tensor, modes
from tensorlib._dtypes import HALF, bfloat16, dtype, float16, float32

_PRODUCTS = """linear linear_activation matmul mm bmm addmm baddbmm addbmm linalg_vecdot prelu conv1d conv2d conv3d
    conv_tbc conv_transpose1d conv_transpose2d conv_transpose3d scaled_dot_product_attention
    rnn_tanh rnn_relu lstm""".split()
_GPU_PRODUCTS = """mv addmv addr chain_matmul linalg_multi_dot gru rnn_tanh_cell rnn_relu_cell lstm_cell
    gru_cell""".split()
_LOSSES = """mse_loss l1_loss smooth_l1_loss huber_loss nll_loss cross_entropy kl_div poisson_nll_loss ctc_loss
    binary_cross_entropy_with_logits cosine_embedding_loss hinge_embedding_loss margin_ranking_loss soft_margin_loss
    triplet_margin_loss multi_margin_loss multilabel_margin_loss gaussian_nll_loss""".split()
_LINALG = """cholesky cholesky_inverse cholesky_solve lu_solve ormqr pinverse geqrf linalg_cond
    linalg_matrix_rank linalg_solve linalg_cholesky linalg_svdvals linalg_eigvals linalg_eigvalsh linalg_inv
    linalg_householder_product linalg_tensorinv linalg_tensorsolve linalg_qr linalg_cholesky_ex linalg_svd linalg_eig
    linalg_eigh linalg_lstsq linalg_inv_ex linalg_pinv""".split()
_CPU_WIDE = """avg_pool3d max_pool3d adaptive_avg_pool3d max_unpool2d max_unpool3d binary_cross_entropy grid_sample
    polar prod quantile nanquantile stft istft cdist trace view_as_complex fft_fft fft_ifft fft_fft2 fft_ifft2 fft_fftn
    fft_ifftn fft_rfft fft_irfft fft_rfft2 fft_irfft2 fft_rfftn fft_irfftn fft_hfft fft_ihfft""".split()
_GPU_WIDE = """acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow softplus layer_norm
    group_norm rms_norm norm nuclear_norm cosine_similarity dist pdist cdist renorm logsumexp interpolate prod softmax
    log_softmax cumprod cumsum vector_norm linalg_matrix_norm sum""".split()
_GPU_WIDEST = """addcdiv addcmul atan2 bilinear cross dot vdot grid_sample index_put tensordot scatter_add""".split()


def _policies() -> dict[str, tuple[str | None, str | None]]:
    cpu = dict.fromkeys(_PRODUCTS, "lower") | dict.fromkeys([*_LOSSES, *_LINALG, *_CPU_WIDE], "float32")
    gpu = dict.fromkeys([*_PRODUCTS, *_GPU_PRODUCTS], "lower") | dict.fromkeys([*_LOSSES, *_GPU_WIDE], "float32")
    cpu |= dict.fromkeys(["stack", "cat", "index_copy"], "widest")
    cpu |= dict.fromkeys(["mv", "addmv", "dot", "vdot", "bilinear"], "keep")
    gpu |= dict.fromkeys(["stack", "cat", *_GPU_WIDEST], "widest")
    return {name: (cpu.get(name), gpu.get(name)) for name in {**cpu, **gpu}}


#: The name of an operator or composite -> what autocast does to it on the CPU, and on a GPU.
POLICIES = _policies()

#: The dtypes autocast casts to.
LOWER = (bfloat16, float16)


class Autocast:
    """What is switched on in a thread: the narrow dtype for the CPU and for GPUs (None: off), and the casts kept."""

    __slots__ = ("cache", "caching", "cpu", "gpu")
    cpu: dtype | None
    gpu: dtype | None

    def __init__(self, cpu: dtype | None, gpu: dtype | None, caching: bool, cache: dict[int, Any]) -> None:
        self.cpu, self.gpu, self.caching, self.cache = cpu, gpu, caching, cache

    def convert(self, x: Tensor, target: dtype) -> Tensor:
        """x as ``target``. Leaves that need a gradient are cast once, until they are written or the region ends."""
        if not (self.caching and x._needs and x._node is None and x._view is None and modes.grad):
            return x.to(target)  # type: ignore[no-any-return]
        version = 0 if x._writes is None else x._writes[0]
        found = self.cache.get(id(x))
        if found is not None and found[0]() is x and found[1] == version and found[2] is target:
            return found[3]  # type: ignore[no-any-return]
        made = x.to(target)
        self.cache[id(x)] = (weakref.ref(x), version, target, made)
        return made  # type: ignore[no-any-return]

    def cast(self, policy: tuple[str | None, str | None], operands: Sequence[Any]) -> tuple[Sequence[Any], bool]:
        """(The operands as the policy wants them, whether anything was of its concern)."""
        targets = self._targets(policy, operands)
        if targets is None:
            return operands, False
        return [self._each(x, targets) for x in operands], True

    def _each(self, x: Any, targets: tuple[dtype | None, dtype | None]) -> Any:
        if isinstance(x, Tensor):
            target = targets[0 if type(x._array) is np.ndarray else 1]
            return self.convert(x, target) if _eligible(x) and target is not None and x.dtype is not target else x
        if type(x) in (list, tuple):
            return type(x)([self._each(v, targets) for v in x])
        return x

    def _targets(
        self, policy: tuple[str | None, str | None], operands: Sequence[Any]
    ) -> tuple[dtype | None, dtype | None] | None:
        """The dtype for eligible CPU tensors and for those of a GPU; None where there are none."""
        tensors = [x for x in _tensors(operands) if _eligible(x)]
        targets: list[dtype | None] = []
        kept = False
        for kind, lower, on_cpu in ((policy[0], self.cpu, True), (policy[1], self.gpu, False)):
            here = [x for x in tensors if (type(x._array) is np.ndarray) is on_cpu]
            if kind is None or lower is None or not here or kind == "keep":
                targets.append(None)
                kept = kept or (kind == "keep" and bool(here))
            elif kind == "widest":
                narrow = all(x._array.dtype == lower.numpy for x in here)
                targets.append(lower if narrow else float32)
            else:
                targets.append(lower if kind == "lower" else float32)
        return (targets[0], targets[1]) if kept or targets != [None, None] else None


def _tensors(values: Any) -> list[Tensor]:
    found = []
    for x in values:
        if isinstance(x, Tensor):
            found.append(x)
        elif type(x) in (list, tuple):
            found += _tensors(x)
    return found


def _eligible(x: Tensor) -> bool:
    d = x._array.dtype
    return d == np.float32 or d in HALF


def aware(function: Callable[..., Any]) -> Callable[..., Any]:
    """A composite that autocast has a say in: its operands cast, and everything within left alone."""
    policy = POLICIES[function.__name__]

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        state = modes.autocast
        if state is None:
            return function(*args, **kwargs)
        names = list(kwargs)
        cast, touched = state.cast(policy, [*args, *kwargs.values()])
        if not touched:
            return function(*args, **kwargs)
        modes.autocast = None
        try:
            return function(*cast[: len(args)], **dict(zip(names, cast[len(args) :], strict=True)))
        finally:
            modes.autocast = state

    return call
