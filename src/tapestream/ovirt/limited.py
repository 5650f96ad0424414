"""Requests that take long: whoever looks on is told, and logins and logouts get a time limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from threading import Thread, Timer

from .._log import Log

log = Log("tapestream.ovirt")
# Seconds without an answer after which a warning says what is waited for.
_LONG = 5
_WAITING = "%s does not answer: waiting for up to %d more seconds"
# Seconds that an engine which works needs at most: a login that succeeds is then known, and ended.
_GRACE = 1


@contextmanager
def watched(what: str, seconds: float, after: float = _LONG) -> Iterator[None]:
    """Log a warning if a request, made in this block, is not answered soon.

    Args:
        what: Whom the request is made to, and for what.
        seconds: Its time limit.
        after: How soon, in seconds.
    """
    if seconds <= after:
        yield
        return
    timer = Timer(after, log.warning, (_WAITING, what, seconds - after))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def within(seconds: float, what: str, ask: Callable[[], object]) -> None:
    """Make a request in a thread of its own, and wait for it for up to some seconds.

    A Ctrl-C ends the wait: libcurl, in which the request blocks, would not notice it.

    Args:
        seconds: The time limit.
        what: Whom the request is made to, such as "the engine https://engine.example.com".
        ask: The request.

    Raises:
        TimeoutError: There was no answer. The request may still be carried out.
    """
    ended: SimpleQueue[BaseException | None] = SimpleQueue()

    def work() -> None:
        try:
            ask()
        except BaseException as e:  # noqa: BLE001 - it is raised in the thread that waits
            ended.put(e)
        else:
            ended.put(None)

    Thread(target=work, name="tapestream-login", daemon=True).start()
    try:
        error = _answer(ended, seconds, what)
    except BaseException:
        with suppress(Empty):
            ended.get(timeout=_GRACE)
        raise
    if error is not None:
        raise error


def _answer(
    ended: SimpleQueue[BaseException | None], seconds: float, what: str
) -> BaseException | None:
    first = min(seconds, _LONG)
    with suppress(Empty):
        return ended.get(timeout=first)
    left = seconds - first
    if left > 0:
        log.warning(_WAITING, what, left)
        with suppress(Empty):
            return ended.get(timeout=left)
    raise TimeoutError(f"{what} has not answered for {seconds} seconds")
