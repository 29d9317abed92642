"""``torch.library``: operators of one's own under PyTorch's names, each a Python function and what is known of it.

``custom_op`` makes one of a function, ``register_autograd`` gives it a gradient, ``register_fake`` says the shapes of
its results (for the meta device); ``torch.ops.<namespace>.<name>`` is the operator. With ``tensorlib.op`` an operator
is declared whole, with a kernel for every GPU: this module is for programs that were written for PyTorch's.
"""

from __future__ import annotations

import collections.abc
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tensorlib import _dtypes, ops
from tensorlib._core import Tensor, modes
from tensorlib._device import device as _device
from tensorlib.autograd.function import Function
from tensorlib.autograd.modes import no_grad
from tensorlib.errors import AutogradError, UnsupportedError

__all__ = [
    "CustomOpDef", "Library", "custom_op", "define", "impl", "infer_schema", "register_autograd", "register_fake",
    "register_kernel", "triton_op", "wrap_triton",
]  # fmt: skip

#: {"namespace::name": operator}.
_OPERATORS: dict[str, OpOverload] = {}

#: PyTorch's name of a dispatch key, in small letters -> the kind of kernel that is registered by it.
_KEYS = {
    "cpu": "cpu", "cuda": "cuda", "hip": "hip", "meta": "meta", "compositeexplicitautograd": "default",
    "compositeimplicitautograd": "implicit", "default": "default",
}  # fmt: skip

_TYPES: dict[Any, str] = {
    Tensor: "Tensor", int: "SymInt", float: "float", bool: "bool", str: "str", _dtypes.dtype: "ScalarType",
    _device: "Device", int | float | bool: "Scalar", int | float: "Scalar",
}  # fmt: skip


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    """The tensors among arguments, those in lists and tuples too."""
    found: list[Tensor] = []
    for value in values:
        found += [x for x in (value if type(value) in (list, tuple) else (value,)) if isinstance(x, Tensor)]
    return found


def _owner(t: Any) -> Any:
    """What a tensor is a view of, or itself."""
    return t if t._base is None else t._base


class _Formula(Function):
    """One Node for a call of an operator: the kernel, and the gradient that was registered."""

    @staticmethod
    def forward(ctx: Any, op: OpOverload, values: Sequence[Any], named: dict[str, Any], *tensors: Any) -> Any:
        result = op._compute(values, named)
        ctx.op = op
        ctx.needs_input_grad = tuple(
            [isinstance(y, Tensor) and y.requires_grad for y in x] if type(x) in (list, tuple)
            else isinstance(x, Tensor) and x.requires_grad
            for x in values
        )  # fmt: skip
        # Where gradients go: a list for a list, whether it is a tensor for what is none.
        ctx.places = [[isinstance(y, Tensor) for y in x] if type(x) in (list, tuple) else isinstance(x, Tensor)
                      for x in values]  # fmt: skip
        if op._setup is not None:
            if op._has_named:
                op._setup(ctx, tuple(values), named, result)
            else:
                op._setup(ctx, tuple(values), result)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        op = ctx.op
        if op._backward is None:
            raise AutogradError(
                f"Trying to backward through {op} but no autograd formula was registered. Please use "
                f"register_autograd to add one."
            )
        returned = op._backward(ctx, *grads)
        returned = returned if isinstance(returned, tuple) else (returned,)
        if len(returned) != len(ctx.places):
            raise AutogradError(
                f"{op}: its backward returned {len(returned)} gradients: expected one, or None, for each of "
                f"{len(ctx.places)} inputs"
            )
        flat: list[Any] = []
        for g, places in zip(returned, ctx.places, strict=True):
            if isinstance(places, list):
                some = [None] * len(places) if g is None else list(g)
                flat += [x for x, tensor in zip(some, places, strict=True) if tensor]
            elif places:
                flat.append(g)
        return (None, None, None, *flat)


