""" "-": tars to standard output and from standard input."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import pytest

from tests.stream.support import LARGE, TAR, TIMEOUT, restore

# --- "-" ---

BACKUP = """
import sys
from tapestream import *
with RawImageSource(sys.argv[1]) as source, TarStreamSink("-") as sink:
    copy(source, sink)
"""
RESTORE = """
import sys
from tapestream import *
with TarStreamSource("-") as source, RawImageSink(sys.argv[1]) as sink:
    copy(source, sink)
"""


def start(script: str, *args: object, **streams: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-W", "error", "-c", script, *map(str, args)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, **streams)


def end_of(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Its exit status, and what it wrote to standard error."""
    try:
        _, errors = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, errors.decode()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(LARGE)
    return path


def stdout_of(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdout is not None
    return process.stdout


def test_standard_output_into_standard_input(image: Path, tmp_path: Path) -> None:
    writer = start(BACKUP, image, stdout=subprocess.PIPE)
    reader = start(RESTORE, tmp_path / "copy.raw", stdin=writer.stdout)
    stdout_of(writer).close()
    writer.stdout = None
    assert end_of(reader) == (0, "")
    assert end_of(writer) == (0, "")
    assert (tmp_path / "copy.raw").read_bytes() == LARGE


def test_standard_output_and_input_that_are_files(image: Path, tmp_path: Path) -> None:
    with (tmp_path / "disk.tar").open("w+b") as file:
        assert end_of(start(BACKUP, image, stdout=file)) == (0, "")
        file.seek(0)
        assert end_of(start(RESTORE, tmp_path / "copy.raw", stdin=file)) == (0, "")
    assert (tmp_path / "copy.raw").read_bytes() == LARGE


def test_standard_output_after_prints(image: Path) -> None:
    writer = start("print('hello', flush=False)\n" + BACKUP, image, stdout=subprocess.PIPE)
    with stdout_of(writer) as output:
        assert output.readline() == b"hello\n"
        assert restore(output) == LARGE
        assert output.read() == b""
    writer.stdout = None
    assert end_of(writer) == (0, "")


def test_standard_output_stays_as_it_was(image: Path) -> None:
    """Other processes share the pipe: it must not become non-blocking for them."""
    reading, writing = os.pipe()
    with open(reading, "rb") as input_:
        process = start(BACKUP, image, stdout=writing)
        assert restore(input_) == LARGE
        assert end_of(process) == (0, "")
        assert os.get_blocking(writing)
        os.close(writing)


def test_standard_output_whose_reader_goes_away(image: Path) -> None:
    writer = start(BACKUP, image, stdout=subprocess.PIPE)
    with stdout_of(writer) as output:
        assert output.read(10)
    writer.stdout = None
    status, errors = end_of(writer)
    assert status == 1
    assert "LocalIOError: cannot write standard output: Broken pipe" in errors


def test_a_terminal_is_refused(image: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        status, errors = end_of(start(BACKUP, image, stdout=theirs))
        assert status == 1
        assert "UsageError: will not write a tar to a terminal" in errors
        os.set_blocking(ours, False)
        with pytest.raises(BlockingIOError):
            os.read(ours, 1)
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_failed_restore_from_standard_input(tmp_path: Path) -> None:
    with (tmp_path / "cut.tar").open("w+b") as file:
        file.write(TAR[:-1])
        file.seek(0)
        status, errors = end_of(start(RESTORE, tmp_path / "copy.raw", stdin=file))
    assert status == 1
    assert "IncompleteStreamError: standard input ends after" in errors
    assert [*tmp_path.iterdir()] == [tmp_path / "cut.tar"]


@pytest.mark.parametrize(
    ("end", "redirect"),
    [
        ("Source", "<&-"),
        ("Sink", ">&-"),
    ],
)
def test_a_standard_stream_that_is_closed(end: str, redirect: str) -> None:
    """Also when a file that was opened since has its number."""
    script = f"from tapestream import *; other = open('/dev/null', 'r+'); TarStream{end}('-')"
    done = subprocess.run(
        ["sh", "-c", f'exec timeout 5 "$0" -c "$1" {redirect}', sys.executable, script],
        capture_output=True,
        check=False,
        timeout=TIMEOUT,
    )
    assert b"LocalIOError" in done.stderr
