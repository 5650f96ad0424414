"""Run one job, read from standard input, and report its outcome on standard output."""

import json
import os
import re
import resource
import sys
import time
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from benchmarks.model import KIB, Job, Outcome


def cpu_seconds() -> float:
    """What this process, and the children it has waited for, used so far."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def machine_seconds() -> float:
    """What all processes of this machine used so far: the daemon's and qemu-nbd's time, too."""
    first, *_ = Path("/proc/stat").read_text().splitlines()
    user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, first.split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def peak_memory() -> int:
    """Largest resident set since this program was started.

    Not `ru_maxrss`, which remembers the process that this one was forked from.
    """
    match = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(match[1]) * KIB if match else 0


def main() -> None:
    job = Job(**json.load(sys.stdin))
    module, _, function = job.program.partition(".")
    program = getattr(import_module(f"benchmarks.contenders.{module}"), function)
    machine, cpu, began = machine_seconds(), cpu_seconds(), time.monotonic()
    peak_of_tool = program(job)
    outcome = Outcome(
        began=began,
        seconds=time.monotonic() - began,
        cpu=cpu_seconds() - cpu,
        machine=machine_seconds() - machine,
        peak=peak_of_tool or peak_memory(),
    )
    json.dump(asdict(outcome), sys.stdout)


if __name__ == "__main__":
    main()