class OpOverload:
    """An operator: called as the function that its schema describes. ``.default`` is itself."""

    def __init__(self, namespace: str, name: str, schema: str, signature: inspect.Signature, mutates: bool) -> None:
        self.namespace, self.__name__ = namespace, name
        self._schema = f"{namespace}::{name}{schema}"
        self._signature = signature
        self._mutates = mutates
        self._kernels: dict[str, Callable[..., Any]] = {}
        self._backward: Callable[..., Any] | None = None
        self._setup: Callable[..., Any] | None = None
        self._tensor = [p.name for p in signature.parameters.values() if p.annotation in (Tensor, "Tensor")]
        self._has_named = any(p.kind is p.KEYWORD_ONLY for p in signature.parameters.values())

    @property
    def default(self) -> OpOverload:
        """The operator: it has one overload."""
        return self

    def name(self) -> str:
        """ "namespace::name"."""
        return f"{self.namespace}::{self.__name__}"

    def __repr__(self) -> str:
        return f"{self.namespace}.{self.__name__}"

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise RuntimeError(f"{self.name()}(): {error}. Declaration: {self._schema}") from None
        bound.apply_defaults()
        for name in self._tensor:
            if not isinstance(bound.arguments[name], Tensor):
                raise RuntimeError(
                    f"{self.name()}() Expected a value of type 'Tensor' for argument '{name}' but instead found type "
                    f"'{type(bound.arguments[name]).__name__}'. Declaration: {self._schema}"
                )
        return list(bound.args), bound.kwargs

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        values, named = self._bind(args, kwargs)
        tensors = _tensors(values)
        if "implicit" in self._kernels:  # its operators have the gradients
            return self._kernels["implicit"](*values, **named)
        if modes.grad and not self._mutates and any(t.requires_grad for t in tensors):
            return _Formula.apply(self, values, named, *tensors)
        with no_grad():
            return self._compute(values, named)

    def _compute(self, values: Sequence[Any], named: dict[str, Any]) -> Any:
        given = _tensors((*values, *named.values()))
        kind = given[0].device.type if given else "default"
        kernel = self._kernels.get(kind)
        if kernel is None and kind == "meta":
            raise RuntimeError(
                f"There was no fake impl registered for {self}: use `register_fake` to say what its results are like"
            )
        kernel = kernel or self._kernels.get("default")
        if kernel is None:
            raise UnsupportedError(
                f"Could not run '{self.name()}' with arguments from the '{kind.upper()}' backend: it has kernels for "
                f"{sorted(self._kernels) or 'nothing'}; register_kernel adds one"
            )
        result = kernel(*values, **named)
        owners = {id(_owner(t)) for t in given}
        for out in _tensors(result if isinstance(result, (list, tuple)) else (result,)):
            if id(_owner(out)) in owners:
                raise RuntimeError(
                    f"{self.name()}: The output of this custom operator must not also be an input to it and may not "
                    f"alias one: return a clone"
                )
        return result


