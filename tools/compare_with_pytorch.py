"""Compare every operator with PyTorch on calls drawn at random: ``python tools/compare_with_pytorch.py``.

Needs PyTorch beside tensorlib (its CPU wheel will do). Shapes, dtypes, layouts, Python numbers, attributes and the
form of the call (function, method, in place, ``out=``, by keyword) are drawn around each operator's samples; what
differs is printed by operator with the call that shows it. ``--only name --seed 3 --case 17`` makes one call again.

Categories: value, gradient, dtype, shape, kind (structure of the result), memory (view or copy), version, argument,
requires grad, refused (only tensorlib raises), accepted (only PyTorch raises), error type, crash. Where PyTorch lacks
a dtype that tensorlib has ("wider"), and where a difference is meant (INTENDED in tests/expected/names.py), nothing is
printed without --all. Exits with 1 when something differs.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
EXPECTED = ROOT / "tests" / "expected"
sys.path[:0] = [str(ROOT), str(EXPECTED)]

import torch  # noqa: E402
from names import NOT_IN_TORCH, intended  # noqa: E402
from torch_peer import PyTorch  # noqa: E402

import tensorlib  # noqa: E402
import tensorlib.nn.functional  # noqa: E402
from tensorlib.op import Op, declared  # noqa: E402
from tensorlib.testing import cases  # noqa: E402
from tensorlib.testing.peers import Difference, Peer, Tensorlib, differences, find  # noqa: E402
from tensorlib.testing.random_calls import Around  # noqa: E402

#: Seconds that one call may take.
LONGEST = 40


def compare(
    made: Any, ours: Peer, theirs: Peer, seed: int, numbers: range
) -> Iterator[tuple[int, str, Difference | None]]:
    """(case, call, None) before each call of one operator, (case, call, difference) for each of its differences."""
    around = Around(made, lambda space, name: find(theirs, space, name) is not None)
    values = not cases.is_random(made) and made.name not in NOT_IN_TORCH
    differentiable = values and not (isinstance(made, Op) and made.mutates)
    for i in numbers:
        call = around.call(seed, i)
        if call is None:
            continue
        yield i, str(call), None
        try:
            found = differences(ours, theirs, call, values=values, gradients=differentiable and i % 2 == 0)
        except Exception as error:
            found = [Difference("crash", f"{type(error).__name__}: {str(error)[:200]}")]
        for difference in found:
            yield i, str(call), difference


def isolated(made: Any, ours: Peer, theirs: Peer, seed: int, numbers: range) -> Iterator[tuple[int, str, Difference]]:
    """The differences, found in a process of its own where the system can fork: LAPACK given nonsense may end its
    process, or never come back. The calls after that one are made by another.
    """
    if not hasattr(os, "fork"):
        yield from (item for item in compare(made, ours, theirs, seed, numbers) if item[2] is not None)
        return
    context = multiprocessing.get_context("fork")
    while numbers:
        here, there = context.Pipe(duplex=False)
        child = context.Process(target=_send, args=(there, made, ours, theirs, seed, numbers))
        child.start()
        there.close()
        at, text, ended = numbers[0], made.name, f"no answer within {LONGEST} s"
        try:
            while here.poll(LONGEST):
                i, call, difference = here.recv()
                if difference is None:
                    at, text = i, call
                else:
                    yield i, call, difference
            child.kill()
            child.join()
        except EOFError:
            child.join()
            if child.exitcode == 0:
                return
            ended = f"the process ended with {child.exitcode}"
        yield at, text, Difference("crash", ended)
        numbers = range(at + 1, numbers.stop)


def _send(there: Any, *args: Any) -> None:
    for item in compare(*args):
        there.send(item)
    there.close()
    os._exit(0)


def main() -> int:
    """Compare; print what differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these operators")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=60, metavar="N", help="calls of each operator (60)")
    parser.add_argument("--case", type=int, metavar="I", help="only the call of this number")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that differs, the intended too")
    parser.add_argument("--each", type=int, default=2, metavar="N", help="shown of each category of an operator (2)")
    parser.add_argument("--all", action="store_true", help="print what is wider or intended as well")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    chosen = [m for m in declared() if m.where and m.__module__.startswith("tensorlib.")]
    if options.only:
        chosen = [m for m in chosen if m.name in options.only]
        unknown = set(options.only) - {m.name for m in chosen}
        if unknown:
            sys.exit(f"no public operator {', '.join(sorted(unknown))}")
    numbers = range(options.cases) if options.case is None else range(options.case, options.case + 1)
    ours, theirs, records, differing, begun = Tensorlib(tensorlib), PyTorch(), [], 0, time.monotonic()
    for n, made in enumerate(chosen):
        if not options.quiet and sys.stderr.isatty():
            print(f"\r{n + 1}/{len(chosen)} {made.name:40}", end="", file=sys.stderr, flush=True)
        shown: dict[str, int] = {}
        for i, call, difference in isolated(made, ours, theirs, options.seed, numbers):
            reason = intended(made.name, difference.category, difference.text, call)
            record = {"operator": made.name, "case": i, "seed": options.seed, "call": call,
                      "category": difference.category, "text": difference.text, "intended": reason}  # fmt: skip
            records.append(record)
            quiet = reason is not None or difference.category == "wider"
            differing += not quiet
            shown[difference.category] = shown.get(difference.category, 0) + (not quiet or options.all)
            if (quiet and not options.all) or shown[difference.category] > options.each:
                continue
            if sum(shown.values()) == 1:
                print(f"\n{made.name}")
            print(f"  {difference.category}: {difference.text}" + (f"\n    meant: {reason}" if reason else ""))
            print(f"    --only {made.name} --seed {options.seed} --case {i}\n    {call[:400]}", flush=True)
        more = {k: v for k, v in shown.items() if v > options.each}
        if more:
            print("  in all: " + ", ".join(f"{k} {v}" for k, v in more.items()))
    if options.json:
        options.json.write_text(json.dumps(records, indent=1))
    operators = len({r["operator"] for r in records if r["intended"] is None and r["category"] != "wider"})
    print(f"\n{len(chosen)} operators, {len(numbers)} calls of each, seed {options.seed}, PyTorch {torch.__version__}: "
          f"{differing} differences in {operators} operators; {time.monotonic() - begun:.0f} s")  # fmt: skip
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
