"""Checks that cannot fail prove nothing: each kind of mistake, made on purpose, is found by the check made for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tensorlib
from tensorlib import op as operators
from tensorlib._array import empty, is_contiguous
from tensorlib._promotion import INT_TO_FLOAT, PROMOTE
from tensorlib._samples import draw, each, fails
from tensorlib.errors import AutogradError, KernelError, ShapeError
from tensorlib.kernels.pointwise import copy
from tensorlib.op import Array, Dim, composite, op, pointwise
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.launch import cdiv, launch
from tensorlib.runtime.native import codegen
from tensorlib.testing import Check, CheckError, checks, kernels

#: The check that what the interpreter finds is also found in machine code, where that can be made.
NATIVE = ("native",) if codegen.available() else ()


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """What a test declares is gone after it."""
    before, composites = dict(operators.registry), dict(operators.composites)
    yield
    for now, then in ((operators.registry, before), (operators.composites, composites)):
        for name in set(now) - set(then):
            del now[name]


def outcome(check: Check) -> Exception | None:
    try:
        check()
    except Exception as error:
        return error
    return None


def failing(made: Any) -> dict[str, Exception]:
    """The checks of an operator that fail, all of them having run."""
    found = {check.name: outcome(check) for check in checks(made)}
    return {name: error for name, error in found.items() if error is not None}


@jit
def _twice(x):
    return x + x


@jit
def _thrice(x):
    return x + x + x


def same_spec(input: Any, *_: Any, **__: Any) -> Any:
    return tuple(input.shape), input.dtype


def twice(**options: Any) -> Any:
    """2 input, rightly declared but for the options."""

    def _mutant(input: Array):
        """2 input, elementwise, of any shape."""
        return input + input

    return pointwise(_twice, **{"promote": INT_TO_FLOAT, "vjp": lambda g: g + g, **options})(_mutant)


# A kernel of one's own: 2 x, BLOCK elements a program.
@jit
def _twice_kernel(out, x, n, MASKED: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if MASKED:
        value = tl.load(x + i, mask=i < n)
    else:
        value = tl.load(x + i)
    tl.store(out + i, value + value, mask=i < n)


@jit
def _long_kernel(out, x, n, MASKED: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + i, mask=i < n)
    tl.store(out + i, value * 2, mask=i < n)


def kernel(masked: bool, programs: int = 0) -> Callable[..., None]:
    def run(out: Any, input: Any) -> None:
        grid = cdiv(out.size, 16) - programs
        launch(_twice_kernel, (grid,), out, input, out.size, MASKED=masked, BLOCK=16)

    return run


def own(**options: Any) -> Any:
    """2 input by a kernel of its own, rightly declared but for the options."""
    samples = each(draw((5,)), draw((3, 7)), draw((0,)), draw((16,)))

    def _mutant(input: Array):
        """2 input, elementwise, of any shape."""
        return input + input

    given = {"spec": same_spec, "kernel": _contiguous(kernel(True)), "promote": INT_TO_FLOAT, "vjp": lambda g: g + g}
    return op(**{**given, "samples": samples, **options})(_mutant)


def _contiguous(run: Callable[..., None]) -> Callable[..., None]:
    """The host function, for inputs of any strides."""

    def host(out: Any, input: Any) -> None:
        if not is_contiguous(input):
            packed = empty(input.shape, input.dtype, input.device)
            copy(packed, input)
            input = packed
        run(out, input)

    return host


def test_right_declarations_pass() -> None:
    assert not failing(twice(inplace=True, name="right"))
    assert not failing(own(name="right_kernel"))


def test_wrong_gradient() -> None:
    found = failing(twice(vjp=lambda g: g))
    assert "gradient" in found
    assert "central differences" in str(found["gradient"])
    assert not {"kernel", "compile", "spec", "inputs"} & set(found)


def test_missing_gradient_of_one_input() -> None:
    @jit
    def _mul(x, y):
        return x * y

    @pointwise(_mul, promote=PROMOTE, vjp=dict(input=lambda g, other: g * other))
    def _mutant(input: Array, other: Array):
        """input * other, elementwise."""
        return input * other

    assert "gradient" in failing(_mutant)


def test_gradient_not_brought_back_to_the_input() -> None:
    def spec(input: Any, other: Any) -> Any:
        return np.broadcast_shapes(input.shape, other.shape), input.dtype

    @op(spec=spec, promote=PROMOTE, vjp=dict(input=lambda g: g, other=lambda g: g), samples=each(draw((3, 4), (4,))))
    def _mutant(input: Array, other: Array):
        """input + other; not pointwise, so that its gradients are its own to sum."""
        return input + other

    found = failing(_mutant)
    assert "has shape (3, 4), the input (4,): a missing sum_to_size?" in str(found["gradient"])


def test_wrong_operation_in_the_kernel() -> None:
    def _mutant(input: Array):
        """2 input, elementwise."""
        return input + input

    found = failing(pointwise(_thrice, promote=INT_TO_FLOAT, vjp=lambda g: g + g)(_mutant))
    assert set(found) == {"kernel", *NATIVE}
    assert "kernel on interpret against the CPU" in str(found["kernel"])


def test_float64_computed_in_float32() -> None:
    """Right in every dtype but float64, and there only as exact as float32."""

    @jit
    def _single_kernel(out, x, n, BLOCK: tl.constexpr):
        i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        value = tl.load(x + i, mask=i < n).to(tl.float32)
        tl.store(out + i, value + value, mask=i < n)

    def run(out: Any, input: Any) -> None:
        launch(_single_kernel, (cdiv(out.size, 16),), out, input, out.size, BLOCK=16)

    found = failing(own(kernel=_contiguous(run)))
    assert set(found) == {"kernel", *NATIVE}
    assert "float64: kernel on interpret against the CPU" in str(found["kernel"])


def test_unmasked_load() -> None:
    found = failing(own(kernel=_contiguous(kernel(False))))
    assert set(found) == {"kernel"}
    assert isinstance(found["kernel"], KernelError)
    assert "out of bounds" in str(found["kernel"])


def test_unmasked_store() -> None:
    @jit
    def _beyond_kernel(out, x, n, BLOCK: tl.constexpr):
        i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        value = tl.load(x + i, mask=i < n)
        tl.store(out + i, value + value)

    def run(out: Any, input: Any) -> None:
        launch(_beyond_kernel, (cdiv(out.size, 16),), out, input, out.size, BLOCK=16)

    found = failing(own(kernel=_contiguous(run)))
    assert set(found) == {"kernel", *NATIVE}
    assert "out of bounds" in str(found["kernel"])
    for name in NATIVE:  # nothing watches machine code, but the memory around the blocks
        assert "was written 0 bytes after its end" in str(found[name])


def test_elements_nobody_writes() -> None:
    found = failing(own(kernel=_contiguous(kernel(True, programs=1)), samples=each(draw((5,)), draw((40,)))))
    assert "kernel" in found  # they hold what `empty` was poisoned with
    assert "nan" in str(found["kernel"])


def test_kernel_that_no_sample_launches() -> None:
    """A host function with a second kernel for inputs that no sample has."""

    def run(out: Any, input: Any) -> None:
        launch(_long_kernel if out.size > 1000 else _twice_kernel, (cdiv(out.size, 16),), out, input, out.size,
               MASKED=True, BLOCK=16)  # fmt: skip

    missing = f"{__name__}._long_kernel"
    assert missing in kernels.unreached([own(kernel=_contiguous(run)).op], (__name__,))
    operators.registry.pop("_mutant")
    made = own(kernel=_contiguous(run), samples=each(draw((5,)), draw((1001,))))
    assert missing not in kernels.unreached([made.op], (__name__,))


def test_strides_the_kernel_does_not_heed() -> None:
    assert "kernel" in failing(own(kernel=kernel(True)))


def test_kernel_that_does_not_compile() -> None:
    @jit
    def _bad(x):
        return tl.no_such_function(x)

    found = failing(twice_of(_bad))
    assert {"kernel", "compile"} <= set(found)


def twice_of(function: Any) -> Any:
    def _mutant(input: Array):
        """2 input, elementwise."""
        return input + input

    return pointwise(function, promote=INT_TO_FLOAT, vjp=lambda g: g + g)(_mutant)


def test_half_type_not_upcast_in_the_kernel() -> None:
    """tl.exp of bfloat16 does not compile: a host function that does not upcast is found before a GPU finds it."""

    @jit
    def _exp_kernel(out, x, n, BLOCK: tl.constexpr):
        i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        tl.store(out + i, tl.exp(tl.load(x + i, mask=i < n)), mask=i < n)

    def run(out: Any, input: Any) -> None:
        launch(_exp_kernel, (cdiv(out.size, 16),), out, input, out.size, BLOCK=16)

    @op(spec=same_spec, kernel=_contiguous(run), promote=INT_TO_FLOAT, samples=each(draw((5,))))
    def _mutant(input: Array):
        """e**input, elementwise."""
        return np.exp(input)

    assert {"kernel", "compile"} <= set(failing(_mutant))


def test_wrong_shape_in_spec() -> None:
    found = failing(own(spec=lambda input: ((*input.shape, 1), input.dtype)))
    assert "spec says" in str(found["spec"])


def test_wrong_dtype_in_spec() -> None:
    for wrong in (np.dtype(np.float64), np.dtype(np.int64)):
        found = failing(own(spec=lambda input, wrong=wrong: (input.shape, wrong)))
        assert f"spec says {wrong}" in str(found["spec"])
        operators.registry.pop("_mutant")


def test_body_worse_than_its_dtype() -> None:
    def _mutant(input: Array):
        """e**input, elementwise."""
        return np.exp(input.astype(np.float16)).astype(input.dtype) if input.dtype == np.float32 else np.exp(input)

    found = failing(
        op(spec=same_spec, promote=INT_TO_FLOAT, vjp=lambda g, out: g * out, samples=each(draw((9,))))(_mutant)
    )
    assert "against float64" in str(found["oracle"])


def test_cpu_implementation_other_than_the_reference() -> None:
    assert "reference" in failing(twice(cpu=lambda input: input * 2.01))


def test_unknown_name_in_a_vjp() -> None:
    with pytest.raises(TypeError, match="a vjp asks for 'inputt', which is none of g, needs, input"):
        twice(vjp=lambda g, inputt: g)
    with pytest.raises(TypeError, match="vjp names 'other', which is not a tensor parameter"):
        twice(vjp=dict(other=lambda g: g))
    assert "_mutant" not in operators.registry


def test_two_declarations_of_one_name() -> None:
    twice()
    with pytest.raises(TypeError, match="'_mutant' is declared twice"):
        twice()
    with pytest.raises(TypeError, match="'_mutant' is declared twice"):

        @composite()
        def _mutant(input: Any) -> Any:
            return input


def test_input_written_without_saying_so() -> None:
    def body(input: Array):
        """2 input, written over the input."""
        return np.multiply(input, 2, out=input) if input.dtype.kind == "f" else input + input

    body.__name__ = "_mutant"
    found = failing(op(spec=same_spec, promote=PROMOTE, vjp=lambda g: g + g, samples=each(draw((4,))))(body))
    assert "was written, and is not in mutates" in str(found["inputs"])


def test_backward_reads_what_was_overwritten() -> None:
    """An auxiliary output that is the input's own memory has another version counter: backward reads stale numbers."""

    @op(
        spec=lambda input: [(input.shape, input.dtype)] * 2,
        aux=("kept",),
        promote=PROMOTE,
        vjp=lambda g, kept: g * kept * 2,
        samples=each(draw((4,)), draw((2, 3))),
    )
    def _mutant(input: Array):
        """input squared, elementwise."""
        return input * input, input

    found = failing(_mutant)
    assert "backward read memory that was overwritten, without an error" in str(found["stale"])

    x = tensorlib.ones(3, requires_grad=True)
    y = x * 1
    z = y.exp()
    z.add_(1)
    with pytest.raises(AutogradError, match="modified by an inplace operation"):
        z.sum().backward()