class _Namespace(types.SimpleNamespace):
    """``torch.ops.<namespace>``."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"'_OpNamespace' '{self.__dict__.get('_name')}' object has no attribute '{name}'")


def _declare(qualname: str, schema: str, signature: inspect.Signature, mutates: bool) -> OpOverload:
    namespace, name = _split(qualname)
    if qualname in _OPERATORS:
        raise RuntimeError(f"Tried to register an operator ({qualname}) with the same name twice")
    place = getattr(ops, namespace, None)
    if place is None:
        place = _Namespace(_name=namespace)
        setattr(ops, namespace, place)
    elif not isinstance(place, _Namespace):
        raise RuntimeError(f"custom_op: the namespace {namespace!r} is the library's own: choose another")
    made = _OPERATORS[qualname] = OpOverload(namespace, name, schema, signature, mutates)
    setattr(place, name, made)
    return made


def _split(qualname: str) -> tuple[str, str]:
    namespace, mark, name = qualname.partition("::")
    if not mark or not namespace.isidentifier() or not name.isidentifier():
        raise ValueError(f"{qualname!r} is no name of an operator: expected 'namespace::name'")
    return namespace, name


def _found(op: Any) -> OpOverload:
    if isinstance(op, CustomOpDef):
        return op._op
    if isinstance(op, OpOverload):
        return op
    if op not in _OPERATORS:
        raise RuntimeError(f"there is no operator {op!r}: define it first")
    return _OPERATORS[op]


def _type(annotation: Any, where: str) -> str:
    """A type as a schema writes it."""
    found = _TYPES.get(annotation)
    if found is not None:
        return found
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType) and type(None) in inner:
        rest = [x for x in inner if x is not type(None)]
        return _type(typing.Union[tuple(rest)], where) + "?"  # noqa: UP007  of types that are computed
    if origin in (list, collections.abc.Sequence) and inner:
        return _type(inner[0], where) + "[]"
    raise ValueError(
        f"infer_schema(func): {where} has unsupported type {annotation}. The valid types are: "
        f"{[getattr(k, '__name__', str(k)) for k in _TYPES]}, lists of them and Optional"
    )


def infer_schema(
    prototype_function: Callable[..., Any], /, *, mutates_args: Any, op_name: str | None = None, tags: Any = ()
) -> str:
    """The schema of a function by its annotations, as "(Tensor x, SymInt k=2) -> Tensor"; ValueError without them."""
    signature = inspect.signature(prototype_function)
    hints = typing.get_type_hints(prototype_function)
    unknown = mutates_args == "unknown"
    mutated = set() if isinstance(mutates_args, str) else set(mutates_args)
    parts: list[str] = []
    named = False
    for at, p in enumerate(signature.parameters.values()):
        if p.name not in hints:
            raise ValueError(f"infer_schema(func): Parameter {p.name} must have a type annotation. Got func with "
                             f"signature {signature})")  # fmt: skip
        if p.kind is p.KEYWORD_ONLY and not named:
            named = True
            parts.append("*")
        kind = _type(hints[p.name], f"Parameter {p.name}")
        if p.name in mutated or (unknown and kind.startswith("Tensor")):
            kind = kind.replace("Tensor", f"Tensor(a{at}!)", 1)
        mutated.discard(p.name)
        parts.append(f"{kind} {p.name}" + ("" if p.default is p.empty else f"={p.default}"))
    if mutated:
        raise ValueError(f"infer_schema(func): mutates_args names {sorted(mutated)}, which are no parameters")
    if "return" not in hints:
        raise ValueError(f"infer_schema(func): No return type annotation was provided. Please add one. Got func with "
                         f"signature {signature})")  # fmt: skip
    back = hints["return"]
    if back is None or back is type(None):
        text = "()"
    elif typing.get_origin(back) is tuple:
        text = f"({', '.join(_type(x, 'Return') for x in typing.get_args(back))})"
    else:
        text = _type(back, "Return")
    return f"{op_name or ''}({', '.join(parts)}) -> {text}"


def _parsed(schema: str) -> tuple[str, inspect.Signature, bool]:
    """(name, signature, whether it writes) of a schema's text."""
    found = re.fullmatch(r"\s*([\w.]*)\s*\((.*)\)\s*->\s*(.+?)\s*", schema, re.S)
    if found is None:
        raise RuntimeError(f"define: {schema!r} is no schema: expected 'name(Tensor x, float s=1.0) -> Tensor'")
    name, inside, _ = found.groups()
    parameters = []
    kind: Any = inspect.Parameter.POSITIONAL_OR_KEYWORD
    for part in filter(None, (p.strip() for p in re.split(r",(?![^\[(]*[\])])", inside))):
        if part == "*":
            kind = inspect.Parameter.KEYWORD_ONLY
            continue
        words = re.fullmatch(r"(\S+(?:\([^)]*\)\S*)?)\s+(\w+)(?:\s*=\s*(.+))?", part)
        if words is None:
            raise RuntimeError(f"define: {part!r} of schema {schema!r}: expected 'type name' or 'type name=default'")
        type_name, param, default = words.groups()
        value: Any = inspect.Parameter.empty
        if default is not None:
            plain: dict[str, Any] = {"None": None, "True": True, "False": False, "[]": []}
            number = re.fullmatch(r"[-+.\deE]+", default)
            value = plain[default] if default in plain else default.strip("'\"")
            if number is not None:
                value = int(default) if type_name.startswith(("int", "SymInt")) else float(default)
        plainly = re.sub(r"\([^)]*\)", "", type_name)
        parameters.append(inspect.Parameter(param, kind, default=value, annotation=plainly))
    return name, inspect.Signature(parameters), "!" in inside


