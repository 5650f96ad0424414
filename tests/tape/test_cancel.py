"""What waits for a drive, or winds a tape through, ends when it is cancelled."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from tapestream import Cancel, TarStreamSink, copy
from tapestream.drive.device import TapeDevice
from tapestream.errors import OperationCancelledError, UsageError
from tapestream.tape import Catalog, TapeDrive, VolumeRequest
from tapestream.testing.drive import Cartridge, FakeDrive
from tapestream.testing.memory import MemorySource
from tests.drive.stations import Station
from tests.drive.watched import WatchedDevice

from .tapes import PART, RECORD, backup, disk, impatient

pytestmark = pytest.mark.timeout(60)

Scan = Callable[[TapeDrive, Cancel], object]


def _scan(drive: TapeDrive, cancel: Cancel) -> None:
    list(drive.scan(cancel=cancel))


def _find(drive: TapeDrive, cancel: Cancel) -> None:
    drive.find(cancel=cancel)


def _catalog(drive: TapeDrive, cancel: Cancel) -> None:
    with Catalog(":memory:") as catalog:
        catalog.scan(drive, cancel=cancel)


def _turn(drive: TapeDrive, cancel: Cancel) -> None:
    with drive.turn(cancel=cancel):
        raise AssertionError("the drive is in use")


SCANS = [_scan, _find, _catalog]
# Commands that can take long.
WINDS = ("FORWARD_FILES", "BACKWARD_RECORDS", "REWIND", "read")


def reason_of(call: Callable[[], object]) -> str | None:
    """The reason with which a call is cancelled."""
    with pytest.raises(OperationCancelledError) as caught:
        call()
    return caught.value.reason


@pytest.mark.parametrize("before", [True, False])
def test_a_wait_for_a_cartridge_is_cancelled(
    station: Station, drive: TapeDrive, before: bool
) -> None:
    station.eject()
    drive.raw.poll_seconds = 3600.0
    cancel = Cancel()
    timer = threading.Timer(0 if before else 0.3, cancel.cancel, ["enough"])
    timer.start()
    if before:
        timer.join()
    assert reason_of(lambda: drive.wait_ready(cancel=cancel)) == "enough"
    timer.join()


@pytest.mark.parametrize("scan", [_turn, *SCANS])
def test_a_wait_for_a_turn_is_cancelled(drive: TapeDrive, scan: Scan) -> None:
    cancel = Cancel()
    reasons: list[str | None] = []
    with drive.turn():
        thread = threading.Thread(
            target=lambda: reasons.append(reason_of(lambda: scan(drive, cancel)))
        )
        thread.start()
        cancel.cancel("enough")
        thread.join()
    assert reasons == ["enough"]
    with drive.turn():
        pass


@pytest.mark.parametrize("scan", SCANS)
def test_a_scan_ends_before_the_next_command(station: Station, scan: Scan) -> None:
    """Whatever the drive is doing when it is cancelled, it winds no further after that."""
    calls: list[str] = []
    event: tuple[int, Cancel] | None = None

    def before(call: str) -> None:
        if call in WINDS:
            calls.append(call)
            if event is not None and len(calls) == event[0]:
                event[1].cancel("enough")

    def open_device(path: str, *, read_only: bool) -> TapeDevice:
        return WatchedDevice(station.open_device(path, read_only=read_only), before)

    with impatient(TapeDrive(station.path, open_device=open_device)) as drive:
        drive.write_label("T1", overwrite=True)
        for name in ("a", "b"):
            backup(drive, disk(1), name)
        calls.clear()
        scan(drive, Cancel())
        in_all = len(calls)
        for at in range(1, in_all - 1):
            calls.clear()
            event = at, Cancel()
            assert reason_of(partial(scan, drive, event[1])) == "enough"
            # The reads of the end of one backup belong together.
            assert set(calls[at:]) <= {"read"}
        calls.clear()
        event = None
        scan(drive, Cancel())
        assert len(calls) == in_all


def test_a_catalog_that_is_cancelled_knows_what_it_knew(drive: TapeDrive, tmp_path: Path) -> None:
    drive.write_label("T1", overwrite=True)
    first = backup(drive, disk(1), "a")
    cancel = Cancel()
    cancel.cancel("enough")
    with Catalog(tmp_path / "catalog") as catalog:
        catalog.add(first.receipt)
        backup(drive, disk(2), "b")
        assert reason_of(lambda: catalog.scan(drive, cancel=cancel)) == "enough"
        assert [found.info.disk_id for found in catalog.find()] == ["a"]
        catalog.scan(drive)
        assert {found.info.disk_id for found in catalog.find()} == {"a", "b"}


def test_what_is_no_cancel(drive: TapeDrive) -> None:
    for call in (*SCANS, _turn):
        with pytest.raises(UsageError, match="cancel must be a Cancel"):
            call(drive, cast(Cancel, "yes"))
    with pytest.raises(UsageError, match="cancel must be a Cancel"):
        drive.wait_ready(cancel=cast(Cancel, "yes"))


# --- The function that loads tapes ---


@pytest.mark.parametrize("looks", [True, False])
def test_a_tape_change_is_cancelled(looks: bool) -> None:
    """Whether the function that should load the tape looks at the request, or waits for ever."""
    cancel, asked, pressed = Cancel(), threading.Event(), threading.Event()
    ended = threading.Event()

    def ask_operator(request: VolumeRequest) -> None:
        asked.set()
        while not pressed.wait(0.01):
            if looks and request.cancelled:
                break
        ended.set()

    def cancel_when_asked() -> None:
        asked.wait()
        cancel.cancel("enough")

    fake = FakeDrive(Cartridge(20 * RECORD, 4 * RECORD))
    canceller = threading.Thread(target=cancel_when_asked)
    with impatient(TapeDrive("/dev/nst0", open_device=fake.open)) as drive:
        canceller.start()
        sink = TarStreamSink(drive, record_size=RECORD, part_size=PART, on_volume_full=ask_operator)
        with MemorySource(disk(1, 30 * RECORD)) as source, sink:
            assert reason_of(lambda: copy(source, sink, cancel=cancel)) == "enough"
        canceller.join()
        assert ended.is_set() == looks
        if not looks:
            # The drive is the function's until it returns.
            assert reason_of(lambda: _scan(drive, cancelled_after(0.1))) == "later"
        pressed.set()
        assert [entry.continues for entry in drive.scan()] == [True]  # on a tape that never came
    assert not [t for t in threading.enumerate() if t.name.startswith("tapestream")]


@pytest.mark.parametrize("cancel", [None, Cancel()])
def test_only_with_a_cancel_each_call_has_its_own_thread(cancel: Cancel | None) -> None:
    """A function may keep what belongs to a thread, such as a connection to a database."""
    seen: list[threading.Thread] = []
    fake = FakeDrive(Cartridge(12 * RECORD, 4 * RECORD))

    def load(request: VolumeRequest) -> None:
        seen.append(threading.current_thread())
        fake.swap(Cartridge(12 * RECORD, 4 * RECORD))

    with impatient(TapeDrive("/dev/nst0", open_device=fake.open)) as drive:
        sink = TarStreamSink(drive, record_size=RECORD, part_size=PART, on_volume_full=load)
        with MemorySource(disk(1, 30 * RECORD)) as source, sink:
            copy(source, sink, cancel=cancel)
    assert len(seen) == 3
    names = {thread.name for thread in seen}
    assert names == ({"tapestream-load"} if cancel else {"tapestream-writer-0"})
    assert len(set(seen)) == (3 if cancel else 1)


def test_a_function_that_is_left_alone_leaves_the_device_closed() -> None:
    """It uses the drive after the program has closed it."""
    cancel, ended, scanned = Cancel(), threading.Event(), list[int]()
    fake = FakeDrive(Cartridge(20 * RECORD, 4 * RECORD))

    def load(request: VolumeRequest) -> None:
        cancel.cancel("enough")
        ended.wait()
        scanned.append(len(list(request.drive.scan())))

    with impatient(TapeDrive("/dev/nst0", open_device=fake.open)) as drive:
        sink = TarStreamSink(drive, record_size=RECORD, part_size=PART, on_volume_full=load)
        with MemorySource(disk(1, 30 * RECORD)) as source, sink:
            assert reason_of(lambda: copy(source, sink, cancel=cancel)) == "enough"
    ended.set()
    for thread in threading.enumerate():
        if thread.name == "tapestream-load":
            thread.join()
    assert scanned == [1]
    with TapeDrive("/dev/nst0", open_device=fake.open) as other:  # it is not busy
        assert len(list(other.scan())) == 1


def cancelled_after(seconds: float) -> Cancel:
    cancel = Cancel()
    threading.Timer(seconds, cancel.cancel, ["later"]).start()
    return cancel
