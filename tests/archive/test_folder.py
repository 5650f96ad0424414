"""Real tars in a folder: what is read of them, what is found, and what is restored from it."""

from __future__ import annotations

import gzip
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tapestream import BackupInfo, TarStreamSink, copy, merge_chain, restore_chain
from tapestream.archive import Archive, Chain, FileBackup, read_folder
from tapestream.errors import (
    LocalIOError,
    NoRestorePointError,
    UsageError,
    WrongBackupError,
)
from tapestream.tar import format as fmt
from tapestream.tar.preamble import Preamble
from tapestream.testing.memory import MemorySink, MemorySource, Pattern
from tests.chains import CLEAN, DATA, ZERO, Link, link

from .histories import START, Stored, chains_to, newest_as_of

K = 1024
NIGHTS = 10
FATES = ["good"] * 7 + ["lost", "head", "json", "end", "cut"]


class Tar(NamedTuple):
    """A tar, with what it holds."""

    link: Link
    name: str
    content: bytes


def the_disk(vm: str, number: int) -> list[Link]:
    """Ten nights of a disk of a VM; now and then a full backup begins a new chain."""
    made: list[Link] = []
    for night in range(NIGHTS):
        before = made[-1] if made and night % (3 + number) else None
        seed = night + 100 * number
        runs = [(2 * K, DATA), (3 * K, ZERO), (1 * K, DATA), (2 * K, ZERO)]
        if before is not None:
            runs = [
                (night * 512, CLEAN),
                (1 * K, DATA),
                (1 * K, ZERO),
                (6 * K - night * 512, CLEAN),
            ]
        one = link(before, night, runs, seed)
        info = BackupInfo(
            vm_id=f"{vm}-id",
            vm_name=vm,
            disk_id=f"{vm}-{number}-id",
            disk_name=f"Disk{number}",
            checkpoint_id=f"{vm}-{night}",
            parent_checkpoint_id=f"{vm}-{night - 1}" if before else None,
            context="dirty" if before else "zero",
            created=START + timedelta(days=night),
        )
        made.append(replace(one, info=info))
    return made


@pytest.fixture(scope="module")
def tars() -> list[Tar]:
    """Forty tars, of the four disks of three VMs."""
    return [
        Tar(one, f"{vm}-{number}-{night}.tar", one.tar(record_size=fmt.RECORD_SIZE))
        for vm, number in [("mail", 1), ("mail", 2), ("web", 1), ("db", 3)]
        for night, one in enumerate(the_disk(vm, number))
    ]


def first_member_of(tar: Tar) -> int:
    """Bytes up to the end of `backup-info.json`."""
    header = fmt.parse_header(tar.content[: fmt.BLOCK])
    assert header is not None
    return fmt.BLOCK + header.size


def spoilt(content: bytes, fate: str, cut_at: float) -> bytes:
    """A tar after something has happened to it."""
    if fate == "head":
        return content[:150] + b"9" + content[151:]
    if fate == "json":
        return content.replace(b'"context"', b'"contaxt"', 1)
    if fate == "end":
        return content.replace(b'"continues":', b'"continues";')
    if fate == "cut":
        return content[: 1 + int(cut_at * (len(content) - 2))]
    return content


def restored(chain: Chain) -> bytes:
    sink = MemorySink()
    with chain.open() as sources:
        restore_chain(sources, sink, buffer_size=4096, buffer_memory=16384)
    return bytes(sink.disk)


def put_into(
    folder: Path, tars: list[Tar], data: st.DataObject
) -> tuple[dict[str, list[Stored]], set[str]]:
    """Write some of the tars, some of them spoilt.

    Returns:
        The backups of each disk that the archive must find, and the files that cannot be read.
    """
    disks: dict[str, list[Stored]] = {}
    cannot_be_read = set()
    for tar in tars:
        place = str(folder / tar.name)
        fate = data.draw(st.sampled_from(FATES))
        if fate == "lost":
            continue
        content = spoilt(tar.content, fate, data.draw(st.floats(0, 1)) if fate == "cut" else 0)
        Path(place).write_bytes(content)
        if fate in ("head", "json") or len(content) < first_member_of(tar):
            cannot_be_read.add(place)
            continue
        problem = None if fate == "good" else "something"
        info = replace(tar.link.info, size=len(tar.link.disk))
        disks.setdefault(str(info.disk_id), []).append(Stored(info, place, problem))
    return disks, cannot_be_read


