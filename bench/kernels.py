"""What the compilers make of the kernels, with no GPU: a table per kernel and target, and what is wrong with it.

    python bench/kernels.py [--only REGEX] [--targets sm_90 gfx942 ...] [--jobs N] [--out FILE.json]
    python bench/kernels.py --check            compile what changed since the table was made, and say what got worse
    python bench/kernels.py --problems         read the table: spills, narrow loads, matrix units that are not used

Each case is a call of a model's size on a compile-only device: the library's own host code chooses the kernels and
their configurations, so that the table shows what a GPU of that target would run. The numbers are read from the
binaries: registers, spilled bytes (and whether in a loop), shared memory, size of code, programs that a
multiprocessor holds, the matrix and asynchronous instructions, and loads and stores of global memory by their width.

The table of each Triton is kept in bench/results/kernels-<version>.json (one kernel a line, with a hash of all that it
depends on) and .md. Only kernels whose hash is not in it are compiled.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import functools
import json
import math
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the checkout that this file belongs to

import numpy as np  # noqa: E402

import tensorlib as T  # noqa: E402
from tensorlib import nn  # noqa: E402
from tensorlib._device import TARGETS  # noqa: E402
from tensorlib.errors import DeviceError, KernelError  # noqa: E402
from tensorlib.nn.attention import flex_attention, mods, varlen  # noqa: E402
from tensorlib.runtime import abi, ahead, compiler, hardware, versions  # noqa: E402

F = nn.functional
RESULTS = ROOT / "bench" / "results"
Row = dict[str, Any]

# ------------------------------------------------------------------------------------------------------------ the cases


class Case(NamedTuple):
    """A call of a model's size: ``call(device)`` makes its tensors there and does it."""

    name: str
    call: Callable[[str], Any]
    #: Kernels whose loads are of rows and tiles, so that narrow ones are a loss: a regular expression of their names.
    streams: str = "."
    targets: tuple[str, ...] = TARGETS


#: One target of each kind, for what is compiled alike within it: elementwise kernels, reductions, indices.
FEW = ("sm_80", "sm_90", "gfx942", "gfx1100")
Shape = tuple[int, ...]


def _tensors(device: str, dtype: str, shapes: Iterable[Shape | str], grad: bool) -> list[Any]:
    """Tensors of these shapes; "int64 8192" is one of that dtype, without a gradient."""
    made = []
    for shape in shapes:
        if isinstance(shape, str):
            kind, *sizes = shape.split()
            made.append(T.empty(tuple(map(int, sizes)), dtype=getattr(T, kind), device=device))
        else:
            made.append(T.empty(shape, dtype=getattr(T, dtype), device=device, requires_grad=grad))
    return made


def case(
    name: str, dtype: str, shapes: Sequence[Shape | str], function: Callable[..., Any], *, backward: bool = True,
    streams: str = ".",
) -> Case:  # fmt: skip
    """``function`` of tensors of these shapes, and the gradients of all of them."""

    def call(device: str) -> None:
        out = function(*_tensors(device, dtype, shapes, backward))
        outs = out if isinstance(out, tuple) else (out,)
        if backward:
            T.autograd.backward(outs, [T.empty_like(o) if o.ndim else None for o in outs])

    return Case(f"{name}, {dtype}", call, streams)


def cases() -> list[Case]:
    """Everything in the table, the most important first."""
    found = [*_products(), *_quantized(), *_attention(), *_rows(), *_losses()]
    rest = [*_pointwise(), *_convolutions(), *_reductions(), *_optimizers(), *_indices(), *_sorting()]
    found += [c._replace(targets=FEW) for c in rest]
    names = Counter(c.name for c in found)
    assert max(names.values()) == 1, names.most_common(1)
    return found


def _products() -> Iterator[Case]:
    for dtype in ("bfloat16", "float16"):
        yield case("matmul 4096³", dtype, [(4096, 4096), (4096, 4096)], T.matmul, backward=dtype == "bfloat16")
    yield Case("matmul 4096³, tf32", functools.partial(_product, "high"))
    yield case("matmul 4096³", "float32", [(4096, 4096), (4096, 4096)], T.matmul, backward=False)
    yield case("linear 16384×768 to 3072", "bfloat16", [(16384, 768), (3072, 768), (3072,)], F.linear,
               streams="matmul")  # fmt: skip
    yield case("linear 8192×768 to 50257", "bfloat16", [(8192, 768), (50257, 768)], F.linear)
    yield case("matmul 16×4096 by 4096×4096", "bfloat16", [(16, 4096), (4096, 4096)], T.matmul, backward=False)
    yield case("matmul 1×4096 by 4096×4096", "bfloat16", [(1, 4096), (4096, 4096)], T.matmul, backward=False)
    yield case("matmul 4096×64 by 64×4096", "bfloat16", [(4096, 64), (64, 4096)], T.matmul, backward=False)
    yield case("matmul 96 of 1024×64 by 64×1024", "bfloat16", [(96, 1024, 64), (96, 64, 1024)], T.matmul)


