"""What goes wrong after the filemark of a backup is written does not make it fail: it is there."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

import pytest

from tapestream import TarStreamSink, copy
from tapestream.errors import LocalIOError
from tapestream.tape import Catalog, TapeDrive
from tapestream.tape.volumes import closed_when_unused
from tapestream.testing.drive import Cartridge, FakeDevice, FakeDrive, Operation
from tapestream.testing.memory import MemorySource

DISK = bytes(range(256)) * 4096


class Failing(FakeDrive):
    """A drive that fails at what comes first after the filemark of a backup."""

    armed = False
    then: Operation = "position"

    def write_filemarks(self, count: int) -> None:
        super().write_filemarks(count)
        if self.armed:
            self.armed = False
            self.fail(self.then)


def drive_with(then: Operation) -> Failing:
    drive = Failing(Cartridge())
    drive.then = then
    with TapeDrive("/dev/nst0", open_device=drive.open) as tape:
        tape.write_label("T1")
    drive.armed = True
    return drive


def test_the_position_cannot_be_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    drive = drive_with("position")
    with TapeDrive("/dev/nst0", open_device=drive.open) as tape:
        for _ in range(2):  # the next one finds its place
            with MemorySource(DISK) as source, TarStreamSink(tape) as sink:
                result = copy(source, sink)
            assert result.receipt is not None
        assert len(tape.find()) == 2
    assert "wrote a filemark, but cannot tell the position" in caplog.text


def test_the_device_cannot_be_closed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One that is closed at the end of a turn, as one that the sink has opened itself."""
    drive = FakeDrive(Cartridge())
    target = closed_when_unused(TapeDrive("/dev/nst0", open_device=drive.open))
    close = FakeDevice.close

    def fails(device: FakeDevice) -> None:
        close(device)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(FakeDevice, "close", fails)
    with MemorySource(DISK) as source, TarStreamSink(target) as sink:
        copy(source, sink)
    monkeypatch.undo()
    assert "could not be closed cleanly" in caplog.text
    with TapeDrive("/dev/nst0", open_device=drive.open) as tape:
        assert len(tape.find()) == 1


def test_the_catalog_cannot_be_written(tmp_path: Path) -> None:
    drive = FakeDrive(Cartridge())
    with TapeDrive("/dev/nst0", open_device=drive.open) as tape:
        tape.write_label("T1")
        with MemorySource(DISK) as source, TarStreamSink(tape) as sink:
            result = copy(source, sink)
        assert result.receipt is not None
        path = tmp_path / "catalog"
        with Catalog(path) as catalog:
            with sqlite3.connect(path) as other:
                other.execute("DROP TABLE volume")
            with pytest.raises(
                LocalIOError, match=r"The backup itself is complete: .*Catalog\.scan"
            ):
                catalog.add(result.receipt)
            other.close()


def test_the_filemark_itself_fails() -> None:
    """Then it is not there."""
    drive = FakeDrive(Cartridge())
    with (
        TapeDrive("/dev/nst0", open_device=drive.open) as tape,
        MemorySource(DISK) as source,
        TarStreamSink(tape) as sink,
    ):
        drive.fail("filemark")
        with pytest.raises(LocalIOError, match="cannot write a filemark"):
            copy(source, sink)
