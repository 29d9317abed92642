"""linear and cross_entropy in one: the scores of some rows at a time, over these their gradients, and no others.

The products are those of ``kernels.matmul``, the loss is ``kernels.loss``' kernel of rows, which writes the gradient of
the scores over them. Nothing of the size rows x classes is held, and nothing is computed twice, except for a loss a row
('none'), whose gradient comes later. After Liger (Hsu et al. 2024), without its product that is added afterwards.
"""

from __future__ import annotations

from typing import Any

from tensorlib._array import DeviceArray, empty
from tensorlib.kernels import create, matmul
from tensorlib.kernels.epilogues import PLAIN, Epilogue, add_to
from tensorlib.kernels.indexing import contiguous
from tensorlib.kernels.loss import NONE, REDUCTIONS, cross_entropy_row_kernel, number, row_blocks, total_of
from tensorlib.kernels.pointwise import copy, run
from tensorlib.kernels.reduction import SUM, compute_dtype, reduce
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.launch import cdiv, launch


def linear_cross_entropy(
    out: DeviceArray, total: DeviceArray, g_input: DeviceArray, g_weight: DeviceArray, g_bias: DeviceArray,
    input: DeviceArray, linear_weight: DeviceArray, linear_bias: DeviceArray | None, target: DeviceArray,
    weight: DeviceArray | None, reduction: str, wanted: tuple[bool, bool, bool], wide: bool, **options: Any,
) -> None:  # fmt: skip
    """out = the loss of input @ linear_weight.T + linear_bias, and what the gradients are before they are divided."""
    kind, acc = REDUCTIONS[reduction], total.dtype
    losses = empty(target.shape, acc, out.device) if kind != NONE else out
    weights = empty(target.shape, acc, out.device) if kind != NONE else None
    into = [g if w else None for g, w in zip((g_input, g_weight, g_bias), wanted, strict=True)]
    _chunks(losses, weights, into, None, input, linear_weight, linear_bias, target, weight, **options)
    total_of(out, total, losses, weights, kind)


def linear_cross_entropy_grad(
    g_input: DeviceArray, g_weight: DeviceArray, g_bias: DeviceArray, grad: DeviceArray, input: DeviceArray,
    linear_weight: DeviceArray, linear_bias: DeviceArray | None, target: DeviceArray, weight: DeviceArray | None,
    wanted: tuple[bool, bool, bool], **options: Any,
) -> None:  # fmt: skip
    """The gradients from those of each row's loss: the scores are computed again."""
    losses = empty(target.shape, compute_dtype(input.dtype), input.device)
    into = [g if w else None for g, w in zip((g_input, g_weight, g_bias), wanted, strict=True)]
    _chunks(losses, None, into, grad, input, linear_weight, linear_bias, target, weight, **options)


def _chunks(
    losses: DeviceArray, weights: DeviceArray | None, into: list[DeviceArray | None], grad: DeviceArray | None,
    input: DeviceArray, linear_weight: DeviceArray, linear_bias: DeviceArray | None, target: DeviceArray,
    weight: DeviceArray | None, *, ignore_index: int, label_smoothing: float, z_loss: float, chunk: int, compact: bool,
) -> None:  # fmt: skip
    """Rows ``chunk`` at a time: their scores, over these their gradients, and from these the gradients of all three.

    Holds the scores of one chunk, in the dtype of the input, and for half types the weight's gradient in float32 too,
    where there are several chunks to add up (``compact``: added in its own dtype). Moves, besides what three products
    of the whole would move without their scores, the weight's gradient twice a chunk.
    """
    N, C = input.shape[0], linear_weight.shape[0]
    g_input, g_weight, g_bias = into
    acc = compute_dtype(input.dtype)
    wanted = [g for g in into if g is not None]
    if not N or not C:
        for g in wanted:
            create.full(g, None, 0, None, None)
        return
    target, weight = contiguous(target), None if weight is None else contiguous(weight)
    grad = None if grad is None else contiguous(grad)
    sum_weight = g_weight
    if g_weight is not None and g_weight.dtype != acc and chunk < N and not compact:
        sum_weight = empty(g_weight.shape, acc, g_weight.device)
    held = empty((min(chunk, N), C), input.dtype, input.device)
    sums = None if g_bias is None else empty((cdiv(N, chunk), C), acc, input.device)
    for i, start in enumerate(range(0, N, chunk)):
        x, here = input[start : start + chunk], slice(start, start + chunk)
        scores = held[: x.shape[0]]
        matmul.linear(scores, x, linear_weight, linear_bias)
        launch(
            cross_entropy_row_kernel, (x.shape[0],), losses[here], None if weights is None else weights[here], None,
            scores, target[here], weight, None if grad is None else grad[here], C, C, 1, 1, ignore_index,
            number(label_smoothing, acc), number(z_loss, acc), SMOOTH=label_smoothing != 0, Z=z_loss != 0,
            GRAD=bool(wanted), ACC=acc, **row_blocks(scores, C, 1, C, acc),
        )  # fmt: skip
        if g_input is not None:
            matmul.product(g_input[here], scores, linear_weight)
        if sum_weight is not None:
            matmul.product(sum_weight, scores.T, x, Epilogue(add_to, (sum_weight,)) if i else PLAIN)
        if sums is not None:
            reduce([sums[i]], [scores], (0,), SUM, [acc])
    if g_weight is not None and sum_weight is not g_weight:
        assert sum_weight is not None
        copy(g_weight, sum_weight)
    if sums is not None:
        assert g_bias is not None
        reduce([g_bias], [sums], (0,), SUM, [acc])


@jit
def _scaled(x, scale):
    return x * scale


def scaled(out: DeviceArray, input: DeviceArray, scale: DeviceArray, dtype: Any) -> None:
    """out = input scale, computed in float32 or wider, for a number on the device."""
    compute = compute_dtype(input.dtype)
    run(_scaled, out, (input, scale), (compute, compute))