def _quantized() -> Iterator[Case]:
    n = 4096
    yield case(f"int8 product {n}³", "int8", [(n, n), (n, n)], T._int_mm, backward=False)

    def scaled(x: Any, y: Any, a: Any, b: Any) -> Any:
        return T._scaled_mm(x, y.t(), a, b, out_dtype=T.bfloat16)

    yield case(f"float8 product {n}³", "float8_e4m3fn", [(n, n), (n, n), "float32 1", "float32 1"], scaled,
               backward=False)  # fmt: skip
    yield case("grouped float8 product of 8, 16384×2048 to 2048", "float8_e4m3fn",
               [(16384, 2048), (8, 2048, 2048), "float32 16384", "float32 8 2048", "int32 8"],
               lambda x, w, a, b, offs: F.scaled_grouped_mm(x, w.mT, a, kinds.RowWise, b, kinds.RowWise, offs=offs),
               backward=False)  # fmt: skip
    kinds = F.ScalingType

    def blocks(x: Any, y: Any, a: Any, b: Any) -> Any:
        return F.scaled_mm(x, y.t(), a, kinds.BlockWise1x128, b.t(), kinds.BlockWise128x128)

    for m in (n, 16):
        yield case(f"float8 product in blocks {m}×{n} by {n}×{n}", "float8_e4m3fn",
                   [(m, n), (n, n), f"float32 {m} {n // 128}", f"float32 {n // 128} {n // 128}"], blocks,
                   backward=False)  # fmt: skip
    yield case(f"int8 weights 16×{n} to {n}", "bfloat16", [(16, n), f"int8 {n} {n}", f"bfloat16 {n}"],
               T._weight_int8pack_mm, backward=False)  # fmt: skip
    yield case("grouped product of 8, 16384×2048 to 2048", "bfloat16", [(16384, 2048), (8, 2048, 2048), "int32 8"],
               lambda x, w, offs: F.grouped_mm(x, w, offs=offs))  # fmt: skip


def _product(precision: str, device: str) -> None:
    before = T.get_float32_matmul_precision()
    T.set_float32_matmul_precision(precision)
    try:
        x, y = _tensors(device, "float32", [(4096, 4096), (4096, 4096)], False)
        x @ y
    finally:
        T.set_float32_matmul_precision(before)


def _attention() -> Iterator[Case]:
    for shape in ((16, 12, 1024, 64), (4, 16, 4096, 128)):
        name = f"causal attention {'×'.join(map(str, shape))}"
        yield case(name, "bfloat16", [shape] * 3, functools.partial(F.scaled_dot_product_attention, is_causal=True))
    q, kv = (4, 32, 4096, 128), (4, 8, 4096, 128)
    yield case("grouped attention 32 of 8 heads, 4096×128", "bfloat16", [q, kv, kv],
               functools.partial(F.scaled_dot_product_attention, is_causal=True, enable_gqa=True))  # fmt: skip
    shape = (8, 12, 512, 64)
    yield case("attention with a bias 8×12×512×64", "bfloat16", [shape, shape, shape, (8, 1, 512, 512)],
               F.scaled_dot_product_attention)  # fmt: skip
    yield case("attention with dropout 16×12×1024×64", "bfloat16", [(16, 12, 1024, 64)] * 3,
               functools.partial(F.scaled_dot_product_attention, is_causal=True, dropout_p=0.1))  # fmt: skip
    yield case("causal attention 2×8×4096×256", "bfloat16", [(2, 8, 4096, 256)] * 3,
               functools.partial(F.scaled_dot_product_attention, is_causal=True))  # fmt: skip
    lengths = "int32 17"
    yield case("causal attention of sequences 16384×12×64", "bfloat16", [(16384, 12, 64)] * 3 + [lengths],
               lambda q, k, v, c: varlen.varlen_attn(q, k, v, c, c, 2048, 2048, window_size=(-1, 0)))  # fmt: skip
    yield case("attention to pages 16×32 of 8×128", "bfloat16",
               [(16, 32, 128), (4096, 128, 8, 128), (4096, 128, 8, 128), lengths, "int32 16", "int32 16 64"],
               lambda q, k, v, c, used, table: varlen.varlen_attn(q, k, v, c, None, 1, 8192, seqused_k=used,
                                                                  block_table=table, enable_gqa=True),
               backward=False)  # fmt: skip
    yield case("flex_attention of documents 4×16×4096×128", "bfloat16", [(4, 16, 4096, 128)] * 3 + ["int64 4096"],
               functools.partial(_flex, True), streams="^$")  # fmt: skip
    yield case("flex_attention of a stored mask 4×16×4096×64", "bfloat16", [(4, 16, 4096, 64)] * 3 + ["int64 4096"],
               functools.partial(_flex, False), streams="attention|_grad")  # fmt: skip
    yield case("attention of one query 16×32×1×128 to 8192", "bfloat16", [(16, 32, 1, 128), *[(16, 32, 8192, 128)] * 2],
               F.scaled_dot_product_attention, backward=False)  # fmt: skip


def _flex(fused: bool, q: Any, k: Any, v: Any, documents: Any) -> Any:
    """With lists of blocks, made by hand: how ``create_block_mask`` finds them is no matter here."""
    n = q.shape[-2] // 128

    def function(b: Any, h: Any, i: Any, j: Any) -> Any:
        return (documents[i] == documents[j]) & (j <= i)

    mask = mods.document_mask(documents) if fused else function
    lists = [T.empty(1, 1, n, *more, dtype=T.int32, device=q.device) for _ in range(4) for more in ((), (n,))]
    blocks = flex_attention.BlockMask((q.shape[-2],) * 2, *lists, mask_mod=mask)
    blocks._agrees = mask
    number, at = (T.empty(s, dtype=d, device=q.device) for s, d in (((1, 1, n, n), T.int32), ((2 * n, 4), T.int64)))
    blocks._tiled = number, at
    return flex_attention.flex_attention(q, k, v, block_mask=blocks)


