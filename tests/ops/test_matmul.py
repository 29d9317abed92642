"""The kernels of matrix products: every kind of candidate at sizes of use, epilogues, and what the compilers make."""

from __future__ import annotations

import re
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tensorlib as tl
from tensorlib._array import DeviceArray, empty, to_device, to_host
from tensorlib._device import device
from tensorlib.kernels import matmul as kernels
from tensorlib.kernels import matmul_tiles as tiles
from tensorlib.kernels.epilogues import PLAIN, Epilogue, add_to, scaled, scaled_sum
from tensorlib.nn import functional as F
from tensorlib.ops.linalg import _ACTIVATIONS
from tensorlib.runtime import compiler, hardware, precision
from tensorlib.runtime.autotune import Config
from tensorlib.runtime.launch import Coverage

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
NATIVE = device("native")
VECTOR, DESCRIPTORS = tiles._VECTOR, tiles._DESCRIPTORS + tiles._SPECIALIZED


def numbers(*shape: int, dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def error(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.linalg.norm(got.astype(np.float64) - want) / np.linalg.norm(want))


def run(
    monkeypatch: pytest.MonkeyPatch, config: Config | None, a: np.ndarray, b: np.ndarray, epilogue: Epilogue = PLAIN,
    on: Any = NATIVE,
) -> np.ndarray:  # fmt: skip
    """a @ b by a configuration; a and b lie on the device as they do in NumPy's memory."""
    if config is not None:
        monkeypatch.setattr(kernels.MATMUL, "choose", lambda *args: config)
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    out: DeviceArray = empty((*lead, a.shape[-2], b.shape[-1]), a.dtype, on)
    there = [to_device(x.T.copy(), on).T if x.flags.f_contiguous and x.ndim == 2 else to_device(x, on) for x in (a, b)]
    kernels.product(out, *there, epilogue)
    return to_host(out)


@pytest.mark.parametrize("split", [1, 3, 8])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, BFLOAT16])
def test_tiles_with_a_part_of_k_each(monkeypatch: pytest.MonkeyPatch, split: int, dtype: Any) -> None:
    config = tiles.tile(32, 64, 32, 4, 3).replace(SPLIT_K=split)
    for m, n, k, lead in ((16, 1000, 4096, ()), (64, 64, 20011, ()), (5, 70, 333, (3,))):
        a, b = numbers(*lead, m, k, dtype=dtype), numbers(*lead, k, n, dtype=dtype, seed=1)
        got, again = (run(monkeypatch, config, a, b) for _ in range(2))
        assert error(got, a.astype(np.float64) @ b.astype(np.float64)) < {8: 1e-14, 4: 3e-6, 2: 2e-3}[a.itemsize]
        np.testing.assert_array_equal(got, again)  # the parts are added up in one order


@pytest.mark.parametrize("config", [VECTOR[1], VECTOR[5].replace(SPLIT_K=5), VECTOR[12], VECTOR[9].replace(SPLIT_K=2)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, BFLOAT16, np.int32])
def test_products_with_a_vector(monkeypatch: pytest.MonkeyPatch, config: Config, dtype: Any) -> None:
    for m, n, k in ((1, 1003, 2050), (1003, 1, 2050), (1, 1, 5000), (1, 64, 16)):
        for layout in (np.ascontiguousarray, np.asfortranarray):
            a, b = layout(4 * numbers(m, k)).astype(dtype), layout(4 * numbers(k, n, seed=1)).astype(dtype)
            got, want = run(monkeypatch, config, a, b), a.astype(np.float64) @ b.astype(np.float64)
            if np.dtype(dtype).kind == "i":
                np.testing.assert_array_equal(got, want)
            else:
                assert error(got, want) < {8: 2e-15, 4: 2e-6, 2: 5e-3}[a.itemsize]


