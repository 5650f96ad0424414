"""Errors, results and infos go through process pools and job queues as they are.

Every public class is found here: a new one must be pickled, or say that it cannot.
"""

from __future__ import annotations

import copy
import copyreg
import inspect
import multiprocessing
import pickle
import socket
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from datetime import datetime, timezone
from enum import Enum
from typing import Any

import pytest

import tapestream
import tapestream.archive
from tapestream import (
    BackupInfo,
    BlockHash,
    CompareReport,
    CopyResult,
    CopySample,
    CopyStatus,
    Damage,
    DiscardSink,
    Extent,
    Extents,
    Findings,
    RawImageSource,
    Reader,
    TapestreamError,
    VerifyReport,
)
from tapestream._process import OfThisProcess
from tapestream.archive import (
    Archive,
    Chain,
    FileBackup,
    RestorePoint,
    Skipped,
    TapeBackup,
    TapeFileBackup,
)
from tapestream.backend import (
    ForwardingReader,
    ForwardingSink,
    ForwardingSource,
    ForwardingWriter,
    Shape,
)
from tapestream.engine.options import CopyOptions
from tapestream.errors import LocalIOError, ServerError, TicketError
from tapestream.model.expected import Expected
from tapestream.model.extents import Kind, Segment
from tapestream.tape import (
    CatalogBackup,
    CatalogContents,
    CatalogVolume,
    DeviceStatus,
    Flag,
    TapeContents,
    TapeDrive,
    TapeEntry,
    TapeLabel,
    TapePlace,
    TapeReport,
    TapeStatus,
    VolumeRequest,
)
from tapestream.testing import (
    Cartridge,
    ContractReport,
    EngineCall,
    EngineLeftovers,
    EnginePhases,
    FakeDrive,
    MemorySink,
    MemorySource,
    Pattern,
)
from tapestream.testing.kit.frame import Outcome


