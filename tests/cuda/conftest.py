"""Two simulated GPUs, of NVIDIA or AMD."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from simulated import Simulation, simulated


@pytest.fixture(params=["cuda", "hip"])
def sim(request: pytest.FixtureRequest) -> Iterator[Simulation]:
    """A machine with two GPUs of each vendor in turn; a broken rule of the driver fails the test."""
    with simulated(request.param, devices=2) as machine:
        yield machine


@pytest.fixture
def nvidia() -> Iterator[Simulation]:
    """A machine with two GPUs of NVIDIA."""
    with simulated("cuda", devices=2) as machine:
        yield machine
