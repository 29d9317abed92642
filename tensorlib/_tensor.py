"""Tensor's methods: properties, conversions, autograd, operators. Those of the declared operators are attached from
the registry, so that this file holds only what has no declaration.
"""

from __future__ import annotations

import copy
import functools
import importlib
import math
import numbers
import threading
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tensorlib import _array, _dlpack, _inplace, _legacy, _printing, _promotion, _sharing, ops
from tensorlib._core import KINDS, LIFTED, Tensor, listening, modes, version_of, wrap
from tensorlib._device import cpu, meta
from tensorlib._device import device as Device
from tensorlib._dispatch import as_ints, sync
from tensorlib._dtypes import OF_NUMPY, as_dtype, dtype
from tensorlib._hooks import RemovableHandle
from tensorlib._layout import strided
from tensorlib._size import Size
from tensorlib._storage import TypedStorage, UntypedStorage
from tensorlib._written import written
from tensorlib.autograd import engine
from tensorlib.autograd.batched import with_batches
from tensorlib.errors import (
    AmbiguousError,
    ArgumentError,
    AutogradError,
    CaptureError,
    DeviceError,
    DtypeError,
    ShapeError,
    UnsupportedError,
)
from tensorlib.kernels import transfer
from tensorlib.kernels.pointwise import Elsewhere
from tensorlib.op import Composite, Op, declared, names_in, registry, watchers
from tensorlib.ops import complex_numbers, create, memory
from tensorlib.runtime.engine import resolve


