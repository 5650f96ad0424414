"""Many copies in one process, good ones and failing ones: `python -m tests.faults.soak SPEC`.

The process may open few descriptors and take little memory, and is looked at after each copy: a
copy that left a thread, a descriptor or memory behind ends it.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
from pathlib import Path
from random import Random
from typing import Any

from tapestream import TapestreamError

from ..leftovers import left_over, open_files
from .job import JOBS, Gate, Spec, set_limit, virtual_memory
from .world import MIB

# The jobs need some at the same time: buffers, connections, threads' stacks.
MOST_FILES = 40
MOST_MEMORY = 768 * MIB
# What the process may keep after the first copies, which fill caches.
GROWTH = 24 * MIB
WARM_UP = 30


class StopError(Exception):
    """What a progress raises to give a copy up."""


class Stopping(Gate):
    """A progress that gives up in the middle."""

    def update(self, n: int) -> None:
        super().update(n)
        if self.done > 4 * MIB:
            raise StopError


def soak(specs: list[Spec], number: int, seed: int) -> dict[str, Any]:
    """Run so many copies, a fifth of which fail; what came of them."""
    random = Random(seed)
    set_limit(resource.RLIMIT_NOFILE, len(open_files()) + MOST_FILES)
    set_limit(resource.RLIMIT_AS, virtual_memory() + MOST_MEMORY)
    before, resident = open_files(), 0
    ends = {"done": 0, "stopped": 0, "failed": 0}
    for turn in range(number):
        spec = random.choice(specs)
        fails = random.random() < 0.2
        gate = Stopping(None) if fails and random.random() < 0.5 else Gate(None)
        if fails and not isinstance(gate, Stopping):
            spec = _broken(spec)
        try:
            JOBS[spec["job"]](spec, gate)
            ends["done"] += 1
        except StopError:
            ends["stopped"] += 1
        except TapestreamError:
            if not fails:
                raise
            ends["failed"] += 1
        if left := left_over(before):
            raise AssertionError(f"after copy {turn}, {spec['job']}: {left}")
        if turn == WARM_UP:
            resident = _resident()
        elif turn > WARM_UP and _resident() > resident + GROWTH:
            raise AssertionError(f"the process grew from {resident} to {_resident()} bytes")
    return {**ends, "resident": _resident()}


def _broken(spec: Spec) -> Spec:
    """The same copy with tickets that do not exist, and backups that are cut."""
    broken = dict(spec)
    for name in ("source_url", "target_url"):
        if name in broken:
            broken[name] = broken[name].rpartition("/")[0] + "/no-such-ticket"
    if "source_url" not in broken:
        broken["tar"] = broken["cut_tar"]
        broken["tars"] = [broken["cut_tar"], *spec["tars"][1:]]
    return broken


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> None:
    given = json.loads(sys.argv[1])
    with contextlib.redirect_stdout(sys.stderr):
        result = soak(given["specs"], given["number"], given["seed"])
    print(json.dumps(result))


if __name__ == "__main__":
    main()
