"""Work and memory go by what there is of a stream, and not by what it claims."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import textwrap
import tracemalloc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tapestream import (
    BackupInfo,
    Damage,
    DiscardSink,
    TarStreamSink,
    TarStreamSource,
    Writer,
    copy,
    verify,
)
from tapestream.errors import CorruptStreamError, StreamError, UsageError
from tapestream.model.damage import Findings
from tapestream.tar.format import HeaderWriter
from tapestream.testing.memory import MemorySource
from tests.tar.layouts import Layout
from tests.tar.tars import CREATED, Part, Parts, edited, join, make_tar, replaced, split

pytestmark = pytest.mark.timeout(40)

MIB, GIB = 1024**2, 1024**3
PARTS = split(make_tar())


@contextmanager
def at_most(limit: int) -> Iterator[None]:
    """Fail where more memory is used than this."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def without_end(parts: Parts) -> bytes:
    """As a stream that was cut between two members."""
    tar = join(parts)
    end = Layout(tar).places[-1].end
    return tar[: end + -end % 512]


def claims(size: int, *, part_size: int = 512, checksum: str | None = "sha256") -> bytes:
    """A small tar that says its disk has this size, all of it data."""
    parts = edited(
        split(make_tar(checksum=checksum)) if checksum else PARTS,
        "backup-info.json",
        lambda info: {
            **info,
            "size": size,
            "part_size": part_size,
            "segment_size": min(part_size, 16 * MIB),
        },
    )
    listed = [{"start": 0, "length": size, "zero": False}]
    parts = edited(parts, "extents.json", lambda _: listed)
    return without_end([p for p in parts if not p.name.startswith(("extent-", "manifest"))])


class Counted(DiscardSink):
    """Counts what is written."""

    def __init__(self) -> None:
        self.calls = self.bytes = self.zeros = 0

    def open_writer(self) -> Writer:
        sink = self

        class Counting(Writer):
            def write(self, start: int, buffer: memoryview) -> None:
                sink.calls += 1
                sink.bytes += len(buffer)

            def zero(self, start: int, length: int) -> None:
                sink.calls += 1
                sink.zeros += length

            def close(self) -> None:
                pass

        return Counting()


@pytest.mark.parametrize("size", [2**40, 2**62, 2**63 - 1])
@pytest.mark.parametrize("part_size", [512, GIB])
@pytest.mark.parametrize("checksum", ["sha256", "crc32"])
def test_a_small_stream_of_a_huge_disk(size: int, part_size: int, checksum: str) -> None:
    tar = claims(size, part_size=part_size, checksum=checksum)
    assert len(tar) < 10_000
    with at_most(64 * MIB), TarStreamSource(io.BytesIO(tar)) as source:
        report = verify(source)
    assert not report.complete
    assert report.data_bytes == 0
    assert len(report.damage) <= 10_000
    assert report.damage[0].start == 0
    assert sum(damage.length for damage in report.damage) == size
    assert all(damage.missing for damage in report.damage)
    assert len(str(report)) < 20_000

    sink = Counted()
    with TarStreamSource(io.BytesIO(tar), allow_incomplete=True) as source, sink:
        result = copy(source, sink)
        assert source.findings is not None
        assert source.findings.damage == list(report.damage)
    assert sink.calls < 100
    assert sink.bytes == result.data_bytes <= 64 * MIB
    assert sink.bytes + sink.zeros == size


