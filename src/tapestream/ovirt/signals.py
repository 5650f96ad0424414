"""SIGTERM as an exception, so that a program cleans up before it ends."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Raise SystemExit in the main thread when SIGTERM comes, as Ctrl-C raises KeyboardInterrupt.

        with exit_on_sigterm(), connect() as connection:
            back_up_vm(connection, "mail", "/backups")

    Without this, SIGTERM ends a program immediately, and the next run has to clean up. It can only
    be used in the main thread. A SIGTERM that is ignored stays ignored.
    """
    before = signal.getsignal(signal.SIGTERM)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _exit(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)  # as a shell reports it
