"""`tensorlib train images`: a convolutional net learns to tell images apart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

import tensorlib as tl
from tensorlib.errors import ArgumentError, CheckpointError
from tensorlib.io.safetensors import replacing
from tensorlib.nn import functional as F
from tensorlib.train.config import RunConfig
from tensorlib.train.convnet import ConvNet, ConvNetConfig
from tensorlib.train.images import Images
from tensorlib.train.loop import Run, short
from tensorlib.train.plot import mosaic

MISTAKES = "misclassified.png"
_TEST_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class VisionConfig(RunConfig):
    """The settings of a run. The defaults learn scikit-learn's digits on two CPU cores in a few seconds."""

    width: int = ConvNetConfig.width
    dropout: float = ConvNetConfig.dropout
    epochs: int = 30
    shift: int = 1
    smoothing: float = 0.1
    weight_decay: float = 0.01

    changeable = RunConfig.changeable | {"epochs"}
    on_gpu: ClassVar[dict[str, Any]] = {**RunConfig.on_gpu, "width": 2 * ConvNetConfig.width}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least_one("epochs")
        if not 0 <= self.shift <= 64:
            raise ArgumentError(f"--shift is {self.shift}: expected 0 to 64 pixels")
        if not 0.0 <= self.smoothing < 1.0:
            raise ArgumentError(f"--smoothing is {self.smoothing}: expected 0 or more and less than 1")

    @property
    def model(self) -> ConvNetConfig:
        """The part that shapes the model, checked on its own."""
        return ConvNetConfig(self.width, self.dropout)


class VisionRun(Run):
    """A ConvNet in training; its loss is the mean cross-entropy in nats an image. Adds misclassified.png."""

    kind, unit, curve_label = "images", "images", "nats/image"
    config: VisionConfig
    config_class = VisionConfig
    artefacts = (*Run.artefacts, MISTAKES)

    def _prepare(self) -> None:
        config = self.config
        config.model  # noqa: B018  its checks come before the data is read
        self.images = Images.read(config.data)
        self.digest, self.data_name = self.images.digest, self.images.name
        self.eval_interval = math.ceil(len(self.images.train) / config.batch)
        self.steps = config.epochs * self.eval_interval
        self.units_a_step = min(config.batch, len(self.images.train))

    def _build(self) -> ConvNet:
        data = self.images
        mean, std = float(data.train.mean()), max(1.0, float(data.train.std()))
        model = ConvNet(self.config.model, data.train.shape[1:], data.classes, mean, std)
        return model.to(device=self.device, dtype=self.config.weights)

    def _loss(self, step: int) -> tl.Tensor:
        config = self.config
        images, labels = self.images.batch(step, config.seed, config.batch, config.shift)
        logits = self.model(self._on_device(images))
        return F.cross_entropy(logits, self._on_device(labels), label_smoothing=config.smoothing)

    def _measure(self) -> dict[str, float]:
        data = self.images
        loss, guesses = 0.0, []
        for start in range(0, len(data.test), _TEST_BATCH):
            part = slice(start, start + _TEST_BATCH)
            logits = self.model(self._on_device(data.test[part])).float()
            labels = self._on_device(data.test_labels[part])
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
            guesses.append(logits.argmax(1).cpu().numpy())
        guessed = np.concatenate(guesses)
        wrong = np.flatnonzero(guessed != data.test_labels)
        captions = [f"{data.test_labels[i]}/{guessed[i]}" for i in wrong]
        try:
            with replacing(self.out / MISTAKES) as file:
                file.write(mosaic(data.test[wrong], captions, f"{len(wrong)} of {len(guessed)}: label / prediction"))
        except OSError as error:
            raise CheckpointError(f"cannot write to {self.out}: {error.strerror or error}") from error
        return {"validation_loss": loss / len(guessed), "accuracy": 1 - len(wrong) / len(guessed)}

    def _training_label(self) -> str:
        """Smoothed labels have a loss that no net brings to zero: the curve lies above validation, which has none."""
        return "training, smoothed labels" if self.config.smoothing else "training"

    def describe(self) -> str:
        """Two lines: the model and the images."""
        data, (h, w) = self.images, self.images.train.shape[1:]
        return (
            f"3 convolutions of width {self.config.width} and up: "
            f"{short(sum(p.numel() for p in self.model.parameters()))} parameters, "
            f"{self.config.dtype} on {self._place()}\n"
            f"{data.name}: {len(data.train)} images of {h} x {w} in {data.classes} classes to train on, "
            f"{len(data.test)} to test with"
        )

    def headline(self) -> str:
        """The latest accuracy, for the progress line."""
        return f"test {format(100 * self.history[-1]['accuracy'], '.2f') if self.history else '  -  '}%"

    def summary(self) -> str:
        """How the run ended."""
        entry = self.history[-1]
        best = max(e["accuracy"] for e in self.history)
        return (
            f"test accuracy {100 * entry['accuracy']:.2f}% (best {100 * best:.2f}%), "
            f"loss {entry['validation_loss']:.4f} nats/image"
        )

