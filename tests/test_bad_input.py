"""Wrong arguments to every public function: an exception of Python's usual types that names the function, at once."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorlib
from tensorlib._samples import Draw
from tensorlib.errors import TensorlibError
from tensorlib.op import Op, declared
from tensorlib.testing.calls import tensors

NN = Path(__file__).parent / "nn"
sys.path.insert(0, str(NN))
from layer_cases import CASES  # noqa: E402

sys.path.remove(str(NN))

LIBRARY = [made for made in declared() if made.__module__.startswith("tensorlib.") and made.where]
#: Read or write memory where the caller says it is.
UNCHECKED = {"frombuffer", "as_strided", "as_strided_", "as_strided_scatter", "as_strided_copy"}


class Thing:
    """An object that is none of what any function takes."""


#: 2**62 elements are more than any address space, whatever the system says of memory it does not have.
BAD = (None, "x", ["a"], Thing(), float("nan"), 2**62, 2**70, -(2**63), -7, 1.5, True, 1j, (2**62, 2**62), {}, b"x")
MESSAGE = re.compile(r"(?<![\w.'\"=])_[a-z]\w+(\(\)|:)")


def _bad_tensors(x: np.ndarray) -> Iterator[Any]:
    for dtype in ("bool", "complex64", "int64"):
        with np.errstate(invalid="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield tensorlib.tensor(np.asarray(x).astype(dtype))
    yield tensorlib.tensor(np.zeros((), x.dtype))
    yield tensorlib.tensor(np.zeros((0, 3), x.dtype))
    yield tensorlib.tensor(np.zeros((3, 5, 7, 2, 3), x.dtype))


def _first(made: Any) -> tuple[list[Any], dict[str, Any]] | None:
    if not made.samples:
        n = len(made.tensors) if isinstance(made, Op) and made.pointwise else 0
        return ([np.full((3, 4), 0.5, np.float32)] * n, {}) if n else None
    for sample in made.samples:
        args = list(sample.arrays())
        if all(np.size(a) < 1000 for a in args if isinstance(a, np.ndarray)):
            return args, {k: v for k, v in sample.attrs.items() if not isinstance(v, Draw)}
    return None


def _mutants(made: Any) -> Iterator[tuple[list[Any], dict[str, Any]]]:
    first = _first(made)
    if first is None:
        return
    args, attrs = first
    given, _ = tensors(args)
    yield given, {**attrs, "no_such_name": 1}
    yield [*given, *[None] * 12], attrs
    yield [], {}
    for i, a in enumerate(args):
        yield given[:i], attrs
        for bad in (*BAD, *(_bad_tensors(a) if isinstance(a, np.ndarray) else ())):
            yield [*given[:i], bad, *given[i + 1 :]], attrs
    for p in list(made.signature.parameters.values())[len(args) :]:
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in ("seed", "offset", "niter"):
            for bad in BAD:
                yield given, {**attrs, p.name: bad}


def _complaint(error: Exception, names: set[str]) -> str:
    """What is wrong with an exception; empty when nothing is."""
    kinds = (TypeError, ValueError, RuntimeError, IndexError)
    if not isinstance(error, kinds) or isinstance(error, NotImplementedError) > isinstance(error, TensorlibError):
        return "is of a type that PyTorch does not raise"
    if not any(re.search(rf"\b{re.escape(name)}", str(error)) for name in names):
        return "does not name the function"
    private = {found[0].rstrip("():\"") for found in MESSAGE.finditer(str(error))} - names  # PyTorch has public _names
    return "names a private operator" if private else ""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("made", [m for m in LIBRARY if m.name not in UNCHECKED], ids=lambda m: m.name)
def test_of_an_operator(made: Any) -> None:
    bare = re.sub("^(linalg|fft|special)_", "", made.name)
    names = {made.name, bare, *(a.rpartition(".")[2] for a in made.alias)}
    with np.errstate(all="ignore"):
        for args, attrs in _mutants(made):
            try:
                made.public(*args, **attrs)
            except Exception as error:
                complaint = _complaint(error, names)
                assert not complaint, f"{made.name}{(*args, attrs)}: {type(error).__name__} {complaint}: {error}"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layer", sorted({case.layer for case in CASES}))
def test_of_a_layer(layer: str) -> None:
    """Constructor and forward; what comes from a function below names the layer too."""
    case = next(c for c in CASES if c.layer == layer)
    make = getattr(tensorlib.nn, layer)
    def attempt(args: Any, inputs: Any) -> None:
        try:
            make(*args, **case.options)(*inputs, **case.call)
        except (AssertionError, TypeError, ValueError, RuntimeError, IndexError) as error:
            if not isinstance(error, AssertionError):  # which some of PyTorch's layers raise as well
                complaint = _complaint(error, {layer})
                assert not complaint, f"{layer}{args}{inputs}: {type(error).__name__} {complaint}: {error}"

    def convert(a: Any) -> Any:
        if isinstance(a, (tuple, list)):
            return type(a)([convert(v) for v in a])
        return tensorlib.tensor(a) if isinstance(a, np.ndarray) else a

    args, given = [convert(a) for a in case.args], [convert(a) for a in case.inputs]
    for i in range(len(args)):
        for bad in (None, "x", Thing(), -7, 0, 1.5):
            attempt([*args[:i], bad, *args[i + 1 :]], given)
    for i, x in enumerate(case.inputs):
        for bad in (None, "x", 3, Thing(), *(_bad_tensors(x) if isinstance(x, np.ndarray) else ())):
            attempt(args, [*given[:i], bad, *given[i + 1 :]])


@pytest.mark.parametrize(
    "made", [m for m in LIBRARY if isinstance(m, Op) and m.inplace and m.pointwise], ids=lambda m: m.name
)
def test_of_an_operator_in_place(made: Op) -> None:
    """What failed has not written."""
    method = getattr(tensorlib.Tensor, f"{made.name}_")
    x = tensorlib.full((2, 3), 0.5)
    rest: list[Any] = [tensorlib.full((2, 3), 0.5) for _ in made.tensors[1:]]
    for bad in (None, "x", Thing(), tensorlib.ones(7), tensorlib.ones(5, 2, 3)):
        for i in range(len(rest)):
            if bad is None and made.tensors[1 + i].kind == "optional":
                continue
            with pytest.raises((TypeError, RuntimeError)):
                method(x, *[bad if i == j else r for j, r in enumerate(rest)])
    with pytest.raises(TypeError):
        method(x, no_such_name=1)
    assert x.tolist() == [[0.5] * 3] * 2 and not (x._writes or [0])[0]
    expanded = tensorlib.full((1, 3), 0.5).expand(2, 3)
    with pytest.raises(RuntimeError):
        method(expanded, *rest)
    leaf = tensorlib.full((2, 3), 0.5, requires_grad=True)
    with pytest.raises(RuntimeError):
        method(leaf, *rest)


X = tensorlib.arange(12.0).reshape(3, 4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tensorlib.softmax(X, "x"), TypeError, r"softmax\(\): argument 'dim' must be int, not str"),
        (lambda: tensorlib.softmax(X, True), TypeError, r"softmax\(\): argument 'dim' must be int, not bool"),
        (lambda: tensorlib.softmax(3.0, 0), TypeError, r"softmax\(\): argument 'input' must be Tensor, not float"),
        (lambda: tensorlib.topk(None, 2), TypeError, r"topk\(\): argument 'input' must be Tensor, not NoneType"),
        (lambda: tensorlib.topk(X, 2, 7), IndexError, "^topk: dim 7"),
        (lambda: tensorlib.std(X, 9), IndexError, "^std: dim 9"),
        (lambda: tensorlib.tril(X, 1.5), TypeError, r"tril\(\): argument 'diagonal' must be int, not float"),
        (lambda: X.sum(dtype="float31"), TypeError, r"sum\(\): argument 'dtype' must be dtype, not str: "),
        (lambda: X.sum(0, keepdim="x"), TypeError, r"sum\(\): argument 'keepdim' must be bool, not str"),
        (lambda: tensorlib.zeros(2**62), RuntimeError, "^zeros: .*4611686018427387904"),
        (lambda: tensorlib.zeros(2**63), ValueError, "^zeros: "),
        (lambda: tensorlib.hann_window(2**63), ValueError, "^hann_window: "),
        (lambda: tensorlib.zeros(3, layout="sparse"), TypeError, "argument 'layout'"),
        (lambda: tensorlib.zeros(3, device=[]), TypeError, "argument 'device'"),
        (lambda: X.sum(2**70), ValueError, "does not fit a 64-bit integer"),
        (lambda: tensorlib.cat([X, None]), TypeError, "element 1 in argument 'tensors'"),
        (lambda: tensorlib.nn.Linear(None, 3), TypeError, r"Linear\(\): argument 'in_features' must be int"),
        (lambda: tensorlib.nn.Conv1d(3, 4, 3, no_such_name=1), TypeError, r"^Conv1d.__init__\(\) got an unexpected"),
        (lambda: tensorlib.nn.Conv1d(3, 4, 3)(), TypeError, r"^Conv1d.forward\(\) missing"),
        (lambda: tensorlib.nn.BatchNorm1d(3)(None), TypeError, r"BatchNorm1d\(\): argument 'input' must be Tensor"),
    ],
)
def test_types_and_messages(call: Any, error: type[Exception], message: str) -> None:
    """As PyTorch 2.13 raises them, where it does not stumble over an attribute of None."""
    with pytest.raises(error, match=message):
        call()


def test_errors_of_callers_stay_theirs() -> None:
    """An exception from a caller's code passes through layers and functions as it is."""

    class Own(tensorlib.nn.Module):
        def forward(self, x: Any) -> Any:
            return {}[x]

    with pytest.raises(KeyError, match=r"^'a'$"):
        tensorlib.nn.Sequential(Own())("a")
    with pytest.raises(ZeroDivisionError):
        tensorlib.nn.functional.triplet_margin_with_distance_loss(X, X, X, distance_function=lambda a, b: 1 / 0)


