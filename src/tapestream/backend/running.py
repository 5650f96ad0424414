"""The copies that run, and what each of them uses. Closing that ends its copy first.

A descriptor that is closed under a thread of a copy is dangerous: the next file that the program
opens gets its number, and that thread would write or read it instead.

    close() from another thread        ends the copy, waits for its end, then closes
    close() from a thread of the copy  ends the copy, which closes it at its end
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..errors import ClosedError, UsageError
from .abilities import cancel

log = logging.getLogger("tapestream.copy")

# Whoever waits for the end of a copy cancels it again this often, in seconds: a call that began to
# block after it was cancelled would block on.
CANCEL_AGAIN = 0.2

# Protects the two below. A signal handler may run in the middle, in the same thread.
_lock = threading.RLock()
_users: dict[int, Running] = {}
_here = threading.local()


class Running:
    """A copy that runs.

    Attributes:
        is_ending: Its threads have ended: what closes its sink from now on is the copy itself.
        outer: The copy whose source, sink or callback makes this one; None for others.
    """

    def __init__(self) -> None:
        self.is_ending = False
        self._given: list[object] = []
        self._joined: list[object] = []
        self._error: BaseException | None = None
        self._fail: Callable[[BaseException], None] | None = None
        self._closes: list[Callable[[], None]] = []
        self._ended = threading.Event()
        self.outer = current()

    def use(self, *parties: object) -> None:
        """Count sources and sinks among those that this copy was given.

        Raises:
            UsageError: Another copy uses one of them.
        """
        with _lock:
            for party in parties:
                self._take(party, self._given)

    def join(self, party: object) -> None:
        """Count a source or sink that another one wraps among what this copy uses.

        Raises:
            UsageError: Another copy uses it.
        """
        with _lock:
            if id(party) not in _users or _users[id(party)] is not self:
                self._take(party, self._joined)

    def _take(self, party: object, parties: list[object]) -> None:
        user = _users.get(id(party))
        if user not in (None, self) and not self.is_inside(user):
            raise UsageError(
                f"another copy uses this {type(party).__name__} now",
                hint="Wait until it ends, or open a source or sink of its own for each copy.",
            )
        parties.append(party)
        _users.setdefault(id(party), self)

    @property
    def has_ended(self) -> bool:
        """True when it uses nothing any more."""
        return self._ended.is_set()

    def check(self) -> None:
        """Raise why this copy was ended, if it was."""
        if self._error is not None:
            raise self._error

    @contextmanager
    def failing(self, fail: Callable[[BaseException], None]) -> Iterator[None]:
        """If this copy must end, let `fail` end what is done in this block."""
        try:
            with _lock:
                self._fail = fail
                self.check()
            yield
        finally:
            self._fail = None

    @contextmanager
    def here(self) -> Iterator[None]:
        """Make this thread one of the copy, in this block."""
        before = current()
        try:
            _here.running = self
            yield
        finally:
            _here.running = before

    def stop(self, error: BaseException) -> None:
        """End this copy with an error, unless it has one already: it fails soon."""
        with _lock:
            self._error = self._error or error
            fail, parties = self._fail, [*self._given]
        if fail is not None:
            fail(self._error)
            return
        for party in parties:
            try:
                cancel(party)
            except Exception:
                log.exception("a source or sink could not be cancelled")

    def end(self) -> None:
        """Let others use what this copy has used, and close what was to be closed at its end."""
        with _lock:
            for party in (*self._given, *self._joined):
                if _users.get(id(party)) is self:
                    del _users[id(party)]
        self._ended.set()
        self._given, self._joined = [], []
        while self._closes:
            try:
                self._closes[0]()
            except Exception:
                log.exception("a source or sink could not be closed cleanly")
            self._closes.pop(0)

    def is_inside(self, other: Running | None) -> bool:
        """True when this copy is the other, or made by a source, a sink or a callback of it."""
        inner: Running | None = self
        while inner is not None and inner is not other:
            inner = inner.outer
        return inner is not None

    def end_for(self, party: object, doing: str, close: Callable[[], None]) -> bool:
        """See `end_copy`."""
        mine = current()
        if mine is not None and mine.is_inside(self):
            if self.is_ending or not any(each is party for each in self._given):
                return True  # it is done with it, or whoever wraps it is
            self._closes.append(close)
            self.stop(_ended_by(party, doing))
            return False
        error = _ended_by(party, doing)
        while not self._ended.wait(CANCEL_AGAIN if self._error else 0):
            self.stop(error)
        return True


def current() -> Running | None:
    """The copy to which this thread belongs; None for others."""
    running: Running | None = getattr(_here, "running", None)
    while running is not None and running.has_ended:
        running = running.outer
    return running


@contextmanager
def running(*parties: object) -> Iterator[Running]:
    """Run a copy in this block, and in this thread, that uses these sources and sinks.

    Raises:
        UsageError: Another copy uses one of them.
    """
    copy = Running()
    try:
        try:
            with copy.here():
                copy.use(*parties)
                yield copy
        finally:
            copy.end()
    finally:
        copy.end()  # an interrupt may have come in the middle


def joins(party: object) -> None:
    """Note that the copy of this thread, if there is one, uses a source or sink.

    Raises:
        UsageError: Another copy uses it.
    """
    copy = current()
    if copy is not None:
        copy.join(party)


def uses(*parties: object) -> None:
    """Count sources and sinks among those that the copy of this thread was given.

    Raises:
        UsageError: Another copy uses one of them.
    """
    copy = current()
    if copy is not None:
        copy.use(*parties)


def end_copy(party: object, doing: str, close: Callable[[], None]) -> bool:
    """End the copy that uses a source or sink, before it is closed, and wait for its end.

    Args:
        party: The source or sink.
        doing: What is done to it: "closed".
        close: Closes it.

    Returns:
        False when this is a thread of the copy itself: the copy will call `close` when it has
        ended.
    """
    with _lock:
        copy = _users.get(id(party))
    return copy is None or copy.end_for(party, doing, close)


def _ended_by(party: object, doing: str) -> ClosedError:
    name = threading.current_thread().name
    return ClosedError(f"the {type(party).__name__} was {doing} during its copy, by thread {name}")
