"""Composable transforms of functions: gradients, Jacobians, batching. Each takes a function and gives a function."""

from tensorlib.func._gradients import grad, grad_and_value, hessian, jacfwd, jacrev, jvp, linearize, vjp
from tensorlib.func._modules import functional_call, replace_all_batch_norm_modules_, stack_module_state
from tensorlib.func._vmap import vmap

__all__ = [
    "functional_call",
    "grad",
    "grad_and_value",
    "hessian",
    "jacfwd",
    "jacrev",
    "jvp",
    "linearize",
    "replace_all_batch_norm_modules_",
    "stack_module_state",
    "vjp",
    "vmap",
]