def logsumexp(**options: Any) -> Any:
    """log(sum(exp(input))) with its own result as what backward needs."""

    def spec(input: Any, dim: int) -> Any:
        shape = (*input.shape[:dim], *input.shape[dim + 1 :])
        return [(shape, input.dtype)] * 2

    def vjp(g: Any, input: Any, lse: Any, dim: int) -> Any:
        return g.unsqueeze(dim) * (input - lse.unsqueeze(dim)).exp()

    samples = each(draw((3, 4), dim=1), draw((5,), dim=0))

    def _mutant(input: Array, dim: Dim):
        """log Σ exp(input) along dim."""
        out = np.log(np.sum(np.exp(input), dim))
        return out, out.copy()

    given = {"spec": spec, "aux": ("lse",), "promote": INT_TO_FLOAT, "vjp": vjp, "samples": samples}
    return op(**{**given, **options})(_mutant)


def test_auxiliary_output_as_a_constant_in_second_order() -> None:
    found = failing(logsumexp())
    assert "second-order" in found
    assert "gradient" not in found


def test_composite_gives_the_second_order() -> None:
    assert not failing(logsumexp(composite=lambda input, dim: input.exp().sum(dim).log()))


def test_composite_other_than_the_operator() -> None:
    found = failing(logsumexp(composite=lambda input, dim: (input.exp() * 1.01).sum(dim).log()))
    assert "against its composite's" in str(found["composite"])


