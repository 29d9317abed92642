"""Operators are declared once. A declaration is a NumPy function and a decorator; everything else is derived from it.

The decorated function is the reference: the CPU implementation, the signature and the documentation of the public
function. Its parameters say by their annotation what they are:

==================  =====================================================================================
``Array``           a tensor (a pointwise operator also takes a Python number there)
``Array | None``    an optional tensor
``Arrays``          a sequence of tensors
``Dim``             a dimension of the first tensor; the body sees it counted from the front
``NewDim``          a dimension that is about to be made
``Dims``            one or several dimensions; the body sees a tuple, all of them for None
``Ints``            a shape or another tuple of ints; methods also take them one by one
``Scalar``          a Python number (a 0-d tensor is read)
anything else       passed on as it is
==================  =====================================================================================
"""

from __future__ import annotations

import inspect
import warnings
from collections import namedtuple
from collections.abc import Callable, Sequence
from functools import cache, cached_property, wraps
from types import FunctionType
from typing import Annotated, Any, TypeAlias, TypeVar, get_args

import numpy as np

from tensorlib import _fast, _quick, random
from tensorlib._arguments import Arguments, Kind, guard, outside
from tensorlib._autocast import POLICIES, aware
from tensorlib._core import Tensor
from tensorlib._dispatch import apply, apply_view, dtype_name, refuse_complex
from tensorlib._overrides import hand_over, implementing
from tensorlib._promotion import (
    ACCUMULATE,
    COMPARE,
    FLOAT_ONLY,
    FLOATS,
    INT_TO_FLOAT,
    INTEGERS,
    ORDER,
    PROMOTE,
    Rule,
    category,
)
from tensorlib._samples import (
    Sample,
    between,
    bools,
    distinct,
    draw,
    each,
    fails,
    grid,
    ints,
    resolve,
    strided,
    transposed,
    values,
)
from tensorlib.errors import DtypeError, ShapeError, TensorlibError
from tensorlib.kernels import pointwise as pointwise_kernel
from tensorlib.runtime.compiler import Jit, jit
from tensorlib.runtime.descriptors import TensorDescriptor
from tensorlib.runtime.launch import launch

__all__ = ["ACCUMULATE", "COMPARE", "FLOATS", "FLOAT_ONLY", "INTEGERS", "INT_TO_FLOAT", "ORDER",
           "PROMOTE", "SPACES", "Array", "Arrays", "Dim", "Dims", "Ints", "NewDim", "Op", "Scalar",
           "TensorDescriptor", "between", "bools", "composite", "composites", "declared", "distinct", "draw", "each",
           "fails", "grid", "into", "ints", "jit", "launch", "names_in", "op", "pointwise", "registry",
           "result_type", "strided", "transposed", "values", "view"]  # fmt: skip

F = TypeVar("F", bound=Callable[..., Any])

# What a type checker sees of a body's parameters; what they mean to a declaration is in the table above.
Array: TypeAlias = Annotated[Any, "Array"]
Arrays: TypeAlias = Annotated[Sequence[Any], "Arrays"]
Dim: TypeAlias = Annotated[int, "Dim"]
NewDim: TypeAlias = Annotated[int, "NewDim"]
Dims: TypeAlias = Annotated[Any, "Dims"]
Ints: TypeAlias = Annotated[Any, "Ints"]
Scalar: TypeAlias = Annotated[bool | int | float | complex, "Scalar"]


def _spelled(annotation: Any) -> str:
    """An annotation as it is written, whether or not the file postpones the evaluation of annotations."""
    if isinstance(annotation, str):
        return annotation.replace("op.", "")
    marks = getattr(annotation, "__metadata__", ())
    if marks:
        return str(marks[0])
    parts = [_spelled(a) for a in get_args(annotation) if a is not type(None)]
    return f"{parts[0]} | None" if len(parts) == 1 and parts[0] else ""


#: Every declared operator by name, public or not.
registry: dict[str, Op] = {}
#: Every public function that is written with other operators and has no Node of its own.
composites: dict[str, Composite] = {}

#: Called with each operator or composite declared from now on: how Tensor gets the methods of a plugin.
watchers: list[Callable[[Any], None]] = []

#: NumPy's spellings of PyTorch's parameter names.
ALIASES = {
    "axis": "dim", "keepdims": "keepdim", "x1": "input", "x2": "other", "a": "input", "b": "other", "x": "input",
    "axis0": "dim0", "axis1": "dim1",
}  # fmt: skip
_STYLES = {"Dim": "dim", "Dim | None": "dim", "NewDim": "newdim", "Dims": "dims", "Ints": "ints",
           "Ints | None": "ints", "Scalar": "scalar", "Scalar | None": "scalar"}  # fmt: skip
_KINDS = {"Array": "array", "Array | None": "optional", "Arrays": "arrays"}


#: Where public names live: ``tensorlib``, Tensor, ``nn.functional`` and the namespaces of their own. The name of an
#: operator that is declared for one of the last three may begin with it: ``linalg_norm`` is ``linalg.norm``.
SPACES = ("function", "method", "functional", "linalg", "fft", "special")


