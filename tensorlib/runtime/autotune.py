"""Which of several configurations a kernel runs with: chosen by a model at once, by measuring only when asked.

A host function declares a `Tunable` once: the candidates of each family of GPUs, the key that puts problems of about
one size into one bucket, and a model that estimates what a candidate needs and costs. ``choose`` then gives, in order:

1. what was pinned (``pin``);
2. what was measured fastest on this device: the user's table, else the one that comes with the library;
3. the model's best, which is where every program starts: no first call ever waits for a search.

A search runs in ``with tensorlib.autotune.search():``, in `tensorlib tune`, under ``backends.cudnn.benchmark = True``
or TENSORLIB_AUTOTUNE=search. It times every candidate on copies of the outputs, holds each result to the default's, and
keeps what it saw in the user's table. TENSORLIB_AUTOTUNE=off and ``use_deterministic_algorithms`` take 1 and 3 only:
the choice is then a function of the shapes and the device.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from tensorlib._device import device as Device
from tensorlib.errors import ArgumentError, DeviceError, KernelError, OutOfMemoryError
from tensorlib.runtime import fingerprint, tables, versions
from tensorlib.runtime.compiler import Jit
from tensorlib.runtime.determinism import level
from tensorlib.runtime.hardware import Estimate, Hardware, hardware
from tensorlib.runtime.tables import Table

# ---------------------------------------------------------------------------------------------------- configurations


class Config:
    """How a kernel is run: warps, pipeline stages, constexprs by name, and options of Triton's compiler.

    ``launch(kernel, grid, ..., **config.launch)`` runs it, ``config["BLOCK_M"]`` is a constexpr. Equal ones are equal,
    and ``Config.parse(str(config)) == config`` where the values are integers, booleans and words.
    """

    __slots__ = ("constants", "launch", "num_stages", "num_warps", "options", "text")

    def __init__(
        self, num_warps: int = 4, num_stages: int = 2, options: Mapping[str, Any] | None = None, **constants: Any
    ) -> None:
        self.num_warps = num_warps
        self.num_stages = num_stages
        self.options = dict(options or {})
        self.constants = constants
        self.launch: dict[str, Any] = {**constants, "num_warps": num_warps, "num_stages": num_stages}
        if self.options:
            self.launch["options"] = self.options
        words = [f"{name}={value}" for name, value in sorted(constants.items())]
        words += [f"options.{name}={value}" for name, value in sorted(self.options.items())]
        self.text = " ".join([*words, f"num_stages={num_stages}", f"num_warps={num_warps}"])

    def __getitem__(self, name: str) -> Any:
        return self.constants[name]

    def replace(self, **changes: Any) -> Config:
        """The same with other constants, num_warps or num_stages."""
        given: dict[str, Any] = {
            **self.constants, "num_warps": self.num_warps, "num_stages": self.num_stages, **changes,
        }  # fmt: skip
        return Config(options=self.options, **given)

    @classmethod
    def parse(cls, text: str) -> Config:
        """The configuration of a text such as "BLOCK_M=64 num_warps=4". ArgumentError for another kind of text."""
        given: dict[str, Any] = {}
        options: dict[str, Any] = {}
        for word in text.split():
            name, sign, value = word.partition("=")
            if not (sign and name and value):
                raise ArgumentError(f"configuration {text!r}: expected words such as BLOCK_M=64, got {word!r}")
            home = options if name.startswith("options.") else given
            home[name.removeprefix("options.")] = _value(value)
        if not all(isinstance(given.get(name, 1), int) for name in ("num_warps", "num_stages")):
            raise ArgumentError(f"configuration {text!r}: num_warps and num_stages are numbers")
        return cls(options=options, **given)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Config({self.text})"


def _value(text: str) -> Any:
    if text in ("True", "False"):
        return text == "True"
    try:
        return int(text)
    except ValueError:
        return text


def bucket(n: int, steps: int = 4) -> int:
    """n rounded up to one of ``steps`` sizes between powers of two: 768 -> 768, 1000 -> 1024, 50257 -> 57344."""
    if n <= 16:
        return 16 if n > 1 else n
    unit = max(1 << ((n - 1).bit_length() - 1), 1)  # the power of two below
    step = max(unit // steps, 16)
    return -(-n // step) * step


def describe(problem: Any) -> str:
    """A problem as text: "M=64 N=64 dtype=float32"."""
    if hasattr(problem, "_asdict"):
        return " ".join(f"{name}={value}" for name, value in problem._asdict().items())
    return " ".join(map(str, problem)) if isinstance(problem, tuple) else str(problem)


# --------------------------------------------------------------------------------------------------------- the state


class _State:
    """What holds for the whole process."""

    def __init__(self) -> None:
        self.mode = "unread"  # TENSORLIB_AUTOTUNE: "", "off" or "search"
        self.asked = 0  # searches that are open
        self.benchmark = False  # backends.cudnn.benchmark
        self.only: frozenset[str] | None = None  # the tunables that an open search is for
        self.again = False
        self.limit: int | None = None
        self.watch: Callable[[Progress], None] | None = None
        self.rank = 0  # > 0: take the model's next best ones, to compile them ahead
        #: Whether ``choose`` has more to do than to look up.
        self.special = True
        self.generation = 0  # counts what may have changed a choice


state = _State()
_lock = threading.RLock()

#: Every tunable that was declared, by name.
tunables: dict[str, Tunable] = {}
_pins: dict[tuple[str, str, str | None], Config] = {}
_user: dict[tuple[str, str], Table] = {}  # the user's tables, read once


def _refresh() -> None:
    """Work out again what depends on the state, and forget what was chosen under another."""
    if state.mode == "unread":
        said = os.environ.get("TENSORLIB_AUTOTUNE", "")
        if said not in ("", "off", "search"):
            raise ArgumentError(f"TENSORLIB_AUTOTUNE is {said!r}: expected 'off', 'search' or nothing")
        state.mode = said
    state.special = searching() or state.rank > 0
    state.generation += 1
    for tunable in tunables.values():
        tunable._hits.clear()


def searching() -> bool:
    """Whether a call that can be timed is timed now."""
    if state.mode == "unread":
        _refresh()
    return state.mode != "off" and (state.mode == "search" or state.benchmark or state.asked > 0)


def busy() -> bool:
    """Whether ``choose`` may do more than look up: time candidates, or take others than the best."""
    if state.mode == "unread":
        _refresh()
    return state.special


def benchmark(on: bool) -> None:
    """What ``backends.cudnn.benchmark = on`` does: the first call of each bucket of problems is timed."""
    with _lock:
        state.benchmark = bool(on)
        _refresh()


def set_mode(mode: str) -> None:
    """What TENSORLIB_AUTOTUNE does: "off" (nothing measured is used), "search" (always), or "" (when asked)."""
    if mode not in ("", "off", "search"):
        raise ArgumentError(f"autotune: mode {mode!r}: expected 'off', 'search' or ''")
    with _lock:
        state.mode = mode
        _refresh()


@contextlib.contextmanager
def search(
    *names: str, again: bool = False, limit: int | None = None, watch: Callable[[Progress], None] | None = None
) -> Iterator[None]:
    """Time the candidates of what is called within: each bucket of problems once, what was timed before not again.

    names: of tunables; all when none is given. again: time also what the tables know. limit: at most so many
    candidates a problem, the model's best. watch is called after every candidate. Nothing is timed while a graph is
    captured, on devices that run nothing, and under TENSORLIB_AUTOTUNE=off.
    """
    unknown = set(names) - tunables.keys()
    if unknown:
        raise ArgumentError(
            f"autotune: no tunable is called {', '.join(sorted(unknown))}; there are {', '.join(sorted(tunables))}"
        )
    with _lock:
        before = state.only, state.again, state.limit, state.watch
        state.asked += 1
        state.only, state.again, state.limit = frozenset(names) or None, again, limit
        state.watch = watch
        if again:
            for tunable in tunables.values():
                tunable._searched.clear()
        _refresh()
    try:
        yield
    finally:
        with _lock:
            state.asked -= 1
            state.only, state.again, state.limit, state.watch = before
            _refresh()


@contextlib.contextmanager
def ranked(rank: int) -> Iterator[None]:
    """Within the block every tunable takes its model's candidate number ``rank``, or the last: for compiling ahead."""
    with _lock:
        before, state.rank = state.rank, rank
        _refresh()
    try:
        yield
    finally:
        with _lock:
            state.rank = before
            _refresh()


