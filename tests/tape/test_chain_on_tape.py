"""Chains of backups on one tape, whole and damaged; and how little the tape is wound."""

from __future__ import annotations

import random
from contextlib import ExitStack
from pathlib import Path

import pytest

from tapestream import (
    RawImageSink,
    TarStreamSink,
    TarStreamSource,
    copy,
    merge_chain,
    restore_chain,
)
from tapestream.drive.device import Command, TapeDevice
from tapestream.errors import (
    CorruptStreamError,
    IncompleteStreamError,
    LocalIOError,
    TapeError,
    UsageError,
)
from tapestream.tape import TapeDrive
from tapestream.tape.volumes import closed_when_unused
from tapestream.testing.memory import MemorySink
from tests.drive.stations import FakeStation, Station
from tests.drive.watched import WatchedDevice

from ..chains import CLEAN, DATA, chain, untouched
from ..throttle import Throttled
from .chaining import FEW, WEEK, R, opened, put, put_all, restored, tar
from .tapes import backup, cases, disk, listing, tape_drive

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("quiet")]


# --- One drive ---


def test_all_on_one_tape(station: Station, drive: TapeDrive, tmp_path: Path) -> None:
    """All open at once in one thread, given in any order; into a raw image that held other data."""
    drive.write_label("T1")
    put_all(drive)
    for seed in cases(station, range(8), [0]):
        for number in cases(station, range(1, 5), [4]):
            files = random.Random(seed).sample(range(1, number + 1), number)
            image = tmp_path / "disk.raw"
            image.write_bytes(b"\xee" * 8 * R)
            with opened(drive, *files) as sources, RawImageSink(image) as sink:
                result = restore_chain(sources, sink, **FEW)
            assert image.read_bytes() == WEEK[number - 1].disk
            assert result.verified == "crc32"
    assert listing(drive)[0] == "label T1"
    assert all(not line.endswith("incomplete") for line in listing(drive))


def test_verified_first(station: Station, drive: TapeDrive) -> None:
    put_all(drive)
    with opened(drive, 2, 0, 3, 1) as sources:
        assert restored(sources, verify_first=True) == WEEK[3].disk
        for source in sources:
            source.rewind()
        assert restored(sources) == WEEK[3].disk


def test_without_the_last(station: Station, drive: TapeDrive) -> None:
    """Other backups lie between them, and behind."""
    backup(drive, disk(1), "other")
    put(drive, WEEK[0])
    backup(drive, disk(2), "other")
    put(drive, WEEK[1])
    backup(drive, disk(3), "other")
    with opened(drive, 3, 1) as sources:
        assert restored(sources) == WEEK[1].disk


def test_a_merged_chain_into_a_raw_image(
    station: Station, drive: TapeDrive, tmp_path: Path
) -> None:
    put_all(drive)
    with opened(drive, 1, 0, 2) as sources, RawImageSink(tmp_path / "disk.raw") as sink:
        copy(merge_chain(sources), sink, **FEW)
    assert (tmp_path / "disk.raw").read_bytes() == WEEK[2].disk


def by_path(station: Station) -> str | TapeDrive:
    """The path of the first drive; of the double, the drive that is opened for a path."""
    if isinstance(station, FakeStation):
        return closed_when_unused(tape_drive(station))
    return station.path


def test_each_opened_by_the_device_path(station: Station, drive: TapeDrive) -> None:
    """Every source has a `TapeDrive` of its own, which lets go of the device between."""
    put_all(drive)
    drive.close()
    for verify_first in (False, True):
        with ExitStack() as stack:
            sources = [
                stack.enter_context(TarStreamSource(by_path(station), file=file))
                for file in (3, 1, 0, 2)
            ]
            assert [source.device for source in sources] == [station.path] * 4
            drive.rewind()  # others can use it meanwhile
            drive.close()
            assert restored(sources, verify_first=verify_first) == WEEK[3].disk
            assert len(listing(drive)) == 4
            drive.close()


def test_a_throttle_around_each(station: Station, drive: TapeDrive, tmp_path: Path) -> None:
    """It knows nothing of tapes, and yet they are read one after another, checked and rewound."""
    put_all(drive)
    with opened(drive, 3, 0, 2, 1) as sources:
        throttled = [Throttled(source) for source in sources]
        with pytest.raises(UsageError, match="in the order of the disk"):
            restore_chain(throttled, TarStreamSink(tmp_path / "disk.tar"))
        image = tmp_path / "disk.raw"
        with RawImageSink(image) as sink:
            result = restore_chain(throttled, sink, verify_first=True, **FEW)
        assert image.read_bytes() == WEEK[3].disk
        assert result.verified == "crc32"
        assert all(source.counts for source in throttled)
    backup(drive, disk(7), "another")  # the drive is free again


def test_into_a_tar(station: Station, drive: TapeDrive, tmp_path: Path) -> None:
    """Two streams of one drive cannot be put in the order of the disk; it is said what to do."""
    put_all(drive)
    target = tmp_path / "merged.tar"
    with opened(drive, 0, 1) as sources, TarStreamSink(target) as sink:
        with pytest.raises(UsageError, match="copy all but one of the streams to files") as caught:
            restore_chain(sources, sink)
        assert "one tape drive" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    # As it says: all but one are in files.
    with opened(drive, 0) as sources, TarStreamSink(target) as sink:
        copy(merge_chain([tar(WEEK[1]), tar(WEEK[2]), *sources]), sink)
    with TarStreamSource(target) as merged:
        image = MemorySink()
        copy(merged, image)
    assert bytes(image.disk) == WEEK[2].disk


