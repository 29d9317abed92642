"""Gradients of functions: backwards (vjp, grad, jacrev), forwards (jvp, jacfwd), and both (hessian).

``grad(f)(x)`` differentiates by fresh tensors of x's values, so that transforms nest without levels of their own; a
graph is made for an outer transform only where the function met something that an outer one differentiates by.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tensorlib import _array
from tensorlib._core import Tensor, modes, wrap
from tensorlib._dispatch import kind_of
from tensorlib.autograd import dual, engine
from tensorlib.autograd.dual import Dual, primal_of, tangent_of
from tensorlib.autograd.lifted import FRESH, fresh, inside
from tensorlib.errors import AutogradError
from tensorlib.func._vmap import vmap
from tensorlib.ops import cat
from tensorlib.utils._pytree import TreeSpec, tree_flatten, tree_map, tree_unflatten


def _outer_history(outputs: Sequence[Any], own: set[Any]) -> bool:
    """Whether outputs depend on what is differentiated outside: a leaf, or a fresh tensor older than ``own``."""
    first = min(node.seq for node in own)
    roots = []
    for t in outputs:
        if isinstance(t, Tensor) and t._needs:
            if t._node is None:
                return True
            roots.append(t._node)
    for node in engine.reachable(roots):
        if node.rule is FRESH and node.seq < first:
            return True
        if any(isinstance(e, Tensor) for e in node.edges):
            return True
    return False


def _tensors(name: str, values: Sequence[Any], what: str = "argument") -> None:
    for x in values:
        if not isinstance(x, Tensor):
            raise AutogradError(f"{name}: Expected all {what}s to be Tensors, got {what} of type {kind_of(x)}")
        if x._array.dtype.kind in "iub":
            raise AutogradError(
                f"{name}: only Tensors of floating point and complex dtype can require gradients, got {x.dtype}"  # type: ignore[attr-defined]
            )


def _chosen(name: str, argnums: Any, args: tuple[Any, ...]) -> Any:
    """The arguments that ``argnums`` names, in its structure."""
    if isinstance(argnums, bool) or not isinstance(argnums, (int, tuple)):
        raise AutogradError(f"{name}: argnums must be int or Tuple[int, ...], got: {type(argnums)}")
    if isinstance(argnums, tuple):
        if not argnums:
            raise AutogradError(f"{name}: argnums must be non-empty")
        places = [_place(name, n, len(args)) for n in argnums]
        if len(set(places)) != len(places):
            raise AutogradError(f"{name}: argnums elements must be unique, got: {argnums}")
        return tuple([args[n] for n in places])
    return args[_place(name, argnums, len(args))]


def _place(name: str, n: int, count: int) -> int:
    if not -count <= n < count:
        raise AutogradError(
            f"{name}: Got argnum={n}, but only {count} positional inputs: expected {-count} <= argnum < {count}"
        )
    return n % count


def _replaced(argnums: Any, args: tuple[Any, ...], values: Any) -> list[Any]:
    """The arguments with others in the places of ``argnums``."""
    out = list(args)
    if isinstance(argnums, tuple):
        for n, value in zip(argnums, values, strict=True):
            out[n] = value
    else:
        out[argnums] = values
    return out


def _with_aux(name: str, out: Any, has_aux: bool) -> tuple[Any, Any]:
    if not has_aux:
        return out, None
    if not (isinstance(out, tuple) and len(out) == 2):
        raise AutogradError(
            f"{name}: output of function f should be a tuple: (output, aux) if has_aux is True, got "
            f"{type(out).__name__}"
        )
    return out[0], out[1]


def _detached(tree: Any) -> Any:
    return tree_map(lambda x: x.detach() if isinstance(x, Tensor) and x._needs else x, tree)


def _zeros(t: Tensor) -> Tensor:
    a = t._array
    return engine.zeros(a.shape, a.dtype, _array.device_of(a))


def _gradients(outs: Sequence[Tensor], seeds: Sequence[Tensor], leaves: Sequence[Tensor], create: bool,
               retain: bool) -> list[Tensor]:  # fmt: skip
    """Gradients by fresh tensors, zeros where there is none."""
    pairs = [(o, g) for o, g in zip(outs, seeds, strict=True) if o._needs]
    found: Sequence[Any] = [None] * len(leaves)
    if pairs:
        found = engine.run([o for o, _ in pairs], [g for _, g in pairs], retain, create, leaves)
    return [_zeros(t) if g is None else g for g, t in zip(found, leaves, strict=True)]


class _recording:
    """Recording is on, whatever it is outside."""

    def __enter__(self) -> None:
        self._before, modes.grad = modes.grad, True

    def __exit__(self, *_: object) -> None:
        modes.grad = self._before


def grad_and_value(func: Callable[..., Any], argnums: Any = 0, has_aux: bool = False) -> Callable[..., Any]:
    """(grad(func), func): as ``grad``, with the function's value (and aux) beside the gradient."""

    @functools.wraps(func, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        outer = modes.grad
        given, spec = tree_flatten(_chosen("grad", argnums, args))
        _tensors("grad_and_value", given)
        leaves = [fresh(t) for t in given]
        with _recording():
            given = _replaced(argnums, args, tree_unflatten(leaves, spec))
            out, aux = _with_aux("grad_and_value", func(*given, **kwargs), has_aux)
            if not isinstance(out, Tensor):
                raise AutogradError(
                    f"grad_and_value(f)(*args): Expected f(*args) to return a Tensor, got output of type {kind_of(out)}"
                )
            if out._array.ndim:
                raise AutogradError(
                    f"grad_and_value(f)(*args): Expected f(*args) to return a scalar Tensor, got tensor with "
                    f"{out._array.ndim} dims. Maybe you wanted to use the vjp or jacrev APIs instead?"
                )
            create = outer and _outer_history([out, *tree_flatten(aux)[0]], {t._node for t in leaves})
            found = _gradients([out], [engine.full((), 1, out._array.dtype, _array.device_of(out._array))], leaves,
                               create, create)  # fmt: skip
        if not create:
            out, aux = _detached(out), _detached(aux)
        gradients = tree_unflatten(found, spec)
        return (gradients, (out, aux)) if has_aux else (gradients, out)

    return wrapper


def grad(func: Callable[..., Any], argnums: Any = 0, has_aux: bool = False) -> Callable[..., Any]:
    """∂func/∂args[argnums], for a function whose value is a scalar.

    ``argnums``: an int, or a tuple of ints for a tuple of gradients; an argument may be a tree of tensors, and so is
    its gradient then. ``has_aux``: func gives (value, aux), the result is (gradient, aux). RuntimeError where the value
    is no scalar. Nests with itself and with every other transform. Source: torch.func.grad.
    """
    both = grad_and_value(func, argnums, has_aux)

    @functools.wraps(func, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        gradients, value = both(*args, **kwargs)
        return (gradients, value[1]) if has_aux else gradients

    return wrapper


def _pullback(name: str, func: Callable[..., Any], primals: tuple[Any, ...], has_aux: bool) -> Any:
    """(outputs as the graph has them, aux, leaves, structure of primals, whether an outer transform looks on)."""
    outer = modes.grad
    given, spec = tree_flatten(primals)
    _tensors(name, given, "primal")
    leaves = [fresh(t) for t in given]
    with _recording():
        out, aux = _with_aux(name, func(*tree_unflatten(leaves, spec)), has_aux)
    outs = tree_flatten(out)[0]
    if not all(isinstance(t, Tensor) for t in outs):
        raise AutogradError(
            f"{name}(f, *primals): Expected f(*primals) to return Tensors, got {[kind_of(t) for t in outs]}"
        )
    seen = outer and _outer_history([*outs, *tree_flatten(aux)[0]], {t._node for t in leaves})
    return out, aux, leaves, spec, seen


def vjp(func: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """(func(*primals), cotangents -> cotangentsᵀ J): the value and a function that gives products with the Jacobian.

    The function takes a tree of the output's structure and gives a tuple of gradients, one for each primal; it may be
    called many times, and under ``vmap``. ``has_aux``: func gives (value, aux); the result is (value, function, aux).
    """
    out, aux, leaves, spec, seen = _pullback("vjp", func, primals, has_aux)
    outs, out_spec = tree_flatten(out)

    def vjp_fn(cotangents: Any, retain_graph: bool = True, create_graph: bool | None = None) -> Any:
        seeds, seed_spec = tree_flatten(cotangents)
        if seed_spec != out_spec:
            raise AutogradError(
                f"Expected pytree structure of cotangents to be the same as pytree structure of outputs to the "
                f"function. cotangents: {seed_spec}, primal output: {out_spec}"
            )
        for g, t in zip(seeds, outs, strict=True):
            if not isinstance(g, Tensor) or g._array.shape != t._array.shape:
                raise AutogradError(
                    f"vjp_fn: Mismatch in shape: a cotangent has shape {tuple(getattr(g, 'shape', ()))}, the output "
                    f"{tuple(t._array.shape)}"
                )
        create = create_graph
        if create is None:
            create = modes.grad and (seen or any(g._needs for g in seeds))
        return tree_unflatten(_gradients(outs, seeds, leaves, create, retain_graph), spec)

    shown, shown_aux = (out, aux) if seen else (_detached(out), _detached(aux))
    return (shown, vjp_fn, shown_aux) if has_aux else (shown, vjp_fn)


def _pairs(name: str, primals: Any, tangents: Any) -> tuple[list[Any], list[Any], TreeSpec]:
    if not isinstance(primals, tuple) or not isinstance(tangents, tuple):
        which = "primals" if not isinstance(primals, tuple) else "tangents"
        raise AutogradError(f"{name}(f, primals, tangents): Expected {which} to be a tuple. E.g. it should be valid to "
                            f"call f(*primals).")  # fmt: skip
    given, spec = tree_flatten(primals)
    along, other = tree_flatten(tangents)
    if spec != other:
        raise AutogradError(f"{name}(f, primals, tangents): Expected primals and tangents to have the same python "
                            f"structure. Got primals: {spec}, tangents: {other}")  # fmt: skip
    if not given:
        raise AutogradError(f"{name}(f, primals, tangents): Expected primals to be non-empty")
    _tensors(name, given, "primal")
    _tensors(name, along, "tangent")
    for p, t in zip(given, along, strict=True):
        if p._array.shape != t._array.shape:
            raise AutogradError(f"{name}: Expected tangent to have the same shape as its primal, got "
                                f"{tuple(t._array.shape)} and {tuple(p._array.shape)}")  # fmt: skip
    return given, along, spec


def jvp(func: Callable[..., Any], primals: Any, tangents: Any, *, strict: bool = False, has_aux: bool = False) -> Any:
    """(func(*primals), J tangents): the value and its derivative along the tangents, computed forward beside it.

    ``primals`` and ``tangents`` are tuples of one structure. ``has_aux``: func gives (value, aux), the result is
    (value, tangent, aux). ``strict``: an output that does not depend on the primals is an error, not zeros.
    """
    given, along, spec = _pairs("jvp", primals, tangents)
    level = Dual()
    with inside(level):
        made = [dual.make(p, t, level) for p, t in zip(given, along, strict=True)]
        out, aux = _with_aux("jvp", func(*tree_unflatten(made, spec)), has_aux)
    outs, out_spec = tree_flatten(out)
    for t in outs:
        if not isinstance(t, Tensor):
            raise AutogradError(f"jvp(f, primals, tangents): Expected f(*primals) to return Tensors, got {kind_of(t)}")
        if strict and dual.tangent_in(t._array, level) is None:
            raise AutogradError("jvp(f, primals, tangents, strict=True): The output of f is independent of the input. "
                                "This is not allowed with strict=True.")  # fmt: skip
    value = tree_unflatten([primal_of(t, level) for t in outs], out_spec)
    tangent = tree_unflatten([tangent_of(t, level) for t in outs], out_spec)
    if has_aux:
        return value, tangent, tree_map(lambda x: primal_of(x, level) if isinstance(x, Tensor) else x, aux)
    return value, tangent


def linearize(func: Callable[..., Any], *primals: Any) -> Any:
    """(func(*primals), tangents -> J tangents): the value, and the derivative as a function that runs func no more.

    The transpose of the backward pass: each call differentiates vjp(g) by g.
    """
    out, _, leaves, spec, seen = _pullback("linearize", func, primals, False)
    outs, out_spec = tree_flatten(out)
    seeds = [fresh(_zeros(t)) for t in outs]
    with _recording():
        firsts = _gradients(outs, seeds, leaves, True, True)

    def jvp_fn(*tangents: Any) -> Any:
        along, other = tree_flatten(tangents)
        if other != spec:
            raise AutogradError(
                f"linearize: Expected the tangents to have the structure of the primals {spec}, got {other}"
            )
        for p, t in zip(leaves, along, strict=True):
            if p._array.shape != t._array.shape or p._array.dtype != t._array.dtype:
                raise AutogradError(f"linearize: Expected tangents of the primals' shapes and dtypes, got "
                                    f"{tuple(t._array.shape)} for {tuple(p._array.shape)}")  # fmt: skip
        create = modes.grad and (seen or any(t._needs for t in along))
        return tree_unflatten(_gradients(firsts, along, seeds, create, True), out_spec)

    return (out if seen else _detached(out)), jvp_fn


# ----------------------------------------------------------------------------------------------------- whole Jacobians


def _basis(tensors: Sequence[Tensor], start: int, stop: int) -> list[Tensor]:
    """Rows ``start`` … ``stop`` of the identity over all elements of some tensors, cut into tensors of their shapes."""
    out = []
    offset = 0
    for t in tensors:
        a = t._array
        rows = np.zeros((stop - start, a.size), np.float32 if a.dtype.kind not in "fc" else a.dtype)
        first, last = max(start, offset), min(stop, offset + a.size)
        if first < last:
            rows[np.arange(first - start, last - start), np.arange(first - offset, last - offset)] = 1
        offset += a.size
        made: Any = wrap(rows.reshape((stop - start, *a.shape)))
        out.append(made.to(device=_array.device_of(a), dtype=t.dtype))  # type: ignore[attr-defined]
    return out


def _size(tensors: Sequence[Tensor]) -> int:
    return sum(t._array.size for t in tensors)


def jacrev(
    func: Callable[..., Any],
    argnums: Any = 0,
    *,
    has_aux: bool = False,
    chunk_size: int | None = None,
    _preallocate_and_copy: bool = False,
) -> Callable[..., Any]:
    """J[…out, …in] = ∂func[…out] / ∂args[argnums][…in], by backward: one row for each element of the output.

    All rows at once by ``vmap``, or ``chunk_size`` of them. Trees as in ``grad``: of the output's structure, with the
    structure of ``argnums`` in each leaf. For many inputs and few outputs.
    """
    if chunk_size is not None and chunk_size <= 0:
        raise ValueError("jacrev: `chunk_size` should be greater than 0.")

    @functools.wraps(func, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        primals = _chosen("jacrev", argnums, args)

        def of_chosen(values: Any) -> Any:
            return func(*_replaced(argnums, args, values), **kwargs)

        made = vjp(of_chosen, primals, has_aux=has_aux)
        out, vjp_fn = made[0], made[1]
        outs, out_spec = tree_flatten(out)
        given, spec = tree_flatten(primals)
        total = _size(outs)
        step = total if chunk_size is None else chunk_size
        blocks = []
        for start in range(0, total, step) if total else [0]:
            rows = _basis(outs, start, min(start + step, total))
            if step == 1:
                found = tree_flatten(vjp_fn(tree_unflatten([r[0] for r in rows], out_spec))[0])[0]  # type: ignore[index]
                blocks.append([g.unsqueeze(0) for g in found])
            else:
                pulled = vmap(lambda *gs: tree_flatten(vjp_fn(tree_unflatten(gs, out_spec))[0])[0])(*rows)
                blocks.append(pulled)
        columns = [cat([b[k] for b in blocks], 0) if len(blocks) > 1 else blocks[0][k] for k in range(len(given))]
        leaves = []
        offset = 0
        for o in outs:
            size = o._array.size
            parts = [
                c.narrow(0, offset, size).reshape((*o._array.shape, *x._array.shape))
                for c, x in zip(columns, given, strict=True)
            ]
            leaves.append(tree_unflatten(parts, spec))
            offset += size
        jacobian = tree_unflatten(leaves, out_spec)
        return (jacobian, made[2]) if has_aux else jacobian

    return wrapper


def jacfwd(
    func: Callable[..., Any],
    argnums: Any = 0,
    has_aux: bool = False,
    *,
    chunk_size: int | None = None,
    randomness: str = "error",
) -> Callable[..., Any]:
    """J[…out, …in] = ∂func[…out] / ∂args[argnums][…in], forward: one column for each element of the inputs.

    All columns at once by ``vmap``, or ``chunk_size`` of them. For few inputs and many outputs. Structure as in
    ``jacrev``.
    """

    @functools.wraps(func, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        primals = _chosen("jacfwd", argnums, args)
        given, spec = tree_flatten(primals)
        _tensors("jacfwd", given)
        seen: dict[str, Any] = {}

        def push(*tangents: Any) -> Any:
            def of_chosen(*values: Any) -> Any:
                return func(*_replaced(argnums, args, tree_unflatten(values, spec)), **kwargs)

            made = jvp(of_chosen, tuple(given), tangents, has_aux=has_aux)
            found, seen["spec"] = tree_flatten(made[1])
            seen["shapes"] = [t._array.shape for t in found]
            if not has_aux:
                return found
            return found, made[2]

        total = _size(given)
        step = total if chunk_size is None else chunk_size
        blocks = []
        aux = None
        for start in range(0, total, step) if total else [0]:
            rows = _basis(given, start, min(start + step, total))
            out_dims = (0, None) if has_aux else 0
            pushed = vmap(push, out_dims=out_dims, randomness=randomness)(*rows)
            if has_aux:
                pushed, aux = pushed
            blocks.append(pushed)
        leaves = []
        for k, shape in enumerate(seen["shapes"]):
            found = cat([b[k] for b in blocks], 0) if len(blocks) > 1 else blocks[0][k]
            parts = []
            offset = 0
            for x in given:
                size = x._array.size
                part: Any = found.narrow(0, offset, size)
                parts.append(part.movedim(0, -1).reshape((*shape, *x._array.shape)))
                offset += size
            leaves.append(tree_unflatten(parts, spec))
        jacobian = tree_unflatten(leaves, seen["spec"])
        return (jacobian, aux) if has_aux else jacobian

    return wrapper


def hessian(func: Callable[..., Any], argnums: Any = 0) -> Callable[..., Any]:
    """H[…out, …i, …j] = ∂²func[…out] / ∂args[…i] ∂args[…j]: forward over reverse, ``jacfwd(jacrev(func))``."""
    return jacfwd(jacrev(func, argnums), argnums)
