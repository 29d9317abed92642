"""Products with Jacobians and Hessians of functions of tensors, and the whole of them. See ``func`` for transforms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tensorlib._core import Tensor, modes
from tensorlib._dispatch import kind_of
from tensorlib.autograd import dual, engine
from tensorlib.autograd.batched import vmap_flat
from tensorlib.autograd.dual import Dual, primal_of, tangent_of
from tensorlib.autograd.lifted import inside
from tensorlib.errors import AutogradError, ShapeError
from tensorlib.op import registry

__all__ = ["hessian", "hvp", "jacobian", "jvp", "vhp", "vjp"]


def _tuple(name: str, values: Any, what: str) -> tuple[bool, tuple[Tensor, ...]]:
    """(whether it was a tuple, as a tuple of tensors)."""
    many = isinstance(values, (tuple, list))
    out = tuple(values) if many else (values,)
    for i, t in enumerate(out):
        if not isinstance(t, Tensor):
            raise TypeError(
                f"{name}: The {what} given to {name} must be either a Tensor or a tuple of Tensors but the value at "
                f"index {i} has type {kind_of(t)}."
            )
    return many, out


def _sources(inputs: Sequence[Tensor], create: bool) -> tuple[Tensor, ...]:
    """What to differentiate by: aliases of the inputs, connected to them where a graph is wanted."""
    out = []
    for t in inputs:
        made: Any = t.view_as(t) if create and t._needs else t.detach()  # type: ignore[attr-defined]
        if not made._needs and made._array.dtype.kind not in "iub":
            made._needs = True
        out.append(made)
    return tuple(out)


def _results(values: Any, create: bool) -> Any:
    if isinstance(values, (tuple, list)):
        return tuple([_results(v, create) for v in values])
    return values if create else values.detach()


def _check_v(name: str, v: Any, like: Sequence[Tensor], many: bool, which: str) -> tuple[Tensor, ...]:
    """``v``, of the shapes of ``like``; None for a single tensor of one element."""
    if v is None:
        if len(like) != 1 or like[0]._array.size != 1:
            place = "user-provided function returns" if which == "outputs" else "input to the user-provided function is"
            raise AutogradError(f"{name}: The vector v can only be None if the {place} a single Tensor with a single "
                                f"element.")  # fmt: skip
        return (like[0].new_ones(like[0]._array.shape),)  # type: ignore[attr-defined]
    _, given = _tuple(name, v, "v")
    if len(given) != len(like):
        raise AutogradError(f"{name}: v is a tuple of invalid length: should be {len(like)} but got {len(given)}.")
    for i, (g, t) in enumerate(zip(given, like, strict=True)):
        if g._array.shape != t._array.shape:
            raise ShapeError(
                f"{name}: Entry {i} in v has invalid size: should be {tuple(t._array.shape)} but got "
                f"{tuple(g._array.shape)}."
            )
    return given


def _grads(name: str, outs: Sequence[Tensor], inputs: Sequence[Any], seeds: Sequence[Any], create: bool, strict: bool,
           zeros_of: Sequence[Tensor]) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients, zeros (or with ``strict`` an error) where there is none."""
    pairs = [(o, g) for o, g in zip(outs, seeds, strict=True) if o._needs]
    found: Sequence[Any] = [None] * len(inputs)
    if pairs:
        found = engine.run([o for o, _ in pairs], [g for _, g in pairs], True, create, inputs)
    out = []
    for i, (g, t) in enumerate(zip(found, zeros_of, strict=True)):
        if g is None:
            if strict:
                raise AutogradError(
                    f"{name}: The output of the user-provided function is independent of input {i}. This is not "
                    f"allowed in strict mode."
                )
            g = t.new_zeros(t._array.shape)  # type: ignore[attr-defined]
        elif strict and create and not g._needs:
            raise AutogradError(
                f"{name}: The jacobian of the user-provided function is independent of input {i}. This is not allowed "
                f"in strict mode when create_graph=True."
            )
        out.append(g)
    return tuple(out)


class _recording:
    def __enter__(self) -> None:
        self._before, modes.grad = modes.grad, True

    def __exit__(self, *_: object) -> None:
        modes.grad = self._before


