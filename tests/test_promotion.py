"""The dtype of arithmetic and comparison on every pair of operands, as PyTorch has it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import tensorlib
from tensorlib._core import wrap

EXPECTED = Path(__file__).parent / "expected"
sys.path.insert(0, str(EXPECTED))
from promotion_cases import OPERATORS, operand, pairs  # noqa: E402

sys.path.remove(str(EXPECTED))
TABLE = json.loads((EXPECTED / "promotion.json").read_text())["table"]


def dtype_of(name: str, left: str, right: str) -> str:
    given = [wrap(x) if isinstance(x, np.ndarray) else x for x in (operand(left), operand(right))]
    try:
        return getattr(tensorlib, name)(*given).dtype.name
    except (RuntimeError, TypeError):
        return "error"


@pytest.mark.parametrize("name", OPERATORS)
def test_result_dtype(name: str) -> None:
    expected = TABLE[name]
    assert set(expected) == {f"{a} {b}" for a, b in pairs()}
    wrong = {}
    for left, right in pairs():
        # A number before a tensor is for the operators of Python alone in PyTorch; here the function takes it too.
        want = expected[f"{left} {right}"]
        got = dtype_of(name, left, right)
        if got != want and not (want == "error" and not _is_tensor(left)):
            wrong[f"{left} {right}"] = (got, want)
    assert not wrong, f"{len(wrong)} of {len(expected)} differ (ours, PyTorch's): {dict(list(wrong.items())[:10])}"


def _is_tensor(name: str) -> bool:
    return isinstance(operand(name), np.ndarray)