class _Methods(Tensor):
    """Copied into Tensor below."""

    # NumPy arrays leave ``array + tensor`` to Tensor.
    __array_priority__ = 1000

    def __new__(cls, data: Any = None, *args: Any) -> Any:
        """``Tensor(data)`` and ``Tensor(2, 3)``: float data, and uninitialised float memory."""
        if data is None:
            return _as_class(cls, create.empty(0))
        if isinstance(data, Tensor):
            return _as_class(cls, data.detach())
        if isinstance(data, (int, np.integer)) and not isinstance(data, bool):
            return _as_class(cls, create.empty(data, *args))
        return _as_class(cls, create.tensor(data, dtype=_promotion.default_dtype()))

    # ------------------------------------------------------------------------------------------- what it is

    @property
    def shape(self) -> Size:
        """Sizes of the dimensions."""
        return Size(self._array.shape)

    def size(self, dim: int | None = None) -> Any:
        """The shape, or the size of one dimension."""
        shape = self._array.shape
        return Size(shape) if dim is None else shape[ops.wrap_dim("size", dim, len(shape))]

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return self._array.ndim

    def dim(self) -> int:
        """Number of dimensions."""
        return self._array.ndim

    ndimension = dim

    def numel(self) -> int:
        """Number of elements."""
        return self._array.size

    nelement = numel

    @property
    def dtype(self) -> dtype:
        """The element type."""
        return OF_NUMPY[self._array.dtype]

    @property
    def device(self) -> Device:
        """Where it lives."""
        return _array.device_of(self._array)

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self._array.itemsize

    element_size = lambda self: self._array.itemsize  # noqa: E731

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self._array.size * self._array.itemsize

    def stride(self, dim: int | None = None) -> Any:
        """Steps between neighbours of each dimension, in elements."""
        strides = _array.strides_of(self._array)
        return strides if dim is None else strides[dim]

    def data_ptr(self) -> int:
        """Address of the first element; 0 on ``meta``."""
        x = self._array
        return x.__array_interface__["data"][0] if isinstance(x, np.ndarray) else 0 if x.device is meta else x.ptr

    def is_contiguous(self, memory_format: Any = None) -> bool:
        """Whether the elements lie in C order without gaps."""
        return _array.is_contiguous(self._array)

    def dim_order(self, *, ambiguity_check: Any = False) -> tuple[int, ...]:
        """The dims from the one with the largest stride to the one with the smallest; of equal ones the first first.

        ``ambiguity_check=True``: RuntimeError where equal strides leave the order open.
        """
        if ambiguity_check and len({s for n, s in zip(self.shape, self.stride(), strict=True) if n > 1}) < self.ndim:
            raise RuntimeError("dim_order: The tensor does not have unique dim order: dims of equal strides")
        strides = self.stride()
        return tuple(sorted(range(len(strides)), key=lambda d: -strides[d]))

    def is_floating_point(self) -> bool:
        """Whether the dtype is a floating-point one."""
        return self.dtype.is_floating_point

    def is_complex(self) -> bool:
        """Whether the dtype is a complex one."""
        return self.dtype.is_complex

    def is_signed(self) -> bool:
        """Whether the dtype holds negative numbers."""
        return self.dtype.is_signed

    def is_nonzero(self) -> bool:
        """Whether the only element is not 0. ArgumentError where there are more, or none."""
        if self._array.size != 1:
            many = "more than one value" if self._array.size else "no values"
            raise ArgumentError(f"is_nonzero: Boolean value of Tensor with {many} is ambiguous: use .any() or .all()")
        return bool(self.item())

    def is_same_size(self, other: Tensor) -> bool:
        """Whether the other tensor has the same shape."""
        return bool(self._array.shape == other._array.shape)

    def is_set_to(self, tensor: Tensor) -> bool:
        """Whether the other tensor is the same view of the same memory."""
        same = self._array.shape == tensor._array.shape and self.stride() == tensor.stride()
        return same and self.data_ptr() == tensor.data_ptr()

    def is_inference(self) -> bool:
        """False: inference mode makes ordinary tensors."""
        return False

    def is_pinned(self, device: Any = None) -> bool:
        """Whether it lies in page-locked memory of the host, which a GPU copies from and to while the host goes on."""
        return transfer.is_pinned(self._array)

    def pin_memory(self, device: Any = None) -> Tensor:
        """A copy in page-locked memory, for copies with ``non_blocking=True``; itself where it lies there already.

        DeviceError for a tensor on a GPU, and without a GPU.
        """
        return memory.pin(self)

    def record_stream(self, stream: Any) -> None:
        """Keep its memory from being given to others before what ``stream`` was given until it is freed is done.

        For a tensor that is used on another stream than the one it was made on.
        """
        if not self.is_cuda:
            raise DeviceError(f"record_stream: expected a tensor on a GPU, got one on {self.device}")
        transfer.record_stream(self._array, stream.stream_id)

    def untyped_storage(self) -> UntypedStorage:
        """The memory that it and its views share."""
        return UntypedStorage(self if self._view is None else self._view.base)

    def storage(self) -> TypedStorage:
        """The memory that it and its views share, as elements of its dtype."""
        return TypedStorage(self if self._view is None else self._view.base)

    def _is_view(self) -> bool:
        return self._view is not None

    def is_shared(self) -> bool:
        """Whether other processes see its memory: on a GPU they can, on the CPU after ``share_memory_``."""
        return self.is_cuda or _sharing.memory_of(self._array) is not None

    def share_memory_(self) -> Tensor:
        """Itself, moved to memory that processes share: what one writes in place the others see.

        It reaches processes by ``fork``, or in the arguments and queues of ``tensorlib.multiprocessing``. Views that
        were made before stay over the old memory; UnsupportedError for a view. Nothing changes on a GPU.
        """
        if self.is_shared():
            return self
        if self._view is not None:
            raise UnsupportedError("share_memory_: this is a view: share the tensor that it is a view of, or a clone")
        if not isinstance(self._array, np.ndarray):
            raise DeviceError(f"share_memory_: expected a tensor on the CPU, got one on {self.device}")
        self._array = _sharing.share(self._array)
        _processes()._sends(Tensor, _reduce_shared)
        return self

    def get_device(self) -> int:
        """The number of the GPU it is on; -1 on the CPU."""
        return (self.device.index or 0) if self.is_cuda else -1

    def storage_offset(self) -> int:
        """How many elements after the first of its memory it begins: 0 but for views."""
        root = self if self._view is None else self._view.base
        start = ops.views._memory(root._array)[0]
        x = self._array
        return ((self.data_ptr() if isinstance(x, np.ndarray) else x.ptr) - start) // x.itemsize

    @property
    def is_sparse(self) -> bool:
        """False: every tensor has strides."""
        return False

    @property
    def is_quantized(self) -> bool:
        """False: no tensor is quantised."""
        return False

    @property
    def is_mps(self) -> bool:
        """False: Triton does not reach Apple's GPUs."""
        return False

    @property
    def is_xpu(self) -> bool:
        """False: Triton's builds for Intel's GPUs are not used."""
        return False

    @property
    def is_meta(self) -> bool:
        """Whether it is on ``meta``: a shape and a dtype without numbers."""
        return self.device is meta

    @property
    def layout(self) -> str:
        """``tensorlib.strided``, the only one."""
        return strided

    @property
    def is_cpu(self) -> bool:
        """Whether it is on the CPU."""
        return self.device is cpu

    @property
    def is_cuda(self) -> bool:
        """Whether it is on a GPU."""
        return self.device.type in ("cuda", "hip")

    @property
    def is_leaf(self) -> bool:
        """Whether no operation made it, as far as autograd knows."""
        sync(self)
        return self._node is None

    @property
    def requires_grad(self) -> bool:
        """Whether gradients flow to it. May be set on leaves of floating-point dtype."""
        if self._view is not None:
            sync(self)
        return self._needs

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if not isinstance(value, bool):
            raise AutogradError(f"requires_grad must be a bool, got {type(value).__name__}")
        self.requires_grad_(value)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Ask for a gradient, or no longer. AutogradError for integers and for tensors an operation made."""
        if requires_grad and self._array.dtype.kind in "iub":
            raise AutogradError(
                f"requires_grad: only Tensors of floating point dtype can require gradients, got {self.dtype}"
            )
        if self._node is not None and not requires_grad:
            raise AutogradError(
                "requires_grad: you can only change requires_grad flags of leaf variables; use .detach() for a tensor "
                "without history"
            )
        self._needs = bool(requires_grad)
        return self

    @property
    def grad(self) -> Tensor | None:
        """The gradient accumulated by backward, or None: always for what is no leaf, unless by ``retain_grad``."""
        if self._grad is None and self._node is not None and not self.retains_grad:
            warnings.warn(
                "The .grad attribute of a Tensor that is not a leaf Tensor is being accessed. Its .grad attribute "
                "won't be populated during autograd.backward(): call retain_grad() on it before",
                stacklevel=2,
            )
        return self._grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is not None:
            if not isinstance(value, Tensor):
                raise TypeError(f"assigned grad expected to be a Tensor or None but got {type(value).__name__}")
            if value._array.shape != self._array.shape:
                raise AutogradError(f"assigned grad has shape {tuple(value.shape)}, the tensor {tuple(self.shape)}")
        self._grad = value

    @grad.deleter
    def grad(self) -> None:
        self._grad = None

    @property
    def grad_fn(self) -> Any:
        """The Node that computed it; None for a leaf."""
        if self._view is not None:
            sync(self)
        return self._node

    @property
    def _version(self) -> int:
        """How often it, or what shares its memory, was written."""
        return version_of(self)[0]

    @property
    def output_nr(self) -> int:
        """Which output of ``grad_fn`` it is."""
        return self._index

    @property
    def data(self) -> Tensor:
        """The same memory without history, under a version counter of its own. May be set."""
        return wrap(self._array)

    @data.setter
    def data(self, value: Tensor) -> None:
        if not isinstance(value, Tensor):
            raise TypeError(f"data: expected a Tensor, got {type(value).__name__}")
        if self._needs and value._array.dtype.kind in "iub":
            raise AutogradError(
                f"data set to a tensor that requires gradients must be floating point or complex dtype, "
                f"got {value.dtype}"  # type: ignore[attr-defined]
            )
        self._array = value._array

    @property
    def _base(self) -> Tensor | None:
        return None if self._view is None else self._view.base

    @property
    def real(self) -> Tensor:
        """The real part: a view of complex numbers, real tensors themselves. May be set."""
        return complex_numbers.real(self)

    @real.setter
    def real(self, value: Any) -> None:
        complex_numbers.real(self).copy_(value)  # type: ignore[attr-defined]

    @property
    def imag(self) -> Tensor:
        """The imaginary part of complex numbers, a view. May be set."""
        return complex_numbers.imag(self)

    @imag.setter
    def imag(self, value: Any) -> None:
        complex_numbers.imag(self).copy_(value)  # type: ignore[attr-defined]

    # ------------------------------------------------------------------------------------------- conversions

    def numpy(self, *, force: bool = False) -> np.ndarray:
        """The NumPy array over the same memory. With ``force`` a detached CPU copy of whatever it is."""
        if force:
            return self._array if isinstance(self._array, np.ndarray) else _host(self, "numpy")
        if self._needs and modes.grad:
            raise AutogradError(
                "numpy: Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead."
            )
        if not isinstance(self._array, np.ndarray):
            raise TypeError(
                f"can't convert {self.device} device type tensor to numpy. Use .cpu() to copy it to host memory first."
            )
        return self._array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __dlpack__(
        self, *, stream: Any = None, max_version: Any = None, dl_device: Any = None, copy: bool | None = None
    ) -> Any:
        """A DLPack capsule over the same memory. BufferError where it requires a gradient or is not on the CPU."""
        return _dlpack.export(self, stream, max_version, dl_device, copy)

    def __dlpack_device__(self) -> tuple[int, int]:
        """DLPack's number of the device, and its index."""
        return _dlpack.device_of(self)

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        """The functions of the Python array API standard: ``tensorlib.array_api``. ValueError for another version."""
        return _array_api(api_version)

    def to_device(self, device: Any, /, *, stream: Any = None) -> Tensor:
        """On ``device``, itself where it is there already: the array API standard's ``to``. No ``stream`` but None."""
        if stream is not None:
            raise ArgumentError(f"to_device: got stream={stream!r}: expected None; use tensorlib.cuda.stream around it")
        return self.to(Device(device))

    def item(self) -> Any:
        """The only element as a Python number."""
        x = self._array
        if x.size != 1:
            raise ArgumentError(f"item: a Tensor with {x.size} elements cannot be converted to Scalar")
        return x.item() if isinstance(x, np.ndarray) else _host(self, "item").item()

    def tolist(self) -> Any:
        """Nested lists of Python numbers; a number for a 0-d tensor."""
        x = self._array
        return x.tolist() if isinstance(x, np.ndarray) else _host(self, "tolist").tolist()

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        """``to(dtype)``, ``to(device)``, ``to(device, dtype)``, ``to(other)``: itself when nothing changes.

        ``non_blocking``: between page-locked memory of the host (``pin_memory``) and a GPU the host does not wait for
        the copy; a tensor that comes to the CPU so lies in such memory, and is there once the stream was waited for.
        """
        device, kind, non_blocking, copy = _parse_to(args, kwargs)
        t: Any = self
        here = _array.device_of(self._array)
        if device is not None and device is not here and resolve(device) is not here:
            t = memory.transfer(t, device, non_blocking)
        if kind is not None and t._array.dtype != kind:
            t = memory.cast(t, kind)
        return t.clone() if copy and t is self else t

    def cpu(self, memory_format: Any = None) -> Tensor:
        """On the CPU."""
        return self.to(cpu)

    def cuda(self, device: Any = None, non_blocking: bool = False, memory_format: Any = None) -> Tensor:
        """On a GPU, the current one for None; ``non_blocking`` as for ``to``."""
        return self.to(Device("cuda") if device is None else Device(device), non_blocking=non_blocking)

    def type(self, dtype: Any = None, non_blocking: bool = False) -> Any:
        """"tensorlib.FloatTensor" and its like, or the tensor as another dtype, which may be named so too."""
        if dtype is None:
            return _legacy.type_name(self)
        if dtype is Tensor:
            dtype = OF_NUMPY[_promotion.default_dtype()]
        name = dtype if isinstance(dtype, str) else getattr(dtype, "__name__", "")
        kind = _legacy.TYPES.get(name.rpartition(".")[2]) or as_dtype(dtype)
        place = ("cuda" if ".cuda." in name else "cpu") if "." in name and isinstance(dtype, str) else None
        return self.to(kind) if place is None else self.to(place, kind, non_blocking)

    def split(self, split_size: Any, dim: int = 0) -> tuple[Tensor, ...]:
        """As the function ``split``; PyTorch's method has another name for the size or sizes."""
        return ops.split(self, split_size, dim)

    def contiguous(self, memory_format: Any = None) -> Tensor:
        """Itself when contiguous, otherwise a contiguous copy."""
        return self if _array.is_contiguous(self._array) else self.clone()

    def to_dense(self, dtype: Any = None, *, masked_grad: bool = True) -> Tensor:
        """Itself, as ``dtype`` if given: every tensor has strides."""
        return self if dtype is None else self.to(dtype)

    def type_as(self, other: Tensor) -> Tensor:
        """As the dtype and device of ``other``."""
        return self.to(other)

    # ------------------------------------------------------------------------------------------- autograd

    def backward(
        self, gradient: Any = None, retain_graph: Any = None, create_graph: bool = False, inputs: Any = None
    ) -> None:
        """Gradients of this tensor into ``.grad`` of the leaves: see ``autograd.backward``."""
        engine.backward(self, gradient, retain_graph, create_graph, inputs)

    def detach(self) -> Tensor:
        """The same memory without history; writes to it are counted."""
        t = wrap(self._array)
        t._writes = version_of(self)
        return t

    def detach_(self) -> Tensor:
        """Forget the history."""
        if self._view is not None:
            raise AutogradError("detach_: Can't detach views in-place. Use detach() instead.")
        self._node, self._index, self._needs = None, 0, False
        return self

    def retain_grad(self) -> None:
        """Have backward fill ``.grad`` although this is not a leaf."""
        if not self.requires_grad:
            raise AutogradError("retain_grad: can't retain_grad on Tensor that has requires_grad=False")
        node = self._node
        if node is not None:
            if node.hooks is None:
                node.hooks = {}
            node.hooks["retain", self._index] = weakref.ref(self)

    @property
    def retains_grad(self) -> bool:
        """Whether ``retain_grad`` was called on this non-leaf."""
        node = self._node
        return node is not None and node.hooks is not None and ("retain", self._index) in node.hooks

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
        """Call ``hook(grad)`` when the gradient is known; a tensor it returns takes the gradient's place."""
        if not self.requires_grad:
            raise AutogradError("register_hook: cannot register a hook on a tensor that doesn't require gradient")
        if self._node is None:
            if self._hooks is None:
                self._hooks = {}
            hooks = self._hooks.setdefault(0, OrderedDict())
        else:
            if self._node.hooks is None:
                self._node.hooks = {}
            hooks = self._node.hooks.setdefault(self._index, OrderedDict())
        handle = RemovableHandle(hooks)
        hooks[handle.id] = hook
        return handle

    def register_post_accumulate_grad_hook(self, hook: Callable[[Tensor], None]) -> RemovableHandle:
        """Call ``hook(tensor)`` after backward has added to this leaf's ``.grad``."""
        if self._node is not None:
            raise AutogradError(
                "register_post_accumulate_grad_hook: post accumulate grad hooks cannot be registered on non-leaf "
                "tensors: use register_hook"
            )
        if self._hooks is None:
            self._hooks = {}
        hooks = self._hooks.setdefault("post", OrderedDict())
        handle = RemovableHandle(hooks)
        hooks[handle.id] = hook
        return handle

    # ------------------------------------------------------------------------------------------- in place

    def copy_(self, src: Any = None, non_blocking: bool = False, *, other: Any = None) -> Tensor:
        """Write ``src``, broadcast and converted, into this tensor; ``non_blocking`` as for ``to``.

        ``other`` is the name that PyTorch's parser has for ``src``.
        """
        if (src is None) == (other is None):
            raise TypeError("copy_(): expected one tensor to copy from, src")
        src = other if src is None else src
        if not isinstance(src, Tensor):
            src = create.as_tensor(src)
        return _inplace.assign(self, src, "copy_", non_blocking=non_blocking)

    def fill_(self, value: Any) -> Tensor:
        """Write a number (or a 0-d tensor) into every element."""
        if isinstance(value, Tensor):
            if value._array.ndim:
                raise ArgumentError(
                    f"fill_: only supports 0-dimension value tensor but got {value._array.ndim} dimensions"
                )
            return _inplace.assign(self, value, "fill_")
        x = self._array
        if type(value) is float or type(value) is int:
            plain = _inplace.writes_plainly(self) and not listening[0]
            if plain and x.dtype.kind == "f" and x.dtype.itemsize > 2 and -3e38 < value < 3e38:
                x.fill(value)
                version_of(self)[0] += 1
                return self
        filler = np.asarray(create.number_as("fill_", value, x.dtype)).astype(x.dtype)
        return _inplace.assign(self, wrap(filler), "fill_")

    def zero_(self) -> Tensor:
        """Write zeros."""
        return self.fill_(0)

    def apply_(self, callable: Callable[[Any], Any]) -> Tensor:
        """Replace each element by ``callable(element)``, one by one in Python. CPU only."""
        return self._elementwise("apply_", callable)

    def map_(self, tensor: Tensor, callable: Callable[[Any, Any], Any]) -> Tensor:
        """Replace each element by ``callable(element, the one of tensor)``, one by one in Python. CPU only."""
        return self._elementwise("map_", callable, tensor)

    def map2_(self, x: Tensor, y: Tensor, callable: Callable[[Any, Any, Any], Any]) -> Tensor:
        """Replace each element by ``callable(element, the one of x, the one of y)``, in Python. CPU only."""
        return self._elementwise("map2_", callable, x, y)

    def _elementwise(self, name: str, function: Callable[..., Any], *others: Tensor) -> Tensor:
        if self.requires_grad:
            raise AutogradError(f"{name}: can't call {name}() on Tensor that requires grad: use tensor.detach()")
        here = self._array
        if not isinstance(here, np.ndarray):
            raise TypeError(f"{name}: only implemented for CPU tensors, got one on {self.device}: use .cpu()")
        if any(t._array.dtype != here.dtype for t in others):
            raise TypeError(f"{name}: expected tensors of dtype {self.dtype}")
        lists = [np.broadcast_to(t._array, here.shape).reshape(-1).tolist() for t in (self, *others)]
        done = [function(*v) for v in zip(*lists, strict=True)]
        if not all(isinstance(v, (numbers.Number, np.generic)) for v in done):
            raise TypeError(f"{name}: expected the callable to return numbers of {self.dtype}")
        return _inplace.assign(self, wrap(np.array(done).reshape(here.shape).astype(here.dtype)), name)

    def fill_diagonal_(self, fill_value: Any, wrap: bool = False) -> Tensor:
        """Write a number on the main diagonal; all sizes must be equal where there are more than two dimensions.

        With ``wrap`` the diagonal of a tall matrix begins again below a free row.
        """
        t: Any = self
        shape = self._array.shape
        if len(shape) < 2:
            raise ShapeError(f"fill_diagonal_: dimensions must larger than 1, got shape {tuple(shape)}")
        if len(shape) > 2 and len(set(shape)) > 1:
            raise ShapeError(f"fill_diagonal_: all dimensions of input must be of equal length, got {tuple(shape)}")
        step, n = sum(self.stride()), min(shape)
        t.as_strided((n,), (step,)).fill_(fill_value)
        rows, columns = shape[:2]
        if wrap and len(shape) == 2 and rows > columns + 1:
            row = create.arange(rows, device=self.device)
            below = row[(row > columns) & (row % (columns + 1) != columns)]  # type: ignore[index, operator]
            t[below, below % (columns + 1)] = fill_value
        return self

    def resize_(self, *args: Any, size: Any = None, memory_format: Any = None) -> Tensor:
        """Give this tensor another shape: the same memory where it is large enough, else a larger copy of it.

        Elements beyond what was there are undefined. AutogradError where it requires a gradient.
        """
        if self.requires_grad:
            raise AutogradError("resize_: cannot resize variables that require grad")
        sizes = create.sizes_given("resize_", args, size)
        listed = len(sizes) == 1 and isinstance(sizes[0], (tuple, list))
        shape = as_ints("resize_", "size", sizes[0] if listed else sizes)
        if any(n < 0 for n in shape):
            raise ShapeError(f"resize_: a size cannot be negative, got {shape}")
        x = self._array
        if x.shape == shape:
            return self
        count = math.prod(shape)
        if count <= x.size and _array.is_contiguous(x):
            self._array = x.reshape((-1,))[:count].reshape(shape)
        else:
            larger = _array.empty((count,), x.dtype, _array.device_of(x))
            kept = min(count, x.size)
            if kept:
                old = (x if _array.is_contiguous(x) else x.copy()).reshape((-1,))
                _inplace.write(larger[:kept], old[:kept], "resize_")
            self._array = larger.reshape(shape)
        version_of(self)[0] += 1
        return self

    def resize_as_(self, the_template: Tensor, memory_format: Any = None) -> Tensor:
        """``resize_`` to the shape of another tensor."""
        return self.resize_(tuple(the_template._array.shape))

    def set_(self, source: Any = None, storage_offset: int = 0, size: Any = None, stride: Any = None) -> Tensor:
        """Use the memory of another tensor, or of a storage, from now on; without one be empty.

        With ``size``, and ``stride`` unless it is contiguous: a view of it from element ``storage_offset`` on.
        """
        if source is None:
            source = create.empty(0, dtype=self.dtype, device=self.device)
        if not isinstance(source, Tensor):  # a storage: all of its memory, as elements of this dtype
            whole = source.nbytes() // self._array.itemsize
            source = source._tensor
            size, stride = ((whole,), (1,)) if size is None else (size, stride)
        if size is not None:
            size = (size,) if isinstance(size, int) else tuple(size)
            if not stride and len(size):
                stride = [math.prod(size[i + 1 :]) for i in range(len(size))]
            source = ops.as_strided(source.detach(), size, tuple(stride or ()), storage_offset)
        version_of(self)[0] += 1
        self._array = source._array
        return self

    # ------------------------------------------------------------------------------------------- factories

    def new_tensor(
        self, data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False, pin_memory: bool = False
    ) -> Tensor:
        """``tensor(data)`` with this tensor's dtype and device."""
        return create.tensor(
            data, dtype=dtype or self.dtype, device=device or self.device, requires_grad=requires_grad,
            pin_memory=pin_memory,
        )  # fmt: skip

    def _new(self, make: Callable[..., Tensor], size: Any, kwargs: Any) -> Tensor:
        kwargs.setdefault("dtype", self.dtype)
        kwargs.setdefault("device", self.device)
        if kwargs["dtype"] is None:
            kwargs["dtype"] = self.dtype
        if kwargs["device"] is None:
            kwargs["device"] = self.device
        return with_batches(make(*size, **kwargs), self)

    def new(self, *args: Any, device: Any = None) -> Tensor:
        """``new(2, 3)``: uninitialised memory; ``new(data)``: a copy; with this tensor's dtype and device."""
        at = self.device if device is None else device
        if not args or isinstance(args[0], (int, np.integer)) or isinstance(args[0], Size):
            return create.empty(*(args or (0,)), dtype=self.dtype, device=at)
        return create.tensor(args[0], dtype=self.dtype, device=at)

    def new_empty(self, *size: Any, **kwargs: Any) -> Tensor:
        """``empty(size)`` with this tensor's dtype and device."""
        return self._new(create.empty, size, kwargs)

    def new_zeros(self, *size: Any, **kwargs: Any) -> Tensor:
        """``zeros(size)`` with this tensor's dtype and device."""
        return self._new(create.zeros, size, kwargs)

    def new_ones(self, *size: Any, **kwargs: Any) -> Tensor:
        """``ones(size)`` with this tensor's dtype and device."""
        return self._new(create.ones, size, kwargs)

    def new_full(self, size: Any, fill_value: Any, **kwargs: Any) -> Tensor:
        """``full(size, fill_value)`` with this tensor's dtype and device."""
        return self._new(create.full, (size, fill_value), kwargs)

    # ------------------------------------------------------------------------------------------- Python

    def __len__(self) -> int:
        if not self._array.ndim:
            raise TypeError("len() of a 0-d tensor")
        return self._array.shape[0]

    def __bool__(self) -> bool:
        if self._array.size != 1:
            raise AmbiguousError(
                f"Boolean value of Tensor with {'more than one value' if self._array.size else 'no values'} is "
                f"ambiguous: use .any() or .all()"
            )
        return bool(self.item())

    def __int__(self) -> int:
        return int(_real_item(self))

    def __float__(self) -> float:
        return float(_real_item(self))

    def __complex__(self) -> complex:
        return complex(self.item())

    def __index__(self) -> int:
        value = self.item()
        if self._array.dtype.kind not in "iub":
            raise TypeError("only integer tensors of a single element can be converted to an index")
        return int(value)

    def __iter__(self) -> Iterator[Tensor]:
        if not self._array.ndim:
            raise TypeError("iteration over a 0-d tensor")
        return iter([self[i] for i in range(self._array.shape[0])])

    def __contains__(self, element: Any) -> bool:
        if not isinstance(element, (Tensor, numbers.Number, np.generic)):
            raise DtypeError(
                f"Tensor.__contains__ only supports Tensor or scalar, but you passed in a {type(element)}."
            )
        return bool((self == element).any())

    def __reversed__(self) -> Tensor:
        """Flipped along the first dim; a 0-d tensor is itself."""
        return self.flip(0) if self._array.ndim else self  # type: ignore[attr-defined, no-any-return]

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return _printing.text(self)

    def __format__(self, spec: str) -> str:
        """As PyTorch: without dimensions the number, ``repr`` otherwise, and for what has no number to show."""
        x = self._array
        if not x.ndim and (spec or (type(self) is Tensor and type(x) not in LIFTED and not self.device.memoryless)):
            return format(self.item(), spec)
        return object.__format__(repr(self), spec) if spec else repr(self)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """A NumPy ufunc called with a tensor: the operator declared over it, or the ufunc on the arrays."""
        made = _UFUNCS.get(ufunc)
        if method == "__call__" and not kwargs and made is not None:
            return made.public(*inputs)
        arrays = [x.numpy() if isinstance(x, Tensor) else x for x in inputs]
        out = kwargs.get("out")
        if out is not None:
            kwargs["out"] = tuple(o.numpy() if isinstance(o, Tensor) else o for o in out)
        result = getattr(ufunc, method)(*arrays, **kwargs)
        if out is not None:
            for o in out:
                if isinstance(o, Tensor):
                    version_of(o)[0] += 1
            return out[0] if len(out) == 1 else out
        return tuple(map(_from_ufunc, result)) if isinstance(result, tuple) else _from_ufunc(result)

    # ------------------------------------------------------------------------------------------- copies

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) in memo:
            return memo[id(self)]
        if self._node is not None:
            raise AutogradError(
                "deepcopy: Only Tensors created explicitly by the user (graph leaves) support the deepcopy protocol at "
                "the moment: detach it first"
            )
        new = _as_class(type(self), self.detach().clone())
        new._needs = self._needs
        memo[id(self)] = new
        if self.__dict__:
            new.__dict__.update({k: copy.deepcopy(v, memo) for k, v in self.__dict__.items() if k != "_hooks"})
        return new

    def __reduce_ex__(self, protocol: Any) -> Any:
        x = self._array
        host = x if isinstance(x, np.ndarray) else _array.to_host(x)
        state = {k: v for k, v in self.__dict__.items() if k not in ("_hooks", "_grad")}
        leaf = self._needs and self._node is None
        return _rebuild, (type(self), np.array(host, order="C", copy=None), str(self.device), leaf, state)


