"""How the conformance kit uses a sink, by `copy` or by hand, and reads back its target."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple, get_args
from unittest import SkipTest

from typing_extensions import Buffer

from ...arguments import number
from ...backend.abilities import Digests, Flushes, TakesDigests, ability
from ...backend.checks import check_sink, done, new_hash_of, piece_size, sink_of, writer_of
from ...backend.protocols import SinkLike, SourceLike, Writer
from ...engine.copy import CopyResult, copy
from ...errors import TapestreamError, UsageError
from ...model.extents import Extent, Kind, cut
from ..memory import Hook, nothing
from .disks import BLOCK, SIZE, Disk
from .frame import Case

MakeSink = Callable[[Path], SinkLike]
ReadBack = Callable[[Path], Buffer | None]
Existing = Literal["kept", "overwritten", "unmarked", "none"]

# The size of a disk is a multiple of this many bytes, so that its parts are whole blocks.
UNIT = 16 * BLOCK
# Bytes that the kit writes in one call, unless a check is about large or small ones.
PIECE = 16 * 1024
# What `read_back` raises if there is nothing complete.
NOTHING_THERE = (TapestreamError, FileNotFoundError)


class Step(NamedTuple):
    """One call of a writer.

    Attributes:
        start: Offset in the disk.
        length: Bytes.
        data: What to write; None to zero.
        digests: Start, length and digest of each segment that ends here, if the sink wants digests.
    """

    start: int
    length: int
    data: bytes | None
    digests: Sequence[tuple[int, int, bytes]] = ()


@dataclass(frozen=True)
class SinkCase(Case):
    """How to make the sink that is checked; see `check_sink`."""

    make: MakeSink
    read_back: ReadBack
    existing: Existing = "kept"
    size: int = SIZE
    failing: MakeSink | None = None
    blocking: MakeSink | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("make", "read_back", "failing", "blocking"):
            value = getattr(self, name)
            if not callable(value) and (value is not None or name in ("make", "read_back")):
                raise UsageError(f"{name} must be a function, not {value!r}")
        if self.existing not in get_args(Existing):
            known = ", ".join(get_args(Existing))
            raise UsageError(f"existing must be one of {known}, not {self.existing!r}")
        number("size", self.size, least=UNIT, unit=UNIT)

    @contextmanager
    def target(self) -> Iterator[Target]:
        """A new target, in a directory that is removed afterwards."""
        with TemporaryDirectory(prefix="tapestream-kit-") as directory:
            yield Target(self, Path(directory))

    @contextmanager
    def by_hand(self, disk: Disk, piece: int = PIECE) -> Iterator[Hand]:
        """A copy by hand to a new target, which is committed afterwards, and must hold the disk."""
        with self.target() as target:
            with target.sink() as sink:
                hand = Hand(sink, disk, piece).begin()
                try:
                    yield hand
                    hand.finish_writers()
                finally:
                    hand.close_writers()
                hand.commit()
            target.expect(disk)

    def takes(self, disk: Disk, what: str, before: Disk | None = None) -> None:
        """Make sure that a new sink does not refuse a disk.

        Args:
            disk: The disk.
            what: What the disk is, for the reason to skip.
            before: What the target holds; None for a new target.

        Raises:
            SkipTest: It does.
        """
        with self.target() as target:
            if before is not None:
                target.hold(before)
            with target.sink() as sink:
                try:
                    Hand(sink, disk).begin()
                except TapestreamError as e:
                    raise SkipTest(f"it refuses {what}: {e}") from e
                finally:
                    sink.abort()

    @property
    def is_marked(self) -> bool:
        """True if the target shows whether it is complete."""
        return self.existing != "unmarked"


@dataclass(frozen=True)
class Target:
    """What the sinks of one check write to."""

    case: SinkCase
    path: Path

    def sink(self, make: MakeSink | None = None) -> closing[SinkLike]:
        """A new sink for this target, which is closed at the end of a `with` block."""
        return closing(sink_of((make or self.case.make)(self.path)))

    def copy(self, disk: Disk, before_read: Hook = nothing) -> CopyResult:
        """Copy a disk to a new sink for this target, and close that."""
        with self.sink() as sink, disk.source(before_read) as source:
            return copied(source, sink)

    def hold(self, disk: Disk) -> None:
        """Let this target hold a disk already."""
        if self.case.existing == "none":
            raise SkipTest("existing is 'none': no target holds anything before")
        with self.sink() as sink:
            Hand(sink, disk).begin().write_all().commit()
        self.expect(disk)

    def content(self) -> bytes | None:
        """What the target holds; None if that is nothing complete."""
        try:
            return self._read()
        except NOTHING_THERE:
            return None

    def _read(self) -> bytes | None:
        found = self.case.read_back(self.path)
        return None if found is None else bytes(memoryview(found))

    def expect(self, disk: Disk, before: bytes | None = None, when: str = "") -> None:
        """Make sure that the target holds a disk; see `Disk.difference`."""
        said = f"{when}, " if when else ""
        try:
            found, why = self._read(), ""
        except NOTHING_THERE as e:
            found, why = None, f": read_back() raised {type(e).__name__}: {e}"
        assert found is not None, f"the target holds nothing complete{why}"
        size = len(disk.content)
        if self.case.is_marked:  # a disk may be larger than its backup
            assert len(found) <= size, (
                f"{said}the target holds {len(found)} bytes of a disk of {size}"
            )
        wrong = disk.difference(found, before)
        assert wrong is None, f"{said}{wrong}"

    def expect_no(self, disk: Disk, when: str, before: Disk | None = None) -> None:
        """Make sure that nothing complete is in the target, except what it held before.

        Args:
            disk: What must not be there.
            when: When that is so, for the error.
            before: What the target held before; it stays if `existing` is "kept".
        """
        found = self.content()
        if before is not None and self.case.existing == "kept":
            assert found is not None, f"{when}, the old contents of the target are gone"
        if found is None:
            return
        is_old = before is not None and before.difference(found) is None
        same = "the whole disk" if disk.difference(found) is None else "another disk"
        assert is_old, f"{when}, {len(found)} bytes look like a complete backup: {same}"


def copied(source: SourceLike, sink: SinkLike) -> CopyResult:
    """Copy with small buffers, so that also a small disk takes many."""
    size = max(4 * BLOCK, -(-piece_size(sink) // BLOCK) * BLOCK)
    return copy(source, sink, buffer_size=size, buffer_memory=max(64 * BLOCK, 2 * size))


@dataclass
class Hand:
    """A copy by hand: the calls that the engine makes, so that a check can stop between them.

    Args:
        sink: The sink.
        disk: What it gets.
        piece: Bytes in one call of `write`.
    """

    sink: SinkLike
    disk: Disk
    piece: int = PIECE
    writers: list[Writer] = field(default_factory=list)

    def begin(self) -> Hand:
        """Check what the sink says about itself, and begin."""
        check_sink(self.sink)
        done(self.sink, "begin", self.disk.source().info, self.disk.extents)
        return self

    def open(self) -> Writer:
        """Open a writer."""
        self.writers.append(writer_of(self.sink))
        return self.writers[-1]

    def steps(self) -> Sequence[Step]:
        """The calls that write the disk, in its order."""
        return list(self._steps())

    def _steps(self) -> Iterator[Step]:
        for extent in self.disk.listed:
            if extent.kind is Kind.ZERO:
                yield Step(extent.start, extent.length, None)
            if extent.kind is not Kind.DATA:
                continue
            for start, length in cut(extent.start, extent.length, self.piece):
                data = self.disk.content[start : start + length]
                yield Step(start, length, data, self._digests(extent, start + length))

    def _digests(self, extent: Extent, end: int) -> list[tuple[int, int, bytes]]:
        """The digests of the segments of an extent that end in the piece that ends here."""
        digests, new_hash = ability(self.sink, Digests), new_hash_of(self.sink)
        found = []
        if digests is not None and new_hash is not None:
            for start, length in cut(extent.start, extent.length, digests.segment_size):
                made = new_hash() if end - self.piece < start + length <= end else None
                if made is not None:
                    made.update(self.disk.content[start : start + length])
                    found.append((start, length, made.digest()))
        return found

    def write_all(self) -> Hand:
        """Write the whole disk with one writer, and close that."""
        writer = self.open()
        for step in self.steps():
            do(writer, step)
        return self.finish_writers()

    def finish_writers(self) -> Hand:
        """Flush all writers, and close them."""
        for writer in self.writers:
            flush(writer)
        return self.close_writers()

    def close_writers(self) -> Hand:
        """Close all writers, as after an error."""
        while self.writers:
            self.writers.pop().close()
        return self

    def commit(self) -> None:
        """Commit the sink."""
        done(self.sink, "commit")


def do(writer: Writer, step: Step, buffer: memoryview | None = None) -> None:
    """Let a writer do one step.

    Args:
        writer: The writer.
        step: The step.
        buffer: Holds the data of the step; None for a buffer that is not used for anything else.
    """
    for call in calls(writer, step, buffer):
        call()


def calls(
    writer: Writer, step: Step, buffer: memoryview | None = None
) -> Iterator[Callable[[], object]]:
    """The calls of a writer that make up one step; see `do`."""
    takes = ability(writer, TakesDigests)
    for digest in step.digests if takes is not None else ():
        yield partial(done, takes, "digested", *digest)
    if step.data is None:
        yield partial(writer.zero, step.start, step.length)
    else:
        data = memoryview(bytearray(step.data)) if buffer is None else buffer
        yield partial(writer.write, step.start, data)


def flush(writer: Writer) -> None:
    """Flush a writer, if it has that ability."""
    flushes = ability(writer, Flushes)
    if flushes is not None:
        done(flushes, "flush")
