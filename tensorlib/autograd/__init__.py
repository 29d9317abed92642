"""Automatic differentiation: backward and grad, modes, custom functions, saved values, gradient checks."""

from tensorlib.autograd import forward_ad, functional, grad_mode, graph, profiler
from tensorlib.autograd.engine import backward, grad
from tensorlib.autograd.function import Function, once_differentiable
from tensorlib.autograd.gradcheck import GradcheckError, gradcheck, gradgradcheck
from tensorlib.autograd.graph import SavedTensor
from tensorlib.autograd.modes import (
    detect_anomaly,
    enable_grad,
    inference_mode,
    is_anomaly_enabled,
    is_multithreading_enabled,
    no_grad,
    set_detect_anomaly,
    set_grad_enabled,
    set_multithreading_enabled,
)
from tensorlib.autograd.saved import saved_tensors_hooks
from tensorlib.autograd.variable import Variable

__all__ = [
    "Function",
    "GradcheckError",
    "SavedTensor",
    "Variable",
    "backward",
    "detect_anomaly",
    "enable_grad",
    "forward_ad",
    "functional",
    "grad",
    "grad_mode",
    "gradcheck",
    "gradgradcheck",
    "graph",
    "inference_mode",
    "is_anomaly_enabled",
    "is_multithreading_enabled",
    "no_grad",
    "once_differentiable",
    "profiler",
    "saved_tensors_hooks",
    "set_detect_anomaly",
    "set_grad_enabled",
    "set_multithreading_enabled",
]
