"""Write expected.npz: what PyTorch's optimizers and schedules give for optim_cases.py. Run with PyTorch installed."""

from pathlib import Path

import numpy as np
import torch
from optim_cases import AVERAGES, LBFGS, OPTIMIZERS, PLAIN, SCHEDULES, average, follow, kinds, minimise, train

if __name__ == "__main__":
    arrays = {}
    for number, (name, options) in enumerate(OPTIMIZERS):
        for dtype in ("float32", "float64"):
            for key, value in train(torch, name, options, dtype).items():
                arrays[f"{number}/{dtype}/{key}"] = value
    for number, (name, options, shapes) in enumerate(PLAIN):
        for key, value in train(torch, name, options, "float32", shapes).items():
            arrays[f"plain{number}/{key}"] = value
    for number, options in enumerate(LBFGS):
        for key, value in minimise(torch, options).items():
            arrays[f"lbfgs{number}/{key}"] = value
    for name in AVERAGES:
        for key, value in average(torch, name).items():
            arrays[f"average/{name}/{key}"] = value
    for name in SCHEDULES:
        for kind in kinds(name):
            arrays[f"{name}/{kind}"] = follow(torch, name, kind)
    path = Path(__file__).with_name("expected.npz")
    np.savez_compressed(path, **arrays)
    print(f"{path}: PyTorch {torch.__version__}, {path.stat().st_size} bytes")