#: The versions of the array API standard whose namespace ``tensorlib.array_api`` is: each adds to the one before.
_API_VERSIONS = ("2021.12", "2022.12", "2023.12", "2024.12", "2025.12")


def _array_api(version: str | None) -> Any:
    """The module of the array API standard, which is above this one and loads when it is first asked for."""
    if version is not None and version not in _API_VERSIONS:
        raise ArgumentError(
            f"__array_namespace__: got api_version={version!r}: the versions are {', '.join(_API_VERSIONS)}"
        )
    return importlib.import_module("tensorlib.array_api")


def _as_class(cls: type, t: Tensor) -> Any:
    """A tensor as one of a subclass, sharing what it holds."""
    out: Any = object.__new__(cls)
    for slot in ("_array", "_needs", "_node", "_index", "_view", "_writes"):
        setattr(out, slot, getattr(t, slot))
    return out


def _rebuild(cls: type, array: np.ndarray, device: str, requires_grad: bool, state: dict[str, Any]) -> Any:
    """What pickle and copy call."""
    if array.ndim == 0 or not array.flags.writeable:
        array = np.array(array)
    t = wrap(array if device == "cpu" else _array.to_device(array, Device(device)))
    t._needs = requires_grad
    out = t if cls is Tensor else _as_class(cls, t)
    out.__dict__.update(state)
    return out


