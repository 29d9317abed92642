"""Tensors print as PyTorch's do, to the character."""

import importlib.util
import json
from pathlib import Path

import pytest

import tensorlib

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("printing_cases", HERE / "printing_cases.py")
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
EXPECTED = json.loads((HERE / "printing.json").read_text())


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_as_pytorch(name):
    shown = repr(dict(_module.cases(tensorlib))[name])
    assert shown.replace("tensorlib.", "torch.") == EXPECTED[name]


def test_options():
    try:
        tensorlib.set_printoptions(precision=2, edgeitems=1, threshold=3)
        assert repr(tensorlib.tensor([1.234, 2.345, 3.456, 4.567])) == "tensor([1.23,  ..., 4.57])"
        tensorlib.set_printoptions(sci_mode=True)
        assert repr(tensorlib.tensor([1.0])) == "tensor([1.00e+00])"
        with pytest.raises(ValueError, match="unknown profile"):
            tensorlib.set_printoptions(profile="no")
    finally:
        tensorlib.set_printoptions(profile="default")
