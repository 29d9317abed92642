"""Store what PyTorch gives: run with torch installed, from this folder."""

import cases
import numpy as np
import torch

stored = {
    f"{name}.{key}": value
    for name in cases.CASES
    for key, value in cases.results(name, torch.tensor, torch.distributions).items()
}
for name in cases.TRANSFORMS:
    for key, value in cases.transform_results(name, torch.tensor, torch.distributions).items():
        stored[f"transform_{name}.{key}"] = value
stored |= {f"kl.{pair}": value for pair, value in cases.divergences(torch.tensor, torch.distributions).items()}
np.savez_compressed("expected.npz", torch=torch.__version__, **stored)
