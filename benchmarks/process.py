"""Runs a contender in a process of its own, and measures it from outside."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from benchmarks.contenders import COMMANDS
from benchmarks.model import KIB, Job, Outcome

ROOT = Path(__file__).parents[1]


class FailedError(Exception):
    """A contender failed, or transferred something else than it should."""


def start(job: Job, compiled: Path, *, pass_fds: Sequence[int] = ()) -> Outcome:
    """Run a job in a fresh process, in the network namespace of this thread.

    Args:
        job: The job.
        compiled: Where Python's compiled files are kept, as those of an installed package are,
            whatever the environment of the benchmark says about them.
        pass_fds: What the process inherits.

    Raises:
        FailedError: The process failed.
    """
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(compiled)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as told:
        told.write(json.dumps(asdict(job)).encode())
        told.seek(0)
        machine, began = _machine_seconds(), time.monotonic()
        process = subprocess.Popen(
            _command(job),
            stdin=told,
            stdout=subprocess.DEVNULL,
            stderr=said,
            cwd=ROOT,
            env=environment,
            pass_fds=pass_fds,
        )
        with _peak(process.pid) as peaks:
            # Not `process.wait`: this says what the process used, and its children.
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise FailedError(f"{job.program} failed:\n{said.read().decode(errors='replace')}")
    return Outcome(
        began=began,
        seconds=seconds,
        cpu=usage.ru_utime + usage.ru_stime,
        machine=_machine_seconds() - machine,
        peak=max(peaks),
    )


def _command(job: Job) -> list[str]:
    module, _, function = job.program.partition(".")
    if module not in COMMANDS:
        return [sys.executable, "-m", "benchmarks.contenders"]
    command: list[str] = getattr(import_module(f"benchmarks.contenders.{module}"), function)(job)
    return command


@contextlib.contextmanager
def _peak(pid: int) -> Iterator[list[int]]:
    """Look again and again at the largest resident set of a process.

    Not `ru_maxrss`, which remembers the process that this one was forked from. A peak only grows,
    so the last look before the end is (almost) the peak.
    """
    peaks = [0]
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.02):
            # A process that has ended has no memory left to show.
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{pid}/status").read_text()
                peaks.extend(int(kib) * KIB for kib in re.findall(r"VmHWM:\s*(\d+)", status))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join()


def _machine_seconds() -> float:
    """What all processes of this machine used so far: the daemon's and qemu-nbd's time, too."""
    first, *_ = Path("/proc/stat").read_text().splitlines()
    user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, first.split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
