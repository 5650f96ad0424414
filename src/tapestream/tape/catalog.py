"""The catalog: a SQLite file that lists which tape holds which backups.

It only saves time: everything in it is also on the tapes.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

from .._log import Log
from .._process import OfThisProcess
from .._shown import Shown
from .._typing import Unpack, override
from ..arguments import function
from ..arguments import path as checked_path
from ..backend.closing import Closing
from ..cancel import Cancel
from ..errors import LocalIOError, NoMediumError, PositionLostError, TapeError, UsageError
from ..model.info import BackupFilter, BackupInfo
from .backups import CatalogBackup, CatalogRow, CatalogVolume, backup_of, own_set, reported_rows
from .contents import CatalogContents
from .drive import TapeDrive, check_of, turn_to_scan
from .report import TapeLabel, TapeReport
from .scan import TapeEntry, holds_data, unreadable_label
from .search import check_search, search

log = Log("tapestream.tape")

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
# Columns that catalogs of the first version do not have.
_LATER_COLUMNS = {
    "tape": ("tape_id TEXT",),
    "volume": ("volume_start INTEGER", "vouches_from INTEGER", "written REAL", "length INTEGER"),
}
# What to do about an error of SQLite, by a word in its text. Python 3.10 does not give its number.
_HINTS = {
    "locked": "Another program is using it: try again when that has ended.",
    "not a database": "Check the path. If this was the catalog, move the file away: Catalog.scan "
    "makes a new one from the tapes.",
    "malformed": "Move the file away. Catalog.scan makes a new catalog from the tapes.",
    "full": "Free space on its file system, and try again: nothing was changed.",
    "readonly": "Permit writing the file and its folder, and try again: nothing was changed.",
    "unable to open": "Check the path; make its folder, and permit writing there.",
}
_ADD_LATER = (
    "The backup itself is complete: when the catalog can be used again, Catalog.scan(drive) "
    "remembers it."
)


class Catalog(OfThisProcess, Shown, Closing):
    """Remembers in a SQLite file which tape, by its label, holds which backups.

    A restore never needs it: `TapeDrive.scan` reads the same from a tape, and `Catalog.scan`
    makes a new catalog from the tapes alone. Several threads and several programs may use it.

    The catalog does not notice changes that others make to a tape. So pass what `find` returns to
    `TarStreamSource(expect=)`, which compares it with the tape.

    Args:
        path: Path of the file, which is created if it does not exist.

    Raises:
        LocalIOError: The file cannot be used, or is not a catalog.
        UsageError: `path` is not a path.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = checked_path("the path of a catalog", path)
        self._lock = threading.Lock()
        try:
            self._database = sqlite3.connect(self.path, check_same_thread=False)
        except sqlite3.Error as e:
            raise self._error(e, "open") from e
        try:
            # Text stays undecoded here: a damaged row must not hide the others.
            self._database.text_factory = bytes
            with self._transaction():
                self._database.executescript(_SCHEMA)
                # When a tape is deleted, SQLite deletes its volumes, too.
                self._database.execute("PRAGMA foreign_keys = ON")
                is_old = bool(self._missing_columns())
            if is_old:
                with self._transaction(write=True):
                    for table, column in self._missing_columns():
                        self._database.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
        except BaseException:
            self._database.close()
            raise

    def close(self) -> None:
        """Close the file. May be called more than once."""
        database = getattr(self, "_database", None)  # the constructor may have failed
        if database is not None:
            database.close()

    def add(self, backup: TapeReport) -> None:
        """Remember a backup that was just made: the `tape` of its `CopyResult`.

        Older backups that the catalog has after it on the same tapes are removed, because they
        were overwritten. Backups from before a tape was labelled again are removed, too. Only
        `scan` can find out which volumes were cut off by the end of a tape.

        Raises:
            UsageError: A tape has no label, or another tape's label, or the number of the tape file
                is not known. Nothing is changed.
            LocalIOError: The file cannot be written. Nothing is changed.
        """
        if not isinstance(backup, TapeReport):
            raise UsageError(
                f"the catalog keeps a TapeReport, not {backup!r}",
                hint="Pass the receipt of the CopyResult of a backup to tape.",
            )
        rows = reported_rows(backup)
        ended = (backup.ended or datetime.now(timezone.utc)).timestamp()
        with self._transaction(write=True, hint=_ADD_LATER if backup.complete else ""):
            for place, row in zip(backup.places, rows, strict=True):
                label, file = row.volume.label, row.volume.file
                self._register(TapeLabel(label, place.tape_id, place.replaces))
                # Threads may add their backups in another order than that on the tape.
                self._database.execute(
                    "DELETE FROM volume WHERE label = ? AND (file = ? OR file > ? AND "
                    "coalesce(written, 0) <= ?)",
                    (label, file, file, ended),
                )
                self._insert(row, ended)

    def scan(
        self,
        drive: TapeDrive,
        *,
        on_entry: Callable[[TapeEntry], object] | None = None,
        cancel: Cancel | None = None,
    ) -> str:
        """Read what is on a tape, and replace what the catalog has about the tape.

        Args:
            drive: The drive with the tape.
            on_entry: Called with each tape file when it was looked at, to show what is found. It
                must not move the tape.
            cancel: Ends the scan, as for `TapeDrive.scan`. Nothing is changed then.

        Returns:
            The tape's label.

        Raises:
            UsageError: The tape has no label, or the catalog has another tape with this label.
                Nothing is changed.
            OperationCancelledError: The scan was cancelled. Nothing is changed.
            TapeError: The drive failed. Nothing is changed.
            LocalIOError: The file cannot be written. Nothing is changed.
        """
        check = check_of(cancel)
        function("on_entry", on_entry)
        if not isinstance(drive, TapeDrive):
            raise UsageError(f"a catalog scans a TapeDrive, not {drive!r}")
        began = datetime.now(timezone.utc).timestamp()
        with turn_to_scan(drive, cancel):
            entries = []
            for entry in drive.scan(cancel=cancel):
                entries.append(entry)
                if on_entry is not None:
                    on_entry(entry)
            label = entries[0].tape_label if entries else None
            if entries and entries[0].is_unknown:
                raise unreadable_label(drive.raw, entries[0])
            if label is None:
                raise UsageError(
                    f"{drive.path}: the tape has no label",
                    hint="Label each tape with TapeDrive.write_label before its first backup. "
                    "TapeDrive.find finds backups without a catalog.",
                )
            found = (entry for entry in entries if entry.info is not None)
            rows = [_scanned(drive, label, entry, check) for entry in found]
        with self._transaction(write=True):
            self._register(label)
            self._database.execute("DELETE FROM volume WHERE label = ?", (label.name,))
            for row in rows:
                self._insert(row, began)
        return label.name

    def forget(self, label: str) -> None:
        """Remove a tape that was overwritten or lost. An unknown label is no error.

        Raises:
            UsageError: The label is unknown, but another one differs from it only in case or
                spaces.
        """
        if not isinstance(label, str):
            raise UsageError(f"a label is a text, not {label!r}")
        with self._transaction(write=True):
            known = self._labels()
            if label not in known and (similar := _similar(label, known)) is not None:
                raise UsageError(
                    f"the catalog {self.path} knows no tape {label!r}, but {similar!r}",
                    hint="Pass the label exactly as Catalog.tapes() lists it.",
                )
            self._database.execute("DELETE FROM tape WHERE label = ?", (label,))

    def tapes(self) -> list[str]:
        """The labels of all tapes in the catalog, sorted."""
        with self._transaction():
            return self._labels()

    def find(self, *, incomplete: bool = False, **ids: Unpack[BackupFilter]) -> list[CatalogBackup]:
        """Find backups.

        Args:
            incomplete: True to include backups that the catalog does not know to be complete.
            ids: Only backups with these: `vm_id`, `disk_id`, `backup_id`, `checkpoint_id`.

        Returns:
            The backups, newest first; of several attempts at one backup, complete ones come first.
            Damaged rows of the file are left out, with a warning in the log.

        Raises:
            UsageError: There is no such argument.
            LocalIOError: The file cannot be read.
        """
        check_search(ids, incomplete)
        with self._transaction():
            rows = self._rows()
        return self._found(rows, ids, incomplete=incomplete)

    def contents(self) -> CatalogContents:
        """Everything that the catalog knows, as a value that a notebook shows as a picture.

        Raises:
            LocalIOError: The file cannot be read.
        """
        with self._transaction():
            self._database.execute("BEGIN")  # others may write between two reads
            labels, rows = self._labels(), self._rows()
        return CatalogContents(tuple(labels), tuple(self._found(rows, {}, incomplete=True)))

    @override
    def _in_short(self) -> str:
        # The constructor may have failed.
        return getattr(self, "path", "without a path")

    def _rows(self) -> list[Any]:
        """The rows of all volumes, not decoded."""
        return self._database.execute(
            "SELECT label, file, volume, complete, continues, set_id, info, volume_start, "
            "vouches_from, length FROM volume"
        ).fetchall()

    def _found(
        self, rows: Iterable[Any], ids: BackupFilter, *, incomplete: bool
    ) -> list[CatalogBackup]:
        """The backups of some rows that are searched for, in order."""
        return search(
            self._backups(rows),
            ids,
            lambda backup: (backup.volumes[0].label, backup.volumes[0].file),
            incomplete=incomplete,
        )

    def _backups(self, values: Iterable[Any]) -> Iterable[CatalogBackup]:
        sets: dict[str, list[CatalogRow]] = {}
        for row in values:
            try:
                found = _decoded(row)
            except (ValueError, RecursionError) as e:
                where = f"tape {row[0]!r}, file {row[1]!r}"
                log.warning(
                    "the catalog %s is damaged where it has %s: %s. That is left out: let "
                    "Catalog.scan read the tape",
                    self.path,
                    where,
                    e,
                )
            else:
                sets.setdefault(found.set_id, []).append(found)
        return [backup_of(rows) for rows in sets.values()]

    def _labels(self) -> list[str]:
        labels = []
        for (label,) in self._database.execute("SELECT label FROM tape ORDER BY label").fetchall():
            try:
                labels.append(_text(label))
            except ValueError as e:
                log.warning("the catalog %s has a damaged label: %s", self.path, e)
        return labels

    def _register(self, label: TapeLabel) -> None:
        """Add a tape, or make sure that it is the same tape that has this label in the catalog.

        If the tape was labelled again, remove what was on it before.
        """
        if label.tape_id is not None:
            self._database.executemany(
                "DELETE FROM tape WHERE tape_id = ?", [(tape_id,) for tape_id in label.replaces]
            )
        known = self._labels()
        if label.name in known:
            ((found,),) = self._database.execute(
                "SELECT tape_id FROM tape WHERE label = ?", (label.name,)
            ).fetchall()
            if None not in (found, label.tape_id) and found != (label.tape_id or "").encode():
                raise UsageError(
                    f"two tapes have the label {label.name!r}: the catalog {self.path} knows "
                    "another tape with it",
                    hint="If that tape is gone, or was overwritten without write_label, call "
                    f"Catalog.forget({label.name!r}), and try again. Otherwise give one of the "
                    "two another label.",
                )
        elif (similar := _similar(label.name, known)) is not None:
            log.warning(
                "the labels %r and %r of two tapes are easy to confuse",
                label.name,
                similar,
            )
        self._database.execute("INSERT OR IGNORE INTO tape (label) VALUES (?)", (label.name,))
        self._database.execute(
            "UPDATE tape SET tape_id = coalesce(?, tape_id) WHERE label = ?",
            (label.tape_id, label.name),
        )

    def _insert(self, row: CatalogRow, written: float) -> None:
        volume = row.volume
        self._database.execute(
            "INSERT INTO volume (label, file, set_id, volume, complete, continues, info, "
            "volume_start, vouches_from, written, length) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                volume.label,
                volume.file,
                row.set_id,
                volume.volume,
                volume.complete,
                volume.continues,
                json.dumps(row.info.to_dict()),
                row.start,
                row.vouches_from,
                written,
                volume.length,
            ),
        )

    def _missing_columns(self) -> list[tuple[str, str]]:
        """The columns that a file of an early version lacks: (table, column name with type)."""
        missing = []
        for table, columns in _LATER_COLUMNS.items():
            rows = self._database.execute(f"PRAGMA table_info({table})").fetchall()
            known = {row[1].decode(errors="replace") for row in rows}
            missing += [(table, column) for column in columns if column.split()[0] not in known]
        return missing

    @contextmanager
    def _transaction(self, *, write: bool = False, hint: str = "") -> Iterator[None]:
        """Make a block's changes together or not at all; `write` keeps other writers waiting."""
        with self._lock:
            try:
                with self._database:
                    if write:
                        self._database.execute("BEGIN IMMEDIATE")
                    yield
            except sqlite3.ProgrammingError as e:
                raise UsageError(f"cannot use the catalog {self.path}: {e}") from e
            except sqlite3.Error as e:
                raise self._error(e, "use", hint) from e
            except (UnicodeEncodeError, OverflowError) as e:
                raise UsageError(f"the catalog {self.path} cannot keep this: {e}") from e

    def _error(self, error: Exception, doing: str, hint: str = "") -> LocalIOError:
        known = next((known for word, known in _HINTS.items() if word in str(error)), "")
        both = " ".join(filter(None, (known, hint)))
        return LocalIOError(f"cannot {doing} the catalog {self.path}", error, hint=both or None)


