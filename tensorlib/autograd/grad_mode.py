"""The switches of recording under the name of PyTorch's module, from which programs import them."""

from tensorlib.autograd.modes import enable_grad, inference_mode, no_grad, set_grad_enabled, set_multithreading_enabled

__all__ = ["enable_grad", "inference_mode", "no_grad", "set_grad_enabled", "set_multithreading_enabled"]
