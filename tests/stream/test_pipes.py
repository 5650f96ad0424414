"""Tars through fifos, pipes, sockets and disks; and the other side goes away."""

from __future__ import annotations

import contextlib
import errno
import io
import lzma
import os
import resource
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapestream import TarStreamSink, TarStreamSource, copy
from tapestream.errors import IncompleteStreamError, LocalIOError, TapestreamError
from tapestream.files.inputs import open_input
from tapestream.files.outputs import open_output
from tapestream.testing.memory import MemorySink, MemorySource
from tests.stream.support import (
    LARGE,
    MIB,
    TAR,
    BoomError,
    backup,
    boom,
    interrupt_soon,
    meanwhile,
    restore,
)
from tests.tar.tars import DISK

# --- Fifos and pipes ---


def test_a_fifo(fifo: Path) -> None:
    with meanwhile(lambda: backup(fifo, LARGE)):
        assert restore(fifo) == LARGE
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert [*fifo.parent.iterdir()] == [fifo]


def test_a_copy_between_two_fifos(tmp_path: Path) -> None:
    for name in ("first", "second"):
        os.mkfifo(tmp_path / name)

    def between() -> None:
        with (
            TarStreamSource(tmp_path / "first") as source,
            TarStreamSink(tmp_path / "second", part_size=MIB) as sink,
        ):
            copy(source, sink)

    with meanwhile(lambda: backup(tmp_path / "first", LARGE)), meanwhile(between):
        assert restore(tmp_path / "second") == LARGE


def test_an_aborted_fifo_is_incomplete_for_its_reader(fifo: Path) -> None:
    def failing_backup() -> None:
        with TarStreamSink(fifo) as sink, pytest.raises(BoomError):
            copy(MemorySource(DISK, before_read=boom), sink)

    with meanwhile(failing_backup), pytest.raises(IncompleteStreamError):
        restore(fifo)


@pytest.mark.parametrize("buffering", [0, -1])
def test_file_objects_of_a_pipe(buffering: int) -> None:
    reading, writing = os.pipe()
    with open(reading, "rb", buffering) as input_, open(writing, "wb", buffering) as output:

        def write() -> None:
            with output:
                backup(output, LARGE)
                assert not output.closed

        with meanwhile(write):
            assert restore(input_) == LARGE
            assert not input_.closed
            assert input_.read(1) == b""


@pytest.mark.parametrize("ahead", [False, True])
def test_ctrl_c_frees_a_reader_of_a_child(ahead: bool) -> None:
    """An ssh that stalls, say: its pipe is a buffered file object, which may have read ahead."""
    out = io.BytesIO()
    backup(out, LARGE)
    head = out.getvalue()[: 5 * MIB]
    script = f"import sys, time; sys.stdout.buffer.write(sys.stdin.buffer.read({len(head)})); "
    script += "sys.stdout.flush(); time.sleep(600)"
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert isinstance(child.stdout, io.BufferedReader)
        child.stdin.write(head)
        child.stdin.close()
        if ahead:
            assert child.stdout.peek()
        try:
            with (
                TarStreamSource(child.stdout) as source,
                MemorySink() as sink,
                pytest.raises(KeyboardInterrupt),
                meanwhile(interrupt_soon),
            ):
                copy(source, sink)
            assert os.get_blocking(child.stdout.fileno())
        finally:
            child.kill()


def test_a_file_object_over_a_file_is_put_on_storage(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino))
    with path.open("wb") as file:
        backup(file)
        assert synced == [os.fstat(file.fileno()).st_ino]


