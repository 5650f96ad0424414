"""verify() after damaged headers: what follows one is found, and what cannot be is refused."""

from __future__ import annotations

import io
from typing import Any

import pytest

from tapestream import Damage, DiscardSink, Extent, TarStreamSource, copy, verify
from tapestream.errors import CorruptStreamError
from tapestream.testing.memory import MemorySink
from tests.disks import noise
from tests.tar.layouts import flipped
from tests.tar.sectors import Bad, BadSectors
from tests.tar.tars import DISK, Part, edited, join, make_tar, replaced, split, tar_of_disk
from tests.workflows.verifying import (
    BIG,
    BIG_LAYOUT,
    DEAD_AT,
    HOW,
    KIB,
    LAYOUT,
    MIB,
    SECTORS,
    TAR,
    bad_header,
    missing_and_damaged,
    missing_bytes,
    verified,
    with_header,
)

pytestmark = pytest.mark.timeout(120)


# --- A damaged header hides nothing ---


@pytest.mark.parametrize("name", [*(place.name for place in LAYOUT.data), "manifest.json"])
@pytest.mark.parametrize("how", HOW)
def test_a_damaged_header_does_not_hide_what_follows(name: str, how: str) -> None:
    bad = LAYOUT.place("extent-2@5120").data
    report = verified(with_header(flipped(TAR, bad), name, how))
    assert report.damage == (Damage(5120, 1024, "extent-2@5120", missing=False),)
    assert len(report.problems) == 1
    assert report.problems[0].startswith(f"{name}: ")
    assert report.checksum == "sha256"
    assert report.complete


@pytest.mark.parametrize("name", [place.name for place in LAYOUT.data])
def test_a_damaged_header_alone_is_bad(name: str) -> None:
    """The digests vouch for what is behind it."""
    report = verified(flipped(TAR, LAYOUT.place(name).header))
    assert (report.damage, report.problems, report.complete) == ((), (bad_header(name),), True)
    assert not report.ok
    assert str(report).startswith("bad: ")


def test_all_headers_of_the_data_are_damaged() -> None:
    damaged = flipped(TAR, *(place.header + 3 for place in LAYOUT.data))
    report = verified(damaged)
    assert (report.damage, report.complete) == ((), True)
    assert report.problems == tuple(bad_header(place.name) for place in LAYOUT.data)


def test_a_damaged_header_of_an_attachment_with_its_size() -> None:
    """It tells where the next member is: the data is read, and compared."""
    for at in (0, 50, 150, 300):  # not its size
        damaged = flipped(TAR, LAYOUT.place("attachments/vm.ovf").header + at)
        assert_only_the_attachment_is_lost(damaged)


def assert_only_the_attachment_is_lost(damaged: bytes) -> None:
    for tar, wrong in (
        (damaged, ()),
        (
            flipped(damaged, LAYOUT.place("extent-2@5120").data),
            (Damage(5120, 1024, "extent-2@5120", missing=False),),
        ),
    ):
        report = verified(tar)
        assert report.damage == wrong
        assert "a tar header is damaged or not ours: " in report.problems[0]
        assert "vm.ovf" in report.problems[0].partition(":")[0]
        assert report.problems[1:] == ("manifest.json lists other members than the stream has",)
        assert (report.complete, report.checksum) == (True, "sha256")


def test_the_other_attachments_are_read() -> None:
    kept = {"a": b"1" * 700, "b": b"2" * 512, "c": b"3"}
    tar = make_tar(attachments=kept)
    for name in kept:
        damaged = with_header(tar, f"attachments/{name}", "flipped")
        with TarStreamSource(io.BytesIO(damaged), allow_incomplete=True) as source:
            assert source.attachments == {n: text for n, text in kept.items() if n != name}
            sink = MemorySink()
            copy(source, sink)
            assert bytes(sink.disk) == DISK


@pytest.mark.parametrize("how", ["size", "larger", "smaller", "zeroed", "noise", "renamed"])
@pytest.mark.parametrize("checksum", ["sha256", None])
@pytest.mark.parametrize("name", ["a", "b", "empty"])
def test_a_damaged_header_of_an_attachment_without_its_size(
    name: str, checksum: str | None, how: str
) -> None:
    """The data begins where the header of its first member is: nothing else is lost."""
    kept = {"a": noise(3000), "b": b"<ovf/>" * 100, "empty": b""}
    tar = make_tar(checksum=checksum, attachments=kept)
    damaged = with_header(tar, f"attachments/{name}", how)
    report = verified(damaged)
    assert (report.damage, report.complete, report.checksum) == ((), True, checksum)
    assert len(report.problems) == 2
    with TarStreamSource(io.BytesIO(damaged), allow_incomplete=True) as source:
        sink = MemorySink()
        copy(source, sink)
        assert bytes(sink.disk) == DISK
        assert name not in source.attachments
        assert source.attachments.items() <= kept.items()


