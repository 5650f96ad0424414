"""File objects of the caller: what is in their buffer, and where they stand before and after."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import pytest

from tapestream.errors import LocalIOError
from tapestream.files.inputs import open_input
from tapestream.files.outputs import open_output

CONTENT = bytes(range(256)) * 100


def read(stream: Any, length: int) -> bytes:
    buffer = memoryview(bytearray(length))
    done = 0
    while done < length:
        count = stream.readinto(buffer[done:])
        assert count, "it ends too early"
        done += count
    return bytes(buffer)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


@pytest.mark.parametrize("mode", ["rb", "r+b"])
@pytest.mark.parametrize("buffering", [0, 16, -1, 2**20])
@pytest.mark.parametrize("before", [0, 10, 20_000])
def test_reading_begins_and_ends_where_the_object_stands(
    path: Path, mode: str, buffering: int, before: int
) -> None:
    """Also if its buffer had the whole file, or if it seeks back into what it had buffered."""
    with open(path, mode, buffering) as file:
        assert file.read(before) == CONTENT[:before]
        stream = open_input(file)
        assert read(stream, 3000) == CONTENT[before : before + 3000]
        stream.close()
        assert file.tell() == before + 3000
        assert file.read(100) == CONTENT[before + 3000 : before + 3100]
        file.seek(before + 50)
        assert file.read(100) == CONTENT[before + 50 : before + 150]


@pytest.mark.parametrize("mode", ["wb", "w+b", "ab"])
@pytest.mark.parametrize("buffering", [0, 16, -1])
def test_writing_begins_and_ends_where_the_object_stands(
    path: Path, mode: str, buffering: int
) -> None:
    old = CONTENT if mode == "ab" else b""
    with open(path, mode, buffering) as file:
        file.write(b"before")
        stream = open_output(file)
        stream.write(memoryview(b"the tar"))
        stream.commit()
        assert file.tell() == len(old) + 13
        file.write(b"after")
    assert path.read_bytes() == old + b"beforethe tarafter"


def test_what_was_written_and_read_back_is_not_written_twice(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"new")
        assert file.read(10) == CONTENT[3:13]
        stream = open_output(file)
        stream.write(memoryview(b"the tar"))
        stream.commit()
        file.write(b"after")
    assert path.read_bytes() == b"new" + CONTENT[3:13] + b"the tarafter" + CONTENT[25:]


def test_what_a_pipe_had_given_already_comes_first() -> None:
    reading, writing = os.pipe()
    with open(reading, "rb") as file, open(writing, "wb", 0) as other:
        other.write(CONTENT[:1000])
        assert file.read(10) == CONTENT[:10]
        other.write(CONTENT[1000:2000])
        assert read(open_input(file), 1990) == CONTENT[10:2000]


def test_an_object_of_a_class_of_its_own_is_used_by_its_methods(path: Path) -> None:
    class Counting(io.BufferedReader):
        count = 0

        def readinto1(self, buffer: Any, /) -> int:
            self.count += 1
            return super().readinto1(buffer)

    with Counting(io.FileIO(path)) as file:
        assert read(open_input(file), 100) == CONTENT[:100]
        assert file.count > 0


def test_an_object_that_was_closed_meanwhile(path: Path) -> None:
    with path.open("rb") as file:
        stream = open_input(file)
    with pytest.raises(LocalIOError, match="file is closed"):
        stream.readinto(memoryview(bytearray(10)))
    stream.close()


class Reopened:
    """Stands in for a system call on a descriptor: first, the caller's file becomes another one.

    That is the worst moment: we have the descriptor's number, and the call has not begun.
    """

    def __init__(self, call: Callable[..., Any], file: IO[bytes], path: Path) -> None:
        path.write_bytes(b"another file")
        self.call, self.file, self.path = call, file, path
        self.another: IO[bytes] | None = None

    def __call__(self, fd: int, *args: Any) -> Any:
        if self.another is None:
            number = self.file.fileno()
            self.file.close()
            self.another = self.path.open("r+b", 0)
            assert self.another.fileno() == number
            self.another.seek(3)
        return self.call(fd, *args)

    def check_untouched(self) -> None:
        assert self.another is not None
        assert self.another.tell() == 3
        self.another.close()
        assert self.path.read_bytes() == b"another file"


@pytest.mark.parametrize("buffering", [0, -1])
@pytest.mark.parametrize("call", ["readv", "pread", "lseek"])
def test_a_reader_whose_descriptor_becomes_another_files(
    path: Path, buffering: int, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = path.open("rb", buffering)
    stream = open_input(file)
    reopened = Reopened(getattr(os, call), file, path.with_name("another"))
    monkeypatch.setattr(os, call, reopened)
    if call == "readv":
        assert read(stream, 100) == CONTENT[:100]
    elif call == "pread":
        assert stream.peek(10, 5) == CONTENT[10:15]
    else:
        stream.rewind()
    stream.close()
    reopened.check_untouched()


@pytest.mark.parametrize("buffering", [0, -1])
@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_writer_whose_descriptor_becomes_another_files(
    path: Path, buffering: int, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = path.open("wb", buffering)
    stream = open_output(file)
    synced = os.stat(path).st_ino
    reopened = Reopened(getattr(os, call), file, path.with_name("another"))
    if call == "fsync":  # of the caller's file, and no other
        reopened.call = lambda fd: pytest.fail("!") if os.fstat(fd).st_ino != synced else None
    monkeypatch.setattr(os, call, reopened)
    stream.write(memoryview(b"the tar"))
    with suppress(LocalIOError):
        stream.commit()
    stream.abort()
    reopened.check_untouched()
    assert path.read_bytes() == b"the tar"


def test_a_pipe_whose_descriptor_becomes_another_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    with open(writing, "wb", 0) as other:
        other.write(CONTENT[:100])
        file = open(reading, "rb", 0)  # noqa: SIM115
        stream = open_input(file)
        reopened = Reopened(os.readv, file, tmp_path / "another")
        monkeypatch.setattr(os, "readv", reopened)
        assert read(stream, 100) == CONTENT[:100]
        stream.close()
        reopened.check_untouched()
        with pytest.raises(BrokenPipeError):  # nothing of it is left open
            other.write(b"more")
