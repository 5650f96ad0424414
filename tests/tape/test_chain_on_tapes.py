"""Chains of backups on several tapes, and in two drives."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from tapestream import CopyResult, TarStreamSink, TarStreamSource, copy, merge_chain
from tapestream.errors import WrongTapeError
from tapestream.tape import TapeDrive, VolumeRequest
from tapestream.testing.memory import MemorySink
from tests.drive.stations import Station

from ..chains import CLEAN, DATA, chain, untouched
from .chaining import FEW, WEEK, R, append, in_a_thread, opened, put, put_all, restored
from .tapes import BLOCK_COST, Ask, backup, change_tape, disk, places, tape_drive

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("quiet")]


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
        assert result.receipt is not None
        for volume, name in enumerate(names, 1):
            self._where[result.receipt.set_id, volume] = name

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
        assert sink.writes == sink.zeros == []
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
