"""Real sizes, a few of each family: many programs, many tiles, several waves, offsets beyond 2**31 elements.

Outputs and gradients against the CPU. The samples of the declarations are small, so that the interpreter can run them:
what only shows at size (a second tile, a partial wave, a wrapped offset, a race) shows here.
"""

from __future__ import annotations

import os
import zlib

import ml_dtypes
import numpy as np
import pytest

import tensorlib as T
from tensorlib import _array
from tensorlib.op import registry
from tensorlib.testing import calls, on_device

SMALL = bool(os.environ.get("TENSORLIB_TEST_SIMULATED"))  # where kernels are interpreted


def rng(*seed):
    return np.random.default_rng(seed)


def normal(*shape):
    """float arrays, in the dtype under test."""
    if SMALL:
        shape = tuple(min(n, 5 if i < len(shape) - 1 else 40) for i, n in enumerate(shape))
    return rng(*shape).standard_normal(shape, np.float32)


def positive(*shape):
    return np.abs(normal(*shape)) + np.float32(0.1)


def integers(high, *shape):
    if SMALL:
        shape = tuple(min(n, 40) for n in shape)
    return rng(high, *shape).integers(0, min(high, 5) if SMALL else high, shape)


def heads(b, h, n, d):
    return normal(b, h, n, d) if not SMALL else rng(1).standard_normal((1, 2, 20, 16), np.float32)


def image(b, c, h, w):
    return normal(b, c, h, w) if not SMALL else rng(2).standard_normal((1, 4, 9, 7), np.float32)


def square(n):
    return normal(n, n) if not SMALL else rng(3).standard_normal((20, 20), np.float32)


