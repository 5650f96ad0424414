"""Reads and writes raw images and block devices on this machine, with their holes."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from .._log import Log
from .._process import OfThisProcess
from .._shown import short_repr
from .._typing import override
from ..arguments import number
from ..arguments import path as checked_path
from ..backend.protocols import Reader, Sink, Source, Writer
from ..errors import LocalIOError, TargetSizeError, UsageError
from ..model.extents import MAX_OFFSET, Extents
from ..model.info import BackupInfo, check_info, disk_of
from .atomic import AtomicFile
from .descriptors import as_local_error, close_file, descriptor, is_storage
from .formats import format_at, known_format
from .locks import lock_exclusive, lock_shared
from .sparse import data_and_holes, punch_hole

log = Log("tapestream.raw")

# More threads than this do not make a local disk faster.
MAX_THREADS = 8

_NO_WRITES = "Nothing may write to the image during the copy: stop the VM, or read a snapshot."

# If holes cannot be punched, zeros are written in pieces of this many bytes.
_ZEROS = bytes(1024**2)


class RawImageSource(OfThisProcess, Source):
    """Read a raw image file or a block device; its holes are zero extents.

    The image must not change while it is read: stop the VM, or read a snapshot. An image in another
    format, such as qcow2, is read byte by byte as if it were raw, with a warning in the log.

    Args:
        path: The image.
        info: What is known about the backup; size and context are filled in.

    Raises:
        LocalIOError: The image cannot be opened.
        UsageError: It is neither a regular file nor a block device, or an argument cannot work.
    """

    max_readers = MAX_THREADS
    sequential = False

    def __init__(self, path: str | os.PathLike[str], *, info: BackupInfo | None = None) -> None:
        self._path = checked_path("path", path)
        given = check_info(info)
        try:
            self._file = io.FileIO(self._path, "rb", opener=os.open)
        except IsADirectoryError:
            raise _no_image(self._path) from None
        except OSError as e:
            raise LocalIOError(f"cannot open {self._path}", e) from e
        with as_local_error(f"cannot read {self._path}", self.close):
            size = _size_of_image(self._file, self._path)
            lock_shared(self._file.fileno())
            found = known_format(self._file.fileno())
            if found is not None:
                log.warning("%s is %s, and is read as if it were the disk", self._path, found)
        self._info = replace(given, size=size, context="zero")

    @property
    @override
    def info(self) -> BackupInfo:
        return self._info

    @property
    def size(self) -> int:
        """Virtual size of the disk in bytes."""
        return self._info.size

    @property
    def place(self) -> str:
        """The path."""
        return self._path

    @override
    def extents(self) -> Extents:
        """The data and the holes, as far as the file system knows them."""
        size = self._info.size
        with as_local_error(f"cannot find the holes in {self._path}"):
            extents = Extents.of(data_and_holes(descriptor(self._file, self._path), size))
            now = _size_of_image(self._file, self._path)
        if now != size:  # what is missing would count as a hole
            raise LocalIOError(
                f"{self._path} has {now} bytes, but had {size} when it was opened", hint=_NO_WRITES
            )
        return extents

    def rewind(self) -> None:
        """Do nothing: an image can be read any number of times."""

    @override
    def open_reader(self) -> Reader:
        return _RawReader(self._file, self._path)

    @override
    def close(self) -> None:
        file = getattr(self, "_file", None)  # its constructor may have failed
        if file is not None:
            close_file(file, self._path)

    def __repr__(self) -> str:
        # Its constructor may have failed.
        return short_repr(self, getattr(self, "_path", "without a path"))


class _RawReader(Reader):
    def __init__(self, file: io.FileIO, path: str) -> None:
        self._file = file
        self._path = path

    @override
    def readinto(self, start: int, buffer: memoryview) -> None:
        while buffer:
            try:
                count = os.preadv(descriptor(self._file, self._path), [buffer], start)
            except OSError as e:
                raise LocalIOError(f"cannot read {self._path} at {start}", e) from e
            if count == 0:
                raise LocalIOError(
                    f"{self._path} ends at {start}: it became shorter while it was read",
                    hint=_NO_WRITES,
                )
            start, buffer = start + count, buffer[count:]

    @override
    def close(self) -> None:
        """Do nothing: the source closes the file."""


class RawImageSink(OfThisProcess, Sink):
    """Write a raw image file or a block device.

    A new image is written under a temporary name beside its own, with mode 0600, and renamed
    when it is complete. An image that exists keeps its owner and mode: a full backup empties it
    first, an incremental one changes it in place, with holes punched where the backup has zeros.
    Meanwhile it is renamed to NAME.partial, and it keeps that name if the restore fails half-way.
    Nothing in it is changed before the first writer is opened. A block device cannot be renamed:
    after an error its contents are undefined.

    What exists must be a raw image. Another format, such as qcow2, a tar or a compressed file, is
    recognized by its first and last bytes, and refused.

    Args:
        path: The image.
        size: Size that the image will have, in bytes; None for the size of the disk in the backup.
            A block device keeps its own size, which must be at least this.

    Raises:
        UsageError: An argument cannot work, or what exists is in another format. Nothing was
            touched.
    """

    sequential = False
    max_writers = MAX_THREADS
    # Defaults, so that an object whose constructor failed can be closed.
    _file: AtomicFile | None = None
    _device: io.FileIO | None = None
    _writer: _RawWriter | None = None
    # Empties the image or sets its size, after the readers of the source were opened.
    _prepare: Callable[[], None] | None = None
    _ended = True

    def __init__(self, path: str | os.PathLike[str], *, size: int | None = None) -> None:
        self._size = None if size is None else number("size, in bytes,", size, most=MAX_OFFSET)
        self._path = checked_path("path", path)
        _refuse_other_format(self._path)
        self._ended = False

    @override
    def begin(self, info: BackupInfo, extents: Extents) -> None:
        """Open the image, and check that it can have the size it needs.

        Raises:
            TargetSizeError: The image would be smaller than the disk.
            LocalIOError: It cannot be opened.
            UsageError: There is no image to which an incremental backup could be applied; or what
                exists is in another format.
        """
        if self._writer is not None or self._ended:
            raise UsageError("a RawImageSink takes one backup: make a new one")
        _refuse_other_format(self._path)
        found = _existing(self._path)
        if found is not None and stat.S_ISBLK(found.st_mode):
            self._begin_device(info)
        else:
            self._begin_file(info)

    @override
    def open_writer(self) -> Writer:
        """Open a writer. Before the first one of a full backup, an existing image is emptied.

        This is not done in `begin`: the readers of the source are opened after it, and may fail.

        Raises:
            LocalIOError: The image cannot have its size.
        """
        if self._writer is None:
            raise UsageError("the sink has not begun")
        self._make_ready()
        return self._writer

    def cancel(self) -> None:
        """Stop writing zeros, also to the rest of a device that is larger than the disk."""
        if self._writer is not None:
            self._writer.cancel()

    @override
    def commit(self) -> None:
        if self._writer is None or self._ended:
            raise UsageError("the sink has not begun, or has already ended")
        self._make_ready()  # no writer was opened for an empty disk
        if self._file is not None:
            self._file.commit()
        elif self._device is not None:
            with as_local_error(f"cannot finish {self._path}"):
                os.fsync(self._device.fileno())
        self._end()

    @override
    def abort(self) -> None:
        """Remove a new image, or give an unchanged one its name back.

        Raises:
            LocalIOError: The half-written image could not be removed.
        """
        if self._writer is not None:
            self._writer.end()
        try:
            left = None if self._ended or self._file is None else self._file.abort()
            if left is not None:
                log.warning("%s is only restored in part, and is now %s", self._path, left)
        except LocalIOError:
            self._end()
            raise
        self._end()

    @override
    def close(self) -> None:
        self.abort()

    def _begin_file(self, info: BackupInfo) -> None:
        size = self._size_of_file(info)
        self._file = AtomicFile(self._path, modify=True)
        full = info.context == "zero"
        self._prepare = partial(self._file.resize, size, empty=full)
        # An emptied image reads as zeros already: no holes need to be punched.
        self._writer = _RawWriter(self._file.fd, self._path, blank=full, changed=self._file)

    def _size_of_file(self, info: BackupInfo) -> int:
        """Decide how large the image will be, before anything is touched."""
        size = info.size if self._size is None else self._size
        if info.context == "dirty":
            existing, parent = _existing(self._path), info.parent_checkpoint_id
            if existing is None:
                raise UsageError(
                    f"an incremental backup of {disk_of(info)} changes an image, but there is no "
                    f"{self._path}",
                    hint="Restore the backup it is based on first, "
                    f"{f'which made checkpoint {parent}, ' if parent else ''}or all of the chain "
                    "with restore_chain.",
                )
            size = existing.st_size if self._size is None else self._size
        if size < info.size:
            raise TargetSizeError(
                f"{self._path} would have {size} bytes, but {disk_of(info)} has {info.size}",
                hint="Restore an incremental backup to an image that holds the backup before it."
                if self._size is None
                else "Leave out size, or pass at least the size of the disk.",
            )
        return size

    def _begin_device(self, info: BackupInfo) -> None:
        with as_local_error(f"cannot open {self._path}"):
            flags = os.O_RDWR | os.O_CLOEXEC | os.O_EXCL
            self._device = io.FileIO(os.open(self._path, flags), "r+b")
            size, wanted = _size_of_image(self._device, self._path), max(info.size, self._size or 0)
        if size < wanted:
            raise TargetSizeError(
                f"{self._path} has {size} bytes, but {wanted} are needed for {disk_of(info)}"
            )
        self._writer = _RawWriter(self._device.fileno(), self._path, blank=False)
        if info.context == "zero":
            self._prepare = partial(self._writer.zero, info.size, size - info.size)

    def _make_ready(self) -> None:
        if self._prepare is not None:
            self._prepare()
            self._prepare = None

    def _end(self) -> None:
        if self._writer is not None:
            self._writer.end()
        self._ended = True
        if self._device is not None:
            close_file(self._device, self._path)  # after a commit, all of it is on stable storage

    def __repr__(self) -> str:
        # Its constructor may have failed.
        return short_repr(self, getattr(self, "_path", "without a path"))


class _RawWriter(Writer):
    """Writes at offsets: one object serves all threads.

    Args:
        fd: The image.
        path: Its name, for errors.
        blank: True if the image reads as zeros already.
        changed: Its `touched` is set before anything is written.
    """

    def __init__(
        self, fd: int, path: str, *, blank: bool, changed: AtomicFile | None = None
    ) -> None:
        self._fd = fd
        self._path = path
        self._blank = blank
        self._changed = changed
        self._cancelled = False

    @override
    def write(self, start: int, buffer: memoryview) -> None:
        self._note()
        while buffer:
            try:
                count = os.pwrite(self._fd, buffer, start)
            except OSError as e:
                raise LocalIOError(f"cannot write {self._path} at {start}", e) from e
            start, buffer = start + count, buffer[count:]

    @override
    def zero(self, start: int, length: int) -> None:
        if self._blank or length == 0:
            return
        self._check_cancelled()
        self._note()
        if punch_hole(self._fd, start, length):
            return
        end = start + length
        while start < end:
            self._check_cancelled()
            step = min(len(_ZEROS), end - start)
            self.write(start, memoryview(_ZEROS)[:step])
            start += step

    def cancel(self) -> None:
        """Stop writing zeros: there may be many of them."""
        self._cancelled = True

    @override
    def close(self) -> None:
        """Do nothing: the sink closes the file."""

    def end(self) -> None:
        """Make later writes fail: the descriptor will be closed, and another file may get it."""
        self._fd = -1

    def _check_cancelled(self) -> None:
        if self._cancelled:
            raise LocalIOError("cancelled")

    def _note(self) -> None:
        if self._changed is not None:
            self._changed.touched = True


def _existing(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None
    except OSError as e:
        raise LocalIOError(f"cannot look at {path}", e) from e


def _refuse_other_format(path: str) -> None:
    """Make sure that what exists is not in another format: it would be overwritten.

    Raises:
        UsageError: It is in another format.
    """
    found = format_at(path)
    if found is not None:
        _check_unread(path)
        raise UsageError(
            f"{path} is {found}, not a raw image: its contents would be lost",
            hint="Restore to a new file and convert that, with 'qemu-img convert -f raw -O qcow2 "
            "NEW IMAGE' for example; or remove what is there first (on a device: overwrite its "
            "first MiB with zeros).",
        )


def _check_unread(path: str) -> None:
    """Refuse a file that is being read, with an error that says so: it may be the source."""
    try:
        file = io.FileIO(path, "rb")
    except OSError:
        return
    with file:
        lock_exclusive(file.fileno(), path)


def _size_of_image(file: io.FileIO, path: str) -> int:
    if not is_storage(file.fileno()):
        raise _no_image(path)
    return os.lseek(file.fileno(), 0, os.SEEK_END)


def _no_image(path: str) -> UsageError:
    return UsageError(f"{path} is neither a regular file nor a block device")
