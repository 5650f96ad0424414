"""verify() of any stream with any damage, cuts, and streams out of step."""

from __future__ import annotations

import gzip
import io
import itertools
import tracemalloc
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tapestream import Damage, TarStreamSource, verify
from tapestream.errors import TapestreamError
from tapestream.model.damage import MAX_PROBLEMS
from tapestream.workflows.verify import MAX_LINES
from tests.disks import noise
from tests.strategies import extent_lists
from tests.tar.layouts import Layout, differing, flipped, zeroed
from tests.tar.tars import SIZE, tar_of_disk
from tests.workflows.verifying import (
    CHECKSUMS,
    KIB,
    LAYOUT,
    MIB,
    TAR,
    assert_good,
    bad_header,
    out_of_step,
    suspects,
    told,
    verified,
)

pytestmark = pytest.mark.timeout(120)


# --- Any damage, of any stream ---


@st.composite
def streams(draw: st.DrawFn, checksums: Sequence[str | None] = CHECKSUMS) -> Layout:
    extents = draw(extent_lists(min_size=draw(st.integers(0, 4)), max_size=8, max_length=3000))
    size = sum(extent.length for extent in extents)
    tar = tar_of_disk(
        noise(size, draw(st.integers(0, 9))),
        extents,
        part_size=draw(st.sampled_from([512, 1024, 1536, 4096])),
        record_size=draw(st.sampled_from([512, 2048, 10240])),
        checksum=draw(st.sampled_from(checksums)),
        attachments=draw(st.sampled_from([{}, {"vm.ovf": b"<ovf/>" * 100, "b": b""}])),
    )
    return Layout(tar)


@st.composite
def damages(draw: st.DrawFn, layout: Layout) -> bytes:
    """The tar with some bytes turned, and some stretches zeroed: in each member alike."""
    tar = layout.tar
    borders = [0, *(at for p in layout.places[1:] for at in (p.header, p.data, p.end)), len(tar)]
    regions = [(a, b) for a, b in itertools.pairwise(borders) if a < b]
    # What hits the preamble is soon tested.
    anywhere = st.sampled_from(regions[1:] * 4 + regions[:1]).flatmap(
        lambda region: st.integers(region[0], region[1] - 1)
    )
    for _ in range(draw(st.integers(0, 4))):
        tar = flipped(tar, draw(anywhere))
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        tar = zeroed(tar, draw(anywhere), draw(st.integers(1, 3000)))
    return tar


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_damage(data: st.DataObject) -> None:
    layout = data.draw(streams((*CHECKSUMS, None)))
    tar = layout.tar
    damaged = data.draw(damages(layout))
    cut = data.draw(st.sampled_from([len(tar)] * 3 + [p.data + 9 for p in layout.places]))
    where = set(differing(tar, damaged))
    damaged = damaged[:cut]
    preamble = layout.place("backup-info.json").end
    try:
        source = TarStreamSource(io.BytesIO(damaged))
    except TapestreamError:
        assert cut < preamble or min(where) < preamble
        return
    with source:
        report = verify(source)  # whatever it is, it is reported
    if damaged == tar:
        assert_good(report, checksum=source.digest_name)
        return
    if source.digest_name is not None:
        assert not report.ok or layout.is_harmless(damaged)
    assert report.complete <= (cut == len(tar))
    if report.checksum is not None:  # what is wrong is told
        wrong = {at - p.data + p.start for p in layout.data for at in where if p.data <= at < p.end}
        assert wrong <= told(report)
    # All that is needed to locate the damage is there.
    manifest = layout.place("manifest.json")
    before = layout.first_header
    can_tell = not any(at < before or manifest.data <= at < manifest.end for at in where)
    if can_tell and source.digest_name and cut == len(tar):
        assert list(report.damage) == layout.segments_with(where)
        assert report.checksum == source.digest_name


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_damaged_data_is_exactly_the_segments_that_hold_it(data: st.DataObject) -> None:
    layout = data.draw(streams())
    offsets = layout.data_offsets()
    assume(offsets)
    bad = data.draw(st.sets(st.sampled_from(offsets), min_size=1, max_size=8))
    report = verified(flipped(layout.tar, *bad))
    assert list(report.damage) == layout.segments_with(bad)
    assert (report.problems, report.complete, report.ok) == ((), True, False)
    assert report.data_bytes == layout.data_bytes


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_cut_is_exactly_what_is_missing(data: st.DataObject) -> None:
    layout = data.draw(streams((*CHECKSUMS, None)))
    cut = data.draw(st.integers(layout.place("extents.json").end, len(layout.tar) - 1))
    report = verified(layout.tar[:cut])
    assert list(report.damage) == layout.missing(cut, len(layout.tar))
    assert report.data_bytes == sum(max(0, min(p.end, cut) - p.data) for p in layout.data)
    assert not report.complete
    assert not report.ok
    assert len(report.problems) == 1
    assert f"ends after {cut} bytes" in report.problems[0]