@pytest.fixture(autouse=True)
def without_reducers_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own pickling: Dask, which other tests import, changes it for all exceptions."""
    for cls in list(copyreg.dispatch_table):
        if issubclass(cls, BaseException):
            monkeypatch.delitem(copyreg.dispatch_table, cls)


class Zeros(Reader):
    """A reader that is pickled by its class."""

    def readinto(self, start: int, buffer: memoryview) -> None:
        buffer[:] = bytes(len(buffer))

    def close(self) -> None:
        """Nothing to release."""


# What the arguments of the errors' constructors may be, by their names.
GIVEN: dict[str, Any] = {
    "error": OSError(28, "No space left on device"),
    "start": 4096,
    "length": 512,
    "status": 503,
    "seconds": 60.0,
    "ranges": [(0, 512), (4096, 8192)],
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

INFO = BackupInfo(
    vm_name="größer",
    created=datetime(2026, 11, 23, 16, 0, 1, tzinfo=timezone.utc),
    metadata={"tags": [1, None, {"a": True}]},
    size=8192,
    block_hash=BlockHash("00ff" * 16),
)
LABEL = TapeLabel("A1", "id", ("older",))
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
    samples=(CopySample(0.0, 0, 0.0), CopySample(1.5, 4096, 0.5)),
    block_hash=BlockHash("00ff" * 16),
)
DAMAGE = Damage(0, 512, "extent-1@0", missing=True)
FOUND = Findings()
FOUND.add(DAMAGE)
FOUND.note("a problem")
VOLUME = CatalogVolume("A1", 1, 1, True, False)
FILE = FileBackup("disk.tar", INFO, 10240, None, (1, 2))
CHAIN = Chain((FILE,))

# Values of the public classes, and of those that are found in them.
VALUES: list[object] = [
    INFO,
    BackupInfo(),
    BlockHash("00ff" * 16),
    RESULT,
    CopySample(1.5, 4096, 0.5),
    CopyStatus("data", 2048, 4096, 1.0, 0.5, 2048.0),
    DAMAGE,
    FOUND,
    VerifyReport(INFO, True, (DAMAGE,), ("a problem",), 4096, "sha256"),
    CompareReport(((0, 512),), 8192),
    Extent(0, 512, zero=True),
    Segment(0, 512),
    Shape(4096, 2),
    Extents.of([Extent(0, 512, zero=True), Extent(512, 512)]),
    Extents.of_runs([(0, 512, Kind.DATA)]),
    CopyOptions(buffer_size=4096),
    LABEL,
    TapePlace("/dev/nst0", "A1", 3, 1, "id", ("older",)),
    TAPE,
    TapeEntry(file=0, tape_label=LABEL),
    TapeEntry(file=1, info=INFO, complete=True, set_id="set", volume=1),
    TapeStatus(True, False, 1, 2, 0, 5, False, True, False, False, False),
    DeviceStatus(Flag.ONLINE | Flag.FILEMARK, 1, 2, 0, 5),
    VOLUME,
    CatalogBackup(INFO, "set", (VOLUME,), True),
    CatalogBackup(INFO, "set", (VOLUME,), True).expected,
    CatalogContents(("A1",), (CatalogBackup(INFO, "set", (VOLUME,), True),)),
    TapeContents((TapeEntry(file=0, tape_label=LABEL), TapeEntry(file=1, info=INFO))),
    Expected(INFO, "set", 1, "A1", whole_info=True),
    FILE,
    CHAIN,
    RestorePoint(INFO, INFO.created, CHAIN),
    Skipped("notes.txt", "not a backup"),
    TapeBackup(CatalogBackup(INFO, "set", (VOLUME,), True)),
    Archive([FILE], unreadable=[Skipped("bad.tar", "damaged")]),
    ContractReport((Outcome("a-clause", "It must be so.", "failed", "It is not."),)),
    Cartridge(name="A1"),
    EngineCall("GET", "/vms", {"search": "name=mail"}, "", 200),
    EngineLeftovers(transfers=("transfer-1",), tokens=1),
    EnginePhases(disk_add=("locked",)),
    FakeDrive(None),
    Pattern(b"abc", 1000),
    MemorySource(bytes(512)),
    MemorySink(),
    DiscardSink(),
    ForwardingSource(MemorySource(bytes(512))),
    ForwardingReader(Zeros()),
    ForwardingSink(DiscardSink()),
    ForwardingWriter(DiscardSink().open_writer()),
]


def public_classes() -> list[type]:
    """Every public class that can be made: no protocol, and nothing abstract."""
    packages = [tapestream, tapestream.archive, tapestream.backend, tapestream.errors]
    packages += [tapestream.tape, tapestream.testing]
    found = {
        value
        for package in packages
        for name in getattr(package, "__all__", dir(package))
        if isinstance(value := getattr(package, name), type)
        and value.__module__.startswith("tapestream.")
        and not inspect.isabstract(value)
        and not getattr(value, "_is_protocol", False)
    }
    return sorted(found, key=lambda cls: cls.__name__)


def made(cls: type[TapestreamError]) -> TapestreamError:
    parameters = list(inspect.signature(cls).parameters)
    error = cls(**{name: GIVEN.get(name, f"{name} of it") for name in parameters})
    error.__notes__ = ["a note"]  # as add_note() of Python 3.11 does
    error.__cause__ = OSError(5, "Input/output error")
    return error


def values_of(cls: type) -> list[Any]:
    if issubclass(cls, TapestreamError):
        return [made(cls)]
    if issubclass(cls, Enum):
        return list(cls)
    return [value for value in VALUES if type(value) is cls]


def facts(value: object) -> tuple[object, ...]:
    """What must be the same after a trip."""
    if isinstance(value, BaseException):
        return type(value), str(value), value.args, vars(value), facts(value.__cause__)
    if type(value).__eq__ is object.__eq__ and hasattr(value, "__dict__"):
        return type(value), {name: facts(each) for name, each in vars(value).items()}
    return type(value), value


@pytest.mark.parametrize("cls", public_classes(), ids=lambda cls: cls.__name__)
def test_a_public_class(cls: type) -> None:
    """If this fails for a new class: add a value of it to `VALUES`, or base it on OfThisProcess."""
    if issubclass(cls, OfThisProcess):
        for trip in TRIPS:
            with pytest.raises(TypeError, match=f"^this {cls.__name__} belongs to its process"):
                trip(cls.__new__(cls))
    elif cls not in (TapeFileBackup, VolumeRequest):  # they have a drive
        values = values_of(cls)
        assert values, "no value of it is known"
        for value in values:
            for trip in TRIPS:
                assert facts(trip(value)) == facts(value)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value(value: object) -> None:
    for trip in TRIPS:
        assert facts(trip(value)) == facts(value)


def test_what_holds_something_of_this_process() -> None:
    drive = TapeDrive.__new__(TapeDrive)
    with RawImageSource(__file__) as source:
        for value in (VolumeRequest(drive, "set", 2, "a backup"), ForwardingSource(source)):
            for trip in TRIPS[1:]:
                with pytest.raises(TypeError, match="belongs to its process"):
                    trip(value)


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


class EmbeddersOSError(LocalIOError, OSError):
    """What it holds is not in its `__dict__`."""

    __slots__ = ("shelf",)

    def __init__(self, shelf: int) -> None:
        super().__init__("cannot reach it", OSError(71, "Protocol error"))
        self.shelf = shelf


def test_an_error_that_keeps_its_attributes_elsewhere() -> None:
    error, outer = EmbeddersOSError(7), made(ServerError)
    outer.__cause__ = error
    for trip in TRIPS:
        for again in (trip(error), trip(outer).__cause__):
            assert (again.shelf, again.errno, str(again)) == (7, 71, str(error))


class UnmakeableError(Exception):
    """Pickled without a complaint, but Python cannot make it again."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


