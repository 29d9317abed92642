"""Write the checkpoints of PyTorch that test_torch_files.py reads: run with torch installed, in this folder.

Each ``<name>.pt`` is what ``torch.save`` wrote; ``expected.npz`` holds, under ``<name>:<path>``, the numbers of every
tensor in it, as float64 or complex128 (each dtype's values are exact there), written by NumPy and not by torch.
"""

from __future__ import annotations

import argparse
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

HERE = Path(__file__).resolve().parent


class Block(nn.Module):
    """A residual block, as in ResNet."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Any) -> Any:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + x)


def resnet() -> nn.Module:
    """A stem, two residual blocks, a head."""
    return nn.Sequential(
        OrderedDict(stem=nn.Conv2d(3, 4, 3), block1=Block(4), block2=Block(4), pool=nn.AdaptiveAvgPool2d(1),
                    flat=nn.Flatten(), head=nn.Linear(4, 3))
    )  # fmt: skip


class LanguageModel(nn.Module):
    """An encoder whose output layer is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight


def objects() -> dict[str, Any]:
    """name -> what is saved."""
    torch.manual_seed(0)
    model = resnet()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    model(torch.randn(2, 3, 6, 6)).sum().backward()
    optimizer.step()
    scheduler.step()
    momentum = torch.optim.SGD([nn.Parameter(torch.randn(3))], lr=0.1, momentum=0.9)
    momentum.param_groups[0]["params"][0].grad = torch.ones(3)
    momentum.step()
    floats = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2)
    ints = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64)
    kinds = {str(d)[6:]: torch.tensor([0.5, -1.5, 2.0, 0.0]).to(d) for d in floats}
    kinds |= {str(d)[6:]: torch.tensor([0, 1, 100, 127]).to(d) for d in ints}
    kinds |= {"bool": torch.tensor([True, False, True]), "complex64": torch.tensor([1 + 2j, -1j]),
              "complex128": torch.tensor([1 + 2j, -1j], dtype=torch.complex128)}  # fmt: skip
    base = torch.arange(24.0).reshape(4, 6)
    layouts = {"whole": base, "row": base[1], "transposed": base.T, "stepped": base[::2, 1::2],
               "zero": torch.tensor(7.5), "empty": torch.empty(0, 3), "again": base,
               "expanded": torch.ones(1).expand(2, 3),
               "conj": torch.tensor([1 + 2j, 3 - 4j]).conj(), "neg": torch.tensor([1 + 2j, 3 - 4j]).conj().imag,
               "channels_last": torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
               }  # fmt: skip
    values = {"none": None, "true": True, "int": -3, "big": 1 << 70, "float": 2.5, "inf": float("inf"), "text": "ü",
              "bytes": b"\x00\xff", "bytearray": bytearray(b"ab"), "complex": 1 - 2j, "list": [1, [2]],
              "tuple": (1, (2, 3), ()), "set": {1, 2}, "frozenset": frozenset("ab"), "ordered": OrderedDict(b=1, a=2),
              "counter": Counter("aab"), "defaultdict": defaultdict(list, {"k": [1]}), 5: "int key",
              (1, 2): "tuple key", "size": torch.Size([2, 3]), "dtype": torch.bfloat16,
              "device": torch.device("cuda", 1)}  # fmt: skip
    return {
        "resnet": model.state_dict(),
        "training": {"model": model.state_dict(), "optimizer": optimizer.state_dict(),
                     "scheduler": scheduler.state_dict(), "epoch": 3, "rng": torch.get_rng_state()[:16].clone()},
        "sgd": momentum.state_dict(),
        "transformer": LanguageModel().state_dict(),
        "half": {k: v.half() for k, v in LanguageModel().state_dict().items()},
        "dtypes": kinds,
        "layouts": layouts,
        "values": values,
        "parameters": [nn.Parameter(torch.randn(2)), nn.Parameter(torch.randn(2), requires_grad=False),
                       torch.randn(2, requires_grad=True)],
    }  # fmt: skip


def tensors(value: Any, path: str) -> dict[str, np.ndarray]:
    """The numbers of every tensor inside."""
    if isinstance(value, torch.Tensor):
        wide = value.detach().resolve_conj().resolve_neg()
        return {path: wide.to(torch.complex128 if wide.is_complex() else torch.float64).numpy()}
    found: dict[str, np.ndarray] = {}
    if isinstance(value, dict):
        for key, part in value.items():
            found |= tensors(part, f"{path}/{key}")
    elif isinstance(value, (list, tuple)):
        for i, part in enumerate(value):
            found |= tensors(part, f"{path}/{i}")
    return found


def main() -> None:
    """Write the files."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    expected: dict[str, np.ndarray] = {}
    made = objects()
    for name, value in made.items():
        torch.save(value, HERE / f"{name}.pt")
        expected |= tensors(value, name)
    torch.save(made["training"], HERE / "legacy.pt", _use_new_zipfile_serialization=False)
    expected |= tensors(made["training"], "legacy")
    np.savez_compressed(HERE / "expected.npz", **{k.replace("/", ":"): v for k, v in expected.items()})


if __name__ == "__main__":
    main()
