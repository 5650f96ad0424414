"""A failure that stays says what it may be, and what to look at."""

from __future__ import annotations

import logging
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tapestream import BackupInfo, ImageioHTTPSource, ImageioUploadSink, copy
from tapestream.errors import ServerError, TicketError
from tapestream.imageio.retry import Tries
from tapestream.testing import ImageioDaemon, ImageServer, MemorySink, create_image, write_pattern
from tests.disks import noise
from tests.hostile import Fault, HostileServer, Stall, Status
from tests.imageio.support import FOREVER, KIB, MIB, always, asked, download

SIZE = 8 * MIB
BAD = 5 * MIB
INFO = BackupInfo(disk_name="db_Disk1", disk_id="id")


def test_a_vm_that_died(daemon: ImageioDaemon, tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    large = 64 * MIB  # more than can be on its way when the first of it is written
    create_image(path, large)
    write_pattern(path, [f"write -P 3 0 {large}"])
    with ImageServer(path) as disk:
        url = daemon.add_ticket(disk.url, large)

        def die(start: int, length: int) -> None:
            if start == 0:
                disk.kill()

        with (
            ImageioHTTPSource(url, cafile=daemon.cafile, retries=2, info=INFO) as source,
            pytest.raises(ServerError) as caught,
        ):
            copy(
                source,
                MemorySink(before_write=die),
                max_workers=1,
                buffer_size=MIB,
                buffer_memory=4 * MIB,
            )
    says = str(caught.value)
    assert "cannot open the disk" in says
    assert "whether the VM was switched off or died" in says
    assert "disk db_Disk1" in says
    assert "tried 3 times from" in says


@contextmanager
def bad_sector(path: Path, sock: Path) -> Iterator[str]:
    """Serve a raw image, of which one sector cannot be read."""
    options = (
        "driver=raw,file.driver=blkdebug,file.image.driver=file"
        f",file.image.filename={path},file.inject-error.0.event=none"
        f",file.inject-error.0.iotype=read,file.inject-error.0.sector={BAD // 512}"
    )
    command = ["qemu-nbd", "--persistent", "--shared=8", "--read-only", f"--socket={sock}"]
    process = subprocess.Popen([*command, "--image-opts", options], stdin=subprocess.DEVNULL)
    try:
        while not sock.exists():
            assert process.poll() is None
            time.sleep(0.01)
        yield f"nbd:unix:{sock}"
    finally:
        process.terminate()
        process.wait()


def test_a_bad_sector(daemon: ImageioDaemon, tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(noise(SIZE))
    with (
        bad_sector(path, tmp_path / "nbd") as nbd_url,
        ImageioHTTPSource(
            daemon.add_ticket(nbd_url, SIZE), cafile=daemon.cafile, retries=2, info=INFO
        ) as source,
        pytest.raises(ServerError) as caught,
    ):
        copy(source, MemorySink(), max_workers=1, buffer_size=MIB)
    says = str(caught.value)
    assert "error of the storage" in says
    assert "disk db_Disk1" in says
    found = re.search(r"bytes (\d+) to (\d+)", says)
    assert found is not None
    assert int(found[1]) <= BAD < int(found[2])


def test_a_backup_that_was_cancelled(daemon: ImageioDaemon, tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    create_image(path, SIZE)
    write_pattern(path, [f"write -P 3 0 {SIZE}"])
    with ImageServer(path) as disk:
        url = daemon.add_ticket(disk.url, SIZE)
        with ImageioHTTPSource(url, cafile=daemon.cafile, info=INFO) as source:
            source.extents()
            daemon.remove_ticket(url)
            with pytest.raises(TicketError, match="finalized or left idle"):
                copy(source, MemorySink())


def test_a_ticket_that_ended_while_the_server_failed() -> None:
    """The failure is asked about once more: it was not the storage."""

    def gone(n: int) -> Fault | None:
        return Status(403) if n > 1 else None

    with (
        HostileServer(noise(KIB), on_get=always(Status(500)), on_options=gone) as server,
        pytest.raises(TicketError),
    ):
        download(server, MemorySink(), retries=1)


def test_a_server_that_is_only_slow() -> None:
    with (
        HostileServer(noise(KIB), on_get=always(Stall(None, FOREVER))) as server,
        pytest.raises(ServerError, match="timeouts"),
    ):
        download(server, MemorySink(), retries=1, read_timeout=0.2)


def test_a_disk_that_cannot_be_opened_is_not_asked_for_once_more() -> None:
    with HostileServer(noise(KIB), on_options=always(Status(500, "check logs"))) as server:
        with pytest.raises(ServerError, match="cannot open the disk"):
            ImageioUploadSink(server.url, secure=False, retries=1)
        assert len(asked(server, "OPTIONS")) == 2


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def test_a_server_that_is_slow_is_warned_of_after_its_first_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with (
        HostileServer(noise(KIB), on_get=always(Stall(None, FOREVER))) as server,
        pytest.raises(ServerError),
    ):
        download(server, MemorySink(), retries=2, read_timeout=0.1)
    (text,) = warned(caplog)
    assert text.endswith("the server did not answer in time; trying again, up to 2 times")


def test_failures_that_go_on_are_warned_of_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download_in_vain() -> None:
        with (
            HostileServer(noise(KIB), on_get=always(Status(500))) as server,
            pytest.raises(ServerError),
        ):
            download(server, MemorySink(), retries=4)

    download_in_vain()
    assert warned(caplog) == []  # it was over in a moment
    monkeypatch.setattr(Tries, "short", 0.004)  # the tests' pauses: 1, 2, 4 and 8 ms
    download_in_vain()
    (text,) = warned(caplog)
    assert re.search("trying again, up to [2-4] times", text)
