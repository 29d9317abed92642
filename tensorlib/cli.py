"""The command line: `tensorlib train gpt | images`, `tensorlib generate`, `tensorlib tune`, `tensorlib bench`,
`tensorlib doctor`, `tensorlib report`."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import tensorlib
from tensorlib import _blas, _native, bench, doctor, report
from tensorlib._device import TARGETS
from tensorlib.errors import ArgumentError, DeviceError, TensorlibError
from tensorlib.runtime import ahead, autotune, cache
from tensorlib.runtime.ahead import Outcome, Request
from tensorlib.runtime.hardware import hardware
from tensorlib.runtime.native import codegen
from tensorlib.train import tuning
from tensorlib.train.checkpoint import Checkpoint
from tensorlib.train.config import RunConfig, flag, usable_device
from tensorlib.train.gpt import GPT
from tensorlib.train.language import LanguageConfig, LanguageRun
from tensorlib.train.loop import CURVE, LOG, Run, load_model
from tensorlib.train.sample import decoded, generate
from tensorlib.train.vision import MISTAKES, VisionRun

_DEVICES = "auto (a GPU where there is one), cpu, cuda[:i] or hip[:i]"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 done, 1 an error, 2 usage, 130 and 143 stopped by a signal."""
    parser = _parser()
    options = parser.parse_args(argv)
    if not hasattr(options, "run"):
        parser.print_help()
        return 0
    run: Callable[[argparse.Namespace], int] = options.run
    if argv is None and run not in (_doctor, report.main):
        _with_the_right_blas()
    try:
        return run(options)
    except (TensorlibError, OSError) as error:
        if isinstance(error, BrokenPipeError):  # the reader of our output left: nobody is there to be told
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        return _fail(str(error))
    except MemoryError as error:
        return _fail(f"out of memory ({error}): a smaller --batch, --block or --width needs less")
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130


def _fail(sentence: str) -> int:
    print(f"tensorlib: {' '.join(sentence.split())}", file=sys.stderr)
    return 1


def _with_the_right_blas() -> None:
    """Start this program again under a better OPENBLAS_CORETYPE if OpenBLAS chose badly and the user did not choose.

    The variable counts only when set before NumPy loads, which happened when this package was imported.
    """
    if "OPENBLAS_CORETYPE" in os.environ:
        return
    core = _blas.better_core()
    if core is not None:
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "OPENBLAS_CORETYPE": core})


def _out(kind: str) -> str:
    """Where runs of a kind are when nothing else is said."""
    return f"runs/{kind}"


def _begun(options: argparse.Namespace) -> Run:
    """The run that the flags ask for: a new one, or one that goes on."""
    made: type[Run] = options.made
    fields = {field.name for field in dataclasses.fields(made.config_class)}
    given = {name: value for name, value in vars(options).items() if name in fields}
    if "data" in given:
        given["data"] = tuple(given["data"])
    out = Path(options.out) if options.out else None
    if options.resume is not None:
        path = Path(options.resume or options.out or _out(made.kind))
        run = made.resume(path, given, out, overwrite=options.overwrite)
        print(f"resuming at step {run.step} of {run.steps}", flush=True)
        return run
    return made.start(made.config_class.chosen(given), out or Path(_out(made.kind)), overwrite=options.overwrite)


def _finish(run: Run, files: str) -> int:
    """Train to the end, or to a signal, and say what came of it."""
    print(run.describe(), flush=True)
    signal = run.fit()
    if signal is not None:
        print(
            f"stopped after step {run.step}: `tensorlib train {run.kind} --resume {run.out}` continues from there",
            flush=True,
        )
        return 128 + signal
    print(f"{run.summary()} after {run.step} steps, {run.seconds:.0f} s; {run.out} holds the checkpoint, {files}")
    return 0


def _train_gpt(options: argparse.Namespace) -> int:
    if options.sample < 0:
        raise ArgumentError(f"--sample is {options.sample}: expected 0 or more")
    run = _begun(options)
    sample = generate(cast(GPT, run.model), os.fsencode(options.prompt), options.sample, seed=run.config.seed)
    status = _finish(run, f"{LOG} and {CURVE}")
    if options.sample and not status:
        _write("\n")
        _continue(os.fsencode(options.prompt), sample)
    return status


