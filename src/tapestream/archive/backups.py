"""What an archive is made of: backups, wherever they are, and the chains that they form."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from .._readable import count_text, time_text
from .._shown import Shown, short_repr
from .._typing import override
from ..backend.protocols import Source
from ..cancel import Cancel
from ..model.info import BackupInfo, describe


class StoredBackup(Protocol):
    """A backup in an archive: a `FileBackup`, a `TapeBackup`, or a class of your own."""

    @property
    def info(self) -> BackupInfo:
        """What the backup says about itself."""

    @property
    def place(self) -> str:
        """Where it is, for people: a path, or a tape and its file."""

    @property
    def problem(self) -> str | None:
        """Why it is not complete; None if it is complete, as far as that can be seen quickly."""

    @property
    def identity(self) -> Hashable:
        """Equal for two entries that are the same file, or the same tape file."""

    def open(self, *, cancel: Cancel | None = None) -> Source:
        """Open it for `restore_chain`, `merge_chain` or `copy`. The caller closes the source.

        Raises:
            WrongBackupError: There is another backup now.
            TapestreamError: It cannot be read.
        """


def short_text(backup: StoredBackup) -> str:
    """Say in a few words which backup it is, and where."""
    state = f", not complete: {backup.problem}" if backup.problem else ""
    return f"{describe(backup.info)}, {backup.place}{state}"


@dataclass(frozen=True)
class Skipped:
    """A file that is not in the list of backups.

    Attributes:
        place: Its path.
        reason: Why.
    """

    place: str
    reason: str


@dataclass(frozen=True, repr=False)
class Chain(Shown):
    """The backups to restore for a point in time.

    Attributes:
        backups: One full backup, and the incremental ones after it, oldest first.
    """

    backups: tuple[StoredBackup, ...]

    @property
    def info(self) -> BackupInfo:
        """What the last backup says about itself: the disk is restored as it was then."""
        return self.backups[-1].info

    @override
    def _in_short(self) -> str:
        return f"{count_text(len(self.backups), 'backup')} to restore {describe(self.info)}"

    @contextmanager
    def open(self, *, cancel: Cancel | None = None) -> Iterator[list[Source]]:
        """Open all backups, oldest first, for `restore_chain` or `merge_chain`.

            with chain.open() as sources:
                restore_chain(sources, sink)

        Args:
            cancel: Ends the opening. To end the copy, pass it to `restore_chain`, too.

        Raises:
            WrongBackupError: There is another backup in one of the places now.
            TapestreamError: One of them cannot be read.
        """
        with ExitStack() as stack:
            yield [stack.enter_context(backup.open(cancel=cancel)) for backup in self.backups]


@dataclass(frozen=True, repr=False)
class RestorePoint:
    """A state of a disk that was backed up.

    Attributes:
        info: What the backup of it says about itself.
        time: When it was taken. If the clock says that it is older than a backup in its chain, the
            time of that one. None if it does not say.
        chain: What to restore for it; None if that is not possible.
        problem: Why it cannot be restored: what is missing, damaged or aborted. None if it can be.
    """

    info: BackupInfo
    time: datetime | None
    chain: Chain | None
    problem: str | None = None

    def __repr__(self) -> str:
        can = self.problem or f"a chain of {len(self.chain.backups) if self.chain else 0}"
        return short_repr(self, f"{time_text(self.time)}, {can}")

    @property
    def checkpoint_id(self) -> str | None:
        """The checkpoint from which the next incremental backup can start."""
        return self.info.checkpoint_id
