"""Trade time for memory: run a function again in backward instead of keeping what it computed."""

from tensorlib.autograd.saved import checkpoint, checkpoint_sequential

__all__ = ["checkpoint", "checkpoint_sequential"]