def test_a_cut_backup_of_a_terabyte() -> None:
    """What is there comes back, and the rest is zeros that nobody writes one by one."""
    size = 1024 * GIB
    content = bytes(range(256)) * (20 * MIB // 256)

    out = io.BytesIO()
    info = BackupInfo(created=CREATED)
    with MemorySource(content, info=info) as source, TarStreamSink(out, part_size=MIB) as dst:
        copy(source, dst)
    listed = [{"start": 0, "length": size, "zero": False}]
    members = edited(split(out.getvalue()), "extents.json", lambda _: listed)
    members = edited(members, "backup-info.json", lambda values: {**values, "size": size})
    tar = without_end([part for part in members if part.name != "manifest.json"])
    sink = Counted()
    with TarStreamSource(io.BytesIO(tar), allow_incomplete=True) as source, sink:
        copy(source, sink)
        assert source.findings is not None
        assert source.findings.missing_bytes == size - len(content)
    assert sink.bytes <= len(content) + 64 * MIB
    assert sink.bytes + sink.zeros == size


def test_the_last_member_of_a_huge_disk() -> None:
    """A header that is good, after 2^53 others that are not there."""
    size = 2**62
    parts = [p for p in split(claims(size)) if not p.name.startswith("attachments")]
    tar = join([*parts, Part(f"extent-1@{size - 512}", b"x" * 512)])
    with at_most(64 * MIB), TarStreamSource(io.BytesIO(tar)) as source:
        report = verify(source)
    assert report.data_bytes == 512
    assert (report.complete, report.checksum) == (False, None)


def test_a_manifest_after_a_huge_disk_that_is_not_there() -> None:
    parts = [*split(claims(2**62)), PARTS[-1]]
    with at_most(64 * MIB), TarStreamSource(io.BytesIO(join(parts))) as source:
        report = verify(source)
    assert (report.complete, report.checksum, report.data_bytes) == (False, None, 0)


# --- Memory ---


def sparse(path: Path, member: str, size: int) -> Path:
    """A file in which a member claims this size, and has it: of zeros that take no room."""
    tar = make_tar()
    header = tarfile.TarInfo(member)
    header.size = size
    start = tar[: Layout(tar).place(member).header] + header.tobuf(tarfile.USTAR_FORMAT)
    path.write_bytes(start)
    with path.open("r+b") as file:
        file.truncate(len(start) + size + 10240)
    return path


LIMITED = textwrap.dedent("""
    import resource, sys
    from tapestream import DiscardSink, TarStreamSource, copy, verify
    from tapestream.errors import StreamError
    with TarStreamSource(sys.argv[1]) as source:
        source.info
    resource.setrlimit(resource.RLIMIT_AS, (700 * 1024**2,) * 2)
    try:
        with TarStreamSource(sys.argv[1]) as source:
            copy(source, DiscardSink(), buffer_memory=8 * 1024**2)
    except StreamError as e:
        assert len(str(e)) < 10_000
    else:
        raise SystemExit("no error")
    with TarStreamSource(sys.argv[1]) as source:
        assert not verify(source, buffer_memory=8 * 1024**2).ok
""")


@pytest.mark.parametrize(
    ("member", "size"),
    [
        ("extents.json", 8**11 - 1),
        ("attachments/vm.ovf", 8**11 - 1),
        ("manifest.json", 8**11 - 1),
    ],
)
def test_members_that_claim_gigabytes_and_have_them(member: str, size: int, tmp_path: Path) -> None:
    path = sparse(tmp_path / "disk.tar", member, size)
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, path], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]


# --- Texts and lists ---

LONG = "x" * 5_000_000


@pytest.mark.parametrize(
    ("member", "values"),
    [
        ("backup-info.json", {"vm_id": [LONG]}),
        ("backup-info.json", {"checksum": LONG}),
        ("backup-info.json", {"created": LONG}),
        ("backup-info.json", {"metadata": LONG}),
        ("backup-info.json", {"context": LONG}),
        ("backup-info.json", {"size": LONG}),
        ("backup-info.json", {"block_hash": {"algorithm": LONG}}),
        ("backup-info.json", {"set_id": [LONG]}),
        ("manifest.json", {"set_id": LONG}),
        ("manifest.json", {"checksum": LONG}),
        ("manifest.json", {"members": {LONG: LONG}}),
        ("manifest.json", {LONG: 1}),
        ("manifest.json", {"segments": [LONG] * 5}),
    ],
)
def test_no_text_is_as_long_as_what_a_stream_says(member: str, values: Mapping[str, Any]) -> None:
    text = next(part.data for part in PARTS if part.name == member)
    changed = json.dumps({**json.loads(text), **values}).encode()
    texts = texts_of(join(replaced(PARTS, member, Part(member, changed))))
    assert texts
    assert max(map(len, texts)) < 10_000


def texts_of(tar: bytes) -> list[str]:
    """All that is said of a tar that is damaged."""
    texts = []
    try:
        with TarStreamSource(io.BytesIO(tar)) as source:
            report = verify(source)
            texts += [str(report), *report.problems]
        with TarStreamSource(io.BytesIO(tar)) as source:
            copy(source, DiscardSink())
    except StreamError as e:
        texts.append(str(e))
    return texts


def test_many_attachments_that_nobody_knows() -> None:
    parts = [*PARTS[:3], *(Part(f"attachments/{i}", b"") for i in range(20_000)), *PARTS[3:]]
    assert max(map(len, texts_of(join(parts)))) < 10_000


