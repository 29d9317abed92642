"""A small convolutional net for grey images."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import tensorlib as tl
from tensorlib import nn
from tensorlib.errors import ArgumentError


@dataclass(frozen=True)
class ConvNetConfig:
    """The shape of a model: everything besides the data needed to build it again from a checkpoint."""

    width: int = 32
    dropout: float = 0.2

    def __post_init__(self) -> None:
        if not 1 <= self.width <= 4096:
            raise ArgumentError(f"--width is {self.width}: expected 1 to 4096 channels")
        if not 0.0 <= self.dropout < 1.0:
            raise ArgumentError(f"--dropout is {self.dropout}: expected 0 or more and less than 1")


class ConvNet(nn.Module):
    """Three blocks of convolution, batch norm, ReLU and max pooling, then one linear layer.

    uint8 images (B, H, W), H and W at least 8 -> logits (B, classes). Channels double from block to block.
    Source: LeCun et al. 1998, with Ioffe and Szegedy's normalisation (2015).
    """

    def __init__(self, config: ConvNetConfig, size: tuple[int, int], classes: int, mean: float, std: float) -> None:
        super().__init__()
        self.register_buffer("mean", tl.tensor(mean))
        self.register_buffer("std", tl.tensor(std))
        channels = [1, config.width, 2 * config.width, 4 * config.width]
        blocks: list[nn.Module] = []
        for before, after in pairwise(channels):
            blocks += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
                       nn.MaxPool2d(2)]  # fmt: skip
        self.features = nn.Sequential(*blocks)
        self.drop = nn.Dropout(config.dropout)
        self.head = nn.Linear(channels[-1] * (size[0] // 8) * (size[1] // 8), classes)

    def forward(self, images: tl.Tensor) -> tl.Tensor:
        """Logits of each class."""
        x = (images.to(self.mean.dtype) - self.mean) / self.std
        return self.head(self.drop(self.features(x.unsqueeze(1)).flatten(1)))
