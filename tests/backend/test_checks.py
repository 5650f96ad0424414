"""Backends that break their contract, or keep it without inheriting from anything.

All of these are doubles: no backend of ours does what they do.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import pickle
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from tapestream import (
    BackupInfo,
    DiscardSink,
    Extent,
    RawImageSink,
    Reader,
    Source,
    TapestreamError,
    TarStreamSink,
    TarStreamSource,
    Writer,
    compare,
    copy,
    merge_chain,
    restore_chain,
    verify,
)
from tapestream.backend import Shape
from tapestream.backend.forwarding import ForwardingWriter
from tapestream.errors import BackendError, ExtentsError, LostWritesError, UsageError
from tapestream.model.extents import Extents, Kind, Run
from tapestream.testing.memory import MemorySink, MemorySource
from tests.chains import WEEK

MIB = 1024**2
HALF = MIB // 2
DISK = random.Random(0).randbytes(MIB)
ALTERNATING = [Extent(0, MIB // 2), Extent(MIB // 2, MIB // 2, zero=True)]


def reading(readinto: Callable[[int, memoryview], Any], disk: bytes = DISK) -> MemorySource:
    """A source whose reader does this."""

    class Odd(Reader):
        def readinto(self, start: int, buffer: memoryview) -> None:
            return readinto(start, buffer)  # type: ignore[no-any-return]

        def close(self) -> None:
            pass

    class OddSource(MemorySource):
        def open_reader(self) -> Reader:
            return Odd()

        def finish(self) -> None:
            pass

    return OddSource(disk)


def writing(
    write: Callable[[int, memoryview], Any] = lambda start, buffer: None,
    zero: Callable[[int, int], Any] = lambda start, length: None,
    **methods: Any,
) -> DiscardSink:
    """A sink whose writer does this."""

    class Odd(Writer):
        def write(self, start: int, buffer: memoryview) -> None:
            return write(start, buffer)  # type: ignore[no-any-return]

        def zero(self, start: int, length: int) -> None:
            return zero(start, length)  # type: ignore[no-any-return]

        def close(self) -> None:
            pass

    class OddSink(DiscardSink):
        committed = False

        def open_writer(self) -> Writer:
            return type("Odd", (Odd,), methods)()  # type: ignore[no-any-return]

        def commit(self) -> None:
            self.committed = True

    return OddSink()


def short(start: int, buffer: memoryview) -> int:
    """Fill some, and return how much, as `io.RawIOBase.readinto` does."""
    buffer[:4096] = DISK[start : start + 4096]
    return 4096


def full(start: int, buffer: memoryview) -> int:
    buffer[:] = DISK[start : start + len(buffer)]
    return len(buffer)


@pytest.mark.parametrize(
    "call",
    [
        lambda odd: copy(odd, DiscardSink()),
        lambda odd: copy(odd, TarStreamSink(io.BytesIO())),
        lambda odd: copy(odd, DiscardSink(), block_hash=True),
        lambda odd: restore_chain([odd], DiscardSink()),
        lambda odd: restore_chain([odd], DiscardSink(), verify_first=True),
        lambda odd: copy(merge_chain([odd]), DiscardSink()),
        verify,
        lambda odd: compare(odd, MemorySource(DISK)),
        lambda odd: compare(MemorySource(DISK), odd),
    ],
)
def test_a_reader_that_fills_less_than_the_buffer(call: Callable[[Source], object]) -> None:
    odd = reading(short)
    vars(odd)["rewind"] = lambda: None
    with pytest.raises(BackendError, match=r"Odd\.readinto\(\) at offset 0 returned 4096") as e:
        call(odd)
    assert "own-backend" in e.value.hint


@pytest.mark.parametrize("returned", [0, -1, MIB - 1, MIB + 1, True, False, "all of it", 2.0])
def test_a_writer_that_returns_anything_but_all_of_it(returned: Any) -> None:
    sink = writing(write=lambda start, buffer: returned)
    with pytest.raises(BackendError, match=r"Odd\.write\(\) at offset 0 returned"):
        copy(MemorySource(DISK), sink, max_workers=1)
    assert not sink.committed  # type: ignore[attr-defined]


def test_a_writer_that_zeroes_less() -> None:
    sink = writing(zero=lambda start, length: length - 1)
    with pytest.raises(BackendError, match=rf"zero\(\) at offset {HALF} returned {HALF - 1}"):
        copy(MemorySource(DISK, ALTERNATING), sink)


def test_a_coroutine_is_no_write() -> None:
    async def write(start: int, buffer: memoryview) -> None:
        await asyncio.sleep(0)

    unawaited = []

    def begin_writing(start: int, buffer: memoryview) -> Any:
        unawaited.append(write(start, buffer))
        return unawaited[-1]

    with pytest.raises(BackendError, match="returned a coroutine"):
        copy(MemorySource(DISK), writing(write=begin_writing))
    for each in unawaited:
        each.close()


@pytest.mark.parametrize("step", ["begin", "commit", "flush"])
def test_a_step_that_is_only_promised(step: str) -> None:
    """Of an asynchronous backend, for example: nothing has been done yet."""

    class Promise:
        def __await__(self) -> None: ...

    def promising(*args: object) -> Promise:
        return Promise()

    sink = writing(**({"flush": promising} if step == "flush" else {}))
    if step != "flush":
        setattr(sink, step, promising)
    with pytest.raises(BackendError, match=rf"{step}\(\) returned a .*Promise"):
        copy(MemorySource(DISK), sink)


def test_a_full_count_is_right() -> None:
    taken = bytearray(MIB)

    def write(start: int, buffer: memoryview) -> int:
        taken[start : start + len(buffer)] = buffer
        return len(buffer)

    sink = writing(write, zero=lambda start, length: length)
    assert copy(reading(full), sink).data_bytes == MIB
    assert bytes(taken) == DISK
    assert compare(reading(full), reading(full)).equal
    assert copy(MemorySource(DISK, ALTERNATING), sink).zero_bytes == MIB // 2


def test_a_writer_that_keeps_the_buffer() -> None:
    """What it kept would become other data, so it can no longer look at it."""
    kept: list[memoryview] = []
    copy(MemorySource(DISK), writing(write=lambda start, buffer: kept.append(buffer)))
    with pytest.raises(ValueError, match="released"):
        bytes(kept[0])


@pytest.mark.parametrize("side", ["reader", "writer"])
def test_what_still_uses_the_buffer(side: str) -> None:
    kept: list[pickle.PickleBuffer] = []

    def keep(start: int, buffer: memoryview) -> None:
        kept.append(pickle.PickleBuffer(buffer))  # holds it, as an array of numpy does

    if side == "reader":
        with pytest.raises(BackendError, match=r"readinto\(\) at offset 0 still uses its buffer"):
            copy(reading(keep), DiscardSink())
    else:
        with pytest.raises(BackendError, match=r"write\(\) at offset 0 still uses its buffer"):
            copy(MemorySource(DISK), writing(write=keep))


# --- What a backend says of itself ---

USES: dict[str, Callable[[Any, Any], object]] = {
    "copy": copy,
    "chain": lambda source, sink: restore_chain([source], sink),
    "merge": lambda source, sink: copy(merge_chain([source]), sink),
    "compare": lambda source, _: compare(source, MemorySource(DISK)),
    "compared": lambda source, _: compare(MemorySource(DISK), source),
}


def but(party: Any, name: str, value: Any) -> Any:
    """A source or sink that says something else of itself."""
    cls = type(party)
    party.__class__ = type(
        cls.__name__, (cls,), {name: staticmethod(value) if callable(value) else value}
    )
    vars(party).pop(name, None)
    return party


@pytest.mark.parametrize("call", USES)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_readers", "4"),
        ("max_readers", 1.5),
        ("max_readers", True),
        ("max_readers", None),
        ("max_readers", 0),
        ("max_readers", -1),
        ("sequential", "no"),
        ("sequential", lambda: False),
        ("server_is_local", 1),
        ("digest_name", b"sha256"),
        ("device", 5),
        ("info", None),
        ("info", {"size": MIB}),
        ("extents", lambda: None),
        ("extents", lambda: [(0, MIB)]),
        ("extents", lambda: [Extent(0, MIB - 1)]),
        ("extents", lambda: [Extent(0, MIB), Extent(MIB, 1)]),
        ("extents", lambda: [Extent(0, 1), Extent(2, MIB - 2)]),
        ("open_reader", lambda: None),
        ("open_reader", object),
    ],
)
def test_what_a_source_says_of_itself(call: str, name: str, value: Any, tmp_path: Path) -> None:
    source = but(MemorySource(DISK), name, value)
    existing = tmp_path / "disk.raw"
    existing.write_bytes(b"before")
    sink = RawImageSink(existing)
    with pytest.raises((BackendError, UsageError, ExtentsError)) as caught:
        USES[call](source, sink)
    sink.close()
    assert "MemorySource" in str(caught.value)
    if name != "open_reader":
        assert existing.read_bytes() == b"before"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_writers", "4"),
        ("max_writers", False),
        ("max_writers", 0),
        ("sequential", lambda: True),
        ("server_is_local", 1),
        ("streaming", None),
        ("segment_size", 0),
        ("segment_size", "1M"),
        ("segment_size", -512),
        ("coalesce_zeros", -1),
        ("coalesce_zeros", None),
        ("digest_name", 5),
        ("open_writer", lambda: None),
        ("open_writer", io.BytesIO),
        ("new_hash", object),
        ("new_hash", lambda: 5),
    ],
)
def test_what_a_sink_says_of_itself(name: str, value: Any) -> None:
    class RecordingMemorySink(MemorySink):
        digest_name = "sha256"
        segment_size = 64 * 1024
        new_hash = hashlib.sha256

    sink = but(RecordingMemorySink(), name, value)
    with pytest.raises((BackendError, UsageError), match="MemorySink"):
        copy(MemorySource(DISK), sink)
    assert sink.state == "aborted"


@pytest.mark.parametrize("depth", [0, None, "2"])
def test_a_reader_that_hears_of_no_range(depth: Any) -> None:
    reader = but(reading(full).open_reader(), "prefetch", lambda start, length: None)
    reader = but(reader, "prefetch_depth", depth)
    source = but(MemorySource(DISK), "open_reader", lambda: reader)
    with pytest.raises((BackendError, UsageError), match="prefetch_depth"):
        copy(source, DiscardSink())


@pytest.mark.parametrize(
    "shapes", [None, [], [(4096, 1)], [Shape(0, 1)], [Shape(4096, cast(int, "2"))]]
)
def test_a_reader_without_a_shape(shapes: Any) -> None:
    reader = but(reading(full).open_reader(), "shapes", lambda readers: shapes)
    reader = but(reader, "use", lambda shape: None)
    source = but(MemorySource(DISK), "open_reader", lambda: reader)
    with pytest.raises(BackendError, match=r"shapes\(\) returned .* not at least one Shape"):
        copy(source, DiscardSink())


@pytest.mark.parametrize("call", USES)
def test_a_source_whose_disk_changes_while_it_is_read(call: str) -> None:
    def grow(start: int, length: int) -> None:
        source.info = replace(source.info, size=2 * MIB)

    source = MemorySource(DISK, before_read=grow)
    sink = MemorySink()
    with pytest.raises(BackendError, match=f"size was {MIB}, and is now {2 * MIB}"):
        USES[call](source, sink)
    assert sink.state != "committed"


class InPasses(MemorySource):
    """Reads the disk in another order, as its `order` says."""

    order: Sequence[Iterable[Run]] = ()

    def read_order(self) -> Sequence[Iterable[Run]]:
        return self.order


@pytest.mark.parametrize(
    ("order", "is_right"),
    [
        ([[(HALF, HALF, Kind.ZERO)], [(0, HALF, Kind.DATA)]], True),
        ([[(0, 4096, Kind.DATA), (HALF, HALF, Kind.ZERO)], [(4096, HALF - 4096, Kind.DATA)]], True),
        ([], False),
        ([[(0, HALF, Kind.DATA)]], False),  # no zeros
        ([[(0, HALF, Kind.DATA)], [(0, HALF, Kind.ZERO)]], False),
        ([[(0, HALF - 1, Kind.DATA)], [(0, 1, Kind.DATA), (HALF, HALF, Kind.ZERO)]], False),
        ([[(HALF, HALF, Kind.ZERO), (0, HALF, Kind.DATA)]], False),  # not in order
        ([[(0, HALF, Kind.DATA), (HALF, 2 * HALF, Kind.ZERO)]], False),  # beyond the disk
        ([[(0, HALF, Kind.DATA), (HALF, HALF)]], False),  # no runs
        ([[(0, HALF, 0), (HALF, HALF, 1)]], False),
        ([5], False),
        (5, False),
    ],
)
def test_passes_that_are_not_the_disk(order: Sequence[Iterable[Run]], is_right: bool) -> None:
    source = InPasses(DISK, ALTERNATING, max_readers=1)
    anywhere = reading(full).open_reader()
    source.open_reader = lambda: anywhere  # type: ignore[method-assign]
    source.order = order
    sink = MemorySink()
    if is_right:
        assert copy(source, sink, buffer_size=4096).data_bytes == HALF
        return
    with pytest.raises(BackendError, match=r"InPasses\.read_order\(\)"):
        copy(source, sink)
    assert sink.state == "aborted"


# --- What was compared ---


class Throttled(Source):
    """Forwards the core of another source by hand, and says that its data has digests."""

    max_readers = 1
    sequential = True

    def __init__(self, source: TarStreamSource) -> None:
        self.source = source

    @property
    def info(self) -> BackupInfo:
        return self.source.info

    @property
    def digest_name(self) -> str | None:
        return self.source.digest_name

    def extents(self) -> Iterable[Extent]:
        return self.source.extents()

    def open_reader(self) -> Reader:
        return self.source.open_reader()

    def close(self) -> None:
        self.source.close()


class Finishing(Throttled):
    """And it passes on the end."""

    def finish(self) -> str | None:
        return self.source.finish()


def tar(*, damaged: bool) -> TarStreamSource:
    out = io.BytesIO()
    copy(MemorySource(DISK), TarStreamSink(out))
    stream = bytearray(out.getvalue())
    if damaged:
        stream[MIB // 2] ^= 1
    return TarStreamSource(io.BytesIO(stream))


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("call", ["copy", "chain", "merge"])
def test_a_wrapper_that_forgets_the_end(
    call: str, damaged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    wrapped = Throttled(tar(damaged=damaged))
    if call == "copy":
        result = copy(wrapped, DiscardSink())
    elif call == "chain":
        result = restore_chain([wrapped], DiscardSink())
    else:
        result = copy(merge_chain([wrapped]), DiscardSink())
    assert result.verified is None
    assert "Throttled says that its data has sha256 digests" in caplog.text


def test_verify_of_a_wrapper_that_forgets_the_end() -> None:
    report = verify(Throttled(tar(damaged=True)))
    assert not report.ok
    assert not report.complete
    assert report.checksum is None
    assert "compared none" in str(report)


def test_a_wrapper_that_passes_on_the_end(caplog: pytest.LogCaptureFixture) -> None:
    assert copy(Finishing(tar(damaged=False)), DiscardSink()).verified == "sha256"
    assert restore_chain([Finishing(tar(damaged=False))], DiscardSink()).verified == "sha256"
    report = verify(Finishing(tar(damaged=False)))
    assert report.ok
    assert report.checksum == "sha256"
    assert not caplog.records
    with pytest.raises(TapestreamError, match="do not match their digest"):
        copy(Finishing(tar(damaged=True)), DiscardSink())


@pytest.mark.parametrize("returned", [True, 5, ["sha256"]])
def test_a_finish_that_returns_no_name(returned: Any) -> None:
    source = but(MemorySource(DISK), "finish", lambda: returned)
    sink = MemorySink()
    with pytest.raises(BackendError, match=r"MemorySource\.finish\(\) returned"):
        copy(source, sink)
    assert sink.state == "aborted"


def test_what_a_source_compared_is_what_counts() -> None:
    source = but(MemorySource(DISK), "finish", lambda: "md5")
    assert copy(source, DiscardSink()).verified == "md5"


class Counted(DiscardSink):
    """A sink that says that it records digests; whether it does, `digests` says."""

    digest_name = "sha256"
    segment_size = 64 * 1024

    def __init__(self, digests: str) -> None:
        self.digests = digests
        self.made = 0

    def new_hash(self) -> Any:
        self.made += 1
        wanted = self.digests == "all" or (self.digests == "some" and self.made > 1)
        return hashlib.sha256() if wanted else None

    def open_writer(self) -> Writer:
        return TakingDigests(super().open_writer())


class TakingDigests(ForwardingWriter):
    def digested(self, start: int, length: int, digest: bytes) -> None:
        assert digest == hashlib.sha256(DISK[start : start + length]).digest()


@pytest.mark.parametrize(("digests", "recorded"), [("all", "sha256"), ("some", None), ("", None)])
def test_a_digest_that_nobody_made(digests: str, recorded: str | None) -> None:
    assert copy(MemorySource(DISK), Counted(digests)).checksum == recorded


def test_a_digest_that_nobody_took() -> None:
    class Forgetful(Counted):
        def open_writer(self) -> Writer:
            return DiscardSink().open_writer()

    assert copy(MemorySource(DISK), Forgetful("all")).checksum is None


class Recorded(DiscardSink):
    """Wraps a tar, and forgets what only a tar has."""

    sequential = True

    def __init__(self, sink: TarStreamSink, **passed_on: Any) -> None:
        self.sink = sink
        vars(self).update(passed_on)

    def begin(self, info: BackupInfo, extents: Extents) -> None:
        self.sink.begin(info, extents)

    def open_writer(self) -> Writer:
        return self.sink.open_writer()

    def commit(self) -> None:
        self.sink.commit()

    def abort(self) -> None:
        self.sink.abort()


@pytest.mark.parametrize(
    ("passed_on", "missing"), [((), "new_hash"), (("new_hash",), "digest_name")]
)
def test_a_wrapper_of_a_tar_that_forgets_its_digests(
    passed_on: tuple[str, ...], missing: str, tmp_path: Path
) -> None:
    inner = TarStreamSink(tmp_path / "disk.tar", part_size=64 * 1024)
    sink = Recorded(inner, **{name: getattr(inner, name) for name in passed_on})
    with pytest.raises((UsageError, BackendError), match=missing):
        copy(MemorySource(DISK), sink)
    assert list(tmp_path.iterdir()) == []


class Lending(DiscardSink):
    """A sink whose memory is what `lend` returns."""

    sequential = True

    def __init__(self, lend: Callable[[int], Any]) -> None:
        self.lend = lend

    def open_writer(self) -> Writer:
        return LendingWriter(super().open_writer(), self.lend)


class LendingWriter(ForwardingWriter):
    def __init__(self, wrapped: Writer, lend: Callable[[int], Any]) -> None:
        super().__init__(wrapped)
        self.lend = lend

    def memory(self, start: int, length: int) -> Any:
        return self.lend(length)


@pytest.mark.parametrize(
    "lend",
    [
        lambda length: memoryview(bytearray(length - 1)),
        lambda length: memoryview(bytes(length)),
        bytearray,
        lambda length: memoryview(bytearray(length)).cast("b"),
        lambda _: False,
    ],
)
def test_lent_memory_that_cannot_be_used(lend: Callable[[int], Any]) -> None:
    with pytest.raises(BackendError, match=r"LendingWriter\.memory\(\) returned"):
        copy(MemorySource(DISK), Lending(lend))


def test_lent_memory_is_used() -> None:
    lent: list[memoryview] = []

    def lend(length: int) -> memoryview:
        lent.append(memoryview(bytearray(length)))
        return lent[-1]

    copy(MemorySource(DISK, max_readers=1), Lending(lend), buffer_size=64 * 1024)
    assert b"".join(lent) == DISK


# --- Classes that inherit from nothing ---


class PlainSource:
    """Just what a source must have."""

    max_readers = 2
    sequential = False

    def __init__(self, disk: bytes = DISK, info: BackupInfo | None = None) -> None:
        self.disk = disk
        self.info = replace(info or BackupInfo(), size=len(disk))

    def extents(self) -> list[Extent]:
        return [Extent(0, len(self.disk))]

    def open_reader(self) -> Any:
        return PlainReader(self.disk)

    def close(self) -> None:
        pass


class PlainReader:
    def __init__(self, disk: bytes) -> None:
        self.disk = disk

    def readinto(self, start: int, buffer: memoryview) -> None:
        buffer[:] = self.disk[start : start + len(buffer)]

    def close(self) -> None:
        pass


class PlainSink:
    """Just what a sink must have."""

    max_writers = 2
    sequential = False

    def __init__(self) -> None:
        self.disk = bytearray()
        self.state = "new"

    def begin(self, info: BackupInfo, extents: Extents) -> None:
        self.disk = bytearray(info.size)

    def open_writer(self) -> Any:
        return PlainWriter(self.disk)

    def commit(self) -> None:
        self.state = "committed"

    def abort(self) -> None:
        self.state = "aborted"

    def close(self) -> None:
        pass


class PlainWriter:
    def __init__(self, disk: bytearray) -> None:
        self.disk = disk

    def write(self, start: int, buffer: memoryview) -> None:
        self.disk[start : start + len(buffer)] = buffer

    def zero(self, start: int, length: int) -> None:
        self.disk[start : start + length] = bytes(length)

    def close(self) -> None:
        pass


def plain() -> Any:
    return PlainSource()


def plain_sink() -> Any:
    return PlainSink()


@pytest.mark.parametrize("call", ["copy", "chain", "merge"])
def test_just_the_core_is_enough(call: str) -> None:
    sink = plain_sink()
    if call == "copy":
        result = copy(plain(), sink, block_hash=True)
    elif call == "chain":
        result = restore_chain([plain()], sink)
    else:
        result = copy(merge_chain([plain()]), sink)
    assert bytes(sink.disk) == DISK
    assert sink.state == "committed"
    assert (result.checksum, result.verified, result.receipt) == (None, None, None)
    assert compare(plain(), plain()).equal
    assert verify(plain()).ok


def test_just_the_core_cannot_be_read_twice() -> None:
    sink = plain_sink()
    with pytest.raises(UsageError, match="only once"):
        restore_chain([plain()], sink, verify_first=True)
    assert sink.state == "aborted"


def test_just_the_core_is_cancelled() -> None:
    def stop(start: int, length: int) -> None:
        raise KeyError("stop")

    sink = plain_sink()
    with pytest.raises(KeyError):
        copy(MemorySource(DISK, before_read=stop), sink)
    assert sink.state == "aborted"


@pytest.mark.parametrize("name", ["info", "max_readers", "sequential", "extents", "close"])
def test_a_source_without_its_core(name: str) -> None:
    class Lacking:
        def __getattr__(self, wanted: str) -> Any:
            if wanted == name:
                raise AttributeError(wanted)
            return getattr(plain(), wanted)

    lacking: Any = Lacking()
    sink = MemorySink()
    with pytest.raises(UsageError, match=f"Lacking has no {name}"):
        copy(lacking, sink)
    assert sink.state == "aborted"


@pytest.mark.parametrize("name", ["max_writers", "sequential", "begin", "commit", "abort", "close"])
def test_a_sink_without_its_core(name: str) -> None:
    class Lacking:
        def __getattr__(self, wanted: str) -> Any:
            if wanted == name:
                raise AttributeError(wanted)
            return getattr(plain_sink(), wanted)

    lacking: Any = Lacking()
    with pytest.raises(UsageError, match=f"Lacking has no {name}"):
        copy(MemorySource(DISK), lacking)


@pytest.mark.parametrize("value", ["4096", 4096.0, True])
def test_what_is_missing_must_end_at_an_offset(value: Any) -> None:
    class Odd(MemorySource):
        missing_until = value

    with pytest.raises(BackendError, match=r"Odd\.missing_until is .* or None"):
        copy(Odd(DISK), MemorySink())


class Losing(MemorySink):
    """Loses these ranges, each list of them after one round of writing."""

    def __init__(self, *rounds: Any, sequential: bool = False) -> None:
        super().__init__(max_writers=2, sequential=sequential)
        self.rounds = list(rounds)

    def lost(self) -> Any:
        self.writers.clear()  # all are closed
        lost = self.rounds.pop(0) if self.rounds else []
        if isinstance(lost, list):
            for start, end in lost:
                self.disk[start:end] = bytes([self.FILL]) * (end - start)
        # All zeros are zeroed again, too.
        for extent in self.extents:
            if lost and extent.zero:
                start, end = extent.start, extent.start + extent.length
                self.disk[start:end] = bytes([self.FILL]) * (end - start)
        return lost

    def commit(self) -> None:
        self.state = "committed"  # and not everything was written just once


@pytest.mark.parametrize("sequential", [False, True])
def test_what_a_sink_has_lost_is_sent_again(sequential: bool) -> None:
    disk = DISK[:HALF] + bytes(HALF)
    sink = Losing([(0, 5000), (9000, 9001)], [(4096, 8192)], sequential=sequential)
    result = copy(MemorySource(disk, ALTERNATING), sink, buffer_size=4096)
    assert sink.disk == disk
    assert sink.state == "committed"
    assert result.data_bytes == HALF


def test_a_sink_that_loses_again_and_again_is_not_asked_for_ever() -> None:
    sink = Losing(*([[(0, HALF)]] * 100))
    with pytest.raises(LostWritesError, match="each time that it was written") as caught:
        copy(MemorySource(DISK[:HALF] + bytes(HALF), ALTERNATING), sink)
    assert 90 < len(sink.rounds) < 100
    assert caught.value.ranges == [(0, HALF)]
    assert sink.state == "aborted"


def test_a_sink_is_asked_once_more_after_the_last_time_that_it_lost_something() -> None:
    disk = DISK[:HALF] + bytes(HALF)
    sink = Losing(*([[(0, HALF)]] * 4))
    copy(MemorySource(disk, ALTERNATING), sink)
    assert sink.disk == disk
    assert sink.state == "committed"


def test_what_was_lost_of_a_source_that_is_read_once(tmp_path: Path) -> None:
    copy(MemorySource(DISK), TarStreamSink(tmp_path / "disk.tar"))
    sink = Losing([(0, 4096)])
    stream = io.BytesIO((tmp_path / "disk.tar").read_bytes())
    stream.seekable = lambda: False  # type: ignore[method-assign]
    with TarStreamSource(stream) as source, pytest.raises(LostWritesError) as caught:
        copy(source, sink)
    assert caught.value.ranges == [(0, 4096)]
    assert sink.state == "aborted"


@pytest.mark.parametrize(
    "lost", [None, 5, [5], [(1, 2, 3)], [(2, 1)], [(5, 6), (1, 2)], [(1, 3), (2, 4)]]
)
def test_what_is_lost_must_be_ranges_of_the_disk(lost: Any) -> None:
    class Odd(MemorySink):
        def lost(self) -> Any:
            return lost

    with pytest.raises(BackendError, match=r"Odd\.lost\(\)"):
        copy(MemorySource(DISK), Odd())


def test_the_class_itself_is_no_sink() -> None:
    sink: Any = DiscardSink
    with pytest.raises(UsageError, match="not the class DiscardSink itself"):
        copy(MemorySource(DISK), sink)


def test_a_member_that_fails_is_not_a_missing_one() -> None:
    class Failing(PlainSource):
        @property
        def server_is_local(self) -> bool:
            raise AttributeError("of its own")

    failing: Any = Failing()
    with pytest.raises(AttributeError, match="of its own"):
        copy(failing, DiscardSink())


def test_a_chain_of_backups_that_another_class_reads() -> None:
    """The layers of a chain are read by other readers, whose counts are looked at, too."""
    sources = [day.memory() for day in WEEK]

    class Reading(Reader):
        def readinto(self, start: int, buffer: memoryview) -> None:
            return len(buffer) - 1  # type: ignore[return-value]

        def close(self) -> None:
            pass

    sources[1].open_reader = Reading  # type: ignore[method-assign]
    with pytest.raises(BackendError, match=r"b2.*Reading\.readinto\(\)"):
        restore_chain(sources, MemorySink())