def names_in(made: Op | Composite, space: str) -> list[str]:
    """The names of a declaration in a space. An alias goes where its operator is, ``"special.erf"`` there only."""
    own = [made.name, *(a for a in made.alias if "." not in a)] if space in made.where else []
    if space in SPACES[3:]:
        own = [name.removeprefix(f"{space}_") for name in own]
    return own + [a.partition(".")[2] for a in made.alias if a.partition(".")[0] == space]


class _Missing:
    def __repr__(self) -> str:
        return "<required>"


MISSING: Any = _Missing()


class Param:
    """One parameter of a declaration."""

    __slots__ = ("default", "keyword_only", "kind", "name", "style")

    def __init__(self, name: str, annotation: Any, default: Any, keyword_only: bool) -> None:
        annotation = _spelled(annotation)
        self.name = name
        self.kind = _KINDS.get(annotation, "attr")
        self.style = _STYLES.get(annotation)
        self.default = default
        self.keyword_only = keyword_only


def _params(reference: Any) -> tuple[Param, ...]:
    """The parameters as ``inspect.signature`` finds them, at a tenth of its time: there are hundreds at import."""
    function = reference
    while hasattr(function, "__wrapped__") and not hasattr(function, "__signature__"):
        function = function.__wrapped__
    code = getattr(function, "__code__", None)
    plain = type(function) is FunctionType and not hasattr(function, "__signature__")
    if code is None or not plain or code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS):
        found = inspect.signature(reference).parameters.values()
        return tuple(
            Param(p.name, p.annotation, MISSING if p.default is p.empty else p.default, p.kind is p.KEYWORD_ONLY)
            for p in found
        )
    n = code.co_argcount
    defaults = function.__defaults__ or ()
    by_position = (*(MISSING,) * (n - len(defaults)), *defaults)
    by_keyword = function.__kwdefaults__ or {}
    annotations = function.__annotations__
    names = code.co_varnames[: n + code.co_kwonlyargcount]
    return tuple(
        Param(name, annotations.get(name, ""), by_position[i] if i < n else by_keyword.get(name, MISSING), i >= n)
        for i, name in enumerate(names)
    )


class Vjp:
    """A gradient rule: a function of the names it needs. Pure arithmetic may also run on raw arrays."""

    __slots__ = ("function", "names", "plan", "pure")

    plan: tuple[tuple[str, str, int], ...]  # (name, source, index) for each of its names

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        code = getattr(function, "__code__", None)
        if code is not None:
            self.names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        else:
            self.names = tuple(inspect.signature(function).parameters)
        # A body that uses no name but its parameters can only be operators on them.
        self.pure = code is not None and not code.co_names and not code.co_freevars


def result_type(name: str, fields: tuple[str, ...]) -> Any:
    """The named tuple an operator with several results returns; prints as PyTorch's return_types do."""
    name = name.strip("_").removesuffix("_dim")

    def show(self: Any) -> str:
        lines = ",\n".join(f"{field}={value!r}" for field, value in zip(self._fields, self, strict=True))
        return f"tensorlib.return_types.{name}(\n{lines})"

    return type(name, (namedtuple(name, fields),), {"__slots__": (), "__repr__": show})  # type: ignore[misc]