def check_said(error: NoRestorePointError, made: list[Stored], cannot_be_read: list[str]) -> None:
    """The error names what is missing, or the file that is not complete."""
    for one in made:
        if one.place in error.places:
            assert one.problem
            assert one.place in str(error)
    if not error.places:
        assert "no backup of that checkpoint is here" in str(error)
        assert error.checkpoint not in {one.info.checkpoint_id for one in made}
        assert all(place in str(error) for place in cannot_be_read[:5])


@settings(
    max_examples=12, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(data=st.data())
def test_forty_tars_are_answered_as_by_the_model(
    tars: list[Tar], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """For every disk and every time; a few are restored, and the whole image is compared."""
    folder = tmp_path_factory.mktemp("tars")
    images = {str(folder / tar.name): tar.link.disk for tar in tars}
    disks, cannot_be_read = put_into(folder, tars, data)
    archive = read_folder(folder)
    assert {file.place for file in archive.unreadable} == cannot_be_read
    assert (archive.ignored, archive.unfinished) == ((), ())
    found_bad = {one.place for one in archive.backups if one.problem}
    assert found_bad == {one.place for made in disks.values() for one in made if one.problem}
    for disk, made in disks.items():
        for hours in range(0, NIGHTS * 24, 12):
            at = START + timedelta(hours=hours)
            last, chains = newest_as_of(made, at)
            if chains:
                chain = archive.find(disk=disk, at=at)
                assert {tuple(one.place for one in chain.backups)} == chains
                continue
            with pytest.raises(NoRestorePointError) as caught:
                archive.find(disk=disk, at=at)
            if last is not None:
                check_said(caught.value, made, sorted(cannot_be_read))
        good = [one for one in made if chains_to(made, one)]
        checkpoints = [one.info.checkpoint_id for one in good]
        assert archive.good_checkpoints(disk.partition("-")[0], disk) == checkpoints[::-1]
        if good:
            one = data.draw(st.sampled_from(good))
            assert restored(archive.find(disk=disk, at=one.info.created)) == images[one.place]
    assert archive.superseded() == []


# How much is read


def reads() -> tuple[int, int]:
    """How often this process has read something, and how many bytes."""
    counts = dict(re.findall(r"(\w+): (\d+)", Path("/proc/self/io").read_text()))
    return int(counts["syscr"]), int(counts["rchar"])


def test_a_thousand_files_are_listed_with_few_reads(tars: list[Tar], tmp_path: Path) -> None:
    for number in range(1000):
        (tmp_path / f"{number:04}.tar").write_bytes(tars[number % len(tars)].content)
    read_folder(tmp_path)  # the first time, modules are read
    calls, length = reads()
    archive = read_folder(tmp_path)
    calls, length = reads()[0] - calls, reads()[1] - length
    assert len(archive.backups) == 1000
    assert archive.find(vm="web").info.checkpoint_id == "web-9"
    assert calls <= 3 * 1000 + 10
    assert length <= 1000 * (16 * K + 4 * K)


@pytest.mark.parametrize("record_size", [512, 10240, 4 * K * K])
def test_a_large_tar_is_not_read(tmp_path: Path, record_size: int) -> None:
    size = 32 * K * K
    with (
        MemorySource(Pattern(b"tapestream", size), info=BackupInfo(disk_id="d")) as source,
        TarStreamSink(tmp_path / "large.tar", record_size=record_size) as sink,
    ):
        copy(source, sink)
    calls, length = reads()
    (found,) = read_folder(tmp_path).backups
    calls, length = reads()[0] - calls, reads()[1] - length
    assert isinstance(found, FileBackup)
    assert (found.problem, found.size) == (None, os.path.getsize(tmp_path / "large.tar"))
    assert calls <= 6  # of which one is that of the counts themselves
    assert length <= 32 * K + (record_size + 32 * K if record_size > 16 * K else 0)


# What else is in a folder


@pytest.fixture
def good(tars: list[Tar], tmp_path: Path) -> Path:
    path = tmp_path / "good.tar"
    path.write_bytes(tars[0].content)
    return path


def reason(archive: Archive, which: str, path: Path) -> str:
    [found] = [one.reason for one in getattr(archive, which) if one.place == str(path)]
    return str(found)


def first_member(volume: int) -> bytes:
    """A tar that begins as this volume of a backup, and has nothing else."""
    info = BackupInfo(disk_id="d", checkpoint_id="c")
    text = Preamble(info, None, fmt.MIB, 512, set_id="s", volume=volume, members=()).encode()
    header = fmt.HeaderWriter(0).header(fmt.INFO, len(text))
    return header + text + bytes(fmt.padding(len(text)))


def test_files_that_are_no_backups(good: Path, tmp_path: Path) -> None:
    """Nothing waits for the writer of a fifo, and nothing is an error."""
    (tmp_path / "folder.tar").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty.tar").touch()
    (tmp_path / "README").write_text("Ask the operator.\n")
    (tmp_path / "disk.raw").write_bytes(bytes(8192))
    (tmp_path / "volume2.tar").write_bytes(first_member(2))
    (tmp_path / "image.raw.partial").write_bytes(bytes(8192))
    (tmp_path / ".new.tar.12.partial").touch()
    (tmp_path / ".begun.tar.12.partial").write_bytes(good.read_bytes()[:100])
    archive = read_folder(tmp_path)
    assert [one.place for one in archive.backups] == [str(good)]
    assert (archive.unreadable, archive.unfinished) == ((), ())
    for name, said in {
        "folder.tar": "it is a folder",
        "fifo": "it is not a regular file",
        "empty.tar": "it is empty",
        "README": "README does not begin with backup-info.json",
        "disk.raw": "does not begin with backup-info.json",
        "volume2.tar": "it is volume 2 of a backup, without its first one",
        "image.raw.partial": "does not begin with",
        ".new.tar.12.partial": "it is empty",
        ".begun.tar.12.partial": "ends after 100 bytes",
    }.items():
        assert said in reason(archive, "ignored", tmp_path / name), name


def test_files_that_may_be_backups(good: Path, tmp_path: Path) -> None:
    content = good.read_bytes()
    (tmp_path / "gone.tar").symlink_to("nowhere")
    (tmp_path / "packed.tar.gz").write_bytes(gzip.compress(content))
    (tmp_path / "new.tar").write_bytes(content.replace(b'"version": 1', b'"version": 2', 1))
    (tmp_path / "bad.tar").write_bytes(spoilt(content, "json", 0))
    (tmp_path / "short.tar").write_bytes(content[:100])
    archive = read_folder(tmp_path)
    assert [one.place for one in archive.backups] == [str(good)]
    assert archive.ignored == ()
    for name, said in {
        "gone.tar": "No such file",
        "packed.tar.gz": "compressed with gzip",
        "new.tar": "the stream has format version 2",
        "bad.tar": "backup-info.json is damaged",
        "short.tar": "ends after 100 bytes",
    }.items():
        assert said in reason(archive, "unreadable", tmp_path / name), name


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(good: Path, tmp_path: Path) -> None:
    good.chmod(0)
    assert "Permission denied" in reason(read_folder(tmp_path), "unreadable", good)


def test_another_name_of_a_file_is_no_copy(good: Path, tmp_path: Path) -> None:
    (tmp_path / "a-link.tar").symlink_to(good)
    (tmp_path / "hard.tar").hardlink_to(good)
    (tmp_path / "a-copy.tar").write_bytes(good.read_bytes())
    archive = read_folder(tmp_path) + read_folder(good.parent / ".." / good.parent.name)
    assert [Path(one.place).name for one in archive.backups] == ["a-copy.tar", "good.tar"]
    assert f"another name of {good}" in reason(archive, "ignored", tmp_path / "a-link.tar")
    assert [Path(one.place).name for one in archive.superseded()] == ["good.tar"]


def test_what_is_being_written_is_unfinished(good: Path, tmp_path: Path) -> None:
    """Even if all of it is there: it has not got its name yet."""
    before = read_folder(tmp_path).find()
    half = tmp_path / ".good.tar.0123abcd.partial"
    half.write_bytes(good.read_bytes()[:4096])
    whole = tmp_path / ".other.tar.0123abcd.partial"
    whole.write_bytes(good.read_bytes())
    archive = read_folder(tmp_path)
    assert [one.place for one in archive.unfinished] == [str(half), str(whole)]
    assert archive.find() == before
    assert archive.superseded() == []


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (b"", "it has no end"),
        ("other", "its end is that of another backup"),
        ("continues", "only the first volume"),
        ("padding", "cut in the padding"),
    ],
)
def test_ends_that_are_not_complete(good: Path, tmp_path: Path, end: object, said: str) -> None:
    content = good.read_bytes()
    if end == "other":
        content = content.replace(b'"set_id":null,"volume":1', b'"set_id":null,"volume":2')
    elif end == "continues":
        content = content.replace(b'"continues":false', b'"continues":true ')
        content = content.replace(b'"continues":true }', b' "continues":true}')
    elif end == "padding":
        content = content[:-512]
    else:
        content = content[:-4096]
    good.write_bytes(content)
    (found,) = read_folder(tmp_path).backups
    assert said in str(found.problem)
    with pytest.raises(NoRestorePointError, match=said):
        read_folder(tmp_path).find()


