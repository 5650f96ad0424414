"""Salvage of a backup on several tapes, of which a later one is damaged where it repeats data.

A tape that was full in the middle of a member is followed by one that begins with this member.
"""

from __future__ import annotations

import pytest

from tapestream import Findings, TarStreamSource
from tapestream.errors import UsageError
from tapestream.testing.drive import Cartridge
from tapestream.testing.memory import MemorySink
from tests.disks import noise

from .backups import RECORD_SIZE, Stacker, quick_copy

KIB = 1024
DISK = noise(2000 * KIB)
PART = 4 * RECORD_SIZE
# The first tape holds three members and most of a fourth one, with which the second tape begins.
ROOM = 15 * (RECORD_SIZE + 8) + 1000


def two_tapes() -> Stacker:
    station = Stacker(Cartridge(ROOM, 0))
    station.backup(DISK, part_size=PART, on_volume_full=station.next_tape)
    assert station.number == 1
    return station


def salvaged(station: Stacker) -> tuple[bytes, Findings]:
    def next_tape(_: object) -> None:
        if station.number == 1:
            raise UsageError("there are only two tapes")
        station.load(1)

    station.load(0)
    station.tape.go_to_file(0)
    with (
        TarStreamSource(station.tape, allow_incomplete=True, on_next_volume=next_tape) as source,
        MemorySink() as sink,
    ):
        quick_copy(source, sink)
        assert source.findings is not None
        return bytes(sink.disk), source.findings


def damage_header(blocks: list[bytes]) -> None:
    """Damage the header of the first data member."""
    at = blocks[0].index(b"extent-1@")
    blocks[0] = blocks[0][:at] + b"?" * 100 + blocks[0][at + 100 :]


def check(disk: bytes, findings: Findings) -> None:
    """All bytes that differ are in the findings, and these are few."""
    assert sum(each.length for each in findings.damage) <= 3 * PART
    restored, expected = bytearray(disk), bytearray(DISK)
    for each in findings.damage:
        for image in (restored, expected):
            image[each.start : each.start + each.length] = bytes(each.length)
    assert restored == expected


@pytest.mark.parametrize("record", range(1, 5))
def test_records_of_the_second_tape_are_missing(record: int) -> None:
    """The next member comes before the place up to which the first one was read."""
    station = two_tapes()
    del station.shelf[1].blocks[record : record + 2]
    check(*salvaged(station))


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_bad_header_with_records_missing_after_it(missing: int) -> None:
    station = two_tapes()
    blocks = station.shelf[1].blocks
    damage_header(blocks)
    del blocks[1 : 1 + missing]
    check(*salvaged(station))


def test_a_bad_header_in_what_was_already_read() -> None:
    """The data after it is where it should be: nothing is missing or damaged."""
    station = two_tapes()
    damage_header(station.shelf[1].blocks)
    disk, findings = salvaged(station)
    assert disk == DISK
    assert not findings.damage
    assert findings.problems
