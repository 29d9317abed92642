"""L-BFGS, with a line search for the strong Wolfe conditions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from tensorlib._core import Tensor
from tensorlib.autograd import enable_grad, no_grad
from tensorlib.ops import cat, view_as_real, zeros_like
from tensorlib.optim.optimizer import Optimizer, check_options

__all__ = ["LBFGS"]

_ARMIJO, _CURVATURE = 1e-4, 0.9


class Point(NamedTuple):
    """A place on the search line: its step, the loss, the gradient, the slope along the line."""

    t: float
    loss: float
    grad: Tensor
    slope: float


class LBFGS(Optimizer):
    """p <- p + t d with d = -H g, H the inverse Hessian as the last ``history_size`` changes of p and g show it.

    One group of parameters; ``step(closure)`` evaluates the closure up to ``max_eval`` times (5/4 ``max_iter`` by
    default) in up to ``max_iter`` iterations. t is ``lr``, or what ``line_search_fn="strong_wolfe"`` finds. It stops
    when max |g| <= ``tolerance_grad`` or a step or the loss changes by less than ``tolerance_change``. Needs memory for
    history_size + a few copies of the parameters. Source: Nocedal & Wright 2006, algorithms 7.4, 7.5, 3.5 and 3.6.
    ValueError for several groups and for a line search of another name (RuntimeError when it is used).
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
    ) -> None:
        check_options(lr, None, None, False)
        if max_eval is None:
            max_eval = max_iter * 5 // 4
        super().__init__(params, {
            "lr": lr, "max_iter": max_iter, "max_eval": max_eval, "tolerance_grad": tolerance_grad,
            "tolerance_change": tolerance_change, "history_size": history_size, "line_search_fn": line_search_fn,
        })  # fmt: skip
        if len(self.param_groups) != 1:
            raise ValueError("LBFGS doesn't support per-parameter options (parameter groups)")

    # ---- all parameters as one vector

    def _params(self) -> list[Tensor]:
        return [view_as_real(p) if p.is_complex() else p for p in self.param_groups[0]["params"]]

    def _gradient(self) -> Tensor:
        parts = []
        for p in self.param_groups[0]["params"]:
            g = zeros_like(p.detach()) if p.grad is None else p.grad
            parts.append((view_as_real(g) if g.is_complex() else g).reshape(-1))
        return cat(parts)

    def _move(self, direction: Tensor, t: float) -> None:
        at = 0
        for p in self._params():
            p.add_(direction[at : at + p.numel()].view(p.shape), alpha=t)
            at += p.numel()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Up to ``max_iter`` iterations; ``closure`` clears the gradients, computes the loss and its gradient."""
        if closure is None:
            raise TypeError("LBFGS.step() missing 1 required positional argument: 'closure'")
        with no_grad():
            return self._step(enable_grad()(closure))

    def _step(self, closure: Callable[[], Any]) -> Any:
        group = self.param_groups[0]
        lr, max_iter, max_eval = float(group["lr"]), group["max_iter"], group["max_eval"]
        small, search = group["tolerance_change"], group["line_search_fn"]
        state = self.state[group["params"][0]]  # one state for all; the first parameter's, so that loading casts it
        state.setdefault("func_evals", 0)
        state.setdefault("n_iter", 0)

        first = closure()
        loss, grad = float(first), self._gradient()
        state["func_evals"] += 1
        evaluations = 1

        def flat(g: Tensor) -> bool:
            return not g.numel() or g.abs().max().item() <= group["tolerance_grad"]

        if flat(grad):
            return first
        for iteration in range(1, max_iter + 1):
            state["n_iter"] += 1
            direction = self._direction(state, grad, group["history_size"])
            state["prev_flat_grad"], state["prev_loss"] = grad.clone(), loss
            t = lr if state["n_iter"] > 1 else min(1.0, 1.0 / grad.abs().sum().item()) * lr
            slope = grad.dot(direction).item()
            state["d"], state["t"] = direction, t
            if slope > -small:
                break
            used = 0
            if search is not None:
                if search != "strong_wolfe":
                    raise RuntimeError("only 'strong_wolfe' is supported")
                evaluate = self._evaluator(closure, direction)
                start = Point(0.0, loss, grad, slope)
                found, used = strong_wolfe(evaluate, start, t, direction, small, max_eval - evaluations)
                t, loss, grad = found.t, found.loss, found.grad
                self._move(direction, t)
            else:
                self._move(direction, t)
                if iteration != max_iter:  # nobody would use the gradient after the last one
                    loss, grad, used = float(closure()), self._gradient(), 1
            state["t"] = t
            evaluations += used
            state["func_evals"] += used
            if (
                iteration == max_iter
                or evaluations >= max_eval
                or flat(grad)
                or direction.mul(t).abs().max().item() <= small
                or abs(loss - state["prev_loss"]) < small
            ):
                break
        return first

    def _evaluator(self, closure: Callable[[], Any], direction: Tensor) -> Callable[[float], Point]:
        params = self._params()
        origin = [p.clone() for p in params]

        def evaluate(t: float) -> Point:
            self._move(direction, t)
            loss, grad = float(closure()), self._gradient()
            for p, x in zip(params, origin, strict=True):
                p.copy_(x)
            return Point(t, loss, grad, grad.dot(direction).item())

        return evaluate

    @staticmethod
    def _direction(state: dict[str, Any], grad: Tensor, history: int) -> Tensor:
        """-H g by the two-loop recursion (algorithm 7.4), the change since the last call taken into H first."""
        if state["n_iter"] == 1:
            state["old_dirs"], state["old_stps"], state["ro"], state["H_diag"] = [], [], [], 1.0
            return grad.neg()
        changes, steps, inverse = state["old_dirs"], state["old_stps"], state["ro"]
        y, s = grad - state["prev_flat_grad"], state["d"] * state["t"]
        ys = y.dot(s).item()
        if ys > 1e-10:  # otherwise H would no longer be positive definite
            if len(changes) == history:
                for kept in (changes, steps, inverse):
                    kept.pop(0)
            changes.append(y)
            steps.append(s)
            inverse.append(1.0 / ys)
            state["H_diag"] = ys / y.dot(y).item()
        q = grad.neg()
        alphas = []
        for y, s, r in zip(reversed(changes), reversed(steps), reversed(inverse), strict=True):
            alphas.append(s.dot(q).item() * r)
            q.add_(y, alpha=-alphas[-1])
        q.mul_(state["H_diag"])
        for y, s, r, alpha in zip(changes, steps, inverse, reversed(alphas), strict=True):
            q.add_(s, alpha=alpha - y.dot(q).item() * r)
        return q


def strong_wolfe(
    evaluate: Callable[[float], Point], start: Point, t: float, direction: Tensor, small: float, budget: int = 25
) -> tuple[Point, int]:
    """A point with enough decrease and little slope, and how many evaluations it took. Algorithms 3.5 and 3.6."""
    longest = direction.abs().max().item()
    evaluations, tried = 1, 0
    point, before = evaluate(t), start

    def decreases(p: Point) -> bool:
        return p.loss <= start.loss + _ARMIJO * p.t * start.slope

    def level(p: Point) -> bool:
        return abs(p.slope) <= -_CURVATURE * start.slope

    bracket: list[Point] | None = None
    while tried < budget:
        if not decreases(point) or (tried > 1 and point.loss >= before.loss):
            bracket = [before, point]
            break
        if level(point):
            return point, evaluations
        if point.slope >= 0:
            bracket = [before, point]
            break
        bounds = point.t + 0.01 * (point.t - before.t), point.t * 10
        t = _interpolate(before, point, bounds)
        before, point = point, evaluate(t)
        evaluations += 1
        tried += 1
    if bracket is None:
        bracket = [start, point]

    low, high = (0, 1) if bracket[0].loss <= bracket[1].loss else (1, 0)
    stuck = False
    while tried < budget:
        left, right = sorted((bracket[0].t, bracket[1].t))
        if (right - left) * longest < small:
            break
        t = _interpolate(bracket[0], bracket[1], (left, right))
        margin = 0.1 * (right - left)
        if min(right - t, t - left) < margin:  # near an end twice, or at it: step inside
            if stuck or t >= right or t <= left:
                t = right - margin if abs(t - right) < abs(t - left) else left + margin
                stuck = False
            else:
                stuck = True
        else:
            stuck = False
        point = evaluate(t)
        evaluations += 1
        tried += 1
        if not decreases(point) or point.loss >= bracket[low].loss:
            bracket[high] = point
            low, high = (0, 1) if bracket[0].loss <= bracket[1].loss else (1, 0)
            continue
        done = level(point)
        if not done and point.slope * (bracket[high].t - bracket[low].t) >= 0:
            bracket[high] = bracket[low]
        bracket[low] = point
        if done:
            break
    return bracket[low], evaluations


def _interpolate(a: Point, b: Point, bounds: tuple[float, float]) -> float:
    """The minimum within bounds of the cubic through two points with their slopes (equation 3.59); else the middle."""
    if a.t == b.t:
        return (bounds[0] + bounds[1]) / 2
    d1 = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.t - b.t)
    square = d1 * d1 - a.slope * b.slope
    if not square >= 0:
        return (bounds[0] + bounds[1]) / 2
    d2 = math.sqrt(square)
    if a.t > b.t:
        a, b = b, a
    divisor = b.slope - a.slope + 2 * d2
    if divisor == 0:
        return (bounds[0] + bounds[1]) / 2
    best = b.t - (b.t - a.t) * ((b.slope + d2 - d1) / divisor)
    return min(max(best, bounds[0]), bounds[1])