def _train_images(options: argparse.Namespace) -> int:
    return _finish(_begun(options), f"{LOG}, {CURVE} and {MISTAKES}")


def _generate(options: argparse.Namespace) -> int:
    checkpoint = Checkpoint.load(options.checkpoint)
    model = LanguageConfig.from_dict(checkpoint.config).build(usable_device(options.device))
    load_model(model, checkpoint)
    prompt = os.fsencode(options.prompt)
    sample = generate(
        model, prompt, options.tokens, temperature=options.temperature, top_k=options.top_k, seed=options.seed
    )
    _continue(prompt, sample)
    return 0


def _doctor(options: argparse.Namespace) -> int:
    for line in doctor.report():
        print(line)
    return 0


def _tune(options: argparse.Namespace) -> int:
    if options.clear:
        gone = autotune.clear()
        print("\n".join(f"removed {path}" for path in gone) or "there was no table of yours")
        return 0
    if options.show:
        print("\n".join(tuning.table_lines()) or "nothing was measured yet: configurations are chosen by the model")
        return 0
    unknown = [name for name in options.op if name not in autotune.tunables]
    if unknown:
        raise ArgumentError(f"--op {unknown[0]}: expected one of {', '.join(sorted(autotune.tunables))}")
    fields = {field.name for made in tuning.MODELS.values() for field in dataclasses.fields(made)} - {"device"}
    given = {name: value for name, value in vars(options).items() if name in fields}
    if given and options.model is None:
        raise ArgumentError(f"{flag(min(given))} says how large a --model is: name one of {', '.join(tuning.MODELS)}")
    config = None if options.model is None else tuning.configured(options.model, given)
    if options.candidates is not None and options.candidates < 1:
        raise ArgumentError(f"--candidates is {options.candidates}: expected 1 or more")
    return _compile_ahead(options, config) if options.compile_only else _search(options, config)


def _search(options: argparse.Namespace, config: RunConfig | None) -> int:
    if options.device == "cpu":
        return _measure_cpu(config)
    try:
        device = usable_device(options.device)
        if device.type not in ("cuda", "hip"):
            raise DeviceError(f"--device {options.device} is no GPU: expected cuda[:i] or hip[:i].")
    except DeviceError as error:
        why = str(error).rstrip(".").removesuffix("; or --device cpu").removesuffix("; use 'cpu'")
        raise DeviceError(
            f"tune times kernels on a GPU: {why}; without one, --compile-only --target sm_90 compiles what a GPU of "
            f"that target will run, and --device cpu times the operators of the CPU"
        ) from error
    counts = {"timed": 0, "skipped": 0, "wrong": 0}
    with _Bar("problems") as bar:

        def watch(seen: autotune.Progress) -> None:
            counts["timed" if "ms" in seen.result else "wrong" if "wrong" in seen.result else "skipped"] += 1
            bar.note(f"{seen.tunable} {seen.bucket}: {seen.number} of {seen.total} candidates")

        calls = list(tuning.workloads(config, options.op, device))
        with autotune.search(*options.op, again=options.again, limit=options.candidates, watch=watch):
            for number, (text, call) in enumerate(calls, 1):
                call()
                bar.step(number, len(calls), text)
    print(autotune.report())
    print(
        f"{counts['timed']} candidates timed, {counts['skipped']} skipped, {counts['wrong']} with wrong results; "
        f"kept in {autotune.path(hardware(device)) or 'this process only: the cache is off'}"
    )
    return 0