@pytest.mark.parametrize("how", ["larger", "zeroed", "noise"])
def test_a_damaged_header_of_an_attachment_where_there_is_no_data(how: str) -> None:
    tar = tar_of_disk(bytes(9000), [Extent(0, 9000, zero=True)], attachments={"a": noise(3000)})
    report = verified(with_header(tar, "attachments/a", how))
    assert (report.damage, report.complete) == ((), True)
    assert len(report.problems) == 2


@pytest.mark.parametrize("how", ["flipped", "noise", "zeroed"])
@pytest.mark.parametrize("bad", SECTORS.values(), ids=SECTORS)
def test_what_is_looked_at_for_the_data_is_not_lost(bad: Bad, how: str) -> None:
    """The header may be that of an attachment, for all that can be told, and is of the data."""
    damaged = with_header(BIG, BIG_LAYOUT.data[0].name, how)
    with TarStreamSource(BadSectors(damaged, bad)) as source:
        report = verify(source)
    assert list(report.damage) == missing_and_damaged(BIG_LAYOUT, bad)
    assert report.complete


@pytest.mark.parametrize("how", ["flipped", "noise", "zeroed"])
def test_a_device_that_dies_where_the_data_is_looked_for(how: str) -> None:
    damaged = with_header(BIG, BIG_LAYOUT.data[0].name, how)
    file = BadSectors(damaged, [(DEAD_AT, DEAD_AT + 1)], seekable=False)
    with TarStreamSource(file) as source:
        report = verify(source)
    assert [d for d in report.damage if d.missing] == BIG_LAYOUT.missing(DEAD_AT, len(BIG))
    assert report.data_bytes == 700 * KIB - missing_bytes(report)


@pytest.mark.parametrize("how", ["noise", "zeroed"])
def test_the_data_is_not_looked_for_in_the_next_stream(how: str) -> None:
    file = io.BytesIO(with_header(TAR, LAYOUT.data[0].name, how) + TAR)
    with TarStreamSource(file) as source:
        report = verify(source)
        assert (report.damage, report.complete) == ((), True)
        assert file.tell() == len(TAR)


@pytest.mark.parametrize("how", ["noise", "zeroed"])
def test_a_tar_on_the_disk_is_not_taken_for_the_stream(how: str) -> None:
    disk = make_tar(attachments={"a": b"1", "b": noise(3000)})
    tar = tar_of_disk(disk, attachments={"vm.ovf": b"<ovf/>"})
    report = verified(with_header(tar, "extent-1@0", how))
    assert (report.damage, report.complete) == ((), True)
    assert len(report.problems) == 1


# --- Attachments that are refused ---


def tar_with_attachments(attachments: dict[str, bytes]) -> bytes:
    """A tar with attachments of any size: a sink would refuse them."""
    parts = split(make_tar(attachments=dict.fromkeys(attachments, b"")))
    for name, data in attachments.items():
        member = f"attachments/{name}"
        parts = replaced(parts, member, Part(member, data))
    sizes = {part.name: len(part.data) for part in parts}

    def with_sizes(info: dict[str, Any]) -> dict[str, Any]:
        listed = [{**member, "size": sizes[member["name"]]} for member in info["members"]]
        return {**info, "members": listed}

    return join(edited(parts, "backup-info.json", with_sizes))


def test_attachments_that_are_too_large_together() -> None:
    kept = {"a": bytes(40 * MIB), "b": bytes(40 * MIB), "c": noise(300)}
    tar = tar_with_attachments(kept)
    with (
        TarStreamSource(io.BytesIO(tar)) as source,
        pytest.raises(CorruptStreamError, match="attachments/b is too large: 41943040 bytes"),
    ):
        copy(source, DiscardSink())
    with TarStreamSource(io.BytesIO(tar)) as source:
        report = verify(source)
        assert source.attachments == {"a": kept["a"], "c": kept["c"]}
    assert (report.damage, report.complete) == ((), True)
    assert report.problems == (
        "attachments/b: attachments/b is too large: 41943040 bytes",
        "manifest.json lists other members than the stream has",
    )


@pytest.mark.parametrize("name", ["vm.ovf", "../x", ""])
def test_an_attachment_with_a_name_that_cannot_be(name: str) -> None:
    """The second of one name, too: it is passed over, for its size is known."""
    parts = split(TAR)
    parts.insert(3, Part(f"attachments/{name}", noise(1500)))
    report = verified(join(parts))
    assert (report.damage, report.complete, report.checksum) == ((), True, "sha256")
    assert len(report.problems) == 1
    assert report.problems[0].startswith(f"attachments/{name}: ")
