"""What every command is given besides its arguments."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import tapestream

from .drives import Drives
from .output import Output
from .signals import Signals


@dataclass(frozen=True)
class Context:
    """What every command is given.

    Attributes:
        out: Where everything is shown.
        cancel: Cancelled by Ctrl-C, SIGTERM and SIGHUP: pass it on to whatever takes time.
        signals: What cancels it.
        drives: The tape drives that the arguments name.
    """

    out: Output
    cancel: tapestream.Cancel
    signals: Signals
    drives: Drives

    def interruptible(self) -> AbstractContextManager[None]:
        """Let a signal raise KeyboardInterrupt in this block: nothing in it heeds `cancel`."""
        return self.signals.raising()
