"""The exit statuses of all commands, in one table."""

from __future__ import annotations

import errno
from enum import IntEnum

import tapestream


class Status(IntEnum):
    """The exit status of a command. `MEANINGS` says when each is used."""

    GOOD = 0
    FAILED = 1
    NOT_A_BACKUP = 2
    USAGE = 64  # EX_USAGE of sysexits.h; argparse's 2 means that something is not a backup
    HANGUP = 129
    INTERRUPTED = 130
    PIPE_CLOSED = 141
    TERMINATED = 143


MEANINGS = {
    Status.GOOD: "done; for verify: every backup is good; for compare: equal",
    Status.FAILED: "failed; for verify: damaged or incomplete; for compare: different",
    Status.NOT_A_BACKUP: "what should be a backup is something else",
    Status.USAGE: "an argument cannot work: nothing was touched",
    Status.HANGUP: "ended by SIGHUP: the terminal was closed",
    Status.INTERRUPTED: "ended by Ctrl-C (SIGINT)",
    Status.PIPE_CLOSED: "the program that read the output has ended, such as head",
    Status.TERMINATED: "ended by SIGTERM",
}


def status_of(error: BaseException) -> Status:
    """The exit status for an error."""
    if isinstance(error, tapestream.errors.UsageError):
        return Status.USAGE
    if isinstance(error, tapestream.errors.ForeignStreamError):
        return Status.NOT_A_BACKUP
    if isinstance(error, tapestream.errors.LocalIOError) and error.errno == errno.EPIPE:
        return Status.PIPE_CLOSED
    return Status.FAILED