def _processes() -> Any:
    """What sends tensors to other processes: it loads when the first one is shared."""
    return importlib.import_module("tensorlib.multiprocessing")


def _reduce_shared(t: Tensor) -> Any:
    """How a tensor goes to another process: by its memory if that is shared, by its numbers otherwise."""
    packed = _processes()._packed(t._array) if t._node is None and isinstance(t._array, np.ndarray) else None
    return t.__reduce_ex__(2) if packed is None else (_rebuild_shared, (packed, t._needs))


def _rebuild_shared(packed: Any, requires_grad: bool) -> Tensor:
    t = wrap(_processes()._unpacked(*packed))
    t._needs = requires_grad
    _processes()._sends(Tensor, _reduce_shared)
    return t


def _host(t: Tensor, what: str) -> np.ndarray:
    """The numbers of a tensor that is not on the CPU, there; an error says for what."""
    try:
        return _array.to_host(t._array)
    except CaptureError as error:
        raise CaptureError(f"{what}: {error}") from None


def _from_ufunc(result: Any) -> Any:
    return wrap(np.asarray(result)) if isinstance(result, (np.ndarray, np.generic)) else result


def _real_item(t: Tensor) -> Any:
    value = t.item()  # type: ignore[attr-defined]
    if isinstance(value, complex):
        if value.imag:
            raise DtypeError(f"{value} cannot be converted to a real number without overflow: take .real or .abs()")
        return value.real
    return value


