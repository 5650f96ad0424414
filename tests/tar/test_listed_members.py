"""`backup-info.json` lists the members before the data: a bad header of one loses no other."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestream import BackupInfo, Damage, DiscardSink, TarStreamSink, TarStreamSource, copy, verify
from tapestream.errors import CorruptStreamError, IncompleteStreamError, LocalIOError
from tapestream.testing.memory import MemorySink, MemorySource
from tests.tar.layouts import Layout, flipped
from tests.tar.sectors import SECTOR, BadSectors
from tests.tar.tars import (
    CREATED,
    DISK,
    EXTENTS,
    SIZE,
    Edit,
    Parts,
    edited,
    join,
    make_tar,
    split,
    unlisted,
)
from tests.workflows.verifying import verified, with_header

ATTACHMENTS = {"a": b"<ovf/>" * 500, "b": b"", "c": b"1" * 5000}
TAR = make_tar(attachments=ATTACHMENTS)
OLD = join(unlisted(split(TAR)))
LAYOUT = Layout(TAR)
LISTED = [place.name for place in LAYOUT.places[1:5]]
HOW = ("flipped", "size", "larger", "smaller", "zeroed", "noise", "renamed")


def salvaged(tar: Any) -> tuple[bytes, dict[str, bytes], list[str]]:
    """The disk, the attachments and the problems."""
    file = tar if isinstance(tar, io.RawIOBase) else io.BytesIO(tar)
    sink = MemorySink()
    with TarStreamSource(file, allow_incomplete=True) as source:
        copy(source, sink)
        assert source.findings is not None
        return bytes(sink.disk), source.attachments, source.findings.problems


def without(name: str) -> dict[str, bytes]:
    """The attachments but the one in this member."""
    return {n: data for n, data in ATTACHMENTS.items() if f"attachments/{n}" != name}


def test_what_is_listed() -> None:
    info = json.loads(LAYOUT.contents("backup-info.json"))
    assert info["members"] == [
        {"name": place.name, "size": place.size} for place in LAYOUT.places[1:5]
    ]
    assert ["extents.json", *(f"attachments/{name}" for name in ATTACHMENTS)] == LISTED
    assert verified(TAR).ok
    assert verified(OLD).ok


# --- A bad header ---


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", LISTED)
def test_a_bad_header(name: str, how: str) -> None:
    damaged = with_header(TAR, name, how)
    disk, attachments, problems = salvaged(damaged)
    assert disk == DISK
    assert attachments == without(name)
    assert problems[0].startswith(f"{name}: ")
    report = verified(damaged)
    assert (report.damage, report.complete, report.checksum) == ((), True, "sha256")
    assert list(report.problems) == problems
    assert len(problems) == (1 if name == "extents.json" else 2)
    error = IncompleteStreamError if how == "zeroed" else CorruptStreamError
    with TarStreamSource(io.BytesIO(damaged)) as source, pytest.raises(error):
        copy(source, DiscardSink())


@given(
    st.dictionaries(st.sampled_from([*LISTED, "extent-1@0"]), st.sampled_from(HOW)),
    st.sampled_from([TAR, make_tar(attachments=ATTACHMENTS, checksum=None)]),
)
def test_any_bad_headers(bad: dict[str, str], tar: bytes) -> None:
    damaged, layout = tar, Layout(tar)
    for name, how in bad.items():
        damaged = with_header(damaged, name, how, layout)
    disk, attachments, problems = salvaged(damaged)
    assert disk == DISK
    assert attachments == {n: d for n, d in ATTACHMENTS.items() if f"attachments/{n}" not in bad}
    assert {problem.partition(":")[0] for problem in problems} >= bad.keys()


@pytest.mark.parametrize("name", LISTED)
def test_bad_headers_of_all_others(name: str) -> None:
    damaged = flipped(TAR, *(p.header for p in LAYOUT.places[1:6] if p.name != name))
    disk, attachments, _ = salvaged(damaged)
    assert disk == DISK
    assert attachments == {n: d for n, d in ATTACHMENTS.items() if f"attachments/{n}" == name}


@pytest.mark.parametrize("name", LISTED[1:])
def test_a_lost_header(name: str) -> None:
    """The attachment is lost with what comes after it, but none of the data."""
    at = LAYOUT.place(name).header
    disk, attachments, problems = salvaged(TAR[:at] + TAR[at + 512 :])
    assert disk == DISK
    assert attachments.items() <= without(name).items()
    assert problems


def test_many_bad_headers_take_no_time() -> None:
    """Each is looked at once, and what is behind it is looked at once."""
    tar = make_tar(attachments={str(n): b"" for n in range(2000)})
    damaged = bytearray(tar)
    for place in Layout(tar).places[2:-1]:
        if place.name.startswith("attachments/"):
            damaged[place.header] ^= 0xFF
    disk, attachments, problems = salvaged(bytes(damaged))
    assert (disk, attachments) == (DISK, {})
    assert len(problems) == 101


# --- A sector that cannot be read ---


def setting(**values: Any) -> Edit:
    return lambda info: {**info, **values}


def with_header_at_the_end_of_a_sector(name: str) -> bytes:
    """A tar with more in its metadata, so that a bad sector hits this header and no data."""
    parts = split(TAR)
    for length in range(0, SECTOR, 256):
        pad = {"pad": "x" * length}
        tar = join(edited(parts, "backup-info.json", setting(metadata=pad)))
        if Layout(tar).place(name).data % SECTOR == 0:
            return tar
    raise AssertionError(name)


@pytest.mark.parametrize("name", LISTED)
def test_a_header_that_cannot_be_read(name: str) -> None:
    tar = with_header_at_the_end_of_a_sector(name)
    end = Layout(tar).place(name).data
    bad = [(end - 512, end)]
    disk, attachments, problems = salvaged(BadSectors(tar, bad))
    assert disk == DISK
    assert attachments == without(name)
    assert problems[0].startswith(f"{name}: ")
    with TarStreamSource(BadSectors(tar, bad)) as source:
        report = verify(source)
    assert (report.damage, report.complete, report.checksum) == ((), True, "sha256")
    with TarStreamSource(BadSectors(tar, bad)) as source, pytest.raises(LocalIOError):
        copy(source, DiscardSink())


def test_contents_that_cannot_be_read() -> None:
    """There are zeros in the attachment, and its digest says so; the rest is good."""
    tar = with_header_at_the_end_of_a_sector("attachments/c")
    start = Layout(tar).place("attachments/c").data
    disk, attachments, problems = salvaged(BadSectors(tar, [(start, start + SECTOR)]))
    assert disk == DISK
    assert attachments == {**ATTACHMENTS, "c": bytes(SECTOR) + b"1" * (5000 - SECTOR)}
    assert problems == ["attachments/c does not match its digest in manifest.json"]


# --- Damaged contents ---


@pytest.mark.parametrize("name", ["attachments/a", "attachments/c"])
def test_damaged_contents_of_an_attachment(name: str) -> None:
    damaged = flipped(TAR, LAYOUT.place(name).data)
    disk, attachments, problems = salvaged(damaged)
    assert disk == DISK
    assert attachments.keys() == ATTACHMENTS.keys()
    assert problems == [f"{name} does not match its digest in manifest.json"]
    with (
        TarStreamSource(io.BytesIO(damaged)) as source,
        pytest.raises(CorruptStreamError, match=f"{name} does not match"),
    ):
        copy(source, DiscardSink())


@pytest.mark.parametrize("header_too", [False, True])
def test_damaged_contents_of_the_extents(header_too: bool) -> None:
    """Without them, nobody knows where the data belongs."""
    place = LAYOUT.place("extents.json")
    damaged = flipped(TAR, place.data, *([place.header] if header_too else ()))
    report = verified(damaged)
    assert report.damage == (Damage(0, SIZE, "extents.json", missing=True),)
    assert not report.complete
    with (
        TarStreamSource(io.BytesIO(damaged), allow_incomplete=True) as source,
        pytest.raises(CorruptStreamError, match="tar --ignore-zeros"),
    ):
        copy(source, DiscardSink())


# --- What the list and the headers say ---


def says(tar: bytes, name: str, size: int) -> bytes:
    """The list says that a member has this size; its header is right."""

    def edit(info: dict[str, Any]) -> dict[str, Any]:
        members = [
            {**member, "size": size} if member["name"] == name else member
            for member in info["members"]
        ]
        return {**info, "members": members}

    return join(edited(split(tar), "backup-info.json", edit))


@pytest.mark.parametrize("size", [0, 1, 2999, 3001, 4096, 1024**2])
@pytest.mark.parametrize("name", ["extents.json", "attachments/a", "attachments/c"])
def test_a_size_that_differs(name: str, size: int) -> None:
    tar = says(TAR, name, size)
    with (
        TarStreamSource(io.BytesIO(tar)) as source,
        pytest.raises(CorruptStreamError, match=f"{name} has .* not the {size} that backup-info"),
    ):
        source.extents()
    report = verified(tar)
    assert not report.ok
    assert report.problems[0].startswith(f"{name}: ")
    assert (report.damage, report.complete) == ((), True)
    assert salvaged(tar)[:2] == (DISK, ATTACHMENTS)  # by the header, which has a checksum


@pytest.mark.parametrize("tar", [TAR, make_tar(attachments=ATTACHMENTS, checksum=None)])
@pytest.mark.parametrize(
    "flip", [(b'"size": ', b'"sise": '), (b'"extents.json"', b'"extents/json"')], ids=str
)
def test_a_list_that_is_damaged(flip: tuple[bytes, bytes], tar: bytes) -> None:
    """A flipped bit in the list loses nothing of a backup that can be read without it."""
    at = tar.index(flip[0], tar.index(b'"members"'))
    damaged = tar[:at] + flip[1] + tar[at + len(flip[0]) :]
    disk, attachments, problems = salvaged(damaged)
    assert (disk, attachments) == (DISK, ATTACHMENTS)
    assert problems[0].startswith("backup-info.json is damaged: ")
    report = verified(damaged)
    assert not report.ok
    assert (report.damage, report.complete) == ((), True)
    with (
        TarStreamSource(io.BytesIO(damaged)) as source,
        pytest.raises(CorruptStreamError, match=r"backup-info.json is damaged: "),
    ):
        source.extents()


def listing(tar: bytes, *names: str) -> bytes:
    """The list has these attachments, all of them empty, and the stream as before."""

    def edit(info: dict[str, Any]) -> dict[str, Any]:
        added = [{"name": f"attachments/{name}", "size": 0} for name in names]
        return {**info, "members": info["members"][:1] + added}

    return join(edited(split(tar), "backup-info.json", edit))


@pytest.mark.parametrize(
    ("there", "listed"), [({}, ["a"]), ({"a": b""}, []), ({"a": b""}, ["a", "b"])], ids=str
)
def test_other_attachments_than_those_that_are_listed(
    there: dict[str, bytes], listed: list[str]
) -> None:
    tar = listing(make_tar(attachments=there), *listed)
    with (
        TarStreamSource(io.BytesIO(tar)) as source,
        pytest.raises(CorruptStreamError, match=r"backup-info.json lists other members"),
    ):
        copy(source, DiscardSink())
    report = verified(tar)
    assert not report.ok
    assert report.damage == ()
    assert "backup-info.json lists other members than the stream has" in report.problems
    assert salvaged(tar)[:2] == (DISK, there)


def test_attachments_in_another_order() -> None:
    """As another tar program may pack them."""
    parts = split(TAR)
    moved: Parts = [*parts[:2], parts[4], parts[2], parts[3], *parts[5:]]
    assert verified(join(moved)).ok
    for name in LISTED[1:]:
        tar = join(moved)
        damaged = flipped(tar, Layout(tar).place(name).header + 300)
        disk, attachments, _ = salvaged(damaged)
        assert (disk, attachments) == (DISK, without(name))


# --- Streams of older software ---


@pytest.mark.parametrize("name", LISTED)
def test_a_bad_header_of_an_older_stream(name: str) -> None:
    """What its header still says of its size is taken."""
    disk, attachments, problems = salvaged(flipped(OLD, Layout(OLD).place(name).header))
    assert disk == DISK
    assert attachments == without(name)
    assert BAD in problems[0]


BAD = "a tar header is damaged or not ours"


@pytest.mark.parametrize("how", HOW[1:])
@pytest.mark.parametrize("name", LISTED[1:])
def test_a_bad_header_of_an_older_stream_that_says_nothing(name: str, how: str) -> None:
    """The attachments after it are lost, and none of the data."""
    disk, attachments, problems = salvaged(with_header(OLD, name, how))
    assert disk == DISK
    assert attachments.items() <= without(name).items()
    assert problems


@pytest.mark.parametrize("how", HOW)
def test_extents_of_an_older_stream_whose_size_is_not_known(how: str) -> None:
    """They end where the next good header begins."""
    damaged = with_header(OLD, "extents.json", how)
    disk, attachments, problems = salvaged(damaged)
    assert (disk, attachments) == (DISK, ATTACHMENTS)
    assert problems[0].startswith("extents.json: ")
    report = verified(damaged)
    assert (report.damage, report.complete, report.checksum) == ((), True, "sha256")


def test_extents_of_an_older_stream_whose_header_is_lost() -> None:
    at = Layout(OLD).place("extents.json").header
    disk, attachments, problems = salvaged(OLD[:at] + OLD[at + 512 :])
    assert (disk, attachments) == (DISK, ATTACHMENTS)
    assert problems[0].startswith("extents.json: ")


def test_bad_headers_of_the_extents_and_what_follows_in_an_older_stream() -> None:
    """The header of the extents still says their size, and they can end there."""
    layout = Layout(OLD)
    at = (layout.place(name).header for name in ("extents.json", "attachments/a"))
    disk, attachments, _ = salvaged(flipped(OLD, *at))
    assert (disk, attachments) == (DISK, without("attachments/a"))


# --- Writing ---


def test_a_list_that_does_not_fit_is_left_out() -> None:
    attachments = {f"{number:06}" + "a" * 80: b"" for number in range(20)}
    info = BackupInfo(created=CREATED, metadata={"pad": "x" * (16 * 1024**2 - 2000)})
    out = io.BytesIO()
    with MemorySource(DISK, EXTENTS, info=info) as source:
        copy(source, TarStreamSink(out, attachments=attachments))
    assert "members" not in json.loads(Layout(out.getvalue()).contents("backup-info.json"))
    with TarStreamSource(io.BytesIO(out.getvalue())) as backup:
        assert backup.attachments == attachments
        assert verify(backup).ok
