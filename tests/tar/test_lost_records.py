"""Records that were lost, doubled or overwritten: at least what GNU tar gets out comes back."""

from __future__ import annotations

import io
import random
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tapestream import Damage, Extent, TarStreamSource, copy, verify
from tapestream.errors import StreamError
from tapestream.model.damage import Findings
from tapestream.testing.memory import MemorySink
from tests.tar.layouts import Layout, Place
from tests.tar.tars import tar_of_disk

pytestmark = pytest.mark.timeout(300)

KIB = 1024
SIZE = 96 * KIB
DISK = bytearray(random.Random(7).randbytes(SIZE))
EXTENTS = [
    Extent(0, 9 * KIB + 100),
    Extent(9 * KIB + 100, 2 * KIB, zero=True),
    Extent(11 * KIB + 100, 40 * KIB),
    Extent(51 * KIB + 100, KIB - 100, zero=True),
    Extent(52 * KIB, 44 * KIB),
]
for _extent in EXTENTS:
    if _extent.zero:
        DISK[_extent.start : _extent.start + _extent.length] = bytes(_extent.length)
ATTACHMENTS = {"vm.ovf": b"<ovf/>" * 300, "notes": b"hello"}


def make(part_size: int, checksum: str | None = "sha256") -> bytes:
    return tar_of_disk(
        bytes(DISK), EXTENTS, part_size=part_size, checksum=checksum, attachments=ATTACHMENTS
    )


TARS = {
    (part_size, checksum): make(part_size, checksum)
    for part_size in (512, 1024, 4096, 8192, 1024**3)
    for checksum in ("sha256", None)
}

Change = Callable[[bytes, int, int], bytes]


def lost(tar: bytes, at: int, length: int) -> bytes:
    return tar[:at] + tar[at + length :]


def doubled(tar: bytes, at: int, length: int) -> bytes:
    return tar[: at + length] + tar[at:]


def zeroed(tar: bytes, at: int, length: int) -> bytes:
    return tar[:at] + bytes(len(tar[at : at + length])) + tar[at + length :]


def garbled(tar: bytes, at: int, length: int) -> bytes:
    noise = random.Random(at).randbytes(len(tar[at : at + length]))
    return tar[:at] + noise + tar[at + length :]


CHANGES: dict[str, Change] = {
    "lost": lost,
    "doubled": doubled,
    "zeroed": zeroed,
    "garbled": garbled,
}


class Salvaged(NamedTuple):
    disk: bytes
    findings: Findings

    def told(self) -> set[int]:
        """Every byte of the disk that is said to be missing or damaged."""
        return {at for d in self.findings.damage for at in range(d.start, d.start + d.length)}

    def wrong(self) -> set[int]:
        return {at for at, (a, b) in enumerate(zip(self.disk, DISK, strict=True)) if a != b}


def salvaged(tar: bytes, **options: int) -> Salvaged:
    sink = MemorySink()
    with TarStreamSource(io.BytesIO(tar), allow_incomplete=True) as source:
        copy(source, sink, **options)  # type: ignore[arg-type]
        assert source.findings is not None
        return Salvaged(bytes(sink.disk), source.findings)


def got_by_gnu_tar(layout: Layout, directory: Path, *options: str) -> list[Place]:
    """The data members that `tar` extracts whole and right, whatever it complains of."""
    out = directory / f"out{len(list(directory.iterdir()))}"
    out.mkdir()
    command = ["tar", "-xf", str(directory / "damaged.tar"), "-C", str(out), *options]
    subprocess.run(command, capture_output=True, check=False)
    return [
        place
        for place in layout.data
        if (out / place.name).exists()
        and (out / place.name).read_bytes() == DISK[place.start : place.start + place.size]
    ]


def check(
    tar: bytes, damaged: bytes, directory: Path, *, is_chosen: bool = False, **options: int
) -> Salvaged:
    """Whatever GNU tar gets, we get; what is wrong is told, or that nobody could compare it."""
    layout = Layout(tar)
    ours = salvaged(damaged, **options)
    (directory / "damaged.tar").write_bytes(damaged)
    for ignore_zeros in [] if is_chosen else [[], ["--ignore-zeros"]]:
        for place in got_by_gnu_tar(layout, directory, *ignore_zeros):
            data = ours.disk[place.start : place.start + place.size]
            assert data == DISK[place.start : place.start + place.size], place.name
    if ours.findings.digest_name:
        assert ours.wrong() <= ours.told()
    path = directory / "damaged.tar"
    with TarStreamSource(path) as source:  # a file can be looked at in any place
        report = verify(source)
    assert list(report.damage) == ours.findings.damage
    problems = [problem.replace(str(path), "BytesIO") for problem in report.problems]
    assert problems == ours.findings.problems
    # It may have lost its last padding; what comes after its last record is not read.
    is_same = damaged[: len(tar)].rstrip(b"\0") == tar.rstrip(b"\0")
    if ours.findings.digest_name or not report.complete:
        assert not report.ok or is_same
    return ours


