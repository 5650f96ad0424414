"""Logs messages with `logging`, which is not imported for them: that takes 8 ms.

A program that has not imported it has set up no logging, so nobody would see a message.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ._lazy import leave_logging_to_the_program

if TYPE_CHECKING:
    import logging


class Log:
    """Passes messages on to a logger of the same name.

    Args:
        name: The logger's name.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def debug(self, message: str, *args: object) -> None:
        """See `logging.Logger.debug`."""
        if logger := self._logger():
            logger.debug(message, *args, stacklevel=2)

    def info(self, message: str, *args: object) -> None:
        """See `logging.Logger.info`."""
        if logger := self._logger():
            logger.info(message, *args, stacklevel=2)

    def warning(self, message: str, *args: object) -> None:
        """See `logging.Logger.warning`."""
        if logger := self._logger():
            logger.warning(message, *args, stacklevel=2)

    def exception(self, message: str, *args: object) -> None:
        """See `logging.Logger.exception`: logs the exception that is being handled, too."""
        if logger := self._logger():
            # Python 3.10 would count a frame more in Logger.exception.
            logger.error(message, *args, exc_info=True, stacklevel=2)

    def _logger(self) -> logging.Logger | None:
        """The logger; None if the program has not imported `logging`."""
        if "logging" not in sys.modules:
            return None
        import logging  # noqa: PLC0415 - and waits if another thread has only begun to import it

        leave_logging_to_the_program()
        return logging.getLogger(self._name)
