"""Runs the examples of the command line in the docs, and compares what they show.

A block marked `console` has commands, after "$ ", and what they show. "..." stands for anything
that differs from run to run; a duration with a rate, and a time of the day TODAY, stand for any
others. The blocks of a page run in order, in one directory.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import NamedTuple

from tapestream import BackupInfo, Extent, TarStreamSink, copy
from tapestream.archive import file_name
from tapestream.testing import (
    EngineDouble,
    ImageioDaemon,
    MemorySource,
    Pattern,
    serve_image,
    write_pattern,
)

from .program import LIMIT, PROGRAM, environment

MIB = 1024**2
SIZE = 20 * 1024 * MIB
TODAY = "2026-11-18"
TAKES_TIME = r"in \d:\d\d:\d\d \([\d.]+ MB/s\)"
# What an example shows, and what it stands for.
VARIES = {
    r"\.\.\.": r".*",
    TAKES_TIME: TAKES_TIME,
    TODAY + r" \d\d:\d\d:\d\d": r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d",
}
SUNDAY = datetime(2026, 11, 15, 22, 30, tzinfo=timezone.utc)


class Example(NamedTuple):
    """A command, and what it shows."""

    command: str
    shows: str


def examples(block: str) -> Iterator[Example]:
    """The commands of a block."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        lines = part.splitlines()
        end = next(i for i, line in enumerate(lines) if not line.endswith("\\"))
        yield Example("\n".join(lines[: end + 1]), "\n".join(lines[end + 1 :]).rstrip())


def shown_by(command: str) -> str:
    """Run a command in this directory, and return what it shows."""
    ended = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment(
            PATH=f"{Path('bin').absolute()}:{os.environ['PATH']}", HOME=str(Path.cwd())
        ),
        timeout=LIMIT,
        check=False,
        text=True,
    )
    return ended.stdout.rstrip()


def is_as_shown(example: Example, shown: str) -> bool:
    """Whether a command shows what its example says."""
    parts = re.split(f"({'|'.join(VARIES)})", example.shows)
    pattern = "".join(
        next((stands for is_shown, stands in VARIES.items() if re.fullmatch(is_shown, part)), None)
        or re.escape(part)
        for part in parts
    )
    return re.fullmatch(pattern, shown) is not None


@contextmanager
def an_engine(daemon: ImageioDaemon) -> Iterator[None]:
    """A double of an engine with a VM, and its configuration in the home directory: this one."""
    Path("nightly").mkdir()
    with EngineDouble(Path("engine").absolute(), daemon=daemon) as engine:
        engine.write_config(Path.cwd())
        for phases in fields(engine.phases):  # none of the waits is shown, so they can be short
            setattr(engine.phases, phases.name, getattr(engine.phases, phases.name)[-1:])
        vm = engine.add_vm("mail", [SIZE, 4 * 1024 * MIB])
        write_pattern(vm.disks[0].path, ["write -P 1 0 48M"])
        write_pattern(vm.disks[1].path, ["write -P 2 1G 16M"])
        for disk in vm.disks:
            Path(f"{disk.name}.qcow2").symlink_to(disk.path)
        yield


@contextmanager
def surroundings(daemon: ImageioDaemon) -> Iterator[None]:
    """Put what the examples expect into the current directory, which is also the home directory.

    These are the program; a folder with backups of two disks, of which one was aborted; files with
    transfer URLs of a download and of an upload, and the CA.
    """
    program = Path("bin/tapestream")
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec {shlex.join(PROGRAM)} "$@"\n')
    program.chmod(0o755)
    Path("ca.pem").write_bytes(daemon.cafile.read_bytes())
    Path("vm.ovf").write_text("<Envelope/>\n")
    Path("backups").mkdir()
    for number in (1, 2):
        _back_up(number)
    *_, newest = sorted(Path("backups").glob("*Disk2*"))
    os.truncate(newest, MIB)
    with _served("served.raw") as download, _served("restored.raw") as upload:
        Path("url").write_text(daemon.add_ticket(download, SIZE))
        Path("upload-url").write_text(daemon.add_ticket(upload, SIZE, ops=["read", "write"]))
        with open("served.raw", "r+b") as image:
            for start in (0, 4096 * MIB, 9000 * MIB):
                image.seek(start)
                image.write(b"data" * (16 * MIB // 4))
        yield


@contextmanager
def _served(name: str) -> Iterator[str]:
    with open(name, "wb") as image:
        image.truncate(SIZE)
    with serve_image(Path(name), format="raw", read_only=False) as url:
        yield url


def _back_up(number: int) -> None:
    """Take a full backup of a disk, and an incremental one on the next day."""
    sunday = BackupInfo(
        vm_id="1a2b",
        vm_name="mail",
        disk_id=f"d{number}",
        disk_name=f"mail_Disk{number}",
        checkpoint_id="sunday",
        created=SUNDAY,
    )
    monday = replace(
        sunday,
        checkpoint_id="monday",
        parent_checkpoint_id="sunday",
        created=SUNDAY + timedelta(days=1),
        context="dirty",
    )
    full = [Extent(0, 32 * MIB), Extent(32 * MIB, SIZE - 32 * MIB, zero=True)]
    changed = [
        Extent(0, 8 * MIB, dirty=True),
        Extent(8 * MIB, SIZE - 8 * MIB, dirty=False),
    ]
    for info, extents in ((sunday, full), (monday, changed)):
        unit = f"{info.disk_id} {info.checkpoint_id} ".encode()
        path = Path("backups") / file_name(info)
        with (
            MemorySource(Pattern(unit, SIZE), extents, info=info) as src,
            TarStreamSink(path) as dst,
        ):
            copy(src, dst)
