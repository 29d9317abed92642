"""Programs written for PyTorch, run with only the module changed: their losses follow PyTorch's."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy
import pytest

import tensorlib
import tensorlib.nn.modules.utils

HERE = Path(__file__).parent
EXPECTED = json.loads((HERE / "expected.json").read_text())


def module_named(name):
    """tensorlib's module or object of a name that a program imports from torch."""
    found = tensorlib
    for part in name.split(".")[1:]:
        found = getattr(found, part)
    return found


NAMES = (
    "torch", "torch.nn", "torch.nn.functional", "torch.nn.modules", "torch.nn.modules.utils", "torch.autograd",
    "torch.backends", "torch.backends.cudnn", "torch.distributions", "torch.distributions.categorical", "torch.optim",
    "torch.optim.lr_scheduler", "torch.utils", "torch.utils.data", "torch.nn.utils", "torch.nn.utils.rnn",
)  # fmt: skip


def program(monkeypatch, file):
    """A file of this folder with ``torch`` meaning tensorlib."""
    for name in NAMES:
        monkeypatch.setitem(sys.modules, name, module_named(name))
    monkeypatch.setattr(tensorlib.backends.cudnn, "benchmark", False)  # a program may set it, for itself alone
    spec = importlib.util.spec_from_file_location(f"{file}_on_tensorlib", HERE / f"{file}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["lenet", "gpt2", "gpt2-flash", "char-lstm"])
def test_losses_follow_pytorch(monkeypatch, name):
    losses = program(monkeypatch, "models").train(name, numpy)
    assert losses == pytest.approx(EXPECTED[name], rel=1e-4)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", ["vae", "gan", "ppo", "seq2seq"])
def test_classics_follow_pytorch(monkeypatch, name):
    losses = program(monkeypatch, "classics").train(name, numpy)
    assert losses == pytest.approx(EXPECTED[name], rel=1e-4, abs=1e-5)
