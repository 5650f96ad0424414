"""Only one reading is lenient: after an error, a rewind or an interrupt a source is strict."""

from __future__ import annotations

import io
from contextlib import suppress
from typing import Any

import pytest

from tapestream import DiscardSink, TarStreamSource, VerifyReport, copy, verify
from tapestream.errors import (
    CorruptStreamError,
    DigestMismatchError,
    LocalIOError,
    TapestreamError,
    UsageError,
)
from tapestream.model.damage import Findings
from tests.disks import noise
from tests.tar.layouts import Layout, flipped
from tests.tar.sectors import SECTOR, BadSectors
from tests.tar.tars import tar_of_disk
from tests.workflows.verifying import (
    BIG,
    KIB,
    LAYOUT,
    ONE,
    TAR,
    assert_bad_sectors,
    missing_and_damaged,
    sector_at,
    verified,
    with_header,
)

pytestmark = pytest.mark.timeout(120)


# --- Only one reading is lenient ---


def test_options_that_cannot_be_leave_a_strict_source() -> None:
    damaged = flipped(TAR, LAYOUT.data[1].data)
    with TarStreamSource(io.BytesIO(damaged)) as source:
        with pytest.raises(UsageError):
            verify(source, max_workers=0)
        assert source.findings is None
        assert source.digest_name == "sha256"
        with pytest.raises(DigestMismatchError):
            copy(source, DiscardSink())


def test_after_such_options_it_can_be_verified() -> None:
    for tar in (TAR, flipped(TAR, LAYOUT.data[1].data), with_header(TAR, "extent-1@0", "noise")):
        with TarStreamSource(io.BytesIO(tar)) as source:
            with pytest.raises(UsageError):
                verify(source, max_workers=0)
            assert verify(source) == verified(tar)


def test_a_damaged_attachment_does_not_make_a_strict_source_lenient() -> None:
    damaged = with_header(TAR, "attachments/vm.ovf", "flipped")
    with TarStreamSource(io.BytesIO(damaged)) as source:
        with pytest.raises(UsageError):
            verify(source, max_workers=0)
        with pytest.raises(CorruptStreamError):
            copy(source, DiscardSink())


def test_an_error_of_the_progress_leaves_a_strict_source() -> None:
    class Broken:
        total = 0

        def update(self, n: int) -> None:
            raise RuntimeError("broken")

    with TarStreamSource(io.BytesIO(flipped(TAR, LAYOUT.data[1].data))) as source:
        with pytest.raises(RuntimeError, match="broken"):
            verify(source, progress=Broken())
        assert source.findings is None
        source.rewind()
        with pytest.raises(DigestMismatchError):
            copy(source, DiscardSink())


def test_allow_incomplete_stays() -> None:
    damaged = flipped(TAR, LAYOUT.data[1].data)
    with TarStreamSource(io.BytesIO(damaged), allow_incomplete=True) as source:
        for _ in range(2):
            report = verify(source)
            assert report == verified(damaged)
            source.rewind()
            assert source.findings == Findings()
        copy(source, DiscardSink())
        assert source.findings is not None
        assert tuple(source.findings.damage) == report.damage
        assert (source.findings.digest_name, source.digest_name) == ("sha256", None)


def test_strict_bad_sectors_after_a_rewind() -> None:
    with TarStreamSource(BadSectors(BIG, ONE)) as source:
        assert_bad_sectors(verify(source), ONE)
        source.rewind()
        with pytest.raises(LocalIOError):
            copy(source, DiscardSink())
        source.rewind()
        assert_bad_sectors(verify(source), ONE)


def test_a_damaged_attachment_is_told_once_more_after_a_rewind() -> None:
    with TarStreamSource(io.BytesIO(with_header(TAR, "attachments/vm.ovf", "flipped"))) as source:
        first = verify(source)
        source.rewind()
        assert verify(source) == first


@pytest.mark.parametrize("sectors", [False, True], ids=["header", "bad sector"])
def test_nothing_is_read_behind_a_rewind_that_failed(sectors: bool) -> None:
    """Either it is refused, or all that is good is called so."""
    at = BEGUN_LAYOUT.place("attachments/a").data + SECTOR
    file: Any = BadSectors(BEGUN, [sector_at(at)])
    if not sectors:
        file = io.BytesIO(with_header(BEGUN, "attachments/a", "flipped"))
    with TarStreamSource(file) as source:
        first = verify(source)
        assert first.damage == ()
        with suppress(TapestreamError):
            source.rewind()
        try:
            again = verify(source)
        except TapestreamError:
            return
        assert again == first


def test_a_strict_source_that_was_read_past_a_bad_sector_must_be_rewound() -> None:
    """What zeros stand for must not be read as data."""

    class Broken:
        total = done = 0

        def update(self, n: int) -> None:
            self.done += n
            if self.done > 400 * KIB:
                raise RuntimeError("broken")

    with TarStreamSource(BadSectors(BIG, ONE)) as source:
        with pytest.raises(RuntimeError, match="broken"):
            verify(source, progress=Broken(), buffer_size=4096, buffer_memory=8192)
        for _ in range(2):
            with pytest.raises(UsageError, match="rewind it"):
                source.extents()
        with pytest.raises(UsageError):
            copy(source, DiscardSink())
        source.rewind()
        assert source.extents()
        assert_bad_sectors(verify(source), ONE)


