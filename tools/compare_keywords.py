"""Compare the keywords that functions take with PyTorch's: ``python tools/compare_keywords.py``.

Needs PyTorch beside tensorlib. The names are those of PyTorch's own stubs, which its parser is made of, of the
signatures of what it writes in Python, and of its operators' schemas. A function of tensorlib refuses a keyword if a
call with it says that it is unexpected, whatever else is given. Exits with 1 when something is refused.
"""

from __future__ import annotations

import ast
import inspect
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

import torch  # noqa: E402

import tensorlib  # noqa: E402
import tensorlib.nn.functional  # noqa: E402

SPACES = {
    "torch": (torch, tensorlib, ""),
    "Tensor": (torch.Tensor, tensorlib.Tensor, ""),
    "nn.functional": (torch.nn.functional, tensorlib.nn.functional, ""),
    "linalg": (torch.linalg, tensorlib.linalg, "linalg_"),
    "fft": (torch.fft, tensorlib.fft, "fft_"),
    "special": (torch.special, tensorlib.special, "special_"),
}
#: What no program gives: names of the stubs that the functions themselves do not take, or that concern what is absent.
MEANT = {
    "names", "layout", "pin_memory", "memory_format", "out_dtype", "async", "implicit", "_disable_byteorder_record",
    "isolate_recompiles", "recompile_limit", "shapes_spec", "name", "cls", "storage", "mode",
}  # fmt: skip
#: The same of one function.
MEANT_IN = {
    "Tensor.map_": {"other"}, "Tensor.new": {"other", "size"}, "Tensor.record_stream": {"s"},
    "Tensor.set_": {"size", "storage_offset", "stride"}, "torch.pow": {"self"}, "torch.unique_consecutive": {"out"},
}  # fmt: skip


def stubs(path: Path, name: str | None = None) -> dict[str, set[str]]:
    """Parameters by function of a stub, or of the methods of one of its classes."""
    body: list[Any] = ast.parse(path.read_text()).body
    if name is not None:
        body = [n for c in body if isinstance(c, ast.ClassDef) and c.name == name for n in c.body]
    found: dict[str, set[str]] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef):
            given = node.args
            names = {a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)} - {"self"}
            found.setdefault(node.name, set()).update(names)
    return found


def wanted(space: str) -> Iterator[tuple[str, set[str]]]:
    """(function, parameters) of a namespace of PyTorch."""
    theirs, _, prefix = SPACES[space]
    folder = Path(torch.__file__).parent / "_C"
    known: dict[str, set[str]] = {}
    if space == "torch":
        known = stubs(folder / "_VariableFunctions.pyi")
    elif space == "Tensor":
        known = stubs(folder / "__init__.pyi", "TensorBase")
    elif space == "nn.functional":
        known = stubs(folder / "_nn.pyi")
    for name in dir(theirs):
        function = getattr(theirs, name)
        if name.startswith("_") or not callable(function) or isinstance(function, type):
            continue
        if name in known and not inspect.isfunction(function):
            yield name, known[name]
            continue
        try:
            parameters = list(inspect.signature(function).parameters.values())
            takes = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
            yield name, {p.name for p in parameters if p.kind in takes} - {"self"}
        except (TypeError, ValueError):
            schemas = torch._C._jit_get_schemas_for_operator(f"aten::{prefix}{name}")
            names = {a.name for s in schemas for a in s.arguments if not a.is_out}
            yield name, {"input" if n == "self" else n for n in names}


def refused(function: Any, name: str, first: tuple[Any, ...]) -> bool:
    """Whether a call with the keyword says that it is unexpected."""
    x = tensorlib.ones(2, 2)
    for count in range(4):
        try:
            function(*first, *(x,) * count, **{name: x})
        except Exception as error:
            if f"unexpected keyword argument '{name}'" in str(error):
                return True
    return False


def main() -> int:
    """Print what is refused."""
    warnings.simplefilter("ignore")
    count = 0
    for space, (_, ours, _) in SPACES.items():
        for name, parameters in sorted(wanted(space)):
            function = getattr(ours, name, None)
            if function is None or isinstance(function, type) or (space == "torch" and name in ("save", "load")):
                continue
            meant = MEANT | MEANT_IN.get(f"{space}.{name}", set())
            first = (tensorlib.ones(2, 2),) if space == "Tensor" else ()
            bad = sorted(p for p in parameters - meant if refused(function, p, first))
            if bad:
                count += 1
                print(f"{space}.{name}: {', '.join(bad)}")
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main())
