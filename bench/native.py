"""Kernels as machine code of the processor (device "native") beside NumPy and, where it is installed, PyTorch's CPU.

    python bench/native.py [--threads 2] [--only NAME] [--seconds S] [--interpreter] [--json FILE]

Each column in a process of its own (in one, the threads of one library would wait for work on the processors that the
other one is using), by turns; medians in milliseconds with one thread and with --threads. NumPy is tensorlib's device
"cpu" without its native engine. The operators are the library's own, through their public functions; `rotary` and
`int8 matmul` are kernels as a user would write them. The ratio is native's time over PyTorch's, both with all threads:
below 1 is faster. --interpreter runs each kernel once in Triton's interpreter, which takes minutes.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--only", default="", help="rows whose name contains this")
parser.add_argument("--seconds", type=float, default=0.7, help="measuring time of each number")
parser.add_argument("--best", action="store_true", help="the least time instead of the median: on a machine in use")
parser.add_argument("--interpreter", action="store_true")
parser.add_argument("--json", type=Path)
parser.add_argument("--serve", help=argparse.SUPPRESS)  # the column that a process of the measurement is
args = parser.parse_args()
for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(name, str(args.threads))

import numpy as np  # noqa: E402
import triton.language as tl  # noqa: E402

import tensorlib  # noqa: E402
from tensorlib.runtime.compiler import jit  # noqa: E402
from tensorlib.runtime.launch import cdiv, launch  # noqa: E402
from tensorlib.runtime.native import codegen  # noqa: E402
from tensorlib.runtime.versions import installed  # noqa: E402

if tensorlib.backends.native.is_available():
    tensorlib.backends.native.enabled = False  # NumPy's column is NumPy's

Run = Callable[[], Any]
_TURN = 0.03  # seconds of calls at a time, after half as long unmeasured
_COLUMNS = {  # module, device, threads
    "NumPy": ("tensorlib", "cpu", args.threads), "native 1T": ("tensorlib", "native", 1),
    f"native {args.threads}T": ("tensorlib", "native", args.threads),
    "torch 1T": ("torch", "cpu", 1), f"torch {args.threads}T": ("torch", "cpu", args.threads),
}  # fmt: skip


# -- kernels that are no operator of the library ----------------------------------------------------------------------


# One program owns BLOCK_T positions of one head of x (H, T, D): reads and writes them once, the tables once.
# Su et al. 2021, RoFormer, eq. 34; the halves as in GPT-NeoX.
@jit
def rotary_kernel(out, x, cos, sin, T, D: tl.constexpr, BLOCK_T: tl.constexpr):
    t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    d = tl.arange(0, D // 2)
    inside = (t < T)[:, None]
    at = tl.program_id(1) * T * D + t[:, None] * D + d[None, :]
    angle = t[:, None] * (D // 2) + d[None, :]
    a = tl.load(x + at, mask=inside)
    b = tl.load(x + at + D // 2, mask=inside)
    c = tl.load(cos + angle, mask=inside)
    s = tl.load(sin + angle, mask=inside)
    tl.store(out + at, a * c - b * s, mask=inside)
    tl.store(out + at + D // 2, b * c + a * s, mask=inside)


# One program owns a block of c (M, N) = a (M, K) @ b (K, N), int8 into int32; sizes are multiples of the blocks.
@jit
def int8_kernel(c, a, b, N, K, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.int32)
    for start in range(0, K, BLOCK_K):
        x = tl.load(a + m[:, None] * K + start + k[None, :])
        y = tl.load(b + (start + k)[:, None] * N + n[None, :])
        total = tl.dot(x, y, total)
    tl.store(c + m[:, None] * N + n[None, :], total)


# One program owns all of out, x, y.
@jit
def small_add_kernel(out, x, y, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i) + tl.load(y + i))


# -- rows --------------------------------------------------------------------------------------------------------------


class Library:
    """A library on a device: the same rows for all."""

    def __init__(self, module: Any, where: str) -> None:
        self.T, self.where = module, where
        self.F = module.nn.functional

    @property
    def kernels(self) -> bool:
        """Whether kernels can be launched there."""
        return self.where in ("native", "interpret")

    def tensor(self, *shape: int, seed: int = 0, grad: bool = False) -> Any:
        """Normal float32 numbers."""
        x = np.random.default_rng(seed).standard_normal(shape, np.float32)
        return self.on(x).requires_grad_(grad)

    def on(self, x: np.ndarray) -> Any:
        """An array of NumPy's on the device."""
        return self.T.from_numpy(x).to(self.where)

    def both_ways(self, f: Callable[..., Any], *tensors: Any) -> Run:
        """Forward and backward of f."""
        seed = self.T.ones_like(f(*tensors).detach())

        def run() -> None:
            for t in tensors:
                t.grad = None
            f(*tensors).backward(seed)

        return run


