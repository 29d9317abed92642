"""`tensorlib train`: models trained on real data, stopped and resumed without a trace."""

from __future__ import annotations

from tensorlib.train.checkpoint import Checkpoint
from tensorlib.train.config import RunConfig
from tensorlib.train.convnet import ConvNet, ConvNetConfig
from tensorlib.train.gpt import GPT, GPTConfig
from tensorlib.train.images import Images
from tensorlib.train.language import LanguageConfig, LanguageRun
from tensorlib.train.loop import Run
from tensorlib.train.sample import generate
from tensorlib.train.text import Corpus
from tensorlib.train.vision import VisionConfig, VisionRun

__all__ = ["GPT", "Checkpoint", "ConvNet", "ConvNetConfig", "Corpus", "GPTConfig", "Images", "LanguageConfig",
           "LanguageRun", "Run", "RunConfig", "VisionConfig", "VisionRun", "generate"]  # fmt: skip
