"""Objects that belong to one process, because they hold files, connections, threads or locks."""

from __future__ import annotations

from typing import NoReturn


class OfThisProcess:
    """An object that cannot be pickled or copied, and raises an error that says so.

    Without this, Python's error would name only a part of it: "cannot pickle 'FileIO' object".
    """

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"this {type(self).__qualname__} belongs to its process, and cannot be pickled or "
            "copied: make one where it is used, from the same arguments"
        )