def gelu(lib: Library) -> Run:
    x = lib.tensor(4 << 20)
    return lambda: lib.F.gelu(x)


def add(lib: Library) -> Run:
    x, y = lib.tensor(16 << 20), lib.tensor(16 << 20, seed=1)
    return lambda: x + y


def adamw(lib: Library) -> Run:
    p = lib.tensor(4 << 20, grad=True)
    p.grad = lib.tensor(4 << 20, seed=1)
    return lib.T.optim.AdamW([p], lr=1e-3, fused=True).step


def softmax(lib: Library) -> Run:
    x = lib.tensor(4096, 1024)
    return lambda: lib.F.softmax(x, -1)


def softmax_both(lib: Library) -> Run:
    return lib.both_ways(lambda x: lib.F.softmax(x, -1), lib.tensor(4096, 1024, grad=True))


def layer_norm(lib: Library) -> Run:
    x, w, b = lib.tensor(4096, 1024), lib.tensor(1024), lib.tensor(1024, seed=1)
    return lambda: lib.F.layer_norm(x, (1024,), w, b)


def layer_norm_both(lib: Library) -> Run:
    x, w, b = lib.tensor(4096, 1024, grad=True), lib.tensor(1024, grad=True), lib.tensor(1024, seed=1, grad=True)
    return lib.both_ways(lambda x, w, b: lib.F.layer_norm(x, (1024,), w, b), x, w, b)


def rms_norm(lib: Library) -> Run:
    x, w = lib.tensor(4096, 1024), lib.tensor(1024)
    return lambda: lib.F.rms_norm(x, (1024,), w)


def rms_norm_both(lib: Library) -> Run:
    x, w = lib.tensor(4096, 1024, grad=True), lib.tensor(1024, grad=True)
    return lib.both_ways(lambda x, w: lib.F.rms_norm(x, (1024,), w), x, w)


def cross_entropy(lib: Library) -> Run:
    x = lib.tensor(1024, 8192, grad=True)
    y = lib.on(np.random.default_rng(0).integers(0, 8192, 1024))
    return lib.both_ways(lambda x: lib.F.cross_entropy(x, y), x)


def matmul(lib: Library) -> Run:
    x, y = lib.tensor(1024, 1024), lib.tensor(1024, 1024, seed=1)
    return lambda: x @ y


def attention(lib: Library) -> Run:
    q, k, v = (lib.tensor(1, 8, 1024, 64, seed=i) for i in range(3))
    return lambda: lib.F.scaled_dot_product_attention(q, k, v, is_causal=True)


def attention_both(lib: Library) -> Run:
    q, k, v = (lib.tensor(1, 8, 1024, 64, seed=i, grad=True) for i in range(3))
    return lib.both_ways(lambda q, k, v: lib.F.scaled_dot_product_attention(q, k, v, is_causal=True), q, k, v)


