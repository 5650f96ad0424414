"""The benchmarks run, and check what they transferred; how fast is not a test's business."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import profile

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("case", "row"),
    [
        ("backup-fragmented", "tapestream, no digests"),
        ("restore-fragmented", "client.upload"),
        ("import", "import ovirt_imageio.client"),
        ("tape-write", "the same tar into /dev/null"),
        ("tape-read", "the same tar from a file"),
    ],
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


def test_profile_knows_the_kinds_of_work() -> None:
    shown = """\
          python  1061.750250:      7f1c6f0d3b20 _PyEval_EvalFrameDefault (/lib/libpython3.11.so)
          python  1061.750500:      7f1c6e2a1b20 [unknown] (/lib/x86_64-linux-gnu/libcrypto.so.3)
          python  1061.750750:      7f1c6e2a1b20 [unknown] (/lib/_socket.cpython-311-x86_64.so)
 worker name/1:2  1061.751000:  ffffffff81e0f6b4 _copy_to_iter ([kernel.kallsyms])
        qemu-nbd  1061.751250:  ffffffff81e0f6b4 clear_page_erms ([kernel.kallsyms])
         swapper  1061.751500:  ffffffff81e0f6b4 pv_native_safe_halt ([kernel.kallsyms])
        qemu-nbd  1061.751750:      55d3a3b1c2d0 nbd_trip (/usr/bin/qemu-nbd)

"""
    found = list(profile.samples(shown))
    assert [sample.kind for sample in found] == [
        profile.INTERPRETER,
        profile.CRYPTOGRAPHY,
        profile.INTERPRETER,
        profile.COPYING,
        profile.MEMORY,
        profile.KERNEL,
        profile.REST,
    ]
    assert found[3].process == "worker name/1:2"
    assert found[0].time == 1061.75025