def _rows() -> Iterator[Case]:
    for dtype in ("bfloat16", "float32"):
        for m, n in ((8192, 1024), (256, 262144)):
            yield case(f"softmax {m}×{n}", dtype, [(m, n)], functools.partial(T.softmax, dim=-1))
            if dtype == "float32" and n > 1024:
                continue
            yield case(f"layer_norm {m}×{n}", dtype, [(m, n), (n,), (n,)],
                       lambda x, w, b, n=n: F.layer_norm(x, (n,), w, b), streams="norm")  # fmt: skip
            yield case(f"rms_norm {m}×{n}", dtype, [(m, n), (n,)], lambda x, w, n=n: F.rms_norm(x, (n,), w),
                       streams="norm")  # fmt: skip
    yield case("layer_norm 16384×4096", "bfloat16", [(16384, 4096), (4096,), (4096,)],
               lambda x, w, b: F.layer_norm(x, (4096,), w, b), streams="norm")  # fmt: skip
    yield case("add_rms_norm 8192×4096", "bfloat16", [(8192, 4096), (8192, 4096), (4096,)],
               lambda x, y, w: tuple(F.add_rms_norm(x, y, (4096,), w)), streams="norm")  # fmt: skip
    yield case("add_layer_norm 8192×1024", "bfloat16", [(8192, 1024), (8192, 1024), (1024,), (1024,)],
               lambda x, y, w, b: tuple(F.add_layer_norm(x, y, (1024,), w, b)), streams="norm")  # fmt: skip
    yield case("log_softmax 8192×1024", "bfloat16", [(8192, 1024)], functools.partial(T.log_softmax, dim=-1))
    for dtype in ("bfloat16", "float32"):
        yield case("group_norm 64×64×56², 32 groups", dtype, [(64, 64, 56, 56), (64,), (64,)],
                   lambda x, w, b: F.group_norm(x, 32, w, b))  # fmt: skip
        yield case("batch_norm 64×64×56²", dtype, [(64, 64, 56, 56), (64,), (64,)],
                   lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True))  # fmt: skip


def _losses() -> Iterator[Case]:
    for dtype, v in (("bfloat16", 50257), ("float32", 50257), ("bfloat16", 131072), ("float32", 131072)):
        yield case(f"cross_entropy 8192×{v}", dtype, [(8192, v), "int64 8192"], F.cross_entropy)
    yield case("linear_cross_entropy 8192×2048 to 131072", "bfloat16", [(8192, 2048), (131072, 2048), "int64 8192"],
               F.linear_cross_entropy)  # fmt: skip


def _pointwise() -> Iterator[Case]:
    n = 1 << 26
    for dtype in ("bfloat16", "float32"):
        yield case(f"add {n}", dtype, [(n,), (n,)], T.add, backward=False)
        yield case(f"gelu {n}", dtype, [(n,)], F.gelu)
        yield case(f"gelu by tanh {n}", dtype, [(n,)], functools.partial(F.gelu, approximate="tanh"))
        yield case(f"silu {n}", dtype, [(n,)], F.silu)
        yield case("add a row 16384×4096", dtype, [(16384, 4096), (4096,)], T.add)
        yield case("transposed copy 8192²", dtype, [(8192, 8192)], lambda x: x.mT.contiguous(), backward=False)
        yield case(f"dropout {n}", dtype, [(n,)], functools.partial(F.dropout, p=0.1))
    yield case("swiglu of halves 8192×2×4096", "bfloat16", [(8192, 8192)], lambda x: F.swiglu(*x.chunk(2, -1)))
    yield case("rotary_embedding 4×32×4096×128", "bfloat16", [(4, 32, 4096, 128), "float32 4096 64", "float32 4096 64"],
               F.rotary_embedding)  # fmt: skip
    yield case(f"float32 to bfloat16 {n}", "float32", [(n,)], lambda x: x.to(T.bfloat16), backward=False)
    yield case("split of three 16×1024×2304", "bfloat16", [(16, 1024, 2304)],
               lambda x: T.cat([h.view(16, 1024, 12, 64).transpose(1, 2) for h in x.split(768, 2)]))  # fmt: skip
    yield case("where 16384×4096", "float32", [(16384, 4096), (16384, 4096)], lambda x, y: T.where(x > y, x, y))


def _convolutions() -> Iterator[Case]:
    for dtype in ("bfloat16", "float32"):
        yield case("conv2d 64×64×56², 64 of 3²", dtype, [(64, 64, 56, 56), (64, 64, 3, 3)],
                   functools.partial(F.conv2d, padding=1), streams="^$")  # fmt: skip
        yield case("conv2d 64×256×14², 256 of 3²", dtype, [(64, 256, 14, 14), (256, 256, 3, 3)],
                   functools.partial(F.conv2d, padding=1), streams="^$")  # fmt: skip
        yield case("conv2d 64×256×56², 64 of 1²", dtype, [(64, 256, 56, 56), (64, 256, 1, 1)], F.conv2d, streams="^$")
    yield case("conv2d 64×3×224², 64 of 7²", "bfloat16", [(64, 3, 224, 224), (64, 3, 7, 7)],
               functools.partial(F.conv2d, stride=2, padding=3), streams="^$")  # fmt: skip
    yield case("depthwise conv2d 32×256×56², 3²", "bfloat16", [(32, 256, 56, 56), (256, 1, 3, 3)],
               functools.partial(F.conv2d, padding=1, groups=256), streams="^$")  # fmt: skip
    yield case("conv_transpose2d 32×256×28², 128 of 4²", "bfloat16", [(32, 256, 28, 28), (256, 128, 4, 4)],
               functools.partial(F.conv_transpose2d, stride=2, padding=1), streams="^$")  # fmt: skip
    yield case("conv1d 16×512×3000, 512 of 3", "bfloat16", [(16, 512, 3000), (512, 512, 3)],
               functools.partial(F.conv1d, padding=1), streams="^$")  # fmt: skip
    yield case("max_pool2d 32×64×112², 3²", "bfloat16", [(32, 64, 112, 112)],
               functools.partial(F.max_pool2d, kernel_size=3, stride=2, padding=1), streams="^$")  # fmt: skip
    yield case("interpolate 8×64×56² to 112²", "bfloat16", [(8, 64, 56, 56)],
               lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), streams="^$")  # fmt: skip


