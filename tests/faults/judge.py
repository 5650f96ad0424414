"""Was the end right? By tools that are not tapestream: qemu-img, Python's tarfile, cmp."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import IO, Any


class WrongEndError(Exception):
    """Neither right nor an error that says so."""


def raw_of(image: Path, raw: Path) -> None:
    """Convert an image by qemu-img."""
    command = ["qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", str(image), str(raw)]
    subprocess.run(command, check=True)


def unpack(tar: Path, raw: Path) -> None:
    """Restore a backup into a raw image, by docs/stream-format.md and Python's tarfile."""
    with tarfile.open(tar, "r:") as archive:
        members = {member.name: member for member in archive}
        info = _json_of(archive, members["backup-info.json"])
        extents = _json_of(archive, members["extents.json"])
        if "manifest.json" not in members:
            raise WrongEndError("the tar has no manifest")
        with raw.open("r+b" if raw.exists() else "w+b") as out:
            out.truncate(info["size"])
            for extent in extents:
                if extent.get("zero") and extent.get("dirty", True):
                    out.seek(extent["start"])
                    out.write(bytes(extent["length"]))
            for name, member in members.items():
                if name.startswith("extent-"):
                    out.seek(int(name.partition("@")[2]))
                    shutil.copyfileobj(_file_of(archive, member), out)


def check_backup(tar: Path, truth: Path, work: Path, base: Path | None = None) -> None:
    """A backup must hold this disk: alone, or upon its base."""
    raw = work / "judged.raw"
    raw.unlink(missing_ok=True)
    if base is not None:
        shutil.copyfile(base, raw)
    try:
        unpack(tar, raw)
    except (tarfile.TarError, KeyError, ValueError) as e:
        raise WrongEndError(f"the tar cannot be unpacked: {e}") from e
    same(raw, truth)
    raw.unlink()


def check_disk(image: Path, truth: Path) -> None:
    """A qcow2 image must hold this disk."""
    done = subprocess.run(
        ["qemu-img", "compare", "-U", "-f", "qcow2", "-F", "raw", str(image), str(truth)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise WrongEndError(f"the disk is another one: {done.stdout.strip()} {done.stderr.strip()}")


def same(a: Path, b: Path) -> None:
    """Two files must be alike."""
    done = subprocess.run(["cmp", str(a), str(b)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise WrongEndError(f"{done.stdout.strip()} {done.stderr.strip()}")


def _json_of(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Any:
    return json.load(_file_of(archive, member))


def _file_of(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(member)
    assert file is not None, "a member is a regular file"
    return file
