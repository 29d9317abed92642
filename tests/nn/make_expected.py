"""Write expected.npz: what PyTorch's layers give for the cases of layer_cases.py. Run with PyTorch installed."""

from pathlib import Path

import numpy as np
import torch
from layer_cases import CASES, run

if __name__ == "__main__":
    arrays = {}
    for number, case in enumerate(CASES):
        results = run(torch.nn, case, lambda a: torch.tensor(a), lambda t: t.detach().numpy().copy())
        for name, value in results.items():
            arrays[f"{number}/{name}"] = value
    path = Path(__file__).with_name("expected.npz")
    np.savez_compressed(path, **arrays)
    print(f"{path}: {len(CASES)} cases of PyTorch {torch.__version__}, {path.stat().st_size} bytes")
