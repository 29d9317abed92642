"""Models by their repository's ``hubconf.py``, from a folder of this machine, and files by their address.

``load`` runs the code of a folder that is there: nothing is fetched that would be run. What is fetched are files of
tensors, which ``tensorlib.load`` reads without running anything in them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import sys
import tempfile
import warnings
from types import ModuleType
from typing import Any
from urllib.parse import urlparse
from urllib.request import Request, urlopen

from tensorlib.errors import UnsupportedError
from tensorlib.io import load as _load

__all__ = ["download_url_to_file", "get_dir", "help", "list", "load", "load_state_dict_from_url", "set_dir"]

#: The part of a file's name that begins its SHA-256: "resnet18-5c106cde.pth".
HASH_REGEX = re.compile(r"-([a-f0-9]*)\.")
_CHUNK = 1 << 17
_chosen: dict[str, str] = {}


def _get_torch_home() -> str:
    """The folder of what is fetched: TORCH_HOME, else torch within XDG_CACHE_HOME or ~/.cache."""
    cache = os.getenv("XDG_CACHE_HOME", "~/.cache")
    return os.path.expanduser(os.getenv("TORCH_HOME", os.path.join(cache, "torch")))


def get_dir() -> str:
    """The folder that ``set_dir`` chose, else ``$TORCH_HOME/hub``, which is ``~/.cache/torch/hub`` by default."""
    return _chosen.get("dir") or os.path.join(_get_torch_home(), "hub")


def set_dir(d: str | os.PathLike[str]) -> None:
    """Choose the folder for files that are fetched."""
    _chosen["dir"] = os.path.expanduser(os.fspath(d))


def _hubconf(function: str, repo_or_dir: Any, source: str) -> ModuleType:
    """The module that the folder's ``hubconf.py`` is, run with the folder first among those of modules."""
    if source not in ("github", "local"):
        raise ValueError(f'Unknown source: "{source}". Allowed values: "github" | "local".')
    if source == "github":
        raise UnsupportedError(
            f"hub.{function}: source='github' would fetch code of {repo_or_dir!r} and run it: clone the repository, "
            f"look at it, and give its folder with source='local'"
        )
    folder = os.path.abspath(os.path.expanduser(os.fspath(repo_or_dir)))
    file = os.path.join(folder, "hubconf.py")
    spec = importlib.util.spec_from_file_location("hubconf", file)
    if spec is None or spec.loader is None or not os.path.exists(file):
        raise FileNotFoundError(f"hub.{function}: there is no hubconf.py in {folder!r}")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(folder)
    missing = [name for name in getattr(module, "dependencies", []) if not _installed(name)]
    if missing:
        raise RuntimeError(f"Missing dependencies: {', '.join(missing)}")
    return module


def _installed(name: str) -> bool:
    """Whether a package that a hubconf.py names is there; PyTorch's name stands for this library."""
    return name == "torch" or importlib.util.find_spec(name) is not None


def _entry(module: ModuleType, name: str) -> Any:
    if not isinstance(name, str):
        raise ValueError("Invalid input: model should be a string of function name")
    found = getattr(module, name, None)
    if not callable(found):
        raise RuntimeError(f"Cannot find callable {name} in hubconf")
    return found


def load(
    repo_or_dir: Any, model: str, *args: Any, source: str = "github", trust_repo: Any = "check",
    force_reload: bool = False, verbose: bool = True, skip_validation: bool = False, **kwargs: Any,
) -> Any:  # fmt: skip
    """``model(*args, **kwargs)`` of the ``hubconf.py`` in the folder ``repo_or_dir``, with ``source="local"``.

    ``dependencies`` in it are the packages that must be there: RuntimeError names those that are not. The code of the
    folder is run: it must be trusted. UnsupportedError for ``source="github"``: nothing that is fetched is run. The
    other arguments concern what is fetched, and change nothing.
    """
    return _entry(_hubconf("load", repo_or_dir, source), model)(*args, **kwargs)


def list(
    github: Any, force_reload: bool = False, skip_validation: bool = False, trust_repo: Any = "check",
    verbose: bool = True, *, source: str = "local",
) -> Any:  # fmt: skip
    """The names of what can be loaded from a folder: the functions of its ``hubconf.py`` that begin with no ``_``."""
    module = _hubconf("list", github, source)
    return [name for name in dir(module) if not name.startswith("_") and callable(getattr(module, name))]


def help(
    github: Any, model: str, force_reload: bool = False, skip_validation: bool = False, trust_repo: Any = "check",
    *, source: str = "local",
) -> Any:  # fmt: skip
    """The docstring of one of them."""
    return _entry(_hubconf("help", github, source), model).__doc__


def download_url_to_file(url: str, dst: str, hash_prefix: str | None = None, progress: bool = True) -> None:
    """Write what is at an address to the file ``dst``, whole or not at all.

    RuntimeError unless its SHA-256 begins with ``hash_prefix``. ``progress``: a line on stderr says what is fetched.
    """
    dst = os.path.expanduser(dst)
    digest = hashlib.sha256()
    if progress:
        sys.stderr.write(f'Downloading: "{url}" to {dst}\n')
    folder, name = os.path.split(dst)
    handle, part = tempfile.mkstemp(prefix=f"{name}.", suffix=".partial", dir=folder or ".")
    try:
        with os.fdopen(handle, "wb") as file, urlopen(Request(url, headers={"User-Agent": "tensorlib.hub"})) as source:
            while chunk := source.read(_CHUNK):
                file.write(chunk)
                digest.update(chunk)
        found = digest.hexdigest()
        if hash_prefix is not None and not found.startswith(hash_prefix):
            raise RuntimeError(f'invalid hash value (expected "{hash_prefix}", got "{found}")')
        os.replace(part, dst)
    finally:
        if os.path.exists(part):
            os.remove(part)


def load_state_dict_from_url(
    url: str, model_dir: str | None = None, map_location: Any = None, progress: bool = True, check_hash: bool = False,
    file_name: str | None = None, weights_only: bool = False,
) -> Any:  # fmt: skip
    """``tensorlib.load`` of what is at an address, kept in ``model_dir`` (``get_dir()/checkpoints``) for later calls.

    ``check_hash``: the file's name has the beginning of its SHA-256 after a ``-``, and must be right. Whatever
    ``weights_only``, nothing in the file is run.
    """
    if os.getenv("TORCH_MODEL_ZOO"):
        warnings.warn("TORCH_MODEL_ZOO is deprecated, please use env TORCH_HOME instead", stacklevel=2)
    folder = os.path.join(get_dir(), "checkpoints") if model_dir is None else model_dir
    os.makedirs(folder, exist_ok=True)
    name = file_name if file_name is not None else os.path.basename(urlparse(url).path)
    file = os.path.join(folder, name)
    if not os.path.exists(file):
        found = HASH_REGEX.search(name) if check_hash else None
        download_url_to_file(url, file, found.group(1) if found else None, progress=progress)
    return _load(file, map_location=map_location, weights_only=True)
