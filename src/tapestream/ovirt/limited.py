"""A time limit for requests to which the SDK gives none: to log in, and to log out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread

from .._log import Log

log = Log("tapestream.ovirt")
# Seconds without an answer after which somebody who looks on is told what is waited for.
_LONG = 10
# Seconds that an engine which works needs at most: a login that succeeds is then known, and ended.
_GRACE = 1


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
        log.warning("%s does not answer: waiting for up to %d more seconds", what, left)
        with suppress(Empty):
            return ended.get(timeout=left)
    raise TimeoutError(f"{what} has not answered for {seconds} seconds")
