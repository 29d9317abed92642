"""Every declared operator through every check that its declaration gives, and what holds of all of them together."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import tensorlib
from tensorlib._device import TARGETS
from tensorlib.op import SPACES, Op, declared, names_in
from tensorlib.runtime import abi, compiler
from tensorlib.testing import Check, checks, kernels

ROOT = Path(__file__).parents[1]
EXPECTED = ROOT / "tests" / "expected"
sys.path.insert(0, str(EXPECTED))
from names import NOT_IN_TORCH, WITHOUT  # noqa: E402

sys.path.remove(str(EXPECTED))

# Plugins and other tests may have declared more by the time this runs.
LIBRARY = [made for made in declared() if made.__module__.startswith("tensorlib.")]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "check" in metafunc.fixturenames:
        targets = "all" if metafunc.config.getoption("--full-targets") else "turn"
        found = []
        for made in LIBRARY:
            values = None if made.name in NOT_IN_TORCH else EXPECTED
            found.extend(checks(made, values=values, targets=targets))
        metafunc.parametrize("check", found, ids=repr)


@pytest.mark.filterwarnings("ignore:kl_div. reduction 'mean' divides")
def test_operator(check: Check) -> None:
    check()


def test_every_kernel_is_reached() -> None:
    """Each Triton function of the library is run in the interpreter or compiled by some operator's checks."""
    missing = kernels.unreached([m for m in LIBRARY if isinstance(m, Op)], ("tensorlib.kernels", "tensorlib.ops"))
    elsewhere = {
        "random.draws_kernel",  # a graph's: tests/cuda
        "matmul.matmul_descriptor_kernel",  # what `tensorlib tune` may choose: tests/ops/test_matmul.py
    }
    missing = [name for name in missing if name.removeprefix("tensorlib.kernels.") not in elsewhere]
    assert not missing, f"no sample of any operator launches {', '.join(missing)}: declare one that does"


@pytest.mark.parametrize("target", TARGETS)
def test_every_kernel_is_compiled_for_every_target(target: str) -> None:
    """The operators' checks compile for a few targets each, in turn: what none of them compiles for this one."""
    for request in kernels.left_out([m for m in LIBRARY if isinstance(m, Op)], target):
        abi.check(compiler.compile_kernel(*request))


def test_stored_values_belong_to_operators() -> None:
    """No file of an operator that is gone; no excuse for one that is not there."""
    names = {made.name for made in LIBRARY}
    assert not {p.stem for p in EXPECTED.glob("*.npz")} - names
    assert not set(NOT_IN_TORCH) - names


def test_every_public_operator_is_compared() -> None:
    """With stored values, or with a reason why not; and no reason is kept for what is gone."""
    compared = {p.stem for p in EXPECTED.glob("*.npz")}
    public = {made.name for made in LIBRARY if made.where}
    assert not public - compared - set(WITHOUT) - set(NOT_IN_TORCH)
    assert not set(WITHOUT) - public


@pytest.mark.parametrize("made", [m for m in LIBRARY if m.where], ids=lambda m: m.name)
def test_is_where_it_says(made: Op) -> None:
    """Public names are found where the declaration puts them, aliases too."""
    for name in names_in(made, "method"):
        assert hasattr(tensorlib.Tensor, name)
        assert not made.inplace or hasattr(tensorlib.Tensor, f"{name}_")
    homes = {"function": tensorlib, "functional": tensorlib.nn.functional, "linalg": tensorlib.linalg,
             "fft": tensorlib.fft, "special": tensorlib.special}  # fmt: skip
    for space, home in homes.items():
        for name in names_in(made, space):
            assert getattr(home, name) is made.public


def test_stubs_and_table_of_operators_are_current() -> None:
    """What tools/generate.py writes from the declarations is what is there."""
    done = subprocess.run([sys.executable, ROOT / "tools" / "generate.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    table = (ROOT / "docs" / "operators.md").read_text()
    for made in (made for made in LIBRARY if made.where):
        names = [made.name] if made.name[0] != "_" else [n for space in SPACES for n in names_in(made, space)]
        if all(name.startswith("_") for name in names):  # PyTorch has some too
            continue
        assert any(f"`{n}`" in table for n in names), made.name
    assert "\n| `_" not in table