#: name of the case: (public function, tensors, attributes). The part before the first space names the operator.
CALLS = {
    "add": (T.add, lambda: [normal(3001, 1237), normal(3001, 1237)], {}),
    "add broadcast": (T.add, lambda: [normal(257, 1, 1025), normal(1 if SMALL else 31, 1)], {}),
    "mul transposed": (T.mul, lambda: [square(2049), square(2049).T], {}),
    "exp": (T.exp, lambda: [normal(1 << 22)], {}),
    "gelu": (T.nn.functional.gelu, lambda: [normal(4096, 1023)], {}),
    "where": (T.where, lambda: [normal(2000, 999) > 0, normal(2000, 999), normal(2000, 999)], {}),
    "sum rows": (T.sum, lambda: [normal(4097, 2050)], {"dim": -1}),
    "sum columns": (T.sum, lambda: [normal(4097, 2050)], {"dim": 0}),
    "sum all": (T.sum, lambda: [normal(5000, 1001)], {}),
    "mean middle": (T.mean, lambda: [normal(64, 300, 129)], {"dim": 1}),
    "amax": (T.amax, lambda: [normal(1000, 5000)], {"dim": -1}),
    "argmax": (T.argmax, lambda: [normal(1000, 5000)], {"dim": -1}),
    "var": (T.var, lambda: [normal(1000, 4999)], {"dim": -1}),
    "logsumexp": (T.logsumexp, lambda: [normal(512, 32001)], {"dim": -1}),
    "cumsum": (T.cumsum, lambda: [normal(257, 10001)], {"dim": -1}),
    "cumsum columns": (T.cumsum, lambda: [normal(5001, 65)], {"dim": 0}),
    "softmax": (T.softmax, lambda: [normal(2049, 1025)], {"dim": -1}),
    "softmax long": (T.softmax, lambda: [normal(16, 262144)], {"dim": -1}),
    "log_softmax columns": (T.log_softmax, lambda: [normal(1025, 2049)], {"dim": 0}),
    "layer_norm": (T.nn.functional.layer_norm,
                   lambda: [x := normal(4095, 1600), x.shape[-1:], normal(*x.shape[-1:]), normal(*x.shape[-1:])], {}),
    "rms_norm": (T.nn.functional.rms_norm, lambda: [x := normal(2047, 4096), x.shape[-1:], normal(*x.shape[-1:])],
                 {}),
    "group_norm": (T.nn.functional.group_norm, lambda: [image(16, 64, 31, 33)], {"num_groups": 2 if SMALL else 8}),
    "batch_norm": (T.nn.functional.batch_norm, lambda: [image(16, 64, 31, 33), None, None], {"training": True}),
    "cross_entropy": (T.nn.functional.cross_entropy, lambda: [normal(2048, 50257), integers(50257, 2048)[: 5 if SMALL
                      else 2048]], {}),
    "matmul": (T.matmul, lambda: [square(1024), square(1024)], {}),
    "matmul odd": (T.matmul, lambda: [normal(1023, 771), normal(1023, 771).T.copy()], {}),
    "matmul tall": (T.matmul, lambda: [normal(8193, 64), normal(8193, 64)[:48].T], {}),
    "matmul deep": (T.matmul, lambda: [normal(65, 16384), normal(65, 16384).T], {}),
    "matmul batched": (T.matmul, lambda: [normal(24, 129, 65), normal(24, 129, 65).swapaxes(1, 2)], {}),
    "linear": (T.nn.functional.linear, lambda: [normal(2048, 768), normal(3072, 768), normal(3072)[: 5 if SMALL
               else 3072]], {}),
    "scaled_dot_product_attention": (T.nn.functional.scaled_dot_product_attention,
                                     lambda: [heads(2, 8, 1024, 64), heads(2, 8, 1024, 64), heads(2, 8, 1024, 64)],
                                     {"is_causal": True}),
    "scaled_dot_product_attention odd": (T.nn.functional.scaled_dot_product_attention,
                                         lambda: [heads(3, 5, 333, 80) for _ in range(3)], {}),
    "conv2d": (T.nn.functional.conv2d, lambda: [image(16, 64, 56, 56), rng(4).standard_normal(
               (3, 4, 3, 3) if SMALL else (128, 64, 3, 3), np.float32), None], {"padding": 1}),
    "conv2d strided": (T.nn.functional.conv2d, lambda: [image(8, 32, 65, 63), rng(4).standard_normal(
                       (4, 2, 3, 3) if SMALL else (64, 16, 5, 5), np.float32), None],
                       {"stride": 2, "padding": 2, "groups": 2}),
    "max_pool2d": (T.nn.functional.max_pool2d, lambda: [image(16, 64, 57, 57)], {"kernel_size": 3, "stride": 2}),
    "avg_pool2d": (T.nn.functional.avg_pool2d, lambda: [image(16, 64, 57, 57)], {"kernel_size": 2}),
    "interpolate": (T.nn.functional.interpolate, lambda: [image(4, 16, 65, 63)],
                    {"scale_factor": 2, "mode": "bilinear"}),
    "embedding": (T.nn.functional.embedding, lambda: [integers(5, 40) if SMALL else integers(50257, 16, 1024),
                  normal(50257, 768)], {}),
    "gather": (T.gather, lambda: [normal(1025, 2050), 1, integers(5 if SMALL else 2050, 1025, 999)[:5]], {}),
    "index_select": (T.index_select, lambda: [normal(5001, 300), 0, integers(5001, 2000)], {}),
    "cat": (T.cat, lambda: [[normal(1001, 300), normal(1001, 300), normal(17, 300)]], {}),
    "flip": (T.flip, lambda: [normal(1001, 1003), (0, 1)], {}),
    "tril": (T.tril, lambda: [normal(2049, 2051)], {}),
    "clone transposed": (T.clone, lambda: [normal(4097, 2050).T], {}),
    "sort": (T.sort, lambda: [normal(1 << 22)], {}),
    "sort rows": (T.sort, lambda: [normal(3000, 1025)], {"descending": True}),
    "sort columns": (T.sort, lambda: [normal(70001, 9)], {"dim": 0}),
    "sort integers": (T.sort, lambda: [integers(50257, 1 << 20)], {"stable": True}),
    "topk": (T.topk, lambda: [normal(128, 50257)], {"k": 30}),
    "kthvalue": (T.kthvalue, lambda: [normal(64, 50257)], {"k": 33}),
    "median": (T.median, lambda: [normal(64, 50257)], {"dim": 1}),
    "unique": (T.unique, lambda: [integers(50257, 1 << 20)], {"return_inverse": True, "return_counts": True}),
    "bincount": (T.bincount, lambda: [integers(50257, 1 << 20)], {}),
    "searchsorted": (T.searchsorted, lambda: [np.sort(normal(50257)), normal(1 << 20)], {}),
    "isin": (T.isin, lambda: [integers(50257, 1 << 20), integers(50257, 3000)], {}),
}  # fmt: skip
HALVES = ("add", "exp", "gelu", "sum", "softmax", "layer_norm", "rms_norm", "cross_entropy", "matmul", "linear",
          "scaled_dot_product_attention", "conv2d", "embedding", "cat", "batch_norm")  # fmt: skip