@pytest.mark.parametrize("cut", range(LAYOUT.place("extents.json").data + 512, len(TAR), 512))
def test_a_cut_at_every_block(cut: int) -> None:
    for length in (cut - 1, cut, cut + 1):
        report = verified(TAR[:length])
        assert list(report.damage) == LAYOUT.missing(length, len(TAR))
        compared = length >= LAYOUT.place("manifest.json").end
        assert (report.complete, report.checksum) == (False, "sha256" if compared else None)


@pytest.mark.parametrize("name", ["attachments/vm.ovf", "extent-1@0"])
def test_a_cut_before_the_data(name: str) -> None:
    """All that was read is fine: just the data is missing, not the whole disk."""
    report = verified(TAR[: LAYOUT.place(name).header + 3])
    assert list(report.damage) == LAYOUT.missing(0, len(TAR))


def test_a_cut_in_the_extents() -> None:
    place = LAYOUT.place("extents.json")
    for cut in (place.header, place.header + 1, place.data, place.end - 1):
        report = verified(TAR[:cut])
        assert report.damage == (Damage(0, SIZE, "extents.json", missing=True),)
        assert not report.complete


def test_a_cut_in_the_preamble_is_no_backup() -> None:
    place = LAYOUT.place("backup-info.json")
    for cut in (0, 100, 512, place.end - 1):
        with pytest.raises(TapestreamError):
            TarStreamSource(io.BytesIO(TAR[:cut]))


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
def test_a_cut_gzip(keep: float) -> None:
    disk = noise(200 * KIB)
    tar = tar_of_disk(disk, part_size=16 * KIB)
    packed = gzip.compress(tar, mtime=0)
    with (
        gzip.open(io.BytesIO(packed[: int(len(packed) * keep)])) as zipped,
        TarStreamSource(zipped) as source,
    ):
        report = verify(source)
    assert not report.complete
    assert all(damage.missing for damage in report.damage)
    starts = [damage.start for damage in report.damage]
    first = report.damage[0]
    assert starts == sorted(starts)
    assert sum(damage.length for damage in report.damage) == len(disk) - first.start
    assert abs(first.start - keep * len(disk)) < 0.2 * len(disk)


def test_a_damaged_gzip_ends() -> None:
    packed = gzip.compress(tar_of_disk(noise(200 * KIB), part_size=16 * KIB), mtime=0)
    for at in range(6000, len(packed), 9001):
        with TarStreamSource(gzip.open(io.BytesIO(flipped(packed, at)))) as source:
            assert not verify(source).ok


# --- Out of step ---


@pytest.mark.parametrize("change", ["inserted", "removed"])
def test_a_stream_out_of_step_has_few_problems_and_takes_no_memory(change: str) -> None:
    tar = tar_of_disk(noise(2000 * 512), part_size=512)
    layout = Layout(tar)
    at = layout.data[1000].data + 5
    damaged = out_of_step(tar, at, change)
    tracemalloc.start()
    try:
        report = verified(damaged)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert not report.ok
    assert not report.complete
    assert list(report.damage) == suspects(*layout.data[1000:])
    assert str(report).splitlines()[-1] == f"and {1000 - MAX_LINES} stretches more"
    assert MAX_PROBLEMS <= len(report.problems) <= MAX_PROBLEMS + 1
    assert report.problems[-1] == "and more"
    assert len(str(report)) < 20_000
    assert peak < 4 * MIB


def test_the_first_problems_are_those_that_are_kept() -> None:
    tar = tar_of_disk(noise(300 * 512), part_size=512)
    layout = Layout(tar)
    members = layout.data[1:]
    headers = [place.header for place in members]
    for count in (MAX_PROBLEMS - 1, MAX_PROBLEMS, MAX_PROBLEMS + 1, 299):
        report = verified(flipped(tar, *headers[:count]))
        more = ("and more",) if count > MAX_PROBLEMS else ()
        first = tuple(bad_header(p.name) for p in members[: min(count, MAX_PROBLEMS)])
        assert report.problems == first + more
        assert (report.damage, report.complete) == ((), True)
