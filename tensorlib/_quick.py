"""What an operator costs on the CPU beside its NumPy body: ``Op.quick``.

What binding finds out (dims counted from the front, shapes and dtypes of the results, every error) depends on the
operands' shapes and dtypes and the attributes alone, so it is found out once for each of them. A function generated
from the declaration looks it up, calls the body, and makes the result and its Node inline. Views and what writes into
its arguments have little to bind and remember nothing. Operands of several dtypes, of half types, and numbers beside
integers are converted to what was found out; factories and draws have such functions too.

The function returns None for anything unusual (devices, subclasses, arrays that stand for more than their numbers,
observers, attributes of other types), which takes the one slow path in ``_dispatch``, whose results and
errors are the definition: a test holds each function to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib._array import DeviceArray
from tensorlib._core import KINDS, Tensor, View, listening, modes, new, next_seq, node_class, wrap
from tensorlib._device import cpu
from tensorlib._dispatch import (
    NUMBERS,
    Meta,
    bind_attrs,
    broadcast,
    execute,
    flatten,
    keep,
    narrow,
    record,
    refuse_complex,
    results,
    sync,
    viewed,
)
from tensorlib._dtypes import HALF
from tensorlib._native import state as native
from tensorlib._plans import Refuse, frozen
from tensorlib._promotion import default_dtype

if TYPE_CHECKING:
    from tensorlib.op import Op

ndarray = np.ndarray
_F32, _F64 = np.dtype(np.float32), np.dtype(np.float64)
_ANY = np.zeros((), np.bool_)  #: the array of a number until it is known what it becomes
_DRAWS = frozenset(("seed", "offset"))
_PLAIN = frozenset((*NUMBERS, str, type(None)))  # of attributes: they are their own keys, with their type
MOST = 1 << 10  #: what one operator remembers of shapes and attributes; all is dropped when there would be more


def compiled(op: Op) -> Callable[..., Any] | None:
    """The fast function of an operator, of all its parameters in order; None where it has none.

    It returns None for operands that it is not for: other devices, other classes. (The names of the generated code
    begin with ``_``, which those of parameters do not.)
    """
    mixed = op.variadic and op.promoted is not None
    made = not op.tensors and any(p.name == "device" for p in op.attrs)
    if (all(p.kind == "optional" for p in op.tensors) and not made) or op.dynamic or mixed:
        return None
    if op.mutates and (op.promote is not None or op.spec is not None or op.styled or not op.complex):
        return None
    memo: dict[Any, Any] = {}
    scope = {
        "__name__": __name__, "_arrays": frozenset((ndarray, DeviceArray)), "_asarray": np.asarray,
        "_bind": partial(_bind, op, memo), "_body": op.reference if op.is_view else op.cpu, "_converted": _converted,
        "_count": _count, "_cpu": cpu, "_default_dtype": default_dtype, "_execute": execute, "_F32": _F32, "_F64": _F64,
        "_flatten": flatten, "_frozen": frozen, "_ints": _ints, "_keep": keep, "_KINDS": KINDS,
        "_listening": listening, "_many": _many, "_memo": memo, "_modes": modes, "_convert": _convert, "_ANY": _ANY,
        "_native": native, "_ndarray": ndarray, "_new": new, "_new_tuple": tuple.__new__, "_next_seq": next_seq,
        "_Node": node_class(op), "_NUMBERS": frozenset(NUMBERS), "_op": op, "_plain": _PLAIN, "_record": record,
        "_Refuse": Refuse, "_result_type": op.result_type, "_results": results, "_sync": sync, "_Tensor": Tensor,
        "_typed": _typed, "_View": View, "_viewed": viewed, "_wrap": wrap,
    }  # fmt: skip
    source = _view_source if op.is_view else _writing_source if op.mutates else _source
    exec(_code(source(op)), scope)
    return scope["_quick"]  # type: ignore[no-any-return]


@cache
def _code(source: str) -> Any:
    """Operators of one signature share one code object."""
    return compile(source, "<operator>", "exec")


def _source(op: Op) -> str:
    """The fast function: the operands' arrays, what binding found out for their like, the body, the result."""
    where = () if op.promote is None else range(len(op.tensors)) if op.promoted is None else op.promoted
    numbers = op.promote is not None and op.promote.name != "floats"  # a Python number may stand for a tensor
    lines = [f"def _quick({', '.join(p.name for p in op.params)}):", "    if _listening[0]: return None"]
    lines += ["    _d = None"] * bool(where)
    names = {p.name for p in op.attrs}
    if _DRAWS <= names:  # vmap may have the offset stand for several
        lines += ["    if type(seed) is not int or type(offset) is not int: return None"]
    if not op.tensors:
        lines += ["    if device is not _cpu and (device is not None or _modes.device is not None): return None"]
    key: list[str] = ["_d"] if where else ["_default_dtype()"]
    for i, p in enumerate(op.tensors):
        name, promoted = p.name, i in where
        if p.kind == "arrays":
            lines += [f"    _a{i}, _n{i}, _d{i} = _many({name}, {promoted})", f"    if _a{i} is None: return None"]
            if promoted:
                lines += [f"    if _d is None: _d = _d{i}", f"    if _d{i} is not _d: return None"]
            else:
                key.append(f"tuple([_a.dtype for _a in _a{i}])")
            key.append(f"tuple([_a.shape for _a in _a{i}])")
            continue
        lines += [f"    if type({name}) in _KINDS:", f"        _a{i} = {name}._array"]
        lines += [f"        if type(_a{i}) is not _ndarray: return None"]
        if promoted:
            lines += [f"        if _d is None: _d = _a{i}.dtype",
                      f"        elif _a{i}.dtype is not _d: _d = (_d, {i}, _a{i}.dtype)"]  # fmt: skip
        lines += [f"        if {name}._view is not None: _sync({name})", f"        _n{i} = {name}._needs"]
        if p.kind == "optional":
            lines += [f"    elif {name} is None:", f"        _a{i}, _n{i} = None, False"]
        if promoted and numbers and len(where) > 1:
            lines += [f"    elif type({name}) is float or type({name}) is int: _a{i}, _n{i} = {name}, False"]
        lines += ["    else: return None"]
        shape = f"_a{i}.shape"
        key.append(f"None if _a{i} is None else {shape}" if p.kind == "optional" else shape)
        if not promoted:
            key.append(f"None if _a{i} is None else _a{i}.dtype" if p.kind == "optional" else f"_a{i}.dtype")
    if numbers and len(where) > 1:
        lines += ["    if _d is None: return None"]
        for i in where:
            if op.tensors[i].kind != "arrays":
                lines += [f"    if type(_a{i}) is not _ndarray and _a{i} is not None:",
                          f"        if _d is _F32 or _d is _F64: _a{i} = _asarray(_a{i}, _d)",
                          f"        else: _d, _a{i} = (_d, {i}, type(_a{i})), _ANY"]  # fmt: skip
    if op.lifts:  # whose first operand is never optional
        lines += ["    if not _a0.ndim: return None"]
    for p in op.attrs:
        if p.style == "scalar":
            lines += [f"    if type({p.name}) not in _NUMBERS and {p.name} is not None: return None"]
    key += [_keyed(p) for p in op.attrs if p.name not in _DRAWS and (op.tensors or p.name != "device")]
    styled = [name for name, style in op.styled if style != "scalar"]
    operands = f"({''.join(f'{p.name}, ' for p in op.tensors)})"
    arrays = f"({''.join(f'_a{i}, ' for i in range(len(op.tensors)))})"
    attrs = f"{{{', '.join(f'{p.name!r}: {p.name}' for p in op.attrs)}}}"
    passed = ", ".join([*(f"_a{i}" for i in range(len(op.tensors))), *(f"{p.name}={p.name}" for p in op.attrs)])
    lines += [
        "    try:",
        f"        _key = ({''.join(f'{part}, ' for part in key)})",
        "    except _Refuse:",
        "        return None",
        "    _found = _memo.get(_key)",
        "    if not _found:",
        f"        if _found is None: _found = _bind(_key, {operands}, {arrays}, {attrs})",
        "        if not _found: return None",
        f"    {''.join(f'{name}, ' for name in styled)}_want, _rule, _most, _specs, _inputs, _to = _found",
        *_prepared(op, where, operands, arrays, attrs),
        f"    {'el' * bool(where)}if {op.name!r} in _native.least and _most >= _native.least[{op.name!r}]:",
        f"        _outs = _execute(_op, {arrays}, {attrs}, _specs, _cpu)",
    ]
    needs = " or ".join(f"_n{i}" for i in range(len(op.tensors)))
    if op.n_public > 1:
        lines += [
            "    else:",
            f"        _outs = _typed(_body({passed}), _specs)",
            f"    if ({needs}) and _modes.grad: return _results(_op, {operands}, None, {attrs}, _outs)",
            f"    return _new_tuple(_result_type, [_wrap(_r) for _r in _outs[:{op.n_public}]])",
        ]
        return "\n".join(lines)
    if len(op.outputs) + len(op.aux) == 1:
        lines += [
            "        _r = _outs[0]",
            "    else:",
            f"        _r = _body({passed})",
            "        if type(_r) is not _ndarray: _r = _asarray(_r)",
            "        if _r.dtype is not _want and _r.dtype != _want: _r = _r.astype(_want)",
        ]
        outs = "(_r,)"
    else:
        lines += ["    else:", f"        _outs = _typed(_body({passed}), _specs)", "    _r = _outs[0]"]
        outs = "_outs"
    lines += [
        "    _t = _new(_Tensor)",
        "    _t._array = _r",
        "    _t._index = 0",
        "    _t._writes = _t._view = _t._node = None",
        "    _t._needs = False",
    ]
    if not op.tensors:
        return "\n".join([*lines, "    return _t"])
    lines += [
        f"    if ({needs}) and _rule is not None and _modes.grad:",
    ]
    lines += ["        " + line for line in _history(op, operands, attrs, outs)]
    lines.append("    return _t")
    return "\n".join(lines)