def _scanned(
    drive: TapeDrive, label: TapeLabel, entry: TapeEntry, check: Callable[[], object]
) -> CatalogRow:
    """Make the catalog's row for a volume from a scan of its tape."""
    assert entry.info is not None
    volume = CatalogVolume(
        label.name,
        entry.file,
        entry.volume,
        entry.complete,
        entry.complete and entry.continues,
        entry.length,
    )
    start: int | None = entry.volume_start
    if not entry.complete and not _has_data(drive, entry, check):
        start = None
    return CatalogRow(
        volume, entry.set_id or own_set(volume), entry.info, start, entry.vouches_from
    )


def _has_data(drive: TapeDrive, entry: TapeEntry, check: Callable[[], object]) -> bool:
    """Whether a tape file without an end has a complete data member."""
    check()
    try:
        drive.go_to_file(entry.file)
        return holds_data(drive.raw, check)
    except (NoMediumError, PositionLostError):
        raise
    except TapeError as e:
        log.warning("tape file %d is taken for one without data: %s", entry.file, e)
        return False


def _decoded(values: Sequence[Any]) -> CatalogRow:
    """Decode a row of the file.

    Raises:
        ValueError: The row is damaged.
    """
    label, file, number, complete, continues, set_id, text, start, vouches_from, length = values
    volume = CatalogVolume(
        _text(label),
        _number(file),
        _number(number, 1),
        _flag(complete),
        _flag(continues),
        _number(length or 0),
    )
    info = json.loads(_text(text))
    if not isinstance(info, dict):
        raise ValueError("its info is not a JSON object")  # noqa: TRY004 - data of a file
    return CatalogRow(
        volume,
        _text(set_id),
        BackupInfo.from_dict(info),
        None if start is None else _number(start),
        None if vouches_from is None else _number(vouches_from),
    )


def _text(value: object) -> str:
    if not isinstance(value, bytes):
        raise ValueError(f"{value!r} is not text")  # noqa: TRY004 - likewise
    return value.decode()


def _number(value: object, least: int = 0) -> int:
    if not isinstance(value, int) or value < least:
        raise ValueError(f"{value!r} is not a number of at least {least}")
    return value


def _flag(value: object) -> bool:
    if value not in (0, 1):
        raise ValueError(f"{value!r} is neither 0 nor 1")
    return value == 1


def _similar(label: str, known: Iterable[str]) -> str | None:
    """A label that people confuse with this one: it differs in case, spaces or the form of ä."""
    return next((other for other in known if _folded(other) == _folded(label)), None)


def _folded(label: str) -> str:
    return "".join(unicodedata.normalize("NFKC", label).casefold().split())
