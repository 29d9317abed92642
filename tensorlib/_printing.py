"""How tensors print: PyTorch's layout, widths and suffixes. ``set_printoptions`` changes them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorlib import _array
from tensorlib._core import LIFTED, Tensor
from tensorlib._device import meta
from tensorlib._dispatch import sync
from tensorlib._dtypes import OF_NUMPY, bool_, complex64, complex128, float64, int64
from tensorlib._promotion import default_dtype
from tensorlib.autograd.engine import grad_name


@dataclass
class _Options:
    precision: int = 4
    threshold: float = 1000
    edgeitems: int = 3
    linewidth: int = 80
    sci_mode: bool | None = None


OPTIONS = _Options()
_PROFILES = {"default": _Options(), "short": _Options(2, 1000, 2, 80), "full": _Options(4, math.inf, 3, 80)}


def set_printoptions(
    precision: int | None = None,
    threshold: float | None = None,
    edgeitems: int | None = None,
    linewidth: int | None = None,
    profile: str | None = None,
    sci_mode: bool | None = None,
) -> None:
    """Digits after the point, elements before summarising, elements kept at an edge, characters a line, a profile
    ("default", "short", "full"), and whether numbers print as 1.0000e+00 (None: by their range).
    """
    if profile is not None:
        if profile not in _PROFILES:
            raise ValueError(f"set_printoptions: unknown profile {profile!r}: expected one of {', '.join(_PROFILES)}")
        OPTIONS.__dict__.update(_PROFILES[profile].__dict__)
    given = {"precision": precision, "threshold": threshold, "edgeitems": edgeitems, "linewidth": linewidth}
    OPTIONS.__dict__.update({k: v for k, v in given.items() if v is not None})
    OPTIONS.sci_mode = sci_mode


class _Formatter:
    """One width and one style for all shown numbers of a tensor."""

    def __init__(self, values: np.ndarray) -> None:
        self.floating = values.dtype.kind == "f"
        self.integral = True
        self.scientific = False
        self.width = 1
        if not self.floating:
            self.width = max([self.width, *(len(str(v)) for v in values.tolist())])
            return
        finite = values[np.isfinite(values) & (values != 0)].astype(np.float64)
        if not finite.size:
            return
        size = np.abs(finite)
        low, high = float(size.min()), float(size.max())
        self.integral = bool(np.all(finite == np.ceil(finite)))
        self.scientific = high / low > 1000 or high > 1e8 or (not self.integral and low < 1e-4)
        if OPTIONS.sci_mode is not None:
            self.scientific = OPTIONS.sci_mode
        self.width = max([self.width, *(len(self._text(float(v))) for v in finite)])

    def _text(self, value: Any) -> str:
        if not self.floating:
            return str(value)
        if self.scientific:
            return f"{value:.{OPTIONS.precision}e}"
        if self.integral:
            return f"{value:.0f}." if math.isfinite(value) else f"{value:.0f}"
        return f"{value:.{OPTIONS.precision}f}"

    def __call__(self, value: Any) -> str:
        return self._text(value).rjust(self.width)


class _ComplexFormatter:
    """Real and imaginary parts, each in its own width."""

    def __init__(self, values: np.ndarray) -> None:
        self.real, self.imag = _Formatter(values.real), _Formatter(values.imag)
        self.width = self.real.width + self.imag.width + 1

    def __call__(self, value: complex) -> str:
        real, imag = self.real(value.real), self.imag(value.imag).lstrip()
        return f"{real}{imag}j" if imag.startswith("-") else f"{real}+{imag}j"


def _shown(array: np.ndarray) -> np.ndarray:
    """The elements that will print, flat."""
    edge = OPTIONS.edgeitems
    for axis, n in enumerate(array.shape):
        if n > 2 * edge:
            head = np.take(array, range(edge), axis)
            array = np.concatenate([head, np.take(array, range(n - edge, n), axis)], axis)
    return array.reshape(-1)


def _vector(array: np.ndarray, indent: int, summarize: bool, form: Any) -> str:
    edge = OPTIONS.edgeitems
    if summarize and len(array) > 2 * edge:
        items = [form(v) for v in array[:edge].tolist()] + [" ..."] + [form(v) for v in array[-edge:].tolist()]
    else:
        items = [form(v) for v in array.tolist()]
    per_line = max(1, (OPTIONS.linewidth - indent) // (form.width + 2))
    lines = [", ".join(items[i : i + per_line]) for i in range(0, len(items), per_line)]
    return "[" + (",\n" + " " * (indent + 1)).join(lines) + "]"


def _nested(array: np.ndarray, indent: int, summarize: bool, form: Any) -> str:
    if array.ndim == 0:
        return str(form(array.item()))
    if array.ndim == 1:
        return _vector(array, indent, summarize, form)
    edge, n = OPTIONS.edgeitems, len(array)
    cut = summarize and n > 2 * edge
    which = [*range(edge), None, *range(n - edge, n)] if cut else range(n)
    parts = ["..." if i is None else _nested(array[i], indent + 1, summarize, form) for i in which]
    return "[" + ("," + "\n" * (array.ndim - 1) + " " * (indent + 1)).join(parts) + "]"


def _body(array: np.ndarray, indent: int) -> str:
    if array.dtype.kind not in "biufc":
        array = array.astype(np.float32)
    summarize = array.size > OPTIONS.threshold
    shown = _shown(array) if summarize else array.reshape(-1)
    form = _ComplexFormatter(shown) if array.dtype.kind == "c" else _Formatter(shown)
    return _nested(array, indent, summarize, form)


def text(t: Tensor) -> str:
    """The tensor as PyTorch prints it."""
    if type(t._array) in LIFTED:
        return t._array.text(text)
    sync(t)
    prefix = "tensor("
    indent = len(prefix)
    x = t._array
    device = _array.device_of(x)
    ours = OF_NUMPY[x.dtype]
    suffixes = [] if device.type == "cpu" else [f"device='{device}'"]
    usual = {OF_NUMPY[default_dtype()], int64, bool_, complex128 if default_dtype() == float64.numpy else complex64}
    if x.size == 0:
        body = "[]"
        if x.ndim != 1:
            suffixes.append(f"size={tuple(x.shape)}")
        if ours is not OF_NUMPY[default_dtype()]:
            suffixes.append(f"dtype={ours}")
    else:
        if device is meta:
            body = "..."
            suffixes.append(f"size={tuple(x.shape)}")
            usual = {OF_NUMPY[default_dtype()]}
        elif device.compile_only:
            body = "..."
            suffixes.insert(0, f"size={tuple(x.shape)}")
        else:
            body = _body(x if isinstance(x, np.ndarray) else _array.to_host(x), indent)
        if ours not in usual:
            suffixes.append(f"dtype={ours}")
    if t._node is not None:
        suffixes.append(f"grad_fn=<{grad_name(t._node)}>")
    elif t._needs:
        suffixes.append("requires_grad=True")
    out = prefix + body
    length = len(out) - out.rfind("\n") + 1
    for suffix in suffixes:
        if length + len(suffix) + 2 > OPTIONS.linewidth:
            out += ",\n" + " " * indent + suffix
            length = indent + len(suffix)
        else:
            out += ", " + suffix
            length += len(suffix) + 2
    return out + ")"
