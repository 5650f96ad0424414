"""Back up a fleet of VMs on this machine: several workers, of which some are killed.

Usage: fleet.py [VMS [KILLS]]

The server is a real imageio daemon, the scheduler and the workers are real processes of Dask
distributed. The tape drives are simulated: each is kept in a file, so that it outlives the process
of its worker, and the lock of that file is its exclusive open.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pickle
import random
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from distributed import Client, LocalCluster

from tapestream import BackupInfo, ImageioHTTPSource, Source
from tapestream.fleet import (
    BackupJob,
    Drive,
    Fleet,
    FleetReport,
    JobReport,
    Staging,
    run_fleet,
)
from tapestream.tape import Catalog, Command, DeviceStatus, TapeDevice, TapeDrive
from tapestream.testing import (
    Cartridge,
    FakeDrive,
    ImageioDaemon,
    serve_image,
)

MIB = 1024**2
SIZE, DATA = 2 * MIB, 64 * 1024
DRIVES = "drive-0", "drive-1"
RESOURCES = {"drive-0": "tape=1", "drive-1": "tape=1", "folder-0": "staging=2"}
HOSTS = 4


class KeptDevice(TapeDevice):
    """A device of a simulated drive that is kept in a file, as of the last filemark or close."""

    def __init__(self, file: str, *, read_only: bool) -> None:
        self._file = file
        self._lock = os.open(f"{file}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise OSError(errno.EBUSY, "the drive is in use") from None
        self._drive: FakeDrive = pickle.loads(Path(file).read_bytes())
        self._drive.in_use = False  # the worker that had it may have been killed
        self._device: TapeDevice = self._drive.open(file, read_only=read_only)

    def write(self, record: memoryview) -> int:
        """See `TapeDevice`."""
        return self._device.write(record)

    def readinto(self, buffer: memoryview) -> int:
        """See `TapeDevice`."""
        return self._device.readinto(buffer)

    def command(self, command: Command, count: int = 1) -> None:
        """See `TapeDevice`."""
        self._device.command(command, count)
        if command is Command.WRITE_FILEMARKS:
            self._keep()

    def status(self) -> DeviceStatus:
        """See `TapeDevice`."""
        return self._device.status()

    def position(self) -> int:
        """See `TapeDevice`."""
        return self._device.position()

    def close(self) -> None:
        """Close the device, and keep what is on the tape."""
        self._device.close()
        self._keep()
        os.close(self._lock)

    def _keep(self) -> None:
        new = Path(f"{self._file}.new")
        new.write_bytes(pickle.dumps(self._drive))
        new.rename(self._file)


def open_device(path: str, *, read_only: bool = False) -> TapeDevice:
    """Open the simulated drive in a file."""
    return KeptDevice(path, read_only=read_only)


def open_drive(path: str) -> TapeDrive:
    """Open the drive of a worker."""
    return TapeDrive(path, open_device=open_device)


def open_disks(
    urls: dict[str, str], cafile: str, backup_id: str
) -> Iterator[tuple[Source, dict[str, bytes]]]:
    """Open the disks of a VM, on a worker: their transfers by the ids of the disks."""
    for disk_id, url in urls.items():
        info = BackupInfo(disk_id=disk_id, backup_id=backup_id)
        with ImageioHTTPSource(url, cafile=cafile, info=info) as source:
            yield source, {}


class Workers:
    """Worker processes; each is started again when it was killed, as systemd does it."""

    def __init__(self, scheduler: str, log: Path) -> None:
        self._scheduler = scheduler
        self._log = log
        self._processes = {name: self._start(name) for name in RESOURCES}

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        options = ["--name", name, "--resources", RESOURCES[name], "--nthreads", "2"]
        # The memory of a backup is bounded by `copy` itself; systemd starts a lost worker again.
        options += ["--no-nanny", "--memory-limit", "0", "--no-dashboard"]
        command = [sys.executable, "-m", "distributed.cli.dask_worker", self._scheduler, *options]
        with self._log.open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, cwd=self._log.parent)

    def kill(self, name: str) -> None:
        """Kill a worker, and start it again."""
        self._processes[name].kill()
        self._processes[name].wait()
        self._processes[name] = self._start(name)

    def stop(self) -> None:
        """End all workers."""
        for process in self._processes.values():
            process.kill()
            process.wait()


def kill_some(workers: Workers, count: int, ended: threading.Event) -> None:
    """Kill workers at random moments."""
    rng = random.Random(1)
    for _ in range(count):
        if ended.wait(rng.uniform(1.0, 4.0)):
            return
        workers.kill(rng.choice(list(RESOURCES)))


def make_drive(file: Path, label: str) -> Drive:
    """Make a simulated drive with a labelled tape."""
    file.write_bytes(pickle.dumps(FakeDrive(Cartridge(capacity=4096 * MIB))))
    with open_drive(str(file)) as tape:
        tape.write_label(label)
    return Drive(str(file), open_drive)


class Lines:
    """Prints a line for each job that has ended."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._ended = 0

    def __call__(self, job: JobReport) -> None:
        """Print the line."""
        self._ended += 1
        print(f"{self._ended} of {self._jobs}: {job.name}: {job.result}", flush=True)