class CustomOpDef:
    """What ``custom_op`` makes of a function: the operator, and what more is known of it."""

    def __init__(self, op: OpOverload, function: Callable[..., Any]) -> None:
        self._op, self._init_fn = op, function
        self._qualname = op.name()
        self.__name__, self.__doc__ = op.__name__, function.__doc__

    def __repr__(self) -> str:
        return f"<CustomOpDef({self._qualname})>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The operator's results."""
        return self._op(*args, **kwargs)

    def register_kernel(self, device_types: Any, fn: Callable[..., Any] | None = None, /) -> Any:
        """What computes on these kinds of device; a decorator without ``fn``."""
        return register_kernel(self, device_types, fn)

    def register_fake(self, fn: Callable[..., Any], /) -> Callable[..., Any]:
        """What gives results of the right shapes and dtypes for tensors of the meta device."""
        register_fake(self, fn)
        return fn

    def register_autograd(
        self, backward: Callable[..., Any], /, *, setup_context: Callable[..., Any] | None = None
    ) -> None:
        """The gradient: see ``register_autograd``."""
        register_autograd(self, backward, setup_context=setup_context)


def custom_op(
    name: str, fn: Callable[..., Any] | None = None, /, *, mutates_args: Any, device_types: Any = None,
    schema: str | None = None, tags: Any = None,
) -> Any:  # fmt: skip
    """An operator "namespace::name" that computes by a Python function; a decorator without ``fn``.

    The function's annotations are its schema, unless ``schema`` says it: ValueError where one is missing.
    ``mutates_args`` names the tensors that it writes, ``device_types`` the devices it is for (all). Its results must
    not share memory with its arguments. ``register_autograd`` gives it a gradient.
    """

    def make(function: Callable[..., Any]) -> CustomOpDef:
        _split(name)
        if schema is None:
            text = infer_schema(function, mutates_args=mutates_args)
            signature, hints = inspect.signature(function), typing.get_type_hints(function)
            signature = signature.replace(
                parameters=[p.replace(annotation=hints[p.name]) for p in signature.parameters.values()]
            )
            mutates = "!" in text
        else:
            text = schema
            _, signature, mutates = _parsed(schema)
        made = CustomOpDef(_declare(name, text, signature, mutates), function)
        register_kernel(made, "default" if device_types is None else device_types, function)
        return made

    return make if fn is None else make(fn)


def triton_op(
    name: str, fn: Callable[..., Any] | None = None, /, *, mutates_args: Any, schema: str | None = None
) -> Any:
    """``custom_op`` for a function that launches Triton kernels, ``kernel[grid](...)`` of ``tensorlib.triton``."""
    return custom_op(name, fn, mutates_args=mutates_args, schema=schema)


def wrap_triton(triton_kernel: Any, /) -> Any:
    """The kernel itself: nothing traces what calls it."""
    return triton_kernel


