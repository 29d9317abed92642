"""Environment variables that the library reads: one way to say yes and no, and one form of error for the rest."""

from __future__ import annotations

import os

from tensorlib.errors import ArgumentError

_SAID = {
    "1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False,
}  # fmt: skip


class EnvironmentVariableError(ArgumentError):
    """An environment variable has a value that means nothing. No operator is to blame, so that none is named."""


def refuse(name: str, expected: str, without: str) -> EnvironmentVariableError:
    """The error for a variable's value: what was expected, and what holds ``without`` the variable."""
    return EnvironmentVariableError(f"{name}={os.environ[name]}: expected {expected}; unset it for {without}")


def switch(name: str, default: bool) -> bool:
    """What a variable that switches something says: 1, true, yes, on, or 0, false, no, off, in any case.

    The default where it is unset or empty. EnvironmentVariableError for anything else.
    """
    said = os.environ.get(name)
    if not said:
        return default
    try:
        return _SAID[said.strip().lower()]
    except KeyError:
        without = "on" if default else "off"
        raise refuse(name, "1, true, yes or on, or else 0, false, no or off", without) from None
