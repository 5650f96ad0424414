"""Imports in a fresh interpreter."""

from __future__ import annotations

import os
import subprocess
import sys

from benchmarks.model import Job


def fresh(job: Job) -> None:
    """Run some code several times, each in an interpreter of its own.

    Python's compiled files are kept, as those of an installed package are, whatever the environment
    of the benchmark says about them.
    """
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": job.target}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    for _ in range(job.options["times"]):
        subprocess.run([sys.executable, "-c", job.options["code"]], env=environment, check=True)
