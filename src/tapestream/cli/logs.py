"""Shows what the library logs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from .._typing import override
from .hints import in_our_words
from .output import Output

_TEXTS = logging.Formatter()
# Seconds within which the same text is not shown again: all connections of a copy fail together.
_SAME = 5.0


@contextmanager
def logging_to(out: Output, *, verbose: bool) -> Iterator[None]:
    """Show warnings of the library, and with `verbose` everything it logs, in this block."""
    handler = _Handler(out)
    logger = logging.getLogger("tapestream")
    logger.addHandler(handler)
    before = logger.level
    logger.setLevel(logging.DEBUG if verbose else logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)


class _Handler(logging.Handler):
    def __init__(self, out: Output) -> None:
        super().__init__()
        self._out = out
        self._last = ""
        self._shown = 0.0

    @override
    def emit(self, record: logging.LogRecord) -> None:
        text = in_our_words(record.getMessage())
        if text == self._last and record.created - self._shown < _SAME:
            return
        self._last, self._shown = text, record.created
        show = self._out.warning if record.levelno >= logging.WARNING else self._out.note
        error = _TEXTS.formatException(record.exc_info) if record.exc_info else ""
        show(text, *error.splitlines())
