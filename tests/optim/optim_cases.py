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
    ("RMSprop", {"lr": 0.02}),
    ("RMSprop", {"lr": 0.02, "alpha": 0.8, "centered": True, "momentum": 0.7, "weight_decay": 0.1, "eps": 1e-3}),
    ("RMSprop", {"lr": 0.02, "momentum": 0.7, "maximize": True}),
    ("Adagrad", {"lr": 0.1}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.2, "weight_decay": 0.1, "initial_accumulator_value": 0.5, "maximize": True}),
    ("Adadelta", {"lr": 0.9}),
    ("Adadelta", {"lr": 0.9, "rho": 0.7, "weight_decay": 0.1, "eps": 1e-3, "maximize": True}),
    ("Adamax", {"lr": 0.02}),
    ("Adamax", {"lr": 0.02, "betas": (0.8, 0.95), "weight_decay": 0.1, "eps": 1e-2, "maximize": True}),
    ("NAdam", {"lr": 0.02}),
    ("NAdam", {"lr": 0.02, "weight_decay": 0.1, "momentum_decay": 0.1, "maximize": True}),
    ("NAdam", {"lr": 0.02, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("RAdam", {"lr": 0.02, "betas": (0.9, 0.9)}),
    ("RAdam", {"lr": 0.02, "weight_decay": 0.1, "maximize": True}),
    ("RAdam", {"lr": 0.02, "weight_decay": 0.1, "decoupled_weight_decay": True, "eps": 1e-2}),
    ("ASGD", {"lr": 0.05}),
    ("ASGD", {"lr": 0.05, "lambd": 0.1, "alpha": 0.5, "t0": 4, "weight_decay": 0.1, "maximize": True}),
]

#: Rprop knows no weight decay, Muon takes matrices only, PyTorch's Adafactor no empty ones: one group, these shapes.
PLAIN: list[tuple[str, dict[str, Any], tuple[tuple[int, ...], ...]]] = [
    ("Rprop", {"lr": 0.02}, SHAPES),
    ("Rprop", {"lr": 0.02, "etas": (0.3, 1.5), "step_sizes": (1e-3, 0.05), "maximize": True}, SHAPES),
    ("Adafactor", {"lr": 0.1}, ((3, 5), (7,), (), (2, 3, 4))),
    ("Adafactor", {"lr": 0.1, "beta2_decay": -0.5, "eps": (1e-6, 1e-2), "d": 1.5, "weight_decay": 0.1,
                   "maximize": True}, ((3, 5), (7,))),
    ("Muon", {"lr": 0.02}, ((3, 5), (16, 4), (7, 7))),
    ("Muon", {"lr": 0.02, "nesterov": False, "momentum": 0.8, "weight_decay": 0.0, "ns_steps": 3,
              "adjust_lr_fn": "match_rms_adamw"}, ((3, 5), (16, 4))),
]  # fmt: skip

LBFGS: list[dict[str, Any]] = [
    {"lr": 0.1},
    {"lr": 1.0, "line_search_fn": "strong_wolfe"},
    {"lr": 0.5, "line_search_fn": "strong_wolfe", "history_size": 3, "max_iter": 4},
    {"lr": 0.3, "max_iter": 7, "max_eval": 5, "history_size": 2},
]


def minimise(lib: Any, options: dict[str, Any]) -> dict[str, np.ndarray]:
    """L-BFGS on Rosenbrock's function of six numbers in two tensors, float64: five steps, saved and loaded between."""
    x = lib.nn.Parameter(lib.tensor([-1.2, 1.0, -0.5, 0.7], dtype=lib.float64))
    y = lib.nn.Parameter(lib.tensor([[1.5], [-0.3]], dtype=lib.float64))
    calls = []

    def closure() -> Any:
        opt.zero_grad()
        z = lib.cat([x, y.reshape(-1)])
        loss = (100 * (z[1:] - z[:-1] ** 2) ** 2 + (1 - z[:-1]) ** 2).sum()
        loss.backward()
        calls.append(float(loss))
        return loss

    opt = lib.optim.LBFGS([x, y], **options)
    returned = []
    for step in range(5):
        if step == 3:
            state = copy.deepcopy(opt.state_dict())
            opt = lib.optim.LBFGS([x, y], **options)
            opt.load_state_dict(state)
        returned.append(float(opt.step(closure)))
    return {
        "x": x.detach().numpy().copy(), "y": y.detach().numpy().copy(), "returned": np.array(returned),
        "calls": np.array(calls), "evaluations": np.array(opt.state_dict()["state"][0]["func_evals"]),
    }  # fmt: skip


def train(
    lib: Any, name: str, options: dict[str, Any], dtype: str, shapes: tuple[tuple[int, ...], ...] = SHAPES
) -> dict[str, np.ndarray]:
    """14 steps on given gradients, some None, with a save and load between; parameters and state as arrays.

    Two groups, the second of which decays its weights by 0.2, or one for what is in PLAIN. Parameter 2 has no gradient
    before step 3, parameter 5 lacks one every third step.
    """
    draws = np.random.RandomState(1)
    params = []
    for i, shape in enumerate(shapes):
        values = np.asarray(draws.standard_normal(shape)).astype(dtype)
        turned = shapes is SHAPES and i == len(shapes) - 1
        t = lib.tensor(values.T.copy()).transpose(0, 1) if turned else lib.tensor(values)
        params.append(lib.nn.Parameter(t))

    def make() -> Any:
        groups = [{"params": params[:3]}, {"params": params[3:], "weight_decay": 0.2}]
        if any(name == plain for plain, _, _ in PLAIN):
            groups = [{"params": params}]
        return getattr(lib.optim, name)(groups, **options)

    opt = make()
    found = {"repr": np.array(repr(opt))}
    for step in range(14):
        for i, p in enumerate(params):
            grad = np.asarray(draws.standard_normal(shapes[i])).astype(dtype)
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


#: name -> the options of an AveragedModel.
AVERAGES: dict[str, Any] = {
    "swa": lambda u: {},
    "ema": lambda u: {"multi_avg_fn": u.get_ema_multi_avg_fn(0.7)},
    "ema-buffers": lambda u: {"avg_fn": u.get_ema_avg_fn(0.6), "use_buffers": True},
    "swa-each": lambda u: {"avg_fn": u.get_swa_avg_fn()},
}


def average(lib: Any, name: str) -> dict[str, np.ndarray]:
    """A small net with batch norm trained 6 steps, averaged after each, its statistics renewed; with SWALR."""
    utils = lib.optim.swa_utils
    draws = np.random.RandomState(3)
    net = lib.nn.Sequential(lib.nn.Linear(4, 5), lib.nn.BatchNorm1d(5), lib.nn.Linear(5, 2))
    with lib.no_grad():
        for p in net.parameters():
            p.copy_(lib.tensor(np.asarray(draws.standard_normal(tuple(p.shape)), np.float32)))
    averaged = utils.AveragedModel(net, **AVERAGES[name](utils))
    opt = lib.optim.SGD(net.parameters(), lr=0.05, momentum=0.5)
    schedule = utils.SWALR(opt, swa_lr=0.01, anneal_epochs=4, anneal_strategy="linear" if name == "ema" else "cos")
    batches = [lib.tensor(np.asarray(draws.standard_normal((8, 4)), np.float32)) for _ in range(6)]
    rates = []
    for x in batches:
        opt.zero_grad()
        net(x).square().mean().backward()
        opt.step()
        schedule.step()
        rates.append(schedule.get_last_lr()[0])
        averaged.update_parameters(net)
    utils.update_bn([(x,) for x in batches[:3]], averaged)
    found = {k: v.detach().numpy().copy() for k, v in averaged.state_dict().items()}
    return found | {"rates": np.array(rates), "out": averaged(batches[0]).detach().numpy().copy()}


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
