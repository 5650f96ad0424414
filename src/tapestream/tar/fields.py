"""Reads the JSON members of a tar strictly: what is missing or impossible is an error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..errors import CorruptStreamError

# Digits of a number in JSON: what Python reads by default.
MAX_DIGITS = 4300


def decode_object(member: str, text: bytes) -> dict[str, Any]:
    """Read a JSON member that holds an object.

    Raises:
        CorruptStreamError: It does not.
    """
    try:
        values = json.loads(text, parse_int=_parsed)
    except (ValueError, RecursionError) as e:
        raise CorruptStreamError(f"{member} is not JSON: {e}") from e
    if not isinstance(values, dict):
        raise CorruptStreamError(f"{member} is not a JSON object")
    return values


def _parsed(digits: str) -> int:
    """As Python of today does by itself: that of some years ago took hours for a million digits."""
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"it has a number of {len(digits)} digits")
    return int(digits)


def number(values: Mapping[str, Any], key: str, low: int, high: int, unit: int = 1) -> int:
    """A whole number in these limits, both included, and a multiple of `unit`.

    Raises:
        ValueError: There is none.
    """
    value = values.get(key)
    if type(value) is not int or not low <= value <= high or value % unit:
        raise ValueError(f"{key} is {value!r}")
    return value


def string(values: Mapping[str, Any], key: str) -> str | None:
    """A text; None if it is missing or null.

    Raises:
        ValueError: There is something else.
    """
    value = values.get(key)
    if value is None:
        return None
    if isinstance(value, str):
        value.encode()  # JSON can say what is no text: half of a character
        return value
    raise ValueError(f"{key} is {value!r}")


def choice(values: Mapping[str, Any], key: str, choices: tuple[Any, ...]) -> Any:
    """One of these values, and of the same type.

    Raises:
        ValueError: There is another.
    """
    value = values.get(key)
    if type(value) not in map(type, choices) or value not in choices:
        raise ValueError(f"{key} is {value!r}")
    return value
