"""Reads which backups are in a folder: only the first member of each file, and its end."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from .._shown import short_repr
from ..arguments import path as checked_path
from ..backend.protocols import Source
from ..cancel import Cancel
from ..errors import ForeignStreamError, LocalIOError, StreamError
from ..files.atomic import SUFFIX
from ..files.descriptors import OpenFile, as_local_error
from ..files.inputs import DescriptorInput
from ..model.expected import Expected
from ..model.info import BackupInfo
from ..stream.source import TarStreamSource
from ..tar import format as fmt
from ..tar.manifest import Ending, ending
from ..tar.members import MemberReader
from ..tar.preamble import Preamble
from .archive import Archive
from .backups import Skipped, StoredBackup, short_text

# Bytes at the end of a file that are read first. This is enough for records of the usual size.
_TAIL = 16 * 1024
# The end of a manifest is shorter than this.
_END = 4 * fmt.BLOCK


@dataclass(frozen=True, repr=False)
class FileBackup:
    """A backup in a file.

    Attributes:
        path: The path of the file.
        info: What the backup says about itself.
        size: Bytes of the file.
        problem: Why it is not complete; None if it begins and ends as a complete backup does.
            Damage in between is only found when it is read.
        file_id: Identifies the file under all of its names: its device and inode.
    """

    path: str
    info: BackupInfo
    size: int
    problem: str | None
    file_id: tuple[int, int]

    def __repr__(self) -> str:
        return short_repr(self, short_text(self))

    @property
    def place(self) -> str:
        """The path."""
        return self.path

    @property
    def identity(self) -> tuple[int, int]:
        """The same for all names of a file."""
        return self.file_id

    @property
    def expected(self) -> Expected:
        """What is compared with the file when it is opened: it may be another one by then."""
        return Expected(self.info, whole_info=True)

    def open(self, *, cancel: Cancel | None = None) -> Source:
        """Open it; see `StoredBackup.open`."""
        return TarStreamSource(self.path, expect=self, cancel=cancel)


def read_folder(folder: str | os.PathLike[str]) -> Archive:
    """Find out which backups are in a folder.

    A few small reads of each file are enough, whatever its size. Folders in it are not read. A file
    with a temporary name (`.NAME.partial`) is an unfinished backup.

    Args:
        folder: Path of the folder.

    Raises:
        LocalIOError: The folder cannot be read. A file in it that cannot be read is no error: see
            `Archive.unreadable`.
        UsageError: `folder` is not a path.
    """
    folder = checked_path("the path of a folder", folder)
    with as_local_error(f"cannot read {folder}"), os.scandir(folder) as found:
        # A file comes before a link to it: of two names of a file, the first one counts.
        entries = sorted(found, key=lambda entry: (entry.is_symlink(), entry.name))
    backups: list[StoredBackup] = []
    unfinished: list[StoredBackup] = []
    ignored: list[Skipped] = []
    unreadable: list[Skipped] = []
    for path in (entry.path for entry in entries):
        is_temporary = path.endswith(SUFFIX)
        try:
            (unfinished if is_temporary else backups).append(_read(path))
        except _IgnoredError as e:
            ignored.append(Skipped(path, e.reason))
        except (StreamError, LocalIOError) as e:
            is_foreign = isinstance(e, ForeignStreamError) and "hint" not in vars(e)
            if is_temporary or is_foreign:
                ignored.append(Skipped(path, e.message))
            else:
                # The hint of a compressed file says how to read it.
                hint = f". {e.hint}".rstrip(".") if isinstance(e, ForeignStreamError) else ""
                unreadable.append(Skipped(path, e.message + hint))
    return Archive(backups, unfinished=unfinished, ignored=ignored, unreadable=unreadable)


class _IgnoredError(Exception):
    """The file is no backup.

    Attributes:
        reason: Why.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _read(path: str) -> FileBackup:
    """Look at the beginning and at the end of a file.

    Raises:
        _IgnoredError: It is not a file with a backup.
        StreamError: It may be a backup, but cannot be read.
        LocalIOError: It cannot be read.
    """
    with _opened(path) as (medium, status):
        text = MemberReader(medium).read_first_member(fmt.INFO, fmt.MAX_INFO)
        preamble = Preamble.decode(text)
        if preamble.volume != 1:
            raise _IgnoredError(
                f"it is volume {preamble.volume} of a backup, without its first one"
            )
        problem = _problem(medium, preamble, status.st_size)
    return FileBackup(
        path,
        preamble.info,
        status.st_size,
        problem,
        (status.st_dev, status.st_ino),
    )


@contextmanager
def _opened(path: str) -> Iterator[tuple[DescriptorInput, os.stat_result]]:
    """Open a file, without a lock: looking at it must not keep anybody from using it."""
    with as_local_error(f"cannot look at {path}"):
        kind = os.stat(path).st_mode
    if stat.S_ISDIR(kind):
        raise _IgnoredError("it is a folder")
    if not stat.S_ISREG(kind):
        raise _IgnoredError("it is not a regular file")
    with as_local_error(f"cannot open {path}"):
        file = OpenFile(io.FileIO(path, "rb"), path)
    medium = DescriptorInput(file)
    try:
        with as_local_error(f"cannot read {path}"):
            status = os.fstat(file.fd)
        if status.st_size == 0:
            raise _IgnoredError("it is empty")
        yield medium, status
    finally:
        medium.close()


def _problem(medium: DescriptorInput, preamble: Preamble, size: int) -> str | None:
    """Why a backup is not complete; None if its end is as it should be."""
    end = _ending(medium, size, preamble.record_size)
    if end is None:
        return "it has no end, because it was aborted or cut, or is still being written"
    if (end.set_id, end.volume) != (preamble.set_id, preamble.volume):
        return "its end is that of another backup"
    if end.continues:
        return "it is only the first volume of a backup on several tapes"
    # Other tar programs, which pack a backup again, may leave out the padding.
    if size % preamble.record_size and fmt.is_own(medium.peek(0, fmt.BLOCK) or b""):
        return "it was cut in the padding at its end"
    return preamble.members_problem


def _ending(medium: DescriptorInput, size: int, record_size: int) -> Ending | None:
    """The end of the manifest, which stands before the padding of the last record."""
    found = None
    for length in (_TAIL, _TAIL + max(record_size, fmt.MIB)):
        tail = medium.peek(max(0, size - length), min(size, length)) or b""
        found = ending(tail)
        # There may be more zeros than were read, if another program filled larger records.
        if found is not None or length >= size or len(tail.rstrip(b"\0")) > _END:
            break
    return found
