"""Linear algebra: every operator declared with ``linalg`` in its namespaces."""

from tensorlib._namespace import fill as _fill
from tensorlib.errors import LinAlgError

__all__, __getattr__ = _fill(__name__, "linalg", globals())
__all__ += ["LinAlgError"]