def test_a_damaged_attachment_is_told_where_it_was_read_before() -> None:
    damaged = with_header(TAR, "attachments/vm.ovf", "flipped")
    with TarStreamSource(io.BytesIO(damaged), allow_incomplete=True) as source:
        assert source.attachments == {}
        assert verify(source) == verified(damaged)


def test_allow_incomplete_stays_where_verify_fails() -> None:
    damaged = flipped(TAR, LAYOUT.data[1].data)
    with TarStreamSource(io.BytesIO(damaged), allow_incomplete=True) as source:
        with pytest.raises(UsageError):
            verify(source, max_workers=0)
        copy(source, DiscardSink())
        assert source.findings is not None
        assert source.findings.damage == LAYOUT.segments_with([LAYOUT.data[1].data])


# One sector has the first header, and data behind it.
BEGUN = tar_of_disk(noise(100 * KIB), part_size=16 * KIB, attachments={"a": noise(8000)})
BEGUN_LAYOUT = Layout(BEGUN)
BEGUN_BAD = [sector_at(BEGUN_LAYOUT.first_header)]


def verified_at_once(source: TarStreamSource) -> VerifyReport:
    return verify(source)


def verified_after_its_extents(source: TarStreamSource) -> VerifyReport:
    source.extents()
    return verify(source)


def verified_after_an_error(source: TarStreamSource) -> VerifyReport:
    with pytest.raises(UsageError):
        verify(source, max_workers=0)
    return verify(source)


def verified_after_a_rewind(source: TarStreamSource) -> VerifyReport:
    copy(source, DiscardSink())
    source.rewind()
    return verify(source)


@pytest.mark.parametrize(
    "how",
    [
        verified_at_once,
        verified_after_its_extents,
        verified_after_an_error,
        verified_after_a_rewind,
    ],
)
def test_a_bad_sector_across_the_first_header(how: Any) -> None:
    """However it was read before: what is behind the sector is where it was."""
    (start, end), place = BEGUN_BAD[0], BEGUN_LAYOUT.data[0]
    assert start < place.header < place.data < end
    with TarStreamSource(BadSectors(BEGUN, BEGUN_BAD), allow_incomplete=True) as source:
        report = how(source)
    assert list(report.damage) == missing_and_damaged(BEGUN_LAYOUT, BEGUN_BAD)
    assert report.complete


# --- Interrupted ---


class Interrupts(io.BytesIO):
    """Raises once, where a read has come by an offset, having read up to there."""

    def __init__(self, data: bytes, at: int, error: BaseException | None) -> None:
        super().__init__(data)
        self._at = at
        self._error = error
        self._done = False

    def readinto(self, buffer: Any) -> Any:
        left = self._at - self.tell()
        if left > 0:
            return super().readinto(memoryview(buffer)[:left])
        if self._done:
            return super().readinto(buffer)
        self._done = True
        if self._error is None:
            return None  # it is not ready
        raise self._error


INTERRUPTED_IN = {
    "extents.json": LAYOUT.place("extents.json").data + 5,
    "an attachment": LAYOUT.place("attachments/vm.ovf").data + 5,
    "the first header": LAYOUT.first_header + 5,
}


@pytest.mark.parametrize("at", INTERRUPTED_IN.values(), ids=INTERRUPTED_IN)
@pytest.mark.parametrize("error", [KeyboardInterrupt(), None], ids=repr)
def test_an_interrupted_reading_of_the_extents_is_not_taken_up(
    at: int, error: BaseException | None
) -> None:
    """Part of a member is gone: to read on there would be out of step."""
    with TarStreamSource(Interrupts(TAR, at, error)) as source:
        with pytest.raises(type(error) if error else UsageError):
            source.extents()
        for _ in range(2):
            with pytest.raises(UsageError, match="open it anew"):
                source.extents()
        with pytest.raises(UsageError, match="open it anew"):
            copy(source, DiscardSink())


@pytest.mark.parametrize("at", INTERRUPTED_IN.values(), ids=INTERRUPTED_IN)
def test_nor_by_verify(at: int) -> None:
    with TarStreamSource(Interrupts(TAR, at, KeyboardInterrupt())) as source:
        with pytest.raises(KeyboardInterrupt):
            source.extents()
        with pytest.raises(UsageError, match="open it anew"):
            verify(source)


def test_an_interrupt_ends_verify() -> None:
    for at in (*INTERRUPTED_IN.values(), LAYOUT.data[1].data + 5, len(TAR) - 3):
        with TarStreamSource(Interrupts(TAR, at, KeyboardInterrupt())) as source:
            with pytest.raises(KeyboardInterrupt):
                verify(source)
            assert source.findings is None


def test_a_damaged_attachment_is_raised_until_it_is_tolerated() -> None:
    damaged = with_header(TAR, "attachments/vm.ovf", "flipped")
    with TarStreamSource(io.BytesIO(damaged)) as source:
        for _ in range(2):
            with pytest.raises(CorruptStreamError):
                source.extents()
        assert verify(source) == verified(damaged)
