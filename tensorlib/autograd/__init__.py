"""Automatic differentiation: backward and grad, modes, custom functions, saved values, gradient checks."""

from tensorlib.autograd.engine import backward, grad
from tensorlib.autograd.function import Function, once_differentiable
from tensorlib.autograd.gradcheck import GradcheckError, gradcheck, gradgradcheck
from tensorlib.autograd.modes import (
    detect_anomaly,
    enable_grad,
    inference_mode,
    is_anomaly_enabled,
    no_grad,
    set_detect_anomaly,
    set_grad_enabled,
)
from tensorlib.autograd.saved import saved_tensors_hooks

__all__ = [
    "Function",
    "GradcheckError",
    "backward",
    "detect_anomaly",
    "enable_grad",
    "grad",
    "gradcheck",
    "gradgradcheck",
    "inference_mode",
    "is_anomaly_enabled",
    "no_grad",
    "once_differentiable",
    "saved_tensors_hooks",
    "set_detect_anomaly",
    "set_grad_enabled",
]