def _measure_cpu(config: RunConfig | None) -> int:
    """Each operator of training by NumPy and by its kernel as machine code; the numbers are kept for this processor."""
    if not _native.available():
        raise DeviceError(f"tune --device cpu compares NumPy with device native, which needs {codegen.requirement()}")
    calls = list(tuning.cpu_workloads() if config is None else tuning.workloads(config, [], tensorlib.device("cpu")))
    calls.sort(key=_operator)  # all sizes of one after the other: those that were done are whole if this is interrupted
    found: list[_native.Measured] = []
    whole, current, stopped = 0, "", False
    with _Bar("calls") as bar:
        try:
            for number, (text, call) in enumerate(calls, 1):
                if _operator((text, call)) != current:
                    whole, current = len(found), _operator((text, call))
                for measured in _native.measure(call):
                    found.append(measured)
                bar.step(number, len(calls), text)
        except KeyboardInterrupt:
            stopped = True
            if config is None:
                del found[whole:]  # of the one in hand some sizes lack, and they decide
    if stopped and not found:
        print("stopped: nothing was measured to the end, and nothing is changed", file=sys.stderr)
        return 130
    print("\n".join(tuning.cpu_table(found)))
    least = _native.crossovers(found)
    if stopped or config is not None:  # what these say is added to what is known
        seen = {m.op for m in found}
        least = {**{name: n for name, n in _native.least().items() if name not in seen}, **least}
    where = _native.keep(least) or "this process only: the cache is off"
    if stopped:
        print("stopped: what is above was measured and is kept; the rest is as it was", file=sys.stderr)
    print(f"{len(least)} operators run natively; kept in {where}")
    return 130 if stopped else 0


def _operator(workload: tuple[str, Callable[[], Any]]) -> str:
    """Of a workload of `tuning.cpu_workloads`, "gelu 1024": what it is, without its size."""
    return workload[0].partition(" ")[0]


def _compile_ahead(options: argparse.Namespace, config: RunConfig | None) -> int:
    asked: list[Request] = []
    for name in options.target or ["sm_90"]:
        target = tensorlib.device(name)
        if not target.compile_only:
            raise ArgumentError(f"--target {name}: expected a target such as {', '.join(TARGETS)}")
        calls = [call for _, call in tuning.workloads(config, options.op, target)]
        asked += tuning.requests(calls, options.candidates or 1)
    counts = {"compiled": 0, "found": 0, "failed": 0}
    with _Bar("kernels") as bar:

        def progress(outcome: Outcome, number: int, total: int) -> None:
            counts[outcome.status] += 1
            if outcome.status == "failed":
                bar.line(outcome.error)
            bar.step(number, total, f"{outcome.request.kernel.__name__} for {outcome.request.target}: {outcome.status}")

        ahead.compile_all(asked, options.jobs, progress)
    print(
        f"{counts['compiled']} kernels compiled, {counts['found']} were there, {counts['failed']} failed; "
        f"kept in {cache.folder()}"
    )
    return 1 if counts["failed"] else 0


class _Bar:
    """Progress on the standard error: tqdm's bar on a terminal where it is installed, else a line now and then."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._tqdm: Any = None
        self._spoken = 0.0

    def __enter__(self) -> _Bar:
        if sys.stderr.isatty():
            with contextlib.suppress(ImportError):
                module = importlib.import_module("tqdm")
                self._tqdm = module.tqdm(unit=" " + self._unit, leave=False, file=sys.stderr)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._tqdm is not None:
            self._tqdm.close()

    def step(self, number: int, total: int, text: str) -> None:
        """``number`` of ``total`` are done; ``text`` is what was done last."""
        if self._tqdm is not None:
            self._tqdm.total, self._tqdm.n = total, number
            self._tqdm.set_postfix_str(text)
        elif number == total or time.monotonic() > self._spoken + 5:
            self._spoken = time.monotonic()
            self.line(f"{number} of {total} {self._unit}: {text}")

    def note(self, text: str) -> None:
        """What is being done now."""
        if self._tqdm is not None:
            self._tqdm.set_postfix_str(text)

    def line(self, text: str) -> None:
        """A line that stays."""
        if self._tqdm is not None:
            self._tqdm.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)


def _continue(prompt: bytes, sample: Iterable[int]) -> None:
    _write(prompt.decode("utf-8", "replace"))
    with _blas.threads(1):  # one byte at a time: handing such small products to a second thread costs more than they do
        for text in decoded(sample):
            _write(text)
    _write("\n")


def _write(text: str) -> None:
    """Text as UTF-8 to the standard output at once, whatever the terminal's encoding is."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()


