"""The stream in the hands of others: GNU tar, bsdtar, Python's tarfile, and a shell."""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
import subprocess
import tarfile
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

import pytest

from tapestream import BackupInfo, RawImageSource, TarStreamSink, copy
from tapestream.model.extents import Extents

KIB, MIB = 1024, 1024**2
CREATED = datetime(2026, 11, 23, 15, 46, 1, tzinfo=timezone.utc)
FORMAT = Path(__file__).parents[2] / "docs" / "stream-format.md"


class Backup(NamedTuple):
    image: Path
    tar: Path
    extents: Extents


@pytest.fixture(scope="module")
def backup(tmp_path_factory: pytest.TempPathFactory) -> Backup:
    """A disk of odd size, data at both ends, and one extent in three parts."""
    directory = tmp_path_factory.mktemp("interop")
    image, tar = directory / "disk.img", directory / "disk.tar"
    rng = random.Random(3)
    with image.open("wb") as f:
        f.write(rng.randbytes(100))
        for offset, length in ((MIB, 2 * MIB + 5), (5 * MIB, 64 * KIB), (9 * MIB, 77)):
            f.seek(offset)
            f.write(rng.randbytes(length))
    with (
        RawImageSource(image, info=BackupInfo(vm_name="web", created=CREATED)) as src,
        TarStreamSink(tar, part_size=MIB, attachments={"vm.ovf": b"<ovf/>"}) as dst,
    ):
        copy(src, dst)
        return Backup(image, tar, src.extents())


def specified(backup: Backup) -> list[tuple[str, int | None]]:
    """Names and sizes as docs/stream-format.md says they must be; None: whatever it is."""
    members: list[tuple[str, int | None]] = [
        ("backup-info.json", None),
        ("extents.json", len(backup.extents.json)),
        ("attachments/vm.ovf", 6),
    ]
    number = 0
    for extent in json.loads(backup.extents.json):
        if not extent["zero"]:
            number += 1
            for offset in range(0, extent["length"], MIB):
                length = min(MIB, extent["length"] - offset)
                members.append((f"extent-{number}@{extent['start'] + offset}", length))
    return [*members, ("manifest.json", None)]


def assert_as_specified(backup: Backup, found: list[tuple[str, int]]) -> None:
    wanted = specified(backup)
    assert len(wanted) > 6
    assert [name for name, _ in found] == [name for name, _ in wanted]
    for (name, size), (_, wanted_size) in zip(found, wanted, strict=True):
        assert wanted_size in (None, size), name


@pytest.mark.parametrize("tool", ["tar", "bsdtar"])
def test_listed_by(tool: str, backup: Backup) -> None:
    result = subprocess.run(
        [tool, "--utc" if tool == "tar" else "--numeric-owner", "-tvf", backup.tar],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", "TZ": "UTC", "LC_ALL": "C"},
    )
    assert result.stderr == ""
    lines = [line.split() for line in result.stdout.splitlines()]
    sizes = [2 if tool == "tar" else 4] * len(lines)
    assert_as_specified(
        backup, [(line[-1], int(line[column])) for line, column in zip(lines, sizes, strict=True)]
    )
    for line in lines:
        assert line[0] == "-rw-------"


@pytest.mark.parametrize("tool", ["tar", "bsdtar"])
def test_extracted_by(tool: str, backup: Backup, tmp_path: Path) -> None:
    result = subprocess.run(
        [tool, "-xf", backup.tar, "-C", tmp_path], capture_output=True, text=True, check=True
    )
    assert result.stderr == ""
    assert_members_hold_the_disk(backup, tmp_path)