class Progress(NamedTuple):
    """What a search says after each candidate."""

    tunable: str
    bucket: str
    config: str
    number: int  #: of this candidate, from 1
    total: int
    result: dict[str, Any]


class Choice(NamedTuple):
    """What was chosen for a bucket of problems, and why."""

    tunable: str
    device: str
    bucket: str
    config: Config
    source: str  #: "model", "declared", "pinned", "user's table", "shipped table"
    ms: float | None  #: what was measured, None where nothing was


# --------------------------------------------------------------------------------------------------------- a tunable


class Tunable:
    """The configurations of one kernel and how one is chosen; declared once, beside the kernel's host function.

    name: what tables and `tensorlib tune` call it.
    kernels: the Triton functions it configures; when their source changes, what was measured of them is not used.
    candidates: Config tuples by family (Hardware.family; "" for any other), or a function ``(problem, hardware)``
        that gives them. Each must give right results for every problem.
    key: ``key(problem)`` is the problem that stands for all of its bucket, of the same type: a NamedTuple of numbers,
        words and dtypes. Equal buckets share what was measured.
    model: ``model(config, problem, hardware)`` gives an Estimate. It must price a candidate for every problem.
    fit: ``fit(config, problem)`` gives the candidate cut to a small problem, where blocks can be cut.
    default: ``default(problem, hardware)`` gives what runs when nothing was measured; without it the model's best does.
    deterministic: ``deterministic(config)`` is False for a candidate whose sums have no fixed order.
    tolerance: how far two candidates' results may differ, in units of the outputs' precision times the root mean
        square of the default's (a longer sum rounds more): see ``differs``.
    version: to be counted up when the meaning of the key or of a constant changes.
    examples: ``examples(device)`` yields ``(text, call)``: what `tensorlib tune --op NAME` times without a model.
    """

    def __init__(
        self,
        name: str,
        kernels: Sequence[Jit],
        candidates: Mapping[str, Sequence[Config]] | Callable[[Any, Hardware], Sequence[Config]],
        key: Callable[[Any], Any],
        model: Callable[[Config, Any, Hardware], Estimate],
        *,
        fit: Callable[[Config, Any], Config] | None = None,
        default: Callable[[Any, Hardware], Config] | None = None,
        deterministic: Callable[[Config], bool] = lambda config: True,
        tolerance: float = 64.0,
        version: int = 1,
        examples: Callable[[Device], Iterable[tuple[str, Callable[[], Any]]]] | None = None,
    ) -> None:
        if name in tunables:
            raise ArgumentError(f"autotune: a tunable {name!r} is declared already: choose another name")
        self.name = name
        self.kernels = tuple(kernels)
        self.key = key
        self.model = model
        self.deterministic = deterministic
        self.tolerance = tolerance
        self.version = version
        self.examples = examples
        self._candidates = candidates
        self._fit = fit
        self._default = default
        self._hits: dict[tuple[Any, Device, str], Config] = {}
        self._searched: set[tuple[str, Device]] = set()
        self._stamp: str | None = None
        self.choices: dict[tuple[Device, str], Choice] = {}
        tunables[name] = self

    def __repr__(self) -> str:
        return f"<Tunable {self.name}>"

    def choose(
        self,
        problem: Any,
        device: Device,
        run: Callable[..., Any] | None = None,
        outputs: tuple[Any, ...] = (),
    ) -> Config:
        """The configuration for a problem on a device: a dictionary lookup when it was asked before.

        With ``run``, a search may time candidates here: ``run(config, *outputs)`` does the kernel's work into arrays
        like ``outputs``, which are what it writes (and reads, where it works in place).
        """
        found = self._hits.get((problem, device, level[0]))
        if found is None or state.special:
            found = self._decide(problem, device, run, outputs)
        return found

    # -- candidates

    @property
    def stamp(self) -> str:
        """The version and a hash of the kernels' sources: results of another stamp are of another kernel."""
        if self._stamp is None:
            digest = fingerprint.sha256()
            reached = set(self.kernels).union(*(kernel.dependencies for kernel in self.kernels))
            for function in sorted(reached, key=lambda f: (f.__module__, f.__qualname__)):
                digest.update(f"{function.__module__}.{function.__qualname__}\n{_source(function)}".encode())
            self._stamp = f"{self.version}-{digest.hexdigest()[:16]}"
        return self._stamp

    def candidates(self, problem: Any, gpu: Hardware) -> list[Config]:
        """Every candidate of the device's family, cut to the problem, each once."""
        declared = self._candidates
        if callable(declared):
            found = declared(problem, gpu)
        else:
            found = declared.get(gpu.family, declared.get("", ()))
        if not found:
            raise KernelError(f"autotune: {self.name} declares no candidate for {gpu.family} ({gpu.target})")
        if self._fit is not None:
            found = [self._fit(config, problem) for config in found]
        return list(dict.fromkeys(found))

    def ranking(self, problem: Any, gpu: Hardware) -> tuple[list[Config], dict[Config, str]]:
        """The candidates that fit the device, the default first and then the model's best; and why others do not."""
        refused: dict[Config, str] = {}
        order: list[tuple[float, int, Config]] = []
        for number, config in enumerate(self.candidates(problem, gpu)):
            reason, seconds = self.judged(config, problem, gpu)
            if reason is None:
                order.append((seconds, number, config))
            else:
                refused[config] = reason
        kept = [config for _, _, config in sorted(order, key=lambda entry: entry[:2])]
        if self._default is not None:
            default = self._default(problem, gpu)
            kept = [default, *(config for config in kept if config != default)]
        if not kept:
            reasons = "; ".join(f"{config}: {reason}" for config, reason in refused.items())
            raise KernelError(f"autotune: no candidate of {self.name} fits {gpu.name} ({gpu.target}): {reasons}")
        return kept, refused

    def judged(self, config: Config, problem: Any, gpu: Hardware) -> tuple[str | None, float]:
        """Why a configuration cannot run, or None; and what the model says that it costs."""
        threads = config.num_warps * gpu.warp_size
        if threads > 1024 and not gpu.on_host:
            return f"{config.num_warps} warps are {threads} threads, more than the 1024 of a program", math.inf
        estimate = self.model(config, problem, gpu)
        if estimate.shared > gpu.shared:
            return f"shared memory: about {estimate.shared} bytes, more than the {gpu.shared} of a program", math.inf
        return None, estimate.seconds

    # -- the choice

    def _decide(self, problem: Any, device: Device, run: Any, outputs: tuple[Any, ...]) -> Config:
        if state.mode == "unread":
            _refresh()
        gpu = hardware(device)
        if state.rank:
            kept, _ = self.ranking(problem, gpu)
            return kept[min(state.rank, len(kept) - 1)]
        place = describe(self.key(problem))
        if run is not None and searching() and (state.only is None or self.name in state.only):
            self._search(problem, place, device, gpu, run, outputs)
        choice = self._chosen(problem, place, device, gpu)
        if len(self._hits) > 8192:  # shapes that never come back must not fill the memory
            self._hits.clear()
        self._hits[problem, device, level[0]] = choice.config
        self.choices[device, place] = choice
        return choice.config

    def _chosen(self, problem: Any, place: str, device: Device, gpu: Hardware) -> Choice:
        pinned = _pins.get((self.name, place, str(device)), _pins.get((self.name, place, None)))
        if pinned is not None:
            return Choice(self.name, str(device), place, pinned, "pinned", None)
        kept, _ = self.ranking(problem, gpu)
        if level[0] != "off":
            kept = [config for config in kept if self.deterministic(config)] or kept[:1]
        elif state.mode != "off" and device.type in benches:
            for source, table in (("user's table", _users(gpu)), ("shipped table", tables.shipped(*_who(gpu)))):
                best = None if table is None or self.name not in table.tunables else self._fastest(table, place, kept)
                if best is not None:
                    return Choice(self.name, str(device), place, best[0], source, best[1])
        source = "model" if self._default is None else "declared"
        return Choice(self.name, str(device), place, kept[0], source, None)

    def _fastest(self, table: Table, place: str, kept: list[Config]) -> tuple[Config, float] | None:
        """The fastest of today's candidates in a table; the default unless another is clearly faster."""
        results = table.results(self.name, self.stamp, place)
        timed = [(results[c.text]["ms"], c) for c in kept if "ms" in results.get(c.text, ())]
        if not timed:
            return None
        ms, best = min(timed, key=lambda entry: entry[0])
        first = results.get(kept[0].text, {})
        # Within the noise of one measurement two candidates are equal, and the choice must not turn on it.
        noise = min(max(first.get("spread", 0.0), results[best.text].get("spread", 0.0)), NOISE * ms)
        if "ms" in first and first["ms"] <= ms + noise:
            return kept[0], first["ms"]
        return best, ms

    # -- the search

    def _search(
        self, problem: Any, place: str, device: Device, gpu: Hardware, run: Callable[..., Any], outputs: tuple[Any, ...]
    ) -> None:
        make = benches.get(device.type)
        if make is None or (place, device) in self._searched:
            return
        with _lock:
            bench = make(device)
            if not bench.ready():
                return
            self._searched.add((place, device))
            kept, refused = self.ranking(problem, gpu)
            kept = kept[: state.limit]
            known = _users(gpu).results(self.name, self.stamp, place)
            found = Table(*_who(gpu))
            version = str(getattr(versions.installed(), "version", "unknown"))

            def note(config: Config, result: dict[str, Any], number: int = 0) -> None:
                if "failed" not in result or result["failed"] != known.get(config.text, {}).get("failed"):
                    found.record(self.name, self.stamp, place, config.text, {**result, "when": round(time.time(), 3)})
                if state.watch is not None:
                    state.watch(Progress(self.name, place, config.text, number, len(kept), result))

            for config, reason in refused.items():
                note(config, {"failed": reason})
            todo = [c for c in kept if state.again or known.get(c.text, {}).get("triton") != version]
            try:
                if todo:
                    self._time(bench, kept, todo, known, version, run, outputs, note)
            except OutOfMemoryError as error:
                warnings.warn(
                    f"autotune: {self.name} {place} is not timed: no memory for copies of its outputs: {error}",
                    stacklevel=5,
                )
            finally:
                if len(found):
                    _keep(found, gpu)

    def _time(
        self,
        bench: Bench,
        kept: list[Config],
        todo: list[Config],
        known: tables.Results,
        version: str,
        run: Callable[..., Any],
        outputs: tuple[Any, ...],
        note: Callable[[Config, dict[str, Any], int], None],
    ) -> None:
        """Time candidates, the default first: its result is what the others' are held to."""
        reference: list[np.ndarray] | None = None
        best = math.inf
        for number, config in enumerate(kept, 1):
            if config not in todo:
                best = min(best, known[config.text].get("ms", math.inf))
                if config is not kept[0]:
                    continue
            copies = tuple(bench.copy(array) for array in outputs)
            try:
                run(config, *copies)
                bench.synchronize()
            except OutOfMemoryError:
                raise
            except (KernelError, DeviceError) as error:
                if config is kept[0]:
                    raise  # the program could not have gone on without a search either
                note(config, {"failed": _first_line(error), "triton": version}, number)
                bench.synchronize()  # a GPU that is lost says so here, and the search ends with its error
                continue
            results = [bench.read(array) for array in copies]
            if reference is None:
                reference = results
            else:
                wrong = differs(results, reference, self.tolerance)
                if wrong:
                    note(config, {"wrong": wrong, "triton": version}, number)
                    warnings.warn(
                        f"autotune: {self.name} gives other results with {config} than with {kept[0]} ({wrong}): it is "
                        f"never chosen; please report this, with what `tensorlib doctor` prints",
                        stacklevel=6,
                    )
                    continue
            if config in todo:
                result = timed(bench, functools.partial(run, config, *copies), best)
                best = min(best, result["ms"])
                note(config, {**result, "triton": version}, number)