def _prepared(op: Op, where: Sequence[int], operands: str, arrays: str, attrs: str) -> list[str]:
    """Source for operands that are to be converted."""
    if not where:
        return []
    call = f"        _outs = _convert(_op, {operands}, {arrays}, {attrs}, _specs, _to)"
    return ["    if _to is not None:", call, "        _r = _outs[0]"]


def _convert(
    op: Op, operands: Sequence[Any], arrays: Sequence[Any], attrs: dict[str, Any], specs: Any, to: np.dtype[Any]
) -> Sequence[Any]:
    """The operator on operands in one dtype, in float32 if that is a half type: what ``_dispatch.promote`` says."""
    half = to in HALF and not op.exact
    made = list(arrays)
    for i in range(len(made)) if op.promoted is None else op.promoted:
        a, x = made[i], operands[i]
        if type(x) is float or type(x) is int:
            made[i] = np.asarray(x).astype(to) if to.kind in "iub" else np.asarray(x, _F32 if half else to)
        elif type(a) is ndarray and a.dtype is not to:
            made[i] = a.astype(to, "C" if 0 in a.strides else "K")  # K would order an expanded array's dims otherwise
    return narrow(op, made, attrs, specs) if half else execute(op, made, attrs, specs, cpu)


def _history(op: Op, operands: str, attrs: str, outs: str) -> list[str]:
    """Source that gives the first result its Node: ``_dispatch.record`` for operands of which everything is known."""
    lines = ["_t._needs = True"]
    if op.variadic:
        lines += [
            f"_flat, _counts = _flatten(_op, {operands})",
            f"_t._node = _node = _record(_op, _flat, _counts, {attrs}, {outs})",
            "_saved = _node.saved",
        ]
    else:
        flags = "".join(f"_n{i}, " for i in range(len(op.tensors)))
        edges = [
            f"None if not _n{i} else {p.name} if {p.name}._node is None else ({p.name}._node, {p.name}._index), "
            for i, p in enumerate(op.tensors)
        ]
        lines += [
            "_t._node = _node = _new(_Node)",
            f"_node.edges = ({''.join(edges)})",
            f"_node.attrs = {attrs}",
            f"_node.inputs = None if _inputs is None else _converted(_inputs, ({flags}))",
            "_node.outputs = ()",
            "_node.hooks = _node.trace = None",
            "_node.seq = _next_seq()",
            "_node.saved = _saved = {}",
        ]
        for name, source, index, wanted in _kept(op):
            x = op.tensors[index].name if source != "output" else ""
            found = f"_keep({x})"
            if source in ("shape", "dtype"):
                found = f"None if type({x}) not in _KINDS else {x}._array.{source}"
            elif source == "output":
                found = "None"
            lines.append(f"if {wanted}: _saved[{name!r}] = {found}" if wanted else f"_saved[{name!r}] = {found}")
    for name, i in op.output_names.items():
        if op.variadic or any(name == kept for kept, *_ in _kept(op)):
            kept = "_keep(_t)" if i == 0 else f"(_outs[{i}], [0], 0)"
            lines.append(f"if {name!r} in _saved and _saved[{name!r}] is None: _saved[{name!r}] = {kept}")
    lines.append("_node.rule = _rule")
    return lines