def _reductions() -> Iterator[Case]:
    for dtype in ("bfloat16", "float32"):
        for title, f in (
            ("sum of rows", lambda x: x.sum(-1)), ("sum of columns", lambda x: x.sum(0)),
            ("sum of all", lambda x: x.sum()), ("argmax of rows", lambda x: x.argmax(-1)),
            ("variance of rows", lambda x: x.var(-1)), ("cumsum of rows", lambda x: x.cumsum(-1)),
            ("max of rows", lambda x: x.max(-1).values),
        ):  # fmt: skip
            yield case(f"{title} 16384×4096", dtype, [(16384, 4096)], f, backward=False)
    yield case("cumsum of one row 2²⁴", "float32", [(1 << 24,)], lambda x: x.cumsum(0), backward=False)


def _optimizers() -> Iterator[Case]:
    shapes: list[Shape] = [(50257, 768), (3072, 768), (768, 768), (768,)]

    def step(make: Callable[..., Any], device: str) -> None:
        params = _tensors(device, "float32", shapes, True)
        for p in params:
            p.grad = T.empty_like(p)
        nn.utils.clip_grad_norm_(params, 1.0)
        make(params, lr=1e-3).step()

    def muon(params: list[Any], lr: float) -> Any:
        return T.optim.Muon([p for p in params if p.ndim == 2], lr=lr)

    for name, make in (
        ("AdamW", T.optim.AdamW), ("SGD", functools.partial(T.optim.SGD, momentum=0.9)), ("Muon", muon),
    ):  # fmt: skip
        yield Case(f"{name} and clip_grad_norm_, float32", functools.partial(step, make), "adam|sgd|muon|matmul")


def _indices() -> Iterator[Case]:
    for dtype in ("bfloat16", "float32"):
        yield case("embedding 16384 of 50257×768", dtype, ["int64 16384", (50257, 768)], F.embedding,
                   streams="rows|embedding")  # fmt: skip
    yield case("gather 8192×1024", "float32", [(8192, 1024), "int64 8192 1024"], lambda x, i: x.gather(1, i),
               streams="^$")  # fmt: skip
    yield case("index_add 8192×1024", "float32", [(8192, 1024), "int64 8192", (8192, 1024)],
               lambda x, i, y: x.index_add(0, i, y), streams="^$")  # fmt: skip
    yield case("index_select 16384 of 50257×768", "bfloat16", [(50257, 768), "int64 16384"],
               lambda x, i: x.index_select(0, i), streams="rows")  # fmt: skip


def _sorting() -> Iterator[Case]:
    def dynamic(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            with contextlib.suppress(DeviceError):  # a shape that depends on what is not computed ends it
                return function(*args)

        return call

    for title, shape, f in (
        ("sort 2²⁰", (1 << 20,), lambda x: x.sort(-1)), ("sort 1024×1024", (1024, 1024), lambda x: x.sort(-1)),
        ("topk 128×50257, 50", (128, 50257), lambda x: x.topk(50)),
        ("multinomial 128×50257", (128, 50257), lambda x: T.multinomial(x.abs(), 1)),
        ("nonzero 2²⁴", (1 << 24,), dynamic(T.nonzero)), ("unique 2²⁰", (1 << 20,), dynamic(T.unique)),
    ):  # fmt: skip
        yield case(title, "float32", [shape], f, backward=False, streams="^$")
    yield case("bincount 2²⁰", "float32", [f"int64 {1 << 20}"], dynamic(T.bincount), backward=False, streams="^$")
    yield Case("randn 2²⁶, float32", lambda device: T.randn(1 << 26, device=device), "^$")


# --------------------------------------------------------------------------------------------------- what a binary says

#: Instructions that the table names, by the beginning of their mnemonic, for each vendor.
INSTRUCTIONS = {
    "sm": (
        ("wgmma", r"[HQIB]GMMA"), ("tcgen05", r"UTC\w*MMA"), ("mma.sync", r"[HIQDOB]MMA"), ("cp.async", "LDGSTS"),
        ("TMA", r"UTMA(LDG|STG|REDG)|UBLKCP"), ("ldmatrix", "LDSM"), ("stmatrix", "STSM"), ("atomic", "ATOMG?|REDG?"),
    ),
    "gfx": (
        ("mfma", "v_mfma"), ("smfmac", "v_smfmac"), ("wmma", "v_wmma"), ("dot2", r"v_dot\d"),
        ("transposed lds", "ds_read_b64_tr|ds_load_tr"), ("atomic", r"(global|buffer|flat)_atomic"),
    ),
}  # fmt: skip
MATRIX = ("wgmma", "tcgen05", "mma.sync", "mfma", "smfmac", "wmma")
_SASS = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@(?P<if>!?U?P\w+)\s+)?(?P<op>[A-Z][\w.]*)(?P<rest>[^;]*)")
_SASS_LABEL = re.compile(r"^(\.L_x_\d+):")
_GCN = re.compile(r"^\s+(?P<op>[a-z]\w+)(?P<rest>.*)")
_GCN_LABEL = re.compile(r"^(\.LBB\d+_\d+):")
_BYTES = {
    "ubyte": 1, "sbyte": 1, "byte": 1, "u8": 1, "i8": 1, "b8": 1, "ushort": 2, "sshort": 2, "short": 2, "u16": 2,
    "i16": 2, "b16": 2, "dword": 4, "b32": 4, "dwordx2": 8, "b64": 8, "dwordx3": 12, "b96": 12, "dwordx4": 16,
    "b128": 16,
}  # fmt: skip


class Instruction(NamedTuple):
    """One instruction of a kernel: its mnemonic, the whole line, and whether it lies in a loop."""

    op: str
    line: str
    looped: bool


