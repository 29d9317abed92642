"""``tensorlib.library``: operators made of Python functions, their gradients, kernels and shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

import tensorlib as tl
from tensorlib import Tensor, library
from tensorlib.errors import UnsupportedError


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """Each test's operators are its own."""
    before = dict(library._OPERATORS)
    yield
    for name in set(library._OPERATORS) - set(before):
        made = library._OPERATORS.pop(name)
        delattr(getattr(tl.ops, made.namespace), made.__name__)


def test_an_operator_of_a_function() -> None:
    @library.custom_op("mine::scaled", mutates_args=())
    def scaled(x: Tensor, by: float, times: int = 2, *, on: bool = True) -> Tensor:
        return x * by**times

    assert repr(scaled) == "<CustomOpDef(mine::scaled)>" and str(tl.ops.mine.scaled) == "mine.scaled"  # type: ignore[attr-defined]
    assert scaled(tl.ones(2), 3.0).tolist() == [9, 9]
    assert tl.ops.mine.scaled.default(tl.ones(2), by=3.0, times=1).tolist() == [3, 3]  # type: ignore[attr-defined]
    assert library.infer_schema(scaled._init_fn, mutates_args=()) == (
        "(Tensor x, float by, SymInt times=2, *, bool on=True) -> Tensor"
    )
    for wrong in ((1, 2.0), (tl.ones(2),)):
        with pytest.raises(RuntimeError, match=r"mine::scaled.*Declaration: mine::scaled\(Tensor x"):
            scaled(*wrong)
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        tl.ops.mine.other  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(RuntimeError, match="same name twice"):
        library.custom_op("mine::scaled", scaled._init_fn, mutates_args=())
    with pytest.raises(RuntimeError, match="library's own"):
        library.custom_op("reduction::scaled", scaled._init_fn, mutates_args=())


def test_what_an_operator_asks_of_its_function() -> None:
    def same(x: Tensor) -> Tensor:
        return x

    def untyped(x) -> Tensor:  # type: ignore[no-untyped-def]
        return x

    with pytest.raises(RuntimeError, match="must not also be an input"):
        library.custom_op("mine::same", same, mutates_args=())(tl.ones(2))
    with pytest.raises(ValueError, match="Parameter x must have a type annotation"):
        library.custom_op("mine::untyped", untyped, mutates_args=())
    with pytest.raises(ValueError, match="namespace::name"):
        library.custom_op("same", same, mutates_args=())

    @library.custom_op("mine::more", mutates_args={"x"})
    def more(x: Tensor) -> None:
        x.add_(1)

    x = tl.zeros(2)
    assert more(x) is None and x.tolist() == [1, 1]
    assert library.infer_schema(more._init_fn, mutates_args={"x"}) == "(Tensor(a0!) x) -> ()"
    with pytest.raises(RuntimeError, match="non-functional"):
        more.register_autograd(lambda ctx, g: g)


def test_gradients() -> None:
    @library.custom_op("mine::cube", mutates_args=())
    def cube(x: Tensor, by: float = 1.0) -> Tensor:
        return x.detach() ** 3 * by

    x = tl.tensor([2.0], requires_grad=True)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        cube(x).backward()

    def keep(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[0], output)
        ctx.by = inputs[1]

    def pull(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        x, y = ctx.saved_tensors
        assert y.requires_grad and ctx.needs_input_grad == (True, False)
        return 3 * x * x * ctx.by * g, None

    library.register_autograd("mine::cube", pull, setup_context=keep)
    y = cube(x, by=2.0)
    (first,) = tl.autograd.grad(y, x, create_graph=True)
    assert first.item() == 24 and tl.autograd.grad(first, x)[0].item() == 24
    assert not cube(tl.ones(1)).requires_grad


def test_gradients_of_lists_and_keywords() -> None:
    seen: list[Any] = []

    @library.custom_op("mine::total", mutates_args=())
    def total(xs: Sequence[Tensor], y: Tensor, *, by: float) -> tuple[Tensor, Tensor]:
        return (xs[0] + xs[1]) * by, y * 1

    def keep(ctx: Any, inputs: Any, keyword_only_inputs: Any, output: Any) -> None:
        ctx.by = keyword_only_inputs["by"]

    def pull(ctx: Any, a: Tensor, b: Tensor) -> Any:
        seen.append(ctx.needs_input_grad)
        return [a * ctx.by, None], b

    total.register_autograd(pull, setup_context=keep)
    x, y = tl.ones(2, requires_grad=True), tl.ones(2, requires_grad=True)
    a, b = total([x, tl.ones(2)], y, by=3.0)
    (a.sum() + 2 * b.sum()).backward()
    assert x.grad is not None and y.grad is not None and seen == [([True, False], True)]
    assert (a.tolist(), x.grad.tolist(), y.grad.tolist()) == ([6, 6], [3, 3], [2, 2])


def test_kernels_and_shapes() -> None:
    @library.custom_op("mine::twice", mutates_args=(), device_types="native")
    def twice(x: Tensor) -> Tensor:
        return x * 2

    with pytest.raises(UnsupportedError, match=r"'mine::twice' .* 'CPU' backend: it has kernels for \['native'\]"):
        twice(tl.ones(2))
    with pytest.raises(RuntimeError, match="no fake impl registered"):
        twice(tl.ones(2, device="meta"))

    @twice.register_fake
    def _(x: Tensor) -> Tensor:
        return tl.empty_like(x)

    twice.register_kernel("cpu", lambda x: x + x)
    assert twice(tl.ones(2)).tolist() == [2, 2] and twice(tl.ones(2, 3, device="meta")).shape == (2, 3)

    @library.triton_op("mine::kernel", mutates_args={})
    def kernel(x: Tensor) -> Tensor:
        return library.wrap_triton(tl.sin)(x)  # type: ignore[no-any-return]

    assert kernel(tl.zeros(1)).item() == 0


def test_operators_by_schema() -> None:
    lib = library.Library("mine", "DEF")
    assert lib.define("add_to(Tensor x, float s=2.0, int[] k=[], *, Tensor? y=None) -> Tensor") == "add_to"
    lib.impl("add_to", lambda x, s, k, y: x + s, "CompositeImplicitAutograd")
    x = tl.ones(2, requires_grad=True)
    tl.ops.mine.add_to(x, s=5.0).sum().backward()  # type: ignore[attr-defined]
    assert x.grad is not None and x.grad.tolist() == [1, 1]

    library.define("mine::plus", "(Tensor x) -> Tensor")

    @library.impl("mine::plus", "cpu")
    def plus(x: Tensor) -> Tensor:
        return x + 1

    assert tl.ops.mine.plus(tl.zeros(1)).item() == 1  # type: ignore[attr-defined]
    wrong: list[Callable[[], Any]] = [
        lambda: library.define("mine::bad", "Tensor"), lambda: library.define("mine::bad", "(Tensor) -> Tensor"),
        lambda: library.register_fake("mine::absent", plus), lambda: library.impl("mine::plus", "Autograd", plus),
        lambda: library.Library("mine", "OTHER"),
    ]  # fmt: skip
    for call in wrong:
        with pytest.raises((RuntimeError, ValueError, NotImplementedError)):
            call()
