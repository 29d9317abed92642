"""Every declared operator on the GPU, held to the CPU: the calls are derived from the declarations."""

from __future__ import annotations

import warnings

import pytest

from tensorlib.op import declared
from tensorlib.testing.on_device import device_checks, names

CASES = {
    "test_operator": lambda: [
        f"{made.name}-{name}" for made in declared() if made.__module__.startswith("tensorlib.") for name in names(made)
    ]
}


@pytest.mark.filterwarnings("ignore:kl_div. reduction 'mean' divides")
def test_operator(case):
    operator, _, name = case.rpartition("-")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # an out= that is resized, and so on
        next(c for c in device_checks(operator, "cuda") if c.name == name)()
