"""Shows what the library logs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from .._typing import override
from .output import Output

_TEXTS = logging.Formatter()


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

    @override
    def emit(self, record: logging.LogRecord) -> None:
        show = self._out.warning if record.levelno >= logging.WARNING else self._out.note
        error = _TEXTS.formatException(record.exc_info) if record.exc_info else ""
        show(record.getMessage(), *error.splitlines())