def _source(function: Jit) -> str:
    try:
        return fingerprint.source(function.fn)
    except fingerprint.Unknown:  # made at run time
        code = function.fn.__code__
        return repr((code.co_code, code.co_consts, code.co_names))


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]


# --------------------------------------------------------------------------------------------------------- measuring


class Bench(Protocol):
    """What a search needs of a device: GPUs have `EventBench`, tests their own."""

    def ready(self) -> bool:
        """Whether anything may be timed now: not while a graph is captured."""

    def synchronize(self) -> None:
        """Wait for the device."""

    def copy(self, array: Any) -> Any:
        """An array of the same shape, strides and contents in memory of its own."""

    def read(self, array: Any) -> np.ndarray:
        """The array's memory on the host, all of it or enough to tell a wrong result."""

    def times(self, run: Callable[[], Any], repetitions: int) -> list[float]:
        """Milliseconds of each repetition, with cold caches before each."""


#: How the devices of a type are measured.
benches: dict[str, Callable[[Device], Bench]] = {}

WARM_UP, LEAST, MOST = 2, 5, 50  # runs
BUDGET = 30.0  # milliseconds that the repetitions of one candidate may take, once there are LEAST
NOISE = 0.05  # the share of a time by which the default may be slower and is kept, where measurements spread so far
ABANDON = 1.5  # a candidate whose quickest of LEAST runs takes so many times the best's median is not timed further


