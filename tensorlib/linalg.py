"""Linear algebra: every operator declared with ``linalg`` in its namespaces."""

from tensorlib._namespace import fill as _fill

__all__, __getattr__ = _fill(__name__, "linalg", globals())