def test_read_by_tarfile(backup: Backup, tmp_path: Path) -> None:
    with tarfile.open(backup.tar, errorlevel=2) as tar:
        members = tar.getmembers()
        assert_as_specified(backup, [(m.name, m.size) for m in members])
        for m in members:
            assert (m.mode, m.uid, m.gid, m.uname, m.gname) == (0o600, 0, 0, "root", "root")
            assert m.mtime == CREATED.timestamp()
            assert m.type == tarfile.REGTYPE
            assert m.pax_headers == {}
            (tmp_path / m.name).parent.mkdir(exist_ok=True)
            content = tar.extractfile(m)
            assert content is not None
            (tmp_path / m.name).write_bytes(content.read())
    assert_members_hold_the_disk(backup, tmp_path)


def test_read_by_tarfile_from_a_pipe(backup: Backup) -> None:
    with tarfile.open(fileobj=io.BytesIO(backup.tar.read_bytes()), mode="r|") as tar:
        assert_as_specified(backup, [(m.name, m.size) for m in tar])


def assert_members_hold_the_disk(backup: Backup, directory: Path) -> None:
    image = backup.image.read_bytes()
    for name, size in specified(backup):
        content = (directory / name).read_bytes()
        if name.startswith("extent-"):
            start = int(name.partition("@")[2])
            assert size is not None
            assert content == image[start : start + size]
    assert (directory / "attachments/vm.ovf").read_bytes() == b"<ovf/>"
    assert (directory / "extents.json").read_bytes() == backup.extents.json
    info = json.loads((directory / "backup-info.json").read_bytes())
    assert info["vm_name"] == "web"
    assert info["created"] == "2026-11-23T15:46:01Z"
    assert info["size"] == len(image)


def test_every_digest_is_that_of_the_extracted_member(backup: Backup, tmp_path: Path) -> None:
    """An independent reader: digests as sha256sum makes them."""
    subprocess.run(["tar", "-xf", backup.tar, "-C", tmp_path], check=True)
    manifest = json.loads((tmp_path / "manifest.json").read_bytes())
    names = [name for name, _ in specified(backup)]
    data = [name for name in names if name.startswith("extent-")]

    def digest(name: str) -> str:
        return hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()

    assert manifest["segments"] == [digest(name) for name in data]
    assert manifest["members"] == {name: digest(name) for name in names[:3]}
    assert manifest["data_members"] == len(data)
    assert manifest["data_bytes"] == sum((tmp_path / name).stat().st_size for name in data)
    assert manifest["continues"] is False


def shell_blocks() -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```", FORMAT.read_text(), re.MULTILINE | re.DOTALL)


def run_shell(script: str, directory: Path) -> str:
    return subprocess.run(
        ["sh", "-eu", "-c", script], cwd=directory, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize("block", [0, 1], ids=["extract", "to-command"])
def test_the_shell_restore_of_the_docs(block: int, backup: Backup, tmp_path: Path) -> None:
    (tmp_path / "disk.tar").symlink_to(backup.tar)
    run_shell(shell_blocks()[block], tmp_path)
    subprocess.run(["cmp", backup.image, tmp_path / "disk.raw"], check=True)


def test_the_shell_check_of_the_docs(backup: Backup, tmp_path: Path) -> None:
    (tmp_path / "members").mkdir()
    subprocess.run(["tar", "-xf", backup.tar, "-C", tmp_path / "members"], check=True)
    printed = run_shell(shell_blocks()[2], tmp_path)
    manifest = json.loads((tmp_path / "members" / "manifest.json").read_bytes())
    assert [line.split()[0] for line in printed.splitlines()] == manifest["segments"]


def test_every_key_is_documented(backup: Backup) -> None:
    text = FORMAT.read_text()
    with tarfile.open(backup.tar) as tar:
        for member in ("backup-info.json", "manifest.json"):
            content = tar.extractfile(member)
            assert content is not None
            for key in json.load(content):
                assert f"`{key}`" in text, key


def test_the_end(backup: Backup) -> None:
    stream = backup.tar.read_bytes()
    assert len(stream) % 10240 == 0
    assert stream.endswith(bytes(1024))