def chain_of(error: BaseException | None) -> list[str]:
    return [] if error is None else [repr(error), *chain_of(error.__cause__)]


def test_causes_of_causes() -> None:
    """Python itself drops all of them; each one that can be made again is kept."""
    error = made(ServerError)
    with socket.socket() as open_socket:
        causes: list[BaseException] = [
            made(TicketError),
            ValueError("with a socket", open_socket),
            UnmakeableError("one", "two"),
            KeyError("last"),
        ]
        last: BaseException = error
        for cause in causes:
            last.__cause__ = cause
            last = cause
        before = chain_of(error)
        for trip in TRIPS:
            again = trip(error)
            after = chain_of(again)
            assert after[:2] == before[:2]
            assert vars(again.__cause__) == vars(causes[0])
            assert after[2].startswith("Exception(\"ValueError: ('with a socket', <socket.socket")
            assert after[3:] == ["Exception('UnmakeableError: one and two')", "KeyError('last')"]
        assert chain_of(error) == before


def test_an_error_that_causes_itself() -> None:
    error, other = made(ServerError), made(TicketError)
    error.__cause__, other.__cause__ = other, error
    again = pickle.loads(pickle.dumps(error))
    assert chain_of(again) == [repr(error), repr(other)]


def raise_of(cls: type[TapestreamError]) -> None:
    raise made(cls)


def returned(value: object) -> object:
    return value


def test_a_process_pool_hands_them_over() -> None:
    errors = [cls for cls in public_classes() if issubclass(cls, TapestreamError)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as pool:
        raised = [(cls, pool.submit(raise_of, cls)) for cls in errors]
        returns = [(value, pool.submit(returned, value)) for value in VALUES]
        for cls, failed in raised:
            again, error = failed.exception(), made(cls)
            # The pool itself replaces the cause by the traceback of the worker.
            assert again is not None
            assert facts(again)[:4] == facts(error)[:4]
            assert "Input/output error" in str(again.__cause__)
        for value, future in returns:
            assert facts(future.result()) == facts(value)


def test_a_result_as_a_dict() -> None:
    """For whoever writes it to a database or a data frame."""
    values = asdict(RESULT)
    assert values["receipt"]["info"]["metadata"] == {"tags": [1, None, {"a": True}]}


def test_an_info_keeps_what_it_was_made_with() -> None:
    metadata: dict[str, Any] = {"tags": ["nightly"]}
    info = BackupInfo(metadata=metadata)
    metadata["tags"].append("weekly")
    assert replace(info, size=1).metadata == {"tags": ["nightly"]}
