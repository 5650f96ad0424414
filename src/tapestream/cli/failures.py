"""How a command ends: its exit status after an error or a signal."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress

import tapestream

from .output import Output
from .signals import Signals
from .status import Status, status_of


def exit_status(run: Callable[[], Status], out: Output, signals: Signals, *, verbose: bool) -> int:
    """Run a command, show its error, and return its exit status."""
    try:
        try:
            status = run()
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - each has its status
            status = _failed(error, out, signals, verbose=verbose)
    except BrokenPipeError:
        # Python would try again at the end, and complain.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Status.PIPE_CLOSED
    return status


def _failed(error: BaseException, out: Output, signals: Signals, *, verbose: bool) -> Status:
    ended = isinstance(error, (KeyboardInterrupt, tapestream.OperationCancelledError))
    status = status_of(error)
    if ended and signals.number is not None:
        status = Status(128 + signals.number)
    elif isinstance(error, KeyboardInterrupt):
        status = Status.INTERRUPTED
    if verbose or not (ended or isinstance(error, tapestream.TapestreamError)):
        traceback.print_exception(error, file=sys.stderr)
    if ended:
        out.error(tapestream.TapestreamError(f"ended by {status.name}"), status)
    else:
        out.error(error, status)
    return status