def test_backward_of_create_graph_other_than_that_of_backward() -> None:
    def vjp(g: Any, input: Any, lse: Any, dim: int) -> Any:
        return g.unsqueeze(dim) * (input - lse.unsqueeze(dim)).exp() * 1.001

    found = failing(logsumexp(vjp=vjp, composite=lambda input, dim: input.exp().sum(dim).log()))
    assert {"gradient", "paths", "composite"} <= set(found)


def test_backward_that_writes_into_the_gradient() -> None:
    """An in-place operator runs on the raw array of a gradient that others read as well."""

    def vjp(g: Any) -> Any:
        g *= 2
        return g

    assert "the gradient of output 0 was written" in str(failing(twice(vjp=vjp))["inputs"])


def test_declared_error_that_is_not_raised() -> None:
    found = failing(own(errors=[fails((3, 3), match="expected one dimension", error=ShapeError)]))
    assert "raised nothing, expected ShapeError" in str(found["errors"])


def test_declared_error_with_another_message() -> None:
    def spec(input: Any) -> Any:
        if input.ndim > 1:
            raise ShapeError(f"_mutant: got {input.shape}: expected a vector")
        return input.shape, input.dtype

    found = failing(own(spec=spec, samples=each(draw((5,))), errors=[fails((3, 3), match="expected one dimension")]))
    assert set(found) == {"errors"}
    assert "expected a vector" in str(found["errors"])


