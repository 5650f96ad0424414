"""`tapestream tape ...`: what a person types and sees, and what is on the tape then."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from tapestream import BackupInfo, Extent
from tapestream.cli.main import main
from tapestream.errors import TapeError
from tapestream.tape import Catalog, TapeDrive
from tests.drive.stations import FakeStation, MachineStation, Station

from .tapes import backup, disk, listing

MONDAY = datetime(2026, 11, 23, 22, 30, tzinfo=timezone.utc)
GOOD, FAILED, USAGE = 0, 1, 64


class Terminal:
    """Runs commands on the drive of a test, in this process.

    Attributes:
        out, err: What the last command printed.
    """

    def __init__(self, drive: TapeDrive, capsys: pytest.CaptureFixture[str]) -> None:
        self._drive = drive
        self._capsys = capsys
        self.out = self.err = ""

    def run(self, *words: str | Path, status: int = GOOD) -> str:
        """Run `tapestream tape ...`; what it printed on standard output."""
        return self.tapestream("tape", *words, status=status)

    def tapestream(self, *words: str | Path, status: int = GOOD) -> str:
        """Run `tapestream ...`; what it printed on standard output."""
        ended = main([*map(str, words)], drives={self._drive.path: self._drive})
        self.out, self.err = self._capsys.readouterr()
        assert ended == status, self.err
        return self.out

    def objects(self, *words: str | Path, status: int = GOOD) -> list[dict[str, Any]]:
        """Run it with --json; the objects that it printed."""
        self.run(*words, "--json", status=status)
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def terminal(drive: TapeDrive, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(drive, capsys)


def info(name: str, day: int = 0) -> BackupInfo:
    return BackupInfo(
        vm_name="mail",
        disk_name=name,
        disk_id=f"{name}-id",
        checkpoint_id=f"day-{day}",
        parent_checkpoint_id=f"day-{day - 1}" if day else None,
        created=MONDAY + timedelta(days=day),
    )


def put(drive: TapeDrive, name: str, day: int = 0) -> None:
    """Back up a disk, on later days incrementally, and let others use the drive."""
    data = disk(day)
    extents = [Extent(0, len(data), dirty=True)] if day else None
    backup(drive, data, info=info(name, day), extents=extents)
    drive.release()


def words_of(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_status_shows_the_drive_without_moving_the_tape(
    station: Station, drive: TapeDrive, terminal: Terminal
) -> None:
    drive.write_label("T0001")
    put(drive, "a")
    drive.go_to_file(1)
    drive.release()
    where = drive.status()
    shown = words_of(terminal.run("status", drive.path))
    assert ["cartridge", "loaded"] in shown
    assert ["writing", "permitted"] in shown
    assert ["position", "file", "1,", "block", "0"] in shown
    assert ["label", "not", "read:"] in [line[:3] for line in shown]
    assert drive.status() == where
    [found] = terminal.objects("status", drive.path, "--label")
    assert (found["event"], found["label"], found["file"]) == ("drive", "T0001", 0)
    assert ["position", "at", "the", "beginning"] in words_of(terminal.run("status", drive.path))


def test_status_of_an_empty_drive(station: Station, drive: TapeDrive, terminal: Terminal) -> None:
    station.needs_operator()
    station.eject()
    assert ["cartridge", "none"] in words_of(terminal.run("status", drive.path))
    terminal.run("scan", drive.path, status=FAILED)
    assert "no tape in the drive" in terminal.err


def test_a_label_never_overwrites_unless_told_to(drive: TapeDrive, terminal: Terminal) -> None:
    assert "the tape is now T0001" in terminal.run("label", drive.path, "T0001")
    put(drive, "a")
    before = listing(drive)
    shown = terminal.run("label", drive.path, "T0002", status=USAGE)
    assert "mail, a" in shown
    assert "not empty, so it was not labelled T0002" in terminal.err
    assert "--overwrite" in terminal.err
    assert listing(drive) == before
    shown = terminal.run("label", drive.path, "T0002", "--overwrite")
    assert "now T0002; it was T0001" in shown
    assert listing(drive) == ["label T0002"]


def test_a_protected_tape_is_not_labelled(
    station: Station, drive: TapeDrive, terminal: Terminal
) -> None:
    station.needs_operator()
    drive.release()
    station.eject()
    station.protect("T0001")
    station.load("T0001")
    terminal.run("label", drive.path, "T0001", status=FAILED)
    assert "write-protected" in terminal.err
    assert ["writing", "write-protected"] in words_of(terminal.run("status", drive.path))


def test_scan_lists_the_tape(drive: TapeDrive, terminal: Terminal) -> None:
    drive.write_label("T0001")
    put(drive, "a")
    put(drive, "a", day=1)
    drive.raw.write_record(memoryview(bytes(65536)))
    drive.raw.write_filemark()
    headings, label, full, incremental, foreign, summary = words_of(
        terminal.run("scan", drive.path)
    )
    assert headings[:2] == ["FILE", "TIME"]
    assert label == ["0", "-", "label", "-", "T0001"]
    assert full[0] == "1"
    assert full[3:] == ["full", "200.0", "KiB", "complete", "mail,", "a"]
    assert incremental[3] == "incremental"
    assert foreign[:6] == ["3", "-", "-", "-", "no", "backup"]
    assert " ".join(summary) == "tape T0001: 2 of 4 tape files are backups"
    *files, result = terminal.objects("scan", drive.path)
    assert [file["file"] for file in files] == [0, 1, 2, 3]
    assert BackupInfo.from_dict(files[2]["info"]).checkpoint_id == "day-1"
    assert result == {
        "event": "result",
        "device": drive.path,
        "label": "T0001",
        "files": 4,
        "catalog": None,
    }


def test_scan_of_a_file_that_cannot_be_read(
    station: Station, drive: TapeDrive, terminal: Terminal
) -> None:
    drive.write_label("T0001")
    put(drive, "a")
    station.fail("read", 2)  # the first is that of the label
    shown = terminal.run("scan", drive.path, status=FAILED)
    assert "unreadable" in shown


def test_a_catalog_finds_the_tapes_of_a_chain(
    station: Station, drive: TapeDrive, terminal: Terminal, tmp_path: Path
) -> None:
    station.needs_operator()
    catalog = tmp_path / "tapes.db"
    for day, name in enumerate(["T0001", "T0002", "T0003"]):
        if day:
            drive.release()
            station.swap(name)
        terminal.run("label", drive.path, name)
        put(drive, "a", day)
        terminal.run("scan", drive.path, "--catalog", catalog)
        assert f"{catalog} has them now" in terminal.out
    shown = terminal.run("catalog", catalog)
    assert "3 tapes, 3 backups" in shown
    assert "T0002:1" in shown
    shown = terminal.run("find", catalog, "--disk", "a", "--at", "2026-11-24 22:30 UTC")
    assert "A restore needs tapes T0001, T0002." in shown
    assert [line[:3] for line in words_of(shown)[1:3]] == [["T0001", "1", "1"], ["T0002", "1", "1"]]
    chain, result = terminal.objects("find", catalog)
    assert [backup["volumes"][0]["label"] for backup in chain["backups"]] == result["tapes"]
    assert result["tapes"] == ["T0001", "T0002", "T0003"]
    terminal.run("forget", catalog, "T0002")
    terminal.run("find", catalog, status=FAILED)
    assert "the newest point that can be restored is" in terminal.err
    terminal.run("find", catalog, "--vm", "other", status=USAGE)
    assert "mail" in terminal.err


def test_a_catalog_that_is_not_there_is_not_made(terminal: Terminal, tmp_path: Path) -> None:
    for command in (["catalog"], ["find"], ["forget", "T0001"]):
        terminal.run(command[0], tmp_path / "tapes.db", *command[1:], status=FAILED)
        assert "No such file" in terminal.err
    assert list(tmp_path.iterdir()) == []


def test_a_tape_without_a_label_is_shown_but_no_catalog_keeps_it(
    drive: TapeDrive, terminal: Terminal, tmp_path: Path
) -> None:
    put(drive, "a")
    shown = terminal.run("scan", drive.path, "--catalog", tmp_path / "tapes.db", status=USAGE)
    assert "mail, a" in shown
    assert "tape label" in terminal.err
    with Catalog(tmp_path / "tapes.db") as catalog:
        assert catalog.find(incomplete=True) == []


def test_eject_and_load(station: Station, drive: TapeDrive, terminal: Terminal) -> None:
    station.needs_operator()
    drive.write_label("T0001")
    drive.end_of_data()
    assert "rewound" in terminal.run("rewind", drive.path)
    assert drive.status().at_beginning
    assert "ejected" in terminal.run("eject", drive.path)
    assert not drive.status().online
    assert "loaded" in terminal.run("load", drive.path)
    assert drive.read_label() == "T0001"


def test_an_error_of_the_drive(station: Station, drive: TapeDrive, terminal: Terminal) -> None:
    if not isinstance(station, FakeStation):
        pytest.skip("only the double fails while it is wound")
    station.drives[0].fail("rewind", nth=2)
    terminal.run("rewind", drive.path)
    terminal.run("rewind", drive.path, status=FAILED)
    assert terminal.err.startswith(f"tapestream: {drive.path}")
    assert TapeError.hint in " ".join(terminal.err.split())


@pytest.mark.drive
def test_the_program_itself_on_the_real_driver(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """As a person runs it: each command opens the device, and closes it."""
    path = request.config.getoption("--tape-device")
    if path is None:
        pytest.skip("needs a tape drive: make test-tape has one")
    station = MachineStation(path)
    station.close()

    def run(*words: str | Path) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "tapestream", *words],
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("tape", "label", path, "T0001", "--overwrite")
    with TapeDrive(path) as drive:
        put(drive, "a")
    run("tape", "scan", path, "--catalog", tmp_path / "tapes.db")
    assert "T0001:1" in run("tape", "catalog", tmp_path / "tapes.db")
    assert "T0001" in run("tape", "status", path, "--label")
