"""What is closed at the end of a `with` block."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial, wraps
from types import FunctionType, TracebackType
from typing import Any, Protocol

from typing_extensions import Self

from .running import end_copy, joins

# These methods end a source or sink; the word is for the error.
_ENDINGS = {"close": "closed", "abort": "aborted"}
# With these methods a copy begins to use it.
_BEGINNINGS = ("begin", "open_reader")


class Closing(Protocol):
    """A context manager that closes itself, and first ends the copy that uses it.

    This holds in every class that inherits from this one: its `close` and `abort`, and the methods
    with which a copy begins to use it, are wrapped here.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, method in list(vars(cls).items()):
            if not isinstance(method, FunctionType):
                continue
            if name in _ENDINGS:
                setattr(cls, name, _ending_its_copy(method, _ENDINGS[name]))
            elif name in _BEGINNINGS:
                setattr(cls, name, _joining_a_copy(method))

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


def _ending_its_copy(method: Callable[[Any], None], doing: str) -> Callable[[Any], None]:
    @wraps(method)
    def close(self: Any) -> None:
        if end_copy(self, doing, partial(method, self)):
            method(self)

    return close


def _joining_a_copy(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def begin(self: Any, *args: Any) -> Any:
        joins(self)
        return method(self, *args)

    return begin