class Op:
    """A declared operator. Call it as a function of tensors; read its attributes to derive something from it."""

    def __init__(
        self,
        reference: Callable[..., Any],
        *,
        name: str | None = None,
        kernel: Callable[..., Any] | None = None,
        cpu: Callable[..., Any] | None = None,
        ufunc: Any = None,
        promote: Rule | None = None,
        spec: Callable[..., Any] | None = None,
        vjp: Callable[..., Any] | dict[str, Callable[..., Any]] | None = None,
        jvp: Callable[..., Any] | None = None,
        batch: Callable[..., Any] | None = None,
        composite: Callable[..., Any] | None = None,
        outputs: Sequence[str] = (),
        aux: Sequence[str] = (),
        mutates: Sequence[str] = (),
        random: bool = False,
        exact: bool = False,
        pointwise: bool = False,
        is_view: bool = False,
        dynamic: bool = False,
        complex: bool | str | None = None,
        differentiable: bool | None = None,
        on: str = "function method",
        alias: Sequence[str] = (),
        inplace: bool = False,
        samples: Sequence[Sample] | None = None,
        errors: Sequence[Sample] = (),
        domain: Any = None,
        tolerance: float | None = None,
        bench: Any = (),
        flops: Callable[..., float] | None = None,
        bytes: Callable[..., float] | None = None,
        scalar_function: Any = None,
    ) -> None:
        self.name = name or reference.__name__
        self.reference = reference
        self.cpu = cpu if cpu is not None else reference
        #: The one NumPy ufunc that the operator is while its attributes have their defaults: the fast path.
        self.ufunc: Any = ufunc if ufunc is not None else cpu if isinstance(cpu, np.ufunc) else None
        self.kernel = kernel
        self.promote = promote
        self.spec = spec
        self.composite = composite
        self.jvp = jvp  # forward mode's rule, where the one derived from vjp will not do: autograd/jvp_rules.py
        self.batch = batch  # vmap's rule, where none follows from the declaration: autograd/batch_rules.py
        self.outputs = tuple(outputs) or ("out",)
        self.aux = tuple(aux)
        self.random = random
        self.exact = exact
        self.pointwise = pointwise
        self.broadcasts = pointwise
        self.is_view = is_view
        self.dynamic = dynamic  # output shapes depend on the data
        #: Complex numbers: False refuses them. True takes them, and the gradient of a complex result is that of a
        #: holomorphic function, conj(vjp(conj(g))). "own": the vjp conjugates by itself. None: taken where numbers are
        #: only moved or compared.
        self.complex = complex if complex is not None else promote is None or promote.name == "compare"
        self.conjugated: Op = self
        self.where = frozenset(on.split())
        self.alias = tuple(alias)
        self.inplace = inplace
        self._examples = (samples, errors, bench)
        self.domain = domain
        self.tolerance = tolerance
        self.flops, self.bytes = flops, bytes
        self.scalar_function = scalar_function
        self.registry = registry
        self.__doc__ = reference.__doc__
        self.__name__ = self.name
        self.__module__ = reference.__module__

        self.params = _params(reference)
        if random:
            if [p.name for p in self.params[-2:]] != ["seed", "offset"]:
                raise TypeError(f"{self.name}: a random operator's last parameters are seed and offset")
        self.tensors = tuple(p for p in self.params if p.kind != "attr")
        self.attrs = tuple(p for p in self.params if p.kind == "attr")
        self.styled = tuple((p.name, p.style) for p in self.attrs if p.style is not None)
        self.variadic = any(p.kind == "arrays" for p in self.tensors)
        self.lifts = any(style == "dim" for _, style in self.styled) and not is_view and not self.variadic
        position = {p.name: i for i, p in enumerate(self.tensors)}
        self.position = position
        self.promoted = None
        if promote is not None and promote.names is not None:
            self.promoted = tuple(position[n] for n in promote.names)
        self.mutates = tuple(position[n] for n in mutates)
        self.n_public = 0 if mutates else len(self.outputs)
        self.output_names = {n: i for i, n in enumerate(self.outputs + self.aux)}
        if len(self.outputs) == 1:
            self.output_names.setdefault("out", 0)
        if scalar_function is not None and kernel is None:
            self.kernel = pointwise_kernel.Host(scalar_function, self.name, promote, self.promoted)
        self.vjps = self._vjps(vjp)
        #: The rule of each tensor parameter, in order; None where one function serves them all, or there is none.
        self.rules: tuple[Vjp | None, ...] | None = None
        if type(self.vjps) is dict:
            self.rules = tuple([self.vjps.get(p.name) for p in self.tensors])
        self.integral = self.is_integral()
        #: Whether results require grad where an input does; without a vjp, backward then says that there is none.
        self.differentiable = (vjp is not None or not self.integral) if differentiable is None else differentiable
        self.autocast = POLICIES.get(self.name)
        self.takes_dtype = any(p.name == "dtype" for p in self.attrs)
        self._keeps: dict[tuple[bool, ...], tuple[tuple[str, str, int], ...]] = {}
        self._check()
        if self.complex is True and vjp is not None:
            self.conjugated = object.__new__(Conjugated)
            self.conjugated.__dict__ = self.__dict__
        self.fast = _fast.closure(self)
        self.public: Any = _public(self)

    # Made when first asked for: importing the library is not the time.
    @cached_property
    def quick(self) -> Any:
        """The fast function, which gives None where the general way has to go; None where the operator has none."""
        return _quick.compiled(self)

    @cached_property
    def signature(self) -> inspect.Signature:
        """The reference's signature."""
        return inspect.signature(self.reference)

    @cached_property
    def result_type(self) -> Any:
        """The named tuple of several results; None where there is one."""
        return result_type(self.name, self.outputs) if self.n_public > 1 else None

    @cached_property
    def samples(self) -> tuple[Sample, ...] | None:
        """The declared samples."""
        return None if self._examples[0] is None else resolve(self._examples[0], self.signature)

    @cached_property
    def errors(self) -> tuple[Sample, ...]:
        """The calls that must fail."""
        return resolve(self._examples[1], self.signature)

    @cached_property
    def bench(self) -> tuple[Sample, ...]:
        """The calls to time."""
        return resolve(self._examples[2], self.signature)

    def _vjps(self, vjp: Any) -> Any:
        """{tensor parameter: Vjp}, or one Vjp for all of them, or None."""
        if vjp is None:
            return None
        if isinstance(vjp, dict):
            for key in vjp:
                if key not in self.position:
                    raise TypeError(
                        f"{self.name}: vjp names {key!r}, which is not a tensor parameter: {[*self.position]}"
                    )
            return {key: Vjp(f) for key, f in vjp.items()}
        if len(self.tensors) == 1 and self.tensors[0].kind == "array":
            return {self.tensors[0].name: Vjp(vjp)}
        return Vjp(vjp)

    def is_integral(self) -> bool:
        """True when every result is bool by the promotion rule, so that no gradient can flow."""
        return self.promote is not None and self.promote.name in ("compare", "order")

    def _source(self, name: str) -> tuple[str, int] | None:
        """Where a vjp's name comes from: ("input"|"shape"|"dtype"|"output"|"attr"|"grad", index)."""
        if name == "needs":
            return "needs", 0
        if name == "g" or (name.startswith("g_") and name[2:] in self.output_names):
            return "grad", 0 if name == "g" else self.output_names[name[2:]]
        if name in self.position:
            return "input", self.position[name]
        for suffix in ("shape", "dtype"):
            stem = name.removesuffix(f"_{suffix}")
            if stem != name and stem in self.position:
                return suffix, self.position[stem]
        if any(p.name == name for p in self.attrs):
            return "attr", 0
        if name in self.output_names:
            return "output", self.output_names[name]
        return None

    def _check(self) -> None:
        """Everything that can be wrong with a declaration is an error when it is made."""
        if self.name in registry or self.name in composites:
            raise TypeError(f"operator {self.name!r} is declared twice: {registry.get(self.name, self).__module__}")
        if self.pointwise and not self.tensors:
            raise TypeError(f"{self.name}: no parameter is annotated Array: say which ones are tensors")
        if self.spec is None and not (self.pointwise or self.is_view or self.mutates or self.dynamic):
            raise TypeError(f"{self.name}: declare spec= (shape and dtype of the result)")
        rules = self.vjps.values() if isinstance(self.vjps, dict) else [self.vjps] if self.vjps else []
        for rule in rules:
            for name in rule.names:
                source = self._source(name)
                if source is None:
                    known = ["g", "needs", *self.position, *(p.name for p in self.attrs), *self.output_names]
                    raise TypeError(f"{self.name}: a vjp asks for {name!r}, which is none of {', '.join(known)}")
                if self.is_view and source[0] in ("input", "output"):
                    raise TypeError(f"{self.name}: the vjp of a view may name {name}_shape, not {name}")
            rule.plan = tuple((name, *(self._source(name) or ("", 0))) for name in rule.names)

    def keeps(self, wanted: tuple[bool, ...]) -> tuple[tuple[str, str, int], ...]:
        """(name, source, index) of what a Node must keep when these tensor parameters want gradients."""
        found = self._keeps.get(wanted)
        if found is None:
            if isinstance(self.vjps, dict):
                chosen = [p.name for p, w in zip(self.tensors, wanted, strict=True) if w]
                rules = [self.vjps[name] for name in chosen if name in self.vjps]
            else:
                rules = [self.vjps] if self.vjps else []
            names = {name: None for rule in rules for name in rule.names}
            if self.composite is not None:
                names |= dict.fromkeys(self.position)
            kept = []
            for name in names:
                source = self._source(name)
                assert source is not None
                if source[0] not in ("grad", "attr", "needs"):
                    kept.append((name, *source))
            found = self._keeps[wanted] = tuple(kept)
        return found

    def names(self, flat: Sequence[Any]) -> list[str]:
        """Parameter names of flattened operands, for messages."""
        if not self.variadic:
            return [p.name for p in self.tensors]
        return [f"tensor {i}" for i in range(len(flat))]

    def specs(self, inputs: Sequence[Any], attrs: dict[str, Any]) -> Any:
        """[(shape, dtype)] of the outputs and auxiliary outputs; None when they depend on the data."""
        if self.spec is None:
            return None
        result = self.spec(*inputs, **attrs)
        if result is None:
            return None
        return [result] if type(result) is tuple else result

    def shape_error(self, message: str) -> ShapeError:
        """A ShapeError that begins with the operator's name."""
        return ShapeError(f"{self.name}: {message}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The public function."""
        return self.public(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<operator {self.name}{self.signature}>"


class Conjugated(Op):
    """An operator as the rule of a Node with complex results: the same declaration, its gradient conj(vjp(conj(g))).

    PyTorch's gradient of a real loss is its derivative by conj(z), so that -grad descends. For a holomorphic function
    that is g conj(f'(z)): the rule written for real numbers, conjugated before and after.
    """


# --------------------------------------------------------------------------------------------- the public function


#: What the handler of a generated function asks of objects that are no tensors.
_FOREIGN = {"_implementing": implementing, "_hand_over": hand_over}


def _public(op: Op) -> Callable[..., Any]:
    """The function users call. Its code is compiled when it is first called: most are not in any one program."""
    function = _late(op.name, lambda: _compile(op))
    function.__doc__ = op.__doc__
    function.__module__ = "tensorlib"
    if "function" not in op.where:  # where pickle finds it
        for space in ("functional", "linalg", "fft", "special"):
            if space in op.where:
                function.__module__ = f"tensorlib.{'nn.' if space == 'functional' else ''}{space}"
                function.__qualname__ = op.name.removeprefix(f"{space}_")
    function.__wrapped__ = op.reference  # whose signature it shows
    if op.random:
        shown = list(op.signature.parameters.values())[:-2]
        function.__signature__ = op.signature.replace(parameters=shown)
    function.op = op
    return function  # type: ignore[no-any-return]


def _late(name: str, make: Callable[[], Any]) -> Any:
    """A function that takes the code of the one that ``make`` returns when it is first called."""
    scope: dict[str, Any] = {"_make": make, "_ready": _ready}
    function = scope["_late"] = FunctionType(_first_call.__code__, scope, name)
    function.__qualname__ = name
    return function


def is_public(function: FunctionType) -> bool:
    """Whether it is the public function of an operator or a composite."""
    return function.__globals__.get("_late") is function


def _first_call(*args: Any, **kwargs: Any) -> Any:
    return _ready(_late)(*args, **kwargs)


def _ready(function: Any) -> Any:
    made = function.__globals__["_make"]()
    function.__globals__.update(made.__globals__)
    function.__defaults__, function.__kwdefaults__ = made.__defaults__, made.__kwdefaults__
    function.__code__ = made.__code__  # last: other threads may be calling it
    return function


#: {operator: the number that PyTorch's oldest programs give before the tensors}: ``x.add_(0.1, y)``, by keyword now.
OLD_FORMS = {"add": "alpha", "sub": "alpha", "addcmul": "value", "addcdiv": "value"}


def old_form(name: str, args: Sequence[Any]) -> tuple[Sequence[Any], Any]:
    """(the tensors, the number) of a call in an operator's old form; TypeError where it is none."""
    tensors = [a for i, a in enumerate(args) if i != 1]
    if len(tensors) != len(registry[name].tensors) or isinstance(args[1], Tensor) or not isinstance(args[-1], Tensor):
        expected = len(registry[name].tensors)
        raise TypeError(f"{name}() takes {expected} positional arguments but {len(args)} were given")
    warnings.warn(
        f"{name}: the form with the number before the tensors is deprecated: give it by keyword, {OLD_FORMS[name]}=",
        UserWarning,
        stacklevel=outside(),
    )
    return tensors, args[1]


def _compile(op: Op) -> Any:
    """The function with the declaration's own signature, ``out=`` and NumPy's names for parameters."""
    params = op.params[:-2] if op.random else op.params
    names = {p.name for p in params}
    tensors = [p.name for p in op.tensors]
    attrs = [p.name for p in params if p.kind == "attr"]
    aliased = not names.isdisjoint(ALIASES.values())
    # What may come under another name needs a default of its own, even where the declaration has none.
    defaults = {p.name: p.default for p in params if aliased or p.default is not MISSING}
    has_out = not (op.is_view or op.mutates or "out" in names)

    def spelled(p: Param) -> str:
        return f"{p.name}=_d_{p.name}" if p.name in defaults else p.name

    keyword = [spelled(p) for p in params if p.keyword_only]
    keyword += ["out=None"] * has_out + ["generator=None"] * op.random
    old = OLD_FORMS.get(op.name)
    star = "*_old" if old else "*"
    header = [*(spelled(p) for p in params if not p.keyword_only), *([star, *keyword] if keyword else []), "**_names"]

    arguments = _arguments(op.name, op.signature, [p.name for p in params], op.where, op.pointwise)
    lines = [f"def operator({', '.join(header)}):", "  try:"]
    if old:
        lines += ["    if _old:", f"        _args, {old} = _old_form(_op.name, ({', '.join(tensors)}, *_old))",
                  f"        return operator(*_args, {old}={old}, out=out, **_names)"]  # fmt: skip
    if op.fast is not None:  # every attribute has its default, every tensor is given
        plain = ["not _names", *(f"{n} is _d_{n}" for n in attrs), *["out is None"] * has_out]
        plain += [f"{n} is not _missing" for n in tensors if aliased]
        lines += [f"    if {' and '.join(plain)}:", f"        return _fast({', '.join(tensors)})"]
    absent = [f"{p.name} is _missing" for p in params if aliased and p.default is MISSING]
    right = arguments.quick()
    quick = op.quick
    if quick is not None and not op.random:
        plain = ["not _names", *["out is None"] * has_out, *[right] * bool(right)]
        lines += [
            f"    if {' and '.join(plain)}:",
            f"        result = _quick({', '.join(p.name for p in params)})",
            f"        if result is not None: return {None if op.mutates else 'result'}",
        ]
    lines += [
        f"    attrs = {{{', '.join(f'{n!r}: {n}' for n in attrs)}}}",
        f"    operands = ({''.join(f'{n}, ' for n in tensors)})",
        f"    if {' or '.join(['_names', *absent])}:",
        "        operands = _other_names(_op, operands, attrs, _names)",
    ]
    if right:
        lines += [f"    if not ({right}):", "        _arguments.refuse(attrs)"]
    if op.random:
        lines.append("    attrs['seed'], attrs['offset'] = seed, offset = _draw(generator, operands, attrs)")
        if quick is not None:
            plain = ["not _names", "out is None"]
            lines += [
                f"    if {' and '.join(plain)}:",
                f"        result = _quick({', '.join(p.name for p in op.params)})",
                "        if result is not None: return result",
            ]
    lines.append(f"    result = _apply(_op, {'operands[0]' if op.is_view else 'operands'}, attrs)")
    into_out = "    return result if out is None else _into(_op.name, out, result)"
    lines.append(into_out if has_out else "    return result")
    lines += guard([p.name for p in params], bool(op.where))

    scope = {"_op": op, "_apply": apply_view if op.is_view else apply, "_other_names": _other_names, "_into": into,
             "_old_form": old_form,
             "_missing": MISSING, "_arguments": arguments, "_draw": random.draw, "_fast": op.fast,
             "_quick": quick, **_FOREIGN,
             **{f"_d_{name}": default for name, default in defaults.items()}}  # fmt: skip
    exec(_compiled("\n".join(lines)), scope)
    return scope["operator"]


def _arguments(
    name: str, signature: inspect.Signature, names: Sequence[str], where: frozenset[str], numbers: bool = False
) -> Arguments:
    """What the parameters of a public function take. ``numbers``: a number may stand for a tensor."""
    strict = where != {"functional"}  # PyTorch writes in Python what is only there
    kinds = []
    for p in (signature.parameters[n] for n in names):
        default = MISSING if p.default is p.empty else p.default
        kinds.append(Kind(p.name, _spelled(p.annotation), default, strict, numbers))
    return Arguments(name, kinds, bool(where))


@cache
def _compiled(source: str) -> Any:
    """Operators of one signature share one code object."""
    return compile(source, "<operator>", "exec")


def _other_names(op: Op, operands: tuple[Any, ...], attrs: dict[str, Any], names: dict[str, Any]) -> tuple[Any, ...]:
    """Take arguments given under NumPy's names; a name that nobody knows, or a required one missing, is a TypeError."""
    given = list(operands)
    for name, value in names.items():
        target = ALIASES.get(name)
        if target in attrs:
            if attrs[target] is not MISSING and _default_of(op, target) is MISSING:
                raise TypeError(f"{op.name}() got multiple values for argument '{target}' ({name})")
            attrs[target] = value
        elif target in op.position:
            if given[op.position[target]] is not MISSING:
                raise TypeError(f"{op.name}() got multiple values for argument '{target}' ({name})")
            given[op.position[target]] = value
        else:
            raise TypeError(f"{op.name}() got an unexpected keyword argument '{name}'")
    absent = [p.name for p, v in zip(op.tensors, given, strict=True) if v is MISSING]
    absent += [n for n, v in attrs.items() if v is MISSING]
    if absent:
        raise TypeError(f"{op.name}() missing required argument: '{absent[0]}'")
    return tuple(given)


def _default_of(op: Op, name: str) -> Any:
    return next(p.default for p in op.params if p.name == name)


def into(name: str, out: Any, result: Any) -> Any:
    """``out=``: the result written into given tensors, which may not take part in autograd and take its shape."""
    if isinstance(result, tuple):
        if not isinstance(out, (tuple, list)) or len(out) != len(result):
            wanted = f"tuple of {len(result)} Tensors"
            raise TypeError(f"{name}(): argument 'out' must be {wanted}, not {type(out).__name__}")
        parts = [into(name, o, r) for o, r in zip(out, result, strict=True)]
        return type(result)(*parts) if hasattr(result, "_fields") else tuple(parts)
    if not isinstance(out, Tensor):
        raise TypeError(f"{name}(): argument 'out' must be Tensor, not {type(out).__name__}")
    if result._needs or out._needs:
        raise TensorlibOutError(
            f"{name}(): functions with out=... arguments don't support automatic differentiation, "
            f"but one of the arguments requires grad"
        )
    have, want = out._array, result._array
    if have.dtype != want.dtype and category(have.dtype) < category(want.dtype):
        raise DtypeError(
            f"{name}: result type {dtype_name(want.dtype)} can't be cast to the desired output type "
            f"{dtype_name(have.dtype)}: give an out of the result's dtype"
        )
    if have.shape != want.shape:
        if have.size:
            warnings.warn(
                f"An output with one or more elements was resized since it had shape {list(have.shape)}, which does "
                f"not match the required output shape {list(want.shape)} of {name}: give an out of that shape, or an "
                f"empty one",
                UserWarning,
                stacklevel=outside(),
            )
        out.resize_(tuple(want.shape))  # type: ignore[attr-defined]
    return out.copy_(result)  # type: ignore[attr-defined]


class TensorlibOutError(TensorlibError, RuntimeError):
    """``out=`` was used where a gradient is wanted."""


# ------------------------------------------------------------------------------------------------- the decorators


_OPTIONS = frozenset(inspect.signature(Op.__init__).parameters) - {"self", "reference"}


def _quiet(body: Callable[..., Any]) -> Callable[..., Any]:
    """A body of another package, without NumPy's warnings of overflow and the like: ours are silenced by a filter."""

    @wraps(body)
    def cpu(*args: Any, **kwargs: Any) -> Any:
        with np.errstate(all="ignore"):
            return body(*args, **kwargs)

    return cpu


def _declare(reference: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    unknown = options.keys() - _OPTIONS
    if unknown:
        raise TypeError(
            f"{reference.__name__}: a declaration has no option {sorted(unknown)[0]!r}: it has "
            f"{', '.join(sorted(_OPTIONS - {'pointwise', 'is_view', 'scalar_function'}))}"
        )
    if "cpu" not in options and not reference.__module__.startswith("tensorlib."):
        options = {**options, "cpu": _quiet(reference)}
    made = Op(reference, **options)
    registry[made.name] = made
    for watch in watchers:
        watch(made)
    return made.public


def op(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare an operator: ``spec`` gives (shape, dtype) of its result, ``kernel`` the host function of its kernel.

    spec        ``spec(*tensors, **attrs)`` -> (shape, NumPy dtype), or a list of them: outputs, then aux; raises errors
    kernel      ``kernel(*outs, *tensors, **attrs)`` writes into DeviceArrays, with ``launch``; None: CPU only
    promote     PROMOTE, INT_TO_FLOAT, COMPARE, ORDER, INTEGERS, ACCUMULATE, FLOAT_ONLY, FLOATS, or None: as they come
    vjp         gradients: one function, or {tensor parameter: function}; its parameter names say what it gets
    jvp, batch  rules for forward mode and ``vmap``, where none follows from the declaration
    composite   the same function of Tensors, with other operators: for second order, ``vmap`` and as an oracle
    outputs     names of several results; ``aux``: of results that only the vjp sees
    mutates     names of the tensors it writes: it has no result then
    inplace     True: the method ``<name>_`` too
    dynamic     True: the result's shape depends on values
    random      True: it draws; the last parameters are ``seed, offset``, and users see ``generator=``
    complex     True: complex numbers too, as a holomorphic function; "own": the vjp conjugates by itself
    exact       True: the body gets half types as they are, not as float32
    cpu, ufunc  a faster body; the one NumPy ufunc that the operator is, for the fast path
    differentiable  whether results require grad; derived from vjp and promote by default
    name, on, alias  its name; the spaces of ``SPACES`` it is public in ("": none); other names
    samples, errors, domain, tolerance  what ``tensorlib.testing.checks`` tries, and how exactly
    bench, flops, bytes  calls to time, and what they compute and move

    TypeError for a declaration that cannot be right. CONTRIBUTING.md has a worked example.
    """
    return lambda reference: _declare(reference, options)


def pointwise(scalar_function: Any, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare an elementwise operator: ``scalar_function`` is the jitted function of one element of each input.

    It is called with the elements, half types as float32, then the attributes. Shapes broadcast, so no ``spec`` and
    no ``kernel`` are needed; ``promote`` is PROMOTE by default; samples are made from the arity, within ``domain``:
    (low, high), or {input: (low, high)}. ``inplace=True`` makes ``<name>_``. All other options are those of ``op``.
    """

    def decorate(reference: Callable[..., Any]) -> Callable[..., Any]:
        if not isinstance(scalar_function, Jit):
            raise TypeError(f"{reference.__name__}: the scalar function must be decorated with tensorlib.op.jit")
        made = {"pointwise": True, "scalar_function": scalar_function, "promote": PROMOTE, **options}
        return _declare(reference, made)

    return decorate


def view(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare a view: the body gives an array over the same memory and serves NumPy and device arrays alike.

    It needs no ``spec``, ``kernel`` or ``promote``. Its vjp may name ``g``, attributes and ``<input>_shape``, not the
    input or the result, which it does not keep. The other options (``on``, ``alias``, ``samples``, ...) are ``op``'s.
    """
    return lambda reference: _declare(reference, {"is_view": True, **options})


def _guarded(function: Callable[..., Any], where: frozenset[str], alias: Sequence[str]) -> Callable[..., Any]:
    """A composite with the checks and the errors of a public function, under the name that users know it by."""
    name = function.__name__
    shown = alias[0].rpartition(".")[2] if name.startswith("_") and alias else name
    public: Any = wraps(function)(_late(name, lambda: _compile_guarded(function, where, shown)))
    public.__qualname__ = shown
    if shown != name and alias[0].startswith("functional."):
        public.__module__ = "tensorlib.nn.functional"  # where pickle finds it
    return public  # type: ignore[no-any-return]


def _compile_guarded(function: Callable[..., Any], where: frozenset[str], name: str) -> Any:
    signature = inspect.signature(function)
    parameters = signature.parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    # PyTorch's parser takes NumPy's names for any function; a decorator may take others, which the signature hides.
    numpys = {other: own for other, own in ALIASES.items() if own in names and other not in names}
    code = getattr(function, "__code__", None)
    hidden = bool(code and code.co_flags & inspect.CO_VARKEYWORDS)
    renames = (hidden or bool(numpys)) and len(names) == len(parameters)
    defaults = {p.name: p.default for p in parameters if p.name in names and p.default is not p.empty}
    if renames:
        defaults = {n: defaults.get(n, MISSING) for n in names}
    header: list[str] = []
    passed: list[str] = []
    starred = False
    for p in parameters:
        if p.kind is p.VAR_POSITIONAL or p.kind is p.VAR_KEYWORD:
            mark = "*" if p.kind is p.VAR_POSITIONAL else "**"
            starred = starred or mark == "*"
            header.append(f"{mark}{p.name}")
            passed.append(f"{mark}{p.name}")
            continue
        if p.kind is p.KEYWORD_ONLY and not starred:
            header.append("*")
            starred = True
        header.append(f"{p.name}=_d_{p.name}" if p.name in defaults else p.name)
        passed.append(f"{p.name}={p.name}" if p.kind is p.KEYWORD_ONLY else p.name)
    arguments = _arguments(name, signature, names, where)
    values = ", ".join(f"{n!r}: {n}" for n in names)
    lines = [f"def operator({', '.join([*header, *['**_names'] * renames])}):", "  try:"]
    if renames:
        absent = [f"{n} is _missing" for n, default in defaults.items() if default is MISSING]
        lines += [
            f"    if {' or '.join(['_names', *absent])}:",
            f"        return _function(**_renamed(_names), **_given({{{values}}}))",
        ]
    if quick := arguments.quick():
        lines += [f"    if not ({quick}):", f"        _arguments.refuse({{{values}}})"]
    shown = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
    lines += [f"    return _function({', '.join(passed)})", *guard(shown, bool(where))]

    def given(values: dict[str, Any]) -> dict[str, Any]:
        return {n: v for n, v in values.items() if v is not defaults[n]}

    def renamed(others: dict[str, Any]) -> dict[str, Any]:
        return {numpys.get(n, n): v for n, v in others.items()}

    scope = {"_function": function, "_arguments": arguments, "_missing": MISSING, "_given": given, "_renamed": renamed,
             **_FOREIGN, **{f"_d_{n}": default for n, default in defaults.items()}}  # fmt: skip
    exec(_compiled("\n".join(lines)), scope)
    return scope["operator"]


class Composite:
    """A public function written with other operators: no Node, no kernel of its own."""

    def __init__(
        self, function: Callable[..., Any], on: str, alias: Sequence[str], inplace: bool, samples: Any
    ) -> None:
        self.name = function.__name__
        self.function = self.public = function
        self.where = frozenset(on.split())
        self.alias = tuple(alias)
        self.inplace = inplace
        self._examples = samples
        self.__doc__ = function.__doc__
        self.__module__ = function.__module__

    @cached_property
    def signature(self) -> inspect.Signature:
        """The function's signature."""
        return inspect.signature(self.function)

    @cached_property
    def samples(self) -> tuple[Sample, ...] | None:
        """The declared samples."""
        return None if self._examples is None else resolve(self._examples, self.signature)


def _of_real(function: F) -> F:
    """The function, refusing complex tensors."""

    @wraps(function)
    def public(*args: Any, **kwargs: Any) -> Any:
        for x in (*args, *(v for k, v in kwargs.items() if k != "out")):
            if isinstance(x, Tensor):
                refuse_complex(function.__name__, x._array.dtype)
        return function(*args, **kwargs)

    return public  # type: ignore[return-value]


def composite(
    *, on: str = "function method", alias: Sequence[str] = (), inplace: bool = False, samples: Any = None,
    complex: bool = True,
) -> Callable[[F], F]:  # fmt: skip
    """Register a public function that is written with other operators: no Node, and gradients through its parts.

    on        the spaces of ``SPACES`` it is public in, separated by blanks
    alias     other names; ``"special.erf"`` in that space only
    inplace   True: the method ``<name>_`` too
    samples   what ``tensorlib.testing.checks`` tries: a list of ``draw(...)``
    complex   False refuses complex numbers, where its operators do not
    """

    def decorate(function: F) -> F:
        if not complex:
            function = _of_real(function)
        if function.__name__ in POLICIES:
            function = aware(function)  # type: ignore[assignment]
        function = _guarded(function, frozenset(on.split()), alias)  # type: ignore[assignment]
        made = Composite(function, on, alias, inplace, samples)
        if made.name in composites or made.name in registry:
            raise TypeError(f"operator {made.name!r} is declared twice")
        composites[made.name] = made
        for watch in watchers:
            watch(made)
        return function

    return decorate


def declared() -> list[Op | Composite]:
    """Every operator and composite, in order of declaration."""
    return [*registry.values(), *composites.values()]