def register_kernel(
    op: Any, device_types: Any, func: Callable[..., Any] | None = None, /, *, lib: Library | None = None
) -> Any:
    """Have ``func`` compute an operator on these kinds of device, "cpu" or ["cpu", "cuda"]; a decorator without it."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        kinds = (device_types,) if isinstance(device_types, str) or device_types is None else tuple(device_types)
        for kind in kinds:
            _found(op)._kernels["default" if kind is None else kind] = function
        return function

    return register if func is None else register(func)


def register_fake(
    op: Any, func: Callable[..., Any] | None = None, /, *, lib: Library | None = None, _stacklevel: int = 1,
    allow_override: bool = True,
) -> Any:  # fmt: skip
    """Have ``func`` give an operator's results for tensors of the meta device, which have no values."""
    return register_kernel(op, "meta", func)


def register_autograd(
    op: Any, backward: Callable[..., Any], /, *, setup_context: Callable[..., Any] | None = None,
    lib: Library | None = None,
) -> None:  # fmt: skip
    """An operator's gradient: ``backward(ctx, *grads)`` gives one, or None, for each input but those only by keyword.

    ``setup_context(ctx, inputs, output)`` keeps what it needs, as in ``autograd.Function``; where the operator has
    parameters only by keyword, ``setup_context(ctx, inputs, keyword_only_inputs, output)``. The gradient of a list of
    tensors is a list.
    """
    made = _found(op)
    if made._mutates:
        raise RuntimeError(f"Cannot register autograd formula for non-functional operator {made}: it writes one")
    made._backward, made._setup = backward, setup_context


def define(qualname: str, schema: str, *, lib: Library | None = None, tags: Any = ()) -> None:
    """An operator by its schema alone, "(Tensor x, float s=1.0) -> Tensor"; ``impl`` gives it kernels."""
    _, signature, mutates = _parsed(schema)
    _declare(qualname, schema.strip(), signature, mutates)


def impl(
    qualname: str, types: Any, func: Callable[..., Any] | None = None, *, lib: Library | None = None
) -> Any:
    """Have ``func`` compute a defined operator on a kind of device, or by PyTorch's name of a dispatch key.

    "CompositeExplicitAutograd" is every device, "CompositeImplicitAutograd" a function whose operators have the
    gradient. UnsupportedError for the other keys of PyTorch's dispatcher.
    """
    kinds = []
    for key in (types,) if isinstance(types, str) else types:
        if key.lower() not in _KEYS:
            raise UnsupportedError(
                f"impl({qualname!r}): there is no dispatch key {key!r} here: expected a kind of device, "
                f"CompositeExplicitAutograd or CompositeImplicitAutograd; register_autograd gives a gradient"
            )
        kinds.append(_KEYS[key.lower()])
    return register_kernel(qualname, kinds, func)


class Library:
    """Operators of one namespace: ``Library("mine", "DEF")``, then ``define`` and ``impl``."""

    def __init__(self, ns: str, kind: str, dispatch_key: str = "") -> None:
        if kind not in ("IMPL", "DEF", "FRAGMENT"):
            raise ValueError(f"Unsupported kind: {kind}")
        self.ns, self.kind, self.dispatch_key = ns, kind, dispatch_key

    def __repr__(self) -> str:
        return f"Library(kind={self.kind}, ns={self.ns}, dispatch_key={self.dispatch_key})"

    def define(self, schema: str, alias_analysis: str = "", *, tags: Any = ()) -> str:
        """An operator by its schema, "name(Tensor x) -> Tensor"; its name."""
        name, signature, mutates = _parsed(schema)
        _declare(f"{self.ns}::{name}", schema.strip()[len(name) :], signature, mutates)
        return name

    def impl(
        self, op_name: Any, fn: Callable[..., Any], dispatch_key: str = "", *, with_keyset: bool = False,
        allow_override: bool = False,
    ) -> None:  # fmt: skip
        """Have ``fn`` compute an operator of this namespace: see ``impl``."""
        name = op_name.__name__ if isinstance(op_name, OpOverload) else str(op_name).rpartition("::")[2]
        impl(f"{self.ns}::{name}", dispatch_key or self.dispatch_key or "CompositeImplicitAutograd", fn)