class _Help(argparse.RawDescriptionHelpFormatter):
    """Leave paragraphs as they are written, and the flags in a column of their own."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=110)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tensorlib", description="A torch-free tensor library with Triton kernels.", formatter_class=_Help
    )
    parser.add_argument("--version", action="version", version=f"tensorlib {tensorlib.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_train(commands)
    _add_generate(commands)
    _add_tune(commands)
    add = commands.add_parser(
        "bench",
        help="time operators on this machine, beside NumPy and PyTorch",
        formatter_class=_Help,
        description="Time operators at the sizes that they declare, beside NumPy and PyTorch where these are there,\n"
        "and show what share of the measured limits they reach: copies for what moves bytes, products for what\n"
        "multiplies.",
        epilog="examples:\n"
        "  tensorlib bench                                      all that declare sizes\n"
        "  tensorlib bench softmax matmul --dtype bfloat16 --backward\n"
        "  tensorlib bench --all --compare numpy --json bench.json --plot roofline.png",
    )
    add.set_defaults(run=bench.main)
    bench.add_arguments(add)
    add = commands.add_parser(
        "doctor",
        help="versions, BLAS, devices, and what to do about them",
        formatter_class=_Help,
        description="Show what this machine offers, what is in use, and what would be better.",
    )
    add.set_defaults(run=_doctor)
    add = commands.add_parser(
        "report",
        help="doctor, GPU tests and benchmark of this machine, in one folder",
        formatter_class=_Help,
        description="Run everything that wants a GPU, from a checkout: what `tensorlib doctor` says, the GPU tests,\n"
        "the benchmark. Each part runs by itself and within its time. report.txt sums up, report.json is the record.",
        epilog="exit status: 0 all is well, 1 something failed, 2 something was not run, 3 there is no GPU",
    )
    add.set_defaults(run=report.main)
    report.add_arguments(add)
    return parser


def _add_train(commands: Any) -> None:
    train = commands.add_parser("train", help="train a model", formatter_class=_Help, description="Train a model.")
    models = train.add_subparsers(title="models", metavar="MODEL", required=True)
    _add_gpt(models)
    _add_images(models)


def _add_gpt(models: Any) -> None:
    gpt = models.add_parser(
        "gpt",
        help="a decoder-only transformer over bytes",
        formatter_class=_Help,
        description="Train a decoder-only transformer on text, byte by byte.\n\n"
        "Without flags it learns the source of Python's standard library: on a GPU where there is one, else\n"
        "a smaller model on the CPU, in about two minutes on two cores. The run's directory gets a checkpoint,\n"
        "log.jsonl and loss.png; Ctrl-C stops after the step in hand with a checkpoint, and --resume goes on from it\n"
        "as if nothing had happened.",
        epilog="examples:\n"
        "  tensorlib train gpt                                  the default run\n"
        "  tensorlib train gpt --steps 30                       a short one, to see that everything works\n"
        "  tensorlib train gpt --resume                         go on where the last one stopped\n"
        "  tensorlib train gpt --data a.txt b.txt --out runs/ab your own text\n"
        "  tensorlib train gpt --layers 6 --heads 6 --width 192 a larger model",
    )
    gpt.set_defaults(run=_train_gpt, made=LanguageRun)
    add = _adder(gpt.add_argument_group("text"), LanguageRun)
    add(
        "--data",
        nargs="+",
        metavar="FILE",
        help="text to learn; a tenth, by file where it can be, is held out (default: Python's standard library)",
    )
    add = _adder(gpt.add_argument_group("model"), LanguageRun)
    add("--layers", type=int, metavar="N", help="transformer blocks")
    add("--heads", type=int, metavar="N", help="attention heads")
    add("--width", type=int, metavar="N", help="features of a position")
    add("--block", type=int, metavar="N", help="bytes the model sees at once")
    add("--dropout", type=float, metavar="P", help="chance of a feature to be left out in training")
    add = _adder(gpt.add_argument_group("training"), LanguageRun)
    add("--batch", type=int, metavar="N", help="blocks in a step")
    add("--steps", type=int, metavar="N", help="steps of the whole run")
    _add_common(add)
    output = gpt.add_argument_group("output")
    add = _adder(output, LanguageRun)
    add("--eval-interval", type=int, metavar="N", help="steps between validation losses")
    _add_output(output, LanguageRun)
    output.add_argument("--sample", type=int, default=400, metavar="N", help="bytes to generate at the end (400)")
    output.add_argument("--prompt", default="def ", metavar="TEXT", help="what they continue ('def ')")


def _add_images(models: Any) -> None:
    images = models.add_parser(
        "images",
        help="a convolutional net that tells images apart",
        formatter_class=_Help,
        description="Train a small convolutional net on labelled images.\n\n"
        "Without flags it learns scikit-learn's handwritten digits (pip install 'tensorlib[images]'), on the CPU in\n"
        "a few seconds. The run's directory gets a checkpoint, log.jsonl, loss.png and misclassified.png; Ctrl-C\n"
        "stops after the step in hand with a checkpoint, and --resume goes on from it as if nothing had happened.",
        epilog="examples:\n"
        "  tensorlib train images                               the default run\n"
        "  tensorlib train images --epochs 2                    a short one, to see that everything works\n"
        "  tensorlib train images --data mnist --epochs 3       a folder with the four IDX files of MNIST",
    )
    images.set_defaults(run=_train_images, made=VisionRun)
    add = _adder(images.add_argument_group("images"), VisionRun)
    add(
        "--data",
        nargs="+",
        metavar="PATH",
        help="IDX files as MNIST and Fashion-MNIST publish them (also .gz), or the folder that holds the four of them "
        "(default: scikit-learn's digits)",
    )
    add("--shift", type=int, metavar="N", help="pixels by which a training image is moved at most")
    add = _adder(images.add_argument_group("model"), VisionRun)
    add("--width", type=int, metavar="N", help="channels of the first convolution; then 2 and 4 times as many")
    add("--dropout", type=float, metavar="P", help="chance of a feature to be left out in training")
    add = _adder(images.add_argument_group("training"), VisionRun)
    add("--batch", type=int, metavar="N", help="images in a step")
    add("--epochs", type=int, metavar="N", help="times that every training image is seen")
    add("--smoothing", type=float, metavar="X", help="share of the target that is spread over all classes")
    _add_common(add)
    _add_output(images.add_argument_group("output"), VisionRun)


def _add_common(add: Callable[..., Any]) -> None:
    """The flags of training that every model has."""
    add("--lr", type=float, metavar="X", help="peak learning rate of AdamW; falls to a tenth by a cosine")
    add("--warmup", type=int, metavar="N", help="steps in which the learning rate rises to its peak")
    add("--weight-decay", type=float, metavar="X", help="decay of matrices; vectors have none")
    add("--clip", type=float, metavar="X", help="largest norm of the gradient")
    add("--seed", type=int, metavar="N", help="decides initial weights, batches and dropout")
    add(
        "--threads",
        type=int,
        metavar="N",
        help="processors for matrix products on the CPU; 0 takes those that are free",
    )
    add("--device", help=_DEVICES)
    add("--dtype", help="float32, float64, or bfloat16: autocast over float32 weights")


def _add_output(group: Any, made: type[Run]) -> None:
    """The flags about the run's directory."""
    out = _out(made.kind)
    _adder(group, made)("--checkpoint-interval", type=int, metavar="N", help="steps between checkpoints")
    group.add_argument("--out", metavar="DIR", help=f"directory of the run ({out})")
    group.add_argument(
        "--resume", nargs="?", const="", metavar="PATH", help="continue the run in --out, or the one at PATH"
    )
    group.add_argument("--overwrite", action="store_true", help="replace the run that is in --out")


