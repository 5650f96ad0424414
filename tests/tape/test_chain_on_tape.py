"""Chains of backups on tape: read one after another, whoever else has used the drive meanwhile."""

from __future__ import annotations

import io
import itertools
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tapestream import (
    CopyResult,
    RawImageSink,
    TarStreamSink,
    TarStreamSource,
    copy,
    merge_chain,
    restore_chain,
)
from tapestream.drive import position
from tapestream.drive.device import Command, DeviceStatus, TapeDevice
from tapestream.errors import (
    CorruptStreamError,
    IncompleteStreamError,
    LocalIOError,
    TapeError,
    UsageError,
    WrongTapeError,
)
from tapestream.tape import TapeDrive, VolumeRequest, volumes

from ..chains import CLEAN, DATA, ZERO, Link, chain, untouched
from ..memory import MemorySink
from .conftest import FakeStation, Station
from .tapes import (
    BLOCK_COST,
    PART,
    RECORD,
    Ask,
    backup,
    cases,
    change_tape,
    disk,
    listing,
    places,
    tape_drive,
)

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("quick")]

R = RECORD
# What the disk was on four days. The data that is needed of each lies between that of the others.
WEEK = chain(
    [(3 * R, DATA), (R, ZERO), (2 * R, DATA)],
    [(R, CLEAN), (R, DATA), (R, CLEAN), (1000, DATA), (3 * R - 1000, CLEAN)],
    [(R // 2, DATA), (4 * R, CLEAN), (R, ZERO), (R // 2, CLEAN)],
    [(2 * R, CLEAN), (512, DATA), (4 * R - 512, CLEAN), (R, DATA)],
)
FEW: Any = {"buffer_size": RECORD, "buffer_memory": 4 * RECORD}


@pytest.fixture
def drive(station: Station) -> TapeDrive:
    return tape_drive(station)


def put(drive: TapeDrive, one: Link, **options: Any) -> CopyResult:
    """Append a backup to what is on the tape."""
    return backup(drive, one.readable, info=one.info, extents=one.extents, **options)


def put_all(drive: TapeDrive, links: Sequence[Link] = WEEK) -> None:
    for one in links:
        put(drive, one)


@contextmanager
def opened(drive: TapeDrive, *files: int, **options: Any) -> Iterator[list[TarStreamSource]]:
    """The backups in these tape files, all open at the same time."""
    with ExitStack() as stack:
        yield [stack.enter_context(TarStreamSource(drive, file=file, **options)) for file in files]


def restored(sources: Sequence[Any], sink: MemorySink | None = None, **options: Any) -> bytes:
    sink = sink or MemorySink(max_writers=2)
    restore_chain(sources, sink, **{**FEW, **options})
    assert sink.state == "committed"
    return bytes(sink.disk)


def in_a_thread(deed: Callable[[], object]) -> None:
    """Do it in another thread, and wait for its end; what it raises is raised here."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            deed()
        except BaseException as e:  # noqa: BLE001 - it is raised in the test's thread
            errors.append(e)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive(), "it hangs"
    if errors:
        raise errors[0]


def tar(one: Link) -> TarStreamSource:
    """A link that is not on tape."""
    return TarStreamSource(io.BytesIO(one.tar(part_size=PART)))


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


@contextmanager
def by_path(station: Station, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The path of the first drive; where there is none, the double is behind it."""
    with monkeypatch.context() as patch:
        if isinstance(station, FakeStation):
            patch.setattr(volumes, "is_tape", lambda path: path == station.path)
            patch.setattr(position, "_check_path", lambda path: None)
            patch.setattr(position, "StDevice", station.open_device)
        yield station.path


def test_each_opened_by_the_device_path(
    station: Station, drive: TapeDrive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every source has a `TapeDrive` of its own, which lets go of the device between."""
    put_all(drive)
    drive.close()
    for verify_first in (False, True):
        with by_path(station, monkeypatch) as path, ExitStack() as stack:
            sources = [
                stack.enter_context(TarStreamSource(path, file=file)) for file in (3, 1, 0, 2)
            ]
            assert [source.device for source in sources] == [path] * 4
            drive.rewind()  # others can use it meanwhile
            drive.close()
            assert restored(sources, verify_first=verify_first) == WEEK[3].disk
            assert len(listing(drive)) == 4
            drive.close()


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


# --- Others use the drive between the opening and the reading ---


def rewind(station: Station, drive: TapeDrive) -> None:
    with drive.turn():
        drive.rewind()


def go_elsewhere(station: Station, drive: TapeDrive) -> None:
    with drive.turn():
        drive.go_to_file(2)
        drive.read_record(memoryview(bytearray(2 * RECORD)))


def append(station: Station, drive: TapeDrive) -> None:
    backup(drive, disk(7), "another")


def scan(station: Station, drive: TapeDrive) -> None:
    list(drive.scan())


def restore_another(station: Station, drive: TapeDrive) -> None:
    with TarStreamSource(drive, file=1) as source:
        copy(source, MemorySink())


def exchange_and_bring_back(station: Station, drive: TapeDrive) -> None:
    with drive.turn():
        change_tape(station, drive, "T0002")
        drive.read_label()
        change_tape(station, drive, "T0001")


def let_go(station: Station, drive: TapeDrive) -> None:
    with drive.turn():
        drive.release()


MEANWHILE = [rewind, go_elsewhere, append, scan, restore_another, exchange_and_bring_back, let_go]


@pytest.mark.parametrize("meanwhile", MEANWHILE)
def test_meanwhile(
    station: Station, drive: TapeDrive, meanwhile: Callable[[Station, TapeDrive], None]
) -> None:
    """Between the opening and the reading, and between the check and the reading."""
    put_all(drive)
    with opened(drive, 3, 2, 0, 1) as sources:
        in_a_thread(lambda: meanwhile(station, drive))
        merged = merge_chain(sources)
        in_a_thread(lambda: meanwhile(station, drive))
        sink = MemorySink()
        copy(merged, sink, **FEW)
        assert bytes(sink.disk) == WEEK[3].disk
    with opened(drive, 2) as [source]:
        in_a_thread(lambda: meanwhile(station, drive))
        sink = MemorySink()
        copy(source, sink)
        data = [e for e in WEEK[2].extents if e.dirty and not e.zero]
        for e in data:
            end = e.start + e.length
            assert sink.disk[e.start : end] == WEEK[2].disk[e.start : end]


def test_a_backup_by_another_thread_while_the_chain_is_read(
    station: Station, drive: TapeDrive
) -> None:
    """It takes its turn between two links, and the chain goes back to where it was."""
    put_all(drive)
    threads: list[threading.Thread] = []

    def begin(start: int, length: int) -> None:
        if not threads:
            other = threading.Thread(target=lambda: backup(drive, disk(7), "another"))
            threads.append(other)
            other.start()

    with opened(drive, 3, 2, 0, 1) as sources:
        assert restored(sources, MemorySink(before_write=begin)) == WEEK[3].disk
    threads[0].join()
    assert listing(drive)[4] == "another"
    assert all(not line.endswith("incomplete") for line in listing(drive))


def test_another_tape(station: Station, drive: TapeDrive) -> None:
    """Empty, or with another backup: nothing is written. With the right one it then works."""
    station.needs_operator()
    change_tape(station, drive, "T0002")
    put_all(drive, [WEEK[0], WEEK[2]])
    change_tape(station, drive, "T0001")
    put_all(drive)
    for name in ("T0002", "T0003"):
        with opened(drive, 0, 1, 2, 3) as sources:
            change_tape(station, drive, name)
            sink = MemorySink()
            with pytest.raises(WrongTapeError, match="is not the backup of vm, disk"):
                restored(sources, sink)
            assert untouched(sink)
            change_tape(station, drive, "T0001")
            assert restored(sources) == WEEK[3].disk


def test_another_tape_after_the_check(station: Station, drive: TapeDrive) -> None:
    station.needs_operator()
    put_all(drive)
    with opened(drive, 0, 1, 2, 3) as sources:
        merged = merge_chain(sources)
        change_tape(station, drive, "T0002")
        sink = MemorySink()
        with pytest.raises(WrongTapeError), sink:
            copy(merged, sink)
        assert sink.written == []
        assert sink.state == "aborted"


def test_no_tape(station: Station, drive: TapeDrive) -> None:
    station.needs_operator()
    put_all(drive)
    with opened(drive, 0, 1) as sources:
        drive.release()
        station.eject()
        sink = MemorySink()
        with pytest.raises(TapeError):
            restored(sources, sink)
        assert untouched(sink)


@pytest.mark.parametrize("deed", ["swap", "reset"])
def test_behind_the_back_of_the_open_drive(station: Station, drive: TapeDrive, deed: str) -> None:
    """The driver tells it once, by an error: whatever comes of it, nothing wrong is written."""
    station.needs_operator()
    put_all(drive)
    with opened(drive, 0, 1, 2, 3) as sources:
        if deed == "swap":
            station.swap("T0002")
        else:
            station.reset()
        sink = MemorySink()
        try:
            restored(sources, sink)
        except TapeError:
            assert untouched(sink)
        else:
            assert deed == "reset"
            assert bytes(sink.disk) == WEEK[3].disk
        if deed == "swap":
            change_tape(station, drive, "T0001")
        assert restored(sources) == WEEK[3].disk


def test_two_tapes_left_at_the_same_position(station: Station, drive: TapeDrive) -> None:
    """One source of each, opened one after the other in one drive, then copied one by one."""
    station.needs_operator()
    data = disk(1), disk(2)
    for name, content in zip(("T0001", "T0002"), data, strict=True):
        change_tape(station, drive, name)
        backup(drive, content, "disk")
    change_tape(station, drive, "T0001")
    requests: list[VolumeRequest] = []

    def operator(request: VolumeRequest) -> None:
        requests.append(request)
        station.swap("T0001")

    with TarStreamSource(drive, file=0, on_next_volume=operator) as first:
        change_tape(station, drive, "T0002")
        with TarStreamSource(drive, file=0):
            sink = MemorySink()
            copy(first, sink)
    assert bytes(sink.disk) == data[0]
    assert len(requests) == 1


def test_the_drive_is_free_after_a_failure(station: Station, drive: TapeDrive) -> None:
    """Once the sources are closed."""

    def fail(start: int, length: int) -> None:
        raise LocalIOError("disk full")

    put_all(drive)
    with opened(drive, 0, 1) as sources, pytest.raises(LocalIOError, match="disk full"):
        restored(sources, MemorySink(before_write=fail))
    in_a_thread(lambda: append(station, drive))
    with opened(drive, 0, 1) as sources:
        assert restored(sources) == WEEK[1].disk


def test_the_drive_after_a_failure_while_the_sources_are_open() -> None:
    """For the thread that called: to be told that it is in use is right, too; to wait is not."""

    def fail(start: int, length: int) -> None:
        if R <= start < 2 * R:  # of the second link, which a reader's thread has opened
            raise LocalIOError("disk full")

    drive = tape_drive(FakeStation())
    put_all(drive, WEEK[:2])

    def fail_and_scan() -> None:
        with opened(drive, 0, 1) as sources:
            with pytest.raises(LocalIOError, match="disk full"):
                restored(sources, MemorySink(before_write=fail))
            with suppress(UsageError):
                list(drive.scan())

    in_a_thread(fail_and_scan)
    in_a_thread(lambda: append(FakeStation(), drive))


# --- Several tapes ---


class Shelf:
    """Loads the tape on which a volume is, when it is asked for.

    Attributes:
        requests: What was asked for.
    """

    def __init__(self, station: Station) -> None:
        self.requests: list[VolumeRequest] = []
        self._station = station
        self._where: dict[tuple[str, int], str] = {}

    def keep(self, result: CopyResult, *names: str) -> None:
        """Remember on which tapes the volumes of a backup are."""
        assert result.tape is not None
        for volume, name in enumerate(names, 1):
            self._where[result.tape.set_id, volume] = name

    def __call__(self, request: VolumeRequest) -> None:
        self.requests.append(request)
        self._station.swap(self._where[request.set_id, request.volume])

    @property
    def asked(self) -> list[tuple[str, int]]:
        """The tapes that were asked for, and the volumes."""
        return [(self._where[r.set_id, r.volume], r.volume) for r in self.requests]


@pytest.fixture
def shelf(station: Station) -> Shelf:
    station.needs_operator()
    return Shelf(station)


def two_tapes(station: Station, drive: TapeDrive, shelf: Shelf) -> None:
    """The full backup on T0001, the incremental ones on T0002, which is loaded in the end."""
    shelf.keep(put(drive, WEEK[0]), "T0001")
    change_tape(station, drive, "T0002")
    backup(drive, disk(1), "other")
    for one in WEEK[1:]:
        shelf.keep(put(drive, one), "T0002")


@contextmanager
def opened_on_two(
    station: Station, drive: TapeDrive, ask: Ask | None
) -> Iterator[list[TarStreamSource]]:
    change_tape(station, drive, "T0001")
    with opened(drive, 0, on_next_volume=ask) as full:
        change_tape(station, drive, "T0002")
        with opened(drive, 3, 1, 2, on_next_volume=ask) as more:
            yield [*more, *full]


@pytest.mark.parametrize("loaded", ["T0001", "T0002", "T0003"])
def test_on_two_tapes_in_one_drive(
    station: Station, drive: TapeDrive, shelf: Shelf, loaded: str
) -> None:
    """Whichever is loaded when the reading begins, the right one is asked for."""
    two_tapes(station, drive, shelf)
    with opened_on_two(station, drive, shelf) as sources:
        assert shelf.requests == []
        change_tape(station, drive, loaded)
        assert restored(sources) == WEEK[3].disk
    asked = shelf.asked
    assert [volume for _, volume in asked] == [1] * len(asked)
    names = [loaded, *(name for name, _ in asked)]
    assert all(a != b for a, b in itertools.pairwise(names))  # never for what is loaded
    assert names[-2:] == ["T0001", "T0002"]
    assert all(request.backup.startswith("vm, disk") for request in shelf.requests)


def test_on_two_tapes_and_nobody_to_change_them(
    station: Station, drive: TapeDrive, shelf: Shelf
) -> None:
    two_tapes(station, drive, shelf)
    sink = MemorySink()
    with opened_on_two(station, drive, None) as sources:
        with pytest.raises(WrongTapeError):
            restored(sources, sink)
        assert untouched(sink)


def test_the_wrong_tape_is_loaded_on_request(
    station: Station, drive: TapeDrive, shelf: Shelf
) -> None:
    two_tapes(station, drive, shelf)
    problems = []
    names = iter(["T0003", "T0002", "T0001"])

    def operator(request: VolumeRequest) -> None:
        problems.append(request.problem)
        name = next(names, None)
        if name:
            station.swap(name)
        else:
            shelf(request)

    with opened_on_two(station, drive, operator) as sources:
        assert restored(sources) == WEEK[3].disk
    assert problems[0] is None
    assert "does not hold volume 1 of vm, disk" in str(problems[1])
    assert "does not hold volume 1 of vm, disk" in str(problems[2])


def test_an_operator_who_gives_up(station: Station, drive: TapeDrive, shelf: Shelf) -> None:
    class GaveUpError(Exception):
        pass

    def operator(request: VolumeRequest) -> None:
        raise GaveUpError

    two_tapes(station, drive, shelf)
    sink = MemorySink()
    with opened_on_two(station, drive, operator) as sources:
        with pytest.raises(GaveUpError):
            restored(sources, sink)
        assert sink.state == "aborted"
        assert sink.written == []
    in_a_thread(lambda: append(station, drive))


def small(station: Station, records: float = 9, warning: float = 3) -> None:
    """T0002 to T0004 become small tapes, with room for so many records."""
    for name in ("T0002", "T0003", "T0004"):
        station.blank(name, int(records * BLOCK_COST) + 64, int(warning * BLOCK_COST))


@pytest.mark.parametrize("verify_first", [False, True])
def test_links_of_several_volumes(
    station: Station, drive: TapeDrive, shelf: Shelf, verify_first: bool
) -> None:
    """A full backup on three tapes, incremental ones behind it, the first of them on two."""
    small(station)
    links = chain(
        [(14 * R, DATA)],
        [(2 * R, CLEAN), (8 * R, DATA), (4 * R, CLEAN)],
        [(R, DATA), (13 * R, CLEAN)],
    )
    change_tape(station, drive, "T0002")
    on_tapes: list[list[str]] = []
    loaded = "T0002"
    for one in links:
        names = [loaded]

        def next_tape(request: VolumeRequest, names: list[str] = names) -> None:
            names.append({"T0002": "T0003", "T0003": "T0004", "T0004": "T0001"}[names[-1]])
            station.swap(names[-1])

        result = put(drive, one, on_volume_full=next_tape)
        loaded = names[-1]
        on_tapes.append(names[-len(places(result)) :])  # what begins on a full tape is void there
        shelf.keep(result, *on_tapes[-1])
    assert len(on_tapes[0]) >= 2
    assert len({name for names in on_tapes for name in names}) >= 3
    with ExitStack() as stack:
        sources = []
        for one, names in zip(links, on_tapes, strict=True):
            change_tape(station, drive, names[0])
            entry = next(
                e for e in drive.scan() if e.info and e.info.backup_id == one.info.backup_id
            )
            sources += stack.enter_context(opened(drive, entry.file, on_next_volume=shelf))
        assert restored(sources[::-1], verify_first=verify_first) == links[-1].disk
    volumes_asked = {request.volume for request in shelf.requests}
    assert volumes_asked >= {1, 2}


# --- Two drives ---


def test_two_drives_one_chain(station: Station, drive: TapeDrive, tmp_path: Path) -> None:
    """One link on each: side by side, also into a tar. Two on one: one after another."""
    station.needs_operator()
    put_all(drive, [WEEK[0], WEEK[2]])
    station.load("T0002", 1)
    with tape_drive(station, 1) as other:
        put_all(other, [WEEK[1], WEEK[3]])
        target = tmp_path / "merged.tar"
        with (
            opened(drive, 0) as full,
            opened(other, 0) as more,
            TarStreamSink(target) as sink,
        ):
            copy(merge_chain([*more, *full]), sink, **FEW)
        with TarStreamSource(target) as merged:
            image = MemorySink()
            copy(merged, image)
        assert bytes(image.disk) == WEEK[1].disk
        for verify_first in (False, True):
            with opened(drive, 0, 1) as some, opened(other, 1, 0) as rest:
                sources = [*rest, *some]
                assert restored(sources, verify_first=verify_first) == WEEK[3].disk


@pytest.mark.parametrize("left", ["T0003", None])
def test_the_tape_is_in_the_other_drive(
    station: Station, drive: TapeDrive, left: str | None
) -> None:
    """What is in the first drive now, if anything, does not matter."""
    station.needs_operator()
    put_all(drive, WEEK[:2])
    with tape_drive(station, 1) as other:
        with opened(drive, 0, 1, on_next_volume=lambda _: other) as sources:
            drive.release()
            station.eject()
            station.load("T0001", 1)
            if left:
                station.load(left)
            assert restored(sources) == WEEK[1].disk
        for one in (drive, other):
            in_a_thread(partial(_use, one))


def _use(drive: TapeDrive) -> None:
    with drive.turn():
        pass


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


class _LoggedDevice(TapeDevice):
    def __init__(self, log: Log, device: TapeDevice) -> None:
        self._log = log
        self._device = device

    def command(self, command: Command, count: int = 1) -> None:
        self._log.commands.append((command, count))
        self._device.command(command, count)

    def write(self, record: memoryview) -> int:
        return self._device.write(record)

    def readinto(self, buffer: memoryview) -> int:
        return self._device.readinto(buffer)

    def status(self) -> DeviceStatus:
        return self._device.status()

    def position(self) -> int:
        return self._device.position()

    def close(self) -> None:
        self._device.close()


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


# --- go_to_file ---


def numbered(drive: TapeDrive, count: int) -> None:
    """Tape files of different lengths; each record tells its file, and its number in it."""
    for file in range(count):
        for number in range(file % 3 + 1):
            drive.write_record(memoryview(record(file, number)))
        drive.write_filemark()


def record(file: int, number: int) -> bytes:
    return f"record {number} of file {file}".encode().ljust(1024, b".")


def read_here(drive: TapeDrive) -> bytes:
    buffer = memoryview(bytearray(4096))
    return bytes(buffer[: drive.read_record(buffer)])


FILES = 5


def _to_its_filemark(drive: TapeDrive) -> None:
    while read_here(drive):
        pass


def _middle(drive: TapeDrive) -> None:
    read_here(drive)


def _before_its_filemark(drive: TapeDrive) -> None:
    drive.forward_files(1)
    drive.before_filemark()


def _opened_anew(drive: TapeDrive) -> None:
    read_here(drive)
    drive.release()


def _records_wound_back(drive: TapeDrive) -> None:
    read_here(drive)
    drive.backward_records(1)


def _error_in_winding(drive: TapeDrive) -> None:
    with pytest.raises(TapeError):
        drive.forward_files(9)


def _error_in_winding_back(drive: TapeDrive) -> None:
    with pytest.raises(TapeError):
        drive.backward_files(9)


STARTS: dict[str, Callable[[TapeDrive], None]] = {
    "its beginning": lambda drive: None,
    "the middle": _middle,
    "its filemark": _to_its_filemark,
    "before its filemark": _before_its_filemark,
    "a seek": lambda drive: drive.seek(drive.tell()),
    "a seek into the middle": lambda drive: drive.seek(drive.tell() + 1),
    "the end of data": lambda drive: drive.end_of_data(),
    "its beginning, opened anew": lambda drive: drive.release(),
    "the middle, opened anew": _opened_anew,
    "an error in winding": _error_in_winding,
    "an error in winding back": _error_in_winding_back,
    "records wound back": _records_wound_back,
}


@pytest.mark.parametrize("start", STARTS)
def test_from_any_file_to_any_other(station: Station, drive: TapeDrive, start: str) -> None:
    numbered(drive, FILES)
    for here in cases(station, range(FILES), [0, 2]):
        for there in cases(station, range(FILES), [0, 1, 2, 4]):
            drive.rewind()
            if here:
                drive.forward_files(here)
            STARTS[start](drive)
            drive.go_to_file(there)
            assert read_here(drive) == record(there, 0), f"from file {here} to {there}"


def test_to_the_end_and_beyond(station: Station, drive: TapeDrive) -> None:
    """The file behind the last is where the next backup goes; there are none behind it."""
    numbered(drive, 3)
    for here in range(4):
        drive.go_to_file(here)
        drive.go_to_file(3)
        assert drive.status().file == 3
        with pytest.raises(TapeError):
            drive.go_to_file(5)
        drive.go_to_file(1)
        assert read_here(drive) == record(1, 0)
        with pytest.raises(TapeError):
            drive.go_to_file(4)
    drive.go_to_file(2)
    assert read_here(drive) == record(2, 0)


@pytest.mark.parametrize("operation", ["read", "position"])
def test_after_an_error(station: Station, drive: TapeDrive, operation: Any) -> None:
    station.needs_operator()
    numbered(drive, FILES)
    for there in cases(station, range(FILES), [0, 2, 4]):
        drive.go_to_file(2)
        station.fail(operation)
        with pytest.raises((TapeError, OSError)):
            read_here(drive) if operation == "read" else drive.tell()
        with suppress(TapeError, OSError):
            drive.go_to_file(there)
            assert read_here(drive) == record(there, 0)
        drive.go_to_file(there)
        assert read_here(drive) == record(there, 0)


@pytest.mark.parametrize("deed", ["reset", "swap"])
def test_behind_its_back(station: Station, drive: TapeDrive, deed: str) -> None:
    """It fails once, or is right: never another file."""
    station.needs_operator()
    numbered(drive, FILES)
    for here in cases(station, range(FILES), [3]):
        for there in cases(station, range(FILES), [1, 4]):
            drive.go_to_file(here)
            drive.status()
            if deed == "reset":
                station.reset()
            else:
                station.swap("T0002")
                station.swap("T0001")
            with suppress(TapeError, OSError):
                drive.go_to_file(there)
                assert read_here(drive) == record(there, 0)
            drive.go_to_file(there)
            assert read_here(drive) == record(there, 0)


def test_after_anything(station: Station) -> None:
    """Random deeds, and then any file: it is the right one, or it was an error."""
    station.needs_operator()
    right = 0
    for seed in cases(station, range(300), range(6)):
        station.eject()
        station.blank("T0001")
        station.load("T0001")
        with tape_drive(station) as drive:
            right += _anything(station, drive, random.Random(seed))
    assert right > 10


def _anything(station: Station, drive: TapeDrive, rng: random.Random) -> int:
    """How often it went to the right file."""
    deeds: dict[str, Callable[[], object]] = {
        "read": lambda: read_here(drive),
        "rewind": drive.rewind,
        "end of data": drive.end_of_data,
        "forward": lambda: drive.forward_files(rng.randrange(1, 3)),
        "backward": lambda: drive.backward_files(rng.randrange(3)),
        "record back": drive.backward_records,
        "before filemark": drive.before_filemark,
        "seek": lambda: drive.seek(rng.randrange(14)),
        "release": drive.release,
        "tell": drive.tell,
        "reset": station.reset,
        "failed read": lambda: (station.fail("read"), read_here(drive)),
    }
    numbered(drive, FILES)
    trail: list[str] = []
    right = 0
    for _ in range(12):
        trail.append(rng.choice(list(deeds)))
        with suppress(TapeError, OSError):
            deeds[trail[-1]]()
        if rng.random() < 0.4:
            there = rng.randrange(FILES)
            trail.append(f"go to {there}")
            try:
                drive.go_to_file(there)
                found = read_here(drive)
            except (TapeError, OSError):
                trail.append("failed")
                continue
            assert found == record(there, 0), str(trail)
            right += 1
    return right
