"""Who may use a drive: a fair lock, and the lease that gives the right to use the drive.

A stream opens a tape file in one thread, reads it in another and is closed in a third one. So a
drive is leased to an object, not to a thread: whoever holds the `Lease` may use the drive.
"""

from __future__ import annotations

import threading
import warnings
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, Generic, Protocol, TypeVar

from .._typing import Self
from ..cancel import Cancel, check_cancel
from ..errors import TapeError, UsageError

# Seconds between two checks whether a wait was cancelled.
WAKE_UP = 0.2


class _Claim:
    """A place in the queue of a lock.

    Attributes:
        granted: Set when the lock is given to this claim.
        made_by: The thread that made the lease. It also closes the object that has the lease.
        used_by: The thread that uses the lease.
    """

    def __init__(self) -> None:
        self.granted = threading.Event()
        self.made_by = self.used_by = threading.current_thread()

    def is_of(self, thread: threading.Thread) -> bool:
        """True if the thread would wait for itself when it waits for the end of this claim."""
        return self.used_by is thread or (self.made_by is thread and not self.used_by.is_alive())


class FairLock:
    """A lock that is given to one `Lease` after another, in the order of their requests.

    Every step can be repeated after an interrupt, and then completes what was begun.

    Args:
        name: What is locked, for errors.
        on_release: Called with the drive at the end of every lease, before the next one begins.
    """

    def __init__(self, name: str, on_release: Callable[[Any], object] | None = None) -> None:
        self.name = name
        self.on_release = on_release
        self._mutex = threading.Lock()
        self._waiting: deque[_Claim] = deque()
        self._holder: _Claim | None = None

    @property
    def is_mine(self) -> bool:
        """True if this thread would wait for itself when it waits for the lock."""
        holder = self._holder
        return holder is not None and holder.is_of(threading.current_thread())

    def is_held_by(self, claim: _Claim) -> bool:
        """True while the lock is given to this claim."""
        return self._holder is claim

    def enter(self, claim: _Claim) -> None:
        """Queue for the lock.

        Raises:
            UsageError: This thread would wait for itself.
        """
        with self._mutex:
            if self.is_mine:
                raise UsageError(f"this thread uses {self.name} already: close that first")
            self._waiting.append(claim)
            self._give_to_next()

    def leave(self, claim: _Claim) -> None:
        """Give the lock back, or leave the queue; do nothing for a claim that did so before."""
        with self._mutex:
            if claim in self._waiting:
                self._waiting.remove(claim)
            if self._holder is claim:
                self._holder = None
            self._give_to_next()

    def _give_to_next(self) -> None:
        if self._holder is None and self._waiting:
            self._holder = self._waiting[0]
            self._waiting.popleft()
            self._holder.granted.set()


class Leased(Protocol):
    """Anything that can be leased, such as a `TapeDrive`."""

    @property
    def lock(self) -> FairLock:
        """The lock that its leases wait for."""
        ...


_D = TypeVar("_D", bound=Leased)


class Lease(Generic[_D]):
    """The right to use a drive, for whoever holds this object, in any thread.

    The drive is leased during a `with` block, or from `acquire` to `release`.

    Args:
        drive: The drive to lease.
        cancel: Ends a wait for the drive.

    Attributes:
        drive: The drive to lease. A stream that continues in another drive moves its lease there.
        is_cancelled: True to make a wait fail. Another thread, or a signal handler, may set it.
    """

    def __init__(self, drive: _D, cancel: Cancel | None = None) -> None:
        check_cancel(cancel)
        self.drive = drive
        self.is_cancelled = False
        self._cancel = cancel
        self._claim = _Claim()

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    def __del__(self) -> None:
        with suppress(AttributeError):  # its constructor was interrupted
            if self.is_held:
                name = self.drive.lock.name
                warnings.warn(f"{name} is still in use", ResourceWarning, 1, self)
            self.release()

    @property
    def is_held(self) -> bool:
        """True between `acquire` and `release`."""
        return self.drive.lock.is_held_by(self._claim)

    def acquire(self, waiting: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        """Wait until nobody else has the drive, first come, first served.

        Returns immediately if this lease has the drive already. After this, the calling thread may
        scan the drive under this lease.

        Args:
            waiting: Makes the context for a wait, if there is one.

        Raises:
            UsageError: This thread uses the drive under another lease: it would wait for itself.
            TapeError: The wait was cancelled by `is_cancelled`.
            OperationCancelledError: It was cancelled by the argument `cancel`.
        """
        lock, claim = self.drive.lock, self._claim
        claim.used_by = threading.current_thread()
        if not self.is_held:
            claim.granted.clear()
            try:
                lock.enter(claim)
                if not self.is_held:
                    with waiting():
                        self._wait()
            except BaseException:  # KeyboardInterrupt, too
                self.release()
                raise

    def _wait(self) -> None:
        while not self.is_held:
            self._claim.granted.wait(WAKE_UP)
            self.check_cancelled()

    def check_cancelled(self) -> None:
        """Raise if a wait must end.

        Raises:
            TapeError: It was cancelled by `is_cancelled`.
            OperationCancelledError: It was cancelled by the argument `cancel`.
        """
        if self._cancel is not None:
            self._cancel.check()
        if self.is_cancelled:
            raise TapeError(f"the wait for {self.drive.lock.name} was cancelled")

    @property
    def has_cancel(self) -> bool:
        """True if it has a `Cancel`."""
        return self._cancel is not None

    @property
    def must_end(self) -> bool:
        """True if a wait must end: then `check_cancelled` raises."""
        return self.is_cancelled or (self._cancel is not None and self._cancel.cancelled)

    def let_use(self, thread: threading.Thread) -> None:
        """Let a thread use the drive under this lease, until another one calls `acquire`."""
        self._claim.used_by = thread

    def hand_over(self) -> Lease[_D]:
        """Pass the drive on to a new lease, without releasing it. This one then holds nothing."""
        other = Lease(self.drive)
        other._claim, self._claim = self._claim, other._claim
        return other

    def move(self, drive: _D) -> None:
        """Give the drive back and wait for another one; do nothing if it is the same drive."""
        if drive is not self.drive:
            self.release()
            self.drive = drive
            self.acquire()

    def release(self) -> None:
        """Give the drive to the lease that has waited longest; do nothing if it is not leased."""
        lock = self.drive.lock
        try:
            if self.is_held and lock.on_release is not None:
                lock.on_release(self.drive)
        finally:
            try:
                lock.leave(self._claim)
            finally:  # again, because an interrupt may have come before `leave` was done
                lock.leave(self._claim)
