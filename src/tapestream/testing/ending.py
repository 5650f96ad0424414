"""Ends what a test has started, also if the program ends by an exception before it is stopped."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from contextlib import ExitStack


def stop_at_exit(stop: Callable[[], object], cleanup: ExitStack) -> None:
    """Call a function when the program ends, unless `cleanup` has run by then.

    A child made by `os.fork` does not call it: what was started is its parent's.
    """
    pid = os.getpid()

    def stop_ours() -> None:
        if os.getpid() == pid:
            stop()

    atexit.register(stop_ours)
    cleanup.callback(atexit.unregister, stop_ours)
