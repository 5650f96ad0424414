"""What a backend is: the four protocols between the copy engine and the outside world.

    SourceLike: info, max_readers, sequential, extents, open_reader, close
    Reader:     readinto, close
    SinkLike:   max_writers, sequential, begin, open_writer, commit, abort, close
    Writer:     write, zero, close

A class that has these members is a backend, and type checkers accept it. It may inherit from
`Source`, `Reader`, `Sink` or `Writer`: then they report what is missing, and a source or a sink
becomes a context manager. What else a backend may be able to do is in `abilities`.

A source knows the extents of a disk and opens readers; a sink opens writers and ends in a commit or
an abort. Every call names its offset, so threads share nothing but what a backend shares itself.
What a backend returns is checked: its mistake must not become a backup of garbage.

The calls of one copy, all from the calling thread unless noted. Those in brackets are abilities::

    source.extents()
    sink.begin(info, extents)
    source.open_reader()  ...  sink.open_writer()  ...
        [reader.prefetch], reader.readinto                 each reader in its own thread
        writer.write, writer.zero, [writer.flush]          each writer in one thread at a time
    writer.close()  ...  reader.close()  ...
    [source.finish()]
    [sink.lost()]
    sink.commit()

After the first error in any of these calls, nothing more is read or written. Every reader and
writer is cancelled if it has that ability, all are closed, `sink.abort()` is called, and the caller
gets the error.

A source or sink is used by one copy at a time. If it inherits from `Source` or `Sink`, its `close`
and `abort` first end the copy that uses it. Called from another thread, they return after the copy
has ended and everything is closed. Called from a thread of the copy, such as in `progress`, they
return immediately, and the copy closes the object at its end. The copy then raises a `ClosedError`,
unless it was committed before.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from ..model.extents import Extent, Extents
from ..model.info import BackupInfo
from .closing import Closing

# mypy takes this name as True, other type checkers do not. Only they see the attributes below:
# pyright would refuse a plain attribute in a subclass where the base class has a property.
MYPY = False


class Reader(Protocol):
    """Reads a disk at given offsets; used by one thread."""

    @abstractmethod
    def readinto(self, start: int, buffer: memoryview) -> None:
        """Fill the whole buffer with the bytes of the disk that begin at offset `start`.

        A reader's calls come in ascending order, unless its source has the ability `HasReadOrder`.
        A range may include extents that are not data: what the buffer holds there is never used.

        The buffer is used again as soon as this returns: keep no reference to it.

        Returns:
            None, not a count, unlike `io.RawIOBase.readinto`. A count that is not the buffer's
            length is a `BackendError`.

        Raises:
            TapestreamError: The bytes cannot be read; the buffer's contents are undefined. A
                backend retries by itself if that makes sense: for the engine every error is final.
        """

    @abstractmethod
    def close(self) -> None:
        """Release what this reader holds. Called exactly once, from any thread."""


class SourceLike(Protocol):
    """Where a disk, or its backup, is read from: what `copy` and all other functions accept.

    A property here may also be an attribute of the object or of the class. A class that inherits
    from this one must have it in the class; an object may then set its own value.
    """

    @property
    @abstractmethod
    def info(self) -> BackupInfo:
        """What is known about the backup; `size` and `context` are those of this source.

        It is complete after `extents`, which is called first. Before that, `size` may be 0. Reading
        it must be cheap and make no request.
        """

    @property
    @abstractmethod
    def max_readers(self) -> int:
        """How many readers may be open at the same time, at least 1."""

    @property
    @abstractmethod
    def sequential(self) -> bool:
        """True if only one reader is possible, and only in ascending order: a tar, a tape.

        The reader skips data that is not asked for.
        """

    @abstractmethod
    def extents(self) -> Iterable[Extent]:
        """The extents of the whole disk, ordered and without gaps: the same at each call.

        Raises:
            TapestreamError: They cannot be read, or do not describe the disk.
        """

    @abstractmethod
    def open_reader(self) -> Reader:
        """Open a reader; called after `extents`, at most `max_readers` times in one copy.

        Raises:
            TapestreamError: It cannot be opened.
        """

    @abstractmethod
    def close(self) -> None:
        """Release everything. May be called more than once."""


class Source(Closing, SourceLike, Protocol):
    """A `SourceLike` to inherit from: it adds `with`, and a `close` that is safe in any thread."""

    if TYPE_CHECKING and not MYPY:
        info: BackupInfo | Any
        max_readers: int | Any
        sequential: bool | Any


class Writer(Protocol):
    """Writes a disk at given offsets; used by one thread at a time, not always the same."""

    @abstractmethod
    def write(self, start: int, buffer: memoryview) -> None:
        """Write the whole buffer at offset `start` of the disk.

        The buffer is used again as soon as this returns: keep no reference to it, and do not change
        it. A sequential sink gets its data in ascending order.

        Returns:
            None, not a count, unlike `io.RawIOBase.write`. A count that is not the buffer's length
            is a `BackendError`.

        Raises:
            TapestreamError: Not everything could be written; how much was is undefined.
        """

    @abstractmethod
    def zero(self, start: int, length: int) -> None:
        """Make `length` bytes at offset `start` read as zeros.

        A sequential sink gets every zero extent, in order, whatever its length. Others may be asked
        to zero a range with data in it, which is written afterwards.

        Raises:
            TapestreamError: The range may be zeroed in part.
        """

    @abstractmethod
    def close(self) -> None:
        """Release what this writer holds. Called exactly once, from any thread."""


class SinkLike(Protocol):
    """Where a disk, or its backup, is written to: what `copy` and all other functions accept.

    A property here may also be an attribute of the object or of the class. A class that inherits
    from this one must have it in the class; an object may then set its own value.
    """

    @property
    @abstractmethod
    def max_writers(self) -> int:
        """How many writers may be open at the same time, at least 1."""

    @property
    @abstractmethod
    def sequential(self) -> bool:
        """True if one writer must get everything in ascending order: a tar, a tape."""

    @abstractmethod
    def begin(self, info: BackupInfo, extents: Extents) -> None:
        """Take note of what will be written. Called once, before anything is written.

        Raises:
            TapestreamError: The sink cannot take it. Nothing was written.
        """

    @abstractmethod
    def open_writer(self) -> Writer:
        """Open a writer; called after `begin`. At most `max_writers` are open at the same time.

        Raises:
            TapestreamError: It cannot be opened.
        """

    @abstractmethod
    def commit(self) -> object:
        """Make it final: what was written is complete and on stable storage when this returns.

        Returns:
            A report about what was written, for `CopyResult.receipt`; or None.

        Raises:
            TapestreamError: It is not complete, or not on stable storage; the sink must be aborted.
        """

    @abstractmethod
    def abort(self) -> None:
        """Give up: leave nothing that looks like a complete backup or a restored disk.

        May be called at any time, and more than once; does nothing after a commit. Before `begin`,
        there is nothing to undo. An older backup that a commit would replace stays as it is.
        """

    @abstractmethod
    def close(self) -> None:
        """Release everything; an uncommitted sink is aborted. May be called more than once."""


class Sink(Closing, SinkLike, Protocol):
    """A `SinkLike` to inherit from: it adds `with`, and a `close` that is safe in any thread."""

    if TYPE_CHECKING and not MYPY:
        max_writers: int | Any
        sequential: bool | Any