def test_one_link_is_not_on_tape(station: Station, drive: TapeDrive) -> None:
    put_all(drive, [WEEK[0], WEEK[2], WEEK[3]])
    with opened(drive, 2, 0, 1) as sources:
        assert restored([*sources, tar(WEEK[1])]) == WEEK[3].disk


def test_a_merged_chain_in_a_chain(station: Station, drive: TapeDrive) -> None:
    """What is on one drive cannot be read in the order of the disk: it is refused, or right."""
    put_all(drive, WEEK[:3])
    with opened(drive, 0, 1, 2) as sources:
        for last in (tar(WEEK[2]), sources[2]):
            with pytest.raises(UsageError, match="in the order of the disk"):
                restored([merge_chain(sources[:2]), last])
        assert restored([merge_chain([sources[0], tar(WEEK[1])]), sources[2]]) == WEEK[2].disk


# --- Damage ---


def test_an_aborted_link(station: Station, drive: TapeDrive) -> None:
    """It has no end, and is refused before the first write; it was made again behind."""
    links = chain([(12 * R, DATA)], [(12 * R, DATA)], [(R, DATA), (11 * R, CLEAN)])

    def fail(start: int, length: int) -> None:
        if start >= 10 * R:
            raise LocalIOError("the disk broke")

    put(drive, links[0])
    with pytest.raises(LocalIOError, match="the disk broke"):
        put(drive, links[1], before_read=fail)
    put(drive, links[1])
    put(drive, links[2])
    assert listing(drive) == ["disk", "disk incomplete", "disk", "disk"]
    sink = MemorySink()
    with (
        opened(drive, 0, 1, 3) as sources,
        pytest.raises(IncompleteStreamError, match="tape file 1 has no end"),
    ):
        restored(sources, sink)
    assert untouched(sink)
    with opened(drive, 0, 2, 3) as sources:
        assert restored(sources) == links[2].disk


def test_a_damaged_link() -> None:
    """Found first with `verify_first`, else while it is read; also where it is superseded."""
    for superseded in (False, True):
        for verify_first in (False, True):
            station = FakeStation()
            drive = tape_drive(station)
            put_all(drive, WEEK[:3])
            blocks = station.shelf["T0001"].blocks
            noise = WEEK[0].readable[:20] if superseded else WEEK[1].readable[R : R + 20]
            at = next(i for i, block in enumerate(blocks) if noise in block)
            blocks[at] = blocks[at].replace(noise, bytes(20))
            sink = MemorySink()
            with opened(drive, 2, 1, 0) as sources, pytest.raises(CorruptStreamError):
                restored(sources, sink, verify_first=verify_first)
            assert untouched(sink) is verify_first


def test_a_record_that_cannot_be_read(station: Station, drive: TapeDrive) -> None:
    put_all(drive)
    station.needs_operator()
    sink = MemorySink()
    with opened(drive, 0, 1, 2, 3) as sources:
        merged = merge_chain(sources)
        station.fail("read", 5)
        with pytest.raises(TapeError):
            copy(merged, sink, **FEW)
    assert sink.state == "aborted"
    with opened(drive, 0, 1, 2, 3) as sources:
        assert restored(sources) == WEEK[3].disk


# --- Winding ---


class Log:
    """Opens devices, and writes down what they are asked to do."""

    def __init__(self, station: Station) -> None:
        self.commands: list[tuple[Command, int]] = []
        self._open = station.open_device

    def __call__(self, path: str, *, read_only: bool) -> TapeDevice:
        return _LoggedDevice(self, self._open(path, read_only=read_only))

    def count(self, command: Command) -> int:
        return sum(found is command for found, _ in self.commands)


class _LoggedDevice(WatchedDevice):
    def __init__(self, log: Log, device: TapeDevice) -> None:
        super().__init__(device, lambda call: None)
        self._log = log

    def command(self, command: Command, count: int = 1) -> None:
        self._log.commands.append((command, count))
        super().command(command, count)


def test_in_the_order_of_the_tape_it_does_not_rewind() -> None:
    """Whatever the order the sources came in: from file to file, with one look at each first."""
    station = FakeStation()
    log = Log(station)
    drive = TapeDrive(station.path, open_device=log)
    drive.write_label("T1")
    for one in WEEK:
        put(drive, one)
        backup(drive, disk(1), "other")
    with opened(drive, 7, 1, 5, 3) as sources:
        merged = merge_chain(sources)
        log.commands.clear()
        sink = MemorySink()
        copy(merged, sink, **FEW)
    assert bytes(sink.disk) == WEEK[3].disk
    assert log.count(Command.REWIND) == 0
    assert log.count(Command.END_OF_DATA) == 0
    # To the first of them from behind the last; then it is only gone back over the one record
    # by which each file is recognized.
    files = [count for command, count in log.commands if command is Command.BACKWARD_FILES]
    assert files[0] == 8
    assert files[1:] in ([1] * 4, [1] * 3)


def test_opened_and_checked_in_the_order_of_the_tape() -> None:
    station = FakeStation()
    log = Log(station)
    drive = TapeDrive(station.path, open_device=log)
    drive.write_label("T1")
    put_all(drive)
    drive.go_to_file(1)
    log.commands.clear()
    with opened(drive, 1, 2, 3, 4) as sources:
        assert {count for c, count in log.commands if c is Command.FORWARD_FILES} == {1}
        assert {c for c, _ in log.commands} == {Command.FORWARD_FILES}
        merge_chain(sources)
    assert log.count(Command.REWIND) == 0
