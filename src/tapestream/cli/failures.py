"""How a command ends: its exit status after an error or a signal."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from signal import SIGINT

import tapestream

from .output import ForPeople, Output, write_line
from .signals import Signals
from .status import Status, status_of
from .tables import printable


def exit_status(run: Callable[[], Status], out: Output, signals: Signals, *, verbose: bool) -> int:
    """Run a command, show its error, and return its exit status."""
    try:
        try:
            status = run()
        except BrokenPipeError:
            raise
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - each has its status
            status = _failed(error, out, signals, verbose=verbose)
    except tapestream.errors.LocalIOError as e:  # not even the error could be shown there
        ForPeople(quiet=True).error(e, Status.FAILED)
        status = Status.FAILED
    except BrokenPipeError:
        status = Status.PIPE_CLOSED
    _drop_rest()
    return status


def _drop_rest() -> None:
    """Drop what could not be written: Python would try again at the end, and complain."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _failed(error: BaseException, out: Output, signals: Signals, *, verbose: bool) -> Status:
    if isinstance(error, KeyboardInterrupt):
        error = tapestream.OperationCancelledError((signals.number or SIGINT).name)
    if isinstance(error, tapestream.OperationCancelledError):
        status = Status(128 + (signals.number or SIGINT))
    else:
        status = status_of(error)
    if verbose or not isinstance(error, tapestream.TapestreamError):
        lines = "".join(traceback.format_exception(error)).splitlines()
        write_line("\n".join(map(printable, lines)), sys.stderr)
    out.error(error, status)
    return status
