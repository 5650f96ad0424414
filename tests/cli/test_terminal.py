"""What the program shows on a terminal: a real one, a pty, that is 80 or 200 columns wide."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tapestream import BackupInfo, RawImageSource, TarStreamSink, copy
from tapestream.cli.tables import wrapped

from .conftest import MIB, Week
from .program import PROGRAM, call, environment, run

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A pty with a program on it."""

    def __init__(self, columns: int) -> None:
        self.fd, self.slave = pty.openpty()
        self.resize(columns)

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def run(self, *arguments: object, **variables: str) -> tuple[int, str]:
        """Run the program to its end; return its status and what it wrote."""
        everything = environment(TERM="xterm", **variables)
        del everything["COLUMNS"]
        process = subprocess.Popen(
            [*PROGRAM, *map(str, arguments)],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            env=everything,
            start_new_session=True,
        )
        os.close(self.slave)
        written = b""
        try:
            while data := os.read(self.fd, 65536):
                written += data
        except OSError:  # that is how a pty ends
            pass
        return process.wait(), written.decode()


@contextmanager
def terminal(columns: int) -> Iterator[Terminal]:
    opened = Terminal(columns)
    try:
        yield opened
    finally:
        os.close(opened.fd)


def shown_lines(text: str) -> list[str]:
    """The lines, without escape sequences; each time that a line was drawn counts."""
    return re.split(r"[\r\n]+", ESCAPES.sub("", text))


@pytest.mark.parametrize("columns", [80, 200])
def test_a_table_fits_and_is_cut_on_a_terminal_only(week: Week, columns: int) -> None:
    name = "a-backup-of-the-mail-server-with-quite-a-long-name.tar"
    week.full.rename(week.folder / name)
    with terminal(columns) as opened:
        _, text = opened.run("list", week.folder)
    lines = text.splitlines()
    assert all(len(line) <= columns for line in lines)
    assert (name in text) == (columns == 200)
    assert name in call("list", week.folder).out


@pytest.mark.parametrize("columns", [80, 200])
def test_the_bar_fits_and_is_gone_at_the_end(
    shared_week: Week, tmp_path: Path, columns: int
) -> None:
    with terminal(columns) as opened:
        status, text = opened.run("restore", shared_week.folder, tmp_path / "a", "--max-rate=3M")
    assert status == 0
    drawn = [line for line in shown_lines(text) if "\u2501" in line]
    assert drawn
    assert all(len(line) <= 80 for line in drawn)  # it fits if the terminal becomes narrower, too
    assert any(re.search(r"[\d.]+ (MiB|KiB|B)/3.0 MiB", line) for line in drawn)
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is back
    # The result is wrapped between words.
    assert "3.0 MiB of data" in " ".join(shown_lines(text)[-4:-1])


def test_without_rich_there_are_lines(shared_week: Week, tmp_path: Path) -> None:
    """A module that cannot be imported stands in for an installation without the extra."""
    (tmp_path / "rich.py").write_text("raise ModuleNotFoundError('no rich')\n")
    path = f"{tmp_path}:{environment()['PYTHONPATH']}"
    with terminal(80) as opened:
        status, text = opened.run(
            *["restore", shared_week.folder, tmp_path / "a", "--max-rate=1200k"], PYTHONPATH=path
        )
    assert status == 0
    assert "\x1b" not in text
    assert re.search(r"restore: .* of 3.0 MiB, \d+ %, 1\.\d MB/s", text)
    assert all(len(line) <= 80 for line in text.splitlines() if line.startswith("restore:"))


def test_a_log_has_no_escape_sequences(shared_week: Week, tmp_path: Path) -> None:
    ended = run("restore", shared_week.folder, tmp_path / "a", "--max-rate=3M", TERM="xterm")
    assert ended.status == 0
    assert "\x1b" not in ended.out + ended.err
    assert len(ended.err.splitlines()) == 2  # the chain; no progress for a copy that is so short


def test_a_name_cannot_change_the_terminal(tmp_path: Path) -> None:
    source = tmp_path / "a.raw"
    source.write_bytes(bytes(MIB))
    info = BackupInfo(vm_name="evil\x1b[2J\nvm", disk_name="disk")
    with RawImageSource(source, info=info) as src, TarStreamSink(tmp_path / "a.tar") as dst:
        copy(src, dst)
    ended = call("list", tmp_path)
    assert "evil\\x1b[2J\\nvm" in ended.out
    assert "\x1b" not in ended.out


def test_a_long_line_breaks_between_words() -> None:
    """Wide characters take two columns, and those that combine take none."""
    assert wrapped("  a bb ccc", 10) == ["  a bb ccc"]
    assert wrapped("  a bb ccc", 9) == ["  a bb", "ccc"]
    assert wrapped("a  much-longer-word  b", 4) == ["a", "much-longer-word", "b"]
    assert wrapped("備份 備份 備份", 14) == ["備份 備份 備份"]
    assert wrapped("備份 備份 備份", 13) == ["備份 備份", "備份"]
    assert wrapped("e\u0301 " * 3 + "e", 7) == ["e\u0301 " * 3 + "e"]


def test_an_error_of_usage_is_wrapped_between_words() -> None:
    with terminal(80) as opened:
        status, text = opened.run("nonsense")
    lines = text.splitlines()
    assert status == 64
    assert len(lines) > 2
    assert all(len(line) <= 80 for line in lines)
    assert "'vm', 'backup', 'restore', 'salvage', 'list'" in " ".join(lines)


def test_a_backup_is_not_read_from_a_terminal(tmp_path: Path) -> None:
    """The program would wait for somebody who does not know it."""
    with terminal(80) as opened:
        os.write(opened.fd, b"\x04")  # the end of input, should it be read
        status, text = opened.run("restore", "-", tmp_path / "new.raw")
    assert status == 64
    assert "standard input is a terminal, not a backup" in text
    assert list(tmp_path.iterdir()) == []