def run(work: Path, vms: int, kills: int) -> FleetReport:
    """Back up that many VMs while that many workers are killed; check what the catalog has."""
    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(ImageioDaemon(work / "daemon"))
        disks = []
        for number in range(HOSTS):
            image = work / f"{number}.raw"
            image.write_bytes(random.Random(number).randbytes(DATA))
            os.truncate(image, SIZE)
            disks.append(stack.enter_context(serve_image(image, format="raw")))
        jobs = []
        for number in range(vms):
            vm = f"vm{number}"
            urls = {
                f"{vm}-{disk}": daemon.add_ticket(image, SIZE, timeout=3600)
                for disk, image in zip(
                    ("boot", "data"), (disks[number % HOSTS], disks[0]), strict=True
                )
            }
            opened = partial(open_disks, urls, str(daemon.cafile), vm)
            jobs.append(
                BackupJob(f"tonight {vm}", tuple(urls), f"host-{number % HOSTS}", opened, vm)
            )
        (work / "staging").mkdir()
        fleet = Fleet(
            catalog=str(work / "catalog.sqlite"),
            drives={name: make_drive(work / name, f"TAPE{i}") for i, name in enumerate(DRIVES)},
            staging={"folder-0": Staging(str(work / "staging"), DRIVES)},
            jobs_per_host=2,
        )
        # Only the scheduler: the workers are processes that can be killed.
        cluster = stack.enter_context(
            LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=None)
        )
        client = stack.enter_context(Client(cluster.scheduler_address))
        workers = Workers(cluster.scheduler_address, work / "workers.log")
        stack.callback(workers.stop)
        client.wait_for_workers(len(RESOURCES), timeout=30)
        ended = threading.Event()
        killer = threading.Thread(target=kill_some, args=(workers, kills, ended))
        killer.start()
        try:
            report = run_fleet(client, jobs, fleet, on_report=Lines(len(jobs)))
        finally:
            ended.set()
            killer.join()
        with Catalog(fleet.catalog) as catalog:
            found = Counter(str(backup.info.disk_id) for backup in catalog.find())
        wanted = Counter(disk_id for job in jobs for disk_id in job.disk_ids)
        assert found == wanted, f"lost: {wanted - found}, there twice: {found - wanted}"
        return report


def main() -> None:
    """Run it, and show the report."""
    vms, kills = (int(text) for text in (sys.argv[1:] + ["8", "1"][len(sys.argv) - 1 :]))
    with tempfile.TemporaryDirectory(prefix="tapestream-fleet-") as work:
        report = run(Path(work), vms, kills)
    print(report.table(), end="")
    lost = sum(job.lost for job in report.jobs)
    print(f"{sum(job.staged for job in report.jobs)} by a folder; {lost} times a worker was lost")
    assert not report.failed


if __name__ == "__main__":
    main()
