"""Optimizers and learning-rate schedules."""

from tensorlib.optim import lr_scheduler
from tensorlib.optim.adam import Adam, AdamW
from tensorlib.optim.optimizer import Optimizer
from tensorlib.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "lr_scheduler"]