_WIDE, _SQUARE = tensorlib.ones(3, 4), tensorlib.zeros(3, 3)
_NN = tensorlib.nn.functional


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: tensorlib.linalg.inv(_WIDE), RuntimeError, "linalg.inv: A must be batches of square"),
        (lambda: tensorlib.linalg.inv_ex(_WIDE), RuntimeError, "linalg.inv_ex: A must be batches of square"),
        (lambda: tensorlib.linalg.solve(_SQUARE, tensorlib.ones(3)), RuntimeError, "linalg.solve: The solver failed"),
        (lambda: tensorlib.linalg.svd("a"), TypeError, "linalg.svd(): argument 'A' must be"),
        (lambda: tensorlib.linalg.multi_dot([_WIDE]), RuntimeError, "linalg.multi_dot(): expected at least 2"),
        (lambda: tensorlib.fft.fft(_WIDE, n=-1), RuntimeError, "fft.fft: Invalid number of data points"),
        (lambda: _WIDE.split([1, 1]), RuntimeError, "split: expects split_sizes to sum"),
        (lambda: tensorlib.split_with_sizes(_WIDE, [1, 1]), RuntimeError, "split_with_sizes: expects split_sizes"),
        (
            lambda: tensorlib.linalg.svd(tensorlib.empty(3, 3, device="sm_90")), RuntimeError,
            "linalg.svd: runs on the CPU only",
        ),
        (
            lambda: _NN.cross_entropy(_WIDE, tensorlib.ones(3)), RuntimeError,
            "cross_entropy: expected target dtype to be Long or Byte, but target is float32: class indices are int64: "
            "use target.long()",
        ),
        (lambda: _NN.cross_entropy(_WIDE, _WIDE.long()), RuntimeError, "cross_entropy: target has the input's shape"),
        (lambda: _NN.cross_entropy(_WIDE, tensorlib.ones(2)), ValueError, "cross_entropy: Expected input batch_size"),
        (lambda: tensorlib.eye(-1), RuntimeError, "eye: n must be greater or equal to 0, got -1"),
        (lambda: tensorlib.nn.LazyLinear(3)([1.0]), TypeError, "LazyLinear(): argument 'input' must be Tensor, not"),
        (lambda: tensorlib.nn.LazyInstanceNorm1d()(X[0]), RuntimeError, "LazyInstanceNorm1d: expected (n, c, …)"),
        (lambda: tensorlib.nn.RMSNorm(None), TypeError, "RMSNorm: normalized_shape: expected an int or a tuple of"),
        (lambda: tensorlib.nn.ReflectionPad1d("a"), TypeError, "ReflectionPad1d: padding: expected an int or a tuple"),
        (lambda: bool(_WIDE), RuntimeError, "Boolean value of Tensor with more than one value is ambiguous"),
    ],
)  # fmt: skip
def test_a_message_begins_with_the_public_name_once(call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as raised:
        call()
    assert str(raised.value).startswith(message)


def test_methods_are_named_after_tensor() -> None:
    assert tensorlib.Tensor.size.__qualname__ == "Tensor.size"
    assert not any("_Methods" in getattr(value, "__qualname__", "") for value in vars(tensorlib.Tensor).values())
