"""tensorlib beside PyTorch on the CPU, each in a process of its own, by turns: training steps, operators, overhead.

    python bench/cpu.py [--threads N] [--json FILE] [--only NAME]

Needs torch installed beside (it is the peer, never a dependency). The same program runs under both modules; ratios are
tensorlib's median time over PyTorch's: below 1 is faster. Both with their default settings. In one process the threads
of one library would wait for work on the processors that the other one is using. The last column is the share of what
this machine was measured to do in the same run: copies for what moves bytes, products for what multiplies; what lies in
a cache passes 100%.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--json", type=Path)
parser.add_argument("--only", default="")
parser.add_argument("--seconds", type=float, default=2.0, help="measuring time per entry and library")
parser.add_argument("--serve", help=argparse.SUPPRESS)  # what a process of the measurement is told
args = parser.parse_args()
for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ[name] = str(args.threads)

import gpt2  # noqa: E402
import numpy as np  # noqa: E402

LIBRARIES = ("tensorlib", "torch")
_TURN = 0.02  # seconds of calls at a time


def mlp(T: Any) -> Callable[[], Any]:
    """784-512-512-10, batch 128, SGD with momentum."""
    nn = T.nn
    T.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    optimizer = T.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    rng = np.random.default_rng(0)
    x = T.from_numpy(rng.standard_normal((128, 784)).astype(np.float32))
    y = T.from_numpy(rng.integers(0, 10, 128))

    def step() -> Any:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step


def lenet(T: Any) -> Callable[[], Any]:
    """LeNet on 28 x 28, batch 64, Adam."""
    nn = T.nn
    T.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip
    optimizer = T.optim.Adam(model.parameters(), lr=1e-3)
    rng = np.random.default_rng(0)
    x = T.from_numpy(rng.standard_normal((64, 1, 28, 28)).astype(np.float32))
    y = T.from_numpy(rng.integers(0, 10, 64))

    def step() -> Any:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step


def gpt(T: Any) -> Callable[[], Any]:
    """A GPT-2-shaped model: 4 layers, width 128, 4 heads, length 64, batch 8, vocabulary 256, AdamW."""
    F = T.nn.functional
    T.manual_seed(0)
    length, batch, vocabulary = 64, 8, 256
    model = gpt2.gpt(T, gpt2.Shape(4, 128, 4, length, vocabulary))
    optimizer = T.optim.AdamW(model.parameters(), lr=1e-3)
    rng = np.random.default_rng(0)
    ids = T.from_numpy(rng.integers(0, vocabulary, (batch, length + 1)))
    x, y = ids[:, :-1], ids[:, 1:]

    def step() -> Any:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x).view(-1, vocabulary), y.reshape(-1))
        loss.backward()
        optimizer.step()
        return loss

    return step


def _tensor(T: Any, *shape: int, grad: bool = False, seed: int = 0) -> Any:
    t = T.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))
    return t.requires_grad_() if grad else t


def both_ways(T: Any, f: Callable[..., Any], *tensors: Any) -> Callable[[], Any]:
    """Forward and backward of f."""
    seed = T.ones_like(f(*tensors).detach())

    def run() -> None:
        for t in tensors:
            t.grad = None
        f(*tensors).backward(seed)

    return run


def operators(T: Any) -> dict[str, Callable[[], Any]]:
    F = T.nn.functional
    small, other = _tensor(T, 8), _tensor(T, 8, seed=1)
    wanted = _tensor(T, 8, grad=True)
    few, few_ids = _tensor(T, 4, 8), T.from_numpy(np.array([1, 2, 3, 0]))
    T.manual_seed(0)
    layer, tiny = T.nn.Linear(8, 8), T.nn.Sequential(T.nn.Linear(8, 8), T.nn.ReLU(), T.nn.Linear(8, 4))
    sgd = T.optim.SGD(tiny.parameters(), lr=0.01)

    def tiny_step() -> None:
        sgd.zero_grad()
        F.cross_entropy(tiny(few), few_ids).backward()
        sgd.step()

    row, square = _tensor(T, 4096, 1024), _tensor(T, 1024, 1024)
    x, w = _tensor(T, 512, 128, grad=True), _tensor(T, 512, 128, grad=True)
    scale, shift = _tensor(T, 1024, grad=True), _tensor(T, 1024, grad=True)
    tall = _tensor(T, 4096, 1024, grad=True)
    q, k, v = (_tensor(T, 8, 4, 64, 32, grad=True, seed=i) for i in range(3))
    image, kernel = _tensor(T, 64, 6, 14, 14, grad=True), _tensor(T, 16, 6, 5, 5, grad=True)
    photo, filters = _tensor(T, 8, 64, 56, 56, grad=True), _tensor(T, 64, 64, 3, 3, grad=True)
    deep, deep_filters = _tensor(T, 8, 256, 14, 14, grad=True), _tensor(T, 256, 256, 3, 3, grad=True)
    sheet, stem = _tensor(T, 8, 3, 112, 112, grad=True), _tensor(T, 64, 3, 7, 7, grad=True)
    each = _tensor(T, 64, 1, 3, 3, grad=True)
    few_weights, few_shifts = _tensor(T, 64, grad=True), _tensor(T, 64, grad=True)
    logits = _tensor(T, 512, 256, grad=True)
    target = T.from_numpy(np.random.default_rng(0).integers(0, 256, 512))
    ids = T.from_numpy(np.random.default_rng(0).integers(0, 256, (8, 64)))
    table = _tensor(T, 256, 128, grad=True)
    return {
        "overhead: add of 8": lambda: small + other,
        "overhead: mul of 8, recorded": lambda: wanted * other,
        "overhead: mul, sum, backward of 8": lambda: (wanted * other).sum().backward(),
        "overhead: view of 8": lambda: small.view(2, 4),
        "overhead: x[1:3]": lambda: small[1:3],
        "overhead: reshape of 4×8": lambda: few.reshape(-1),
        "overhead: permute of 4×8": lambda: few.permute(1, 0),
        "overhead: sum of 4×8": lambda: few.sum(),
        "overhead: cat of two 4×8": lambda: T.cat([few, few]),
        "overhead: softmax of 4×8": lambda: F.softmax(few, 1),
        "overhead: layer_norm of 4×8": lambda: F.layer_norm(few, (8,), small, small),
        "overhead: cross_entropy of 4×8": lambda: F.cross_entropy(few, few_ids),
        "overhead: Linear(8, 8) of 4×8": lambda: layer(few),
        "overhead: training step of an 8-8-4 perceptron": tiny_step,
        "add 1024²": lambda: square + square,
        "exp 1024²": lambda: square.exp(),
        "gelu 4096×1024": lambda: F.gelu(row),
        "sum(-1) 4096×1024": lambda: row.sum(-1),
        "softmax 4096×1024": lambda: F.softmax(row, -1),
        "layer_norm 4096×1024": lambda: F.layer_norm(row, (1024,)),
        "matmul 1024³": lambda: square @ square,
        "linear 512×128 → 512, both ways": both_ways(T, F.linear, x, w),
        "gelu 4096×1024, both ways": both_ways(T, F.gelu, tall),
        "softmax 4096×1024, both ways": both_ways(T, lambda t: F.softmax(t, -1), tall),
        "layer_norm 4096×1024, both ways": both_ways(
            T, lambda t, s, b: F.layer_norm(t, (1024,), s, b), tall, scale, shift
        ),
        "attention 8×4×64×32 causal, both ways": both_ways(
            T, lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), q, k, v
        ),
        "cross_entropy 512×256, both ways": both_ways(T, lambda t: F.cross_entropy(t, target), logits),
        "embedding 8×64 of 256×128, both ways": both_ways(T, lambda t: F.embedding(ids, t), table),
        "conv2d 64×6×14×14, 16 of 5×5, both ways": both_ways(T, F.conv2d, image, kernel),
        "conv2d 8×64×56×56, 64 of 3×3, both ways": both_ways(T, lambda x, w: F.conv2d(x, w, padding=1), photo, filters),
        "conv2d 8×256×14×14, 256 of 3×3, both ways": both_ways(
            T, lambda x, w: F.conv2d(x, w, padding=1), deep, deep_filters
        ),
        "conv2d 8×3×112×112, 64 of 7×7, stride 2, both": both_ways(
            T, lambda x, w: F.conv2d(x, w, stride=2, padding=3), sheet, stem
        ),
        "conv2d 8×64×56×56, each by 3×3, both ways": both_ways(
            T, lambda x, w: F.conv2d(x, w, padding=1, groups=64), photo, each
        ),
        "batch_norm 8×64×56×56, both ways": both_ways(
            T, lambda x, s, b: F.batch_norm(x, None, None, s, b, True), photo, few_weights, few_shifts
        ),
        "group_norm 8×64×56×56, both ways": both_ways(
            T, lambda x, s, b: F.group_norm(x, 8, s, b), photo, few_weights, few_shifts
        ),
        "max_pool2d 64×6×14×14, both ways": both_ways(T, lambda t: F.max_pool2d(t, 2), image),
    }  # fmt: skip


MIB = 4 << 20  # bytes of 1024² numbers
#: (bytes, operations) that an entry is worth at the least.
AMOUNTS: dict[str, tuple[float, float]] = {
    "step: MLP 784-512-512-10, batch 128": (0.0, 6.0 * 128 * (784 * 512 + 512 * 512 + 512 * 10)),
    "step: LeNet 28×28, batch 64": (0.0, 6.0 * 64 * (28 * 28 * 6 * 25 + 10 * 10 * 16 * 150 + 48000 + 10080 + 840)),
    "step: GPT 4×128, length 64, batch 8": (0.0, gpt2.gpt_flops(gpt2.Shape(4, 128, 4, 64, 256), 8 * 64)),
    "add 1024²": (2.0 * MIB, 0.0), "exp 1024²": (2.0 * MIB, 0.0), "gelu 4096×1024": (8.0 * MIB, 0.0),
    "sum(-1) 4096×1024": (4.0 * MIB, 0.0), "softmax 4096×1024": (8.0 * MIB, 0.0),
    "layer_norm 4096×1024": (8.0 * MIB, 0.0), "matmul 1024³": (3.0 * MIB, 2.0 * 1024**3),
    "linear 512×128 → 512, both ways": (0.0, 6.0 * 512 * 128 * 512),
    "gelu 4096×1024, both ways": (20.0 * MIB, 0.0), "softmax 4096×1024, both ways": (20.0 * MIB, 0.0),
    "layer_norm 4096×1024, both ways": (20.0 * MIB, 0.0),
    "attention 8×4×64×32 causal, both ways": (0.0, 3.5 * 2.0 * 8 * 4 * 64 * 64 * 32),
    "cross_entropy 512×256, both ways": (3.0 * 512 * 256 * 4, 0.0),
    "embedding 8×64 of 256×128, both ways": (4.0 * 512 * 128 * 4, 0.0),
    "conv2d 64×6×14×14, 16 of 5×5, both ways": (0.0, 6.0 * 64 * 10 * 10 * 16 * 150),
    "conv2d 8×64×56×56, 64 of 3×3, both ways": (0.0, 6.0 * 8 * 56 * 56 * 64 * 576),
    "conv2d 8×256×14×14, 256 of 3×3, both ways": (0.0, 6.0 * 8 * 14 * 14 * 256 * 2304),
    "conv2d 8×3×112×112, 64 of 7×7, stride 2, both": (0.0, 6.0 * 8 * 56 * 56 * 64 * 147),
    "conv2d 8×64×56×56, each by 3×3, both ways": (0.0, 6.0 * 8 * 56 * 56 * 64 * 9),
    "batch_norm 8×64×56×56, both ways": (20.0 * 8 * 64 * 56 * 56, 0.0),
    "group_norm 8×64×56×56, both ways": (20.0 * 8 * 64 * 56 * 56, 0.0),
    "max_pool2d 64×6×14×14, both ways": (3.0 * 64 * 6 * 14 * 14 * 4, 0.0),
}  # fmt: skip


STEPS = {"step: MLP 784-512-512-10, batch 128": mlp, "step: LeNet 28×28, batch 64": lenet,
         "step: GPT 4×128, length 64, batch 8": gpt}  # fmt: skip


def serve(name: str) -> None:
    """A process of the measurement: seconds a call of each entry that is asked for, a line each."""
    T = importlib.import_module(name)
    T.set_num_threads(args.threads)

    @cache
    def all_operators() -> dict[str, Callable[[], Any]]:
        return operators(T)

    @cache
    def entry(title: str) -> tuple[Callable[[], Any], int]:
        run = STEPS[title](T) if title in STEPS else all_operators()[title]
        for _ in range(5):  # plans are made, code is compiled
            run()
        start = time.perf_counter()
        run()
        return run, max(1, int(_TURN / max(time.perf_counter() - start, 1e-7)))

    print(json.dumps({"version": T.__version__, "titles": [*STEPS, *all_operators()]}), flush=True)
    for line in sys.stdin:
        run, loops = entry(line.rstrip("\n"))
        run()  # threads that went to sleep meanwhile are woken
        start = time.perf_counter()
        for _ in range(loops):
            run()
        print((time.perf_counter() - start) / loops, flush=True)


class Peer:
    """One library in a process of its own."""

    def __init__(self, name: str) -> None:
        command = [sys.executable, __file__, "--threads", str(args.threads), "--serve", name]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about: dict[str, Any] = json.loads(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"the process of one library has ended: {' '.join(map(str, self.process.args))}")  # type: ignore[arg-type]
        return line

    def turn(self, title: str) -> float:
        """Seconds a call."""
        assert self.process.stdin is not None
        print(title, file=self.process.stdin, flush=True)
        return float(self._line())


def main() -> None:
    peers = {name: Peer(name) for name in LIBRARIES}
    tensorlib = importlib.import_module("tensorlib")
    bench = importlib.import_module("tensorlib.bench")
    report: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"), "python": platform.python_version(), "numpy": np.__version__,
        **{name: peer.about["version"] for name, peer in peers.items()},
        "threads": args.threads, "machine": platform.machine(),
        "cpu": next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if "model name" in line), "?")
        if sys.platform == "linux" else platform.processor(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "results": {},
    }  # fmt: skip
    print(f"{args.threads} thread(s), {report['cpu']}, torch {report['torch']}, numpy {np.__version__}")
    best = bench.limits(bench.Library(tensorlib, "cpu"))
    report["limits"] = {"bytes": best.bytes, "flops": best.flops}
    print(f"copies {best.bytes / 1e9:.1f} GB/s, products {best.flops['float32'] / 1e9:.0f} GFLOP/s")
    print(f"{'':46}{'tensorlib':>12}{'torch':>12}{'ratio':>8}{'of limit':>10}")
    for title in (t for t in peers["torch"].about["titles"] if args.only in t):
        times: dict[str, list[float]] = {name: [] for name in LIBRARIES}
        stop = time.perf_counter() + args.seconds * len(LIBRARIES)
        while time.perf_counter() < stop or len(times["torch"]) < 5:
            for name, peer in peers.items():
                times[name].append(peer.turn(title))
        seconds = {name: median(t) for name, t in times.items()}
        ratio = seconds["tensorlib"] / seconds["torch"]
        share = best.share(*AMOUNTS.get(title, (0.0, 0.0)), "float32", seconds["tensorlib"])
        shown = "".join(f"{_time(seconds[name]):>12}" for name in LIBRARIES)
        print(f"{title:46}{shown}{ratio:8.2f}{f'{100 * share:.0f}%' if share else '':>10}", flush=True)
        report["results"][title] = {**seconds, "ratio": ratio, "share": share}
    if args.json:
        args.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:.2f} µs" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"


if __name__ == "__main__":
    if args.serve:
        serve(args.serve)
    else:
        main()