def instructions(lines: Iterable[str], amd: bool) -> list[Instruction]:
    """The instructions of a disassembly. A loop is what lies between a label and a later branch back to it.

    What comes after the kernel's end (waiting, rare cases) jumps back without a condition and makes no loop.
    """
    find, find_label = (_GCN, _GCN_LABEL) if amd else (_SASS, _SASS_LABEL)
    found: list[tuple[str, str]] = []
    labels: dict[str, int] = {}
    looped: list[tuple[int, int]] = []
    ended = False
    for line in lines:
        if label := find_label.match(line):
            labels[label[1]] = len(found)
            continue
        match = find.match(line) if amd else find.search(line)
        if match is None or (amd and match["op"].startswith("amdhsa")):
            continue
        op = match["op"]
        if op in ("s_endpgm", "EXIT") and not (not amd and match["if"]):
            ended = True
        if op.startswith(("BRA", "s_branch", "s_cbranch")):
            target = re.search(r"\.L\w+", match["rest"])
            conditional = op.startswith("s_cbranch") if amd else bool(match["if"]) or "P" in match["rest"].split("`")[0]
            if target and target[0] in labels and (conditional or not ended):
                looped.append((labels[target[0]], len(found)))
        found.append((op, line))
    inside = [False] * len(found)
    for start, end in looped:
        if found[start][0] in ("s_endpgm", "EXIT"):  # a jump to the end that happens to lie before
            continue
        inside[start : end + 1] = [True] * (end + 1 - start)
    return [Instruction(op, line, looped) for (op, line), looped in zip(found, inside, strict=True)]


def _access(i: Instruction, amd: bool) -> tuple[str, int] | None:
    """("load" or "store", bytes a lane) of an instruction that reaches global memory; None of another."""
    if amd:
        match = re.match(r"(?:global|buffer|flat)_(load|store)_(?:lds_)?(?:d16_(?:hi_)?)?([a-z]+\d*x?\d*)", i.op)
        if match is None or "Folded" in i.line:
            return None
        return match[1], _BYTES.get(match[2], 4)
    head, *more = i.op.split(".")
    if head not in ("LDG", "LDGSTS", "STG"):
        return None
    width = next((n for token, n in _WIDTHS.items() if token in more), 4)
    return "store" if head == "STG" else "load", width


