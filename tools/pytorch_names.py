"""Write docs/pytorch_names.txt: the documented public names of the PyTorch that is installed.

``python tools/pytorch_names.py`` where PyTorch is at hand. A name counts as documented when it is public, belongs to
PyTorch, and has a docstring of its own. The file holds names only: the version, then ``[module]`` and its names.
"""

from __future__ import annotations

import importlib
import inspect
import textwrap
import types
import warnings
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parent.parent / "docs" / "pytorch_names.txt"

#: The modules, and the classes whose methods are documented one by one.
PLACES = """
torch torch.Tensor torch.Generator torch.finfo torch.iinfo torch.Size
torch.linalg torch.fft torch.special torch.signal.windows
torch.nn torch.nn.functional torch.nn.init torch.nn.Module torch.nn.parameter torch.nn.attention
torch.nn.utils torch.nn.utils.parametrize torch.nn.utils.parametrizations torch.nn.utils.rnn torch.nn.utils.prune
torch.nn.utils.stateless torch.nn.modules.lazy
torch.autograd torch.autograd.functional torch.autograd.forward_ad torch.autograd.graph torch.autograd.profiler
torch.autograd.function torch.autograd.Function torch.autograd.gradcheck torch.func
torch.optim torch.optim.Optimizer torch.optim.lr_scheduler torch.optim.swa_utils
torch.utils.data torch.utils.checkpoint torch.utils.dlpack
torch.amp torch.random torch.cpu torch.cuda torch.accelerator torch.testing
torch.backends.cuda torch.backends.cudnn torch.backends.mkl torch.backends.openmp torch.backends.opt_einsum
torch.distributions torch.distributions.constraints torch.distributions.transforms torch.distributions.kl
torch.jit torch.profiler torch.library torch.compiler torch.hub torch.overrides torch.futures
""".split()


def at(path: str) -> Any:
    """A module, or what a module holds."""
    try:
        return importlib.import_module(path)
    except ImportError:
        module, _, name = path.rpartition(".")
        return getattr(at(module), name)


def documented(place: Any, name: str, path: str) -> bool:
    """Whether it is a name of PyTorch's own with a docstring, not a module and not a typing helper."""
    if name.startswith("_"):
        return False
    value = inspect.getattr_static(place, name)
    if isinstance(value, types.ModuleType):
        return False
    if isinstance(value, property):
        return bool(value.__doc__) or isinstance(place, type)
    if type(value).__module__ == "typing" or isinstance(value, (types.GenericAlias, types.UnionType)):
        return False
    if isinstance(place, type):
        public = any(name in vars(c) for c in place.__mro__ if c.__module__.startswith("torch"))
        # The attributes of classes in C carry no docstring.
        if path == "torch.Tensor" or inspect.isgetsetdescriptor(value):
            return public
        return public and bool((inspect.getdoc(getattr(place, name)) or "").strip())
    home = getattr(value, "__module__", None) or "torch"
    if not home.startswith("torch"):
        return False
    listed = getattr(place, "__all__", None)
    builtin = isinstance(value, types.BuiltinFunctionType)
    if listed is not None and name not in listed and path != "torch" and not builtin:
        return False
    text = getattr(value, "__doc__", None)
    if not isinstance(text, str) or not text.strip():
        return False
    if inspect.isclass(value) or inspect.isfunction(value):
        if listed is None and path != "torch" and not home.startswith(path.rpartition(".")[0] or path):
            return False
        if inspect.isclass(value) and "__doc__" not in vars(value):
            return False
        return True
    return callable(value)


def names(path: str) -> list[str]:
    """The documented names of one module or class."""
    place = at(path)
    found = {n for n in {*dir(place), *getattr(place, "__all__", ())} if documented(place, n, path)}
    if isinstance(place, types.ModuleType):  # settings that are attributes, such as torch.backends.cudnn.benchmark
        found.update(n for n, v in vars(type(place)).items() if type(v).__name__ == "ContextProp")
    return sorted(found)


def dtypes() -> list[str]:
    """The element types by all their names, and the layouts and memory formats."""
    torch = at("torch")
    kinds = (torch.dtype, torch.layout, torch.memory_format)
    return sorted(n for n, v in vars(torch).items() if isinstance(v, kinds) and not n.startswith("_"))


def main() -> None:
    """Write the file."""
    warnings.simplefilter("ignore")
    parts = [f"PyTorch {at('torch').__version__.partition('+')[0]}\n"]
    for path in PLACES:
        found = sorted({*names(path), *(dtypes() if path == "torch" else ())})
        if found:
            parts.append(f"\n[{path}]\n" + "\n".join(textwrap.wrap(" ".join(found), 118)) + "\n")
    FILE.write_text("".join(parts))


if __name__ == "__main__":
    main()
