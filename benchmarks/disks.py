"""The disks: built once into a work directory, each as raw image and as qcow2."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.model import GIB, KIB, MIB
from tapestream import BackupInfo, Extent, RawImageSource, TarStreamSink, copy
from tapestream.model.extents import Extents
from tapestream.model.info import Context
from tapestream.testing import create_image, virtual_size

CHUNK = 64 * KIB
BITMAP = "changed"


@dataclass(frozen=True)
class Disk:
    """A disk in two formats.

    Attributes:
        raw: Sparse; once, if the disk is that several times.
        qcow2: Clusters of 64 KiB.
        size: Virtual size in bytes.
        data_bytes: Bytes of data that the qcow2 image reports.
        data_extents: Number of stretches of data that it reports.
    """

    raw: Path
    qcow2: Path
    size: int
    data_bytes: int
    data_extents: int


def default_work_dir(size: int) -> Path | None:
    """A file system in memory if it, and the memory, have room for a run; None for /tmp."""
    shm = Path("/dev/shm")
    if not shm.is_dir():
        return None
    available = re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text())
    memory = int(available[1]) * KIB if available else 0
    room = min(shutil.disk_usage(shm).free, memory)
    return shm if room > 9 * size + 2 * GIB else None


def build(name: str, directory: Path, size: int) -> Disk:
    """Build a disk, or find the one that was built before.

    Args:
        name: A key of `DISKS`, and how large it shall be: "contiguous/2" is half as large, and
            "contiguous*4" is the whole disk four times, one after the other.
        directory: Where the images are kept.
        size: Bytes of data of a whole disk.
    """
    name, _, times = name.partition("*")
    kind, _, part = name.partition("/")
    amount = max(1, size // int(part or 1) // MIB) * MIB
    raw = directory / f"{kind}-{amount // MIB}.raw"
    qcow2 = directory / f"{raw.stem}{f'-times-{times}' if times else ''}.qcow2"
    if not raw.exists():
        print(f"building {raw.name}", flush=True)
        unfinished = raw.with_suffix(".unfinished")
        DISKS[kind](unfinished, amount)
        unfinished.rename(raw)
    if not qcow2.exists():
        unfinished = qcow2.with_suffix(".unfinished")
        # Of several images it makes one.
        images = [raw] * int(times or 1)
        _run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *images, unfinished)
        unfinished.rename(qcow2)
    shown = _run("qemu-img", "map", "--output=json", qcow2)
    data = [e["length"] for e in json.loads(shown) if e["data"] and not e["zero"]]
    return Disk(raw, qcow2, virtual_size(qcow2), sum(data), len(data))


@dataclass(frozen=True)
class Chain:
    """A full backup of a disk, and incremental ones.

    Attributes:
        tars: Their directory; in the order of their names.
        raw: The disk as of the last one.
    """

    tars: Path
    raw: Path


def back_up_changes(disk: Disk, directory: Path) -> Chain:
    """Back a disk up, and then change it in pieces of 256 KiB, here and there, six times."""
    rng = random.Random(4)
    piece = 256 * KIB
    chain = Chain(directory, directory.with_suffix(".raw"))
    directory.mkdir()
    shutil.copy(disk.raw, chain.raw)
    for day in range(7):
        info = BackupInfo(checkpoint_id=f"{day}", parent_checkpoint_id=f"{day - 1}")
        changed = set(rng.sample(range(disk.size // piece), int(0.15 * disk.size / piece)))
        extents = None
        if day:
            with chain.raw.open("r+b") as f:
                for number in changed:
                    f.seek(number * piece)
                    f.write(rng.randbytes(piece))
            extents = [
                Extent(number * piece, piece, dirty=number in changed)
                for number in range(disk.size // piece)
            ]
        with (
            _ChangedSource(chain.raw, info, extents) as source,
            TarStreamSink(directory / f"{day}.tar") as sink,
        ):
            copy(source, sink)
    return chain


class _ChangedSource(RawImageSource):
    """An image of which only some extents are dirty; a full backup where there are none."""

    def __init__(self, path: Path, info: BackupInfo, extents: Sequence[Extent] | None) -> None:
        super().__init__(path)
        context: Context = "dirty" if extents else "zero"
        self._info = replace(info, size=super().info.size, context=context)
        self._extents = extents

    def extents(self) -> Extents:
        return Extents.of(self._extents) if self._extents else super().extents()


def small_changes(directory: Path, size: int, count: int) -> Path:
    """A qcow2 image of so many clusters of data, evenly spread, all of them in a dirty bitmap."""
    path = directory / f"changes-{size // MIB}-{count}.qcow2"
    if not path.exists():
        unfinished = path.with_suffix(".unfinished")
        create_image(unfinished, size)
        _run("qemu-img", "bitmap", "--add", unfinished, BITMAP)
        step = size // max(count, 1) // CHUNK * CHUNK
        writes = "".join(f"write -q -P {1 + i % 250} {i * step} 64k\n" for i in range(count))
        _run("qemu-io", "-f", "qcow2", unfinished, text=writes or "quit\n")
        unfinished.rename(path)
    return path


def sparse_file(directory: Path, size: int) -> Path:
    """A raw image without data, which a daemon without NBD server reports as data."""
    path = directory / f"sparse-{size // MIB}.raw"
    with path.open("wb") as f:
        f.truncate(size)
    return path


def many_extents(directory: Path, count: int) -> Path:
    """The JSON of so many extents, in turn 4 KiB of data and 4 KiB of hole, as imageio sends it."""
    path = directory / f"extents-{count}.json"
    with path.open("w") as f:
        for i in range(count):
            extent = {"start": i * 4096, "length": 4096, "zero": i % 2 == 1, "hole": i % 2 == 1}
            f.write(("[" if i == 0 else ", ") + json.dumps(extent))
        f.write("]")
    return path


def local_data(raw: Path) -> int:
    """Bytes of data of a raw image, as its file system tells."""
    with RawImageSource(raw) as source:
        return sum(extent.length for extent in source.extents() if not extent.zero)


def _contiguous(raw: Path, amount: int) -> None:
    """Incompressible, without a hole."""
    rng = random.Random(1)
    with raw.open("wb") as f:
        for _ in range(amount // MIB):
            f.write(rng.randbytes(MIB))


def _fragmented(raw: Path, amount: int) -> None:
    """64 KiB of data, 64 KiB of nothing: the worst that qcow2's clusters allow."""
    rng = random.Random(2)
    with raw.open("wb") as f:
        for start in range(0, 2 * amount, 2 * CHUNK):
            f.seek(start)
            f.write(rng.randbytes(CHUNK))
        f.truncate(2 * amount)