def timed(bench: Bench, run: Callable[[], Any], best: float) -> dict[str, Any]:
    """{"ms": median, "spread": interquartile range, "runs": how many}; few runs where it is clearly slower."""
    bench.times(run, WARM_UP)
    found = bench.times(run, LEAST)
    if min(found) <= ABANDON * best:
        more = int(min(MOST, BUDGET / max(min(found), 1e-6))) - LEAST
        if more > 0:
            found = found + bench.times(run, more)
    low, middle, high = np.percentile(found, [25, 50, 75]).tolist()
    return {"ms": round(middle, 6), "spread": round(high - low, 6), "runs": len(found)}


_PRECISION = {"f": 2.0**-23, "d": 2.0**-52, "e": 2.0**-10}


def differs(results: Sequence[np.ndarray], reference: Sequence[np.ndarray], tolerance: float) -> str:
    """Where results are not the reference's: "" when they are, within tolerance; integers and bools exactly.

    |x - r| <= tolerance * eps * (|r| + rms(r)), eps of the dtype; infinities and NaN at the same places.
    """
    for number, (x, r) in enumerate(zip(results, reference, strict=True)):
        if x.dtype.kind in "biu":
            bad = x != r
        else:
            eps = _PRECISION.get(x.dtype.char)
            if eps is None:  # ml_dtypes' bfloat16 and float8
                eps = 2.0**-7 if x.dtype.itemsize == 2 else 2.0**-2
            wide = np.float64 if x.dtype.itemsize == 8 else np.float32
            a: Any = x.astype(wide)
            b: Any = r.astype(wide)
            with np.errstate(all="ignore"):
                finite = np.isfinite(b)
                scale = float(np.sqrt(np.mean(np.square(b[finite], dtype=np.float64)))) if finite.any() else 0.0
                near = np.abs(a - b) <= tolerance * eps * (np.abs(b) + scale)
                bad = ~np.where(finite, near, (a == b) | (np.isnan(a) & np.isnan(b)))
        if bad.any():
            at = int(np.argmax(bad))
            return (
                f"output {number}: {int(bad.sum())} of {bad.size} elements, first {x.reshape(-1)[at]!s} "
                f"for {r.reshape(-1)[at]!s}"
            )
    return ""


