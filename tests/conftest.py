"""What holds for every test: undefined memory is poisoned, and the options of the operator checks."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tensorlib import _array

settings.register_profile("tensorlib", deadline=None, derandomize=True, print_blob=False)
settings.load_profile("tensorlib")


def pytest_configure(config: pytest.Config) -> None:
    """Unless GPU tests are asked for (-m gpu), no test sees a GPU of this machine: the rest is about the others."""
    if "gpu" not in (config.getoption("-m") or ""):
        for variable in ("TENSORLIB_CUDA_DRIVER", "TENSORLIB_HIP_DRIVER"):
            os.environ[variable] = os.devnull


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full-targets",
        action="store_true",
        help="compile each operator for every target with every dtype, not for a few in turn (slow)",
    )


@pytest.fixture(autouse=True)
def poison() -> Iterator[None]:
    """``empty`` is full of NaN and large odd integers, so that what nobody wrote is noticed."""
    before = _array.poison(True)
    yield
    _array.poison(before)
