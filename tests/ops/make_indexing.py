"""Write ``indexing.json``: what PyTorch gives for the expressions of ``indexing_cases.py``.

Run by hand where PyTorch is installed: ``python tests/ops/make_indexing.py``. The tests read the stored values only.
"""

import json
from pathlib import Path

import torch
from indexing_cases import FAIL, READ, WRITE


def leaves():
    """The tensor that is indexed and the values that are written."""
    x = torch.arange(24.0, dtype=torch.float64).reshape(2, 3, 4).requires_grad_()
    v = (torch.arange(12.0, dtype=torch.float64).reshape(3, 4) / 8 - 0.5).requires_grad_()
    return x, v


def weights(t):
    """Gradients to start from that tell elements apart."""
    return torch.arange(1.0, t.numel() + 1, dtype=torch.float64).reshape(t.shape)


def main():
    """All three tables."""
    read, write, fail = {}, {}, {}
    for text in READ:
        x, _ = leaves()
        out = eval(text, {"x": x, "L": torch})
        out.backward(weights(out))
        read[text] = [list(out.shape), out.detach().reshape(-1).tolist(), x.grad.reshape(-1).tolist()]
    for text in WRITE:
        leaf, v = leaves()
        x = leaf * 1
        exec(text, {"x": x, "L": torch, "v": v})
        (x * x).backward(weights(x))
        grads = [None if t.grad is None else t.grad.reshape(-1).tolist() for t in (leaf, v)]
        write[text] = [x.detach().reshape(-1).tolist(), *grads]
    for text in FAIL:
        try:
            eval(text, {"x": leaves()[0] * 1, "L": torch})
        except (IndexError, ValueError, TypeError, RuntimeError) as error:
            fail[text] = next(
                k.__name__ for k in (IndexError, ValueError, TypeError, RuntimeError) if isinstance(error, k)
            )
    stored = {"torch": torch.__version__, "read": read, "write": write, "fail": fail}
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in stored.items())
    Path(__file__).with_name("indexing.json").write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main()