class Hit(NamedTuple):
    """What happens to some blocks of a tar."""

    change: str
    block: int
    blocks: int

    def on(self, tar: bytes) -> bytes:
        at = min(self.block, len(tar) // 512 - 1) * 512
        return CHANGES[self.change](tar, at, self.blocks * 512)


def hits(first: int) -> st.SearchStrategy[list[Hit]]:
    """A few, from an offset of the tar on."""
    hit = st.builds(
        Hit,
        st.sampled_from(sorted(CHANGES)),
        st.integers(-(-first // 512), 400),
        st.sampled_from([1, 2, 3, 7, 20, 40]),
    )
    return st.lists(hit, min_size=1, max_size=3)


@settings(
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
    report_multiple_bugs=False,
)
@given(st.data())
def test_any_records(data: st.DataObject) -> None:
    tar = damaged = TARS[data.draw(st.sampled_from(sorted(TARS, key=str)))]
    all_hits = data.draw(hits(Layout(tar).place("extents.json").end))
    for hit in all_hits:
        damaged = hit.on(damaged)
    buffers = data.draw(st.sampled_from([{}, {"buffer_size": 4096, "buffer_memory": 8192}]))
    with tempfile.TemporaryDirectory() as directory:
        # A stream is read once: of two copies, of which one is damaged for another reason, that
        # may be the one that is taken.
        twice = len(all_hits) > 1 and any(hit.change == "doubled" for hit in all_hits)
        check(tar, damaged, Path(directory), is_chosen=twice, **buffers)


TAR = TARS[4096, "sha256"]
LAYOUT = Layout(TAR)
BEFORE, HIT, AFTER = LAYOUT.data[3:6]
MANIFEST = LAYOUT.place("manifest.json")


def around(place: Place) -> set[int]:
    return set(range(place.start, place.start + place.size))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    ("at", "blocks"),
    [
        (HIT.header, 1),
        (HIT.header, 3),
        (HIT.header - 512, 2),
        (HIT.header - 512, 40),  # several members
        (HIT.data + 1024, 2),
        (HIT.data + 1024, 9),
        (HIT.data + 1024, 30),
        (MANIFEST.header - 512, 1),
        (MANIFEST.header, 1),
    ],
)
def test_what_is_around_comes_back(change: str, at: int, blocks: int, tmp_path: Path) -> None:
    """No more is bad than the members that were hit, and the one before them."""
    ours = check(TAR, CHANGES[change](TAR, at, blocks * 512), tmp_path)
    hit = [p for p in LAYOUT.data if p.header < at + blocks * 512 and p.end > at]
    before = [p for p in LAYOUT.data if p.end <= at][-1:]
    assert ours.findings.digest_name == "sha256"
    assert ours.wrong() <= ours.told()
    assert ours.told() <= {at for place in [*hit, *before] for at in around(place)}


def test_members_that_are_missing_are_listed(tmp_path: Path) -> None:
    length = LAYOUT.data[7].header - HIT.header
    ours = check(TAR, lost(TAR, HIT.header, length), tmp_path)
    assert ours.findings.damage == [
        Damage(place.start, place.size, place.name, missing=True) for place in LAYOUT.data[4:7]
    ] + [Damage(p.start, p.size, p.name, missing=False) for p in LAYOUT.data[4:7]]
    assert ours.findings.problems[0] == (
        f"{HIT.name}: found member '{LAYOUT.data[7].name}' where {HIT.name} should be"
    )


@pytest.mark.parametrize("attachment", ATTACHMENTS)
@pytest.mark.parametrize("into", [0, 2, 4])
def test_attachments_and_the_first_members_that_are_lost(attachment: str, into: int) -> None:
    """The first member that is left has quite another name than the one that was lost."""
    begin, size = 123 * KIB, 96 * KIB
    disk = bytes(begin) + random.Random(8).randbytes(size)
    extents = [
        Extent(0, begin, zero=True),
        Extent(begin, 8 * KIB),
        Extent(begin + 8 * KIB, size - 8 * KIB),
    ]
    tar = tar_of_disk(disk, extents, part_size=4096, attachments=ATTACHMENTS)
    layout = Layout(tar)
    first = layout.place(f"attachments/{attachment}").header
    damaged = lost(tar, first, layout.data[into].data + 512 - first)
    sink = MemorySink()
    with TarStreamSource(io.BytesIO(damaged), allow_incomplete=True) as source:
        copy(source, sink)
        assert source.findings is not None
        told = {(d.start, d.length) for d in source.findings.damage}
    rest = layout.data[into + 1]
    assert sink.disk[rest.start :] == disk[rest.start :]
    assert told == {(place.start, place.size) for place in layout.data[: into + 1]}


def test_only_the_rest_of_a_short_member_is_missing(tmp_path: Path) -> None:
    ours = check(TAR, lost(TAR, HIT.data + 1024, 1536), tmp_path)
    missing = [d for d in ours.findings.damage if d.missing]
    assert missing == [Damage(HIT.start + 4096 - 1536, 1536, HIT.name, missing=True)]


def test_a_member_that_comes_twice(tmp_path: Path) -> None:
    """The record holds its header: the second copy is whole."""
    ours = check(TAR, doubled(TAR, HIT.header - 8192, 8192 + 1024), tmp_path)
    assert ours.findings.damage == []
    assert ours.disk == DISK


@pytest.mark.parametrize("change", ["lost", "doubled"])
@pytest.mark.parametrize("record", [10 * KIB, 64 * KIB, KIB * KIB])
def test_records_of_real_sizes(change: str, record: int, tmp_path: Path) -> None:
    """In a file, of which the larger members do not fit into memory with what follows."""
    disk = random.Random(9).randbytes(7 * KIB * KIB)
    for part_size in (64 * KIB, 3 * KIB * KIB):
        tar = tar_of_disk(disk, part_size=part_size, record_size=record)
        layout = Layout(tar)
        damaged = CHANGES[change](tar, record * (3 * KIB * KIB // record), record)
        sink = MemorySink()
        path = tmp_path / "damaged.tar"
        path.write_bytes(damaged)
        with TarStreamSource(path, allow_incomplete=True) as source:
            copy(source, sink)
            assert source.findings is not None
            told = source.findings.damage
            assert source.findings.digest_name == "sha256"
        subprocess.run(["tar", "-xf", path, "-C", tmp_path], capture_output=True, check=False)
        for place in layout.data:
            here = slice(place.start, place.start + place.size)
            extracted = tmp_path / place.name
            if extracted.exists() and extracted.read_bytes() == disk[here]:
                assert sink.disk[here] == disk[here]
            if sink.disk[here] != disk[here]:
                assert any(d.member == place.name for d in told)
            extracted.unlink(missing_ok=True)


def test_records_of_a_pax_tar(tmp_path: Path) -> None:
    """What another program put before a header may be lost, too."""
    subprocess.run(["tar", "-xf", "-", "-C", tmp_path], input=TAR, check=True)
    names = [place.name for place in LAYOUT.places]
    command = ["tar", "-cf", "-", "--format=pax", "-C", str(tmp_path), *names]
    tar = subprocess.run(command, capture_output=True, check=True).stdout
    layout = Layout(tar)
    place = layout.place(HIT.name)
    assert place.data - place.header == 3 * 512
    for name, change in CHANGES.items():
        for block in range(-1, 4):
            (tmp_path / f"{name}{block}").mkdir()
            damaged = change(tar, place.header + block * 512, 512)
            ours = check(tar, damaged, tmp_path / f"{name}{block}")
            assert ours.told() <= around(BEFORE) | around(HIT)


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(TARS, key=str)), hits(0))
def test_records_anywhere_are_no_other_error(key: tuple[int, str | None], hit: list[Hit]) -> None:
    """In the preamble, too: there is a backup, or an error of the stream."""
    tar = TARS[key]
    damaged = tar
    for each in hit:
        damaged = each.on(damaged)
    for lenient in (False, True):
        sink = MemorySink()
        try:
            with TarStreamSource(io.BytesIO(damaged), allow_incomplete=lenient) as source:
                copy(source, sink)
                is_good = source.findings is None or source.findings.digest_name is not None
                told = [] if source.findings is None else source.findings.damage
        except StreamError:
            continue
        if key[1] is not None and is_good and not told:
            assert sink.disk == DISK
