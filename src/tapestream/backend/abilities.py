"""The optional abilities of a backend: one small protocol for each.

    ability(source, Rewinds)  ->  the source, what it wraps, or None

A backend has an ability if it has its members. It should not inherit from the protocol: a method
that it forgets would then do nothing. Code that uses an ability gets it with `ability`, and also
works without it:

| Ability          | Members                                   | Of                     |
|------------------|-------------------------------------------|------------------------|
| `Wraps`          | `wrapped`                                 | whatever wraps another |
| `Cancels`        | `cancel`                                  | all four               |
| `KeepsAlive`     | `keep_alive`                              | Source, Sink           |
| `Prefetches`     | `prefetch_depth`, `prefetch`              | Reader                 |
| `HasShapes`      | `shapes`, `use`                           | Reader                 |
| `Flushes`        | `flush`                                   | Writer                 |
| `TakesDigests`   | `digested`                                | Writer                 |
| `LendsMemory`    | `memory`                                  | Writer                 |
| `HasPlace`       | `place`                                   | Source                 |
| `HasLocalServer` | `server_is_local`                         | Source, Sink           |
| `SkipsGaps`      | `skips_gaps`                              | Source                 |
| `HasDigests`     | `digest_name`                             | Source                 |
| `ChecksItself`   | `finish`                                  | Source                 |
| `ChecksEnd`      | `check_complete`                          | Source                 |
| `Rewinds`        | `rewind`                                  | Source                 |
| `HoldsDevice`    | `device`                                  | Source                 |
| `HasReadOrder`   | `read_order`                              | Source                 |
| `Salvages`       | `salvaging`                               | Source                 |
| `FindsMissing`   | `missing_until`                           | Source                 |
| `Digests`        | `digest_name`, `segment_size`, `new_hash` | Sink                   |
| `Streams`        | `streaming`                               | Sink                   |
| `CoalescesZeros` | `coalesce_zeros`                          | Sink                   |
| `HasPieceSize`   | `piece_size`                              | Sink                   |
| `LosesWrites`    | `lost`                                    | Sink                   |

A property here may also be an attribute of the class or of the object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from inspect import getattr_static
from types import FunctionType
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar, cast

from .._typing import Buffer
from ..errors import BackendError
from ..model.extents import Run

if TYPE_CHECKING:
    from ..model.damage import Findings
    from .protocols import SourceLike
else:
    # For typing.get_type_hints: the protocols need this module, and a backup has no damage.
    Findings = SourceLike = object

A = TypeVar("A")

_ABSENT = object()


class Shape(NamedTuple):
    """How a reader requests what was announced, or a writer sends what it gets.

    Attributes:
        size: Most bytes in one request to the server; 1 or more.
        connections: How many connections the reader or writer uses; 1 or more.
    """

    size: int
    connections: int


# `Callable`, not `type[A]`: a type checker would refuse a protocol there.
def ability(backend: object, kind: Callable[..., A]) -> A | None:
    """Find out whether a backend has an ability.

    The first object that has it is used: the backend itself, then what it wraps (its `wrapped`),
    then what that wraps. So a wrapper has all abilities of what it wraps. It replaces an ability by
    defining it, and hides one by setting a method of it to None: `rewind = None`. An ability
    without methods is hidden by the value that means no, such as `device = None`.

    No property is evaluated for this: it may be expensive, or fail. Only an object with a
    `__getattr__` is asked for the names that it does not have otherwise.

    Args:
        backend: A source, sink, reader or writer.
        kind: The protocol of the ability.

    Returns:
        The object that has the ability: the backend, or one that it wraps. None if there is none.

    Raises:
        BackendError: An object has some members of the ability, but not all of them.
    """
    members = {name: of for name, of in vars(kind).items() if not name.startswith("_")}
    found = {name: value for name in members if (value := _look(backend, name)) is not _ABSENT}
    if not found:
        inner = getattr(backend, "wrapped", None)
        return None if inner is None else ability(inner, kind)
    if any(
        value is None and isinstance(members[name], FunctionType) for name, value in found.items()
    ):
        return None
    missing = sorted(members.keys() - found.keys())
    if missing:
        raise BackendError(
            f"{type(backend).__qualname__} has {', '.join(sorted(found))}, but no "
            f"{' and no '.join(missing)}",
            hint="docs/abilities.md says which members each ability has.",
        )
    return cast("A", backend)


def has(backend: object, name: str) -> bool:
    """True if a backend has a member. Properties are not evaluated."""
    return _look(backend, name) is not _ABSENT


def cancel(backend: object) -> None:
    """Make a blocking call of a backend fail soon, if it has that ability."""
    cancels = ability(backend, Cancels)
    if cancels is not None:
        cancels.cancel()


def _look(backend: object, name: str) -> object:
    """A member as it is defined: for a property, the property itself."""
    # Most names are of no class of it: `getattr_static` takes ten times as long to find that out.
    if any(name in vars(cls) for cls in type(backend).__mro__):
        return getattr_static(backend, name)
    return getattr(backend, name, _ABSENT)


class Wraps(Protocol):
    """Wraps another backend of the same kind, and has the abilities of that one."""

    @property
    def wrapped(self) -> object:
        """The other backend."""


class Cancels(Protocol):
    """A backend whose blocking calls can be interrupted."""

    def cancel(self) -> None:
        """Make a call that is blocking in another thread fail soon.

        Called when the copy is ended early: by an error, a `Cancel`, or another thread that closes
        a source or sink. It is called from another thread, repeatedly until the copy has ended. The
        error of the blocked call is dropped, or becomes the `__context__` of the copy's error.

        These calls may block: all calls of a reader and of a writer; `extents`, `open_reader`,
        `finish` and the calls of other abilities of a source; `begin`, `open_writer`, `lost` and
        `commit` of a sink. A commit that fails because of this must leave nothing that looks
        complete. When the abort of the sink begins, sources and sinks are no longer cancelled.

        Also called at the end of any copy, even after the commit, if a `keep_alive` of the same
        backend does not return.
        """


class KeepsAlive(Protocol):
    """A backend that holds something that expires if nobody uses it: a ticket, a connection."""

    def keep_alive(self) -> None:
        """Use it.

        Called about every 20 seconds during a copy, from another thread, whether data moves or
        not: a sink may wait for a tape for minutes. Must not block for long. An error is logged;
        the copy itself finds out whether it matters.
        """


class Prefetches(Protocol):
    """A reader that is faster if it knows what will be read next."""

    @property
    def prefetch_depth(self) -> int:
        """How many ranges may be announced before the first of them has been read, at least 1.

        With more than 1, a network backend can request the next range while it receives the one
        before. Fewer are announced when ranges are large.
        """

    def prefetch(self, start: int, length: int) -> None:
        """Announce the next range that will be read.

        Ranges are read in the order they are announced, each from start to end. A backend with
        expensive requests should send one request per range.

        Args:
            start: Offset of the range in the disk, in bytes.
            length: Its length in bytes.

        Raises:
            TapestreamError: The range cannot be read. `readinto` may raise this instead.
        """


class HasShapes(Protocol):
    """A reader or a writer that can make its requests in several ways: the fastest is not known.

    A copy tries them while it runs, and uses the one with the most bytes per second. It tries
    nothing on a small disk.
    """

    def shapes(self, readers: int) -> Sequence[Shape]:
        """The shapes that the server allows, at least one. The first is the best guess.

        Called once, for one of the readers or writers, before anything is read or written. All of
        them use these shapes.

        A shape is tried if it differs in one step from the one in use: in the next larger or
        smaller size, or number of connections.

        Args:
            readers: How many readers of this source, or writers of this sink, work at the same
                time.
        """

    def use(self, shape: Shape) -> None:
        """Make the next requests in this shape, which is one of `shapes`.

        For a reader, these are the requests for what is announced from now on: this is called
        between two calls of `prefetch`, also while earlier ranges are not yet read. For a writer,
        it is called between two calls of `write`, also while earlier bytes are on their way.
        """


class Flushes(Protocol):
    """A writer that must do something after its last byte was written."""

    def flush(self) -> None:
        """Send everything written here on its way to stable storage.

        Called once, after this writer's last `write` or `zero`; not called once anything failed.

        Raises:
            TapestreamError: Something that was written is lost.
        """


class HasPlace(Protocol):
    """A source that can say where it is read from, or a sink that can say where it writes."""

    @property
    def place(self) -> str | None:
        """Where that is, for error texts: a path, or a URL without its ticket.

        If the source also has `HasLocalServer`, this names its server: what a copy learns about
        requests there is used for the next source from the same place.
        """


class HasLocalServer(Protocol):
    """A source or sink whose data goes through a server, which may run on this host."""

    @property
    def server_is_local(self) -> bool:
        """True if the server runs on this host.

        By default, fewer readers or writers are opened then: the server needs processors, too. And
        a sink that has this ability gets more bytes in each `write`, whatever this is.
        """


class SkipsGaps(Protocol):
    """A source where each byte costs, such as a store that charges for each byte."""

    @property
    def skips_gaps(self) -> bool:
        """True to read only data, and no gaps between it, unless `copy` gets a `max_gap`."""


class HasDigests(Protocol):
    """A source that has digests of its data, and compares the data with them."""

    @property
    def digest_name(self) -> str | None:
        """Name of the digest, such as "sha256"; None for none.

        This does not prove that anything was compared: `ChecksItself.finish` says that.
        """


class ChecksItself(Protocol):
    """A source that finds out at its end whether it was complete and intact."""

    def finish(self) -> str | None:
        """Check what can only be checked after the last byte was read.

        Called after all readers were closed, before the sink is committed. In a chain of backups,
        only a part of the data may have been read, or none. A wrapper that replaces this must call
        `finish` of the source that it wraps, and return its result.

        Returns:
            Name of the digest that all data was compared with, for `CopyResult.verified`; None if
            there was none.

        Raises:
            TapestreamError: The source is not complete or not intact: the copy is worthless.
        """


class ChecksEnd(Protocol):
    """A source that can check, before it is read, whether its end is there."""

    def check_complete(self) -> None:
        """Make sure that nothing is missing at the end, as far as that can be seen quickly.

        Called after `extents` and before `open_reader`, in a chain of backups.

        Raises:
            TapestreamError: The source is not complete.
        """


class Rewinds(Protocol):
    """A source that can be read more than once."""

    def rewind(self) -> None:
        """Make the source readable again, from the beginning.

        Called when no reader is open.

        Raises:
            UsageError: This one can be read only once, such as a pipe.
        """


class HoldsDevice(Protocol):
    """A source that reads from a device that other sources may need, too."""

    @property
    def device(self) -> str | None:
        """Name of a device that only one source can use at a time, a tape drive; None for none.

        The source holds it from `open_reader` until `finish` or `close`. In a chain, sources with
        the same name are read one after another.
        """


class HasReadOrder(Protocol):
    """A source that cannot be read in the order of the disk."""

    def read_order(self) -> Sequence[Iterable[Run]] | None:
        """The order in which this source must be read. Called after `extents`.

        Returns:
            Several passes, each in ascending order, which together cover every data and zero run
            of the extents exactly once. None for the order of the disk. A sequential sink cannot
            take any other order.
        """


class Salvages(Protocol):
    """A source that can go on after damage."""

    def salvaging(self, findings: Findings) -> SourceLike | None:
        """The same data, as a source that goes on after damage as far as possible.

        Its `finish` raises nothing that is in the findings. It is used in place of this source, and
        closed with it.

        Args:
            findings: Where damage is noted while it is read.

        Returns:
            The other source; None if this source has none.

        Raises:
            TapestreamError: The data cannot be read at all.
        """


class FindsMissing(Protocol):
    """A source that may find, while it is read, that some of its data is missing."""

    @property
    def missing_until(self) -> int | None:
        """Offset in the disk, in bytes, before which no more data comes.

        A source that goes on after damage may find that everything up to some offset is missing, or
        that nothing follows at all. Data before this offset that was not read yet is then not read,
        and counts as zeros. None if the source delivers all its data, or fails.
        """


class Hash(Protocol):
    """Computes a digest, as a hashlib object does."""

    def update(self, data: Buffer, /) -> object:
        """Take the next bytes."""

    def digest(self) -> bytes:
        """The digest of all bytes so far."""


class Digests(Protocol):
    """A sink that records digests of the data.

    The engine computes the digests. It cuts data extents into segments, feeds each segment to a
    hash of its own, and gives its digest to a writer: see `TakesDigests`.
    """

    @property
    def digest_name(self) -> str | None:
        """Name of the digest, such as "sha256", for `CopyResult.checksum`; None to record none."""

    @property
    def segment_size(self) -> int:
        """Cut data extents at multiples of this many bytes, counted from the extent's start.

        Each such segment gets one digest. One reader reads it, from its first byte to its last.
        """

    def new_hash(self) -> Hash | None:
        """Make a hash for one segment. Called in several threads, if `digest_name` is not None.

        Returns:
            The hash; None to record no digest of this segment. `CopyResult.checksum` is None then.
            It is also None if a writer does not take digests.
        """


class TakesDigests(Protocol):
    """A writer of a sink that records digests."""

    def digested(self, start: int, length: int, digest: bytes) -> None:
        """Take the digest of a segment. Called before the segment's last byte is written.

        Args:
            start: Offset of the segment in the disk, in bytes.
            length: Its length in bytes.
            digest: The digest of its data.
        """


class LendsMemory(Protocol):
    """A writer of a sequential sink that would otherwise copy the data to write it.

    Only the writer that the sink opened is asked, not one that it wraps.
    """

    def memory(self, start: int, length: int) -> memoryview | None:
        """Lend the memory from which this data will be written.

        The data is read into this memory, and passed to `write` as usual, which then finds it in
        its place. Called from other threads than the writer's, but from one at a time, for data
        that is not yet written. The memory must keep the data until it is written.

        Args:
            start: Offset of the data in the disk, in bytes.
            length: How many bytes.

        Returns:
            The memory, `length` bytes; None to read the data into a buffer of the copy.
        """


class Streams(Protocol):
    """A sink that should not run out of data."""

    @property
    def streaming(self) -> bool:
        """True if it costs more to stop and start again than to wait, as with a tape drive.

        If the data runs out, writing then continues only after the buffers are full.
        """


class CoalescesZeros(Protocol):
    """A sink that takes short runs of zeros as data, rather than in a call of `zero`."""

    @property
    def coalesce_zeros(self) -> int:
        """Write zeros of up to this many bytes as data, together with the data on both sides."""


class HasPieceSize(Protocol):
    """A sink that stores a disk in pieces of a fixed size: parts of an object, deduplicated blocks.

    Data is cut only where a piece ends. A `write` may hold several pieces. It begins or ends inside
    a piece only where an extent does, or a segment if the sink records digests, too.
    """

    @property
    def piece_size(self) -> int:
        """Size of a piece in bytes: a piece begins at each multiple of this offset in the disk.

        Must be at least 1, and no larger than a buffer of the copy.
        """


class LosesWrites(Protocol):
    """A sink that may lose what was written to it: its server may die before it has flushed."""

    def lost(self) -> Sequence[tuple[int, int]]:
        """Report what was written and is not there any more, and forget about it.

        Called after all writers were closed. If it returns ranges, their data is read from the
        source again. New writers write that data again, and all zeros of the disk. Then this is
        called once more. After the fifth time that it returns some, the copy fails.

        Returns:
            Ordered (start, end) ranges of the disk, in bytes, that do not touch each other.

        Raises:
            TapestreamError: It is not known what was lost.
        """
