"""Write streams, tapes and a catalog, and what is right to find in them, to be read for ever.

    git worktree add /tmp/old VERSION
    cp -r tests/compatibility /tmp/old/tests/   # if VERSION has no such folder
    cd /tmp/old && PYTHONPATH=src python -m tests.compatibility.make FOLDER

FOLDER must not exist: what a version has written is never written again.
"""

from __future__ import annotations

import io
import json
import re
import sys
import tempfile
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from tapestream import (
    BackupInfo,
    CopyResult,
    DiscardSink,
    RawImageSink,
    TapestreamError,
    TarStreamSink,
    TarStreamSource,
    copy,
    verify,
)
from tapestream.errors import LocalIOError
from tapestream.tape import Catalog, TapeDrive, TapeEntry, VolumeRequest
from tapestream.testing.drive import Cartridge, FakeDrive
from tapestream.testing.memory import MemorySource
from tests.tar.layouts import Layout

from .recipes import Recipe, damaged, extents, image, save, save_cartridge, sha256

K = 1024
CREATED = datetime(2026, 11, 23, 15, 0, 1, tzinfo=timezone.utc)
SMALL_BUFFERS: dict[str, Any] = {"buffer_size": 64 * K, "buffer_memory": 256 * K}

FULL: Recipe = [
    (700, "data", 1),
    (3396, "hole", 0),
    (9000, "data", 1),
    (232, "zero", 0),
    (1, "data", 1),
    (20_000, "hole", 0),
    (30_000, "data", 1),
    (671, "zero", 0),
]
SECOND: Recipe = [
    (300, "data", 2),
    (3796, "clean", 0),
    (5000, "data", 2),
    (1000, "zero", 0),
    (15_000, "clean", 0),
    (8904, "data", 2),
    (30_000, "clean", 0),
]
THIRD: Recipe = [(4096, "clean", 0), (100, "data", 3), (59_804, "clean", 0), (8000, "data", 3)]
FRAGMENTED: Recipe = [
    (7 + 13 * n % 50, ("data", "hole", "data", "zero")[n % 4], 4) for n in range(1500)
]
LARGE: Recipe = [(400 * K, "data", 5), (600 * K, "hole", 0), (700 * K, "data", 5)]

# Recipe, stream below, fields of the BackupInfo, options of the sink.
STREAMS: dict[str, tuple[Recipe, str | None, dict[str, Any], dict[str, Any]]] = {
    "full": (
        FULL,
        None,
        {"vm_name": "Büro 1", "disk_name": "root", "metadata": {"tags": ["ä", 1, None, True]}},
        {"part_size": 2048, "record_size": 2048},
    ),
    "second": (SECOND, "full", {}, {"part_size": 2048}),
    "third": (THIRD, "second", {}, {"part_size": 4096, "checksum": "blake2b"}),
    "defaults": (FULL, None, {}, {"attachments": None}),
    "no-digests": (FULL, None, {}, {"part_size": 2048, "checksum": None}),
    "crc32": (FULL, None, {}, {"part_size": 2048, "checksum": "crc32"}),
    "block-hash": (LARGE, None, {"block_hash": True}, {"checksum": "crc32"}),
    "fallback": (FULL, None, {"fallback": True}, {}),
    "empty": ([], None, {}, {}),
    "zeros": ([(1_000_000, "hole", 0)], None, {}, {}),
    "fragmented": (FRAGMENTED, None, {}, {"checksum": "crc32"}),
}
# Names, capacities and warning zones: the first volume is torn, the second one complete.
TAPES = [("A1", 2500 * K, 0), ("A2", 3000 * K, 1500 * K), ("A3", 8000 * K, 100 * K)]
ATTACHMENTS = {"vm.ovf": b"<ovf/>" * 100, "empty.txt": b""}


def wider(recipe: Recipe) -> Recipe:
    return [(4 * length, kind, seed) for length, kind, seed in recipe]


def backup_info(name: str, base: str | None, number: int, **fields: Any) -> BackupInfo:
    return BackupInfo(
        vm_id="vm",
        disk_id="disk",
        backup_id=f"backup {name}",
        checkpoint_id=name,
        parent_checkpoint_id=base,
        created=CREATED + timedelta(hours=number),
        context="dirty" if base else "zero",
        **fields,
    )


def full_image(name: str, recipes: dict[str, tuple[Recipe, str | None]]) -> bytes:
    recipe, base = recipes[name]
    return image(recipe, full_image(base, recipes) if base else b"")