_READ_WHOLE = 32 << 20  # bytes of an output that are compared whole; of a larger one, pieces
_PIECES, _PIECE = 128, 64 << 10


def extent(array: Any) -> tuple[int, int]:
    """(elements before the first one's address, elements in all) of the memory that a strided array lies in."""
    low = sum(s * (n - 1) for s, n in zip(array.strides, array.shape, strict=True) if s < 0)
    high = sum(s * (n - 1) for s, n in zip(array.strides, array.shape, strict=True) if s > 0)
    return -low, high - low + 1


class EventBench:
    """Times by a GPU's events on the thread's current stream, with the L2 written over before each repetition."""

    def __init__(self, device: Device) -> None:
        self.gpu = device.engine
        self.driver = self.gpu.driver
        self.flush = max(2 * self.gpu.properties.L2_cache_size, 32 << 20)
        self._buffer: tuple[int, Any] | None = None

    def ready(self) -> bool:
        """Not while a graph is captured."""
        return self.gpu.local.capture is None

    def synchronize(self) -> None:
        """Wait for the GPU."""
        self.gpu.synchronize()

    def copy(self, array: Any) -> Any:
        """Device to device, the memory between the elements too."""
        before, elements = extent(array)
        nbytes = elements * array.dtype.itemsize if array.size else 0
        ptr, owner = self.gpu.allocate(max(nbytes, 1))
        offset = before * array.dtype.itemsize
        if nbytes:
            self.gpu.activate()
            self.driver.copy(ptr, array.ptr - offset, nbytes, self.gpu.stream)
        return type(array)(ptr + offset, array.shape, array.strides, array.dtype, array.device, owner)

    def read(self, array: Any) -> np.ndarray:
        """The memory of an output up to 32 MB, 64 KB pieces spread evenly over a larger one."""
        return read_memory(self.gpu, array)

    def times(self, run: Callable[[], Any], repetitions: int) -> list[float]:
        """The flush before each repetition keeps the GPU busy while the host prepares the launch: it is not timed."""
        gpu, driver = self.gpu, self.driver
        if self._buffer is None:
            self._buffer = gpu.allocate(self.flush)
        gpu.activate()
        stream = gpu.stream
        events = [(driver.event_create(timing=True), driver.event_create(timing=True)) for _ in range(repetitions)]
        try:
            for start, end in events:
                driver.fill(self._buffer[0], 0, self.flush, stream)
                driver.event_record(start, stream)
                run()
                driver.event_record(end, stream)
            driver.stream_synchronize(stream)
            # An event has a resolution of about half a microsecond: what is shorter than that is not nothing.
            return [max(driver.event_elapsed(start, end), 1e-4) for start, end in events]
        finally:
            for pair in events:
                for event in pair:
                    driver.event_destroy(event)


