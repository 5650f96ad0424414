"""The catalog: which tape holds what. A convenience: everything in it is also on the tapes."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..closing import Closing
from ..errors import LocalIOError, UsageError
from ..expected import Expected
from ..info import BackupInfo, describe
from ..report import TapeReport
from .drive import TapeDrive
from .scan import TapeEntry
from .search import created, matches

_SCHEMA = """
CREATE TABLE IF NOT EXISTS tape (label TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS volume (
    label TEXT NOT NULL REFERENCES tape ON DELETE CASCADE,
    file INTEGER NOT NULL,
    set_id TEXT NOT NULL,
    volume INTEGER NOT NULL,
    complete INTEGER NOT NULL,
    continues INTEGER NOT NULL,
    info TEXT NOT NULL,
    PRIMARY KEY (label, file)
);
CREATE INDEX IF NOT EXISTS volume_set ON volume (set_id);
"""

_ADD_LATER = (
    "The backup itself is complete: when the catalog can be used again, Catalog.scan(drive) "
    "remembers it."
)


@dataclass(frozen=True)
class CatalogVolume:
    """Where a volume is.

    Attributes:
        label: The label of its tape.
        file: The number of its tape file, from 0.
        volume: Its number in the backup, from 1.
        complete: It is known to end with its manifest. Of a backup that was added this is known of
            the last volume only, for the end of a tape may have torn the others; a scan of the
            tape tells.
        continues: Another one follows, as its manifest says, or the report that was added.
    """

    label: str
    file: int
    volume: int
    complete: bool
    continues: bool


@dataclass(frozen=True)
class CatalogBackup:
    """A backup, and where its volumes are.

    Attributes:
        info: What it says of itself.
        set_id: Identifies its volumes.
        volumes: In the order in which a restore needs them.
    """

    info: BackupInfo
    set_id: str
    volumes: tuple[CatalogVolume, ...]

    @property
    def expected(self) -> Expected:
        """What must be there when it is read: the catalog does not see what is done to a tape.

        Raises:
            UsageError: The catalog does not know where it begins.
        """
        first = self.volumes[0]
        if first.volume != 1:
            raise UsageError(
                f"the catalog does not know on which tape the backup of {describe(self.info)} "
                "begins",
                hint="Let Catalog.scan read the tape on which it does.",
            )
        set_id = None if self.set_id == _set_id(first) else self.set_id
        return Expected(self.info, set_id, first.file, first.label, whole_info=True)

    @property
    def complete(self) -> bool:
        """True when the catalog knows all volumes, to the one that ends the backup."""
        last = self.volumes[-1]
        known = {volume.volume for volume in self.volumes}
        return last.complete and not last.continues and len(known) == last.volume


class Catalog(Closing):
    """Remembers which tape, by its label, holds what, in a SQLite file.

    It is never needed to restore: `TapeDrive.scan` reads the same off a tape, and `scan` here
    makes a lost catalog anew from the tapes alone. May be used by several threads.

    Args:
        path: Of the file, which is made when it is not there.

    Raises:
        LocalIOError: The file cannot be used, or is no catalog.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._lock = threading.Lock()
        try:
            self._database = sqlite3.connect(self.path, check_same_thread=False)
        except sqlite3.Error as e:
            raise LocalIOError(f"cannot open the catalog {self.path}", e) from e
        try:
            with self._transaction():
                self._database.executescript(_SCHEMA)
                self._database.execute("PRAGMA foreign_keys = ON")
        except BaseException:
            self._database.close()
            raise

    def close(self) -> None:
        """Close the file. May be called more than once."""
        self._database.close()

    def add(self, backup: TapeReport) -> None:
        """Remember a backup that was just made: the `tape` of its `CopyResult`.

        What the catalog knew behind it on the same tapes is forgotten: it was written over. Which
        volumes the end of a tape has torn, only `scan` learns.

        Raises:
            UsageError: A tape has no label, or the number of the tape file is not known. Nothing is
                changed.
        """
        volumes = []
        for place in backup.places:
            if place.label is None or place.file is None:
                raise UsageError(
                    f"volume {place.volume} is on a tape without a label, or in an unknown file",
                    hint="TapeDrive.write_label gives a tape its label, before the first backup.",
                )
            is_last = place is backup.places[-1]
            volume = CatalogVolume(
                place.label,
                place.file,
                place.volume,
                # The report does not tell of the others, whether they have a manifest.
                complete=is_last,
                continues=not is_last,
            )
            volumes.append(volume)
        with self._transaction(_ADD_LATER):
            for volume in volumes:
                self._forget(volume.label, volume.file)
                self._insert(volume, backup.set_id, backup.info)

    def scan(self, drive: TapeDrive) -> str:
        """Read what is on a tape, and remember that instead of what was known of it.

        Returns:
            The tape's label.

        Raises:
            UsageError: The tape has no label. Nothing is changed.
            TapeError: The drive failed. Nothing is changed.
        """
        entries = list(drive.scan())
        label = entries[0].label if entries else None
        if label is None:
            raise UsageError(
                f"{drive.path}: the tape has no label", hint="TapeDrive.write_label gives it one."
            )
        with self._transaction():
            self._forget(label)
            self._database.execute("INSERT OR IGNORE INTO tape VALUES (?)", (label,))
            for entry in entries:
                if entry.info is not None:
                    volume = _volume(label, entry)
                    self._insert(volume, entry.set_id or _set_id(volume), entry.info)
        return label

    def forget(self, label: str) -> None:
        """Forget a tape, for it was overwritten or lost."""
        with self._transaction():
            self._database.execute("DELETE FROM tape WHERE label = ?", (label,))

    def tapes(self) -> list[str]:
        """The labels of all tapes that are known."""
        with self._transaction():
            rows = self._database.execute("SELECT label FROM tape ORDER BY label").fetchall()
        return [label for (label,) in rows]

    def find(
        self,
        *,
        vm_id: str | None = None,
        disk_id: str | None = None,
        backup_id: str | None = None,
        checkpoint_id: str | None = None,
        incomplete: bool = False,
    ) -> list[CatalogBackup]:
        """Find backups.

        Args:
            vm_id: Only of this virtual machine.
            disk_id: Only of this disk.
            backup_id: Only of this backup.
            checkpoint_id: Only with this checkpoint.
            incomplete: Also what is not complete, as far as the catalog knows.

        Returns:
            Them, newest first.
        """
        found = [
            backup
            for backup in self._backups()
            if (backup.complete or incomplete)
            and matches(
                backup.info,
                vm_id=vm_id,
                disk_id=disk_id,
                backup_id=backup_id,
                checkpoint_id=checkpoint_id,
            )
        ]
        return sorted(found, key=lambda backup: created(backup.info), reverse=True)

    def _backups(self) -> Iterable[CatalogBackup]:
        with self._transaction():
            rows = self._database.execute(
                "SELECT set_id, info, label, file, volume, complete, continues FROM volume "
                "ORDER BY set_id, volume, complete, label, file"
            ).fetchall()
        sets: dict[str, tuple[BackupInfo, list[CatalogVolume]]] = {}
        for set_id, info, label, file, number, complete, continues in rows:
            volume = CatalogVolume(label, file, number, bool(complete), bool(continues))
            backup = BackupInfo.from_dict(json.loads(info))
            sets.setdefault(set_id, (backup, []))[1].append(volume)
        return [CatalogBackup(info, set_id, tuple(v)) for set_id, (info, v) in sets.items()]

    def _forget(self, label: str, file: int = 0) -> None:
        """Forget what is on a tape from a file on."""
        self._database.execute("DELETE FROM volume WHERE label = ? AND file >= ?", (label, file))

    def _insert(self, volume: CatalogVolume, set_id: str, info: BackupInfo) -> None:
        self._database.execute("INSERT OR IGNORE INTO tape VALUES (?)", (volume.label,))
        self._database.execute(
            "INSERT INTO volume VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                volume.label,
                volume.file,
                set_id,
                volume.volume,
                volume.complete,
                volume.continues,
                json.dumps(info.to_dict()),
            ),
        )

    @contextmanager
    def _transaction(self, hint: str | None = None) -> Iterator[None]:
        """All of it, or nothing."""
        with self._lock:
            try:
                with self._database:
                    yield
            except sqlite3.Error as e:
                raise LocalIOError(f"cannot use the catalog {self.path}", e, hint=hint) from e


def _volume(label: str, entry: TapeEntry) -> CatalogVolume:
    return CatalogVolume(label, entry.file, entry.volume, entry.complete, entry.continues)


def _set_id(volume: CatalogVolume) -> str:
    """A stream that was copied to tape from a file is a set of its own, and has no name for it."""
    return f"{volume.label}/{volume.file}"
