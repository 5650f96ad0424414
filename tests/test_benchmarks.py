"""The benchmarks run, and check what they transferred; how fast is not a test's business."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("case", "row"),
    [("backup-fragmented", "tapestream, no digests"), ("restore-fragmented", "client.upload")],
)
def test_case_runs(case: str, row: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--size=8", f"--work={tmp_path}"]
    result = subprocess.run([*command, case], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
    assert "\ntapestream " in result.stdout
    assert f"\n{row} " in result.stdout


def test_unknown_case() -> None:
    command = [sys.executable, "-m", "benchmarks", "backup-nothing"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 2
    assert "backup-contiguous" in result.stderr
