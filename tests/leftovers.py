"""What work in this process left open: it is asked of the system, not of tapestream."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import time
from collections.abc import Collection

# After so many seconds a thread that should end is taken for one that never will.
PATIENCE = 10.0


def open_files() -> set[str]:
    """The descriptors of this process, and what each is."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that this list was read from
            found.add(f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}")
    return found


def threads(begin: str = "", before: Collection[threading.Thread] = ()) -> list[str]:
    """The names of all other threads that begin so, and do not end soon; not of those before."""
    until = time.monotonic() + PATIENCE
    while left := [
        thread.name
        for thread in threading.enumerate()
        if thread is not threading.main_thread() and thread.name.startswith(begin)
        if thread not in before
    ]:
        if time.monotonic() > until:
            break
        time.sleep(0.005)
    return left


def left_over(before: set[str], begin: str = "") -> str | None:
    """What was left, in words; None for nothing.

    Args:
        before: What was open before.
        begin: Only threads whose names begin so count.
    """
    gc.collect()
    if left := threads(begin):
        return f"threads are left: {left}"
    if more := open_files() - before:
        return f"descriptors are left: {sorted(more)}"
    return None
