"""The optimizer runs and schedules that are compared with PyTorch. No tensor library is imported here."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np

#: A scalar, empty, odd sizes, a transposed one (the last), one longer than a gathered parameter may be.
SHAPES = ((3, 5), (7,), (), (0,), (50, 130), (2, 3, 4), (6, 4))

OPTIMIZERS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.05}),
    ("SGD", {"lr": 0.05, "momentum": 0.9}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.05, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.05, "momentum": 0.5, "maximize": True}),
    ("Adam", {"lr": 0.02}),
    ("Adam", {"lr": 0.02, "weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-3}),
    ("Adam", {"lr": 0.02, "amsgrad": True, "maximize": True}),
    ("AdamW", {"lr": 0.02}),
    ("AdamW", {"lr": 0.02, "amsgrad": True, "weight_decay": 0.3}),
]


def train(lib: Any, name: str, options: dict[str, Any], dtype: str) -> dict[str, np.ndarray]:
    """14 steps on given gradients, some None, with a save and load between; parameters and state as arrays.

    Two groups: the second decays its weights by 0.2. Parameter 2 has no gradient before step 3, parameter 5 lacks
    one every third step.
    """
    draws = np.random.RandomState(1)
    params = []
    for i, shape in enumerate(SHAPES):
        values = np.asarray(draws.standard_normal(shape)).astype(dtype)
        t = lib.tensor(values.T.copy()).transpose(0, 1) if i == len(SHAPES) - 1 else lib.tensor(values)
        params.append(lib.nn.Parameter(t))

    def make() -> Any:
        groups = [{"params": params[:3]}, {"params": params[3:], "weight_decay": 0.2}]
        return getattr(lib.optim, name)(groups, **options)

    opt = make()
    found = {"repr": np.array(repr(opt))}
    for step in range(14):
        for i, p in enumerate(params):
            grad = np.asarray(draws.standard_normal(SHAPES[i])).astype(dtype)
            skipped = (i == 2 and step < 3) or (i == 5 and step % 3 == 1)
            p.grad = None if skipped else lib.tensor(grad)
        if step == 6:
            state = copy.deepcopy(opt.state_dict())
            opt = make()
            opt.load_state_dict(state)
        opt.step()
    for i, p in enumerate(params):
        found[f"param{i}"] = _tail(p)
    saved = opt.state_dict()
    found["groups"] = np.array(repr(saved["param_groups"]))
    found["keys"] = np.array(repr({k: list(v) for k, v in saved["state"].items()}))
    for number, entries in saved["state"].items():
        for key, value in entries.items():
            found[f"state{number}.{key}"] = _tail(value)
    return found


def _tail(t: Any) -> np.ndarray:
    """The array, or of a large one every 97th element, so that the stored file stays small."""
    array = t.detach().numpy()
    return array.copy() if array.size < 100 else array.ravel()[::97].copy()


def decayed(epoch: int) -> float:
    """A rule for LambdaLR and MultiplicativeLR."""
    return 0.95**epoch


def inverse(epoch: int) -> float:
    """Another."""
    return 1 / (epoch + 1)


#: name -> scheduler of a library's lr_scheduler module for an optimizer with two groups.
SCHEDULES: dict[str, Any] = {
    "LambdaLR": lambda s, o: s.LambdaLR(o, [decayed, inverse]),
    "MultiplicativeLR": lambda s, o: s.MultiplicativeLR(o, decayed),
    "StepLR": lambda s, o: s.StepLR(o, 7, 0.5),
    "MultiStepLR": lambda s, o: s.MultiStepLR(o, [3, 8, 8, 40]),
    "ConstantLR": lambda s, o: s.ConstantLR(o, 0.25, 9),
    "LinearLR": lambda s, o: s.LinearLR(o, 0.1, 0.8, 30),
    "ExponentialLR": lambda s, o: s.ExponentialLR(o, 0.97),
    "PolynomialLR": lambda s, o: s.PolynomialLR(o, 50, 2.0),
    "CosineAnnealingLR": lambda s, o: s.CosineAnnealingLR(o, 17, 1e-3),
    "CosineAnnealingWarmRestarts": lambda s, o: s.CosineAnnealingWarmRestarts(o, 5, 2, 1e-3),
    "CosineAnnealingWarmRestarts-1": lambda s, o: s.CosineAnnealingWarmRestarts(o, 6),
    "OneCycleLR": lambda s, o: s.OneCycleLR(o, [0.3, 0.5], total_steps=130),
    "OneCycleLR-3": lambda s, o: s.OneCycleLR(
        o, 0.3, epochs=13, steps_per_epoch=10, three_phase=True, anneal_strategy="linear"
    ),
    "CyclicLR": lambda s, o: s.CyclicLR(o, 0.01, 0.1, 10, mode="triangular2"),
    "CyclicLR-exp": lambda s, o: s.CyclicLR(o, 0.01, 0.1, 10, 7, mode="exp_range", gamma=0.99),
    "CyclicLR-fn": lambda s, o: s.CyclicLR(o, 0.01, 0.1, 10, scale_fn=inverse),
    "SequentialLR": lambda s, o: s.SequentialLR(
        o, [s.LinearLR(o, 0.1, 1.0, 10), s.CosineAnnealingLR(o, 60), s.ConstantLR(o, 0.1, 20)], [10, 70]
    ),
    "SequentialLR-warm": lambda s, o: s.SequentialLR(
        o, [s.ConstantLR(o, 0.1, 20), s.CosineAnnealingWarmRestarts(o, 7)], [20]
    ),
    "SequentialLR-chained": lambda s, o: s.SequentialLR(
        o, [s.ChainedScheduler([s.LinearLR(o, 0.1, 1.0, 10), s.ExponentialLR(o, 0.98)]), s.StepLR(o, 9)], [20]
    ),
    "ChainedScheduler": lambda s, o: s.ChainedScheduler([s.LinearLR(o, 0.1, 1.0, 10), s.ExponentialLR(o, 0.98)]),
    "ReduceLROnPlateau": lambda s, o: s.ReduceLROnPlateau(o, patience=4),
    "ReduceLROnPlateau-max": lambda s, o: s.ReduceLROnPlateau(
        o, mode="max", threshold_mode="abs", cooldown=3, patience=2, min_lr=[1e-3, 1e-4]
    ),
}


def optimizer(lib: Any, kind: str) -> Any:
    """Two groups of one parameter, with rates 0.1 and 0.03."""
    first, second = (lib.nn.Parameter(lib.ones(2)) for _ in range(2))
    options = {"momentum": 0.9} if kind == "SGD" else {}
    return getattr(lib.optim, kind)([{"params": [first]}, {"params": [second], "lr": 0.03}], lr=0.1, **options)


def kinds(name: str) -> tuple[str, ...]:
    """The optimizers a schedule is followed with: Adam as well where its beta1 is cycled."""
    return ("SGD", "AdamW") if name.startswith(("OneCycle", "Cyclic")) else ("SGD",)


def follow(lib: Any, name: str, kind: str, steps: int = 128, reload_at: int = 60) -> np.ndarray:
    """(steps + 1, groups, 2): rate and momentum (or beta1) after each step; saved and loaded once on the way."""
    with warnings.catch_warnings():
        # A chain within a sequence steps twice before the optimizer does, in PyTorch too, and is warned of.
        warnings.filterwarnings("ignore", "Detected call of")
        metrics = np.random.RandomState(2).standard_normal(steps)
        opt = optimizer(lib, kind)
        schedule = SCHEDULES[name](lib.optim.lr_scheduler, opt)

        def now() -> list[list[float]]:
            return [
                [lr, group["momentum"] if kind == "SGD" else group["betas"][0]]
                for lr, group in zip(schedule.get_last_lr(), opt.param_groups, strict=True)
            ]

        rows = [now()]
        for step in range(steps):
            if step == reload_at:
                saved = copy.deepcopy(opt.state_dict()), copy.deepcopy(schedule.state_dict())
                opt = optimizer(lib, kind)
                schedule = SCHEDULES[name](lib.optim.lr_scheduler, opt)
                opt.load_state_dict(saved[0])
                schedule.load_state_dict(saved[1])
            opt.step()
            schedule.step(*([float(metrics[step])] if name.startswith("Reduce") else []))
            rows.append(now())
        return np.array(rows)