def _every(op: Op) -> list[tuple[bool, ...]]:
    """Which tensor parameters may want gradients: one at a time, and all."""
    n = len(op.tensors)
    return [*(tuple([i == k for i in range(n)]) for k in range(n)), (True,) * n]


def _kept(op: Op) -> list[tuple[str, str, int, str]]:
    """(name, source, index, source of when) of what a Node keeps: what the rules of the wanted gradients name."""
    each = [op.keeps(wanted) for wanted in _every(op)]
    found = []
    for item in each[-1]:
        asking = [k for k in range(len(op.tensors)) if item in each[k]]
        when = "" if len(asking) == len(op.tensors) else " or ".join(f"_n{k}" for k in asking)
        found.append((*item, when))
    return found


def _keyed(p: Any) -> str:
    """Source of what the memory is asked with for one attribute: tells 1 from 1.0 and from True.

    It need not tell 0.0 from -0.0: only dims and sizes are taken from the memory, all else as it came.
    """
    name, usual = p.name, int if p.style in ("dim", "newdim") else type(p.default)
    if p.style in ("dims", "ints"):
        return f"{name} if type({name}) is int or {name} is None else _ints({name})"
    if usual in (bool, int, float) and p.style != "scalar":
        return f"{name} if type({name}) is {usual.__name__} else _frozen({name})"
    return f"(type({name}), {name}) if type({name}) in _plain else _frozen({name})"