def test_no_samples_and_no_docstring() -> None:
    @op(spec=same_spec, promote=PROMOTE)
    def _mutant(input: Array):
        """Mutant."""
        return input.copy()

    assert [check.name for check in checks(_mutant)] == ["declaration"]
    assert set(failing(_mutant)) == {"declaration"}


def test_mutation_that_is_not_declared() -> None:
    @op(mutates=("state",), on="", samples=each(draw((4,), (4,))))
    def _mutant(state: Array, other: Array):
        """state += 1, and other as well, which is not said."""
        state += 1
        other += 1

    found = failing(_mutant)
    assert "was written, and is not in mutates" in str(found["inputs"])


def test_mutation_that_does_nothing() -> None:
    @op(mutates=("state",), on="", samples=each(draw((4,))))
    def _mutant(state: Array):
        """Nothing is written, although it is said."""

    assert "no sample changes a tensor" in str(failing(_mutant)["mutates"])


def test_stored_values_missing(tmp_path: Any) -> None:
    found = [c for c in checks(twice(), values=tmp_path) if c.name == "expected"]
    with pytest.raises(CheckError, match=r"no expected value is stored: make it with .*make\.py _mutant"):
        found[0]()


def test_checks_of_the_wrong_thing() -> None:
    with pytest.raises(TypeError, match="is no declared operator"):
        list(checks(np.add))
