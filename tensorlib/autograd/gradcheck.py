"""Gradients held to central differences: first and second order, PyTorch's names and defaults."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tensorlib._array import to_host
from tensorlib._core import Tensor, modes, wrap
from tensorlib._device import cpu
from tensorlib.autograd import dual, engine
from tensorlib.autograd.batched import vmap_flat
from tensorlib.autograd.lifted import inside
from tensorlib.errors import ArgumentError, AutogradError
from tensorlib.op import registry

__all__ = ["GradcheckError", "gradcheck", "gradgradcheck"]


class GradcheckError(AutogradError):
    """A gradient differs from the numerical one."""


def _inputs(name: str, inputs: Any) -> list[Any]:
    """The arguments as a list; ValueError unless one of them requires a gradient."""
    given = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    wanted = [t for t in given if isinstance(t, Tensor) and t._needs]
    if not wanted:
        raise ArgumentError(f"{name}: expects at least one input tensor to require gradient, but none of them have it")
    for i, t in enumerate(given):
        if not (isinstance(t, Tensor) and t._needs):
            continue
        if t._array.dtype not in (np.float64, np.complex128):
            warnings.warn(
                f"{name}: input {i} requires gradient and is not of double precision: "
                f"the check will likely fail unless it is converted by .double() or .cdouble()",
                stacklevel=3,
            )
    return given


def _float_outputs(result: Any) -> list[Tensor]:
    """The outputs a gradient can come from."""
    results = result if isinstance(result, (tuple, list)) else (result,)
    return [t for t in results if isinstance(t, Tensor) and t._array.dtype.kind not in "iub"]


# Complex numbers are checked as pairs of real ones: the gradient of a real loss by z is its gradient by the real part
# plus i times that by the imaginary part.


def _host(t: Any) -> np.ndarray:
    """The numbers in float64; complex ones as their parts, in a last dimension of 2."""
    x = to_host(t._array)
    if x.dtype.kind == "c":
        return np.ascontiguousarray(x, np.complex128).reshape(*x.shape, 1).view(np.float64)
    return np.asarray(x, np.float64)


def _shape(t: Tensor) -> tuple[int, ...]:
    """The shape of ``_host(t)``."""
    x = t._array
    return (*x.shape, 2) if x.dtype.kind == "c" else x.shape


def _like(values: np.ndarray, t: Tensor) -> np.ndarray:
    """The inverse of ``_host``: numbers, or parts of numbers, in the shape and dtype of a tensor."""
    dtype = t._array.dtype
    if dtype.kind == "c":
        values = np.ascontiguousarray(values, np.float64).view(np.complex128)[..., 0]
    return np.asarray(values).astype(dtype)


def _moved(t: Tensor, delta: np.ndarray) -> Tensor:
    """The tensor plus ``delta``, as a new leaf on its device."""
    x = wrap(_like(_host(t) + delta, t))
    if t.device is not cpu:
        x = x.to(t.device)
    x._needs = True
    return x


def difference(
    func: Callable[..., Any], inputs: Sequence[Any], at: int, direction: np.ndarray, eps: float
) -> list[np.ndarray]:
    """(func(x + eps v) - func(x - eps v)) / 2 eps for each float output, x being input ``at``, v the direction."""
    values = []
    here = inputs[at]._array
    # Where it lies, as func may be a module that has the tensor among its parameters and ignores its arguments.
    shared = type(here) is np.ndarray and here.flags.writeable
    for sign in (eps, -eps):
        moved = _moved(inputs[at], sign * direction)
        if not shared:
            values.append([_host(t) for t in _float_outputs(func(*inputs[:at], moved, *inputs[at + 1 :]))])
            continue
        before = here.copy()
        np.copyto(here, moved._array)
        try:
            values.append([np.array(_host(t)) for t in _float_outputs(func(*inputs))])
        finally:
            np.copyto(here, before)
    return [(a - b) / (2 * eps) for a, b in zip(*values, strict=True)]


def _analytic(
    output: Tensor, inputs: Sequence[Tensor], cotangent: np.ndarray, **options: Any
) -> list[np.ndarray | None]:
    """Gradients of <output, cotangent>; None for inputs it does not depend on."""
    if not output._needs:
        return [None] * len(inputs)
    seed = wrap(_like(cotangent, output)).to(output.device)
    found = engine.grad(output, list(inputs), seed, retain_graph=True, allow_unused=True, **options)
    return [None if g is None else _host(g) for g in found]


class _Check:
    """One run of gradcheck."""

    def __init__(self, name: str, func: Callable[..., Any], inputs: list[Any], options: dict[str, Any]) -> None:
        self.name, self.func, self.inputs = name, func, inputs
        self.where = [i for i, t in enumerate(inputs) if isinstance(t, Tensor) and t._needs]
        self.wanted = [inputs[i] for i in self.where]
        self.eps, self.atol, self.rtol = options["eps"], options["atol"], options["rtol"]
        self.nondet_tol, self.check_dtypes = options["nondet_tol"], options["check_grad_dtypes"]
        self.check_undefined = options["check_undefined_grad"]
        self.backward, self.forward = options["backward"], options["forward"]
        self.batched, self.batched_forward = options["batched"], options["batched_forward"]

    def run(self, fast: bool) -> None:
        self.outputs = _float_outputs(self.func(*self.inputs))
        if self.forward:
            self._forward()
        if not any(t._needs for t in self.outputs):
            self._constant()
            return
        if self.backward:
            if fast:
                self._random_direction()
            else:
                self._jacobians()
            self._repeatable()
            if self.check_undefined:
                self._undefined()
        if self.batched:
            self._batched()
        if self.batched_forward:
            self._batched_forward()

    def _fail(self, text: str) -> None:
        raise GradcheckError(f"{self.name}: {text}")

    def _constant(self) -> None:
        """Without a gradient the outputs must not move."""
        for k, i in enumerate(self.where):
            v = np.ones(_shape(self.wanted[k]))
            for j, d in enumerate(difference(self.func, self.inputs, i, v, self.eps)):
                if np.abs(d).max(initial=0.0) > self.atol:
                    self._fail(f"Numerical gradient for function expected to be zero: output {j}, input {i}")

    def _close(self, numeric: np.ndarray, analytic: np.ndarray) -> bool:
        return bool(np.allclose(analytic, numeric, self.rtol, self.atol, equal_nan=True))

    def _jacobians(self) -> None:
        """Every element of every output by every element of every input."""
        for k, i in enumerate(self.where):
            shape = _shape(self.wanted[k])
            size = math.prod(shape)
            numeric = [np.zeros((size, math.prod(_shape(o)))) for o in self.outputs]
            for e in range(size):
                v = np.zeros(size)
                v[e] = 1
                for j, d in enumerate(difference(self.func, self.inputs, i, v.reshape(shape), self.eps)):
                    numeric[j][e] = d.reshape(-1)
            for j, output in enumerate(self.outputs):
                analytic = np.zeros(numeric[j].shape)
                for column in range(analytic.shape[1]):
                    c = np.zeros(analytic.shape[1])
                    c[column] = 1
                    g = _analytic(output, [self.wanted[k]], c.reshape(_shape(output)))[0]
                    if g is not None:
                        analytic[:, column] = g.reshape(-1)
                if not self._close(numeric[j], analytic):
                    self._fail(
                        f"Jacobian mismatch for output {j} with respect to input {i},\n"
                        f"numerical:{numeric[j]}\nanalytical:{analytic}"
                    )

    def _random_direction(self) -> None:
        """u^T J v for one random pair of directions: the cost does not grow with the size."""
        rng = np.random.default_rng(0)
        for j, output in enumerate(self.outputs):
            u = rng.standard_normal(_shape(output))
            found = _analytic(output, self.wanted, u)
            for k, i in enumerate(self.where):
                v = rng.standard_normal(_shape(self.wanted[k]))
                numeric = np.sum(u * difference(self.func, self.inputs, i, v, self.eps)[j])
                g = found[k]
                analytic = np.asarray(0.0 if g is None else np.sum(g * v))
                if not self._close(numeric, analytic):
                    self._fail(
                        f"Jacobian mismatch for output {j} with respect to input {i}, in fast mode,\n"
                        f"numerical: {numeric}\nanalytical: {analytic}"
                    )

    def _repeatable(self) -> None:
        rng = np.random.default_rng(1)
        for j, output in enumerate(self.outputs):
            if not output._needs:
                continue
            u = rng.standard_normal(_shape(output))
            first, second = (_analytic(output, self.wanted, u) for _ in range(2))
            seed = wrap(_like(u, output)).to(output.device)
            raw = engine.grad(output, self.wanted, seed, retain_graph=True, allow_unused=True)
            for i, x, g, a, b in zip(self.where, self.wanted, raw, first, second, strict=True):
                if g is None or a is None or b is None:
                    continue
                if g._array.shape != x._array.shape:
                    self._fail(
                        f"gradient of input {i} has shape {g._array.shape}, the input {x._array.shape} (output {j})"
                    )
                if self.check_dtypes and g._array.dtype != x._array.dtype:
                    self._fail(f"gradient of input {i} has dtype {g.dtype}, the input {x.dtype} (output {j})")
                if np.abs(a - b).max(initial=0.0) > self.nondet_tol:
                    self._fail(
                        f"Backward is not reentrant, i.e., running backward with same input and grad_output multiple "
                        f"times gives different values (output {j}, input {i}); nondet_tol={self.nondet_tol}"
                    )

    def _pushed(self, k: int, tangent: Tensor) -> list[Tensor]:
        """The tangents of the outputs along one of the wanted inputs."""
        level = dual.Dual()
        given = list(self.inputs)
        given[self.where[k]] = dual.make(self.wanted[k], tangent, level)
        with inside(level):
            return [dual.tangent_of(t, level) for t in _float_outputs(self.func(*given))]

    def _tangent(self, k: int, seed: int) -> tuple[np.ndarray, Tensor]:
        """A random direction of a wanted input, as numbers and as a tensor."""
        t = self.wanted[k]
        v = np.random.default_rng([seed, k]).standard_normal(_shape(t))
        return v, wrap(_like(v, t)).to(t.device)  # type: ignore[attr-defined]

    def _forward(self) -> None:
        """Forward mode along a random direction of each input."""
        for k, i in enumerate(self.where):
            v, tangent = self._tangent(k, 3)
            numeric = difference(self.func, self.inputs, i, v, self.eps)
            for j, (t, d) in enumerate(zip(self._pushed(k, tangent), numeric, strict=True)):
                if not self._close(d, _host(t)):
                    self._fail(f"Jacobian computed with forward mode mismatch for output {j} with respect to input "
                               f"{i}: numerical:{d} analytical:{_host(t)}")  # fmt: skip

    def _batched(self) -> None:
        """Gradients of two rows at once are those of each."""
        for j, output in enumerate(self.outputs):
            if not output._needs:
                continue
            c = np.random.default_rng(4).standard_normal((2, *_shape(output)))
            rows: Any = wrap(np.stack([_like(row, output) for row in c])).to(output.device)  # type: ignore[attr-defined]
            both = engine.grad(output, self.wanted, rows, retain_graph=True, allow_unused=True, is_grads_batched=True)
            for b in range(2):
                for i, g, one in zip(self.where, both, _analytic(output, self.wanted, c[b]), strict=True):
                    if g is not None and one is not None and not self._close(one, _host(g[b])):  # type: ignore[index]
                        self._fail(f"While testing batched gradients, got a different gradient from vmap than from a "
                                   f"for-loop (output {j}, input {i})")  # fmt: skip

    def _batched_forward(self) -> None:
        """Tangents of two rows at once are those of each."""
        for k, i in enumerate(self.where):
            rows = [self._tangent(k, seed)[1] for seed in (5, 6)]
            ones = [self._pushed(k, row) for row in rows]
            both = vmap_flat(lambda t, k=k: self._pushed(k, t), [_stacked(rows)], [0], 0, 2, "error")
            for b in range(2):
                for j, (t, one) in enumerate(zip(both, ones[b], strict=True)):
                    if not self._close(_host(one), _host(t[b])):  # type: ignore[index]
                        self._fail(f"While testing batched forward gradients, got a different tangent from vmap than "
                                   f"from a for-loop (output {j}, input {i})")  # fmt: skip

    def _undefined(self) -> None:
        """A zero gradient of the outputs gives a zero gradient of the inputs, and None counts as zero."""
        for j, output in enumerate(self.outputs):
            for i, g in zip(self.where, _analytic(output, self.wanted, np.zeros(_shape(output))), strict=True):
                if g is not None and np.any(g[np.isfinite(g)] != 0):
                    self._fail(f"expected backward of zeros to give zeros: output {j}, input {i}")


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    return registry["stack"].public(list(tensors), 0)  # type: ignore[no-any-return]


def _refuse_masked(name: str, masked: bool) -> None:
    if masked:
        raise ArgumentError(f"{name}: masked=True is about sparse tensors, which there are none of: leave it out")


def gradcheck(
    func: Callable[..., Any],
    inputs: Any,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False,
    check_batched_grad: bool = False,
    check_batched_forward_grad: bool = False,
    check_forward_ad: bool = False,
    check_backward_ad: bool = True,
    fast_mode: bool = False,
    masked: bool | None = None,
) -> bool:
    """|analytic - numerical| <= atol + rtol * |numerical| for the Jacobians of ``func`` at ``inputs``; True if so.

    ``inputs``: a tensor or a tuple of arguments; those that require a gradient are checked and should be float64 or
    complex128, whose real and imaginary parts are moved one after the other.
    Numerical: (f(x + eps) - f(x - eps)) / 2 eps, one element at a time, or along one random direction with
    ``fast_mode``. Also that backward gives the same twice (``nondet_tol``), gradients of the inputs' shapes (with
    ``check_grad_dtypes`` of their dtypes), and zeros for zeros (``check_undefined_grad``).

    ``check_forward_ad``: forward mode along random directions; ``check_batched_grad``,
    ``check_batched_forward_grad``: gradients, tangents of several rows at once by ``vmap``.

    GradcheckError where they differ, or False with ``raise_exception=False``.
    """
    _refuse_masked("gradcheck", bool(masked))
    if not (check_backward_ad or check_forward_ad):
        raise ArgumentError("gradcheck: Expected at least one of check_forward_ad or check_backward_ad to be True")
    if check_batched_forward_grad and not check_forward_ad:
        raise ArgumentError("gradcheck: Setting check_batched_forward_grad=True requires check_forward_ad to be True")
    if check_batched_grad and not check_backward_ad:
        raise ArgumentError("gradcheck: Setting check_batched_grad=True requires check_backward_ad to be True")
    given = _inputs("gradcheck", inputs)
    options = dict(eps=eps, atol=atol, rtol=rtol, nondet_tol=nondet_tol, check_grad_dtypes=check_grad_dtypes,
                   check_undefined_grad=check_undefined_grad, backward=check_backward_ad, forward=check_forward_ad,
                   batched=check_batched_grad, batched_forward=check_batched_forward_grad)  # fmt: skip
    before, modes.grad = modes.grad, True
    try:
        _Check("gradcheck", func, given, options).run(fast_mode)
    except GradcheckError:
        if raise_exception:
            raise
        return False
    finally:
        modes.grad = before
    return True


def gradgradcheck(
    func: Callable[..., Any],
    inputs: Any,
    grad_outputs: Any = None,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    gen_non_contig_grad_outputs: bool = False,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False,
    check_batched_grad: bool = False,
    check_fwd_over_rev: bool = False,
    check_rev_over_rev: bool = True,
    fast_mode: bool = False,
    masked: bool = False,
) -> bool:
    """gradcheck of the gradients of ``func``: of (inputs, grad_outputs) -> sum over outputs of J^T grad_outputs.

    ``grad_outputs``: tensors of the outputs' shapes, drawn at random for None (laid out with gaps for
    ``gen_non_contig_grad_outputs``). The rest as in :func:`gradcheck`.
    """
    _refuse_masked("gradgradcheck", masked)
    if not (check_rev_over_rev or check_fwd_over_rev):
        raise ArgumentError("gradgradcheck: Expected check_fwd_over_rev or check_rev_over_rev to be True")
    given = _inputs("gradgradcheck", inputs)
    n = len(given)
    wanted = [i for i, t in enumerate(given) if isinstance(t, Tensor) and t._needs]
    before, modes.grad = modes.grad, True
    try:
        outputs = [t for t in _float_outputs(func(*given)) if t._needs]
        if grad_outputs is None:
            rng = np.random.default_rng(2)
            seeds = []
            for t in outputs:
                shape = t._array.shape
                if gen_non_contig_grad_outputs and shape:
                    shape = (*shape[:-1], 2 * shape[-1])
                values = rng.standard_normal(shape)
                if t._array.dtype.kind == "c":
                    values = values + 1j * rng.standard_normal(shape)
                if shape != t._array.shape:
                    values = values[..., ::2]
                seed = wrap(np.asarray(values).astype(t._array.dtype, copy=False)).to(t.device)
                seed._needs = True
                seeds.append(seed)
        else:
            seeds = [grad_outputs] if isinstance(grad_outputs, Tensor) else list(grad_outputs)

        def gradients(*arguments: Any) -> tuple[Tensor, ...]:
            outs = [t for t in _float_outputs(func(*arguments[:n])) if t._needs]
            found = engine.grad(
                outs, [arguments[i] for i in wanted], list(arguments[n:]), create_graph=True, allow_unused=True
            )
            return tuple(g for g in found if g is not None)

        options = dict(eps=eps, atol=atol, rtol=rtol, nondet_tol=nondet_tol, check_grad_dtypes=check_grad_dtypes,
                       check_undefined_grad=check_undefined_grad, backward=check_rev_over_rev,
                       forward=check_fwd_over_rev, batched=check_batched_grad, batched_forward=False)  # fmt: skip
        _Check("gradgradcheck", gradients, [*given, *seeds], options).run(fast_mode)
    except GradcheckError:
        if raise_exception:
            raise
        return False
    finally:
        modes.grad = before
    return True
