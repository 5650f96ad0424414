"""Backups of many VMs by several workers, over Dask distributed: each tape drive has one writer.

It needs distributed: `pip install "tapestream[fleet]"`, in the program and in each worker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy

if TYPE_CHECKING:
    from .fleet import BackupJob, Drive, Fleet, Staging
    from .report import FleetReport, JobReport
    from .run import run_fleet
else:
    # The same names again, loaded when first used; tests/test_names.py compares both lists.
    __getattr__, __dir__ = lazy(
        __name__,
        {
            ".fleet": "BackupJob Drive Fleet Staging",
            ".report": "FleetReport JobReport",
            ".run": "run_fleet",
        },
    )

__all__ = [
    "BackupJob",
    "Drive",
    "Fleet",
    "FleetReport",
    "JobReport",
    "Staging",
    "run_fleet",
]
