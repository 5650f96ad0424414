"""What belongs to one process: open files and connections, threads that wait, locks."""

from __future__ import annotations

from typing import NoReturn


class OfThisProcess:
    """An object that cannot be pickled or copied, and says so.

    Without this, Python's error names only a part of it, such as "cannot pickle 'FileIO' object".
    """

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"this {type(self).__qualname__} belongs to its process, and cannot be pickled or "
            "copied: make one where it is used, from the same arguments"
        )