def rotary(lib: Library) -> Run:
    H, L, D = 32, 1024, 64
    x = lib.tensor(H, L, D)
    angle = np.arange(L)[:, None] * 10000.0 ** (-np.arange(0, D, 2) / D)
    cos, sin = (lib.on(f(angle).astype(np.float32)) for f in (np.cos, np.sin))
    if lib.kernels:
        out = lib.T.empty_like(x)
        return lambda: launch(rotary_kernel, (cdiv(L, 32), H), *map(array, (out, x, cos, sin)), L, D=D, BLOCK_T=32)

    def run() -> Any:
        a, b = x[..., : D // 2], x[..., D // 2 :]
        return lib.T.cat([a * cos - b * sin, b * cos + a * sin], -1)

    return run


def embedding(lib: Library) -> Run:
    table = lib.tensor(8192, 256, grad=True)
    ids = lib.on(np.random.default_rng(0).integers(0, 8192, 16384))
    return lib.both_ways(lambda w: lib.F.embedding(ids, w), table)


def histogram(lib: Library) -> Run:
    x = lib.on(np.random.default_rng(0).integers(0, 256, 1 << 20))
    return lambda: lib.T.bincount(x, minlength=256)


def int8_matmul(lib: Library) -> Run:
    n = 1024
    a, b = (np.random.default_rng(i).integers(-128, 128, (n, n)).astype(np.int8) for i in range(2))
    if lib.T is not tensorlib:
        x, y = lib.on(a), lib.on(b)
        return lambda: lib.T._int_mm(x, y)
    if not lib.kernels:  # exact: 1024 products of at most 2^14
        return lambda: (a.astype(np.float32) @ b.astype(np.float32)).astype(np.int32)
    x, y, out = lib.on(a), lib.on(b), lib.T.empty(n, n, dtype=lib.T.int32, device=lib.where)
    blocks = {"BLOCK_M": 512, "BLOCK_N": 128, "BLOCK_K": 512}
    return lambda: launch(int8_kernel, (n // 512, n // 128), *map(array, (out, x, y)), n, n, **blocks)


def small_add(lib: Library) -> Run:
    x, y, out = lib.tensor(1024), lib.tensor(1024, seed=1), lib.tensor(1024, seed=2)
    if lib.kernels:
        arrays = (*map(array, (out, x, y)),)
        return lambda: launch(small_add_kernel, 1, *arrays, BLOCK=1024)
    return lambda: lib.T.add(x, y, out=out)


ROWS: dict[str, Callable[[Library], Run]] = {
    "GELU (erf) 4M": gelu,
    "AdamW 4M, fused": adamw,
    "add 16M": add,
    "softmax 4096×1024": softmax,
    "softmax 4096×1024, both ways": softmax_both,
    "layer norm 4096×1024": layer_norm,
    "layer norm 4096×1024, both ways": layer_norm_both,
    "RMSNorm 4096×1024": rms_norm,
    "RMSNorm 4096×1024, both ways": rms_norm_both,
    "cross-entropy 1024×8192, both ways": cross_entropy,
    "matmul 1024": matmul,
    "attention causal 8×1024×64": attention,
    "attention causal 8×1024×64, both ways": attention_both,
    "rotary 32×1024×64": rotary,
    "embedding 16384 of 8192×256, both ways": embedding,
    "histogram 1M": histogram,
    "int8 matmul 1024": int8_matmul,
    "add 1024: what a launch costs": small_add,
}


# -- measuring ---------------------------------------------------------------------------------------------------------


def array(t: Any) -> Any:
    """The device array in a tensor."""
    return t._array


def serve(column: str) -> None:
    """A process of the measurement: milliseconds of each row that is asked for, a line each."""
    name, where, count = _COLUMNS[column]
    module = importlib.import_module(name)
    module.set_num_threads(count)
    lib = Library(module, where)

    @functools.cache
    def entry(title: str) -> tuple[Run, int]:
        run = ROWS[title](lib)
        for _ in range(5):  # code is compiled, plans are made
            run()
        start = time.perf_counter()
        run()
        return run, max(1, int(_TURN / max(time.perf_counter() - start, 1e-7)))

    print(module.__version__, flush=True)
    for line in sys.stdin:
        run, loops = entry(line.rstrip("\n"))
        ready = time.perf_counter() + _TURN / 2
        while time.perf_counter() < ready:  # threads and processors slept, caches hold another process's numbers
            run()
        start = time.perf_counter()
        for _ in range(loops):
            run()
        print((time.perf_counter() - start) / loops * 1e3, flush=True)


class Peer:
    """One column's process."""

    def __init__(self, column: str) -> None:
        command = [sys.executable, *("-W" + w for w in sys.warnoptions), __file__, "--threads", str(args.threads)]
        environment = dict(os.environ, OMP_NUM_THREADS=str(_COLUMNS[column][2]))
        environment["OPENBLAS_NUM_THREADS"] = environment["OMP_NUM_THREADS"]
        environment["OPENBLAS_THREAD_TIMEOUT"] = "4"  # else NumPy's threads spin on while the next column is measured
        self.process = subprocess.Popen(
            [*command, "--serve", column], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.version = self._line()

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"the process of one column has ended: {' '.join(map(str, self.process.args))}")  # type: ignore[arg-type]
        return line.rstrip("\n")

    def turn(self, title: str) -> float:
        """Milliseconds of a row."""
        assert self.process.stdin is not None
        print(title, file=self.process.stdin, flush=True)
        return float(self._line())


def measure(title: str, peers: dict[str, Peer]) -> dict[str, float]:
    """Milliseconds of a row in each column, in turns: the median, or the least."""
    times: dict[str, list[float]] = {column: [] for column in peers}
    for peer in peers.values():
        peer.turn(title)
    stop = time.perf_counter() + args.seconds * len(peers)
    while time.perf_counter() < stop or len(next(iter(times.values()))) < 3:
        for column, peer in peers.items():
            times[column].append(peer.turn(title))
    return {column: (min if args.best else median)(t) for column, t in times.items()}


def once(make: Callable[[Library], Run], lib: Library) -> float:
    """Milliseconds of one run."""
    run = make(lib)
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3


def versions(of: dict[str, str]) -> dict[str, Any]:
    """What was measured, and on what; ``of``: the libraries' versions."""
    cpu = platform.processor()
    if sys.platform == "linux":
        cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if "model name" in line), cpu)
    triton = installed()
    return {
        "date": time.strftime("%Y-%m-%d"), "cpu": cpu, "cores": os.cpu_count(), "threads": args.threads,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(), "numpy": np.__version__, "tensorlib": tensorlib.__version__,
        "triton": triton.version if triton else None, "compiler": codegen.version(),
        "torch": of.get("torch"),
    }  # fmt: skip


def main() -> None:
    n = args.threads
    columns = [c for c, (name, _, _) in _COLUMNS.items() if importlib.util.find_spec(name)]
    peers = {column: Peer(column) for column in columns}
    report = versions({_COLUMNS[column][0]: peer.version for column, peer in peers.items()})
    print(", ".join(f"{k} {v}" for k, v in report.items()))
    ratio = f"torch {n}T" in peers
    columns += ["interpreter"] if args.interpreter else []
    print(f"{'ms':42}" + "".join(f"{c:>13}" for c in columns) + ("   native/torch" if ratio else ""))
    report["rows"] = {}
    for title, make in ROWS.items():
        if args.only not in title:
            continue
        found = measure(title, peers)
        if args.interpreter:
            found["interpreter"] = once(make, Library(tensorlib, "interpret"))
        line = f"{title:42}" + "".join(f"{found[c]:13.{2 if found[c] > 0.1 else 4}f}" for c in columns)
        if ratio:
            found["ratio"] = found[f"native {n}T"] / found[f"torch {n}T"]
            line += f"{found['ratio']:15.2f}"
        print(line, flush=True)
        report["rows"][title] = found
    if args.json:
        args.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    serve(args.serve) if args.serve else main()
