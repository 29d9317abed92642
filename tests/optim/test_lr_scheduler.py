"""Schedules beside PyTorch's stored rates, exactly, over 128 steps with a save and load on the way."""

import copy
from pathlib import Path

import numpy as np
import pytest
from optim_cases import SCHEDULES, follow, kinds, optimizer

import tensorlib
from tensorlib import nn
from tensorlib.optim import SGD, lr_scheduler

EXPECTED = np.load(Path(__file__).with_name("expected.npz"))


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in SCHEDULES for kind in kinds(name)])
def test_rates_equal_pytorch(name, kind):
    """Rate and momentum (Adam's beta1) after every step, to the last bit."""
    np.testing.assert_array_equal(follow(tensorlib, name, kind), EXPECTED[f"{name}/{kind}"])


def test_every_schedule_is_compared():
    """A schedule without stored values would go unnoticed."""
    assert {name.split("-")[0] for name in SCHEDULES} == set(lr_scheduler.__all__) - {"LRScheduler"}


def test_tensor_rate_is_changed_in_place():
    """A Tensor learning rate stays the same object, for a captured step."""
    lr = tensorlib.tensor(0.5)
    opt = SGD([nn.Parameter(tensorlib.ones(1))], lr=lr)
    schedule = lr_scheduler.ExponentialLR(opt, 0.5)
    opt.step()
    schedule.step()
    assert opt.param_groups[0]["lr"] is lr and lr.item() == 0.25
    assert schedule.get_last_lr()[0].item() == 0.25 and schedule.get_last_lr()[0] is not lr


def test_resuming():
    """last_epoch needs initial_lr; with it the schedule goes on."""
    opt = optimizer(tensorlib, "SGD")
    with pytest.raises(KeyError, match=r"'initial_lr' is not specified in param_groups\[0\]"):
        lr_scheduler.StepLR(opt, 2, last_epoch=3)
    for group in opt.param_groups:
        group["initial_lr"] = 1.0
    schedule = lr_scheduler.LambdaLR(opt, lambda epoch: epoch, last_epoch=3)
    assert schedule.last_epoch == 4 and schedule.get_last_lr() == [4.0, 4.0]


def test_closed_form_and_warnings():
    """step(epoch) is deprecated and uses the closed form; get_lr outside step and a wrong order warn."""
    opt = optimizer(tensorlib, "SGD")
    schedule = lr_scheduler.MultiStepLR(opt, [2, 4], 0.5)
    with pytest.warns(UserWarning, match=r"`lr_scheduler.step\(\)` before `optimizer.step\(\)`"):
        schedule.step()
    opt.step()
    with pytest.warns(UserWarning, match="epoch parameter"):
        schedule.step(5)
    assert schedule.get_last_lr() == [0.025, 0.0075]
    with pytest.warns(UserWarning, match="use `get_last_lr"):
        schedule.get_lr()


def test_fractional_restarts():
    """CosineAnnealingWarmRestarts takes fractions of an epoch."""
    opt = optimizer(tensorlib, "SGD")
    schedule = lr_scheduler.CosineAnnealingWarmRestarts(opt, 4, 2)
    schedule.step(4 + 2.0)
    assert np.isclose(schedule.get_last_lr()[0], 0.1 * (1 + np.cos(np.pi * 2 / 8)) / 2)
    schedule.step(12.5)
    assert np.isclose(schedule.get_last_lr()[0], 0.1 * (1 + np.cos(np.pi * 0.5 / 16)) / 2)


class Halving:
    """A callable object: saved by its attributes."""

    def __init__(self, period):
        self.period = period

    def __call__(self, epoch):
        """2^-(epoch / period)."""
        return 0.5 ** (epoch // self.period)


def test_callable_objects_are_saved():
    """Functions are not saved, callable objects by their attributes."""
    schedule = lr_scheduler.LambdaLR(optimizer(tensorlib, "SGD"), [Halving(3), abs_of])
    state = copy.deepcopy(schedule.state_dict())
    assert state["lr_lambdas"] == [{"period": 3}, None]
    other = lr_scheduler.LambdaLR(optimizer(tensorlib, "SGD"), [Halving(9), abs_of])
    other.load_state_dict(state)
    assert other.lr_lambdas[0].period == 3 and "lr_lambdas" in state


def abs_of(epoch):
    """A plain function."""
    return abs(epoch)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda o: lr_scheduler.StepLR(3, 2), TypeError, "int is not an Optimizer"),
        (lambda o: lr_scheduler.LambdaLR(o, [abs_of]), ValueError, "Expected 2 lr_lambdas, but got 1"),
        (lambda o: lr_scheduler.MultiplicativeLR(o, 3), TypeError, "should be a function, but got int"),
        (lambda o: lr_scheduler.ConstantLR(o, 1.5), ValueError, "between 0 and 1"),
        (lambda o: lr_scheduler.LinearLR(o, 0.0), ValueError, "greater than 0"),
        (lambda o: lr_scheduler.LinearLR(o, 1.0, -1.0), ValueError, "between 0 and 1"),
        (lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 0), ValueError, "positive integer T_0"),
        (lambda o: lr_scheduler.OneCycleLR(o, 0.1), ValueError, "either total_steps OR"),
        (lambda o: lr_scheduler.OneCycleLR(o, [0.1], total_steps=3), ValueError, "max_lr has 1 values"),
        (lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=3, pct_start=2.0), ValueError, "pct_start"),
        (lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=1.0), ValueError, "Factor should be < 1.0"),
        (lambda o: lr_scheduler.ReduceLROnPlateau(o, mode="up"), ValueError, "mode up is unknown"),
        (lambda o: lr_scheduler.SequentialLR(o, [], []), ValueError, "at least one scheduler"),
        (lambda o: lr_scheduler.SequentialLR(o, [lr_scheduler.StepLR(o, 1)], [3]), ValueError, "one more"),
        (
            lambda o: lr_scheduler.ChainedScheduler([lr_scheduler.ReduceLROnPlateau(o)]),
            ValueError,
            "does not support `ReduceLROnPlateau`",
        ),
        (
            lambda o: lr_scheduler.ChainedScheduler(
                [lr_scheduler.StepLR(o, 1), lr_scheduler.StepLR(optimizer(tensorlib, "SGD"), 1)]
            ),
            ValueError,
            "belong to the same optimizer",
        ),
    ],
)
def test_errors(make, error, match):
    """Options out of range."""
    with pytest.raises(error, match=match):
        make(optimizer(tensorlib, "SGD"))


def test_one_cycle_ends():
    """A step beyond total_steps is an error."""
    opt = optimizer(tensorlib, "SGD")
    schedule = lr_scheduler.OneCycleLR(opt, 0.1, total_steps=3)
    for _ in range(3):
        opt.step()
        schedule.step()
    with pytest.raises(ValueError, match=r"Tried to step 4 times\. The specified number of total steps is 3"):
        schedule.step()
