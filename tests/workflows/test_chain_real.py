"""Chains from real dirty bitmaps, through the real daemon: every point in time, compared whole."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tapestream import (
    BackupInfo,
    ImageioHTTPSource,
    ImageioUploadSink,
    RawImageSink,
    RawImageSource,
    Source,
    TarStreamSink,
    TarStreamSource,
    copy,
    merge_chain,
    restore_chain,
)
from tapestream.model.extents import Extents, Kind
from tapestream.model.info import Context
from tapestream.testing import (
    ImageioDaemon,
    compare_images,
    create_image,
    serve_image,
    virtual_size,
    write_pattern,
)

KIB, MIB = 1024, 1024**2
# Not a multiple of qcow2's clusters, of 64 KiB: qemu has it as clean data when the disk grows.
SIZE = 12 * MIB
GROWN = 17 * MIB + 512

# What happens to the disk before each checkpoint.
CHANGES: Sequence[Sequence[str]] = [
    [],  # the full backup is of what is there at first
    [
        "write -P 0x21 1M 300k",
        "write -P 0x22 2000001 777",  # much smaller than a cluster
        "write -P 0x23 5M 64k",
        f"write -P 0x24 {SIZE - 100} 100",  # to the last byte
    ],
    [
        "write -z 2M 1M",
        "write -z -u 5M 64k",  # over a change
        f"discard {6 * MIB} 640k",
        "write -P 0x31 2500000 5",  # into zeros
        f"write -z {SIZE - 64 * KIB} 64k",
    ],
    [],  # nothing
    [
        "write -P 0x51 1100000 200000",  # over changes, and beyond
        "write -P 0x52 5M 10k",
        f"write -P 0x53 {SIZE - 1} 1",
        "discard 1M 64k",
        "write -P 0x54 6M 1",
    ],
    [f"resize {GROWN}", "write -P 0x61 14M 200k", "write -z 15M 64k", "write -P 0x62 64k 1"],
    [
        f"write -P 0x71 {SIZE - 10} 20",  # across the old end
        "write -z 14M 100k",
        f"write -P 0x72 {GROWN - 512} 512",
        "discard 0 64k",
        "write -P 0x73 3M 3M",
    ],
    ["write -z 3M 1M", "write -P 0x81 3500000 1000", "write -P 0x82 16M 64k", "discard 7M 1M"],
]
POINTS = range(1, len(CHANGES) + 1)


@dataclass(frozen=True)
class Point:
    """A backup, and a raw copy of the disk as it was then."""

    info: BackupInfo
    tar: Path
    raw: Path
    extents: Extents


class History:
    """A disk with a checkpoint for each day; a bitmap of the same name begins there.

    Attributes:
        points: By number, from 1.
    """

    def __init__(self, daemon: ImageioDaemon, directory: Path, size: int, grown: int) -> None:
        self.daemon = daemon
        self.directory = directory
        self.disk = directory / "disk.qcow2"
        self.size = size
        self.points: dict[int, Point] = {}

    def change(self, commands: Sequence[str]) -> None:
        for command in commands:
            if command.startswith("resize "):
                size = command.removeprefix("resize ")
                qemu_img("resize", "-q", "-f", "qcow2", self.disk, size)
            else:
                write_pattern(self.disk, [command])

    def checkpoint(self, number: int) -> None:
        """Take a backup; changes from here on are in the bitmap of this checkpoint."""
        if number > 1:
            qemu_img("bitmap", "--disable", self.disk, f"c{number - 1}")
        qemu_img("bitmap", "--add", self.disk, f"c{number}")
        info = backup_info(number, number - 1 or None)
        raw = self.directory / f"{number}.raw"
        qemu_img("convert", "-f", "qcow2", "-O", "raw", self.disk, raw)
        bitmap = f"c{number - 1}" if number > 1 else None
        tar, extents = self.backup(f"{number}.tar", info, bitmap)
        self.points[number] = Point(info, tar, raw, extents)

    def backup(self, name: str, info: BackupInfo, bitmap: str | None) -> tuple[Path, Extents]:
        """Back up what changed, or without a bitmap everything."""
        tar = self.directory / name
        with serve_image(self.disk, bitmap=bitmap) as nbd:
            size = virtual_size(self.disk)
            url = self.daemon.add_ticket(nbd, size, dirty=bitmap is not None)
            context: Context = "dirty" if bitmap else "zero"
            with (
                ImageioHTTPSource(
                    url, cafile=self.daemon.cafile, context=context, info=info
                ) as source,
                TarStreamSink(tar, part_size=MIB) as sink,
            ):
                extents = source.extents()
                copy(source, sink)
            self.daemon.remove_ticket(url)
        return tar, extents

    @contextmanager
    def sources(self, *numbers: int, seed: int = 0) -> Iterator[list[Source]]:
        """The backups of these numbers, open, in any order."""
        with ExitStack() as stack:
            tars = [self.points[number].tar for number in numbers]
            random.Random(seed).shuffle(tars)
            yield [stack.enter_context(TarStreamSource(tar)) for tar in tars]

    def check(self, number: int, raw: Path) -> None:
        """Make sure that a raw image is the disk as it was, to the last byte."""
        assert raw.read_bytes() == self.points[number].raw.read_bytes()


def qemu_img(*arguments: str | Path) -> None:
    subprocess.run(["qemu-img", *arguments], check=True, capture_output=True)


def backup_info(number: int, parent: int | None) -> BackupInfo:
    return BackupInfo(
        vm_id="vm",
        disk_id="disk",
        backup_id=f"b{number}",
        checkpoint_id=f"c{number}",
        parent_checkpoint_id=None if parent is None else f"c{parent}",
    )


def noisy_disk(path: Path, size: int, seed: int, *options: str) -> None:
    """Noise, with holes: what is found at a wrong offset never looks right."""
    raw = path.with_suffix(".noise")
    with raw.open("wb") as f:
        f.truncate(size)
        noise = random.Random(seed)
        for start in range(0, size, 2 * MIB):
            f.seek(start + noise.randrange(8) * 64 * KIB)
            f.write(noise.randbytes(max(0, min(MIB, size - f.tell()))))
        f.seek(size - 40 * KIB)
        f.write(noise.randbytes(40 * KIB))
    qemu_img("convert", "-f", "raw", "-O", "qcow2", *options, raw, path)
    raw.unlink()


@pytest.fixture(scope="module")
def history(daemon: ImageioDaemon, tmp_path_factory: pytest.TempPathFactory) -> History:
    made = History(daemon, tmp_path_factory.mktemp("history"), SIZE, GROWN)
    noisy_disk(made.disk, SIZE, 1)
    for number in POINTS:
        made.change(CHANGES[number - 1])
        made.checkpoint(number)
    return made


def upload_and_check(
    history: History,
    number: int,
    target: Path,
    sources: Sequence[Source],
    *,
    unix: bool,
    merged: bool = False,
) -> None:
    """Restore a chain into a qcow2 image, through the daemon."""
    daemon = history.daemon
    with serve_image(target, read_only=False) as nbd:
        url = daemon.add_ticket(nbd, virtual_size(target), ops=["read", "write"])
        with ImageioUploadSink(url, cafile=daemon.cafile, use_unix_socket=unix) as sink:
            assert sink.over_unix_socket is unix
            if merged:
                copy(merge_chain(sources), sink)
            else:
                restore_chain(sources, sink)
        daemon.remove_ticket(url)
    assert virtual_size(target) == history.points[number].raw.stat().st_size
    compare_images(history.points[number].raw, target, a_format="raw")


def a_qcow2(path: Path, size: int, *, full_of_other_data: bool) -> Path:
    create_image(path, size)
    if full_of_other_data:
        write_pattern(path, [f"write -P 0xee 0 {size}"])
    return path


def test_the_history_is_worth_restoring(history: History) -> None:
    """All kinds of extents are in it, and no two points are the same but where nothing changed."""
    kinds = {n: {kind for _, _, kind in p.extents.runs()} for n, p in history.points.items()}
    everything = {Kind.DATA, Kind.ZERO, Kind.CLEAN}
    assert kinds[1] == {Kind.DATA, Kind.ZERO}
    assert kinds[2] == {Kind.DATA, Kind.CLEAN}
    assert kinds[4] == {Kind.CLEAN}
    assert all(kinds[n] == everything for n in (3, 5, 6, 7, 8))
    raw = {n: p.raw.read_bytes() for n, p in history.points.items()}
    assert [len(r) for r in raw.values()] == [SIZE] * 5 + [GROWN] * 3
    assert [raw[n] == raw[n - 1] for n in POINTS[1:]] == [n == 4 for n in POINTS[1:]]
    behind = [e for e in history.points[6].extents if e.start >= SIZE]
    assert {(e.dirty, e.zero) for e in behind} >= {(False, True), (True, False)}


@pytest.mark.parametrize("number", POINTS)
def test_into_a_raw_image(history: History, tmp_path: Path, number: int) -> None:
    new, old = tmp_path / "new.raw", tmp_path / "old.raw"
    old.write_bytes(b"\xee" * GROWN)
    for target in (new, old):
        with (
            history.sources(*range(1, number + 1), seed=number) as sources,
            RawImageSink(target) as sink,
        ):
            result = restore_chain(sources, sink, verify_first=target is old)
        history.check(number, target)
        assert result.context == "zero"
        assert result.size == result.data_bytes + result.zero_bytes
        assert result.verified == "sha256"


@pytest.mark.parametrize("number", POINTS)
def test_merged(history: History, tmp_path: Path, number: int) -> None:
    """Directly into a raw image, and to a tar, which is a full backup of its own."""
    tar, direct, later = tmp_path / "merged.tar", tmp_path / "direct.raw", tmp_path / "later.raw"
    later.write_bytes(b"\xee" * GROWN)
    with (
        history.sources(*range(1, number + 1), seed=number) as sources,
        RawImageSink(direct) as raw,
    ):
        copy(merge_chain(sources), raw)
    history.check(number, direct)
    with history.sources(*range(1, number + 1)) as sources, TarStreamSink(tar) as sink:
        copy(merge_chain(sources), sink)
    with TarStreamSource(tar) as full, RawImageSink(later) as raw:
        assert (full.info.context, full.info.parent_checkpoint_id) == ("zero", None)
        assert full.info.checkpoint_id == f"c{number}"
        copy(full, raw)
    history.check(number, later)


@pytest.mark.parametrize("number", POINTS)
def test_uploaded(history: History, tmp_path: Path, number: int) -> None:
    """Into a new disk, and into one that is full of other data; restored, and merged."""
    size = history.points[number].raw.stat().st_size
    for merged in (False, True):
        for full in (False, True):
            target = tmp_path / f"{merged}-{full}.qcow2"
            a_qcow2(target, size, full_of_other_data=full)
            with history.sources(*range(1, number + 1), seed=number) as sources:
                unix = (number + merged + full) % 3 > 0
                upload_and_check(history, number, target, sources, unix=unix, merged=merged)


def test_large_clusters(daemon: ImageioDaemon, tmp_path: Path) -> None:
    """What was never written of a new cluster is reported as data, and as unchanged."""
    history = History(daemon, tmp_path, SIZE, GROWN)
    noisy_disk(history.disk, SIZE, 2, "-o", "cluster_size=2M")
    history.checkpoint(1)
    history.change([f"write -P 1 {SIZE - 100} 1", f"resize {GROWN}", "write -P 2 14500k 1k"])
    history.disk.write_bytes(history.disk.read_bytes())  # no holes, which would be known as zeros
    history.checkpoint(2)
    grown = [extent for extent in history.points[2].extents if extent.start >= SIZE]
    assert any(not extent.zero and not extent.dirty for extent in grown)
    with history.sources(1, 2) as sources, RawImageSink(tmp_path / "restored") as sink:
        restore_chain(sources, sink)
    history.check(2, tmp_path / "restored")


@pytest.mark.parametrize("full", [False, True], ids=["new", "other-data"])
def test_a_merged_tar_uploaded(history: History, tmp_path: Path, full: bool) -> None:
    tar = tmp_path / "merged.tar"
    with history.sources(*POINTS) as sources, TarStreamSink(tar) as sink:
        copy(merge_chain(sources), sink)
    target = a_qcow2(tmp_path / "disk.qcow2", GROWN, full_of_other_data=full)
    with TarStreamSource(tar) as source:
        upload_and_check(history, POINTS[-1], target, [source], unix=False)


@pytest.mark.parametrize("number", POINTS[4:])
def test_a_synthetic_full_backup_in_the_middle(
    history: History, tmp_path: Path, number: int
) -> None:
    """Made on Wednesday; what came later is restored on top of it, or on top of a raw image."""
    tar, rest = tmp_path / "wednesday.tar", range(5, number + 1)
    with history.sources(1, 2, 3, 4) as sources, TarStreamSink(tar) as sink:
        copy(merge_chain(sources), sink)
    targets = [tmp_path / f"{i}.raw" for i in range(3)]
    with (
        history.sources(*rest) as sources,
        TarStreamSource(tar) as full,
        RawImageSink(targets[0]) as raw,
    ):
        restore_chain([*sources, full], raw)
    with (
        history.sources(*rest) as sources,
        history.sources(1, 2, 3, 4) as before,
        RawImageSink(targets[1]) as raw,
    ):
        restore_chain([*sources, merge_chain(before)], raw)
    wednesday = history.points[4]
    with (
        history.sources(*rest) as sources,
        RawImageSource(wednesday.raw, info=wednesday.info) as image,
        RawImageSink(targets[2]) as raw,
    ):
        restore_chain([*sources, image], raw)
    for target in targets:
        history.check(number, target)


def test_an_incremental_backup_over_several_checkpoints(history: History, tmp_path: Path) -> None:
    """From an older checkpoint, all bitmaps since are merged: what it says is of several days."""
    disk = history.disk
    qemu_img("bitmap", "--add", "--disable", disk, "since-c5")
    for number in (5, 6, 7):
        qemu_img("bitmap", "--merge", f"c{number}", disk, "since-c5")
    tar, _ = history.backup("since-c5.tar", backup_info(8, 5), "since-c5")
    with (
        history.sources(1, 2, 3, 4, 5) as sources,
        TarStreamSource(tar) as late,
        RawImageSink(tmp_path / "disk.raw") as raw,
    ):
        restore_chain([late, *sources], raw)
    history.check(8, tmp_path / "disk.raw")


def test_a_disk_straight_from_the_daemon_on_top(history: History, tmp_path: Path) -> None:
    """The last incremental backup need not be in a tar: any source will do."""
    daemon, last = history.daemon, history.points[8]
    with serve_image(history.disk, bitmap="c7") as nbd:
        url = daemon.add_ticket(nbd, virtual_size(history.disk), dirty=True)
        with (
            ImageioHTTPSource(url, cafile=daemon.cafile, context="dirty", info=last.info) as live,
            history.sources(*POINTS[:-1]) as sources,
            RawImageSink(tmp_path / "disk.raw") as raw,
        ):
            restore_chain([live, *sources], raw, verify_first=True)
        daemon.remove_ticket(url)
    history.check(8, tmp_path / "disk.raw")


def test_a_disk_that_does_not_end_at_a_cluster_grows(daemon: ImageioDaemon, tmp_path: Path) -> None:
    """What qemu tells of the last cluster, which has data, lies across the old end of the disk."""
    size = 4 * MIB + 3 * 512
    history = History(daemon, tmp_path, size, 0)
    noisy_disk(history.disk, size, 2)
    history.checkpoint(1)
    history.change([f"resize {6 * MIB}", "write -P 0x11 1M 64k"])
    history.checkpoint(2)
    target = a_qcow2(tmp_path / "target.qcow2", 6 * MIB, full_of_other_data=True)
    with history.sources(1, 2) as sources:
        upload_and_check(history, 2, target, sources, unix=True)