benches["cuda"] = benches["hip"] = EventBench


def read_memory(memory: Any, array: Any) -> np.ndarray:
    """The elements of the memory an array lies in, through an engine's ``read``: all, or pieces of a large one."""
    before, elements = extent(array)
    size = array.dtype.itemsize
    if not array.size:
        return np.empty(0, array.dtype)
    start, nbytes = array.ptr - before * size, elements * size
    spans = [(start, nbytes)]
    if nbytes > _READ_WHOLE:
        step = (nbytes - _PIECE) // (_PIECES - 1) // size * size
        spans = [(start + i * step, _PIECE) for i in range(_PIECES - 1)] + [(start + nbytes - _PIECE, _PIECE)]
    out = np.empty(sum(n for _, n in spans), np.uint8)
    at = 0
    for ptr, n in spans:
        memory.read(ptr, array.owner, out[at : at + n])
        at += n
    return out.view(array.dtype)


# ---------------------------------------------------------------------------------------------------------- the tables


def _who(gpu: Hardware) -> tuple[str, str]:
    return gpu.name, gpu.target


def path(gpu: Hardware) -> Path | None:
    """The user's file for a device; None where nothing is kept on disk."""
    folder = tables.folder()
    return None if folder is None else folder / tables.file_name(*_who(gpu))


