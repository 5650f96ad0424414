"""Names for annotations, with the meaning they have in `typing_extensions`.

Importing that takes 5 ms. Type checkers use it; at run time, these names come from Python itself
where it has them.
"""

from __future__ import annotations

import collections.abc
import sys
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from typing_extensions import Buffer, Self, Unpack, override
else:
    if sys.version_info >= (3, 11):
        from typing import Self, Unpack
    else:
        from typing_extensions import Self, Unpack

    Buffer = getattr(collections.abc, "Buffer", bytes | bytearray | memoryview)
    F = TypeVar("F")

    def override(method: F) -> F:
        """Mark a method that overrides one of a base class."""
        return method


__all__ = ["Buffer", "Self", "Unpack", "override"]
