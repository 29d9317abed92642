"""Random kernels on device "native" and in Triton's interpreter, held to each other for as long as asked.

    python tools/fuzz_native.py --seconds 600 --seed 100000      # programs from that seed on
    python tools/fuzz_native.py --seed 4711 --programs 1         # one program again; --show prints it
    python tools/fuzz_native.py --target interpret --coverage    # the generator alone: how often each construct occurs

Each program that fails is made small, printed with what differs, and written to --out. One that is understood and put
right goes to tests/native/corpus with a line that says what was wrong. Exit status 1 when a program failed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "native")]

import fuzz  # noqa: E402
import fuzz_oracle  # noqa: E402
from fuzz_oracle import Verdict  # noqa: E402

#: Programs of one worker: what Triton and Python keep of each of them goes with the process.
BATCH = 200


def results(
    seeds: range, options: fuzz.Options, args: argparse.Namespace, deadline: float
) -> Iterator[tuple[int, Verdict]]:
    """The verdict on each seed's program. They run in worker processes: one that ends one is its verdict, too."""
    at = seeds.start
    while at < seeds.stop and time.monotonic() < deadline:
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.close(reader)
            try:
                with os.fdopen(writer, "w", buffering=1) as stream:
                    for seed in range(at, min(at + BATCH, seeds.stop)):
                        if time.monotonic() > deadline:
                            break
                        verdict = fuzz_oracle.judge(fuzz.generate(seed, options).source(), args.target, args.oracle)
                        stream.write(json.dumps([seed, verdict.kind, verdict.text]) + "\n")
            finally:
                os._exit(0)
        os.close(writer)
        stop = min(at + BATCH, seeds.stop)
        with os.fdopen(reader) as stream:
            for line in stream:
                seed, kind, text = json.loads(line)
                at = seed + 1
                yield seed, Verdict(kind, text)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status) and at < stop:
            yield at, Verdict("crash", f"signal {os.WTERMSIG(status)}")
            at += 1


def alike(verdict: Verdict) -> str:
    """What two failures of one reason have in common."""
    if verdict.kind in ("differs", "crash", "same"):
        return verdict.kind
    first = verdict.text.strip().splitlines()[0] if verdict.text.strip() else ""
    return f"{verdict.kind}: {re.sub(r'[0-9]+', '#', first)[:120]}"


def smallest(seed: int, verdict: Verdict, options: fuzz.Options, args: argparse.Namespace) -> str:
    """The smallest program like that of a seed that fails alike."""
    wanted = alike(verdict)

    def judged(source: str) -> Verdict:
        return fuzz_oracle.judge(source, args.target, args.oracle)

    def work() -> Verdict:
        program = fuzz.generate(seed, options)
        return Verdict("done", fuzz_oracle.reduce(program, lambda s: alike(judged(s)) == wanted, args.reduce))

    if verdict.kind != "crash":
        done = fuzz_oracle.isolated(work, args.reduce + 60)
        return done.text if done.kind == "done" else fuzz.generate(seed, options).source()
    program = fuzz.generate(seed, options)
    return fuzz_oracle.reduce(
        program, lambda source: fuzz_oracle.isolated(lambda: judged(source)).kind == "crash", args.reduce
    )


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="programs to run, instead of random ones")
    parser.add_argument("--seed", type=int, default=0, help="of the first program")
    parser.add_argument("--programs", type=int, default=sys.maxsize)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--statements", type=int, default=fuzz.Options.statements, help="most statements of a program")
    parser.add_argument("--target", default="native")
    parser.add_argument("--oracle", default="interpret")
    parser.add_argument("--threads", type=int, default=0, help="share every launch between so many, however small")
    parser.add_argument("--only", default="", help="constructs to choose from, separated by commas")
    parser.add_argument("--without", default="", help="constructs to leave out")
    parser.add_argument(
        "--unsupported", action="store_true", help="report what the native device says it cannot do, too"
    )
    parser.add_argument("--reduce", type=float, default=60.0, metavar="SECONDS", help="to make a program small; 0: not")
    parser.add_argument("--failures", type=int, default=20, help="stop after so many")
    parser.add_argument("--coverage", action="store_true", help="count the constructs")
    parser.add_argument("--show", action="store_true", help="print every program")
    parser.add_argument("--out", type=Path, help="folder for the programs that fail")
    args = parser.parse_args()
    split = lambda names: frozenset(filter(None, names.split(",")))  # noqa: E731
    options = fuzz.Options(args.statements, only=split(args.only), without=split(args.without))
    unknown = (options.only | options.without) - fuzz.CONSTRUCTS.keys()
    if unknown:
        parser.error(f"no constructs: {', '.join(sorted(unknown))}; there are {', '.join(fuzz.CONSTRUCTS)}")

    os.environ["TENSORLIB_CACHE"] = "0"  # what is compiled here is of no use to anybody
    if args.threads:
        fuzz_oracle.share(args.threads)
    # Modules load once, before the workers are forked.
    fuzz_oracle.judge(fuzz.generate(0, fuzz.Options(3)).source(), "interpret")
    return replay(args) if args.files else search(options, args)


def replay(args: argparse.Namespace) -> int:
    """Judge programs from files; print what failed."""
    failed = 0
    for path in args.files:
        source = path.read_text()
        verdict = fuzz_oracle.isolated(lambda s=source: fuzz_oracle.judge(s, args.target, args.oracle))
        if verdict.kind != "same":
            failed += 1
            print(f"{path.name}: {verdict.kind}: {verdict.text}", flush=True)
    print(f"{len(args.files)} programs, {failed} failed")
    return int(failed > 0)


def search(options: fuzz.Options, args: argparse.Namespace) -> int:
    """Judge programs until the time or their number is up; print what failed and a summary."""
    started = time.monotonic()
    deadline = started + args.seconds
    seen: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    tags: Counter[str] = Counter()
    stop = args.seed + args.programs if args.programs < sys.maxsize else 1 << 40
    for seed, verdict in results(range(args.seed, stop), options, args, deadline):
        seen[verdict.kind] += 1
        if args.coverage:
            tags += fuzz.generate(seed, options).tags()
        if args.show:
            print(fuzz.generate(seed, options).source())
        if verdict.kind == "same":
            continue
        reason = alike(verdict)
        reasons[reason] += 1
        if verdict.kind == "unsupported" and not args.unsupported:
            continue
        if reasons[reason] > (3 if verdict.kind in ("differs", "crash") else 1):
            continue
        source = smallest(seed, verdict, options, args) if args.reduce else fuzz.generate(seed, options).source()
        final = fuzz_oracle.isolated(lambda s=source: fuzz_oracle.judge(s, args.target, args.oracle))
        report = f'"""{verdict.kind}: seed {seed}\n\n{final.text or verdict.text}\n"""\n\n{source}'
        print(f"{'=' * 100}\n{report}", flush=True)
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            (args.out / f"seed_{seed}.py").write_text(report)
        if sum(reasons.values()) >= args.failures and not args.unsupported:
            break
    took = time.monotonic() - started
    total = sum(seen.values())
    counted = ", ".join(f"{n} {kind}" for kind, n in seen.most_common())
    print(f"{total} programs from seed {args.seed} in {took:.0f} s: {counted}")
    for reason, n in reasons.most_common():
        print(f"  {n} × {reason}")
    if args.coverage:
        width = max(map(len, tags), default=0)
        for tag, n in sorted(tags.items(), key=lambda item: -item[1]):
            print(f"  {tag:{width}} {n}")
    return int(any(kind not in ("same", "unsupported") for kind in seen))


if __name__ == "__main__":
    sys.exit(main())
