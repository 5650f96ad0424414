"""Runs the command line: the program `tapestream`, and `python -m tapestream`."""

from __future__ import annotations

import os
import signal
import sys


def run() -> int:
    """Run the command line with the arguments of this process, and return its exit status.

    A Ctrl-C that comes while modules are still loaded, or after the end of the command, ends the
    process: nothing has to be cleaned up then.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(128 + signal.SIGINT))
    from .cli.main import main  # noqa: PLC0415 - that takes most of the time until it runs

    return main()


if __name__ == "__main__":
    sys.exit(run())
