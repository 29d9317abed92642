"""The functional forms of layers and losses: every operator declared with ``functional`` in its namespaces."""

from tensorlib._namespace import fill as _fill
from tensorlib.ops.scaled_products import ScalingType, SwizzleType

__all__, __getattr__ = _fill(__name__, "functional", globals())
__all__ += ["ScalingType", "SwizzleType"]