def restored(source: TarStreamSource, before: bytes = b"") -> bytes:
    """The raw image after a copy onto one that holds `before`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "disk.raw"
        if before:
            path.write_bytes(before.ljust(source.info.size, b"\0"))
        with source, RawImageSink(path) as sink:
            copy(source, sink)
        return path.read_bytes()


def write_streams(folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    folder.mkdir()
    expected: dict[str, Any] = {}
    tars: dict[str, bytes] = {}
    recipes = {name: (recipe, base) for name, (recipe, base, _, _) in STREAMS.items()}
    for number, (name, (recipe, base, fields, options)) in enumerate(STREAMS.items()):
        disk = full_image(name, recipes)
        listed = extents(recipe, dirty=base is not None)
        if fields.get("block_hash"):
            computed = copy(MemorySource(disk, listed), DiscardSink(), block_hash=True)
            info = backup_info(name, base, number, block_hash=computed.block_hash)
        else:
            info = backup_info(name, base, number, **fields)
        out = io.BytesIO()
        sink = TarStreamSink(out, **{"attachments": ATTACHMENTS, **options})
        with MemorySource(disk, listed, info=info) as source, sink:
            result = copy(source, sink, **SMALL_BUFFERS)
        tars[name] = out.getvalue()
        save(folder / f"{name}.tar.xz", tars[name])
        with TarStreamSource(io.BytesIO(tars[name])) as stream:
            assert list(stream.extents()) == listed
            expected[name] = {
                "recipe": recipe,
                "base": base,
                "info": stream.info.to_dict(),
                "attachments": {k: v.decode() for k, v in stream.attachments.items()},
                "checksum": result.checksum,
                "data_bytes": result.data_bytes,
                "sha256": sha256(disk),
            }
        before = full_image(base, recipes) if base else b""
        assert restored(TarStreamSource(io.BytesIO(tars[name])), before) == disk
    return expected, tars


def damage_of(tar: bytes) -> dict[str, list[list[Any]]]:
    """What is done to a stream, by a name for it."""
    layout = Layout(tar)
    data, end = layout.data, layout.place("manifest.json")
    extents_json, attachment = layout.place("extents.json"), layout.place("attachments/vm.ovf")
    return {
        "cut in data": [["cut", data[2].data + 24]],
        "cut in an attachment": [["cut", attachment.data + 1]],
        "no manifest": [["cut", end.header]],
        "cut in the manifest": [["cut", end.data + 10]],
        "no end of archive": [["cut", -(-end.end // 512) * 512]],
        "data": [["flip", data[0].data + 3], ["flip", data[3].data]],
        "header": [["flip", data[2].header]],
        "header of the last": [["flip", data[-1].header + 200]],
        "header of an attachment": [["flip", attachment.header]],
        "contents of an attachment": [["flip", attachment.data + 5]],
        "header of the extents": [["flip", extents_json.header]],
        "header of the extents and data": [["flip", extents_json.header], ["flip", data[1].data]],
        "contents of the extents": [["flip", extents_json.data]],
        "header of the manifest": [["flip", end.header]],
        "contents of the manifest": [["flip", end.data]],
        "zeros": [["zero", data[1].data + 1000, data[2].data + 100]],
        "a lost record": [["lose", data[1].data + 512, data[1].data + 1024]],
        "everything": [
            ["flip", data[0].data + 3],
            ["flip", data[1].header],
            ["zero", data[3].data, data[4].data + 10],
            ["cut", data[7].data + 5],
        ],
        "all of it": [["zero", 0, len(tar)]],
    }


def outcome(tar: bytes) -> dict[str, Any]:
    """What a strict reader, `verify` and a salvage make of a damaged stream."""
    found: dict[str, Any] = {"error": None, "salvage": None}
    try:
        with TarStreamSource(io.BytesIO(tar)) as source:
            copy(source, DiscardSink())
    except TapestreamError as e:
        found["error"] = type(e).__name__
    try:
        source = TarStreamSource(io.BytesIO(tar), allow_incomplete=True)
        disk = restored(source)
    except TapestreamError as e:
        found["salvage_error"] = type(e).__name__
    else:
        assert source.findings is not None
        found["salvage"] = {**_findings(source.findings), "sha256": sha256(disk)}
    try:
        with TarStreamSource(io.BytesIO(tar)) as source:
            report = verify(source)
    except TapestreamError as e:
        found["verify_error"] = type(e).__name__
    else:
        found["verify"] = {**_findings(report), "data_bytes": report.data_bytes}
    return found


def _findings(found: Any) -> dict[str, Any]:
    return {
        "damage": [[d.start, d.length, d.member, d.missing] for d in found.damage],
        "problems": list(found.problems),
        "complete": found.complete,
        "compared": found.checksum if hasattr(found, "checksum") else found.digest_name,
    }


def write_damage(tars: dict[str, bytes]) -> list[dict[str, Any]]:
    return [
        {"stream": name, "name": how, "edits": edits, **outcome(damaged(tars[name], edits))}
        for name in ("full", "no-digests")
        for how, edits in damage_of(tars[name]).items()
    ]


class Writer:
    """Writes backups to tapes that are loaded one after another."""

    def __init__(self) -> None:
        self.tapes = {name: Cartridge(size, warning, name=name) for name, size, warning in TAPES}
        self.double = FakeDrive()
        self.drive = TapeDrive("/dev/nst0", open_device=self.double.open)
        for name in reversed(self.tapes):
            self.load(name)
            self.drive.write_label(name)
        self.loaded = "A1"
        self.backups: dict[str, Any] = {}

    def load(self, name: str) -> None:
        self.drive.release()
        self.double.swap(self.tapes[name])
        self.loaded = name

    def next_tape(self, request: VolumeRequest) -> None:
        names = list(self.tapes)
        self.load(names[names.index(self.loaded) + 1])
        self.drive.read_label()

    def write(
        self, name: str, recipe: Recipe, base: str | None = None, **options: Any
    ) -> CopyResult:
        recipes = {k: (b["recipe"], b["base"]) for k, b in self.backups.items()}
        recipes[name] = recipe, base
        disk = full_image(name, recipes)
        info = backup_info(name, base, len(self.backups))
        self.drive.end_of_data()
        options = {"record_size": 64 * K, "part_size": 64 * K, **options}
        listed = extents(recipe, dirty=base is not None)
        with (
            MemorySource(disk, listed, info=info) as source,
            TarStreamSink(
                self.drive, attachments=ATTACHMENTS, on_volume_full=self.next_tape, **options
            ) as sink,
        ):
            result = copy(source, sink, **SMALL_BUFFERS)
        assert result.receipt is not None
        self.backups[name] = {
            "recipe": recipe,
            "base": base,
            "sha256": sha256(disk),
            "set_id": result.receipt.set_id,
            "places": [[place.label, place.file] for place in result.receipt.places],
            "checksum": result.checksum,
        }
        return result

    def write_unfinished(self) -> None:
        """Append a backup whose source fails on the way."""

        def fail(start: int, length: int) -> None:
            if start >= 2500 * K:
                raise LocalIOError("the disk is gone")

        self.drive.end_of_data()
        disk = image([(3000 * K, "data", 6)])
        info = backup_info("unfinished", None, 9)
        try:
            with (
                MemorySource(disk, info=info, max_readers=1, before_read=fail) as source,
                TarStreamSink(self.drive, record_size=64 * K, part_size=64 * K) as sink,
            ):
                copy(source, sink, buffer_size=64 * K, buffer_memory=128 * K)
        except LocalIOError:
            return
        raise AssertionError("it is finished")

    def salvage(self, name: str, bad: list[int]) -> dict[str, Any]:
        """What a salvage finds where records, by their positions on the tape, cannot be read."""
        [[label, file]] = self.backups[name]["places"]
        self.load(label)
        self.tapes[label].bad = bad
        with TarStreamSource(self.drive, file=file, allow_incomplete=True) as source:
            disk = restored(source)
            assert source.findings is not None
            found = _findings(source.findings)
        self.tapes[label].bad = ()
        return {"backup": name, "bad": bad, **found, "sha256": sha256(disk)}


def entry_values(entry: TapeEntry) -> dict[str, Any]:
    return {
        "file": entry.file,
        "info": entry.info.to_dict() if entry.info else None,
        "complete": entry.complete,
        "label": entry.label,
        "tape_id": entry.tape_label.tape_id if entry.tape_label else None,
        "set_id": entry.set_id,
        "volume": entry.volume,
        "volume_start": entry.volume_start,
        "continues": entry.continues,
        "vouches_from": entry.vouches_from,
        "is_unknown": entry.is_unknown,
    }


def catalog_values(catalog: Catalog) -> list[dict[str, Any]]:
    return [
        {
            "info": backup.info.to_dict(),
            "set_id": backup.set_id,
            "complete": backup.complete,
            "volumes": [
                [v.label, v.file, v.volume, v.complete, v.continues] for v in backup.volumes
            ],
        }
        for backup in catalog.find(incomplete=True)
    ]


def write_tapes(folder: Path) -> dict[str, Any]:
    folder.mkdir()
    writer = Writer()
    path = folder / "catalog.sqlite"
    with Catalog(path) as catalog:
        for result in (
            writer.write("full", wider(FULL)),
            writer.write("large", wider(LARGE), checksum="crc32"),
            writer.write("second", wider(SECOND), "full", part_size=128 * K),
        ):
            assert result.receipt is not None
            catalog.add(result.receipt)
        writer.write_unfinished()
        writer.load("A1")
        catalog.scan(writer.drive)
        scanned = catalog_values(catalog)
        tapes = catalog.tapes()
    data = path.read_bytes()
    path.unlink()
    save(folder / "catalog.sqlite.xz", data)
    listing = {}
    for name, cartridge in writer.tapes.items():
        save_cartridge(folder / f"{name}.blocks.xz", cartridge)
        writer.load(name)
        listing[name] = [entry_values(entry) for entry in writer.drive.scan()]
    return {
        "backups": writer.backups,
        "tapes": listing,
        "catalog": {"tapes": tapes, "backups": scanned},
        "bad": [writer.salvage("full", bad) for bad in ([3], [4], [3, 4])],
    }


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True)  # an error if it is there
    streams, tars = write_streams(folder / "streams")
    expected = {
        "streams": streams,
        "damaged": write_damage(tars),
        "tape": write_tapes(folder / "tapes"),
    }
    text = json.dumps(expected, indent=1, ensure_ascii=False)
    # Lists of numbers and words on one line.
    text = re.sub(r"\[\s+([^][{}]*?)\s+\]", lambda m: "[" + re.sub(r"\n *", " ", m[1]) + "]", text)
    assert json.loads(text) == json.loads(json.dumps(expected))
    (folder / "expected.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