def _ints(value: Any) -> tuple[int, ...]:
    """A tuple or list of plain ints as a key."""
    if type(value) is not tuple and type(value) is not list:
        raise Refuse
    for v in value:
        if type(v) is not int:
            raise Refuse
    return tuple(value)


def _many(tensors: Any, promoted: bool) -> tuple[list[Any] | None, bool, Any]:
    """(arrays, whether one wants a gradient, their dtype) of a sequence of tensors; None: not one of plain tensors."""
    if not tensors or (type(tensors) is not list and type(tensors) is not tuple):
        return None, False, None
    arrays, needs, dtype = [], False, None
    for x in tensors:
        if type(x) not in KINDS or type(x._array) is not ndarray:
            return None, False, None
        a = x._array
        if a.dtype is not dtype:
            if dtype is not None and promoted:
                return None, False, None
            dtype = a.dtype
        if x._view is not None:
            sync(x)
        needs = needs or x._needs
        arrays.append(a)
    return arrays, needs, dtype


def _bind(
    op: Op, memo: dict[Any, Any], key: Any, operands: Sequence[Any], arrays: Sequence[Any], attrs: dict[str, Any]
) -> Any:
    """What binding finds out, which is the same whenever ``key`` comes again; False for what goes the general way.

    (the bound dims and sizes ..., dtype of the first result, the rule of its Node or None where no gradient flows, most
    elements of an operand or result, specs, what gradients of the operands are brought back to, the dtype that operands
    are converted to or None).
    """
    flat = [y for x in operands for y in (x if type(x) in (list, tuple) else (x,))]
    whole = [y for a in arrays for y in (a if type(a) is list else (a,))]
    bind_attrs(op, flat, attrs)
    out, to, seen = None, None, arrays
    if op.promote is not None:
        where = range(len(whole)) if op.promoted is None or op.variadic else op.promoted
        chosen = [flat[i] if type(flat[i]) in NUMBERS else whole[i] for i in where if whole[i] is not None]
        compute, out = op.promote(op.name, chosen, attrs)
        if compute in HALF and not op.exact:
            to = compute
        for i in where:
            a = whole[i]
            if a is not None and (a.dtype != compute or a is _ANY):
                if op.variadic:
                    return _remember(memo, key, False)
                to, seen = compute, list(seen)
                seen[i] = Meta(a.shape, compute)
        if not op.complex:
            refuse_complex(op.name, compute)
    elif not op.complex:
        for a in whole:
            if a is not None:
                refuse_complex(op.name, a.dtype)
    specs = [(broadcast(op, seen), out)] if op.broadcasts and op.spec is None else op.specs(seen, attrs)
    if specs is None:
        return _remember(memo, key, False)
    want: Any = specs[0][1]
    rule = None
    if op.differentiable and want.kind not in "iub":
        rule = op if want.kind != "c" else op.conjugated
    most = max([a.size for a in whole if a is not None] + [math.prod(shape) for shape, _ in specs])
    inputs = None
    if op.promote is not None and not op.variadic:
        odd = [a is not None and (a.dtype is not want or (op.broadcasts and a.shape != specs[0][0])) for a in whole]
        if any(odd):
            inputs = odd, tuple([None if a is None else (a.shape if op.broadcasts else None, a.dtype) for a in whole])
    bound = [attrs[name] for name, style in op.styled if style != "scalar"]
    return _remember(memo, key, (*bound, want, rule, most, specs, inputs, to))


