"""`tensorlib train gpt`: a transformer learns to continue text."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

import tensorlib as tl
from tensorlib.errors import ArgumentError
from tensorlib.nn import functional as F
from tensorlib.train.config import RunConfig
from tensorlib.train.gpt import GPT, VOCABULARY, GPTConfig
from tensorlib.train.loop import Run, short
from tensorlib.train.text import Corpus


@dataclass(frozen=True, kw_only=True)
class LanguageConfig(RunConfig):
    """The settings of a run. The defaults learn Python's own source on two CPU cores in about two minutes.

    On a GPU the model is larger by default (27 million parameters), and computes in bfloat16.
    """

    layers: int = GPTConfig.layers
    heads: int = GPTConfig.heads
    width: int = GPTConfig.width
    block: int = GPTConfig.block
    dropout: float = GPTConfig.dropout
    batch: int = 8
    steps: int = 1400
    eval_interval: int = 200

    changeable = RunConfig.changeable | {"steps", "eval_interval"}
    on_gpu: ClassVar[dict[str, Any]] = {
        **RunConfig.on_gpu, "layers": 8, "heads": 8, "width": 512, "block": 512, "batch": 64, "lr": 1e-3, "warmup": 100,
        "steps": 2000,
    }  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least_one("steps", "eval_interval")
        if self.batch * self.model.block > 2**31:
            raise ArgumentError(f"--batch {self.batch} of --block {self.block} bytes is more than a step can hold")

    @property
    def model(self) -> GPTConfig:
        """The part that shapes the model, checked on its own."""
        return GPTConfig(**{field.name: getattr(self, field.name) for field in dataclasses.fields(GPTConfig)})

    def build(self, device: Any) -> GPT:
        """An untrained model."""
        return GPT(self.model).to(device=device, dtype=self.weights)


class LanguageRun(Run):
    """A GPT in training on a corpus; its loss is the mean cross-entropy in nats a byte."""

    kind, unit, curve_label = "gpt", "tokens", "nats/byte"
    config: LanguageConfig
    config_class = LanguageConfig

    def _prepare(self) -> None:
        config = self.config
        self.corpus = Corpus.read(config.data, config.block)
        self.digest, self.data_name = self.corpus.digest, self.corpus.name
        self.steps, self.eval_interval = config.steps, config.eval_interval
        self.units_a_step = config.batch * config.block

    def _build(self) -> GPT:
        return self.config.build(self.device)

    def _loss(self, step: int) -> tl.Tensor:
        config = self.config
        return self._of(self.corpus.batch(step, config.seed, config.batch, config.block))

    def _of(self, windows: np.ndarray) -> tl.Tensor:
        """Mean cross-entropy: each byte of the windows (B, block + 1) from those before it."""
        tokens = self._on_device(windows)
        logits = self.model(tokens[:, :-1])
        return F.cross_entropy(logits.reshape(-1, VOCABULARY), tokens[:, 1:].reshape(-1))

    def _measure(self) -> dict[str, float]:
        windows = self.corpus.validation_batches(self.config.batch, self.config.block)
        losses = [self._of(batch).double() * len(batch) for batch in windows]
        return {"validation_loss": sum(loss.item() for loss in losses) / sum(map(len, windows))}

    def describe(self) -> str:
        """Two lines: the model and the text."""
        c = self.config
        return (
            f"{c.layers} layers, {c.heads} heads, width {c.width}, block {c.block}: "
            f"{short(c.model.parameters)} parameters, {c.dtype} on {self._place()}\n"
            f"{self.corpus.name}: {short(len(self.corpus.train))}B to train on, "
            f"{short(len(self.corpus.validation))}B to validate with"
        )

    def headline(self) -> str:
        """The latest validation loss, for the progress line."""
        return f"val {format(self.history[-1]['validation_loss'], '.3f') if self.history else '  -  '}"

    def summary(self) -> str:
        """How the run ended."""
        return f"validation loss {self.validation_loss:.4f} nats/byte (best {self.best:.4f})"
