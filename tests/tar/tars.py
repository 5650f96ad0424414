"""Tars to damage: a small backup with everything in it, and a way to put it together wrongly."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple

from tapestream import BackupInfo, Extent, Source, TarStreamSink, copy
from tapestream.testing.memory import MemorySource

CREATED = datetime(2026, 11, 23, 15, 0, 1, tzinfo=timezone.utc)
PART_SIZE = 1024
RECORD_SIZE = 2048
EXTENTS = [
    Extent(0, 700),
    Extent(700, 3396, zero=True, hole=True),
    Extent(4096, 2672),  # three parts, the last of 624 bytes
    Extent(6768, 232, zero=True, hole=False),
    Extent(7000, 1),
    Extent(7001, 998, zero=True),
]
SIZE = 7999


def disk(seed: int = 1) -> bytes:
    """A disk that fits `EXTENTS`."""
    content, noise = bytearray(SIZE), random.Random(seed)
    for extent in EXTENTS:
        if not extent.zero:
            content[extent.start : extent.start + extent.length] = noise.randbytes(extent.length)
    return bytes(content)


DISK = disk()


def make_tar(content: bytes = DISK, *, vm_id: str = "7f5c", **options: Any) -> bytes:
    """A backup of `content` as `TarStreamSink` writes it."""
    out = io.BytesIO()
    options = {
        "part_size": PART_SIZE,
        "record_size": RECORD_SIZE,
        "attachments": {"vm.ovf": b"<ovf/>" * 20},
        **options,
    }
    sink = TarStreamSink(out, **options)
    with MemorySource(content, EXTENTS, info=BackupInfo(vm_id=vm_id, created=CREATED)) as source:
        copy(source, sink)
    return out.getvalue()


def tar_of(source: Source, **options: Any) -> bytes:
    """A backup of any source; the options are the sink's."""
    out = io.BytesIO()
    with source, TarStreamSink(out, **options) as sink:
        copy(source, sink)
    return out.getvalue()


def tar_of_disk(content: bytes, extents: Sequence[Extent] | None = None, **options: Any) -> bytes:
    """A backup of a disk."""
    info = BackupInfo(vm_id="vm", created=CREATED)
    return tar_of(MemorySource(content, extents, info=info), **options)


class Part(NamedTuple):
    """A member of a tar; its header may claim another size than the data has."""

    name: str
    data: bytes
    claim: int | None = None


Parts = list[Part]
Edit = Callable[[Any], Any]


def split(tar: bytes) -> Parts:
    """All members of a tar."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        members = [(member, opened.extractfile(member)) for member in opened]
        return [Part(member.name, file.read()) for member, file in members if file is not None]


def join(parts: Parts, *, record_size: int = RECORD_SIZE) -> bytes:
    """The reverse of `split`, with headers by `tarfile`."""
    tar = bytearray()
    for part in parts:
        header = tarfile.TarInfo(part.name)
        header.size = len(part.data) if part.claim is None else part.claim
        tar += header.tobuf(tarfile.USTAR_FORMAT) + part.data + bytes(-len(part.data) % 512)
    tar += bytes(1024)
    return bytes(tar) + bytes(-len(tar) % record_size)


def replaced(parts: Parts, name: str, part: Part) -> Parts:
    """The same with another part in the place of one."""
    assert any(p.name == name for p in parts)
    return [part if p.name == name else p for p in parts]


def edited(parts: Parts, name: str, edit: Edit) -> Parts:
    """The same with the JSON of one member changed, and its digest in the manifest with it.

    `backup-info.json` says what its size is then, unless that is what is changed.

    Args:
        parts: All members.
        name: Of the member that is changed.
        edit: Takes what the JSON says, and returns what it shall say: as a value or as bytes.
    """
    edit_of_text = edit(json.loads(next(p.data for p in parts if p.name == name)))
    text = edit_of_text if isinstance(edit_of_text, bytes) else json.dumps(edit_of_text).encode()
    parts = replaced(parts, name, Part(name, text))
    if name not in ("backup-info.json", "manifest.json"):
        parts = listed(parts)
    return parts if name == "manifest.json" else sealed(parts)


def listed(parts: Parts) -> Parts:
    """The same with a `backup-info.json` that lists the members as they are."""
    members = [
        {"name": part.name, "size": len(part.data)}
        for part in parts
        if part.name.startswith(("extents.json", "attachments/"))
    ]
    info = json.loads(next(part.data for part in parts if part.name == "backup-info.json"))
    text = json.dumps({**info, "members": members}).encode()
    return replaced(parts, "backup-info.json", Part("backup-info.json", text))


def unlisted(parts: Parts) -> Parts:
    """The same as software before it lists the members in `backup-info.json` wrote it."""

    def without(info: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in info.items() if key != "members"}

    return edited(parts, "backup-info.json", without)


def sealed(parts: Parts) -> Parts:
    """The same with a manifest whose digests of the members are right again."""
    digests = {
        part.name: hashlib.sha256(part.data).hexdigest()
        for part in parts
        if part.name != "manifest.json" and not part.name.startswith("extent-")
    }
    return edited(parts, "manifest.json", lambda manifest: {**manifest, "members": digests})