def _scattered(raw: Path, amount: int) -> None:
    """What changed on a disk since yesterday: a little here and there."""
    rng = random.Random(5)
    with raw.open("wb") as f:
        for number in range(amount // CHUNK):
            f.seek(number * (CHUNK + 2 * MIB))
            f.write(rng.randbytes(CHUNK))
        f.truncate(amount // CHUNK * (CHUNK + 2 * MIB))


def _filesystem(raw: Path, amount: int) -> None:
    """An ext4 that has been lived in: small files, big files, and the holes of deleted ones."""
    rng = random.Random(3)
    tree = raw.with_suffix(".tree")
    doomed: list[str] = []
    written = number = 0
    while written < amount:
        # Half of the bytes in files of 4 KiB to 512 KiB, half in files of 4 to 16 MiB.
        big = number % 64 == 63
        length = rng.randrange(4 * MIB, 16 * MIB) if big else int(4 * KIB * 2 ** rng.uniform(0, 7))
        name = f"{number // 100}/{number}"
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(rng.randbytes(length))
        if rng.random() < 0.4:
            doomed.append(name)
        else:
            written += length
        number += 1
    with raw.open("wb") as f:
        f.truncate(max(3 * amount, 64 * MIB))
    _run("mkfs.ext4", "-q", "-d", tree, raw)
    shutil.rmtree(tree)
    commands = "".join(f"rm {name}\n" for name in doomed)
    _run("debugfs", "-w", "-f", "/dev/stdin", raw, text=commands)
    # As fstrim would. 1: the file system was modified, and 0: was not.
    _run("e2fsck", "-f", "-y", "-E", "discard", raw, accept=(0, 1))


DISKS: dict[str, Callable[[Path, int], None]] = {
    "contiguous": _contiguous,
    "fragmented": _fragmented,
    "filesystem": _filesystem,
    "scattered": _scattered,
}


def _run(*command: str | Path, text: str = "", accept: tuple[int, ...] = (0,)) -> str:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"  # mkfs.ext4 is not on every user's path
    result = subprocess.run(
        command,
        input=text,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PATH": path},
    )
    if result.returncode not in accept:
        raise RuntimeError(f"{command[0]} failed: {result.stderr or result.stdout}")
    return result.stdout
