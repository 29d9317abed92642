"""The training loop: steps, evaluations and checkpoints of one run, from its start or from a checkpoint."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Self, TextIO

import numpy as np

import tensorlib as tl
from tensorlib import _blas, nn, optim
from tensorlib.errors import ArgumentError, CheckpointError, TensorlibError
from tensorlib.io.safetensors import replacing
from tensorlib.train.checkpoint import FILE, Checkpoint
from tensorlib.train.config import RunConfig, usable_device
from tensorlib.train.plot import loss_curve
from tensorlib.train.progress import Progress
from tensorlib.train.signals import StopRequest

LOG, CURVE = "log.jsonl", "loss.png"


class DivergenceError(TensorlibError, ArithmeticError):
    """The loss or a gradient stopped being a finite number."""


class Run(ABC):
    """A model in training, with all that makes it the same run tomorrow. A subclass says what is learnt and from what.

    ``out`` holds checkpoint.safetensors (see Checkpoint), log.jsonl (one line an evaluation) and loss.png.
    """

    kind: ClassVar[str]  # the command that makes it: `tensorlib train <kind>`
    unit: ClassVar[str]  # what ``units_a_step`` counts
    curve_label: ClassVar[str]  # the unit of the loss
    config_class: ClassVar[type[RunConfig]]
    artefacts: ClassVar[tuple[str, ...]] = (FILE, LOG, CURVE)

    # What _prepare gives, from the settings and the data.
    steps: int
    eval_interval: int
    units_a_step: int
    digest: str  # of the data: a resumed run has to read the same
    data_name: str

    def __init__(self, config: RunConfig, out: Path, stream: TextIO | None = None) -> None:
        # Decided once and kept in the checkpoint: sums may round otherwise on another number of threads.
        self.config = dataclasses.replace(config, threads=config.threads or _blas.free_processors())
        self.out, self.stream = out, stream or sys.stdout
        self.device = usable_device(config.device)
        self._prepare()
        tl.manual_seed(config.seed)
        self.model = self._build()
        weights = [p for p in self.model.parameters() if p.ndim >= 2]
        others = [p for p in self.model.parameters() if p.ndim < 2]  # biases and norms are not pulled towards zero
        self.optimizer = optim.AdamW(
            [{"params": weights, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=config.lr,
            betas=(0.9, 0.99),
        )
        self.step = 0
        self.seconds = 0.0
        self.losses: list[float] = []
        self.history: list[dict[str, Any]] = []
        self._unread: list[tuple[tl.Tensor, tl.Tensor]] = []  # loss and gradient norm of steps not looked at yet

    # ---- what a subclass defines

    @abstractmethod
    def _prepare(self) -> None:
        """Read the data and decide the attributes declared above."""

    @abstractmethod
    def _build(self) -> nn.Module:
        """An untrained model of these settings, on the device."""

    @abstractmethod
    def _loss(self, step: int) -> tl.Tensor:
        """The training loss of a step, whose data is a function of the seed and the step alone."""

    @abstractmethod
    def _measure(self) -> dict[str, float]:
        """``validation_loss`` and whatever else is worth a column in the log; the model is in eval mode."""

    @abstractmethod
    def describe(self) -> str:
        """Two lines: the model and the data."""

    @abstractmethod
    def headline(self) -> str:
        """The latest evaluation in a few characters, for the progress line."""

    @abstractmethod
    def summary(self) -> str:
        """How the run ended."""

    def _training_label(self) -> str:
        """What the picture of the losses calls the training loss."""
        return "training"

    def _precision(self) -> tl.amp.autocast:
        return tl.amp.autocast(self.device.type, dtype=tl.bfloat16, enabled=self.config.dtype == "bfloat16")

    # ---- the life of a run

    @classmethod
    def start(cls, config: RunConfig, out: Path, *, overwrite: bool = False, stream: TextIO | None = None) -> Self:
        """A run from its first step. CheckpointError when ``out`` holds one already and ``overwrite`` is not given."""
        run = cls(config, out, stream)
        run._occupy(overwrite)
        run.save()
        return run

    @classmethod
    def resume(
        cls,
        path: Path,
        given: dict[str, Any],
        out: Path | None,
        *,
        overwrite: bool = False,
        stream: TextIO | None = None,
    ) -> Self:
        """The run that ``path`` (a checkpoint or a run's directory) holds, to go on in ``out`` or where it was."""
        checkpoint = Checkpoint.load(path, cls.kind)
        home = path if path.is_dir() else path.parent
        run = cls(cls.config_class.from_dict(checkpoint.config).resumed(given), out or home, stream)
        run._restore(checkpoint)
        if run.out.resolve() != home.resolve():
            run._occupy(overwrite)
            run.save()
        # A run that was killed may have logged evaluations that are newer than its checkpoint: they will come again.
        with replacing(run.out / LOG) as file:
            file.write("".join(json.dumps(entry) + "\n" for entry in run.history).encode())
        return run

    def _occupy(self, overwrite: bool) -> None:
        """Make ``out`` this run's, refusing to write over another run that nobody said may go."""
        held = [self.out / name for name in self.artefacts if (self.out / name).exists()]
        if held and not overwrite:
            raise CheckpointError(
                f"{self.out} holds a run already: continue it with --resume, replace it with --overwrite, "
                f"or choose another --out"
            )
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            for path in held:
                path.unlink()
            (self.out / LOG).touch()
        except OSError as error:
            raise ArgumentError(f"cannot write to --out {self.out}: {error.strerror or error}") from error

    @property
    def best(self) -> float:
        """The lowest validation loss so far; infinity before the first evaluation."""
        return min((entry["validation_loss"] for entry in self.history), default=math.inf)

    @property
    def validation_loss(self) -> float | None:
        """The latest validation loss."""
        return self.history[-1]["validation_loss"] if self.history else None

    def _place(self) -> str:
        threads = self.config.threads
        if self.device.type == "cpu":
            return f"cpu ({threads} thread{'s' * (threads > 1)})"
        gpu = self.device.type in ("cuda", "hip")
        return f"{self.device} ({tl.cuda.get_device_name(self.device)})" if gpu else str(self.device)

    def _on_device(self, array: np.ndarray) -> tl.Tensor:
        """A batch on the device. To a GPU it is copied from page-locked memory, while the host makes the next one."""
        batch = tl.from_numpy(array)
        if self.device.type in ("cuda", "hip"):
            batch = batch.pin_memory()
        return batch.to(self.device, non_blocking=True)

    def fit(self) -> int | None:
        """Train to the last step, or to the step in which SIGINT or SIGTERM came: then return the signal's number."""
        config = self.config
        progress = Progress(self.stream, self.steps, self.units_a_step, self.unit)
        try:
            with _blas.threads(config.threads), StopRequest() as stop:
                while self.step < self.steps and stop.signal is None:
                    begun = time.perf_counter()
                    self._train_step()
                    evaluating = self.step % self.eval_interval == 0 or self.step == self.steps
                    saving = self.step % config.checkpoint_interval == 0 or self.step == self.steps
                    due = progress.due(time.perf_counter() - begun) or evaluating
                    if due or saving:
                        self._read_losses()
                    self.seconds += time.perf_counter() - begun
                    if evaluating:
                        self._evaluate(progress.rate)
                    if due:
                        progress.show(self.step, self.losses[-1], self.headline())
                    if saving:
                        self.save()
                if stop.signal is not None:
                    self._read_losses()
                    self.save()
        finally:
            progress.end()
        return stop.signal

    def _train_step(self) -> None:
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate(self.step, self.steps)
        self.optimizer.zero_grad()
        with self._precision():
            loss = self._loss(self.step)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        self.optimizer.step()
        self._unread.append((loss.detach(), norm))
        self.step += 1

    def _read_losses(self) -> None:
        """Fetch what the last steps left on the device, which waits for it; DivergenceError at the first non-finite."""
        for loss, norm in self._unread:
            value = loss.item()
            if not (math.isfinite(value) and math.isfinite(norm.item())):
                step = len(self.losses) + 1
                what = f"loss is {value}" if not math.isfinite(value) else f"gradient's norm is {norm.item()}"
                raise DivergenceError(
                    f"the {what} at step {step}: training stopped and the checkpoint of an earlier step is "
                    f"kept; start again with a lower --lr than {self.config.lr:g} or a longer --warmup"
                )
            self.losses.append(value)
        self._unread.clear()

    def _evaluate(self, rate: float) -> None:
        """Measure the validation loss, note it in the history and the log, and redraw the curve."""
        self.model.eval()
        with tl.no_grad(), self._precision():
            measured = self._measure()
        self.model.train()
        since = self.history[-1]["step"] if self.history else 0
        entry = {
            "step": self.step,
            "train_loss": float(np.mean(self.losses[since:])),
            **measured,
            "learning_rate": self.config.learning_rate(self.step - 1, self.steps),
            f"{self.unit}_per_second": round(rate, 1),
            "seconds": round(self.seconds, 3),
        }
        self.history.append(entry)
        try:
            with open(self.out / LOG, "a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
            with replacing(self.out / CURVE) as file:
                points = [(e["step"], e["validation_loss"]) for e in self.history]
                file.write(loss_curve(self.losses, points, self.curve_label, self._training_label()))
        except OSError as error:
            raise CheckpointError(
                f"cannot write to {self.out}: {error.strerror or error}; the last checkpoint is intact, "
                f"and --resume continues from it"
            ) from error

    def save(self) -> None:
        """Write the checkpoint."""
        Checkpoint(
            kind=self.kind,
            step=self.step,
            config=self.config.as_dict(),
            model={name: tensor.detach().cpu().numpy() for name, tensor in self.model.state_dict().items()},
            optimizer={
                f"{index}.{name}": tl.as_tensor(value).detach().cpu().numpy()
                for index, slots in self.optimizer.state_dict()["state"].items()
                for name, value in slots.items()
            },
            random=tl.get_rng_state().numpy(),
            losses=np.array(self.losses, np.float64),
            history=self.history,
            seconds=self.seconds,
            data=self.digest,
        ).save(self.out / FILE)

    def _restore(self, checkpoint: Checkpoint) -> None:
        if checkpoint.data != self.digest:
            raise CheckpointError(
                f"the data is not what the checkpoint was trained on (now {self.data_name}): "
                f"give the same files with --data, or start anew in another --out"
            )
        if checkpoint.step > self.steps:
            raise CheckpointError(
                f"the checkpoint is at step {checkpoint.step} already: a run of {self.steps} steps is behind it"
            )
        load_model(self.model, checkpoint)
        self._load_optimizer(checkpoint.optimizer)
        tl.set_rng_state(tl.from_numpy(checkpoint.random))
        self.step, self.seconds, self.history = checkpoint.step, checkpoint.seconds, checkpoint.history
        self.losses = checkpoint.losses.tolist()

    def _load_optimizer(self, arrays: dict[str, np.ndarray]) -> None:
        state: dict[int, dict[str, tl.Tensor]] = {}
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for key, array in arrays.items():
            index, _, name = key.partition(".")
            if (
                not index.isdecimal()
                or int(index) >= len(parameters)
                or array.shape not in ((), parameters[int(index)].shape)
            ):
                raise CheckpointError(
                    f"the checkpoint's optimizer state {key!r} of shape {array.shape} fits no parameter"
                )
            state.setdefault(int(index), {})[name] = tl.from_numpy(array)
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})


def load_model(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Put a checkpoint's weights into a model; CheckpointError where a name, a shape or a dtype differs."""
    wanted = {name: (tuple(t.shape), t.detach().cpu().numpy().dtype) for name, t in model.state_dict().items()}
    found = {name: (array.shape, array.dtype) for name, array in checkpoint.model.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise CheckpointError(
                f"the checkpoint is of another model: {name} is {_described(found.get(name))} in it "
                f"and {_described(wanted.get(name))} here"
            )
    model.load_state_dict({name: tl.from_numpy(array) for name, array in checkpoint.model.items()})


def _described(entry: tuple[tuple[int, ...], np.dtype[Any]] | None) -> str:
    return "missing" if entry is None else f"{entry[1]} of shape {entry[0]}"


def short(n: int) -> str:
    """A count in a few characters."""
    return f"{n / 1e6:.2f} M" if n >= 1e6 else f"{n / 1e3:.1f} k"
