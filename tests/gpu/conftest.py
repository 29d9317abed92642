"""What the GPU tests share: whether there is a GPU, what becomes of tests after one has lost its context, and workers.

`pytest -m gpu` runs them in one process; `python tests/gpu/run.py` in several, with a summary. Without a GPU each file
has skipped tests that say why. After an error that loses the GPU's context (an illegal address, say) nothing more can
run in that process: the tests that follow are reported as not run, and run.py runs them in a fresh process.

TENSORLIB_TEST_SIMULATED=cuda (or hip) runs them on the simulated driver, at small sizes.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tensorlib import _array
from tensorlib.errors import TensorlibError
from tensorlib.runtime import gpu
from tensorlib.runtime.driver import OutOfDeviceMemory

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "nn"))  # layer_cases
sys.path.insert(0, str(HERE.parent))  # simulated
sys.path.insert(0, str(HERE.parents[1] / "bench"))  # gpt2

SIMULATED = os.environ.get("TENSORLIB_TEST_SIMULATED", "")
#: "read,write": file descriptors by which run.py says what to run and hears what came of it.
CHANNEL = os.environ.get("TENSORLIB_TEST_CHANNEL", "")
#: The files in order of what they depend on: a GPU that cannot copy cannot be trusted with an operator.
ORDER = ("driver", "launch", "memory", "graphs", "operators", "large", "layers", "training", "errors")

_lost: list[str] = []  # the test that lost the context
_simulations: list[Any] = []  # the simulated driver, if that is what is tested


class Channel:
    """JSON lines to and from run.py."""

    def __init__(self, read: int, write: int) -> None:
        self.requests = os.fdopen(read, "r")
        self._out = os.fdopen(write, "w", buffering=1)

    def say(self, **message: Any) -> None:
        self._out.write(json.dumps(message) + "\n")
        self._out.flush()


_channel = Channel(*map(int, CHANNEL.split(","))) if CHANNEL else None


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gpu: needs a GPU; run with -m gpu on a machine that has one")
    if SIMULATED:
        context = importlib.import_module("simulated").simulated(SIMULATED, devices=2, blocks=False)
        _simulations.append(context.__enter__())
        config.add_cleanup(lambda: context.__exit__(None, None, None))


def _file(path: Path) -> str:
    return path.stem.removeprefix("test_gpu_")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mine = [item for item in items if HERE in item.path.parents]
    places = [i for i, item in enumerate(items) if HERE in item.path.parents]
    for item in mine:
        item.add_marker(pytest.mark.gpu)
        # Warnings of a newer NumPy or Triton than ours are not what is tested here.
        item.add_marker(pytest.mark.filterwarnings("default"))
        if gpu.kind() is None:
            item.add_marker(pytest.mark.skip(reason=f"no GPU can be used here: {' '.join(gpu.why_not())}"))
    mine.sort(key=lambda item: ORDER.index(_file(item.path)))
    for at, item in zip(places, mine, strict=True):
        items[at] = item


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Thousands of cases are worth collecting only where they can run."""
    cases = getattr(metafunc.module, "CASES", {}).get(metafunc.function.__name__)
    if cases is not None:
        found = cases() if gpu.kind() is not None else []
        metafunc.parametrize("case", found or [pytest.param(None, id="all")], ids=str)


@pytest.fixture(autouse=True)
def poison() -> Iterator[None]:
    """``empty`` is full of NaN and large odd integers, so that what nobody wrote is noticed."""
    before = _array.poison(True)
    yield
    _array.poison(before)


@pytest.fixture
def engine() -> gpu.GPU:
    """The first GPU."""
    return gpu.gpu(gpu.Device("cuda", 0))


@pytest.fixture
def small() -> bool:
    """Whether sizes are to be small: kernels are interpreted."""
    return bool(SIMULATED)


def lost() -> str:
    """Why the GPUs this process has used can no longer be used; "" where they can."""
    for used in gpu.used():
        try:
            used.activate()
            if used.local.capture is None:
                used.driver.synchronize()
            used.driver.memory_info()
        except OutOfDeviceMemory:
            continue
        except TensorlibError as error:
            return str(error)
    return ""


def pytest_runtest_setup(item: pytest.Item) -> None:
    if _lost and HERE in item.path.parents:
        pytest.skip(f"not run: the GPU's context was lost in {_lost[0]}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Any:
    report = yield
    if report.failed and not _lost and HERE in item.path.parents and gpu.kind() is not None:
        why = lost()
        if why:
            _lost.append(item.nodeid)
            why += "".join(f"\n{error!r}" for simulation in _simulations for error in simulation.exceptions)
            report.sections.append(("the GPU's context is lost", why))
    return report


# ------------------------------------------------------------------------------------------------------------- workers


def group_of(item: pytest.Item) -> str:
    """What is run together, in one process: an operator's checks, a file's tests."""
    file = _file(item.path)
    case = getattr(item, "callspec", None)
    name = str(case.params.get("case", "")) if case is not None else ""
    return f"{file}:{name.split('-')[0]}" if name and file not in ("driver", "launch", "memory", "graphs") else file


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """In a worker: run the groups that run.py asks for, until it asks for no more."""
    if _channel is None:
        return None
    if session.testsfailed:
        raise session.Interrupted(f"{session.testsfailed} errors while collecting")
    groups: dict[str, list[pytest.Item]] = {}
    for item in session.items:
        groups.setdefault(group_of(item), []).append(item)
    described = gpu.gpu(gpu.Device("cuda", 0)) if gpu.kind() is not None else None
    _channel.say(
        groups={name: [item.nodeid for item in items] for name, items in groups.items()},
        gpu=described.properties.name if described is not None else None,
        why_not=gpu.why_not(),
    )
    for line in _channel.requests:
        request = json.loads(line)
        for item in groups[request["group"]]:
            if item.nodeid not in request["skip"]:
                _channel.say(start=item.nodeid)
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
            if _lost:
                _channel.say(lost=_lost[0])
                os._exit(0)  # the driver's own clean-up may hang in a lost context
        _channel.say(done=request["group"])
    return True


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if _channel is None or (report.when != "call" and report.passed):
        return
    text = report.longreprtext if report.failed else str(report.longrepr[2]) if report.skipped else ""  # type: ignore[index]
    for title, section in report.sections if report.failed else ():
        text += f"\n-- {title} --\n{section[-2000:]}"
    _channel.say(end=report.nodeid, outcome=report.outcome, seconds=round(report.duration, 3), text=text[-6000:])