def test_a_pax_header_with_a_long_name() -> None:
    info = tarfile.TarInfo("y" * 1_000_000)
    header = info.tobuf(tarfile.PAX_FORMAT)
    at = Layout(make_tar()).place("extent-1@0").header
    assert max(map(len, texts_of(make_tar()[:at] + header + make_tar()[at:]))) < 10_000


def test_findings_are_no_longer_than_anybody_reads() -> None:
    """Every other byte of the disk is missing: the last stretch holds all that follow."""
    findings = Findings()
    for start in range(0, 50_000, 2):
        findings.add(Damage(start, 1, "extent-1@0", missing=True))
        findings.add(Damage(start, 1, "extent-1@0", missing=False))
        findings.note("y" * start)
    for missing in (True, False):
        found = [damage for damage in findings.damage if damage.missing is missing]
        assert len(found) == 10_000
        assert [d.start for d in found] == list(range(0, 20_000, 2))
        assert [d.length for d in found[:-1]] == [1] * 9_999
        assert found[-1].start + found[-1].length == 49_999
    assert findings.missing_bytes == 25_000
    assert sum(map(len, findings.problems)) < 200_000


# --- Attachments ---


def test_many_empty_attachments() -> None:
    names = [f"attachments/{i}" for i in range(40_000)]
    tar = make_tar(attachments={name.removeprefix("attachments/"): b"" for name in names})
    with TarStreamSource(io.BytesIO(tar)) as source:
        assert len(source.attachments) == len(names)
        assert verify(source).ok


def test_more_attachments_than_anybody_keeps() -> None:
    names = {str(i): b"" for i in range(100_001)}
    with pytest.raises(UsageError, match="100000"):
        TarStreamSink(io.BytesIO(), attachments=names)
    place = Layout(make_tar()).place("extent-1@0")
    headers = io.BytesIO()
    headers.write(make_tar()[: place.header])
    for i in range(100_001):
        headers.write(HeaderWriter(0).header(f"attachments/n{i}", 0))
    headers.write(make_tar()[place.header :])
    headers.seek(0)
    with TarStreamSource(headers) as source, pytest.raises(CorruptStreamError, match="100000"):
        source.extents()


def test_damaged_headers_without_end() -> None:
    """Of members, and of attachments: what is ahead is looked at once, and not for each of them."""
    tar = make_tar(part_size=512, checksum=None)
    disk = bytes(8 * MIB)
    out = io.BytesIO()
    with MemorySource(disk, info=BackupInfo(created=CREATED)) as source:
        copy(source, TarStreamSink(out, part_size=512, checksum=None))
    damaged = bytearray(out.getvalue())
    for place in Layout(out.getvalue()).data:
        damaged[place.header] ^= 0xFF
    with TarStreamSource(io.BytesIO(bytes(damaged))) as source:
        report = verify(source)
    assert report.data_bytes == len(disk)
    at = Layout(tar).place("attachments/vm.ovf").header
    header = bytearray(tar[at : at + 512])
    header[300] ^= 1
    many = tar[:at] + bytes(header) * 16_000 + tar[at:]
    with TarStreamSource(io.BytesIO(many)) as source:
        assert verify(source).data_bytes == sum(place.size for place in Layout(tar).data)


# --- JSON ---


@pytest.mark.parametrize("key", ["set_id", "checksum", "software", "vm_id", "metadata", "created"])
def test_half_a_character(key: str) -> None:
    """JSON can say it, and no file can hold it."""
    parts = edited(PARTS, "backup-info.json", lambda info: {**info, key: "\ud800"})
    for text in texts_of(join(parts)):
        assert text.isprintable() or "\n" in text


@pytest.mark.parametrize("member", ["backup-info.json", "extents.json", "manifest.json"])
@pytest.mark.parametrize(
    "text",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 1_000_000,
        b'{"size": ' + b"9" * 1_000_000 + b"}",
        b'[{"start": 0, "length": ' + b"9" * 1_000_000 + b"}]",
        b'[{"start": 0, "length": 1e999999}]',
        b"[" + b"{}," * 100_000 + b"{}]",
        b'"' + b"\\ud800" * 1000 + b'"',
        b"NaN",
    ],
    ids=lambda text: repr(text[:12]),
)
def test_json_that_nobody_writes(member: str, text: bytes) -> None:
    for tar in (
        join(replaced(PARTS, member, Part(member, text))),
        join(replaced(PARTS, member, Part(member, b" " * 100_000 + text))),
    ):
        texts = texts_of(tar)
        assert texts
        assert max(map(len, texts)) < 10_000
