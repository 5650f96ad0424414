"""Options of a tar sink, and disks and attachments that must come back."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tapestream import BackupInfo, DiscardSink, Extent, TarStreamSink, TarStreamSource, copy
from tapestream.errors import UsageError
from tapestream.model.extents import Extents
from tapestream.testing.memory import MemorySource
from tests.stream.support import MIB, backup, restore
from tests.tar.tars import DISK


@pytest.mark.parametrize("checksum", ["sha256", "blake2b", "crc32"])
def test_digests_that_would_not_fit_are_refused_at_once(checksum: str) -> None:
    """The manifest, that is written after hours, may have 8 GiB."""
    per_digest = 11 if checksum == "crc32" else 67
    fits = 8**11 // per_digest * 512
    for size, refused in ((fits - 100 * 512, False), (fits, True)):
        out = io.BytesIO()
        with TarStreamSink(out, part_size=512, checksum=checksum) as sink:
            extents = Extents.of([Extent(0, size)])
            if not refused:
                sink.begin(BackupInfo(size=size), extents)
                continue
            with pytest.raises(UsageError, match=r"manifest.json too large") as caught:
                sink.begin(BackupInfo(size=size), extents)
            assert "larger part_size" in str(caught.value.hint)
            assert out.getvalue() == b""
    with TarStreamSink(io.BytesIO(), part_size=512, checksum=None) as sink:
        sink.begin(BackupInfo(size=2**62), Extents.of([Extent(0, 2**62)]))


@pytest.mark.parametrize("checksum", ["sha256", "crc32", None])
def test_the_digest_is_known_by_both_names(checksum: str | None) -> None:
    out = io.BytesIO()
    with TarStreamSink(out, checksum=checksum) as sink:
        assert sink.checksum == sink.digest_name == checksum
        copy(MemorySource(DISK), sink)
    out.seek(0)
    with TarStreamSource(out) as source:
        assert source.checksum == source.digest_name == checksum


@pytest.mark.parametrize("record_size", [None, 512, 10240, 65536, MIB])
def test_the_stream_is_whole_records(record_size: int | None) -> None:
    out = io.BytesIO()
    backup(out, record_size=record_size)
    length = len(out.getvalue())
    assert length % (record_size or 10240) == 0
    assert length - (record_size or 10240) < len(DISK) + 10 * 512 + 1024
    assert restore(io.BytesIO(out.getvalue())) == DISK


@pytest.mark.parametrize("part_size", [None, 512, 1024, 4096, 10 * 512, MIB])
def test_parts(part_size: int | None) -> None:
    out = io.BytesIO()
    backup(out, part_size=part_size)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        parts = {m.name: m.size for m in tar if m.name.startswith("extent-")}
    size = part_size or 1024**3
    starts = range(0, len(DISK), size)
    assert parts == {f"extent-1@{s}": min(size, len(DISK) - s) for s in starts}
    assert restore(io.BytesIO(out.getvalue())) == DISK


@pytest.mark.parametrize("content", [b"", b"a", bytes(512), bytes(513)])
@pytest.mark.parametrize("checksum", ["sha256", "blake2b", "crc32", None])
def test_small_disks(content: bytes, checksum: str | None) -> None:
    out = io.BytesIO()
    backup(out, content, checksum=checksum)
    assert restore(io.BytesIO(out.getvalue())) == content


def test_attachments_come_back() -> None:
    attachments = {"vm.ovf": b"<ovf/>", "größer": b"", "a" * 88: bytes(5000)}
    out = io.BytesIO()
    backup(out, attachments=attachments)
    with TarStreamSource(io.BytesIO(out.getvalue())) as source:
        assert source.attachments == attachments
        copy(source, DiscardSink())
        assert source.attachments == attachments


@pytest.mark.parametrize(
    "wrong",
    [
        {"record_size": 0},
        {"record_size": -512},
        {"record_size": 1000},
        {"record_size": 2**30 + 512},
        {"part_size": 0},
        {"part_size": 513},
        {"part_size": 8 * 1024**3},
        {"checksum": "md5"},
        {"checksum": ""},
        {"attachments": {"a/b": b""}},
        {"attachments": {"": b""}},
        {"attachments": {"a" * 89: b""}},
        {"attachments": {"a": bytes(64 * MIB), "b": b"1"}},
        {"part_size": 10**9},
        {"part_size": 4096.0},
        {"attachments": {"\udc80": b""}},
        {"attachments": {"a\x9b31m": b""}},
        {"attachments": {"fdp.\u202eexe": b""}},
        {"attachments": {"a\u2028b": b""}},
    ],
    ids=lambda wrong: str(wrong)[:40],
)
def test_options_that_cannot_work(wrong: dict[str, Any], path: Path) -> None:
    try:
        with pytest.raises(UsageError):
            TarStreamSink(path, **wrong).close()
    finally:
        assert not [*path.parent.iterdir()]


@pytest.mark.parametrize(
    "info",
    [
        {"metadata": {"a": "b" * 17 * MIB}},
        {"vm_name": "\udc80"},
    ],
    ids=lambda info: str(info)[:30],
)
def test_what_is_written_can_be_read(info: dict[str, Any]) -> None:
    out = io.BytesIO()
    try:
        with MemorySource(DISK, info=BackupInfo(**info)) as source, TarStreamSink(out) as sink:
            copy(source, sink)
    except UsageError:
        return
    assert restore(io.BytesIO(out.getvalue())) == DISK
