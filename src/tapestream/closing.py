"""What is closed at the end of a `with` block."""

from __future__ import annotations

from abc import abstractmethod
from types import TracebackType
from typing import Protocol

from typing_extensions import Self


class Closing(Protocol):
    """A context manager that closes itself."""

    @abstractmethod
    def close(self) -> None:
        """Release everything. May be called more than once."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