def _adder(group: Any, made: type[Run]) -> Callable[..., Any]:
    """add_argument for settings of a run: the default is shown from its config, the one place that states it.

    A flag that is not given is absent, not its default: on --resume the run's own settings then hold.
    """

    def add(name: str, help: str, **options: Any) -> None:
        field = name[2:].replace("-", "_")
        default, on_gpu = getattr(made.config_class, field), made.config_class.on_gpu
        shown = f"{help} ({default})" if default != () else help
        if field in on_gpu:
            shown += f"; on a GPU {on_gpu[field]}"
        group.add_argument(name, default=argparse.SUPPRESS, help=shown, **options)

    return add


def _add_generate(commands: Any) -> None:
    command = commands.add_parser(
        "generate",
        help="text from a trained model",
        formatter_class=_Help,
        description="Continue a prompt with a model that `tensorlib train gpt` trained.",
    )
    command.set_defaults(run=_generate)
    command.add_argument(
        "--checkpoint", default=_out("gpt"), metavar="PATH", help=f"a checkpoint, or a run's directory ({_out('gpt')})"
    )
    command.add_argument("--prompt", default="def ", metavar="TEXT", help="what to continue ('def ')")
    command.add_argument("--tokens", type=int, default=400, metavar="N", help="bytes to generate (400)")
    command.add_argument("--temperature", type=float, default=0.8, metavar="T", help="0 takes the likeliest byte (0.8)")
    command.add_argument(
        "--top-k", type=int, default=256, metavar="K", help="draw from the K likeliest bytes (256: all)"
    )
    command.add_argument("--seed", type=int, default=0, metavar="N", help="another seed, another text (0)")
    command.add_argument("--device", default="auto", help=f"{_DEVICES} (auto)")


