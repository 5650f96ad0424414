"""Backups to tape, and back, by commands; no server is needed."""

from __future__ import annotations

import os
import pty
import re
import sys
import time
from pathlib import Path

import pytest

from tapestream import Extent, TarStreamSink, copy
from tapestream.tape import TapeDrive
from tapestream.testing.memory import MemorySource
from tests.drive.stations import Station

from .tapes import disk, listing
from .test_command_line import FAILED, USAGE, Terminal, info, put, words_of


@pytest.fixture
def terminal(drive: TapeDrive, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(drive, capsys)


@pytest.fixture
def week(drive: TapeDrive) -> dict[int, bytes]:
    """On the tape, a full backup of "a", one of "b", and an incremental one of "a"."""
    drive.write_label("T0001")
    for name, day in (("a", 0), ("b", 0), ("a", 1)):
        put(drive, name, day)
    return {day: disk(day) for day in (0, 1)}


def full_backup(folder: Path, name: str = "a", size: int = 200 * 1024) -> Path:
    with (
        MemorySource(disk(0, size), info=info(name)) as source,
        TarStreamSink(folder / f"{name}.tar") as sink,
    ):
        copy(source, sink)
    return folder / f"{name}.tar"


def test_a_chain_is_found_on_the_tape(
    drive: TapeDrive, terminal: Terminal, week: dict[int, bytes], tmp_path: Path
) -> None:
    terminal.tapestream("restore", drive.path, tmp_path / "new", "--disk", "a")
    assert (tmp_path / "new").read_bytes() == week[1]
    monday = ("--disk", "a", "--at", "2026-11-23 22:30 UTC")
    terminal.tapestream("restore", drive.path, tmp_path / "old", *monday)
    assert (tmp_path / "old").read_bytes() == week[0]
    terminal.tapestream("restore", drive.path, tmp_path / "none", status=USAGE)
    assert "disk b (b-id) of VM mail" in terminal.err
    assert not (tmp_path / "none").exists()


def test_one_tape_file(
    drive: TapeDrive, terminal: Terminal, week: dict[int, bytes], tmp_path: Path
) -> None:
    terminal.tapestream("restore", drive.path, tmp_path / "a", "--file", "1")
    assert (tmp_path / "a").read_bytes() == week[0]
    assert ": good" in terminal.tapestream("verify", drive.path, "--file", "2")
    terminal.tapestream("verify", drive.path, "--file", "7", status=FAILED)
    assert "has 4 files, and none with number 7" in terminal.err


def test_a_tape_is_listed_and_verified(
    drive: TapeDrive, terminal: Terminal, week: dict[int, bytes]
) -> None:
    rows = words_of(terminal.tapestream("list", drive.path))
    assert [row[1] for row in rows[1:4]] == ["a", "a", "b"]
    assert "3 good, 0 bad, 0 not backups" in terminal.tapestream("verify", drive.path)
    shown = terminal.tapestream("find", drive.path, "--disk", "a")
    assert "tape T0001, file 3" in shown


def test_a_catalog_says_which_tapes(
    station: Station, drive: TapeDrive, terminal: Terminal, tmp_path: Path
) -> None:
    """Nobody can be asked in a test, so a wrong tape is an error."""
    station.needs_operator()
    catalog = tmp_path / "tapes.db"
    for day, name in enumerate(["T0001", "T0002"]):
        if day:
            station.swap(name)
        terminal.run("label", drive.path, name)
        put(drive, "a", day)
        terminal.run("scan", drive.path, "--catalog", catalog)
    restore = ("restore", drive.path, tmp_path / "a", "--catalog", catalog)
    terminal.tapestream(*restore, "--at", "2026-11-23 22:30 UTC", status=FAILED)
    assert "tape T0002 is loaded" in terminal.err
    station.swap("T0001")
    terminal.tapestream(*restore, "--at", "2026-11-23 22:30 UTC")
    assert (tmp_path / "a").read_bytes() == disk(0)


def test_a_merge_to_tape_says_where_it_is(
    drive: TapeDrive, terminal: Terminal, tmp_path: Path
) -> None:
    drive.write_label("T0001")
    shown = terminal.tapestream("merge", full_backup(tmp_path), "-o", drive.path)
    assert "on tape T0001, file 1" in shown
    assert listing(drive) == ["label T0001", "a-id"]


def test_nothing_is_written_to_another_tape(
    station: Station, drive: TapeDrive, terminal: Terminal
) -> None:
    """That is found out before the transfer is used: its URL leads nowhere."""
    backup = ("backup", "https://localhost:1/images/x", drive.path)
    terminal.tapestream(*backup, "--catalog", "/nowhere/tapes.db", status=FAILED)
    assert "no label, so no catalog can find it" in terminal.err
    drive.write_label("T0001")
    drive.release()
    terminal.tapestream(*backup, "--label", "T0002", status=FAILED)
    assert "the label T0001, not T0002; nothing was written" in terminal.err
    station.needs_operator()
    station.eject()
    terminal.tapestream(*backup, status=FAILED)
    assert "no tape in the drive" in terminal.err
    station.protect("T0001")
    station.load("T0001")
    terminal.tapestream(*backup, status=FAILED)
    assert "write-protected" in terminal.err


# Tapes that are too short, and an operator who loads the next one as soon as one is unloaded.
PROGRAM = """
import sys, threading, time
from pathlib import Path
from tapestream.cli.main import main
from tapestream.tape import TapeDrive
from tapestream.testing import Cartridge, FakeDrive

folder = Path(sys.argv[1])
shelf = [Cartridge(12 << 20, 4 << 20) for _ in range(3)]
double = FakeDrive(shelf[0])

def operate():
    while True:
        if not double.loaded:
            double.swap(shelf[(shelf.index(double.cartridge) + 1) % len(shelf)])
        time.sleep(0.01)

def run(*words):
    ended = main([str(word) for word in words], drives={"/dev/nst0": tape})
    assert ended == 0, ended

tape = TapeDrive("/dev/nst0", open_device=double.open)
for number, cartridge in enumerate(shelf):
    run("tape", "label", "/dev/nst0", f"T{number}")
    double.swap(shelf[(number + 1) % len(shelf)])
threading.Thread(target=operate, daemon=True).start()
run("merge", folder / "a.tar", "-o", "/dev/nst0")
for number in range(3):
    run("tape", "scan", "/dev/nst0", "--catalog", folder / "tapes.db")
    run("tape", "eject", "/dev/nst0")
    while not double.loaded:
        time.sleep(0.01)
run("restore", "/dev/nst0", folder / "a.raw", "--catalog", folder / "tapes.db")
"""


def test_somebody_at_a_terminal_is_asked_for_the_next_tape(tmp_path: Path) -> None:
    part, gap = 1 << 20, 1 << 20
    data = disk(0, 24 * part)
    content = b"".join(
        data[n * part : (n + 1) * part] + bytes(gap) for n in range(len(data) // part)
    )
    extents = [Extent(n * part, part, zero=n % 2 == 1) for n in range(len(content) // part)]
    with (
        MemorySource(content, extents, info=info("a")) as source,
        TarStreamSink(tmp_path / "a.tar") as sink,
    ):
        copy(source, sink)
    shown = " ".join(at_terminal(PROGRAM, tmp_path).split())
    assert "The tape is full. Volume 2 of mail, a of 2026-11-23" in shown
    assert "Volume 3 of mail, a" in shown
    assert "tape T0, file 1, tape T1, file 1, tape T2, file 1" in shown
    assert re.search(r"Volume 2 of mail, a [^.]*is on tape T1\. Load it into", shown)
    assert (tmp_path / "a.raw").read_bytes() == content


def at_terminal(code: str, folder: Path) -> str:
    """Run a program at a terminal where somebody presses Enter when asked to; what was shown."""
    process, terminal = pty.fork()
    if process == 0:
        os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
        os.execv(sys.executable, [sys.executable, "-c", code, str(folder)])
    shown, answered = "", 0
    deadline = time.monotonic() + 60
    try:
        while time.monotonic() < deadline:
            try:
                shown += os.read(terminal, 4096).decode(errors="replace")
            except OSError:  # the program has ended
                break
            asked = len(re.findall("press Enter: ", shown))
            if asked > answered:
                os.write(terminal, b"\n")
                answered = asked
    finally:
        os.close(terminal)
        _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 0, shown
    return shown
