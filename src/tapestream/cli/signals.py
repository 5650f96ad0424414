"""Ctrl-C, SIGTERM and SIGHUP cancel what runs, so that it can clean up."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import tapestream

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """The first signal cancels, and a second one raises KeyboardInterrupt.

    Args:
        cancel: What is cancelled.
        notice: Written to standard error after the first signal; None for nothing.

    Attributes:
        number: The first signal that came; None before.
    """

    def __init__(self, cancel: tapestream.Cancel, notice: str | None) -> None:
        self.number: signal.Signals | None = None
        self._cancel = cancel
        self._notice = notice
        self._raises = False

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Catch the signals in this block, except those that are ignored, as by nohup."""
        before: dict[signal.Signals, Any] = {}
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, self._handle)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Raise KeyboardInterrupt at the first signal that comes in this block, or came before."""
        before, self._raises = self._raises, True
        try:
            if self.number is not None:
                raise KeyboardInterrupt
            yield
        finally:
            self._raises = before

    def _handle(self, number: int, _: FrameType | None) -> None:
        is_first = self.number is None
        if is_first:
            self.number = signal.Signals(number)
            self._cancel.cancel(self.number.name)
        if self._raises or not is_first:
            raise KeyboardInterrupt
        if self._notice is not None:
            with suppress(OSError):  # a file object may be in use by the code that is interrupted
                os.write(2, self._notice.encode())