def vjp(func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False) -> Any:
    """(func(*inputs), vᵀ J): the value and the product of ``v`` with the Jacobian.

    ``v`` has the output's shapes; None for an output of one element. ``create_graph``: differentiable again.
    ``strict``: an output that does not depend on an input is an error, not zeros.
    """
    with _recording():
        many, given = _tuple("vjp", inputs, "inputs")
        sources = _sources(given, create_graph)
        out = func(*sources)
        many_out, outs = _tuple("vjp", out, "outputs of the user-provided function")
        seeds = _check_v("vjp", v, outs, many_out, "outputs")
        found = _grads("vjp", outs, sources, seeds, create_graph, strict, sources)
    value = _results(outs if many_out else outs[0], create_graph)
    return value, _results(found if many else found[0], create_graph)


def jvp(func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False) -> Any:
    """(func(*inputs), J v): the value and the product of the Jacobian with ``v``, by differentiating backward twice.

    ``v`` has the inputs' shapes; None for an input of one element. ``func.jvp`` computes it forward, which is faster.
    """
    with _recording():
        many, given = _tuple("jvp", inputs, "inputs")
        sources = _sources(given, create_graph)
        along = _check_v("jvp", v, given, many, "inputs")
        out = func(*sources)
        many_out, outs = _tuple("jvp", out, "outputs of the user-provided function")
        seeds = []
        for t in outs:
            g: Any = t.new_zeros(t._array.shape)  # type: ignore[attr-defined]
            g._needs = True
            seeds.append(g)
        firsts = _grads("jvp", outs, sources, seeds, True, strict, sources)
        found = _grads("jvp", firsts, seeds, along, create_graph, strict, outs)
    value = _results(outs if many_out else outs[0], create_graph)
    return value, _results(found if many_out else found[0], create_graph)


def _forward_jacobian(func: Callable[..., Any], given: Sequence[Tensor]) -> tuple[bool, list[list[Tensor]]]:
    """(whether the outputs are a tuple, [output][input] -> Jacobian), by forward mode."""
    shapes: list[Any] = []
    many = [False]

    def push(*rows: Any) -> Any:
        level = Dual()
        with inside(level):
            made = [dual.make(t, r, level) for t, r in zip(given, rows, strict=True)]
            many[0], outs = _tuple("jacobian", func(*made), "outputs of the user-provided function")
        shapes[:] = [primal_of(t, level)._array.shape for t in outs]
        return [tangent_of(t, level) for t in outs]

    rows = _identity(given)
    count = sum(t._array.size for t in given)
    found = vmap_flat(push, rows, [0] * len(rows), 0, count, "error")
    table = []
    for f, shape in zip(found, shapes, strict=True):
        row = []
        at = 0
        for t in given:
            n = t._array.size
            part: Any = f.narrow(0, at, n)
            row.append(part.movedim(0, -1).reshape((*shape, *t._array.shape)))
            at += n
        table.append(row)
    return many[0], table


def _identity(tensors: Sequence[Tensor]) -> list[Any]:
    """The rows of the identity over all elements of some tensors, cut into tensors of their shapes."""
    count = sum(t._array.size for t in tensors)
    out = []
    at = 0
    for t in tensors:
        n = t._array.size
        rows: Any = t.new_zeros((count, n))  # type: ignore[attr-defined]
        rows.narrow(0, at, n).diagonal().fill_(1)
        out.append(rows.reshape((count, *t._array.shape)))
        at += n
    return out


def jacobian(
    func: Callable[..., Any], inputs: Any, create_graph: bool = False, strict: bool = False, vectorize: bool = False,
    strategy: str = "reverse-mode",
) -> Any:  # fmt: skip
    """J[…out, …in] = ∂func[…out] / ∂inputs[…in]; for tuples of outputs or inputs, tuples of them.

    ``vectorize``: all rows at once by ``vmap``. ``strategy`` "forward-mode" (with vectorize) goes by columns.
    """
    if strategy not in ("reverse-mode", "forward-mode"):
        raise AssertionError('Expected strategy to be either "forward-mode" or "reverse-mode". Hint: If your function '
                             'has more outputs than inputs, "forward-mode" tends to be more performant.')  # fmt: skip
    many, given = _tuple("jacobian", inputs, "inputs")
    if strategy == "forward-mode":
        if create_graph:
            raise AutogradError("jacobian: `create_graph=True` and `strategy=\"forward-mode\"` are "
                             "not supported together (yet). Please either set `create_graph=False` or "
                             "`strategy=\"reverse-mode\"`.")  # fmt: skip
        if not vectorize or strict:
            raise AutogradError('jacobian: `strategy="forward-mode"` needs vectorize=True and strict=False')
        many_out, table = _forward_jacobian(func, given)
        return _results(_arranged(table, many_out, many), False)
    if vectorize and strict:
        raise AutogradError("jacobian: `strict=True` and `vectorized=True` are not supported together")
    with _recording():
        sources = _sources(given, create_graph)
        many_out, outs = _tuple("jacobian", func(*sources), "outputs of the user-provided function")
        table = []
        for o in outs:
            count = o._array.size
            rows = []

            def pull(row: Any, o: Tensor = o) -> Any:
                return _grads("jacobian", [o], sources, [row.reshape(o._array.shape)], create_graph, strict, sources)

            basis = _identity([o])[0].reshape((count, count)) if count else None
            if basis is None:
                columns: Any = [t.new_zeros((0, *t._array.shape)) for t in sources]  # type: ignore[attr-defined]
            elif vectorize:
                columns = vmap_flat(pull, [basis], [0], 0, count, "error")
            else:
                rows = [pull(basis[i]) for i in range(count)]
                columns = [_stack([r[k] for r in rows]) for k in range(len(sources))]
            table.append([c.reshape((*o._array.shape, *t._array.shape)) for c, t in zip(columns, sources, strict=True)])
    return _results(_arranged(table, many_out, many), create_graph)


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    return registry["stack"].public(list(tensors), 0)  # type: ignore[no-any-return]


