"""The main job, `tensorlib train gpt`: a transformer trained on real text, stopped and resumed without a trace."""

from __future__ import annotations

from tensorlib.train.checkpoint import Checkpoint
from tensorlib.train.config import TrainConfig
from tensorlib.train.gpt import GPT, GPTConfig
from tensorlib.train.loop import Run
from tensorlib.train.sample import generate
from tensorlib.train.text import Corpus

__all__ = ["GPT", "Checkpoint", "Corpus", "GPTConfig", "Run", "TrainConfig", "generate"]
