"""A wrapper of a few lines loses no ability of what it wraps: digests, receipts, what was lost."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import pytest

from tapestream import (
    Damage,
    DiscardSink,
    Extent,
    Findings,
    Source,
    TarStreamSink,
    TarStreamSource,
    Writer,
    copy,
    merge_chain,
    restore_chain,
    verify,
)
from tapestream.backend import ForwardingSink, ForwardingSource, ForwardingWriter
from tapestream.errors import DigestMismatchError, UsageError
from tapestream.tape import TapeDrive, TapeReport
from tapestream.testing.drive import Cartridge, FakeDrive
from tapestream.testing.memory import MemorySink, MemorySource
from tests.chains import WEEK, week
from tests.throttle import Throttled

MIB = 1024**2
DISK = random.Random(3).randbytes(2 * MIB)


class Counted(ForwardingSink):
    """Counts the bytes that are written to another sink."""

    bytes = 0

    def open_writer(self) -> Writer:
        return CountedWriter(super().open_writer(), self)


class CountedWriter(ForwardingWriter):
    def __init__(self, wrapped: Writer, sink: Counted) -> None:
        super().__init__(wrapped)
        self.sink = sink

    def write(self, start: int, buffer: memoryview) -> None:
        self.sink.bytes += len(buffer)
        super().write(start, buffer)


def test_a_tar_keeps_its_digests(tmp_path: Path) -> None:
    path = tmp_path / "disk.tar"
    with Counted(TarStreamSink(path, part_size=MIB)) as sink:
        result = copy(MemorySource(DISK), sink)
    assert (result.checksum, result.receipt) == ("sha256", None)
    assert sink.bytes == len(DISK)
    with Throttled(TarStreamSource(path)) as source:
        result = copy(source, MemorySink())
    assert result.verified == "sha256"
    assert sum(source.counts) == len(DISK)


def test_a_tape_gives_its_report() -> None:
    drive = FakeDrive(Cartridge())
    with TapeDrive("/dev/nst0", open_device=drive.open) as tape:
        with Counted(Counted(TarStreamSink(tape))) as sink:
            result = copy(MemorySource(DISK), sink)
        report: TapeReport = result.receipt
        assert [place.file for place in report.places] == [0]
        with Throttled(TarStreamSource(tape, expect=report)) as source:
            assert copy(source, MemorySink()).verified == "sha256"


def test_a_damaged_tar_is_refused_and_explained() -> None:
    out = io.BytesIO()
    copy(MemorySource(DISK), TarStreamSink(out))
    damaged = bytearray(out.getvalue())
    damaged[MIB // 2] ^= 1
    with (
        Throttled(TarStreamSource(io.BytesIO(damaged))) as source,
        pytest.raises(DigestMismatchError),
    ):
        copy(source, DiscardSink())
    with Throttled(TarStreamSource(io.BytesIO(damaged))) as source:
        report = verify(source)
    assert report == verify(TarStreamSource(io.BytesIO(damaged)))
    assert len(report.damage) == 1
    assert sum(source.counts) == len(DISK)


@pytest.mark.parametrize("merged", [False, True])
def test_a_chain_is_verified_first(merged: bool) -> None:
    sources = [Throttled(Throttled(source)) for source in week()]
    sink = MemorySink()
    if merged:
        result = copy(merge_chain(sources), sink)
    else:
        result = restore_chain(sources, sink, verify_first=True)
    assert bytes(sink.disk) == WEEK[-1].disk
    assert result.verified == "sha256"


def test_what_is_lost_is_sent_again() -> None:
    class Losing(MemorySink):
        losses = 1

        def lost(self) -> list[tuple[int, int]]:
            if not self.losses:
                return []
            self.losses -= 1
            self.writers.clear()
            return [(4096, 8192)]

        def commit(self) -> None:
            self.state = "committed"

    sink = Counted(Losing())
    copy(MemorySource(DISK, [Extent(0, len(DISK))]), sink)
    assert sink.bytes == len(DISK) + 4096


def test_a_wrapper_says_that_it_can_be_read_only_once() -> None:
    class Once(Throttled):
        rewind = None

    with pytest.raises(UsageError, match="Once can be read only once"):
        restore_chain([Once(week()[0])], MemorySink(), verify_first=True)


def test_only_a_source_or_a_sink_can_be_wrapped() -> None:
    path: Any = "disk.tar"
    with pytest.raises(UsageError, match="a source is needed to read from, not a str"):
        ForwardingSource(path)
    with pytest.raises(UsageError, match="a sink is needed to write to, not a str"):
        ForwardingSink(path)


def test_a_source_with_damage_that_it_found_itself_is_not_taken_for_one_without_an_end() -> None:
    class Damaged(ForwardingSource):
        """Names its digest, and compares nothing once it met damage."""

        digest_name = "crc32"
        found: Findings | None = None

        def salvaging(self, findings: Findings) -> Source:
            view = Damaged(self.wrapped)
            view.found = findings
            return view

        def finish(self) -> None:
            assert self.found is not None
            self.found.add(Damage(4096, 512, "disk", missing=True))
            self.found.complete = True

    report = verify(Damaged(MemorySource(DISK)))
    assert report.complete
    assert not report.ok
    assert not report.problems
    assert report.damage == (Damage(4096, 512, "disk", missing=True),)
