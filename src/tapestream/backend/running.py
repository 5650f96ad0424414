"""Knows which running copy uses which source or sink, so that closing one ends its copy first.

A descriptor must not be closed while a thread of a copy uses it. The next file that the program
opens gets the same number, and the thread would read or write that file instead.

    close() from another thread        ends the copy, waits for its end, then closes
    close() from a thread of the copy  ends the copy, which closes it at its end
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from .._log import Log
from ..cancel import Cancel
from ..errors import ClosedError, UsageError
from .abilities import cancel

log = Log("tapestream.copy")

# Seconds between two cancels of a copy that is ending: a call may begin to block just after it was
# cancelled.
CANCEL_AGAIN = 0.2

# Protects `_users` and every `Running`. It is reentrant: a signal handler may close a source while
# its thread holds the lock.
_lock = threading.RLock()
_users: dict[int, Running] = {}
_here = threading.local()


class Running:
    """A copy that runs.

    Args:
        cancel: Ends the copy; None if nothing does.

    Attributes:
        is_ending: True after its threads have ended. From then on, only the copy itself closes its
            sink.
        outer: The copy in whose source, sink or callback this one was started; None if there is
            none.
        on_wait: Called when a wait for a drive or a tape begins or ends, by the thread that waits.
    """

    def __init__(self, cancel: Cancel | None = None) -> None:
        self.is_ending = False
        self._cancel = cancel
        self._given: list[object] = []
        self._joined: list[object] = []
        self._error: BaseException | None = None
        self._fail: Callable[[BaseException], None] | None = None
        self._closes: list[Callable[[], None]] = []
        self._ended = threading.Event()
        self._waits: list[str] = []
        self._waited, self._waits_since = 0.0, 0.0
        self.on_wait: Callable[[], None] | None = None
        self.outer = current()

    def use(self, *backends: object) -> None:
        """Note that this copy was given these sources and sinks.

        Raises:
            UsageError: Another copy uses one of them.
        """
        with _lock:
            for backend in backends:
                self._take(backend, self._given)

    def join(self, backend: object) -> None:
        """Note that this copy uses a source or sink that another one wraps.

        Raises:
            UsageError: Another copy uses it.
        """
        with _lock:
            if _users.get(id(backend)) is not self:
                self._take(backend, self._joined)

    def _take(self, backend: object, backends: list[object]) -> None:
        user = _users.get(id(backend))
        if user not in (None, self) and not self.is_inside(user):
            raise UsageError(
                f"another copy uses this {type(backend).__name__} now",
                hint="Wait until it ends, or open a source or sink of its own for each copy.",
            )
        backends.append(backend)
        _users.setdefault(id(backend), self)

    @property
    def has_ended(self) -> bool:
        """True after it has released everything that it used."""
        return self._ended.is_set()

    def check(self) -> None:
        """Raise the error that ended this copy, if one did."""
        self.check_cancel()
        if self._error is not None:
            raise self._error

    @property
    def has_cancel(self) -> bool:
        """True if a `Cancel` can end this copy."""
        return self._cancel is not None

    def check_cancel(self) -> None:
        """Raise an error if this copy was cancelled."""
        if self._cancel is not None:
            self._cancel.check()

    @contextmanager
    def failing(self, fail: Callable[[BaseException], None]) -> Iterator[None]:
        """Call `fail` with the error if this copy must end during this block."""
        try:
            with _lock:
                self._fail = fail
                self.check()
            yield
        finally:
            self._fail = None

    @property
    def waits_for(self) -> str | None:
        """What the copy waits for, such as "tape"; None if it does not wait."""
        waits = self._waits
        return waits[-1] if waits else None

    @property
    def waited(self) -> float:
        """Seconds for which the copy has waited so far."""
        with _lock:
            return self._waited + (time.monotonic() - self._waits_since if self._waits else 0.0)

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Note that the copy waits for something during this block. Several threads may wait."""
        with _lock:
            if not self._waits:
                self._waits_since = time.monotonic()
            self._waits.append(what)
        try:
            self._tell()
            yield
        finally:
            with _lock:
                waited = self.waited
                self._waits.remove(what)
                self._waited, self._waits_since = waited, time.monotonic()
        self._tell()

    def _tell(self) -> None:
        if self.on_wait is not None:
            self.on_wait()

    @contextmanager
    def here(self) -> Iterator[None]:
        """Make this thread one of the copy's threads during this block."""
        before = current()
        try:
            _here.running = self
            yield
        finally:
            _here.running = before

    def stop(self, error: BaseException) -> None:
        """Make this copy fail soon. It raises this error, unless it has failed already.

        Called repeatedly until the copy has ended. While it is ending, this does nothing: a sink
        that is being aborted must not be cancelled.
        """
        with _lock:
            self._error = self._error or error
            fail, backends = self._fail, [] if self.is_ending else [*self._given]
        if fail is not None:
            fail(self._error)
            return
        for backend in backends:
            try:
                cancel(backend)
            except Exception:
                log.exception("a source or sink could not be cancelled")

    def end(self) -> None:
        """Release what this copy used, and close what was left to be closed at its end."""
        with _lock:
            for backend in (*self._given, *self._joined):
                if _users.get(id(backend)) is self:
                    del _users[id(backend)]
        self._ended.set()
        self._given, self._joined = [], []
        while self._closes:
            try:
                self._closes[0]()
            except Exception:
                log.exception("a source or sink could not be closed cleanly")
            self._closes.pop(0)

    def is_inside(self, other: Running | None) -> bool:
        """True if this copy is the other, or was started by a source, sink or callback of it."""
        inner: Running | None = self
        while inner is not None and inner is not other:
            inner = inner.outer
        return inner is not None

    def end_for(self, backend: object, doing: str, close: Callable[[], None]) -> bool:
        """See `end_copy`."""
        mine, error = current(), _ended_by(backend, doing)
        if mine is not None and mine.is_inside(self):
            if self.is_ending or not any(each is backend for each in self._given):
                return True  # the copy no longer uses it, or only the wrapper that closes it does
            self._closes.append(close)
            self.stop(error)
            return False
        while not self._ended.wait(CANCEL_AGAIN if self._error else 0):
            self.stop(error)
        return True


