"""The command line: `tensorlib train gpt`, `tensorlib generate`, `tensorlib doctor`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import tensorlib
from tensorlib import _blas, doctor
from tensorlib.errors import ArgumentError, TensorlibError
from tensorlib.train.checkpoint import Checkpoint
from tensorlib.train.config import TrainConfig
from tensorlib.train.loop import CURVE, LOG, Run, load_model, usable_device
from tensorlib.train.sample import decoded, generate

_OUT = "runs/gpt"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 done, 1 an error, 2 usage, 130 and 143 stopped by a signal."""
    parser = _parser()
    options = parser.parse_args(argv)
    if not hasattr(options, "run"):
        parser.print_help()
        return 0
    run: Callable[[argparse.Namespace], int] = options.run
    if argv is None and run is not _doctor:
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


def _train(options: argparse.Namespace) -> int:
    given = {name: value for name, value in vars(options).items() if name in TrainConfig.__dataclass_fields__}
    if "data" in given:
        given["data"] = tuple(given["data"])
    if options.sample < 0:
        raise ArgumentError(f"--sample is {options.sample}: expected 0 or more")
    out = Path(options.out) if options.out else None
    if options.resume is not None:
        run = Run.resume(Path(options.resume or options.out or _OUT), given, out, overwrite=options.overwrite)
    else:
        run = Run.start(TrainConfig(**given), out or Path(_OUT), overwrite=options.overwrite)
    sample = generate(run.model, os.fsencode(options.prompt), options.sample, seed=run.config.seed)
    print(run.describe(), flush=True)
    signal = run.fit()
    if signal is not None:
        print(
            f"stopped after step {run.step}: `tensorlib train gpt --resume {run.out}` continues from there", flush=True
        )
        return 128 + signal
    print(
        f"validation loss {run.validation_loss:.4f} nats/byte (best {run.best:.4f}) after {run.step} steps, "
        f"{run.seconds:.0f} s; {run.out} holds the checkpoint, {LOG} and {CURVE}"
    )
    if options.sample:
        _write("\n")
        _continue(os.fsencode(options.prompt), sample)
    return 0


def _generate(options: argparse.Namespace) -> int:
    checkpoint = Checkpoint.load(options.checkpoint)
    model = TrainConfig.from_dict(checkpoint.config).build(usable_device(options.device))
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
    commands = parser.add_subparsers(title="commands", metavar="")
    _add_train(commands)
    _add_generate(commands)
    add = commands.add_parser(
        "doctor",
        help="versions, BLAS, devices, and what to do about them",
        formatter_class=_Help,
        description="Show what this machine offers, what is in use, and what would be better.",
    )
    add.set_defaults(run=_doctor)
    return parser


def _add_train(commands: Any) -> None:
    train = commands.add_parser("train", help="train a model", formatter_class=_Help, description="Train a model.")
    models = train.add_subparsers(title="models", metavar="", required=True)
    gpt = models.add_parser(
        "gpt",
        help="a decoder-only transformer over bytes",
        formatter_class=_Help,
        description="Train a decoder-only transformer on text, byte by byte.\n\n"
        "Without flags it learns the source of Python's standard library on the CPU: about two minutes on two\n"
        "cores. The run's directory gets a checkpoint, log.jsonl and loss.png; Ctrl-C stops after the step in\n"
        "hand with a checkpoint, and --resume goes on from it as if nothing had happened.",
        epilog="examples:\n"
        "  tensorlib train gpt                                  the default run\n"
        "  tensorlib train gpt --steps 30                       a short one, to see that everything works\n"
        "  tensorlib train gpt --resume                         go on where the last one stopped\n"
        "  tensorlib train gpt --data a.txt b.txt --out runs/ab your own text\n"
        "  tensorlib train gpt --device cuda --dtype bfloat16 --layers 12 --heads 12 --width 768 --block 1024",
    )
    gpt.set_defaults(run=_train)
    # A flag that is not given is absent, not its default: on --resume the run's own settings then hold.
    add = _adder(gpt.add_argument_group("text"))
    add(
        "--data",
        nargs="+",
        metavar="FILE",
        help="text to learn; a tenth, by file where it can be, is held out (default: Python's standard library)",
    )
    add = _adder(gpt.add_argument_group("model"))
    add("--layers", type=int, metavar="N", help="transformer blocks")
    add("--heads", type=int, metavar="N", help="attention heads")
    add("--width", type=int, metavar="N", help="features of a position")
    add("--block", type=int, metavar="N", help="bytes the model sees at once")
    add("--dropout", type=float, metavar="P", help="chance of a feature to be left out in training")
    add = _adder(gpt.add_argument_group("training"))
    add("--batch", type=int, metavar="N", help="blocks in a step")
    add("--steps", type=int, metavar="N", help="steps of the whole run")
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
    add("--device", help="cpu, cuda, cuda:1, hip")
    add("--dtype", help="float32, float64, or bfloat16 with float32 weights")
    output = gpt.add_argument_group("output")
    add = _adder(output)
    add("--eval-interval", type=int, metavar="N", help="steps between validation losses")
    add("--checkpoint-interval", type=int, metavar="N", help="steps between checkpoints")
    output.add_argument("--out", metavar="DIR", help=f"directory of the run ({_OUT})")
    output.add_argument(
        "--resume", nargs="?", const="", metavar="PATH", help="continue the run in --out, or the one at PATH"
    )
    output.add_argument("--overwrite", action="store_true", help="replace the run that is in --out")
    output.add_argument("--sample", type=int, default=400, metavar="N", help="bytes to generate at the end (400)")
    output.add_argument("--prompt", default="def ", metavar="TEXT", help="what they continue ('def ')")


def _adder(group: Any) -> Callable[..., Any]:
    """add_argument for settings of a run: the default is shown from TrainConfig, the one place that states it."""

    def add(name: str, help: str, **options: Any) -> None:
        default = getattr(TrainConfig, name[2:].replace("-", "_"))
        group.add_argument(
            name, default=argparse.SUPPRESS, help=f"{help} ({default})" if default != () else help, **options
        )

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
        "--checkpoint", default=_OUT, metavar="PATH", help=f"a checkpoint, or a run's directory ({_OUT})"
    )
    command.add_argument("--prompt", default="def ", metavar="TEXT", help="what to continue ('def ')")
    command.add_argument("--tokens", type=int, default=400, metavar="N", help="bytes to generate (400)")
    command.add_argument("--temperature", type=float, default=0.8, metavar="T", help="0 takes the likeliest byte (0.8)")
    command.add_argument(
        "--top-k", type=int, default=256, metavar="K", help="draw from the K likeliest bytes (256: all)"
    )
    command.add_argument("--seed", type=int, default=0, metavar="N", help="another seed, another text (0)")
    command.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, hip (cpu)")


if __name__ == "__main__":
    sys.exit(main())