def _users(gpu: Hardware) -> Table:
    found = _user.get(_who(gpu))
    if found is None:
        with _lock:
            found = _user.get(_who(gpu))
            if found is None:
                file = path(gpu)
                found = (None if file is None else tables.load(file)) or Table(*_who(gpu))
                _user[_who(gpu)] = found
    return found


def _keep(found: Table, gpu: Hardware) -> None:
    """Add results to the user's table, in memory and in its file."""
    mine = _users(gpu)
    mine.merge(found)
    file = path(gpu)
    if file is None:
        return
    try:
        _user[_who(gpu)] = tables.save(found, file)
    except OSError as error:
        warnings.warn(f"autotune: what was measured is not kept after this process: {error}", stacklevel=6)


def reload() -> None:
    """Forget the tables and choices of this process: the files are read again when a choice is next made."""
    with _lock:
        _user.clear()
        tables.forget()
        for tunable in tunables.values():
            tunable.choices.clear()
            tunable._searched.clear()
        _refresh()


def clear() -> list[Path]:
    """Remove the user's tables; returns the files that were there."""
    folder = tables.folder()
    there = sorted(folder.glob("*.json")) if folder is not None and folder.is_dir() else []
    gone = [file for file in there if tables.clear(file)]
    reload()
    return gone