@pytest.mark.parametrize("config", DESCRIPTORS, ids=str)
def test_persistent_programs_with_descriptors(monkeypatch: pytest.MonkeyPatch, config: Config) -> None:
    monkeypatch.setattr(kernels, "hardware", lambda at: hardware.NATIVE._replace(multiprocessors=7))  # tiles in turn
    for layouts in ("cc", "cf", "fc", "ff"):
        a, b = numbers(520, 136, dtype=BFLOAT16), numbers(136, 712, dtype=BFLOAT16, seed=1)
        a, b = (np.asfortranarray(x) if how == "f" else x for x, how in zip((a, b), layouts, strict=True))
        assert error(run(monkeypatch, config, a, b), a.astype(np.float64) @ b.astype(np.float64)) < 2e-3
    a, b = numbers(300, 72, dtype=np.float16), np.asfortranarray(numbers(72, 501, dtype=np.float16, seed=1))
    got = run(monkeypatch, config, a, b)  # a row of 501 halves: not what descriptors store
    assert error(got, a.astype(np.float64) @ b.astype(np.float64)) < 4e-4


def test_persistent_programs_of_float8(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a GPU multiplies them that needs not widen them, with sums of 128 products apart and without."""
    monkeypatch.setattr(kernels, "_widened", lambda a, b, gpu: None)
    config = tiles._DESCRIPTORS_BYTE[-1]
    a, b = (numbers(*shape, dtype=np.float32).astype(ml_dtypes.float8_e4m3fn) for shape in ((272, 400), (400, 528)))
    want = a.astype(np.float64) @ b.astype(np.float64)
    for fast in (True, False):
        with monkeypatch.context() as m:
            m.setattr(kernels.MATMUL, "choose", lambda *_, **__: config)
            out: DeviceArray = empty(want.shape, np.dtype(np.float32), NATIVE)
            kernels.product(out, to_device(a, NATIVE), to_device(np.ascontiguousarray(b.T), NATIVE).T, None, fast)
        assert error(to_host(out), want) < 1e-6
    for target, there in (("sm_90", True), ("sm_80", False), ("gfx942", False)):
        for layout in ("rc", "rr"):
            problem = kernels.Problem(4096, 4096, 4096, 1, a.dtype, "ieee", layout)
            found = kernels.MATMUL.candidates(problem, hardware.nominal(target))
            assert any(map(tiles.by_descriptor, found)) == (there and layout == "rc")


def test_persistent_programs_in_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiles._by_descriptor(16, 32, 16, 4, 2, False).replace(SUBTILE=True)
    a, b = numbers(40, 48, dtype=np.float16), numbers(48, 72, dtype=np.float16, seed=1)
    on = device("interpret")
    bias = to_device(numbers(72, dtype=np.float16, seed=2), on)
    got = run(monkeypatch, config, a, b, Epilogue(add_to, (bias,), _ACTIVATIONS["relu"].scalar), on=on)
    want = np.maximum(a.astype(np.float64) @ b.astype(np.float64) + to_host(bias).astype(np.float64), 0)
    assert error(got, want) < 1e-3


CONFIGS = {
    "tile": tiles.tile(32, 32, 32, 4, 2), "parts": tiles.tile(32, 32, 32, 4, 2).replace(SPLIT_K=3),
    "vector": VECTOR[5], "vector parts": VECTOR[5].replace(SPLIT_K=2), "descriptor": DESCRIPTORS[3],
}  # fmt: skip


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("operand", ["row", "column", "tile", "one"])
def test_epilogues(monkeypatch: pytest.MonkeyPatch, kind: str, operand: str) -> None:
    m, n, k = (1 if "vector" in kind else 136), 264, 520
    dtype = np.dtype(np.float16 if kind == "descriptor" else np.float32)
    shape = {"row": (n,), "column": (m, 1), "tile": (m, n), "one": (1, 1)}[operand]
    for turned in (False, True):
        a, b = numbers(m, k, dtype=dtype), numbers(k, n, dtype=dtype, seed=1)
        if turned and "vector" in kind:  # a column: out of (n, 1), its epilogue transposed
            a, b = np.ascontiguousarray(b.T), np.ascontiguousarray(a.T)
            shape = shape[::-1] if len(shape) > 1 else (n, 1)
        x = numbers(*shape, dtype=dtype, seed=2)
        product = a.astype(np.float64) @ b.astype(np.float64)
        before: DeviceArray = empty(product.shape, dtype, NATIVE)
        epilogue = Epilogue(scaled_sum, (to_device(x, NATIVE), 0.5, 2.0), _ACTIVATIONS["silu"].scalar, before)
        got = run(monkeypatch, CONFIGS[kind], a, b, epilogue)
        summed = 2 * product + 0.5 * x.astype(np.float64)
        bound = 1e-3 if dtype == np.float16 else 2e-6
        assert error(to_host(before), summed) < bound
        assert error(got, summed / (1 + np.exp(-summed))) < bound
        assert error(run(monkeypatch, CONFIGS[kind], a, b, Epilogue(scaled, (3.0,))), 3 * product) < bound


def test_an_epilogue_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, x = numbers(3, 1, 9, 40), numbers(2, 40, 33, seed=1), numbers(2, 1, 33, seed=2)
    for name in ("tile", "parts"):
        got = run(monkeypatch, CONFIGS[name], a, b, Epilogue(add_to, (to_device(x, NATIVE),)))
        np.testing.assert_allclose(got, a @ b + x, rtol=1e-4, atol=1e-4)
    tall = run(monkeypatch, CONFIGS["tile"], a, b[0], Epilogue(add_to, (to_device(numbers(3, 1, 9, 33), NATIVE),)))
    np.testing.assert_allclose(tall, a @ b[0] + numbers(3, 1, 9, 33), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", _ACTIVATIONS)
def test_linear_with_an_activation_is_both(name: str) -> None:
    plain = {"relu": F.relu, "gelu": F.gelu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"), "silu": F.silu}[name]
    for bias in (True, False):
        made = [[tl.from_numpy(numbers(*s, seed=len(s))).requires_grad_() for s in ((2, 9, 16), (24, 16), (24,))]
                for _ in range(2)]  # fmt: skip
        (x, w, b), (x2, w2, b2) = made
        one, two = F.linear_activation(x, w, b if bias else None, name), plain(F.linear(x2, w2, b2 if bias else None))
        np.testing.assert_allclose(one.detach().numpy(), two.detach().numpy(), rtol=1e-6, atol=1e-6)
        one.sum().backward()
        two.sum().backward()
        for p, q in ((x, x2), (w, w2), (b, b2))[: 2 + bias]:
            np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-5, atol=1e-5)
        assert w.grad.is_contiguous()
    with pytest.raises(ValueError, match=r"linear_activation.*expected one of relu"):
        F.linear_activation(x, w, b, "softmax")


def test_one_kernel_for_products_with_a_sum() -> None:
    x, a, b = (tl.from_numpy(numbers(*s)).to("interpret") for s in ((5,), (4, 3), (3, 5)))
    batch = tl.from_numpy(numbers(2, 3, 5)).to("interpret")
    for call in (
        lambda: tl.addmm(x, a, b, beta=0.5, alpha=2), lambda: tl.baddbmm(x, a.expand(2, 4, 3), batch),
        lambda: tl.addmv(x, b.T, a[0]), lambda: tl._addmm_activation(x, a, b, use_gelu=True),
        lambda: F.linear_activation(a, b.T, x), lambda: tl.mm(a.half(), b.half(), tl.float32),
    ):  # fmt: skip
        call()
        with Coverage() as seen:
            call()
        assert len([v for v in seen.variants if v[0].__name__ != "pointwise_kernel"]) == 1
        assert {v[0].__name__ for v in seen.variants} <= {"matmul_kernel", "gemv_kernel", "pointwise_kernel"}


def test_wider_results() -> None:
    a, b = (tl.from_numpy(numbers(*s)).bfloat16() for s in ((40, 300), (300, 30)))
    want = a.float().numpy() @ b.float().numpy()
    for on in ("cpu", "native"):
        got = tl.mm(a.to(on), b.to(on), out_dtype=tl.float32).cpu()
        assert got.dtype is tl.float32
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-4)
        assert tl.addmm(tl.ones(30).to(on), a.to(on), b.to(on), tl.float32).dtype is tl.float32
    with pytest.raises(RuntimeError, match="out_dtype must be the same"):
        tl.mm(a, b, out_dtype=tl.float64)


# ----------------------------------------------------------------------------------------------- what compilers make


def compiled(
    monkeypatch: pytest.MonkeyPatch, target: str, config: Config | None, m: int, n: int, k: int, dtype: Any = BFLOAT16
) -> list[Any]:
    """What a product (weights transposed, as a layer has them) is compiled to."""
    made: list[Any] = []
    real = compiler.compile_kernel

    def kept(*args: Any) -> Any:
        made.append(real(*args))
        return made[-1]

    monkeypatch.setattr(compiler, "compile_kernel", kept)
    if config is not None:
        monkeypatch.setattr(kernels.MATMUL, "choose", lambda *args: config)
    at = device(target)
    kernels.product(empty((m, n), dtype, at), empty((m, k), dtype, at), empty((n, k), dtype, at).T)
    return made


@pytest.mark.parametrize(
    ("target", "config", "wanted"),
    [
        ("sm_90", tiles._DESCRIPTORS[3], (r"wgmma\.mma_async.*m64n256k16.*bf16", r"cp\.async\.bulk\.tensor\.2d")),
        ("sm_90", tiles.tile(128, 128, 64, 8, 3), (r"wgmma\.mma_async", r"cp\.async\.cg\.shared\.global .* 0x10")),
        ("sm_100", tiles._DESCRIPTORS[3], (r"tcgen05\.mma", r"cp\.async\.bulk\.tensor\.2d")),
        ("sm_80", tiles.tile(64, 64, 64, 4, 3), (r"mma\.sync\.aligned\.m16n8k16.*bf16", r"cp\.async\.cg", "ldmatrix")),
        ("gfx942", tiles.tile(64, 64, 64, 4, 2), (r"v_mfma_f32_\d+x\d+x\d+_bf16", "buffer_load_dwordx4")),
        ("gfx1201", tiles.tile(64, 64, 32, 4, 2), (r"v_wmma_f32_16x16x16_bf16", "_load_b128")),
    ],
    ids=str,
)
def test_matrix_units_and_asynchronous_loads(
    monkeypatch: pytest.MonkeyPatch, target: str, config: Config, wanted: tuple[str, ...]
) -> None:
    (made,) = compiled(monkeypatch, target, config, 2048, 2048, 2048)
    text = made.asm["ptx" if target.startswith("sm") else "amdgcn"]
    for pattern in wanted:
        assert re.search(pattern, text), pattern
    assert made.shared <= hardware.nominal(target).shared
    problem = kernels.Problem(2048, 2048, 2048, 1, BFLOAT16, "ieee", "rc")
    assert made.shared <= tiles.cost(config, problem, hardware.nominal(target)).shared * 1.01


def test_a_vector_is_read_in_whole_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    for config in (VECTOR[2], VECTOR[5]):
        (made,) = compiled(monkeypatch, "sm_90", config, 1, 4096, 4096)
        loads = re.findall(r"ld\.global\S*", made.asm["ptx"])
        assert any(".v4.b32" in x for x in loads), loads


@pytest.mark.parametrize(("word", "unit"), [("none", False), ("tf32", True), ("tf32x3", True)])
def test_float32_on_tensor_cores_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, word: str, unit: bool
) -> None:
    before = precision.said[0]
    precision.choose(word)
    try:
        (made,) = compiled(monkeypatch, "sm_80", tiles.tile(64, 64, 32, 4, 3), 512, 512, 512, np.float32)
        at = device("gfx1100")
        assert kernels.precision(np.dtype(np.float32), at) == "ieee"  # it has no such units
        assert kernels.precision(BFLOAT16, device("sm_90")) == "ieee"  # a setting of float32's only
        units = len(re.findall(r"mma\.sync\.\S*tf32\.tf32", made.asm["ptx"]))
        assert bool(units) is unit
        # What rounding to tf32 costs, and what three products of each pair win back.
        a, b = numbers(64, 512), numbers(512, 64, seed=1)
        on = [tl.from_numpy(x).to("interpret") for x in (a, b)]
        lost = error((on[0] @ on[1]).cpu().numpy(), a.astype(np.float64) @ b.astype(np.float64))
        assert (1e-4 < lost < 1e-3) if word == "tf32" else lost < 1e-6
    finally:
        precision.choose(before)


# ------------------------------------------------------------------------------------------------------- the choice


def chosen(target: str, m: int, n: int, k: int, layout: str = "rc", dtype: Any = BFLOAT16) -> Config:
    problem = kernels.Problem(m, n, k, 1, np.dtype(dtype), "ieee", layout)
    return kernels.MATMUL.ranking(problem, hardware.nominal(target))[0][0]


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1201"])
def test_the_model_cuts_k_where_programs_are_few(target: str) -> None:
    assert chosen(target, 64, 64, 65536, "cr")["SPLIT_K"] > 4
    assert chosen(target, 256, 256, 16384, "cr")["SPLIT_K"] > 1
    assert chosen(target, 8192, 8192, 8192).constants.get("SPLIT_K", 1) == 1
    assert chosen(target, 128, 128, 128)["SPLIT_K"] == 1
    assert tiles.is_vector(chosen(target, 1, 4096, 4096)) and tiles.is_vector(chosen(target, 4096, 1, 4096))
    assert not tiles.is_vector(chosen(target, 2, 4096, 4096))
    along_k, along_n = chosen(target, 1, 4096, 4096, "rc"), chosen(target, 1, 4096, 4096, "rr")
    assert along_k["BLOCK_K"] * 2 >= 128 and along_n["BLOCK_N"] * 2 >= 128  # neighbours in memory, a line of them


def test_descriptors_are_for_those_who_have_them() -> None:
    assert tiles.layout(4096, 1, 2) == "r" and tiles.layout(1, 4096, 2) == "c" and tiles.layout(2, 4096, 2) == "s"
    for strides in ((4097, 1), (0, 1)):  # rows that are not aligned; one row, many times
        assert tiles.layout(*strides, 2) == "R" and tiles.layout(*strides[::-1], 2) == "C"
    assert tiles.layout(4096, 1, 2, ptr=8) == "R"
    for target in ("sm_90", "sm_100"):
        gpu, problem = hardware.nominal(target), kernels.Problem(4096, 4096, 4096, 1, BFLOAT16, "ieee", "rc")
        ranked = sorted(kernels.MATMUL.candidates(problem, gpu), key=lambda c: tiles.cost(c, problem, gpu).seconds)
        assert any(map(tiles.by_descriptor, ranked[:12]))  # a search times some,
        assert not tiles.by_descriptor(chosen(target, 4096, 4096, 4096))  # and nothing else runs them yet
        for sizes in ((4096, 4096, 4096, "Rc"), (4096, 4096, 4096, "rs"), (32, 4096, 4096, "rc")):
            assert not tiles.by_descriptor(chosen(target, *sizes))
        assert not tiles.by_descriptor(chosen(target, 4096, 4096, 4096, dtype=np.float32))
    for target in ("sm_80", "sm_89", "sm_120", "gfx942", "gfx1100"):
        problem = kernels.Problem(4096, 4096, 4096, 1, BFLOAT16, "ieee", "rc")
        assert not any(map(tiles.by_descriptor, kernels.MATMUL.candidates(problem, hardware.nominal(target))))


def test_every_candidate_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind that any GPU may choose, once, natively: results agree whatever was chosen."""
    a, b = numbers(77, 1030, dtype=np.float16), numbers(1030, 90, dtype=np.float16, seed=1)
    want = a.astype(np.float64) @ b.astype(np.float64)
    problem = kernels.Problem(77, 90, 1030, 1, np.dtype(np.float16), "ieee", "rr")
    kinds = {}
    for target in ("sm_90", "gfx942", "gfx1100"):
        for config in kernels.MATMUL.candidates(problem, hardware.nominal(target)):
            kinds[config["BLOCK_M"], config["BLOCK_N"], config["BLOCK_K"], config.constants.get("SPLIT_K")] = config
    for config in list(kinds.values())[::7]:
        assert error(run(monkeypatch, config, a, b), want) < 1e-3, config
