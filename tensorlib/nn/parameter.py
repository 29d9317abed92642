"""Parameter and Buffer: the tensors a Module registers when they are assigned to it."""

from __future__ import annotations

from typing import Any

from tensorlib._core import KINDS, Tensor, new, version_of
from tensorlib.ops import empty

__all__ = ["Buffer", "Parameter", "UninitializedBuffer", "UninitializedParameter", "is_lazy"]


def _alias(cls: Any, data: Tensor | None, requires_grad: bool) -> Any:
    """A leaf of class ``cls`` over the array of ``data``, sharing its version counter."""
    if data is None:
        data = empty(0)
    if not isinstance(data, Tensor):
        raise TypeError(f"{cls.__name__}(): argument 'data' must be Tensor, not {type(data).__name__}")
    self = new(cls)
    self._array = data._array
    self._needs = False
    self._node = None
    self._index = 0
    self._writes = version_of(data)
    self._view = None
    if requires_grad:
        self.requires_grad_(True)
    return self


class Parameter(Tensor):
    """A leaf tensor that a Module lists among its ``parameters()``. Shares memory with ``data``; no copy is made.

    data: Tensor (default: an empty one). requires_grad: default True, also under ``no_grad``.
    """

    def __new__(cls, data: Tensor | None = None, requires_grad: bool = True) -> Parameter:
        """A Parameter over the memory of ``data``."""
        return _alias(cls, data, requires_grad)

    def __init__(self, data: Tensor | None = None, requires_grad: bool = True) -> None:
        """All is done in ``__new__``: Tensor's constructor must not run on these arguments."""

    def __repr__(self) -> str:
        return "Parameter containing:\n" + super().__repr__()

    def __deepcopy__(self, memo: dict[int, Any]) -> Parameter:
        found = memo.get(id(self))
        if found is None:
            found = memo[id(self)] = type(self)(self.detach().clone(), self.requires_grad)
        return found

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _rebuild, (type(self), self.detach(), self.requires_grad)


class Buffer(Tensor):
    """A tensor that a Module lists among its ``buffers()`` and not its parameters; ``persistent``: in state_dict.

    data: Tensor (default: an empty one). Shares its memory.
    """

    persistent: bool

    def __new__(cls, data: Tensor | None = None, *, persistent: bool = True) -> Buffer:
        """A Buffer over the memory of ``data``."""
        self = _alias(cls, data, data is not None and data.requires_grad)
        self.persistent = persistent
        return self

    def __init__(self, data: Tensor | None = None, *, persistent: bool = True) -> None:
        """All is done in ``__new__``: Tensor's constructor must not run on these arguments."""

    def __repr__(self) -> str:
        return "Buffer containing:\n" + super().__repr__()

    def __deepcopy__(self, memo: dict[int, Any]) -> Buffer:
        found = memo.get(id(self))
        if found is None:
            found = memo[id(self)] = type(self)(self.detach().clone(), persistent=self.persistent)
        return found

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _rebuild_buffer, (type(self), self.detach(), self.persistent)


def _rebuild(cls: type[Parameter], data: Tensor, requires_grad: bool) -> Parameter:
    return cls(data, requires_grad)


def _rebuild_buffer(cls: type[Buffer], data: Tensor, persistent: bool) -> Buffer:
    return cls(data, persistent=persistent)


# The operators' fast paths take these as they take plain tensors; results are plain tensors.
KINDS.update((Parameter, Buffer))


class _Uninitialized:
    """A parameter or buffer whose shape is not known yet: it can be moved and cast, and ``materialize``d."""

    _becomes: type[Tensor]

    def materialize(self: Any, shape: Any, device: Any = None, dtype: Any = None) -> None:
        """Turn into a plain parameter or tensor of that shape, its elements undefined, still the same object."""
        size = (shape,) if isinstance(shape, int) else tuple(shape)
        at, kind = device or Tensor.device.__get__(self), dtype or Tensor.dtype.__get__(self)
        self._array = empty(size, device=at, dtype=kind)._array
        self.__class__ = self._becomes

    @property
    def shape(self) -> Any:
        """Not known: RuntimeError."""
        raise RuntimeError(
            "Can't access the shape of an uninitialized parameter or buffer. This error usually happens in "
            "`load_state_dict` when trying to load an uninitialized parameter into an initialized module. Call "
            "`forward` to initialize the parameters before accessing their attributes."
        )

    def detach(self) -> Any:
        """Itself: there is nothing to detach."""
        return self

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __deepcopy__(self: Any, memo: dict[int, Any]) -> Any:
        found = memo.get(id(self))
        if found is None:
            kind, place = Tensor.dtype.__get__(self), Tensor.device.__get__(self)
            found = memo[id(self)] = type(self)(requires_grad=self._needs, device=place, dtype=kind)
        return found

    def __reduce_ex__(self: Any, protocol: Any) -> Any:
        return type(self), (self._needs, Tensor.device.__get__(self), Tensor.dtype.__get__(self))


class UninitializedParameter(_Uninitialized, Parameter):
    """A Parameter whose shape the first forward of a lazy module decides. device, dtype: of what it will be."""

    _becomes = Parameter

    def __new__(cls, requires_grad: bool = True, device: Any = None, dtype: Any = None) -> UninitializedParameter:
        """An uninitialised parameter."""
        return _alias(cls, empty(0, device=device, dtype=dtype), requires_grad)

    def __init__(self, requires_grad: bool = True, device: Any = None, dtype: Any = None) -> None:
        """All is done in ``__new__``."""


class UninitializedBuffer(_Uninitialized, Tensor):
    """A buffer whose shape the first forward of a lazy module decides. device, dtype: of what it will be."""

    _becomes = Tensor

    def __new__(cls, requires_grad: bool = False, device: Any = None, dtype: Any = None) -> UninitializedBuffer:
        """An uninitialised buffer."""
        return _alias(cls, empty(0, device=device, dtype=dtype), requires_grad)

    def __init__(self, requires_grad: bool = False, device: Any = None, dtype: Any = None) -> None:
        """All is done in ``__new__``."""


def is_lazy(value: Any) -> bool:
    """Whether a parameter or buffer has no shape yet."""
    return isinstance(value, _Uninitialized)
