"""Reads the JSON members of a tar strictly: a missing or impossible value is an error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..errors import CorruptStreamError

# Most digits of a number in JSON: current versions of Python have the same limit.
MAX_DIGITS = 4300


def decode_object(member: str, text: bytes) -> dict[str, Any]:
    """Parse a JSON member that must hold an object.

    Raises:
        CorruptStreamError: It is not JSON, or not an object.
    """
    try:
        values = json.loads(text, parse_int=_parsed)
    except (ValueError, RecursionError) as e:
        raise CorruptStreamError(f"{member} is not JSON: {e}") from e
    if not isinstance(values, dict):
        raise CorruptStreamError(f"{member} is not a JSON object")
    return values


def _parsed(digits: str) -> int:
    """Refuse long numbers, as newer Pythons do; older ones take hours for a million digits."""
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"it has a number of {len(digits)} digits")
    return int(digits)


def number(values: Mapping[str, Any], key: str, low: int, high: int, unit: int = 1) -> int:
    """Get a whole number from `low` to `high`, both included, that is a multiple of `unit`.

    Raises:
        ValueError: It is missing, or something else.
    """
    value = values.get(key)
    if type(value) is not int or not low <= value <= high or value % unit:
        raise ValueError(f"{key} is {value!r}")
    return value


def string(values: Mapping[str, Any], key: str) -> str | None:
    """Get a string; None if it is missing or null.

    Raises:
        ValueError: It is something else.
    """
    value = values.get(key)
    if value is None:
        return None
    if isinstance(value, str):
        value.encode()  # raises for half a surrogate pair, which JSON allows
        return value
    raise ValueError(f"{key} is {value!r}")


def choice(values: Mapping[str, Any], key: str, choices: tuple[Any, ...]) -> Any:
    """Get a value that must be one of the choices, and of the same type.

    Raises:
        ValueError: It is missing, or something else.
    """
    value = values.get(key)
    if type(value) not in map(type, choices) or value not in choices:
        raise ValueError(f"{key} is {value!r}")
    return value
