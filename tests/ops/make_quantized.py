"""PyTorch's values for tests/ops/test_quantized_products.py: ``python tests/ops/make_quantized.py`` with PyTorch.

PyTorch multiplies by weights of 4 bits on the CPU with another layout of the packed words, which is why the weights are
stored as they were before they were packed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch


def main() -> None:
    """Write quantized.npz beside this file."""
    rng = np.random.default_rng(0)
    stored: dict[str, np.ndarray] = {}
    q = rng.integers(0, 16, (64, 128)).astype(np.int32)
    stored["q"] = q.astype(np.uint8)
    packed = torch._convert_weight_to_int4pack_for_cpu(torch.from_numpy(q), 2)
    for group in (32, 64, 128):
        x = torch.from_numpy(rng.standard_normal((3, 128)).astype(np.float32))
        s = torch.from_numpy(rng.uniform(0.1, 1, (128 // group, 64, 2)).astype(np.float32))
        out = torch._weight_int4pack_mm_for_cpu(x, packed, group, s)
        stored |= {f"int4 {group} {name}": t.numpy() for name, t in (("x", x), ("s", s), ("out", out))}
    for m, n, k in ((3, 8, 32), (1, 40, 64)):
        x, s = torch.randn(m, k), torch.rand(n)
        w = torch.randint(-128, 128, (n, k)).to(torch.int8)
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            of = x.to(dtype)
            out = torch._weight_int8pack_mm(of, w, s.to(dtype))
            name = f"int8 {m} {str(dtype)[6:]}"
            stored |= {f"{name} x": of.float().numpy(), f"{name} s": s.to(dtype).float().numpy(),
                       f"{name} out": out.float().numpy(), f"int8 {m} w": w.numpy()}  # fmt: skip
    np.savez_compressed(Path(__file__).with_name("quantized.npz"), **stored)


if __name__ == "__main__":
    main()
