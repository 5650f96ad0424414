"""Checks of arguments, made before anything is touched."""

from __future__ import annotations

import os

from .errors import UsageError


def flag(name: str, value: object) -> bool:
    """Check that a value is True or False: a text such as "no" would count as True.

    Raises:
        UsageError: It is neither.
    """
    if not isinstance(value, bool):
        raise UsageError(f"{name} must be True or False, not {value!r}")
    return value


def number(
    name: str, value: object, *, least: int = 0, most: int | None = None, unit: int = 1
) -> int:
    """Check that a value is a whole number from `least` to `most`, and a multiple of `unit`.

    Raises:
        UsageError: It is not.
    """
    if type(value) is not int or value < least or value % unit:  # a bool is an instance of int
        what = "a whole number" if unit == 1 else f"a multiple of {unit}"
        raise UsageError(f"{name} must be {what}, at least {least}, not {value!r}")
    if most is not None and value > most:
        raise UsageError(f"{name} must be at most {most}, not {value}")
    return value


def function(name: str, value: object) -> None:
    """Check that a value can be called, or is None.

    Raises:
        UsageError: It is neither.
    """
    if value is not None and (not callable(value) or isinstance(value, type)):
        raise UsageError(f"{name} must be a function or None, not {value!r}")


def path(name: str, value: object) -> str:
    """Check that a value can be the path of a file, and return it as a str.

    Raises:
        UsageError: It is not a path, or no file can have this path.
    """
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(text, str):
        raise UsageError(f"{name} must be a path (str or os.PathLike), not {value!r}")
    try:
        is_possible = bool(text) and b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        is_possible = False
    if not is_possible:
        raise UsageError(f"{name} must be a path that a file can have, not {value!r}")
    return text
