"""Linear algebra: every operator declared with ``linalg`` in its namespaces."""

import importlib as _importlib
from typing import Any as _Any

from tensorlib._namespace import fill as _fill
from tensorlib.errors import LinAlgError

__all__, _missing = _fill(__name__, "linalg", globals())
__all__ += ["LinAlgError"]
#: Names of the array API standard that PyTorch does not have here, found there when they are first asked for.
_LATE = ("matrix_transpose", "outer", "tensordot", "trace")


def __getattr__(name: str) -> _Any:
    return getattr(_importlib.import_module("tensorlib.array_api.linalg"), name) if name in _LATE else _missing(name)
