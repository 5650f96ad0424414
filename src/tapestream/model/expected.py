"""Checks that the backup in a stream is the one that an index says is there.

An index is a catalog, a list from `TapeDrive.find`, or what the caller remembers. It does not
notice when a tape is relabelled, rewritten or exchanged. So before anything is written to the
target, the stream is compared with the index by which it was opened.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from ..errors import UsageError, WrongBackupError
from .info import IDS, BackupInfo, describe


@dataclass(frozen=True)
class Expected:
    """The backup that must be found.

    Attributes:
        info: What the backup must say about itself: every id, the time and the size, as far as they
            are given here.
        set_id: The set id that its volumes must have; None if that is not known.
        file: The number of its tape file; None if it is not on tape, or the file is not known.
        label: The label of its tape, for people.
        whole_info: True if an id that is None in `info` must be None in the backup, too: an index
            lists all ids of a backup.
    """

    info: BackupInfo
    set_id: str | None = field(default=None, repr=False)
    file: int | None = None
    label: str | None = None
    whole_info: bool = field(default=False, repr=False)

    def check(self, found: BackupInfo, set_id: str | None, place: str) -> None:
        """Compare the expected backup with the one that was found.

        Args:
            found: What the found backup says about itself.
            set_id: The set id of its volumes.
            place: Where it was found, for the error.

        Raises:
            WrongBackupError: It is another backup.
        """
        differing = [name for name in IDS if self._differs(name, found)]
        if self.info.created is not None and found.created != self.info.created:
            differing.append("created")
        if self.info.size and found.size != self.info.size:
            differing.append("size")
        if self.set_id is not None and set_id != self.set_id:
            differing.append("set_id")
        if differing:
            verb = "differs" if len(differing) == 1 else "differ"
            raise self.error(place, f"{describe(found)} ({', '.join(differing)} {verb})")

    def error(self, place: str, found: str) -> WrongBackupError:
        """The error to raise if something else was found.

        Args:
            place: Where it was found.
            found: What was found, in words.
        """
        tape = f", which should be in file {self.file}" if self.file is not None else ""
        label = f" of tape {self.label}" if tape and self.label else ""
        return WrongBackupError(f"{place}: found {found}, not {describe(self.info)}{tape}{label}")

    def _differs(self, name: str, found: BackupInfo) -> bool:
        wanted = getattr(self.info, name)
        return (self.whole_info or wanted is not None) and getattr(found, name) != wanted


class IndexEntry(Protocol):
    """A backup in an index: a `TapeEntry`, a `CatalogBackup` or a `TapeReport`."""

    @property
    def expected(self) -> Expected:
        """What must be found at the place that the entry names."""


def expected_of(expect: BackupInfo | IndexEntry) -> Expected:
    """What a caller expects, from a `BackupInfo` or an entry of an index.

    Raises:
        UsageError: It is neither, or has no id.
    """
    if not isinstance(expect, BackupInfo):
        found = getattr(expect, "expected", None)
        if not isinstance(found, Expected):
            raise UsageError(
                f"expect must be a BackupInfo or an entry of an index, not {type(expect).__name__}",
                hint="Pass what Catalog.find or TapeDrive.find gave.",
            )
        return found
    if expect.created is None and all(getattr(expect, name) is None for name in IDS):
        raise UsageError(
            "expect has no id to compare the backup with",
            hint="Give it a disk_id and a checkpoint_id, or a backup_id.",
        )
    return Expected(expect)
