"""What every command is given besides its arguments."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import tapestream

from .output import Output
from .signals import Signals


@dataclass(frozen=True)
class Context:
    """What every command is given.

    Attributes:
        out: Where everything is shown.
        cancel: Cancelled by Ctrl-C, SIGTERM and SIGHUP: pass it on to whatever takes time.
        signals: What cancels it.
        drives: Tape drives by the paths that stand for them in arguments; see `main`.
    """

    out: Output
    cancel: tapestream.Cancel
    signals: Signals
    drives: Mapping[str, tapestream.tape.TapeDrive] = field(default_factory=dict)

    def drive(self, path: str) -> tapestream.tape.TapeDrive:
        """The tape drive with this path."""
        return self.drives.get(path) or tapestream.tape.TapeDrive(path)

    def place(self, path: str) -> str | tapestream.tape.TapeDrive:
        """What a tar stream takes as its place: the path, unless that stands for a drive."""
        return self.drives.get(path, path)

    def interruptible(self) -> AbstractContextManager[None]:
        """Let a signal raise KeyboardInterrupt in this block: nothing in it heeds `cancel`."""
        return self.signals.raising()