def _arranged(table: Sequence[Sequence[Any]], many_out: bool, many_in: bool) -> Any:
    rows = [tuple(row) if many_in else row[0] for row in table]
    return tuple(rows) if many_out else rows[0]


def _scalar(name: str, func: Callable[..., Any]) -> Callable[..., Tensor]:
    def checked(*values: Any) -> Tensor:
        out = func(*values)
        many, outs = _tuple(name, out, "outputs of the user-provided function")
        if (many and len(outs) != 1) or outs[0]._array.size != 1:
            raise AutogradError(
                f"{name}: The Tensor returned by the function given to {name} should contain a single element"
            )
        return outs[0].squeeze()  # type: ignore[attr-defined,no-any-return]

    return checked


def hessian(
    func: Callable[..., Any], inputs: Any, create_graph: bool = False, strict: bool = False, vectorize: bool = False,
    outer_jacobian_strategy: str = "reverse-mode",
) -> Any:  # fmt: skip
    """H[…i, …j] = ∂²func / ∂inputs[…i] ∂inputs[…j] of a function of one element: the Jacobian of the gradient."""
    many, given = _tuple("hessian", inputs, "inputs")
    scalar = _scalar("hessian", func)

    def gradient(*values: Any) -> Any:
        with _recording():
            if outer_jacobian_strategy == "forward-mode":
                values = tuple([v.view_as(v) if v._needs else v for v in values])
                for v in values:
                    v._needs = True
            out = scalar(*values)
            return _grads("hessian", [out], values, [out.new_ones(())], True, strict, values)  # type: ignore[attr-defined]

    table = jacobian(gradient, given, create_graph=create_graph, strict=strict, vectorize=vectorize,
                     strategy=outer_jacobian_strategy)  # fmt: skip
    return table if many else table[0][0]


def vhp(func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False) -> Any:
    """(func(*inputs), vᵀ H) for a function of one element."""
    with _recording():
        many, given = _tuple("vhp", inputs, "inputs")
        sources = _sources(given, create_graph)
        along = _check_v("vhp", v, given, many, "inputs")
        out = _scalar("vhp", func)(*sources)
        firsts = _grads("vhp", [out], sources, [out.new_ones(())], True, strict, sources)  # type: ignore[attr-defined]
        found = _grads("vhp", firsts, sources, along, create_graph, strict, sources)
    return _results(out, create_graph), _results(found if many else found[0], create_graph)


def hvp(func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False) -> Any:
    """(func(*inputs), H v) for a function of one element; ``vhp`` is the same where H is symmetric, and cheaper."""
    with _recording():
        many, given = _tuple("hvp", inputs, "inputs")
        sources = _sources(given, create_graph)
        along = _check_v("hvp", v, given, many, "inputs")
        out = _scalar("hvp", func)(*sources)
        firsts = _grads("hvp", [out], sources, [out.new_ones(())], True, strict, sources)  # type: ignore[attr-defined]
        seeds = []
        for t in given:
            g: Any = t.new_zeros(t._array.shape)  # type: ignore[attr-defined]
            g._needs = True
            seeds.append(g)
        seconds = _grads("hvp", firsts, sources, seeds, True, strict, sources)
        found = _grads("hvp", seconds, seeds, along, create_graph, strict, given)
    return _results(out, create_graph), _results(found if many else found[0], create_graph)
