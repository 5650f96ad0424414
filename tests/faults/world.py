"""The real parts that a job works with: disks, backups of them, a daemon, qemu-nbd, a proxy."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from typing_extensions import Self

from tapestream import BackupInfo, ImageioHTTPSource, TarStreamSink, copy
from tapestream.testing import ImageioDaemon, ImageServer, create_image, write_pattern

from .judge import raw_of
from .proxy import Proxy

MIB = 1024**2
DISK_SIZE = 24 * MIB
BITMAP = "c1"
# A daemon that lost its connections still waits for the last of them.
REMOVE_SECONDS = 20


@dataclass(frozen=True)
class Templates:
    """What is made once: a disk on two days, as images and as backups.

    Attributes:
        sunday: The disk on Sunday, a raw image.
        monday: The disk on Monday.
        disk: The disk on Monday as a qcow2 image, whose bitmap tells what changed.
        full: A tar of Sunday.
        incremental: A tar of Monday.
    """

    sunday: Path
    monday: Path
    disk: Path
    full: Path
    incremental: Path

    @classmethod
    def make(cls, directory: Path, daemon: ImageioDaemon) -> Templates:
        """Make them with the qemu tools, and the tars by copies that nothing happens to."""
        self = cls(*(directory / name for name in ("sunday", "monday", "qcow2", "full", "inc")))
        random = Random(1)
        noise = directory / "noise"
        noise.write_bytes(random.randbytes(8 * MIB))
        create_image(self.disk, DISK_SIZE)
        # Large stretches, many small ones, zeros that are written, and holes.
        writes = [f"write -s {noise} 0 6M", "write -P 7 9M 4M", "write -z 10M 1M"]
        writes += [f"write -P {n % 250 + 1} {14 * 1024 + 128 * n}k 64k" for n in range(60)]
        write_pattern(self.disk, writes)
        raw_of(self.disk, self.sunday)
        self._back_up(daemon, self.full, BackupInfo(checkpoint_id="c1", disk_id="d"))
        subprocess.run(["qemu-img", "bitmap", "--add", str(self.disk), BITMAP], check=True)
        changes = ["write -P 9 1M 2M", "write -z 5M 512k", f"write -s {noise} 20M 3M"]
        changes += [f"write -P {n % 250 + 1} {14 * 1024 + 256 * n}k 32k" for n in range(20)]
        write_pattern(self.disk, changes)
        raw_of(self.disk, self.monday)
        info = BackupInfo(checkpoint_id="c2", parent_checkpoint_id="c1", disk_id="d")
        self._back_up(daemon, self.incremental, info)
        return self

    def _back_up(self, daemon: ImageioDaemon, tar: Path, info: BackupInfo) -> None:
        is_incremental = info.parent_checkpoint_id is not None
        with ImageServer(self.disk, bitmap=BITMAP if is_incremental else None) as server:
            url = daemon.add_ticket(server.url, DISK_SIZE, dirty=is_incremental)
            with (
                ImageioHTTPSource(
                    url,
                    cafile=daemon.cafile,
                    info=info,
                    context="dirty" if is_incremental else "zero",
                ) as source,
                TarStreamSink(tar) as sink,
            ):
                copy(source, sink)
            daemon.remove_ticket(url)


@dataclass
class Side:
    """A transfer: the image, the qemu-nbd that serves it, and the ticket."""

    server: ImageServer
    dirty: bool
    writable: bool
    ticket_id: str = ""


@dataclass
class World:
    """What one job works with, and what can happen to it.

    Attributes:
        directory: Where the job's own files are.
        daemon: The daemon, shared by all jobs of a run.
        proxy: The way to it over TLS.
        sides: The transfers of this job.
    """

    directory: Path
    daemon: ImageioDaemon
    proxy: Proxy
    sides: list[Side] = field(default_factory=list)
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.proxy.heal()
        with contextlib.suppress(RuntimeError, ProcessLookupError):
            os.kill(self.daemon.pid, signal.SIGCONT)
        for side in self.sides:
            side.server.kill()  # nobody wants what it has cached
        self._stack.close()

    def serve(self, image: Path, *, writable: bool = False, dirty: bool = False) -> str:
        """Start a transfer of an image; its URL by way of the proxy."""
        bitmap = BITMAP if dirty else None
        server = ImageServer(image, read_only=not writable, bitmap=bitmap)
        self._stack.enter_context(server)
        side = Side(server, dirty, writable)
        self.sides.append(side)
        self._add_ticket(side)
        return f"https://127.0.0.1:{self.proxy.port}/images/{side.ticket_id}"

    def fifo(self, target: Path, most: int | None) -> tuple[Path, subprocess.Popen[bytes]]:
        """A fifo whose reader writes what comes into a file, or only so many bytes of it."""
        path = self.directory / "fifo"
        os.mkfifo(path)
        command = ["cat"] if most is None else ["head", "-c", str(most)]
        with target.open("wb") as file:
            reader = subprocess.Popen([*command, str(path)], stdout=file)
        self._stack.callback(_end, reader)
        return path, reader

    def small_disk(self, path: Path, size: int) -> None:
        """Let a directory have only so many bytes."""
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], check=True
        )
        self._stack.callback(subprocess.run, ["umount", "-l", str(path)], check=True)

    # --- What can happen ---

    def kill_daemon(self) -> None:
        """The daemon is gone for good."""
        self.daemon.kill()

    def restart_daemon(self, pause: float = 0.3) -> None:
        """The daemon dies, and comes back with its tickets."""
        self.daemon.kill()
        time.sleep(pause)
        self.daemon.start()
        for side in self.sides:
            self._add_ticket(side)

    def stop_daemon(self, seconds: float) -> None:
        """The daemon does nothing for so long."""
        _pause(self.daemon.pid, seconds)

    def kill_nbd(self) -> None:
        """A qemu-nbd is gone for good."""
        self.sides[-1].server.kill()

    def restart_nbd(self, pause: float = 0.3) -> None:
        """A qemu-nbd dies, and comes back without what was not flushed."""
        self.sides[-1].server.kill()
        time.sleep(pause)
        self.sides[-1].server.start()

    def stop_nbd(self, seconds: float) -> None:
        """A qemu-nbd does nothing for so long."""
        _pause(self.sides[-1].server.pid, seconds)

    def remove_tickets(self) -> None:
        """The transfers are cancelled."""
        for side in self.sides:
            self.daemon.remove_ticket(f"/images/{side.ticket_id}")

    def readd_tickets(self) -> None:
        """The tickets are lost, and given again."""
        self.remove_tickets()
        for side in self.sides:
            self._add_ticket(side)

    def _add_ticket(self, side: Side) -> None:
        url = self.daemon.add_ticket(
            side.server.url,
            DISK_SIZE,
            ops=["read", "write"] if side.writable else ["read"],
            dirty=side.dirty,
            ticket_id=side.ticket_id or None,
        )
        side.ticket_id = url.rpartition("/")[2]


def _pause(pid: int, seconds: float) -> None:
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(seconds)
    finally:
        os.kill(pid, signal.SIGCONT)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def is_root() -> bool:
    """True where a small disk can be mounted."""
    return os.geteuid() == 0 and shutil.which("mount") is not None