@pytest.fixture
def as_a_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in: `fstat` says of a device here that it is a disk, and nothing else is one."""

    def fstat(fd: int) -> os.stat_result:
        found = list(fstat_of_a_device(fd))
        found[stat.ST_MODE] = stat.S_IFBLK | 0o600
        return os.stat_result(found)

    fstat_of_a_device = os.fstat
    monkeypatch.setattr(os, "fstat", fstat)


@pytest.mark.usefixtures("as_a_disk")
@pytest.mark.parametrize("kind", ["path", "file object"])
def test_a_disk_is_put_on_storage(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only then the kernel tells what it could not write."""
    synced: list[int] = []

    def fsync(fd: int) -> None:
        synced.append(fd)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)
    with contextlib.ExitStack() as stack:
        disk_: Any = "/dev/null"
        if kind == "file object":
            disk_ = stack.enter_context(open(disk_, "wb"))
        with pytest.raises(LocalIOError, match="cannot finish /dev/null: Input/output error"):
            backup(disk_)
    assert len(synced) == 1


def test_damage_below_a_file_object_is_told_as_ours() -> None:
    out = io.BytesIO()
    with lzma.open(out, "wb") as packed:
        backup(packed)
    damaged = bytearray(out.getvalue())
    damaged[len(damaged) // 2] ^= 0xFF
    with lzma.open(io.BytesIO(damaged)) as unpacked, pytest.raises(TapestreamError):
        restore(unpacked)
    cut = io.BytesIO(out.getvalue()[:-50])
    with lzma.open(cut) as unpacked, pytest.raises(IncompleteStreamError):
        restore(unpacked)


def test_a_socket() -> None:
    ours, theirs = socket.socketpair()
    with (
        ours,
        theirs,
        ours.makefile("wb") as output,
        theirs.makefile("rb") as input_,
        meanwhile(lambda: backup(output, LARGE)),
    ):
        assert restore(input_) == LARGE


# --- No descriptor left ---


@contextlib.contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Only so many descriptors can be opened."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, limits[0]), limits[1]))
    taken: list[int] = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        for _ in range(count):
            os.close(taken.pop())
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("left", [0, 1, 2])
@pytest.mark.parametrize("end", [open_input, open_output])
def test_a_fifo_without_a_descriptor_left(end: Any, left: int, fifo: Path) -> None:
    """One for the fifo, and two to be cancelled: what was opened is closed again."""
    other = os.open(fifo, os.O_RDWR)  # nobody waits
    try:
        with descriptors_left(left):
            with pytest.raises(LocalIOError, match="Too many open files") as caught:
                end(fifo)
            assert caught.value.errno == errno.EMFILE
            again = [os.open("/dev/null", os.O_RDONLY) for _ in range(left)]
            for fd in again:
                os.close(fd)
    finally:
        os.close(other)


@pytest.mark.parametrize("end", [open_input, open_output])
def test_a_file_object_of_a_pipe_without_a_descriptor_left(end: Any) -> None:
    """It is the caller's, and stays open."""
    for fd, mode in zip(os.pipe(), ("rb", "wb"), strict=True):
        with open(fd, mode, 0) as file:
            if (end is open_input) == (mode == "rb"):
                for left in (0, 1):
                    with descriptors_left(left), pytest.raises(LocalIOError, match="Too many"):
                        end(file)
            os.fstat(fd)


# --- The other side goes away ---


def test_a_fifo_whose_reader_goes_away(fifo: Path) -> None:
    def read_a_little() -> None:
        with fifo.open("rb", 0) as file:
            assert file.read(100)

    with meanwhile(read_a_little), pytest.raises(LocalIOError, match="Broken pipe") as caught:
        backup(fifo, LARGE)
    assert caught.value.errno == errno.EPIPE


def test_a_file_object_whose_reader_goes_away() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb", 0) as output, pytest.raises(LocalIOError) as caught:
        backup(output, LARGE)
    assert caught.value.errno == errno.EPIPE


@pytest.mark.parametrize("size", [0, 100, 512, 5000, len(TAR) - 1])
def test_a_fifo_whose_writer_goes_away(fifo: Path, size: int) -> None:
    with meanwhile(lambda: fifo.write_bytes(TAR[:size])), pytest.raises(IncompleteStreamError):
        restore(fifo)
