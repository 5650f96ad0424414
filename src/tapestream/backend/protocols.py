"""What a backend is: the four protocols between the copy engine and the outside world.

A *source* knows a disk's extents and opens readers; a *sink* opens writers and ends in a commit
or an abort. Offsets are always given, so nothing is shared between threads but what a backend
shares itself. A class that has just the names which are not optional is a backend; inherit from a
protocol to let a type checker know, and for `with`. What a backend says of itself and returns is
checked: its mistake must not become a backup of garbage. A `BackendError` names its class.

The order of calls in one copy, all from the calling thread unless noted::

    source.extents()
    sink.begin(info, extents)
    source.open_reader()  ...  sink.open_writer()  ...
        reader.request, reader.readinto, sink.digester     each reader in its own thread
        writer.write, writer.zero, writer.flush            each writer in one thread at a time
    writer.close()  ...  reader.close()  ...
    source.finish()
    sink.lost()
    sink.commit()

After the first error of any of them, nothing more is read or written: `cancel` is called on every
reader and writer, all are closed, `sink.abort()` is called, and the error is raised to the caller.

A source or sink is used by one copy at a time. Where it inherits from `Source` or `Sink`, its
`close` and `abort` end the copy that uses it first: called from another thread, they return when
the copy has ended and everything is closed; called from a thread of the copy, such as in
`progress`, they return immediately, and the copy closes it at its end. The copy then raises a
`ClosedError`, unless it was committed before.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Protocol

from typing_extensions import Buffer

from ..errors import UsageError
from ..model.damage import Findings
from ..model.extents import Extent, Extents, Run
from ..model.info import BackupInfo
from ..tape.report import TapeReport
from .closing import Closing


class Reader(Protocol):
    """Reads a disk at given offsets; used by one thread."""

    @property
    def ahead(self) -> int:
        """How many ranges this reader hears of at the same time, at least 1. Optional.

        With more than 1 it hears of a range before it has read the one before: a backend that waits
        for replies asks for it then. Of long ranges it hears of fewer.
        """
        return 1

    def request(self, start: int, length: int) -> None:
        """Announce the next range that will be read. Optional.

        Ranges are read in the order in which they are announced, each from start to end. A backend
        with expensive requests should send one request per range; others can ignore this.
        """
        return

    @abstractmethod
    def readinto(self, start: int, buffer: memoryview) -> None:
        """Fill the whole buffer with the bytes of the disk that begin at offset `start`.

        The range lies inside the announced request, and may reach across extents that are not
        data: what the buffer holds there is never used.

        The buffer is used again as soon as this returns: keep no reference to it.

        Returns:
            None, not a count, unlike `io.RawIOBase.readinto`. A count that is not the buffer's
            length is a `BackendError`.

        Raises:
            TapestreamError: The bytes cannot be had; the buffer's contents are undefined. A
                backend retries what is worth retrying itself: for the engine every error is final.
        """
        ...

    def cancel(self) -> None:
        """Make a `readinto` that is blocked now, in another thread, fail soon. Optional.

        Called from another thread, when the copy is given up. What `readinto` then raises is
        dropped.
        """
        return

    @abstractmethod
    def close(self) -> None:
        """Release what this reader holds. Called exactly once, by no matter which thread."""
        ...


class Source(Closing, Protocol):
    """Where a disk, or its backup, is read from.

    What is declared here as a property may as well be an attribute of the class, and then be set
    on the object.
    """

    @property
    @abstractmethod
    def info(self) -> BackupInfo:
        """What is known of the backup; `size` and `context` are those of this source."""
        ...

    @property
    def checksum(self) -> str | None:
        """Name of the digest that this source compares the data with; None for none. Optional.

        `finish` says what it did compare.
        """
        return None

    @property
    def size(self) -> int:
        """Virtual size of the disk in bytes."""
        return self.info.size

    @property
    @abstractmethod
    def max_readers(self) -> int:
        """How many readers may be open at the same time, at least 1."""
        ...

    @property
    @abstractmethod
    def sequential(self) -> bool:
        """True when only one reader is possible and only in ascending order: a tar, a tape.

        Data that is not asked for is passed over.
        """
        ...

    @property
    def shares_processors(self) -> bool:
        """True when reading makes another process of this host work, such as a server. Optional.

        By default, there are then fewer readers: that process needs processors, too.
        """
        return False

    @property
    def device(self) -> str | None:
        """Name of what only one source can use at the same time, a tape drive; None for none.

        Such a source holds it from `open_reader` until `finish` or `close`.
        """
        return None

    @property
    def place(self) -> str | None:
        """Where it is read from, for errors that people read: a path; None if there is none."""
        return None

    @abstractmethod
    def extents(self) -> Iterable[Extent]:
        """The extents of the whole disk, ordered and without gaps.

        Raises:
            TapestreamError: They cannot be had, or do not describe the disk.
        """
        ...

    def passes(self) -> Sequence[Iterable[Run]] | None:
        """The order in which the disk can be read, where that is not from start to end. Optional.

        Called after `extents`. A source that wraps another passes this on, `device` and
        `shares_processors`.

        Returns:
            Ordered runs, in several passes over the disk that together have all data and all
            zeros once. A sequential sink cannot take that. None for the order of the extents.
        """
        return None

    @property
    def missing_until(self) -> int | None:
        """Offset in the disk before which no more data comes. Optional.

        A source that goes on after damage may find that everything up to some offset is missing, or
        that nothing follows at all. What was not read yet is then not read any more, and counts as
        zeros.

        None if a source delivers all its data, or fails.
        """
        return None

    def check_complete(self) -> None:
        """Make sure that nothing is missing at the end, as far as that is quickly known. Optional.

        Called after `extents` and before `open_reader`, where more than one source is needed.

        Raises:
            TapestreamError: The source is not complete.
        """
        return

    def tolerate(self, findings: Findings | None) -> None:
        """Go on after damage from now on, as far as possible, until it is rewound. Optional.

        Called before `open_reader`. `finish` then raises nothing that is in the findings.

        Args:
            findings: Where damage is noted while it is read. None: raise errors again, and do not
                go on. By default, a source notes nothing and raises its errors.
        """
        if findings is not None:
            findings.complete = True

    def rewind(self) -> None:
        """Make it readable once more, from the beginning. Optional.

        Called when no reader is open.

        Raises:
            UsageError: It can be read only once: a pipe.
        """
        raise UsageError(f"{self!r} can be read only once")

    @abstractmethod
    def open_reader(self) -> Reader:
        """Open a reader; called after `extents`, at most `max_readers` times in one copy."""
        ...

    def keep_alive(self) -> None:
        """Do what must be done now and then, so that nothing expires. Optional.

        Called about every 20 seconds during a copy, from another thread, whether data moves or
        not: a sink may wait for a tape for minutes. Must not block for long.
        """
        return

    def cancel(self) -> None:
        """Make a call of `extents`, `open_reader` or `finish` that blocks now fail soon. Optional.

        Called from another thread, also more than once: where the source is read by one that
        combines several, and where somebody closes a source or sink during its copy.
        """
        return

    def finish(self) -> str | None:
        """Check what can only be checked after the last byte was read. Optional.

        Called after all readers were closed, before the sink is committed. A source that wraps
        another passes on this call, and what it returned.

        Returns:
            Name of the digest that all data was compared with, for `CopyResult.verified`; None if
            it was compared with none.

        Raises:
            TapestreamError: The source is not complete or not intact: the copy is worthless.
        """
        return None

    @abstractmethod
    def close(self) -> None:
        """Release everything. May be called more than once."""
        ...


class Writer(Protocol):
    """Writes a disk at given offsets; used by one thread at a time, not always the same."""

    @abstractmethod
    def write(self, start: int, buffer: memoryview) -> None:
        """Write the whole buffer at offset `start` of the disk.

        The buffer is used again as soon as this returns: keep no reference to it. A sequential
        sink gets its data in ascending order.

        Returns:
            None, not a count, unlike `io.RawIOBase.write`. A count that is not the buffer's length
            is a `BackendError`.

        Raises:
            TapestreamError: Not everything could be written; how much was is undefined.
        """
        ...

    @abstractmethod
    def zero(self, start: int, length: int) -> None:
        """Make `length` bytes at offset `start` read as zeros.

        A sequential sink hears of every zero extent, in order, whatever its length. Others may
        be asked to zero a stretch with data in it, which is written afterwards.

        Raises:
            TapestreamError: The range may be zeroed in part.
        """
        ...

    def flush(self) -> None:
        """Send everything written here on its way to stable storage. Optional.

        Called once, after this writer's last `write` or `zero`; not called once anything failed.
        """
        return

    def cancel(self) -> None:
        """Make a call that is blocked now, in another thread, fail soon. Optional.

        Called from another thread, when the copy is given up.
        """
        return

    @abstractmethod
    def close(self) -> None:
        """Release what this writer holds. Called exactly once, by no matter which thread."""
        ...


class Digester(Protocol):
    """Anything with an `update`: a hashlib object is one."""

    def update(self, data: Buffer, /) -> object:
        """Take the next bytes."""
        ...


class Sink(Closing, Protocol):
    """Where a disk, or its backup, is written to.

    What is declared here as a property may as well be an attribute of the class, and then be set
    on the object.
    """

    @property
    @abstractmethod
    def max_writers(self) -> int:
        """How many writers may be open at the same time, at least 1."""
        ...

    @property
    @abstractmethod
    def sequential(self) -> bool:
        """True when one writer must get everything in ascending order: a tar, a tape."""
        ...

    @property
    def checksum(self) -> str | None:
        """Name of the digest that `digester` makes, for the `CopyResult`; None for none. Optional.

        Believed only if `digester` gave one for every segment.
        """
        return None

    @property
    def segment_size(self) -> int | None:
        """Cut data extents at multiples of this, counted from the extent's start; None: anywhere.

        A segment, that is at most `segment_size` bytes of one extent, is what one digest is made
        of, and is read by one reader from its first byte to its last.
        """
        return None

    @property
    def streaming(self) -> bool:
        """True when to stop and start again costs more than to wait: a tape drive.

        Whenever the data runs out, writing then goes on only when the buffers are full.
        """
        return False

    @property
    def tape(self) -> TapeReport | None:
        """How the backup went to tape, for the `CopyResult`; None for other sinks."""
        return None

    @property
    def join_gap(self) -> int:
        """Write zeros of up to this many bytes as data, together with the data on both sides."""
        return 0

    @abstractmethod
    def begin(self, info: BackupInfo, extents: Extents) -> None:
        """Hear what comes; called once, before anything is written.

        Raises:
            TapestreamError: The sink cannot take it. Nothing was written.
        """
        ...

    def digester(self, start: int, length: int) -> Digester | None:
        """Give what takes the data of the segment at `start`, for a checksum. Optional.

        Called in the threads of the readers, at the same time for different segments, or in that
        of the only writer. What it returns is fed with the segment's data, in order, in that
        thread, before the segment's last byte is written: where a core is free a checksum costs no
        throughput.
        """
        return None

    @abstractmethod
    def open_writer(self) -> Writer:
        """Open a writer; called after `begin`. At most `max_writers` are open at the same time."""
        ...

    def keep_alive(self) -> None:
        """Do what must be done now and then, so that nothing expires. Optional.

        Called about every 20 seconds during a copy, from another thread, whether data moves or
        not: a sink may wait for a tape for minutes. Must not block for long.
        """
        return

    def cancel(self) -> None:
        """Make a call of `begin` or `commit` that blocks now fail soon. Optional.

        Called from another thread, also more than once, where somebody closes a source or sink
        during its copy.
        """
        return

    def lost(self) -> Sequence[tuple[int, int]]:
        """Report what was written and is not there any more, and forget it. Optional.

        Called after all writers were closed. If it returns ranges, their data is read from the
        source again, and new writers write it and all zeros of the disk again. Then this is called
        once more. A sink that wraps another passes this on.

        Returns:
            Ordered (start, end) ranges of the disk, in bytes, that do not touch each other.
        """
        return ()

    @abstractmethod
    def commit(self) -> None:
        """Make it final: what was written is complete and on stable storage when this returns.

        Raises:
            TapestreamError: It is not; the sink must be aborted.
        """
        ...

    @abstractmethod
    def abort(self) -> None:
        """Give up: leave nothing that looks like a complete backup or a restored disk.

        May be called at any time, and more than once; does nothing after a commit.
        """
        ...

    @abstractmethod
    def close(self) -> None:
        """Release everything; an uncommitted sink is aborted. May be called more than once."""
        ...
