"""A kernel that reads where nothing is: the GPU is lost to its process, and the error says by which operator."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent

PROGRAM = """
from __future__ import annotations
import contextlib, importlib, os, sys
sys.path[:0] = [{tests!r}, {root!r}]
kind = os.environ.get("TENSORLIB_TEST_SIMULATED")
machine = importlib.import_module("simulated").simulated(kind, strict=False) if kind else contextlib.nullcontext()
import numpy as np
import tensorlib as T
from tensorlib.op import FLOATS, Array, draw, jit, launch, op

@jit
def wild_kernel(out, x, far):
    tl.store(out, tl.load(x + far))

def wild_host(out, x):
    launch(wild_kernel, 1, out, x, 1 << 45)

@op(spec=lambda x: (x.shape, x.dtype), kernel=wild_host, promote=FLOATS, samples=[draw((4,))])
def wildly_wrong(input: Array):
    "Reads a petabyte too far, to see what the error says."
    return input

def work():
    x = T.ones(4, device="cuda")
    assert (x + 1).tolist() == [2.0] * 4
    try:
        wildly_wrong(x)
        T.cuda.synchronize()
    except Exception as error:
        print("FIRST", type(error).__name__, str(error), *getattr(error, "__notes__", ()))
    else:
        print("NO ERROR")
    try:
        (x + 2).tolist()
    except Exception as error:
        print("THEN", type(error).__name__, str(error))
    else:
        print("STILL USABLE")

with machine:
    work()
print("END")
"""


def run(**environment):
    program = PROGRAM.format(tests=str(HERE.parent), root=str(HERE.parents[1]))
    (folder := Path(os.environ.get("PYTEST_TMP", "/tmp")) / f"tensorlib-gpu-errors-{os.getpid()}").mkdir(exist_ok=True)
    path = folder / "program.py"  # kernels are read from their source, which `-c` has none of
    path.write_text(program)
    try:
        done = subprocess.run(
            [sys.executable, str(path)], capture_output=True, text=True, timeout=120, env={**os.environ, **environment}
        )
    finally:
        path.unlink()
        folder.rmdir()
    print(done.stdout, done.stderr)
    return done


def test_an_illegal_address_names_the_operator():
    out = run().stdout
    assert "FIRST" in out and "wild" in out.partition("THEN")[0], out
    assert "wildly_wrong" in out.partition("THEN")[0], out
    assert "THEN" in out and "STILL USABLE" not in out


def test_blocking_launches_name_it_at_once():
    out = run(TENSORLIB_LAUNCH_BLOCKING="1").stdout
    assert "wildly_wrong" in out.partition("THEN")[0], out


def test_this_process_is_none_the_worse():
    import tensorlib as T

    assert T.ones(3, device="cuda").sum().item() == 3
