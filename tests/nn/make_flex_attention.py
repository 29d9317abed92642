"""Write flex_attention.npz, PyTorch's values: ``python tests/nn/make_flex_attention.py`` in an environment with it."""

from __future__ import annotations

import math
from pathlib import Path

import flex_cases
import numpy as np
import torch
from torch._higher_order_ops.flex_attention import math_attention
from torch.nn.attention import flex_attention as flex


def main() -> None:
    """Every case in float64: what PyTorch computes without compilation, its blocks, and its picture of them."""
    found = {}
    for i, (size, score, mask) in enumerate(flex_cases.CASES):
        q, k, v, g, g_lse = (torch.from_numpy(x) for x in flex_cases.operands(size))
        for t in (q, k, v):
            t.requires_grad_()
        mask_mod = flex_cases.mask_mod(torch, flex, mask)
        out, lse, top = math_attention(
            q, k, v, flex_cases.score_mod(torch, score) or flex._identity, (mask_mod or flex.noop_mask,),
            1 / math.sqrt(q.shape[-1]), {},
        )  # fmt: skip
        lse, top = lse * math.log(2), top * math.log(2)
        finite = torch.isfinite(lse)
        loss = (out * g).sum() + (torch.where(finite, lse, 0) * g_lse).sum()
        grads = torch.autograd.grad(loss, (q, k, v))
        parts = [out, lse, top, *(x.nan_to_num() for x in grads)]  # PyTorch's are NaN where a query sees no key
        if mask_mod is not None:
            blocks = flex.create_block_mask(mask_mod, 2, 4, q.shape[2], k.shape[2], device="cpu", BLOCK_SIZE=8)
            parts += [getattr(blocks, name) for name in blocks._TENSOR_ATTRS[:8]]
            found[f"{i} text"] = np.array(str(blocks))
        found |= {f"{i} {j}": x.detach().numpy() for j, x in enumerate(parts)}
    np.savez_compressed(Path(__file__).parent / "flex_attention.npz", **found)


if __name__ == "__main__":
    main()
