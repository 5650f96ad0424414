"""Scheduler and worker as the units of docs/fleet.md start them, with the TLS of that page."""

from __future__ import annotations

import importlib
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tapestream import BackupInfo
from tapestream.errors import FleetError
from tapestream.fleet import BackupJob, Fleet, JobReport
from tapestream.tape import Catalog

from ..test_docs import code_blocks
from .drives import open_disk

dask = pytest.importorskip("dask", reason="distributed is not installed")
distributed = pytest.importorskip("distributed", reason="distributed is not installed")
ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "fleet.md"
EXAMPLES = ROOT / "docs" / "examples"


class Services:
    """What systemd does: runs the command of a unit, and again when it has ended."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.url = f"tls://127.0.0.1:{free.getsockname()[1]}"
        self.units = [block.code for block in code_blocks(PAGE, "ini")]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        [certificates] = [each.code for each in code_blocks(PAGE, "sh") if "openssl" in each.code]
        subprocess.run(["sh", "-ec", certificates], cwd=folder, check=True, capture_output=True)
        [config] = [block.code for block in code_blocks(PAGE, "yaml")]
        (folder / "tls.yaml").write_text(config.replace("/etc/dask", str(folder)))

    def start(self, unit: int, instance: str = "") -> None:
        """Run the command of a unit of the page."""
        text = self.units[unit].replace("\\\n", " ")
        [command] = re.findall(r"^ExecStart=/opt/tapestream/bin/dask (.*)$", text, re.MULTILINE)
        for there, here in (
            ("tls://backup.example.com:8786", self.url),
            ("%l", "tape1"),
            ("%i", instance),
        ):
            command = command.replace(there, here)
        name = command.split()[0]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "dask", *command.split()],
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={
                    "PYTHONPATH": ":".join([*sys.path, str(ROOT), str(EXAMPLES)]),
                    "DASK_CONFIG": str(self.folder),
                    "DASK_TEMPORARY_DIRECTORY": str(self.folder),
                },
            )

    def web_pages(self, name: str) -> str:
        """The address of the pages that Dask serves without TLS."""
        log = (self.folder / f"{name}.log").read_text()
        return f"http://{re.findall(r'dashboard at:.*?([0-9.]+:[0-9]+)', log)[-1]}"

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    services = Services(tmp_path)
    before = deepcopy(dask.config.config)
    dask.config.update(dask.config.config, dask.config.collect([str(tmp_path)], env={}))
    yield services
    services.stop()
    dask.config.config.clear()
    dask.config.config.update(before)


def knock(url: str, cafile: Path) -> None:
    """Connect without a certificate."""
    host, port = url.removeprefix("tls://").split(":")
    context = ssl.create_default_context(cafile=cafile)
    context.check_hostname = False
    with (
        socket.create_connection((host, int(port)), timeout=10) as connection,
        context.wrap_socket(connection) as encrypted,
    ):
        encrypted.recv(1)


def connect(services: Services) -> Any:
    host, port = services.url.removeprefix("tls://").split(":")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(ConnectionRefusedError):
            socket.create_connection((host, int(port))).close()
            break
        time.sleep(0.05)
    # A client looks for a lost scheduler as long as this.
    client = distributed.Client(services.url, timeout=5)
    client.wait_for_workers(1, timeout=60)
    return client


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd is not installed")
    files = []
    for name, block in zip(
        ("dask-scheduler.service", "tapestream-drive@nst0.service"),
        code_blocks(PAGE, "ini"),
        strict=True,
    ):
        files.append(tmp_path / name)
        files[-1].write_text(block.code.replace("/opt/tapestream/bin/dask", sys.executable))
    checked = subprocess.run(
        [analyze, "verify", *files], capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def test_jobs_over_tls_go_on_after_the_scheduler_was_lost(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    example = importlib.import_module("fleet")
    folder = services.folder
    drive = example.make_drive(folder / "drive", "TAPE")
    fleet = Fleet(str(folder / "catalog"), {"tape1-nst0": drive})
    jobs = []
    for disk_id in ("one", "two", "three"):
        info = BackupInfo(backup_id="monday", disk_id=disk_id)
        jobs.append(BackupJob(disk_id, (disk_id,), "host", partial(open_disk, info)))

    def lose_scheduler(report: JobReport) -> None:
        services.processes["scheduler"].kill()
        services.processes["scheduler"].wait()

    services.start(0)
    services.start(1, "nst0")
    from tapestream.fleet import run_fleet  # noqa: PLC0415 - it needs distributed

    with connect(services) as client:
        with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
            knock(services.url, folder / "ca.pem")
        for name in ("scheduler", "worker"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(f"{services.web_pages(name)}/health")
        with pytest.raises(FleetError, match=r"the scheduler is lost.*run this again"):
            run_fleet(client, jobs, fleet, on_report=lose_scheduler)
    # Its worker ends, so systemd starts it again.
    services.processes["worker"].wait(30)
    services.start(0)
    services.start(1, "nst0")
    with connect(services) as client:
        report = run_fleet(client, jobs, fleet)
    assert report.failed == ()
    assert report.jobs[0].was_there
    with Catalog(fleet.catalog) as known:
        assert sorted(str(backup.info.disk_id) for backup in known.find()) == [
            "one",
            "three",
            "two",
        ]
