"""Each recipe of docs/stream-format.md, run as it is printed there, by real shell tools."""

from __future__ import annotations

import io
import json
import re
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tapestream import BackupInfo, Extent, TarStreamSink, copy
from tapestream.testing.memory import MemorySource
from tests.chains import WEEK
from tests.disks import noise
from tests.tar.layouts import Layout, flipped
from tests.tar.tars import CREATED

PAGE = (Path(__file__).parents[2] / "docs" / "stream-format.md").read_text()
KIB, MIB = 1024, 1024**2

# Keys that look like others, in every place where they can be.
TRICKY: dict[str, Any] = {
    "size": 5,
    '  "size": 6,': '\n  "size": 7,\n',
    "more": {"size": 8, "segment_size": 9, "list": [{"size": 10}, ["\n", 11]]},
    "segment_size": 12,
}


def recipes(heading: str) -> list[str]:
    """The shell blocks under a heading."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


RESTORE = recipes("Restore with tar and dd alone")
CHECK = recipes("Check by hand")
CHAIN = recipes("Restore a chain by hand")
DAMAGED = recipes("When it is damaged")


def test_all_recipes_are_run_here() -> None:
    assert [len(r) for r in (RESTORE, CHECK, CHAIN, DAMAGED)] == [2, 2, 3, 1]
    assert PAGE.count("```sh\n") == 8


def run(script: str, directory: Path, *, strict: bool = True) -> str:
    return subprocess.run(
        ["sh", "-eu" if strict else "-u", "-c", script],
        cwd=directory,
        capture_output=True,
        text=True,
        check=strict,
    ).stdout


def backup(
    path: Path, disk: bytes, extents: Sequence[Extent] | None = None, **options: Any
) -> bytes:
    """Write a backup of this disk."""
    info = BackupInfo(vm_id="vm", created=CREATED, metadata=options.pop("metadata", TRICKY))
    options = {"attachments": {"vm.ovf": b"<ovf/>", "a b": b""}, **options}
    with MemorySource(disk, extents, info=info) as source, TarStreamSink(path, **options) as sink:
        copy(source, sink)
    return path.read_bytes()


@pytest.mark.parametrize("recipe", RESTORE, ids=["extract", "to-command"])
@pytest.mark.parametrize("part_size", [512, MIB])
def test_restore(recipe: str, part_size: int, tmp_path: Path) -> None:
    disk = noise(70_001) + bytes(MIB) + noise(33)
    extents = [
        Extent(0, 70_001),
        Extent(70_001, MIB, zero=True),
        Extent(70_001 + MIB, 33),
    ]
    backup(tmp_path / "disk.tar", disk, extents, part_size=part_size)
    run(recipe, tmp_path)
    assert (tmp_path / "disk.raw").read_bytes() == disk


@pytest.mark.parametrize("recipe", RESTORE, ids=["extract", "to-command"])
def test_restore_a_disk_of_zeros(recipe: str, tmp_path: Path) -> None:
    backup(tmp_path / "disk.tar", bytes(9000), [Extent(0, 9000, zero=True)])
    run(recipe, tmp_path, strict=False)
    assert (tmp_path / "disk.raw").read_bytes() == bytes(9000)


@pytest.mark.parametrize("recipe", RESTORE, ids=["extract", "to-command"])
def test_an_image_that_is_there_is_left_alone(recipe: str, tmp_path: Path) -> None:
    backup(tmp_path / "disk.tar", bytes(9000), [Extent(0, 8000, zero=True), Extent(8000, 1000)])
    (tmp_path / "disk.raw").write_bytes(b"old" * 4000)
    assert run(recipe, tmp_path) == "disk.raw is there already\n"
    assert (tmp_path / "disk.raw").read_bytes() == b"old" * 4000


@pytest.mark.parametrize("metadata", [{}, TRICKY, {"size": None}, {"z": [[], {}, {"size": "x"}]}])
def test_the_size_is_found(metadata: dict[str, Any], tmp_path: Path) -> None:
    """A key of the metadata can have any name."""
    backup(tmp_path / "disk.tar", noise(4097), metadata=metadata)
    found = {
        re.search(r"(size=\$\(.*\))", recipe)[1]  # type: ignore[index]
        for recipe in [*RESTORE, *CHAIN]
        if "size=" in recipe
    }
    assert len(found) == 3
    (tmp_path / "monday.tar").symlink_to("disk.tar")
    (tmp_path / "members").mkdir()
    subprocess.run(["tar", "-xf", "disk.tar", "-C", "members"], cwd=tmp_path, check=True)
    for size in found:
        assert run(f'{size}\necho "$size"', tmp_path) == "4097\n"


def extract(tar: Path, directory: Path) -> None:
    directory.mkdir(exist_ok=True)
    subprocess.run(["tar", "-xf", tar, "-C", directory], check=True)


def test_the_digests_are_printed(tmp_path: Path) -> None:
    """Of members with several segments, in the order of the manifest and not of their names."""
    extents = [Extent(0, 5 * KIB + 1), Extent(5 * KIB + 1, 100, zero=True)]
    extents += [Extent(5 * KIB + 101 + i * 7, 7, zero=bool(i % 2)) for i in range(41)]
    size = sum(extent.length for extent in extents)
    content = bytearray(noise(size))
    tar = backup(tmp_path / "disk.tar", bytes(content), extents, part_size=3 * 512)
    extract(tmp_path / "disk.tar", tmp_path / "members")
    manifest = json.loads(Layout(tar).contents("manifest.json"))
    printed = [line.split()[0] for line in run(CHECK[0], tmp_path).splitlines()]
    assert printed == manifest["segments"]
    assert len(printed) > len(Layout(tar).data) > 20


@pytest.mark.parametrize("checksum", ["sha256", "blake2b", "crc32"])
def test_everything_is_checked(checksum: str, tmp_path: Path) -> None:
    tar = backup(tmp_path / "disk.tar", noise(9999), part_size=3 * 512, checksum=checksum)
    extract(tmp_path / "disk.tar", tmp_path / "members")
    assert run(CHECK[1], tmp_path) == ""
    for place in Layout(tar).places[:-1]:
        if place.size:
            file = tmp_path / "members" / place.name
            good = file.read_bytes()
            file.write_bytes(flipped(good, len(good) // 2))
            if not place.name.endswith(".json"):
                assert run(CHECK[1], tmp_path, strict=False), place.name
            file.write_bytes(good)


def test_a_backup_without_digests_says_so(tmp_path: Path) -> None:
    tar = backup(tmp_path / "disk.tar", noise(999), checksum=None)
    extract(tmp_path / "disk.tar", tmp_path / "members")
    assert "no digests" in run(CHECK[1], tmp_path, strict=False)
    manifest = json.loads(Layout(tar).contents("manifest.json"))
    assert set(manifest["members"].values()) == {None}
    assert manifest["segments"] == []


@pytest.mark.parametrize("checksum", ["sha256", "blake2b", "crc32"])
def test_the_commands_of_the_table(checksum: str, tmp_path: Path) -> None:
    row = re.search(rf"^\| `{checksum}` \| `'(.*)'` \|$", PAGE, re.MULTILINE)
    assert row is not None
    tar = backup(tmp_path / "disk.tar", noise(5000), checksum=checksum)
    extract(tmp_path / "disk.tar", tmp_path / "members")
    command = row[1].replace("\\|", "|")
    printed = run(f"({command}) <members/extent-1@0", tmp_path).split()[0]
    assert json.loads(Layout(tar).contents("manifest.json"))["segments"] == [printed]


def test_a_chain(tmp_path: Path) -> None:
    """A disk that grows, and on which zeros are written."""
    (tmp_path / "disk.tar").write_bytes(WEEK[0].tar(part_size=1024))
    run(RESTORE[0], tmp_path)
    assert (tmp_path / "disk.raw").read_bytes() == WEEK[0].disk
    for day in WEEK[1:]:
        (tmp_path / "monday.tar").write_bytes(day.tar(part_size=1024))
        run(CHAIN[0], tmp_path)
        run(CHAIN[1], tmp_path, strict=False)
        run(CHAIN[2], tmp_path)
        assert (tmp_path / "disk.raw").read_bytes() == day.disk
    assert len({day.disk for day in WEEK}) == len(WEEK)


def test_what_is_left_of_a_damaged_tar(tmp_path: Path) -> None:
    disk = noise(64 * KIB)
    tar = backup(tmp_path / "disk.tar", disk, part_size=4 * KIB)
    layout = Layout(tar)
    hit = layout.data[5]
    (tmp_path / "damaged.tar").write_bytes(tar[: hit.header] + tar[hit.data + 1024 :])
    run(DAMAGED[0], tmp_path)
    left = (tmp_path / "rest.raw").read_bytes()
    for place in layout.data:
        here = slice(place.start, place.start + place.size)
        assert (left[here] == disk[here]) is (
            place.name not in (hit.name, layout.data[4].name)
        ) or (place.name == layout.data[4].name)


def test_many_members(tmp_path: Path) -> None:
    """More than fit into the arguments of one command."""
    count = 45_000
    with tarfile.open(tmp_path / "disk.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        text = b'{\n  "segment_size": 512,\n  "size": 1\n}\n'
        for name, data in [
            ("backup-info.json", text),
            *((f"extent-{i + 1}@{i * 10**12}", b"x") for i in range(count)),
        ]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    extract(tmp_path / "disk.tar", tmp_path / "members")
    names = [f"extent-{i + 1}@{i * 10**12}" for i in range(count)]
    assert sum(len(name) + 1 for name in names) > 10**6
    find = re.search(r"^find .*? \| sort [^|]*", CHECK[0], re.MULTILINE)
    assert find is not None
    listed = run(f"cd members\n{find[0]}", tmp_path).split()
    assert listed == [f"./{name}" for name in names]


@pytest.mark.parametrize("metadata", [{}, TRICKY])
def test_the_layout_that_is_promised(metadata: dict[str, Any], tmp_path: Path) -> None:
    """Each key of the object on a line of its own, after two spaces, and nothing else there."""
    tar = backup(tmp_path / "disk.tar", noise(100), metadata=metadata)
    text = Layout(tar).contents("backup-info.json").decode()
    keys = re.findall(r'^  "(.*?)": ', text, re.MULTILINE)
    assert keys == list(json.loads(text))
    manifest = Layout(tar).contents("manifest.json").decode()
    assert manifest.endswith('],"start":0,"set_id":null,"volume":1,"continues":false}')
