"""Names have any characters: none begins a line of its own, or changes the terminal."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pytest

from tapestream import BackupInfo, Extent, TarStreamSink, copy
from tapestream.testing import Cartridge, FakeDrive, MemorySource

from .conftest import INFO, MIB
from .program import Ended, call

BAD = "\nFORGED: good\r\x1b[2J\u202e"


class Bad(NamedTuple):
    """Where backups are whose VM and disk, and whose files, have bad names."""

    folder: Path
    full: Path
    drive: FakeDrive
    catalog: Path


def write(path: Path, info: BackupInfo, extents: list[Extent] | None = None) -> None:
    with (
        MemorySource(random.Random(3).randbytes(2 * MIB), extents, info=info) as source,
        TarStreamSink(path) as sink,
    ):
        copy(source, sink)


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Bad:
    folder = tmp_path_factory.mktemp("bad") / f"backups{BAD}"
    folder.mkdir()
    info = replace(INFO, vm_name=f"mail{BAD}", disk_name=f"disk{BAD}")
    full, changes, damaged = (folder / f"{name}{BAD}.tar" for name in ("full", "inc", "cut"))
    write(full, info)
    later = replace(
        info,
        checkpoint_id="monday",
        parent_checkpoint_id="sunday",
        created=INFO.created and INFO.created + timedelta(days=1),
    )
    changed = [Extent(0, MIB, dirty=True), Extent(MIB, MIB, dirty=False)]
    write(changes, replace(later, context="dirty"), changed)
    write(damaged, replace(info, disk_id="disk-2", checkpoint_id="x"))
    os.truncate(damaged, MIB)
    (folder / f"unreadable{BAD}.tar").symlink_to("nowhere")
    drive, catalog = FakeDrive(Cartridge()), folder / f"tapes{BAD}.db"
    drives = {"/dev/nst0": drive}
    assert call("tape", "label", "/dev/nst0", "VM1", drives=drives).status == 0
    assert call("merge", full, "-o", "/dev/nst0", drives=drives).status == 0
    assert call("tape", "scan", "/dev/nst0", "--catalog", catalog, drives=drives).status == 0
    return Bad(folder, full, drive, catalog)


def only_lines_of_ours(ended: Ended) -> None:
    lines = (ended.out + ended.err).split("\n")
    assert [line for line in lines if not line.isprintable()] == []
    assert [line for line in lines if line.startswith("FORGED")] == []
    assert any("\\nFORGED: good" in line for line in lines), ended


COMMANDS = [
    ["list", "{folder}"],
    ["list", "{full}"],
    ["list", "{folder}/none"],
    ["find", "{folder}", "--disk", "disk-1"],
    ["find", "{folder}", "--disk", "disk-2"],
    ["find", "{folder}", "--disk", "disk-2", "--all"],
    ["find", "{folder}"],
    ["find", "{folder}", "--vm", "nobody"],
    ["verify", "{folder}"],
    ["verify", "{full}"],
    ["verify", "{folder}", "-v"],
    ["compare", "{full}", "{folder}/none"],
    ["compare", "{full}", "{folder}", "--disk", "disk-1"],
    ["extents", "{folder}"],
    ["extents", "{folder}", "-v"],
    ["restore", "{folder}", "new.raw", "--disk", "disk-1"],
    ["restore", "{full}", "new{bad}.raw"],
    ["restore", "{folder}", "new.raw", "--disk", "disk-2"],
    ["salvage", "{cut}", "new.raw"],
    ["merge", "{folder}", "-o", "new.tar", "--disk", "disk-1"],
    ["tape", "scan", "/dev/nst0"],
    ["tape", "label", "/dev/nst0", "VM2"],
    ["tape", "catalog", "{catalog}"],
    ["tape", "find", "{catalog}"],
    ["tape", "forget", "{catalog}", "none"],
    ["list", "/dev/nst0"],
    ["find", "/dev/nst0"],
    ["restore", "/dev/nst0", "new.raw", "--vm", "nobody"],
    ["restore", "/dev/nst0", "new{bad}.raw", "--catalog", "{catalog}"],
    ["backup", "https://127.0.0.1/images/x", "{full}"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_each_command_escapes_names(
    bad: Bad, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {**bad._asdict(), "bad": BAD, "cut": bad.folder / f"cut{BAD}.tar"}
    arguments = [argument.format(**places) for argument in command]
    drives = {"/dev/nst0": bad.drive} if "/dev/nst0" in command else {}
    ended = call(*arguments, drives=drives)
    only_lines_of_ours(ended)


def test_a_program_gets_the_name_as_it_is(bad: Bad) -> None:
    for arguments in ["list", bad.folder], ["find", bad.folder, "--disk", "disk-1"]:
        names = [each.get("vm_name") for each in call("--json", *arguments).objects]
        assert f"mail{BAD}" in names
        assert call("--json", *arguments).out.isascii()
