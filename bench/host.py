"""What Python costs for work on a GPU: one launch, and whole operators with and without a gradient. No GPU is needed.

    PYTHONPATH=. python bench/host.py [--json FILE] [--seconds S]

The driver is the tests' simulated one, and its launch is replaced with a C function that returns at once: these are
microseconds of the host between a call and the driver, and say nothing of a GPU. The least of many short measurements
is printed, which a busy machine disturbs least. Beside a launch stands what Triton's own ``kernel[grid](...)`` does in
Python (``JITFunction.run``, with a driver and a compiled kernel that do nothing); its launcher in C is not in it.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import triton.language as tl
from simulated import simulated

import tensorlib
from tensorlib import _array
from tensorlib.runtime import engine, gpu
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.launch import launch

F = tensorlib.nn.functional
NOTHING = "int nothing(const void *config, void *function, void **parameters, void **extra) { return 0; }\n"


@jit
def axpy(out, x, y, n, alpha, BLOCK: tl.constexpr):
    """out = x + alpha y: five arguments."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n) + alpha * tl.load(y + i, mask=i < n), mask=i < n)


def least(call: Callable[[], Any], seconds: float) -> float:
    """Microseconds of a call: the least mean of 100, within so much time."""
    for _ in range(5):
        call()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(100):
            call()
        best = min(best, time.perf_counter() - start)
    return best * 1e4


def silence(owner: gpu.GPU) -> None:
    """Give the driver a launch that does nothing: the simulated one would be measured otherwise."""
    folder = Path(tempfile.mkdtemp())
    (folder / "nothing.c").write_text(NOTHING)
    library = folder / "nothing.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", str(folder / "nothing.c"), "-o", str(library)], check=True)
    ffi = owner.driver.ffi
    address = ffi.cast("uintptr_t", _symbol(str(library)))
    kind = ffi.typeof(owner.driver.api.launch)
    owner.driver.api.launch = ffi.cast(kind, address)


def _symbol(path: str) -> int:
    import ctypes

    return ctypes.cast(ctypes.CDLL(path).nothing, ctypes.c_void_p).value or 0


def stock() -> Callable[..., Any] | None:
    """The same kernel by Triton's own jit, launched with ``kernel[grid]``; None where this Triton cannot be had so."""
    try:
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.runtime import driver

        active = SimpleNamespace(
            get_current_device=lambda: 0,
            get_current_stream=lambda device: 0,
            get_current_target=lambda: GPUTarget("cuda", 90, 32),
        )
        driver.set_active(active)
        kernel = triton.jit(axpy.fn)
        compiled = SimpleNamespace(
            launch_metadata=lambda *args: None, run=lambda *args: None, function=0, packed_metadata=()
        )

        def compile_nothing(key: Any, *_: Any, **__: Any) -> Any:
            kernel.device_caches[0][0][key] = compiled
            return compiled

        kernel._do_compile = compile_nothing
        return kernel  # type: ignore[no-any-return]
    except Exception as error:
        print(f"Triton's own launch is not measured: {type(error).__name__}: {error}", file=sys.stderr)
        return None


def measure(seconds: float) -> dict[str, float]:
    """Microseconds by what they are of."""
    found: dict[str, float] = {}

    def note(name: str, call: Callable[[], Any]) -> None:
        found[name] = round(least(call, seconds), 2)
        print(f"{name:48} {found[name]:8.2f}", flush=True)

    _array.poison(False)
    with simulated("cuda", launcher="none", lazy=False, record=False, blocks=False):
        a, b, c = (_array.empty((1000,), np.float32, tensorlib.device("cuda")) for _ in range(3))
        silence(a.device.engine)
        print(f"{'host time of':48} {'µs':>8}")
        note("a launch, 5 arguments", lambda: launch(axpy, (1,), a, b, c, 1000, 2.0, BLOCK=1024))
        if (theirs := stock()) is not None:
            for array in (a, b, c):
                assert hasattr(array, "data_ptr")
            note("  Triton's kernel[grid], its Python part", lambda: theirs[(1,)](a, b, c, 1000, 2.0, BLOCK=1024))
        note("memory: a block and back", lambda: a.device.engine.memory.allocate(4000, 0))
        x = tensorlib.ones(64, 64, device="cuda")
        w, bias = (tensorlib.ones(64, device="cuda", requires_grad=True) for _ in range(2))
        xr = tensorlib.ones(64, 64, device="cuda", requires_grad=True)
        w_, bias_ = w.detach(), bias.detach()
        calls: dict[str, Callable[[], Any]] = {
            "add": lambda: x + x,
            "add, with gradient": lambda: xr + x,
            "multiply by a number": lambda: x * 2.5,
            "matmul": lambda: x @ x,
            "matmul, with gradient": lambda: xr @ x,
            "softmax": lambda: tensorlib.softmax(x, -1),
            "softmax, with gradient": lambda: tensorlib.softmax(xr, -1),
            "layer_norm": lambda: F.layer_norm(x, (64,), w_, bias_),
            "layer_norm, with gradient": lambda: F.layer_norm(xr, (64,), w, bias),
            "sum": lambda: x.sum(),
            "add in place": lambda: x.add_(x),
            "dropout": lambda: F.dropout(x, 0.5),
            "(x * x).sum().backward()": lambda: (xr * xr).sum().backward(),
        }
        for name, call in calls.items():
            note(name, call)
        engine.planning[0] = False
        for name in ("add", "add, with gradient", "matmul", "layer_norm, with gradient"):
            note(f"{name}, without plans", calls[name])
        engine.planning[0] = True
    return found


def main() -> None:
    """Measure, print, and write the figures where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=0.5, help="measuring time per entry")
    args = parser.parse_args()
    found = measure(args.seconds)
    if args.json:
        about = {"python": platform.python_version(), "machine": platform.processor() or platform.machine()}
        args.json.write_text(json.dumps({"about": about, "microseconds": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
