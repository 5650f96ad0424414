"""Chains of backups on tapes."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from tapestream import CopyResult, TarStreamSource, restore_chain
from tapestream.tape import TapeDrive
from tapestream.testing.memory import MemorySink
from tests.drive.stations import Station

from ..chains import CLEAN, DATA, ZERO, Link, chain
from .tapes import PART, RECORD, backup, disk

R = RECORD
# What the disk was on four days. The data that is needed of each lies between that of the others.
WEEK = chain(
    [(3 * R, DATA), (R, ZERO), (2 * R, DATA)],
    [(R, CLEAN), (R, DATA), (R, CLEAN), (1000, DATA), (3 * R - 1000, CLEAN)],
    [(R // 2, DATA), (4 * R, CLEAN), (R, ZERO), (R // 2, CLEAN)],
    [(2 * R, CLEAN), (512, DATA), (4 * R - 512, CLEAN), (R, DATA)],
)
FEW: Any = {"buffer_size": RECORD, "buffer_memory": 4 * RECORD}


def put(drive: TapeDrive, one: Link, **options: Any) -> CopyResult:
    """Append a backup to what is on the tape."""
    return backup(drive, one.readable, info=one.info, extents=one.extents, **options)


def put_all(drive: TapeDrive, links: Sequence[Link] = WEEK) -> None:
    for one in links:
        put(drive, one)


@contextmanager
def opened(drive: TapeDrive, *files: int, **options: Any) -> Iterator[list[TarStreamSource]]:
    """The backups in these tape files, all open at the same time."""
    with ExitStack() as stack:
        yield [stack.enter_context(TarStreamSource(drive, file=file, **options)) for file in files]


def restored(sources: Sequence[Any], sink: MemorySink | None = None, **options: Any) -> bytes:
    sink = sink or MemorySink(max_writers=2)
    restore_chain(sources, sink, **{**FEW, **options})
    assert sink.state == "committed"
    return bytes(sink.disk)


def in_a_thread(deed: Callable[[], object]) -> None:
    """Do it in another thread, and wait for its end; what it raises is raised here."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            deed()
        except BaseException as e:  # noqa: BLE001 - it is raised in the test's thread
            errors.append(e)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive(), "it hangs"
    if errors:
        raise errors[0]


def tar(one: Link) -> TarStreamSource:
    """A link that is not on tape."""
    return TarStreamSource(io.BytesIO(one.tar(part_size=PART)))


def append(station: Station, drive: TapeDrive) -> None:
    backup(drive, disk(7), "another")
