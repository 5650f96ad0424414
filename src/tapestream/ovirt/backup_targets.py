"""Where the tars of a backup go: a folder, tapes, or one stream. Checked before anything starts."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import tapestream

from ..errors import LocalIOError, NotATapeError, UsageError

_TEMPLATE = "{vm}_{disk}_{time}_{kind}"


@dataclass(frozen=True)
class TarOptions:
    """How each tar is written.

    Attributes:
        checksum: The digest of the data, as for `TarStreamSink`.
        on_volume_full: Loads the next tape, as for `TarStreamSink`.
        cancel: Ends the wait for a drive, or for the reader of a fifo.
    """

    checksum: str | None = "sha256"
    on_volume_full: Any = None
    cancel: tapestream.Cancel | None = None


class BackupTarget(Protocol):
    """Where the tars of a backup go."""

    def archive(self) -> tapestream.archive.Archive | None:
        """The backups that are there; None if that cannot be known."""

    def check(self, disks: int) -> None:
        """Make sure that so many disks can be written.

        Raises:
            UsageError: They cannot.
        """

    @contextmanager
    def open(
        self, info: tapestream.BackupInfo, attachments: Mapping[str, bytes], options: TarOptions
    ) -> Iterator[tuple[tapestream.TarStreamSink, str]]:
        """Open the sink for a disk; also say where it is, for people."""

    def keep(self, result: tapestream.CopyResult) -> str:
        """Take note of a tar that is complete; where it is, for people, or "" as `open` said."""


@dataclass(frozen=True)
class FolderTarget:
    """A file for each disk, in a folder."""

    folder: Path
    template: str = _TEMPLATE

    def archive(self) -> tapestream.archive.Archive:
        """See `BackupTarget`."""
        return tapestream.archive.read_folder(self.folder)

    def check(self, disks: int) -> None:
        """See `BackupTarget`."""
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise UsageError(f"{self.folder} is a folder into which this user cannot write")

    @contextmanager
    def open(
        self, info: tapestream.BackupInfo, attachments: Mapping[str, bytes], options: TarOptions
    ) -> Iterator[tuple[tapestream.TarStreamSink, str]]:
        """See `BackupTarget`."""
        try:
            taken = os.listdir(self.folder)
        except OSError as e:
            raise LocalIOError(f"cannot read {self.folder}", e) from e
        path = self.folder / tapestream.archive.file_name(info, self.template, taken=taken)
        with _sink(path, attachments, options) as sink:
            yield sink, str(path)

    def keep(self, result: tapestream.CopyResult) -> str:
        """See `BackupTarget`."""
        return ""


@dataclass(frozen=True)
class TapeTarget:
    """A tape file for each disk, one after the other."""

    drive: tapestream.tape.TapeDrive
    catalog: tapestream.tape.Catalog | None

    def archive(self) -> tapestream.archive.Archive | None:
        """See `BackupTarget`."""
        return tapestream.archive.read_catalog(self.catalog) if self.catalog is not None else None

    def check(self, disks: int) -> None:
        """See `BackupTarget`."""

    @contextmanager
    def open(
        self, info: tapestream.BackupInfo, attachments: Mapping[str, bytes], options: TarOptions
    ) -> Iterator[tuple[tapestream.TarStreamSink, str]]:
        """See `BackupTarget`."""
        with _sink(self.drive, attachments, options) as sink:
            yield sink, self.drive.path

    def keep(self, result: tapestream.CopyResult) -> str:
        """See `BackupTarget`."""
        report: tapestream.tape.TapeReport = result.receipt
        if self.catalog is not None:
            self.catalog.add(report)
        return ", ".join(
            f"tape {place.label or self.drive.path}, file {place.file}" for place in report.places
        )


@dataclass(frozen=True)
class StreamTarget:
    """One stream, such as a pipe: for one disk only."""

    stream: Any

    def archive(self) -> None:
        """See `BackupTarget`."""

    def check(self, disks: int) -> None:
        """See `BackupTarget`."""
        if disks > 1:
            raise UsageError(
                f"the VM has {disks} disks to back up, and {_name(self.stream)} takes one stream",
                hint="Choose one of the disks, or pass a folder or a tape drive.",
            )

    @contextmanager
    def open(
        self, info: tapestream.BackupInfo, attachments: Mapping[str, bytes], options: TarOptions
    ) -> Iterator[tuple[tapestream.TarStreamSink, str]]:
        """See `BackupTarget`."""
        with _sink(self.stream, attachments, options) as sink:
            yield sink, _name(self.stream)

    def keep(self, result: tapestream.CopyResult) -> str:
        """See `BackupTarget`."""
        return ""


def target_of(
    target: Any, catalog: tapestream.tape.Catalog | None, template: str | None
) -> BackupTarget:
    """Find out what a target is.

    Raises:
        UsageError: It is none, or an option does not belong to it.
    """
    found = _target(target, catalog, template)
    if catalog is not None and not isinstance(found, TapeTarget):
        raise UsageError("a catalog knows what is on tapes, and the target is no tape drive")
    if template is not None and not isinstance(found, FolderTarget):
        raise UsageError("a template is for the names of files, and the target is no folder")
    return found


def _target(
    target: Any, catalog: tapestream.tape.Catalog | None, template: str | None
) -> BackupTarget:
    if isinstance(target, tapestream.tape.TapeDrive):
        return TapeTarget(target, catalog)
    if target == "-" or not isinstance(target, (str, os.PathLike)):
        return StreamTarget(target)
    path = Path(target)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise UsageError(
            f"{path} does not exist",
            hint="For a folder, make it first; for a tape drive, check that the drive is on.",
        ) from None
    except OSError as e:
        raise LocalIOError(f"cannot look at {path}", e) from e
    if stat.S_ISDIR(mode):
        return FolderTarget(path, template or _TEMPLATE)
    if stat.S_ISBLK(mode) or stat.S_ISREG(mode):
        what = "a disk of this machine" if stat.S_ISBLK(mode) else "a file"
        raise UsageError(f"{path} is {what}", hint="Pass the folder in which the tars shall be.")
    if stat.S_ISCHR(mode):
        try:
            return TapeTarget(tapestream.tape.TapeDrive(path), catalog)
        except NotATapeError:
            pass  # such as /dev/null
    return StreamTarget(path)


def _sink(
    target: Any, attachments: Mapping[str, bytes], options: TarOptions
) -> tapestream.TarStreamSink:
    return tapestream.TarStreamSink(
        target,
        checksum=options.checksum,
        attachments=attachments,
        on_volume_full=options.on_volume_full,
        cancel=options.cancel,
    )


def _name(stream: Any) -> str:
    if stream == "-":
        return "standard output"
    if isinstance(stream, Path):
        return str(stream)
    return f"a {type(stream).__name__}"
