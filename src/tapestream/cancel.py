"""Cancel: ends copies and other long operations, from any thread or signal handler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ._log import Log
from ._process import OfThisProcess
from ._shown import short_repr
from .errors import OperationCancelledError, TapestreamError, UsageError

log = Log("tapestream.cancel")


class Cancel(OfThisProcess):
    """Ends the operations to which it was passed as `cancel=`.

    Any thread may use it, and so may a signal handler. Several operations may share it: all of them
    end. It cannot be reset: after a cancel, create a new one. It cannot be pickled: a copy of it in
    another process would end nothing.
    """

    # There is no lock: a signal handler may interrupt the thread that would hold it, in any of
    # these methods. Each step is one operation on a list or a dict. No other thread and no signal
    # handler can interrupt that.

    def __init__(self) -> None:
        """Make one that is not cancelled."""
        self._reasons: list[str] = []
        self._calls: dict[object, Callable[[], object]] = {}

    def __repr__(self) -> str:
        reason = f", {self.reason}" if self.reason else ""
        return short_repr(self, f"cancelled{reason}" if self.cancelled else "not cancelled")

    def cancel(self, reason: str = "") -> None:
        """End all operations that use this, and those that are started with it later.

        This returns immediately: the operations end in their own threads, within about a second. If
        it is called again, the first reason stays. An operation that has ended is not affected.

        Args:
            reason: Why, for the reader of the error.
        """
        self._reasons.append(str(reason))
        for key in list(self._calls):
            self._call(key)

    @property
    def cancelled(self) -> bool:
        """True after `cancel` was called."""
        return bool(self._reasons)

    @property
    def reason(self) -> str | None:
        """The reason passed to the first `cancel`; None if there was no cancel yet."""
        return self._reasons[0] if self._reasons else None

    def check(self) -> None:
        """Raise if this was cancelled.

        Raises:
            OperationCancelledError: It was cancelled.
        """
        if self._reasons:
            raise OperationCancelledError(self._reasons[0])

    @contextmanager
    def calling(self, call: Callable[[], object]) -> Iterator[None]:
        """Call a function if this is cancelled during the block, so that what blocks there ends.

        The function is called once, in the thread that cancels, or immediately if this was
        cancelled before. It may still be running in that thread when the block ends. If it raises
        an error, that is logged. The block continues: call `check` at its end.

        The thread that cancels may be in a signal handler, which can interrupt any line of the
        program. So the function must not wait for a lock: `socket.shutdown` and the `put` of a
        `queue.SimpleQueue` are safe; `threading.Event.set` can wait forever.

        Args:
            call: The function; what it returns is ignored.
        """
        key = object()
        try:
            self._calls[key] = call
            if self._reasons:
                self._call(key)
            yield
        finally:
            self._calls.pop(key, None)

    def _call(self, key: object) -> None:
        """Call a function, unless another thread or a signal handler has taken it."""
        call = self._calls.pop(key, None)
        if call is None:
            return
        try:
            call()
        except Exception:
            log.exception("a function that a cancel called has failed")


@contextmanager
def ended_by(cancel: Cancel | None, call: Callable[[], object]) -> Iterator[None]:
    """Let a `Cancel`, if there is one, end this block.

    Args:
        cancel: The `Cancel`, or None.
        call: Makes a call that blocks in the block fail. A signal handler may call it.

    Raises:
        UsageError: `cancel` is neither a `Cancel` nor None.
        OperationCancelledError: It was cancelled before or during the block.
    """
    check_cancel(cancel)
    if cancel is None:
        yield
        return
    cancel.check()
    with cancel.calling(call):
        try:
            yield
        except TapestreamError:
            cancel.check()
            raise
    cancel.check()  # only here: until now, a cancel may have made the result of the block useless


def check_cancel(cancel: object) -> None:
    """Make sure that a value is a `Cancel` or None.

    Raises:
        UsageError: It is neither a `Cancel` nor None.
    """
    if cancel is not None and not isinstance(cancel, Cancel):
        raise UsageError(f"cancel must be a Cancel or None, not {cancel!r}")