_WIDTHS = {"256": 32, "128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}


def read(found: list[Instruction], amd: bool) -> Row:
    """What the instructions of a kernel are, as the table has it."""
    row: Row = {}
    named: Counter[str] = Counter()
    loads, stores, hot = Counter[int](), Counter[int](), Counter[int]()
    spilled = 0
    for i in found:
        for name, pattern in INSTRUCTIONS["gfx" if amd else "sm"]:
            if re.match(pattern, i.op):
                named[name] += 1
        if amd and re.match("(buffer|global)_load", i.op) and re.search(r"_lds_|\blds\b", i.line.split(";")[0]):
            named["to lds"] += 1
        if ("Folded Spill" in i.line or "Folded Reload" in i.line) if amd else i.op.split(".")[0] in ("LDL", "STL"):
            spilled += i.looped
        access = _access(i, amd)
        if access is not None:
            kind, width = access
            (loads if kind == "load" else stores)[width] += 1
            if kind == "load" and i.looped:
                hot[width] += 1
    row["instructions"] = dict(sorted(named.items()))
    for name, counts in (("loads", loads), ("looped loads", hot), ("stores", stores)):
        row[name] = {str(width): n for width, n in sorted(counts.items(), reverse=True)}
    row["looped spills"] = spilled
    return row


@functools.cache
def _tool(name: str) -> str:
    return str(Path(compiler.triton().__file__).parent / "backends" / "nvidia" / "bin" / name)


def _nvidia(binary: bytes, name: str) -> Row:
    with tempfile.TemporaryDirectory(prefix="tensorlib-cubin-") as folder:
        path = os.path.join(folder, "kernel.cubin")
        Path(path).write_bytes(binary)
        used, text = (
            subprocess.run([_tool(tool), option, path], capture_output=True, text=True, check=True).stdout
            for tool, option in (("cuobjdump", "-res-usage"), ("nvdisasm", "-c"))
        )
    resources = re.search(rf"Function {re.escape(name)}:\s*\n(.*)", used)
    if resources is None:
        raise KernelError(f"cuobjdump says nothing of {name}: {used[:500]}")
    numbers = {k: int(v) for k, v in re.findall(r"([A-Z]+):(\d+)", resources[1])}
    body = text.split(f".section\t.text.{name}", 1)[-1].split("\t.section\t", 1)[0].splitlines()
    found = instructions(body, False)
    return {
        "registers": numbers["REG"], "spills": numbers["STACK"] + numbers["LOCAL"], "code": 16 * len(found),
        **read(found, False),
    }  # fmt: skip


def _amd(text: str) -> Row:
    told = {k: int(v) for k, v in re.findall(r"\.(\w+):\s+(\d+)\s*$", text.split(".amdgpu_metadata", 1)[1], re.M)}
    size = re.search(r"codeLenInByte\s*=\s*(\d+)", text)
    found = instructions(text.split("s_endpgm\n\t.section", 1)[0].splitlines(), True)
    return {
        "registers": told["vgpr_count"], "sgprs": told["sgpr_count"],
        "spills": max(told["private_segment_fixed_size"], 4 * told["vgpr_spill_count"]),
        "sgpr spills": told["sgpr_spill_count"], "code": int(size[1]) if size else 0, **read(found, True),
    }  # fmt: skip


_DOT = re.compile(r"tt\.dot(?:_scaled)? .*? : tensor<[\dx]+x(\w+)>")


def measure(request: Any) -> Row:
    """Compile a request and read its binary: the columns of a row but for whose it is."""
    amd = request.target.startswith("gfx")
    limit = hardware.nominal(request.target)
    try:
        compiled = compiler.compile_kernel(*request)
        abi.check(compiled)
        asm = compiled.asm
    except KernelError as error:
        return {"error": str(error).splitlines()[0][:300]}
    row = _amd(asm["amdgcn"]) if amd else _nvidia(compiled.binary, compiled.name)
    dots = set(_DOT.findall(asm["ttir"]))
    precisions = {"ieee"} if "inputPrecision" not in asm["ttir"] else set()
    precisions |= set(re.findall(r"inputPrecision = (\w+)", asm["ttir"]))
    return {
        "warps": compiled.block_warps, "stages": request.num_stages, "shared": compiled.shared,
        "programs": limit.occupancy(compiled.block_warps, row["registers"], compiled.shared),
        **row, "dots": sorted("tf32" if d == "f32" and precisions - {"ieee"} else d for d in dots),
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ the table


def requests(chosen: Case, target: str) -> list[Any]:
    """The kernels that a case launches on a target, with their configurations; nothing is compiled."""
    T.manual_seed(0)
    return ahead.collect(lambda: chosen.call(target))


def key(request: Any) -> str:
    """A hash of all that a kernel's code depends on but for the compiler's version, which the file's name has."""
    found = compiler.entry_key(request, "evidence")
    if found is None:
        raise KernelError(f"{request.kernel.__name__}: has no hash: the cache is off (TENSORLIB_CACHE=0)?")
    return found[:20]


def _configuration(request: Any) -> str:
    """The numbers among its constants, as text."""
    shown = [f"{k}={int(v)}" for k, v in request.constants.items() if isinstance(v, (bool, int, np.integer))]
    shown += [f"{k}={v.__name__}" for k, v in request.constants.items() if isinstance(v, compiler.Jit)]
    return " ".join(shown)


def wanted(chosen: Iterable[Case], targets: Iterable[str], failed: list[str]) -> Iterator[tuple[Row, Any]]:
    """(what names a row, its request) of every kernel of the table; to ``failed`` the cases that cannot be called."""
    for target in targets:
        for c in chosen:
            if target not in c.targets:
                continue
            seen: Counter[str] = Counter()
            try:
                found = requests(c, target)
            except Exception as error:
                failed.append(f"CANNOT BE CALLED  {target}: {c.name}: {type(error).__name__}: {str(error)[:200]}")
                continue
            for request in found:
                name = request.kernel.__name__
                seen[name] += 1
                yield {"case": c.name, "target": target, "kernel": name, "number": seen[name], "key": key(request),
                       "constants": _configuration(request)}, request  # fmt: skip


def _make(name: str, target: str, wanted_key: str) -> Row | None:
    """In a worker: measure the kernel of a case that has that key; None where its file was changed meanwhile."""
    chosen = next(c for c in cases() if c.name == name)
    return next((measure(r) for r in requests(chosen, target) if key(r) == wanted_key), None)


def make(
    plan: Sequence[tuple[Row, Any]], known: dict[str, Row], jobs: int, done: Callable[[dict[str, Row], int], None]
) -> None:
    """Measure what ``known`` (by key) lacks, in processes, into it; ``done`` is called now and then."""
    todo = {row["key"]: row for row, _ in plan if row["key"] not in known}
    if not todo:
        return
    if jobs == 1:
        for left, (k, row) in zip(range(len(todo) - 1, -1, -1), todo.items(), strict=True):
            found = _make(row["case"], row["target"], k)
            known.update({} if found is None else {k: found})
            done(known, left)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, context) as pool:
        running = {pool.submit(_make, row["case"], row["target"], k): k for k, row in todo.items()}
        for count, future in enumerate(concurrent.futures.as_completed(running), 1):
            row = future.result()
            if row is not None:
                known[running[future]] = row
            done(known, len(todo) - count)


def version() -> str:
    """Triton's version."""
    return str(versions.require().version)


_OWN = ("case", "target", "kernel", "number", "key", "constants")


def load(path: Path) -> list[Row]:
    """The rows of a table; none where there is no file."""
    if not path.exists():
        return []
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8"))["kernels"]
    return rows


def by_key(rows: Iterable[Row]) -> dict[str, Row]:
    """What was measured, by hash."""
    return {row["key"]: {k: v for k, v in row.items() if k not in _OWN} for row in rows}


def save(path: Path, rows: Sequence[Row]) -> None:
    """One kernel a line, so that a change of one is a line of a diff; and the same to be read, beside it."""
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{{"triton": "{version()}", "kernels": [\n{lines}\n]}}\n', encoding="utf-8")
    path.with_suffix(".md").write_text(document(rows), encoding="utf-8")


def wide(row: Row) -> float:
    """The share of the bytes loaded (in its loops, where these load) that 16-byte loads or TMA bring."""
    counts = row["looped loads"] or row["loads"]
    if "TMA" in row["instructions"]:
        return 1.0
    total = sum(int(width) * n for width, n in counts.items())
    return sum(int(width) * n for width, n in counts.items() if int(width) >= 16) / total if total else 1.0


def _narrow(row: Row) -> bool:
    """Whether most of what it loads comes in pieces under 16 bytes, and not only a few numbers beside it."""
    counts = row["looped loads"] or row["loads"]
    few = sum(n for width, n in counts.items() if int(width) < 16) < 6
    return wide(row) < 0.5 and not (few and any(int(width) >= 16 for width in counts))


def _needs_matrix(row: Row) -> bool:
    """Whether a product of types that the target's matrix units take is in the kernel."""
    target, types = row["target"], set(row["dots"])
    if target.startswith("sm_"):
        return bool(types & {"bf16", "f16", "tf32", "i8"} or (target != "sm_80" and "f8E4M3FN" in types))
    return bool(types & {"bf16", "f16", "i8"} or (target == "gfx942" and "tf32" in types))


class Problem(NamedTuple):
    """One thing that is wrong with a kernel on a target, or looks so: then ``reason`` says why it is not."""

    severity: int
    kind: str
    row: Row
    detail: str
    reason: str = ""


#: (kind, kernel, case, constants, widths of its narrow loads; regular expressions), and why it is no fault.
REASONS = (
    ("NARROW LOADS", "reduce_kernel", "group_norm", r"KEPT=2 .*BLOCK_N=2\b", "[24]",
     "two numbers a row, of 64 x 64 in all: a lane has no more neighbours"),
    ("NARROW LOADS", "matmul_kernel", "Muon", "", "2",
     "rows of 50257 bfloat16: every other one begins at no multiple of 4 bytes"),
    ("NARROW LOADS", "matmul_kernel", "int8 product", "", "8",
     "bytes by rows of N are turned in registers, since ldmatrix turns pairs of them only; weights (N, K) come in 16"),
    ("NARROW LOADS", "matmul_kernel", "attention with a bias", "BLOCK_K=32", "4",
     "copies from memory to LDS, which take 4 bytes a lane where a tile's rows are turned; 256 bytes a wave"),
    ("NARROW LOADS", "adam_kernel|sgd_kernel", "clip_grad_norm_", "ALIGNED=1", "[48]",
     "a parameter's last block, one program in many, is code of its own, element by element; the others' is in 16"),
    ("NARROW LOADS", "cross_entropy_grad_kernel", "×50257", "EDGE=[48]", "[248]",
     "numbers of a row, and the ends of one that begins at no multiple of 16 bytes; all between comes in 16"),
    ("NARROW LOADS", "rows_kernel", "embedding|index_select", "", "[48]",
     "these loops print an assertion's message; rows are read before them"),
)  # fmt: skip


def _reason(kind: str, row: Row) -> str:
    counts = row["looped loads"] or row["loads"]
    narrow = [width for width in counts if int(width) < 16]
    for of, kernel, case, constants, widths, reason in REASONS:
        matches = of == kind and re.fullmatch(kernel, row["kernel"]) and re.search(case, row["case"])
        if matches and re.search(constants, row["constants"]) and all(re.fullmatch(widths, w) for w in narrow):
            return reason
    return ""


def found_problems(rows: Iterable[Row]) -> Iterator[Problem]:
    """What is wrong with the kernels of a table."""
    streams = {c.name: c.streams for c in cases()}
    for row in rows:
        if "error" in row:
            yield Problem(0, "DOES NOT COMPILE", row, row["error"])
            continue
        if row["spills"] and row["looped spills"]:
            yield Problem(1, "SPILLS IN A LOOP", row, f"{row['spills']} bytes a lane, {row['looped spills']} accesses "
                          f"in a loop, {row['registers']} registers")  # fmt: skip
        elif row["spills"]:
            few = "the compiler's own bargain for more programs at once: put aside and fetched once a program"
            yield Problem(3, "spills", row, f"{row['spills']} bytes a lane, none in a loop",
                          few if row["spills"] <= 64 else "")  # fmt: skip
        if row["shared"] > hardware.nominal(row["target"]).shared:
            yield Problem(0, "TOO MUCH SHARED MEMORY", row, f"{row['shared']} bytes")
        if _needs_matrix(row) and not set(MATRIX) & set(row["instructions"]):
            yield Problem(0, "NO MATRIX UNITS", row, f"products of {', '.join(row['dots'])}")
        if _narrow(row) and re.search(streams.get(row["case"], "^$"), row["kernel"]):
            kind = "NARROW LOADS"
            yield Problem(2, kind, row, _widths(row["looped loads"] or row["loads"]), _reason(kind, row))


def problems(rows: Iterable[Row], explained: bool = False) -> list[str]:
    """The same as text, the worst first, a line for a kernel of a case with all targets of which it is true.

    explained: what looks wrong and is not, with the reason.
    """
    grouped: dict[Any, dict[str, list[str]]] = {}
    for problem in found_problems(rows):
        if bool(problem.reason) != explained:
            continue
        row = problem.row
        constants = re.sub(r" ?(RANK|WIDE|DOT|PAD_E|PAD_EV|GROUP_M)=\d+", "", row["constants"]).strip()
        key = problem.severity, f"{problem.kind}  {row['kernel']} of {row['case']}"
        detail = f"{problem.detail} ({constants} warps={row.get('warps')} stages={row.get('stages')})"
        detail += f": {problem.reason}" if explained else ""
        grouped.setdefault(key, {}).setdefault(detail, []).append(row["target"])
    lines = []
    for (_, title), details in sorted(grouped.items(), key=lambda item: item[0][0]):
        lines.append(f"{title}: " + "; ".join(f"{' '.join(dict.fromkeys(t))}: {d}" for d, t in details.items()))
    return lines


def _widths(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} of {width} bytes" for width, n in counts.items())


def regressions(before: Row, after: Row) -> list[str]:
    """What of a kernel got worse: it no longer compiles, spills, lost its 16-byte loads or its matrix units."""
    if "error" in after:
        return [] if "error" in before else [f"no longer compiles: {after['error']}"]
    if "error" in before:
        return []
    found = []
    if after["spills"] > before["spills"] + 16:
        found.append(f"spills {after['spills']} bytes a lane, not {before['spills']}: {after['registers']} registers, "
                     f"{after['warps']} warps: smaller blocks or more warps")  # fmt: skip
    lost = set(MATRIX) & set(before["instructions"])
    if lost and not set(MATRIX) & set(after["instructions"]):
        found.append(f"has no matrix instructions any more; there were {', '.join(sorted(lost))}")
    if _narrow(after) and not _narrow(before):
        found.append(f"lost its 16-byte loads: {_widths(after['looped loads'] or after['loads'])}: see whether strides "
                     f"and pointers are still known to be aligned")  # fmt: skip
    had, has = (_wide_stores(row) for row in (before, after))
    if had and not has:
        found.append(f"lost its 16-byte stores: {_widths(after['stores'])}")
    return found


def _wide_stores(row: Row) -> bool:
    return any(int(width) >= 16 for width in row["stores"]) or "TMA" in row["instructions"]


def check(
    path: Path, chosen: Sequence[Case], targets: Sequence[str], most: int | None = None
) -> tuple[list[str], int, int]:
    """(what got worse, kernels compiled, kernels changed) since a table was made: its rows against what they are now.

    most: compile at most that many, which the hashes choose: another change, others.
    """
    old = {_identity(row): row for row in load(path)}
    keys = {row["key"] for row in old.values()}
    worse: list[str] = []
    stale = [(row, request) for row, request in wanted(chosen, targets, worse) if row["key"] not in keys]
    pairs = [(old[_identity(row)], row, request) for row, request in stale if _identity(row) in old]
    pairs.sort(key=lambda pair: pair[1]["key"])
    for before, row, request in pairs[:most]:
        for text in regressions(before, measure(request)):
            worse.append(f"{row['target']}: {row['kernel']} of {row['case']} ({row['constants']}): {text}")
    return worse, len(pairs[:most]), len(stale)


def _identity(row: Row) -> tuple[Any, ...]:
    return row["case"], row["target"], row["kernel"], row["number"]


def cell(row: Row | None) -> str:
    """A kernel on a target as a cell: registers, spills, shared memory, programs, instructions, widths."""
    if row is None:
        return ""
    if "error" in row:
        return "**does not compile**"
    parts = [f"{row['registers']} r"]
    if row["spills"]:
        parts.append(f"**spills {row['spills']} B{' in a loop' if row['looped spills'] else ''}**")
    if row["shared"]:
        parts.append(f"{math.ceil(row['shared'] / 1024)} K")
    parts.append(f"×{row['programs']}")
    parts += [name for name in row["instructions"] if name != "atomic"]
    counts = row["looped loads"] or row["loads"]
    if counts:
        parts.append("l" + "/".join(counts))
    if row["stores"]:
        parts.append("s" + "/".join(row["stores"]))
    parts.append(f"{row['code'] / 1024:.1f} KB")
    return ", ".join(parts)


def document(rows: Sequence[Row]) -> str:
    """The table to be read."""
    targets = [t for t in TARGETS if any(row["target"] == t for row in rows)]
    lines = [
        f"# What Triton {version()} makes of the kernels",
        "",
        "Made by `python bench/kernels.py` from binaries, with no GPU. A cell: registers a lane (r), bytes spilled,",
        "shared memory of a program (K), programs that a multiprocessor holds (×; by the usual device's limits),",
        "instructions found, widths in bytes of the loads (l; those in loops where there are any) and stores (s) of",
        "global memory, size of the code (KB). After a kernel's name: warps and stages.",
        "",
    ]
    wrong = problems(rows)
    lines += [f"## What is wrong: {len(wrong)}" if wrong else "## Nothing is wrong", "", *(f"- {t}" for t in wrong), ""]
    if other := problems(rows, explained=True):
        lines += [f"## What looks wrong and is not: {len(other)}", "", *(f"- {t}" for t in other), ""]
    by_case: dict[str, dict[tuple[str, int], dict[str, Row]]] = {}
    for row in rows:
        by_case.setdefault(row["case"], {}).setdefault((row["kernel"], row["number"]), {})[row["target"]] = row
    for name, kernels in by_case.items():
        lines += [f"## {name}", "", "| kernel | " + " | ".join(targets) + " |", "|---" * (len(targets) + 1) + "|"]
        for (kernel, number), found in kernels.items():
            cells = []
            for target in targets:
                row = found.get(target)
                text = cell(row)
                cells.append(f"{row['warps']}w {row['stages']}s: {text}" if row and "error" not in row else text)
            lines.append(f"| {kernel}{f' {number}' if number > 1 else ''} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------------------- the tool


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 all is well, 1 something got worse, 2 the table is older than the kernels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="the table (bench/results/kernels-<triton's version>.json)")
    parser.add_argument("--only", default="", metavar="REGEX", help="cases whose name matches")
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), metavar="NAME", help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), metavar="N", help="processes")
    parser.add_argument("--check", action="store_true", help="compile what changed, compare, write nothing")
    parser.add_argument("--problems", action="store_true", help="print what is wrong in the table, compile nothing")
    options = parser.parse_args(arguments)
    path = options.out or RESULTS / f"kernels-{version()}.json"
    chosen = [c for c in cases() if re.search(options.only, c.name)]
    if options.problems:
        names = {c.name for c in chosen}
        print("\n".join(problems(r for r in load(path) if r["case"] in names and r["target"] in options.targets)))
        return 0
    if options.check:
        worse, compiled, stale = check(path, chosen, options.targets)
        print("\n".join(worse) or "nothing got worse")
        print(f"{stale} kernels are not those of {path.name}; {compiled} of them were compiled and compared")
        return 1 if worse else 2 if stale else 0
    failed: list[str] = []
    plan = list(wanted(chosen, options.targets, failed))
    old = load(path)
    known = by_key(old)
    names = {_identity(row) for row, _ in plan}
    rest = [r for r in old if (r["case"] not in {c.name for c in chosen} or r["target"] not in options.targets)
            and _identity(r) not in names]  # fmt: skip
    order = {c.name: i for i, c in enumerate(cases())}

    def write(found: dict[str, Row], left: int) -> None:
        if left % 50 and left:
            return
        rows = [{**row, **found[row["key"]]} for row, _ in plan if row["key"] in found]
        rows = [*rows, *(r for r in rest if r["case"] in order)]
        rows.sort(key=lambda r: (order[r["case"]], TARGETS.index(r["target"])))
        save(path, rows)
        print(f"{path}: {len(rows)} kernels, {left} to be compiled", file=sys.stderr, flush=True)

    make(plan, known, options.jobs, write)
    write(known, 0)
    print("\n".join([*failed, *problems(load(path))]) or "nothing is wrong")
    missing = sum(row["key"] not in known for row, _ in plan)
    if missing:
        print(f"{missing} kernels were changed while they were compiled: run it again")
    return 1 if failed else 2 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
