"""Programs written for PyTorch, run with only the module changed: their losses follow PyTorch's."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy
import pytest

import tensorlib
import tensorlib.nn.functional

HERE = Path(__file__).parent
EXPECTED = json.loads((HERE / "expected.json").read_text())


@pytest.fixture
def models(monkeypatch):
    """models.py with ``torch`` meaning tensorlib."""
    names = {"torch": tensorlib, "torch.nn": tensorlib.nn, "torch.nn.functional": tensorlib.nn.functional,
             "torch.nn.utils.rnn": tensorlib.nn.utils.rnn}  # fmt: skip
    for name, module in names.items():
        monkeypatch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location("models_on_tensorlib", HERE / "models.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["lenet", "gpt2", "gpt2-flash", "char-lstm"])
def test_losses_follow_pytorch(models, name):
    losses = models.train(name, numpy)
    assert losses == pytest.approx(EXPECTED[name], rel=1e-4)
    assert losses[-1] < losses[0]