def _add_tune(commands: Any) -> None:
    command = commands.add_parser(
        "tune",
        help="time the configurations of kernels on this GPU, or compile ahead for another",
        formatter_class=_Help,
        description="Find the fastest configuration of each kernel for the sizes that a model uses.\n\n"
        "On a GPU every candidate is timed, compared with the default's result, and kept in a table that later\n"
        "programs choose from. With --compile-only nothing is run: what a training step launches is compiled for\n"
        "a target, with no GPU, so that the first step of a program there waits for no compiler.\n\n"
        "With --device cpu each operator of the CPU is timed by NumPy and as machine code, in turns, and the\n"
        "faster one is chosen from then on. That takes one to three minutes on two otherwise idle cores;\n"
        "Ctrl-C keeps the operators that were done.",
        epilog="examples:\n"
        "  tensorlib tune --model gpt --width 768 --heads 12 --block 1024 --dtype bfloat16\n"
        "  tensorlib tune --op matmul                            products of transformers, of several sizes\n"
        "  tensorlib tune --model gpt --compile-only --target sm_90 gfx942 --jobs 8\n"
        "  tensorlib tune --device cpu                           which operators of the CPU run natively\n"
        "  tensorlib tune --show                                 what was found",
    )
    command.set_defaults(run=_tune)
    command.add_argument("--model", choices=sorted(tuning.MODELS), help="whose training step and evaluation to tune")
    names = ", ".join(sorted(autotune.tunables))
    command.add_argument("--op", nargs="+", default=[], metavar="NAME", help=f"kernels to tune (all): {names}")
    command.add_argument("--device", default="cuda", help="cuda[:i], hip[:i], or cpu: NumPy or native? (cuda)")
    command.add_argument("--again", action="store_true", help="time also what the tables know")
    command.add_argument(
        "--candidates", type=int, metavar="N", help="at most N of a problem, the likeliest (all; with --compile-only 1)"
    )
    without = command.add_argument_group("without a GPU")
    without.add_argument("--compile-only", action="store_true", help="compile, into the cache on disk; run nothing")
    without.add_argument("--target", nargs="+", metavar="NAME", help=f"of {', '.join(TARGETS)}, ... (sm_90)")
    without.add_argument("--jobs", type=int, metavar="N", help="processes that compile (one a processor)")
    tables = command.add_argument_group("tables")
    tables.add_argument("--show", action="store_true", help="print what was measured, and do nothing else")
    tables.add_argument("--clear", action="store_true", help="remove your tables, and do nothing else")
    model = command.add_argument_group("the model's size, as for `tensorlib train`")
    for name in ("layers", "heads", "width", "block", "batch"):
        model.add_argument(f"--{name}", type=int, default=argparse.SUPPRESS, metavar="N")
    model.add_argument("--dtype", default=argparse.SUPPRESS, help="float32, float64, or bfloat16")


if __name__ == "__main__":
    sys.exit(main())
