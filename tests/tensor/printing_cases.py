"""Tensors whose printed form is compared with PyTorch's: ``cases(torch)`` gives (name, tensor)."""

import numpy as np


def cases(torch):
    rng = np.random.default_rng(0)

    def t(a, **kwargs):
        made = torch.from_numpy(np.ascontiguousarray(a))
        return made.to(**kwargs) if kwargs else made

    f32 = np.float32
    yield "scalar", torch.tensor(3.0)
    yield "scalar-int", torch.tensor(3)
    yield "scalar-bool", torch.tensor(True)
    yield "small", torch.tensor([1.0, 2.0, 3.0])
    yield "fractions", torch.tensor([1.5, 2.25, -3.0])
    yield "ints", torch.tensor([[1, -200], [30, 4]])
    yield "bools", torch.tensor([[True, False]])
    yield "normal", t(rng.standard_normal((3, 4)).astype(f32))
    yield "wide", t(rng.standard_normal((2, 30)).astype(f32))
    yield "large", t(rng.standard_normal((3, 4)).astype(f32) * 1e6)
    yield "tiny", t(rng.standard_normal((3, 4)).astype(f32) * 1e-6)
    yield "range", torch.tensor([1e-5, 1.0, 1e5])
    yield "integral-range", torch.tensor([1.0, 100000.0])
    yield "huge-integral", torch.tensor([1e9, 2e9])
    yield "specials", torch.tensor([float("nan"), float("inf"), -float("inf"), 1.5])
    yield "specials-integral", torch.tensor([float("nan"), float("inf"), 2.0])
    yield "zeros", torch.zeros(2, 3)
    yield "three-d", t(rng.standard_normal((2, 2, 3)).astype(f32))
    yield "four-d", t(np.arange(16).reshape(2, 2, 2, 2))
    yield "summarised", t(np.arange(2000).reshape(40, 50))
    yield "summarised-float", t(rng.standard_normal((1001,)).astype(f32))
    yield "summarised-3d", t(rng.standard_normal((20, 20, 20)).astype(f32))
    yield "float64", t(rng.standard_normal((2, 2)))
    yield "float16", torch.tensor([1.5, 2.0], dtype=torch.float16)
    yield "bfloat16", torch.tensor([1.5, 2.0], dtype=torch.bfloat16)
    yield "int32", torch.tensor([1, 2], dtype=torch.int32)
    yield "uint8", torch.tensor([1, 2], dtype=torch.uint8)
    yield "empty", torch.zeros(0)
    yield "empty-2d", torch.zeros(0, 3)
    yield "empty-int", torch.zeros(0, dtype=torch.int64)
    yield "complex", torch.tensor([1 + 2j, -0.5 - 1j])
    yield "requires-grad", torch.ones(2, requires_grad=True)
    yield "grad-fn", torch.ones(2, requires_grad=True) * 2
    yield "grad-fn-long", t(rng.standard_normal((8,)).astype(f32)).requires_grad_() * 2
    yield "float64-grad", torch.ones(2, dtype=torch.float64, requires_grad=True)
    yield "strided", t(rng.standard_normal((4, 6)).astype(f32))[:, ::2]
    yield "negative-zero", torch.tensor([-0.0, 1.0])
    yield "parameter", torch.nn.Parameter(torch.ones(2, 2))