# ------------------------------------------------------------------------------------------------- to see and to pin


def _tunable(name: str) -> Tunable:
    found = tunables.get(name)
    if found is None:
        raise ArgumentError(f"autotune: no tunable is called {name!r}; there are {', '.join(sorted(tunables))}")
    return found


def pin(name: str, key: Any, config: Config | str, device: Any = None) -> None:
    """Run a bucket of problems with this configuration, whatever was measured, until ``unpin``.

    key: a problem, or the text of its bucket as ``report`` shows it. config: a Config or its text. device: where it
    holds; everywhere for None. A pin is not checked against the device: what does not run is an error at the launch.
    """
    tunable = _tunable(name)
    place = key if isinstance(key, str) else describe(tunable.key(key))
    chosen = Config.parse(config) if isinstance(config, str) else config
    with _lock:
        _pins[name, place, None if device is None else str(Device(device))] = chosen
        _refresh()


def unpin(name: str | None = None) -> None:
    """Take back the pins of a tunable, or all of them."""
    with _lock:
        for entry in [p for p in _pins if name is None or p[0] == name]:
            del _pins[entry]
        _refresh()


def choices() -> list[Choice]:
    """What was chosen in this process so far."""
    return [choice for _, tunable in sorted(tunables.items()) for choice in tunable.choices.values()]


def report() -> str:
    """What was chosen in this process, a line a bucket of problems, with the reason."""
    lines = []
    for choice in choices():
        took = "" if choice.ms is None else f", {choice.ms:.4g} ms"
        lines.append(f"{choice.tunable} on {choice.device}: {choice.bucket} -> {choice.config} ({choice.source}{took})")
    return "\n".join(lines) if lines else "no configuration was chosen in this process yet"
