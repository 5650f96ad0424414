"""A tape device that does something before each call, and then hands the call on to another one."""

from __future__ import annotations

from collections.abc import Callable

from tapestream.drive.device import Command, DeviceStatus, TapeDevice

from .stations import Station

# Gets the name of a call, or of a command. Before a write it may return how many bytes of the
# record are to be written.
Before = Callable[[str], "int | None"]


class WatchedDevice(TapeDevice):
    """A device that is watched.

    Args:
        device: Gets every call.
        before: Called before each, also before it is closed.
    """

    def __init__(self, device: TapeDevice, before: Before) -> None:
        self.device = device
        self._before = before

    def write(self, record: memoryview) -> int:
        return self.device.write(record[: self._before("write")])

    def readinto(self, buffer: memoryview) -> int:
        self._before("read")
        return self.device.readinto(buffer)

    def command(self, command: Command, count: int = 1) -> None:
        self._before(command.name)
        self.device.command(command, count)

    def status(self) -> DeviceStatus:
        self._before("status")
        return self.device.status()

    def position(self) -> int:
        self._before("position")
        return self.device.position()

    def close(self) -> None:
        self._before("close")
        self.device.close()


class Interrupted:
    """Opens devices, and lets something happen right before a call to one of them.

    Attributes:
        happened: It has.
    """

    def __init__(self, station: Station, event: Callable[[], object]) -> None:
        self.happened = False
        self._open = station.open_device
        self._left = 0
        self._event = event

    def __call__(self, path: str, *, read_only: bool) -> TapeDevice:
        return WatchedDevice(self._open(path, read_only=read_only), self._before)

    def before(self, nth: int) -> None:
        """Let it happen before the nth call from now."""
        self.happened = False
        self._left = nth

    def _before(self, call: str) -> None:
        if call != "status":  # the driver does not ask the drive
            self.count()

    def count(self) -> None:
        self._left -= 1
        if self._left == 0:
            self.happened = True
            self._event()
