"""Backups to anything that a tar can be written to, and back."""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tapestream import Extent, TarStreamSink, TarStreamSource, copy
from tapestream.files.inputs import BinaryInput
from tapestream.files.outputs import BinaryOutput
from tapestream.model.extents import Extents
from tapestream.testing.memory import MemorySink, MemorySource
from tests.tar.tars import DISK, disk, make_tar

MIB = 1024**2
TIMEOUT = 60
TAR = make_tar()
# More than any pipe holds.
LARGE = disk(3) * 1000
TEN_BYTES = Extents.of([Extent(0, 10)])


def backup(target: str | Path | BinaryOutput, content: bytes = DISK, **options: Any) -> None:
    with TarStreamSink(target, **options) as sink, MemorySource(content) as source:
        copy(source, sink)


def restore(target: str | Path | BinaryInput) -> bytes:
    sink = MemorySink()
    with TarStreamSource(target) as source, sink:
        copy(source, sink)
    return bytes(sink.disk)


@contextlib.contextmanager
def meanwhile(work: Callable[[], object]) -> Iterator[None]:
    """Do something in a thread, whose error, if any, is raised at the end."""
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as e:  # noqa: BLE001 - raised again
            errors.append(e)

    thread = threading.Thread(target=guarded, name="meanwhile")
    thread.start()
    yield
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    if errors:
        raise errors[0]


class BoomError(Exception):
    pass


def boom(start: int, length: int) -> None:
    raise BoomError


def interrupt_soon() -> None:
    time.sleep(0.3)
    interrupt()


class Trickle(io.RawIOBase):
    """A raw file that takes and gives a few bytes at a time, as it may."""

    def __init__(self, content: bytes = b"", step: int = 7) -> None:
        self.content = bytearray(content)
        self.step = step

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        taken = memoryview(data)[: self.step]
        self.content += taken
        return len(taken)

    def readinto(self, buffer: Any) -> int:
        given = self.content[: min(self.step, len(buffer))]
        buffer[: len(given)] = given
        del self.content[: len(given)]
        return len(given)


def wait_until_full(fd: int) -> None:
    """A writer blocks now, or is about to: there is no room for what it has."""
    poll, pause = select.poll(), threading.Event()
    poll.register(fd, select.POLLOUT)
    for _ in range(TIMEOUT * 100):
        if not poll.poll(0):
            return
        pause.wait(0.01)
    raise AssertionError("the fifo never got full")


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)
