"""Mixed precision: ``autocast`` chooses each operator's dtype, ``GradScaler`` keeps small gradients from vanishing."""

from tensorlib.amp.autocast_mode import autocast, custom_bwd, custom_fwd, is_autocast_available
from tensorlib.amp.grad_scaler import GradScaler

__all__ = ["GradScaler", "autocast", "custom_bwd", "custom_fwd", "is_autocast_available"]