def test_a_damaged_list_of_members_is_seen(good: Path, tmp_path: Path) -> None:
    """A strict restore would refuse it."""
    content = good.read_bytes()
    good.write_bytes(content.replace(b'"name": "extents.json"', b'"name": "extants.json"'))
    (found,) = read_folder(tmp_path).backups
    assert "backup-info.json is damaged: members" in str(found.problem)


@pytest.mark.parametrize("options", [(), ("-b", "1"), ("-b", "2048"), ("--format=pax",)])
def test_a_backup_that_was_packed_again(
    good: Path, tars: list[Tar], tmp_path: Path, options: tuple[str, ...]
) -> None:
    members = tmp_path / "members"
    members.mkdir()
    names = subprocess.run(["tar", "-tf", good], capture_output=True, check=True).stdout.split()
    subprocess.run(["tar", "-xf", good, "-C", members], check=True)
    good.unlink()
    subprocess.run(
        ["tar", *options, "-cf", tmp_path / "again.tar", "-C", members, *names], check=True
    )
    archive = read_folder(tmp_path)
    assert [one.problem for one in archive.backups] == [None]
    if options != ("-b", "1"):  # its last record is too short for a strict restore
        assert restored(archive.find()) == tars[0].link.disk


# The folder, and opening


def test_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(LocalIOError, match=r"cannot read .*nowhere"):
        read_folder(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="the path of a folder"):
        read_folder(7)  # type: ignore[arg-type]


