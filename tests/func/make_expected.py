"""Writes torch.npz: what PyTorch gives for the programs of func_programs. Run with an interpreter that has PyTorch."""

from pathlib import Path

import numpy as np
import torch
from func_programs import leaves, programs

found = {}
for name, program in programs(torch, torch.func, torch.func.vmap).items():
    for i, t in enumerate(leaves(program())):
        found[f"{name} {i}"] = t.detach().numpy()
np.savez_compressed(Path(__file__).with_name("torch.npz"), **found)
