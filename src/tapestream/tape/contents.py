"""What is on a tape, and what is in a catalog, as values that stay when the tape is gone."""

from __future__ import annotations

from dataclasses import dataclass

from .._readable import count_text
from .._shown import Shown
from .._typing import override
from .backups import CatalogBackup
from .scan import TapeEntry


@dataclass(frozen=True, repr=False)
class TapeContents(Shown):
    """What was on a tape when it was scanned.

    Attributes:
        entries: All tape files, in order.
    """

    entries: tuple[TapeEntry, ...]

    @property
    def label(self) -> str | None:
        """The name of the tape; None if it has no label."""
        return self.entries[0].label if self.entries else None

    @property
    def backups(self) -> tuple[TapeEntry, ...]:
        """The tape files that are backups, or volumes of backups."""
        return tuple(entry for entry in self.entries if entry.info is not None)

    @override
    def _in_short(self) -> str:
        tape = f"tape {self.label}" if self.label else "a tape without a label"
        backups = count_text(len(self.backups), "backup")
        return f"{tape}, {count_text(len(self.entries), 'file')}, {backups}"


@dataclass(frozen=True, repr=False)
class CatalogContents(Shown):
    """What a catalog knew when it was asked.

    Attributes:
        tapes: The labels of all tapes, sorted.
        backups: All backups, newest first, also those that are not known to be complete.
    """

    tapes: tuple[str, ...]
    backups: tuple[CatalogBackup, ...]

    @override
    def _in_short(self) -> str:
        return f"{count_text(len(self.tapes), 'tape')}, {count_text(len(self.backups), 'backup')}"