def test_a_file_that_was_replaced_is_not_restored(
    good: Path, tars: list[Tar], tmp_path: Path
) -> None:
    chain = read_folder(tmp_path).find()
    good.write_bytes(tars[1].content)
    with pytest.raises(WrongBackupError, match=r"good.tar: found mail, Disk1"), chain.open():
        raise AssertionError("it was opened")


@pytest.fixture
def three(tars: list[Tar], tmp_path: Path) -> Iterator[Archive]:
    for tar in tars[:3]:
        (tmp_path / tar.name).write_bytes(tar.content)
    yield read_folder(tmp_path)
    for fd in os.listdir("/proc/self/fd"):
        path = Path("/proc/self/fd", fd)
        assert not path.exists() or not str(path.resolve()).startswith(f"{tmp_path}/")


def test_a_chain_is_merged_and_found_again(three: Archive, tars: list[Tar], tmp_path: Path) -> None:
    with three.find().open() as sources, TarStreamSink(tmp_path / "merged.tar") as sink:
        copy(merge_chain(sources), sink, buffer_size=4096, buffer_memory=16384)
    again = read_folder(tmp_path)
    assert [Path(one.place).name for one in again.find().backups] == ["merged.tar"]
    assert [Path(one.place).name for one in again.superseded()] == [tars[2].name]
    assert restored(again.find()) == tars[2].link.disk


def test_all_are_closed_if_one_cannot_be_opened(three: Archive, tars: list[Tar]) -> None:
    chain = three.find()
    assert restored(chain) == tars[2].link.disk
    Path(chain.backups[-1].place).unlink()
    with pytest.raises(LocalIOError, match="cannot open"), chain.open():
        raise AssertionError("it was opened")


def test_damage_within_a_tar_is_found_by_the_restore(three: Archive, tars: list[Tar]) -> None:
    """Finding a chain reads no data: so the restore must not trust it."""
    chain = three.find()
    path = Path(chain.backups[0].place)
    content = bytearray(path.read_bytes())
    content[content.index(tars[0].link.disk[:512])] ^= 1
    path.write_bytes(content)
    with pytest.raises(Exception, match="do not match their digest"):
        restored(read_folder(path.parent).find())