def current() -> Running | None:
    """The copy to which this thread belongs; None if it belongs to none."""
    running: Running | None = getattr(_here, "running", None)
    while running is not None and running.has_ended:
        running = running.outer
    return running


@contextmanager
def running(*backends: object, cancel: Cancel | None = None) -> Iterator[Running]:
    """Make this block, in this thread, a copy that uses these sources and sinks.

    Args:
        backends: The sources and sinks.
        cancel: What ends the copy, for its `check`; see `engine.ending.stopping`.

    Raises:
        UsageError: Another copy uses one of them.
    """
    copy = Running(cancel)
    try:
        try:
            with copy.here():
                copy.use(*backends)
                yield copy
        finally:
            copy.end()
    finally:
        copy.end()  # an interrupt may have come in the middle


def joins(backend: object) -> None:
    """Note that the copy of this thread, if any, uses a source or sink that another one wraps.

    Raises:
        UsageError: Another copy uses it.
    """
    copy = current()
    if copy is not None:
        copy.join(backend)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Note that the copy of this thread, if any, waits during this block.

    Args:
        what: What it waits for, "drive" or "tape".
    """
    copy = current()
    with nullcontext() if copy is None else copy.waiting(what):
        yield


def uses(*backends: object) -> None:
    """Note that the copy of this thread, if any, was given these sources and sinks.

    Raises:
        UsageError: Another copy uses one of them.
    """
    copy = current()
    if copy is not None:
        copy.use(*backends)


def end_copy(backend: object, doing: str, close: Callable[[], None]) -> bool:
    """End the copy that uses a source or sink, and wait for its end, before it is closed.

    Args:
        backend: The source or sink.
        doing: What is done to it, for the error: "closed" or "aborted".
        close: Closes it.

    Returns:
        True if the caller may close it now. False if this is a thread of the copy itself: the copy
        will call `close` at its end.
    """
    with _lock:
        copy = _users.get(id(backend))
    return copy is None or copy.end_for(backend, doing, close)


def _ended_by(backend: object, doing: str) -> ClosedError:
    name = threading.current_thread().name
    return ClosedError(
        f"the {type(backend).__name__} was {doing} during its copy, by thread {name}"
    )
