"""A tape file is listed in one session and read in another; the drive is free in between."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from tapestream import DiscardSink, TarStreamSource, copy, verify
from tapestream.errors import CorruptStreamError, StreamError, TapeError
from tapestream.model.damage import Findings
from tapestream.tape import TapeDrive
from tests.drive.stations import FakeStation, Station

from ..tar.layouts import Layout, flipped
from .chaining import in_a_thread
from .tapes import RECORD, backup, disk, tape_drive

pytestmark = pytest.mark.timeout(120)

ATTACHMENTS = {"vm.ovf": b"<ovf/>" * 100, "large": bytes(2 * RECORD)}
SIZE = 5 * RECORD


@pytest.fixture
def double() -> FakeStation:
    return FakeStation()


def written(station: Station) -> TapeDrive:
    drive = tape_drive(station)
    backup(drive, disk(1, SIZE), "disk", part_size=RECORD, attachments=ATTACHMENTS)
    return drive


def damage_header(station: FakeStation, member: str) -> None:
    blocks = station.shelf["T0001"].blocks
    stream = b"".join(block for block in blocks if block)
    record, offset = divmod(Layout(stream).place(member).header, RECORD)
    blocks[record] = flipped(blocks[record], offset)


def test_what_was_listed_is_kept(station: Station) -> None:
    """Others use the drive, and what they do to it does not matter."""
    drive = written(station)
    with TarStreamSource(drive, file=0) as source:
        extents = source.extents()
        for _ in range(2):
            in_a_thread(lambda: list(drive.scan()))
            assert source.extents() is extents
            assert source.attachments == ATTACHMENTS
        copy(source, DiscardSink())
        in_a_thread(lambda: list(drive.scan()))
        assert source.attachments == ATTACHMENTS
        source.rewind()
        assert source.extents() is extents
        assert verify(source).ok


@pytest.mark.parametrize("member", ["extents.json", "attachments/vm.ovf", "attachments/large"])
def test_a_bad_header_before_the_data(member: str, double: FakeStation) -> None:
    """It stops a strict reader when it is asked for what it did not list, and nobody else."""
    drive = written(double)
    damage_header(double, member)
    with TarStreamSource(drive, file=0) as source:
        in_a_thread(lambda: list(drive.scan()))
        for _ in range(2):
            with pytest.raises(CorruptStreamError):
                source.extents()
        report = verify(source)
        assert (report.damage, report.complete, report.data_bytes) == ((), True, SIZE)
        assert report.problems[0].startswith(f"{member}: ")
        assert len(report.problems) == (1 if member == "extents.json" else 2)
    in_a_thread(lambda: list(drive.scan()))
    with TarStreamSource(drive, file=0, allow_incomplete=True) as source:
        copy(source, DiscardSink())
        assert source.findings is not None
        assert tuple(source.findings.problems) == report.problems


def test_a_bad_record_before_the_data(double: FakeStation) -> None:
    drive = written(double)
    double.shelf["T0001"].bad = {1}  # of an attachment
    with TarStreamSource(drive, file=0) as source:
        with pytest.raises(TapeError):
            source.extents()
        report = verify(source)
        assert (report.damage, report.complete, report.data_bytes) == ((), True, SIZE)


def test_a_view_of_a_stream_leaves_the_source_strict(double: FakeStation) -> None:
    drive = written(double)
    damage_header(double, "attachments/vm.ovf")
    findings = Findings()
    with TarStreamSource(drive, file=0) as source:
        view: Any = source.salvaging(findings)
        assert view.extents()
        assert source.findings is None
        assert view.findings is findings
        with pytest.raises(StreamError):
            copy(source, DiscardSink())
        copy(view, DiscardSink())
        assert findings.complete
        assert findings.problems


@pytest.mark.parametrize("is_read", [False, True])
def test_a_source_that_is_forgotten_gives_the_drive_back_immediately(
    is_read: bool, double: FakeStation
) -> None:
    """Not only when the garbage collector comes by: others wait for the drive."""
    drive = written(double)
    drive.rewind()
    source = TarStreamSource(drive)
    if is_read:
        verify(source)
    gc.disable()
    try:
        with pytest.warns(ResourceWarning, match="still in use"):
            del source
        in_a_thread(lambda: list(drive.scan()))
    finally:
        gc.enable()