def is_tensor(obj: Any) -> bool:
    """Whether ``obj`` is a Tensor."""
    return isinstance(obj, Tensor)


def get_default_dtype() -> dtype:
    """The dtype Python floats become."""
    return OF_NUMPY[_promotion.default_dtype()]


def set_default_device(device: Any) -> None:
    """The device factories use from now on, in this thread; None for the CPU."""
    modes.device = None if device is None else Device(device)


def get_default_device() -> Device:
    """The device factories use now, in this thread."""
    return cpu if modes.device is None else resolve(modes.device)


class _Entered(threading.local):
    """The default devices that a thread had before it entered those of its ``with`` blocks."""

    def __init__(self) -> None:
        self.before: list[Device | None] = []


_entered = _Entered()


def _enter_device(self: Device) -> Device:
    """The device factories use within the block, in this thread."""
    _entered.before.append(modes.device)
    modes.device = self
    return self


def _exit_device(self: Device, *error: object) -> None:
    """The default device that was before."""
    modes.device = _entered.before.pop()


def _with_device(self: Device, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with this device as the default one: ``@device("cuda")``."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with self:  # type: ignore[attr-defined]
            return function(*args, **kwargs)

    return call


for _name, _method_of_device in (("__enter__", _enter_device), ("__exit__", _exit_device), ("__call__", _with_device)):
    setattr(Device, _name, _method_of_device)  # here, as the device itself knows no thread's modes


def can_cast(from_: Any, to: Any) -> bool:
    """Whether an in-place result of dtype ``from_`` may be written as ``to``: not where that loses a category."""
    one, other = as_dtype(from_), as_dtype(to)
    order = ("bool", "int", "float", "complex")
    return order.index(one.kind) <= order.index(other.kind)


def promote_types(type1: Any, type2: Any) -> dtype:
    """The dtype that two dtypes combine to."""
    return OF_NUMPY[_promotion.promote_types(as_dtype(type1).numpy, as_dtype(type2).numpy)]


def result_type(*args: Any, **names: Any) -> dtype:
    """The dtype of an arithmetic operation on two tensors or numbers: ``result_type(tensor1, tensor2)``.

    By keyword as PyTorch has them: ``tensor`` and ``other``, ``scalar`` and ``tensor``, ``scalar1`` and ``scalar2``.
    """
    unknown = names.keys() - {"tensor", "tensor1", "tensor2", "other", "scalar", "scalar1", "scalar2"}
    if unknown or len(args) + len(names) != 2:
        raise TypeError(f"result_type(): expected two tensors or numbers, got {len(args)} and {sorted(names)}")
    tensor1, tensor2 = (*args, *names.values())
    for x in (tensor1, tensor2):
        if not isinstance(x, (Tensor, bool, int, float, complex)):
            raise TypeError(f"result_type(): expected two tensors or numbers, got {type(x).__name__}")
    return OF_NUMPY[_promotion.result_dtype([x._array if isinstance(x, Tensor) else x for x in (tensor1, tensor2)])]


def _parse_to(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any, bool, bool]:
    device, kind = kwargs.pop("device", None), kwargs.pop("dtype", None)
    other, flags = kwargs.pop("other", None), []
    non_blocking, copy = kwargs.pop("non_blocking", False), kwargs.pop("copy", False)
    kwargs.pop("memory_format", None)
    if kwargs:
        raise TypeError(f"to() got an unexpected keyword argument '{next(iter(kwargs))}'")
    for a in args:
        if isinstance(a, Tensor):
            other = a
        elif isinstance(a, (Device, str)) and not (isinstance(a, str) and a.rpartition(".")[2] in _DTYPE_NAMES):
            device = a
        elif isinstance(a, bool):
            flags.append(a)
        elif isinstance(a, int):
            device = a
        elif a is not None:
            kind = a
    if other is not None:
        device, kind = other.device, other.dtype
    if flags:
        non_blocking, copy = flags[0], flags[1] if len(flags) > 1 else copy
    return (
        None if device is None else Device(device),
        None if kind is None else as_dtype(kind).numpy,
        bool(non_blocking),
        copy,
    )


_DTYPE_NAMES = {d.name for d in OF_NUMPY.values()}


# ---------------------------------------------------------------------------------------------------- attaching


def _with_sizes(public: Callable[..., Any], name: str) -> Callable[..., Any]:
    """A method whose first argument is a shape that may be given as separate ints."""

    @functools.wraps(public)
    def method(self: Tensor, *size: Any, **kwargs: Any) -> Any:
        if not size:
            return public(self, **kwargs)
        if size[0] is None or isinstance(size[0], (tuple, list)):
            return public(self, *size, **kwargs)
        return public(self, as_ints(name, "size", size), **kwargs)

    return method


def _method(made: Op | Composite) -> Callable[..., Any]:
    if isinstance(made, Op):
        several, style = len(made.params), made.params[1].style if len(made.params) > 1 else None
    else:
        params = list(made.signature.parameters.values())
        several, kind = len(params), str(params[1].annotation) if len(params) > 1 else ""
        style = "ints" if kind.startswith("Ints") else "dims" if kind.startswith("Dims") else None
    if style == "ints" or (style == "dims" and several == 2):
        return _with_sizes(made.public, made.name)
    return made.public


def attach_methods() -> None:
    """Give Tensor what is written above."""
    skip = {"__dict__", "__weakref__", "__slots__", "__module__", "__doc__", "__qualname__", "__firstlineno__",
            "__static_attributes__"}  # fmt: skip
    for name, value in vars(_Methods).items():
        if name not in skip:
            for part in (value.fget, value.fset) if isinstance(value, property) else (value,):
                function: Any = getattr(part, "__func__", part)  # of a staticmethod
                if getattr(function, "__qualname__", "").startswith(f"{_Methods.__name__}."):
                    function.__qualname__ = f"Tensor.{name}"
            setattr(Tensor, name, value)
    for short, kind in _CASTS.items():
        setattr(Tensor, short, _cast(kind))
    for name, getter in ops.views.PROPERTIES.items():
        setattr(Tensor, name, property(getter))
    for name, special in ops.indexing.SPECIAL.items():
        setattr(Tensor, name, special)


def attach(made: Op | Composite) -> None:
    """Give Tensor the methods of a declaration: its names, their in-place forms, the Python operator it stands for."""
    names = names_in(made, "method")
    if names:
        method = _method(made)
        ufunc = made.ufunc if isinstance(made, Op) else None
        keeps = not isinstance(made, Op) or any(
            source == "input" and index == 0 for _, source, index in made.keeps((True,) * len(made.tensors))
        )
        for name in names:
            setattr(Tensor, name, method)
            if made.inplace:
                own = written(made) if isinstance(made, Op) else _written_by(made.name)
                setattr(Tensor, f"{name}_", _inplace.method(made.public, name, ufunc, keeps, own))
            elif name in _RELAYOUTS:
                setattr(Tensor, f"{name}_", _inplace.relayout(method, name))
    if isinstance(made, Op) and made.ufunc is not None:
        _UFUNCS.setdefault(made.ufunc, made)
    if made.name in _UNARY:
        setattr(Tensor, _UNARY[made.name], made.public)
    if made.name in _BINARY:
        _attach_binary(_BINARY[made.name], made)


def _written_by(name: str) -> Any:
    """The in-place kernel of a composite that is one operator where it is called with tensors and numbers alone."""
    own = written(registry[_ONE_OPERATOR[name]]) if name in _ONE_OPERATOR else None
    if own is None:
        return None

    def plain(input: Tensor, *args: Any, **kwargs: Any) -> Any:
        if kwargs or input._array.dtype.kind == "b":
            raise Elsewhere
        return own(input, *args)

    return plain


_ONE_OPERATOR = {"relu": "_relu", "div": "true_divide", "divide": "true_divide"}
_UFUNCS: dict[Any, Op] = {}
# Views with an in-place form.
_RELAYOUTS = {"squeeze", "unsqueeze", "transpose", "swapaxes", "swapdims", "t", "as_strided"}
_UNARY = {"neg": "__neg__", "abs": "__abs__", "bitwise_not": "__invert__", "positive": "__pos__"}
_BINARY = {
    "add": "add", "sub": "sub", "mul": "mul", "div": "truediv", "floor_divide": "floordiv", "remainder": "mod",
    "pow": "pow", "matmul": "matmul", "bitwise_and": "and", "bitwise_or": "or", "bitwise_xor": "xor",
    "bitwise_left_shift": "lshift", "bitwise_right_shift": "rshift",
    "lt": "lt", "le": "le", "gt": "gt", "ge": "ge", "eq": "eq", "ne": "ne",
}  # fmt: skip
_COMPARISONS = {"lt", "le", "gt", "ge", "eq", "ne"}
_CASTS = {"bool": "bool", "byte": "uint8", "char": "int8", "short": "int16", "int": "int32", "long": "int64",
          "half": "float16", "bfloat16": "bfloat16", "float": "float32", "double": "float64",
          "cfloat": "complex64", "cdouble": "complex128"}  # fmt: skip


def _cast(name: str) -> Callable[..., Tensor]:
    target = as_dtype(name)

    def cast(self: Tensor, memory_format: Any = None) -> Tensor:
        return self.to(target)

    cast.__doc__ = f"As {target}."
    return cast


def _operand(value: Any) -> bool:
    return isinstance(value, (Tensor, bool, int, float, complex, np.ndarray, np.generic))


def _attach_binary(special: str, made: Op | Composite) -> None:
    name = made.name
    function = (made.fast if isinstance(made, Op) else None) or made.public

    def forward(self: Tensor, other: Any) -> Any:
        if type(other) in KINDS or _operand(other):
            return function(self, other)
        return made.public(self, other) if hasattr(type(other), "__torch_function__") else NotImplemented

    def reflected(self: Tensor, other: Any) -> Any:
        if _operand(other):
            return function(other, self)
        return made.public(other, self) if hasattr(type(other), "__torch_function__") else NotImplemented

    def inplace(self: Tensor, other: Any) -> Any:
        return getattr(self, f"{name}_")(other)

    setattr(Tensor, f"__{special}__", forward)
    if special not in _COMPARISONS:
        setattr(Tensor, f"__r{special}__", reflected)
        if made.inplace:
            setattr(Tensor, f"__i{special}__", inplace)


attach_methods()
for _made in declared():
    attach(_made)
watchers.append(attach)
Tensor.__module__ = "tensorlib"
