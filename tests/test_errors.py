"""What an error says: its hint, and texts that can be printed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

import tapestream
from tapestream import (
    BackupInfo,
    DiscardSink,
    Extent,
    RawImageSource,
)
from tapestream.errors import (
    CorruptStreamError,
    DriveBusyError,
    ExtentsError,
    LocalIOError,
    TapeError,
)
from tapestream.testing.memory import MemorySource


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, "Make room"),
        (errno.EACCES, "who may use it"),
        (errno.EIO, "dmesg"),
        (errno.EMFILE, "ulimit -n"),
        (errno.ENOENT, "Check the path"),
        (errno.EROFS, "read-only"),
    ],
)
def test_an_error_number_says_what_to_do_next(number: int, hint: str) -> None:
    error = LocalIOError("cannot write /backup/disk.tar", OSError(number, os.strerror(number)))
    assert hint in error.hint
    assert str(error) == f"cannot write /backup/disk.tar: {os.strerror(number)}. {error.hint}"
    better = LocalIOError("cannot", OSError(number, "x"), hint="Do this instead.")
    assert better.hint == "Do this instead."
    # A drive's numbers mean something else: what its own class says stays.
    assert DriveBusyError("x", OSError(number, "x")).hint == DriveBusyError.hint
    assert TapeError("x", OSError(number, "x")).hint == TapeError.hint


def test_a_text_that_can_be_printed(tmp_path: Path) -> None:
    """A file name is any bytes; a terminal and a log file take text only."""
    with pytest.raises(LocalIOError, match=r"disk-\\udcff") as caught:
        RawImageSource(tmp_path / "disk-\udcff.raw")
    str(caught.value).encode()


def test_a_place_that_can_be_printed() -> None:
    """A terminal would obey what is in the name of a file, or of a disk."""

    class Named(MemorySource):
        place = "disk\x1b[31m.raw"

    with pytest.raises(ExtentsError, match=r"disk\\x1b\[31m\.raw: the extents"):
        tapestream.copy(Named(bytes(8192), [Extent(0, 4096)]), DiscardSink())

    class Cut(MemorySource):
        def check_complete(self) -> None:
            raise CorruptStreamError("it was cut")

    info = BackupInfo(disk_id="1", disk_name="db\x1b[31m", checkpoint_id="2")
    with pytest.raises(CorruptStreamError, match=r"disk db\\x1b\[31m: it was cut"):
        tapestream.merge_chain([Cut(bytes(4096), info=info)])

    error = CorruptStreamError("cannot read a\x1b.tar")
    error.add_context("a\x1b.tar")
    assert error.args[0] == r"cannot read a\x1b.tar"
