"""Some hundred copies in one process that may take little."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tapestream.testing import ImageioDaemon, create_image

from .matrix import JOBS, RETRIES
from .proxy import Proxy
from .world import DISK_SIZE, Templates, World

COPIES = int(os.environ.get("SOAK_COPIES", "150"))


def test_many_copies_leave_nothing_behind(tmp_path: Path, daemon: ImageioDaemon) -> None:
    (tmp_path / "templates").mkdir()
    templates = Templates.make(tmp_path / "templates", daemon)
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(lambda: daemon.port))
        world = stack.enter_context(World(tmp_path, daemon, proxy))
        specs = [_spec(world, templates, job, unix=unix) for job in _JOBS for unix in (True, False)]
        given = {"specs": specs, "number": COPIES, "seed": 1}
        done = subprocess.run(
            [sys.executable, "-X", "faulthandler", "-m", "tests.faults.soak", json.dumps(given)],
            capture_output=True,
            text=True,
            check=False,
            timeout=280,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    ends = json.loads(done.stdout)
    assert ends["done"] + ends["stopped"] + ends["failed"] == COPIES
    assert min(ends["done"], ends["stopped"], ends["failed"]) > 0


# A fifo has no reader for each copy here.
_JOBS = [name for name in JOBS if name not in ("backup_pipe", "compare_live")]


def _spec(world: World, templates: Templates, name: str, *, unix: bool) -> dict[str, Any]:
    job = JOBS[name]
    directory = world.directory / f"{name}-{unix}"
    directory.mkdir()
    cut = directory / "cut.tar"
    cut.write_bytes(templates.full.read_bytes()[: 3 * 1024**2])
    spec: dict[str, Any] = {
        "job": name,
        "cafile": str(world.daemon.cafile),
        "unix": unix,
        "timeout": 20,
        "retries": RETRIES,
        "target": str(directory / "result"),
        "tar": str(templates.full),
        "tars": [str(templates.full), str(templates.incremental)],
        "cut_tar": str(cut),
        "image": str(templates.monday),
    }
    if job.reads:
        disk = directory / "disk.qcow2"
        shutil.copyfile(templates.disk, disk)
        spec["source_url"] = world.serve(disk, dirty=name == "backup_incremental")
    if job.writes:
        restored = directory / "restored.qcow2"
        create_image(restored, DISK_SIZE)
        spec["target_url"] = world.serve(restored, writable=True)
    return spec