def _cases():
    found = []
    for name in CALLS:
        halves = ["bfloat16", "float16"] if name.split()[0] in HALVES else []
        found.extend(f"{name.replace(' ', '_')}-{dtype}" for dtype in ("float32", *halves))
    return found


CASES = {"test_large": _cases}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_large(case):
    name, _, dtype = case.rpartition("-")
    function, make, attrs = next(v for k, v in CALLS.items() if k.replace(" ", "_") == name)
    numpy = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)

    def cast(a):
        if isinstance(a, list):
            return [cast(x) for x in a]
        return a.astype(numpy) if isinstance(a, np.ndarray) and a.dtype == np.float32 else a

    T.manual_seed(zlib.crc32(name.encode()))
    args = tuple(cast(a) for a in make())
    on_device.large(calls.declared(function), args, attrs, "cuda", case)


DRAWS = {
    "rand": lambda device, n: T.rand(n, device=device),
    "randn": lambda device, n: T.randn(n, device=device),
    "randperm": lambda device, n: T.randperm(n, device=device),
    "randint": lambda device, n: T.randint(-5, 1000, (n,), device=device),
    "bernoulli": lambda device, n: T.bernoulli(T.full((n,), 0.3, device=device)),
    "dropout": lambda device, n: T.nn.functional.dropout(T.ones(n, device=device), 0.4),
    "uniform_": lambda device, n: T.empty(n, device=device).uniform_(-2, 3),
    "normal_ bfloat16": lambda device, n: T.empty(n, device=device, dtype=T.bfloat16).normal_(1, 2),
    "exponential_": lambda device, n: T.empty(n, device=device).exponential_(),
    "rand float64": lambda device, n: T.rand(n, device=device, dtype=T.float64),
}


@pytest.mark.parametrize("name", DRAWS)
def test_random_numbers_are_those_of_the_cpu(name):
    """The same integers and uniforms, the same normals to the accuracy of a GPU's logarithm; the stream goes on."""
    found = []
    for device in ("cpu", "cuda"):
        T.manual_seed(11)
        draws = [DRAWS[name](device, 1003 if SMALL else 1_000_003).cpu() for _ in range(2)]
        found.append([d.to(T.float64).numpy() for d in (*draws, T.rand(3))])
    for here, there in zip(*found, strict=True):
        if name.startswith(("randn", "normal", "exponential")):
            np.testing.assert_allclose(there, here, rtol=2**-7 if "bfloat16" in name else 1e-4, atol=2**-10)
        else:
            np.testing.assert_array_equal(there, here)


def test_offsets_beyond_32_bits():
    """Elements behind the 2**31st, of one byte each: written, added, summed and copied out."""
    _array.poison(False)  # the fixture restores it: the host would write gigabytes
    if SMALL:
        pytest.skip("needs 10 GB")
    n = (1 << 31) + 4097
    free = T.cuda.mem_get_info()[0]
    if free < 5 * n:
        pytest.skip(f"needs {5 * n >> 30} GiB of free memory, there are {free >> 30}")
    x = T.zeros(n, dtype=T.uint8, device="cuda")
    x[-3:] = 7
    y = x + x
    assert y[-5:].tolist() == [0, 0, 14, 14, 14]
    assert int(y.sum()) == 42
    value, index = x.kthvalue(n - 2)
    assert (value.item(), index.item()) == (7, n - 3)
    assert (x == 7).nonzero().tolist() == [[n - 3], [n - 2], [n - 1]]
    z = T.cat([y[-4:], x[:4]])
    assert z.tolist() == [0, 14, 14, 14, 0, 0, 0, 0]
    rows = x.view(-1, 1)[-10:].clone()
    assert rows[-3:].view(-1).tolist() == [7, 7, 7]


def test_every_case_names_an_operator():
    for name in CALLS:
        assert calls.declared(CALLS[name][0]) is not None, name
    assert set(HALVES) <= {name.split()[0] for name in CALLS} and registry
