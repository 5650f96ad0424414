"""Makes sources and sinks context managers, and lets closing one end the copy that uses it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial, wraps
from types import FunctionType
from typing import Any, Protocol

from .._log import Log
from .._typing import Self
from .running import end_copy, joins

log = Log("tapestream.copy")


class Closing(Protocol):
    """A context manager that closes itself, and first ends the copy that uses it.

    Every class that inherits from this one defines its own `close`, and perhaps `abort`, `begin`
    and `open_reader`. All four are wrapped here. The first two first end the copy that uses the
    object. The other two note that the copy of the calling thread uses it.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, wrapped_by in _WRAPPED_BY.items():
            method = vars(cls).get(name)
            if isinstance(method, FunctionType):
                setattr(cls, name, wrapped_by(method))

    @abstractmethod
    def close(self) -> None:
        """Release everything. May be called more than once."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: object, error: BaseException | None, traceback: object) -> None:
        try:
            self.close()
        except Exception:
            if error is None:
                raise
            # The error that ended the block is the one to raise.
            log.exception("a %s could not be closed cleanly", type(self).__name__)


def _ends_its_copy(doing: str, method: Callable[[Any], None]) -> Callable[[Any], None]:
    @wraps(method)
    def close(self: Any) -> None:
        if end_copy(self, doing, partial(method, self)):
            method(self)

    return close


def _joins_a_copy(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def begin(self: Any, *args: Any, **kwargs: Any) -> Any:
        joins(self)
        return method(self, *args, **kwargs)

    return begin


# "closed" and "aborted" appear in the error that the copy raises.
_WRAPPED_BY: dict[str, Callable[..., Callable[..., Any]]] = {
    "close": partial(_ends_its_copy, "closed"),
    "abort": partial(_ends_its_copy, "aborted"),
    "begin": _joins_a_copy,
    "open_reader": _joins_a_copy,
}
