"""The fixture `station`: tape drives with an operator, twice: a double, and the real driver."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Literal

import pytest

from tapestream.drive.device import Command, StDevice, TapeDevice
from tapestream.testing.drive import Cartridge, FakeDrive, Resets

CARTRIDGES = ("T0001", "T0002", "T0003", "T0004")
# Small: the end of a tape is a few records away, also in a slow guest.
CAPACITY = 4 * 1024**2
EARLY_WARNING = 1024**2
LARGEST_BLOCK = 1024**2

# Of <linux/mtio.h>: what `mt stsetoptions fast-eod` does.
_MTIOCTOP = 0x40086D01
_MTSETDRVBUFFER = 24
_SET_BOOLEANS, _CLEAR_BOOLEANS, _FAST_MTEOM = 0x30000000, 0x40000000, 0x8

Fault = Literal["read", "write", "filemark", "position"]


def is_shared(test: pytest.Item) -> bool:
    """Whether one kernel is enough for a test: what the driver does is tested in tests/drive.

    After a reset of the drive, the kernels differ; such a test is marked `every_kernel`.
    """
    return test.path.parent.name == "tape" and test.get_closest_marker("every_kernel") is None


class Station(ABC):
    """Two tape drives, cartridges, and the operator who handles them.

    A test begins with T0001 in the first drive, T0002 to T0004 on the shelf, and the second drive
    empty; all cartridges are blank. What the test leaves open is closed behind it.

        def test_it(station: Station) -> None:
            with TapeDrive(station.path, open_device=station.open_device) as tape:
                ...
                station.reset()  # power-cycle the drive, behind the library's back

    A drive that a user names has no operator: there, the tests that call one are skipped.

    Attributes:
        path: Of the first drive.
        second_path: Of the second drive.
        cartridges: Their names.
        early_warning: How many bytes before the end the drive begins to warn.
        has_operator: Somebody handles the drives.
        resets: What the driver does after a reset; see `Resets`.
    """

    path: str
    second_path: str
    cartridges = CARTRIDGES
    early_warning = EARLY_WARNING
    has_operator = True
    resets = Resets.FORGOTTEN

    def __init__(self) -> None:
        self._opened: list[TapeDevice] = []

    @property
    def capacity(self) -> int:
        """Of a cartridge, in bytes: a block costs 8 more than its data, a filemark 4.

        A test that writes to the end must ask for it, so that it is skipped where that takes hours.
        """
        self.needs_operator()
        return CAPACITY

    @property
    def largest_block(self) -> int:
        """The drive takes no larger one."""
        self.needs_operator()
        return LARGEST_BLOCK

    def needs_operator(self) -> None:
        """Skip the test where nobody handles the drive: it unloads, or takes hours."""
        if not self.has_operator:
            pytest.skip("needs an operator: make test-tape has one")

    @abstractmethod
    def _open_device(self, path: str, *, read_only: bool) -> TapeDevice: ...

    def open_device(self, path: str, *, read_only: bool) -> TapeDevice:
        """Open it, as `TapeDrive` wants it done."""
        device = self._open_device(path, read_only=read_only)
        self._opened.append(device)
        return device

    def open(self, drive: int = 0, *, read_only: bool = False) -> TapeDevice:
        """Open a drive by its number."""
        return self.open_device((self.path, self.second_path)[drive], read_only=read_only)

    def close(self) -> None:
        for device in self._opened:
            with contextlib.suppress(OSError):
                device.close()

    @abstractmethod
    def load(self, name: str, drive: int = 0) -> None:
        """Put a cartridge into a drive that is empty."""

    @abstractmethod
    def eject(self, drive: int = 0) -> None:
        """Take the cartridge out, whether or not the drive is in use."""

    def swap(self, name: str, drive: int = 0) -> None:
        """Put another cartridge into the drive."""
        self.eject(drive)
        self.load(name, drive)

    @abstractmethod
    def protect(self, name: str, on: bool = True) -> None:
        """Set the write-protect tab of a cartridge, or clear it."""

    @abstractmethod
    def fail(self, operation: Fault, nth: int = 1, drive: int = 0) -> None:
        """Let the nth such operation from now end in a medium error; nothing of it is done."""

    @abstractmethod
    def fast_eod(self) -> None:
        """Let the driver go to the end of data without counting files, as some hosts are set."""

    @abstractmethod
    def reset(self, drive: int = 0) -> None:
        """Power-cycle the drive; it stands at the beginning of the tape then."""

    @abstractmethod
    def move(self, block: int, drive: int = 0) -> None:
        """Wind the tape to a block, as another host does: nobody is told."""

    @abstractmethod
    def blank(
        self, name: str, capacity: int = CAPACITY, early_warning: int = EARLY_WARNING
    ) -> None:
        """Exchange a cartridge, which must be in no drive, for a new one of that size."""

    @abstractmethod
    def behind(self, record: bytes) -> memoryview:
        """The record, such that the driver writes it only after `write` has returned.

        In variable mode `st` does so with memory that it cannot hand to the host adapter. An error
        is then told by the next call, whichever that is.
        """


class FakeStation(Station):
    """The double: see `tapestream.testing.drive`.

    Attributes:
        drives: The two drives, for what only a double can do.
        shelf: All cartridges, also those in a drive.
    """

    path = "/dev/nst0"
    second_path = "/dev/nst1"

    def __init__(self, resets: Resets = Resets.FORGOTTEN) -> None:
        super().__init__()
        self.resets = resets
        self.drives = (FakeDrive(resets=resets), FakeDrive(resets=resets))
        self.shelf: dict[str, Cartridge] = {}
        for name in CARTRIDGES:
            self.blank(name)
        self.load("T0001")

    def _open_device(self, path: str, *, read_only: bool) -> TapeDevice:
        if path not in (self.path, self.second_path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return self.drives[path == self.second_path].open(path, read_only=read_only)

    def load(self, name: str, drive: int = 0) -> None:
        self.drives[drive].load(self.shelf[name])

    def eject(self, drive: int = 0) -> None:
        self.drives[drive].eject()

    def protect(self, name: str, on: bool = True) -> None:
        self.shelf[name].protected = on

    def fail(self, operation: Fault, nth: int = 1, drive: int = 0) -> None:
        self.drives[drive].fail(operation, nth)

    def fast_eod(self) -> None:
        for drive in self.drives:
            drive.fast_eod = True

    def reset(self, drive: int = 0) -> None:
        self.drives[drive].power_cycle()

    def move(self, block: int, drive: int = 0) -> None:
        self.drives[drive].move(block)

    def blank(
        self, name: str, capacity: int = CAPACITY, early_warning: int = EARLY_WARNING
    ) -> None:
        self.shelf[name] = Cartridge(capacity, early_warning, name=name)

    def behind(self, record: bytes) -> memoryview:
        for drive in self.drives:
            drive.write_behind = True
        return memoryview(record)


class MachineStation(Station):
    """The real driver in the virtual machine of `tests/tape/vm`; its `tapectl` is the operator."""

    socket = "/run/tape-vm.sock"
    may_reset = True

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.second_path = path.replace("nst0", "nst1")
        self._prepare()
        device = StDevice(path)
        try:
            device.command(Command.REWIND)
            device.command(Command.SET_BLOCK_SIZE, 0)
            if self.has_operator:
                self.resets = self._try_reset(device)
        finally:
            device.close()

    def _try_reset(self, device: TapeDevice) -> Resets:
        """What the driver of this kernel does: its number does not tell what was ported back."""
        self.reset()
        for _ in range(2):
            found = Resets.FORGOTTEN
            try:
                device.position()
            except OSError:
                found = Resets.REMEMBERED
        device.command(Command.REWIND)
        return found

    def _prepare(self) -> None:
        self._operate("fresh", CAPACITY, EARLY_WARNING)
        self.load("T0001")
        self._set_fast_eod(_CLEAR_BOOLEANS)

    def _open_device(self, path: str, *, read_only: bool) -> TapeDevice:
        return StDevice(path, read_only=read_only)

    def load(self, name: str, drive: int = 0) -> None:
        self._operate("load", drive, name)

    def eject(self, drive: int = 0) -> None:
        self._operate("eject", drive)

    def protect(self, name: str, on: bool = True) -> None:
        self._operate("protect", name, "on" if on else "off")

    def fail(self, operation: Fault, nth: int = 1, drive: int = 0) -> None:
        self._operate("fail", drive, operation, nth)

    def fast_eod(self) -> None:
        self.needs_operator()  # and to be root
        self._set_fast_eod(_SET_BOOLEANS)

    def _set_fast_eod(self, how: int) -> None:
        fd = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)
        try:
            fcntl.ioctl(fd, _MTIOCTOP, struct.pack("@hi", _MTSETDRVBUFFER, how | _FAST_MTEOM))
        finally:
            os.close(fd)

    def reset(self, drive: int = 0) -> None:
        assert self.may_reset, "kernels differ in this: mark the test every_kernel"
        self._operate("reset", drive)

    def move(self, block: int, drive: int = 0) -> None:
        self._operate("move", drive, block)

    def blank(
        self, name: str, capacity: int = CAPACITY, early_warning: int = EARLY_WARNING
    ) -> None:
        self._operate("blank", name, capacity, early_warning)

    def behind(self, record: bytes) -> memoryview:
        # An odd address: the driver copies what does not begin at a multiple of 4.
        return memoryview(bytearray(b"\0" + record))[1:]

    def _operate(self, *words: object) -> None:
        self.needs_operator()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.socket)
            client.sendall(" ".join(map(str, words)).encode())
            answer = client.recv(4096).decode()
        assert answer == "ok", answer


class DriveStation(MachineStation):
    """A drive that a user named; nobody is there to handle it."""

    has_operator = False

    def _prepare(self) -> None:
        pass


DOUBLES = {"double": Resets.FORGOTTEN, "newer": Resets.REMEMBERED}


@pytest.fixture(params=[*DOUBLES, pytest.param("drive", marks=pytest.mark.drive)])
def station(request: pytest.FixtureRequest) -> Iterator[Station]:
    """Tape drives with an operator: the double, and where there is one the real driver.

    The double twice: as an older driver, and as a newer one, which remembers a reset.
    """
    if request.param in DOUBLES:
        made: Station = FakeStation(DOUBLES[request.param])
    else:
        path = request.config.getoption("--tape-device")
        if path is None:
            pytest.skip("needs a tape drive: make test-tape has one")
        operated = os.path.exists(MachineStation.socket)
        made = MachineStation(path) if operated else DriveStation(path)
        made.may_reset = not is_shared(request.node)
    yield made
    made.close()