def _remember(memo: dict[Any, Any], key: Any, found: Any) -> Any:
    if len(memo) >= MOST:
        memo.clear()
    memo[key] = found
    return found


def _typed(result: Any, specs: Sequence[Any]) -> Sequence[Any]:
    """A body's results as arrays of the dtypes that binding found."""
    outs = result if type(result) is tuple else (result,)
    for i, out in enumerate(outs):
        want = specs[i][1]
        if type(out) is not ndarray or (out.dtype is not want and out.dtype != want):
            outs = (*outs[:i], np.asarray(out).astype(want, copy=False), *outs[i + 1 :])
    return outs


def _converted(inputs: tuple[Sequence[bool], Any], needs: Sequence[bool]) -> Any:
    """What a Node keeps to bring gradients back to operands that were broadcast or converted; None where none was."""
    return inputs[1] if any(n and odd for n, odd in zip(needs, inputs[0], strict=True)) else None


# ------------------------------------------------------------------------------------- operators that write: optimizers


def _writing_source(op: Op) -> str:
    """The fast function of an operator that writes into its arguments and has nothing to bind; True when it is done."""
    lines = [f"def _quick({', '.join(p.name for p in op.params)}):", "    if _listening[0]: return None"]
    for i, p in enumerate(op.tensors):
        if p.kind == "arrays":
            lines += [f"    _a{i} = _many({p.name}, False)[0]", f"    if _a{i} is None: return None"]
            continue
        lines += [
            f"    if type({p.name}) in _KINDS:",
            f"        _a{i} = {p.name}._array",
            f"        if type(_a{i}) is not _ndarray: return None",
            f"        if {p.name}._view is not None: _sync({p.name})",
            f"    elif type({p.name}) in _NUMBERS{f' or {p.name} is None' * (p.kind == 'optional')}: _a{i} = {p.name}",
            "    else: return None",
        ]
    arrays = [f"_a{i}" for i in range(len(op.tensors))]
    attrs = f"{{{', '.join(f'{p.name!r}: {p.name}' for p in op.attrs)}}}"
    lines += [
        f"    if {op.name!r} in _native.least: _execute(_op, [{', '.join(arrays)}], {attrs}, None, _cpu)",
        f"    else: _body({', '.join([*arrays, *(f'{p.name}={p.name}' for p in op.attrs)])})",
    ]
    for i in op.mutates:
        p = op.tensors[i]
        if p.kind == "arrays":
            lines += [f"    for _t in {p.name}: _count(_t)"]
        else:
            lines += [f"    if {p.name} is not None: _count({p.name})"]
    lines.append("    return True")
    return "\n".join(lines)


