"""`override` for run time. Importing `typing_extensions` takes 5 ms; type checkers still use it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from typing_extensions import override
else:
    F = TypeVar("F")

    def override(method: F) -> F:
        """Mark a method that overrides one of a base class."""
        return method


__all__ = ["override"]
