"""Errors, results and infos go through process pools and job queues as they are."""

from __future__ import annotations

import copy
import errno
import inspect
import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

import tapestream
from tapestream import (
    BackupInfo,
    CompareReport,
    CopyResult,
    Damage,
    DiscardSink,
    Extent,
    RawImageSource,
    TapestreamError,
    VerifyReport,
)
from tapestream.errors import (
    CorruptStreamError,
    DigestMismatchError,
    DriveBusyError,
    ExtentsError,
    LocalIOError,
    TapeError,
)
from tapestream.model.blockhash import BlockHash
from tapestream.model.extents import Extents
from tapestream.tape import TapeEntry
from tapestream.tape.report import TapePlace, TapeReport
from tapestream.testing.memory import MemorySource

# What the arguments of the errors' constructors may be, by their names.
GIVEN: dict[str, Any] = {
    "error": OSError(28, "No space left on device"),
    "start": 4096,
    "length": 512,
    "status": 503,
    "hint": "Do this next.",
}

TRIPS: list[Callable[[Any], Any]] = [
    copy.copy,
    copy.deepcopy,
    *(
        lambda value, protocol=protocol: pickle.loads(pickle.dumps(value, protocol))
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    ),
]


def tree(root: type[TapestreamError] = TapestreamError) -> Iterator[type[TapestreamError]]:
    yield root
    for each in root.__subclasses__():
        if each.__module__.startswith("tapestream."):
            yield from tree(each)


def made(cls: type[TapestreamError]) -> TapestreamError:
    parameters = list(inspect.signature(cls).parameters)
    return cls(**{name: GIVEN.get(name, f"{name} of it") for name in parameters})


@pytest.mark.parametrize("cls", list(tree()), ids=lambda cls: cls.__name__)
def test_an_error_keeps_all_that_it_knows(cls: type[TapestreamError]) -> None:
    error = made(cls)
    if "hint" in inspect.signature(cls).parameters:
        assert error.hint == "Do this next."
    for trip in TRIPS:
        again = trip(error)
        assert type(again) is cls
        assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))
        assert again.hint == error.hint


class EmbeddersError(LocalIOError):
    """Made from what it is about, not from its message."""

    def __init__(self, shelf: int, robot: str) -> None:
        super().__init__(f"{robot} cannot reach shelf {shelf}", OSError(71, "Protocol error"))
        self.shelf = shelf


def test_an_error_that_inherits() -> None:
    again = pickle.loads(pickle.dumps(EmbeddersError(7, "robot-1")))
    assert type(again) is EmbeddersError
    assert str(again) == "robot-1 cannot reach shelf 7: Protocol error"
    assert (again.shelf, again.errno) == (7, 71)


def failing() -> None:
    raise DigestMismatchError("extent-1@0", 4096, 512)


def test_a_process_pool_hands_it_over() -> None:
    with (
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
        pytest.raises(DigestMismatchError) as caught,
    ):
        pool.submit(failing).result()
    assert (caught.value.member, caught.value.start, caught.value.length) == (
        "extent-1@0",
        4096,
        512,
    )


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


INFO = BackupInfo(
    vm_name="größer",
    created=datetime(2026, 11, 23, 16, 0, 1, tzinfo=timezone.utc),
    metadata={"tags": [1, None, {"a": True}]},
    size=8192,
    block_hash=BlockHash("00ff" * 16),
)
TAPE = TapeReport(INFO, "set", (TapePlace("/dev/nst0", "A1", 3, 1),), 5, 5 * 2**20, 0.5)
RESULT = CopyResult(
    size=8192,
    context="zero",
    extents=2,
    data_extents=1,
    data_bytes=4096,
    zero_bytes=4096,
    read_bytes=4096,
    requests=1,
    seconds=1.5,
    checksum="sha256",
    verified=None,
    receipt=TAPE,
    block_hash=BlockHash("00ff" * 16),
)
DAMAGE = Damage(0, 512, "extent-1@0", missing=True)
ENTRY = TapeEntry(file=1, info=INFO, complete=True, set_id="set", volume=1)


@pytest.mark.parametrize("trip", TRIPS)
@pytest.mark.parametrize(
    "value",
    [
        INFO,
        BackupInfo(),
        RESULT,
        TAPE,
        DAMAGE,
        VerifyReport(INFO, True, (DAMAGE,), ("a problem",), 4096, "sha256"),
        CompareReport(((0, 512),), 8192),
        Extent(0, 512, zero=True),
        ENTRY,
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_result_stays_what_it_is(value: Any, trip: Callable[[Any], Any]) -> None:
    assert trip(value) == value


def test_extents_stay_what_they_are() -> None:
    extents = Extents.of([Extent(0, 512, zero=True), Extent(512, 512)])
    for trip in TRIPS:
        assert list(trip(extents)) == list(extents)


def test_a_result_as_a_dict() -> None:
    """For whoever writes it to a database or a data frame."""
    values = asdict(RESULT)
    assert values["receipt"]["info"]["metadata"] == {"tags": [1, None, {"a": True}]}


def test_an_info_keeps_what_it_was_made_with() -> None:
    metadata: dict[str, Any] = {"tags": ["nightly"]}
    info = BackupInfo(metadata=metadata)
    metadata["tags"].append("weekly")
    assert replace(info, size=1).metadata == {"tags": ["nightly"]}