def _count(t: Tensor) -> None:
    """A write."""
    counter = t._writes
    if counter is None:
        t._writes = [1]
    else:
        counter[0] += 1


# ------------------------------------------------------------------------------------------------------------ views


def _view_source(op: Op) -> str:
    """The fast function of a view: ``_dispatch.apply_view`` for attributes of the usual types, all bound inline."""
    input, attrs = op.params[0].name, op.params[1:]
    lines = [
        f"def _quick({', '.join(p.name for p in op.params)}):",
        f"    if type({input}) not in _KINDS or _listening[0]: return None",
        f"    _x = {input}._array",
        "    if type(_x) not in _arrays: return None",
        f"    _outer = {input}._view",
        f"    if _outer is not None: _sync({input})",
    ]
    for p in attrs:
        name, style = p.name, p.style
        if style in ("dim", "newdim"):
            n = "_x.ndim + 1" if style == "newdim" else "_x.ndim"
            lines += [f"    if type({name}) is not int: return None", f"    if {name} < 0: {name} += {n}",
                      f"    if not 0 <= {name} < {n}: return None"]  # fmt: skip
        elif style == "dims":
            lines += [f"    if {name} is None: {name} = tuple(range(_x.ndim))", f"    elif type({name}) is int:",
                      f"        if {name} < 0: {name} += _x.ndim", f"        if not 0 <= {name} < _x.ndim: return None",
                      f"        {name} = ({name},)", "    else: return None"]  # fmt: skip
        elif style == "ints":
            lines += [f"    if type({name}) is not tuple: return None", f"    for _v in {name}:",
                      "        if type(_v) is not int: return None"]  # fmt: skip
        elif style is not None:
            lines += ["    return None"]
    lines += [
        "    try:",
        f"        _out = _body({', '.join(['_x', *(f'{p.name}={p.name}' for p in attrs)])})",
        "    except (ValueError, IndexError, OverflowError):",
        "        return None",
        "    _t = _new(_Tensor)",
        "    _t._array = _out",
        "    _t._index = 0",
        "    _t._node = None",
        "    _t._needs = False",
        f"    _counter = {input}._writes",
        f"    if _counter is None: _counter = {input}._writes = [0]",
        "    _t._writes = _counter",
        f"    _attrs = {{{', '.join(f'{p.name!r}: {p.name}' for p in attrs)}}}",
        "    _t._view = _made = _new(_View)",
        "    if _outer is None:",
        f"        _made.base = {input}",
        "        _made.steps = ((_op, _attrs),)",
        "    else:",
        "        _made.base = _outer.base",
        "        _made.steps = (*_outer.steps, (_op, _attrs))",
        "    if _modes.grad:",
        "        _made.stamp = _counter[0]",
        f"        if {input}._needs: _viewed(_t, _op, {input}, _attrs)",
        "    else:",
        "        _made.stamp = -1",
        "    return _t",
    ]
    return "\n".join(lines)
