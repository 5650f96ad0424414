"""The benchmarks run, and check what they transferred; how fast is not a test's business."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import charts, profile, report
from benchmarks.cases import TABLES
from benchmarks.model import GIB, MIB, Outcome
from benchmarks.results import Measured, Row
from benchmarks.targets import TARGETS

ROOT = Path(__file__).parents[1]
NEEDS_QEMU = pytest.mark.skipif(
    shutil.which("qemu-system-x86_64") is None, reason="needs qemu-system-x86_64"
)


@pytest.mark.parametrize(
    ("case", "row"),
    [
        ("backup-fragmented/unix-warm", "curl, whole image"),
        ("backup-small/unix-1000", "a script with imageio's client"),
        ("restore-fragmented", "client.upload"),
        ("import", "import ovirt_imageio.client"),
        ("tape-write/plain", "the same tar into /dev/null"),
        ("tape-read/plain", "the same tar from a file"),
        pytest.param("backup-vm/unix-later", "imageio, one stream", marks=NEEDS_QEMU),
    ],
)
def test_case_runs(case: str, row: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--size=8", f"--work={tmp_path}"]
    result = subprocess.run([*command, case], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
    assert "\ntapestream" in result.stdout
    assert f"\n{row} " in result.stdout


def test_unknown_case() -> None:
    command = [sys.executable, "-m", "benchmarks", "backup-nothing"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 2
    assert "backup-contiguous" in result.stderr


def results(**seconds: float) -> dict[str, Measured]:
    """All tables; each row took a second, or what is given for the label that begins so."""
    measured = {}
    for table in TABLES:
        measured[table.name] = Measured(table.name, 1, "2026-01-01", {})
        for contender in table.contenders:
            took = seconds.get(contender.label.partition(",")[0].replace(" ", "_"), 1.0)
            part = 4 if contender.disk else 1
            outcome = Outcome(0.0, took / part, took / part, took, MIB)
            row = Row(contender.label, contender.x, GIB // part, [outcome])
            measured[table.name].rows[contender.label] = row
    return measured


def test_page_says_what_is_ahead_and_what_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "DOCS", tmp_path)
    monkeypatch.setattr(report, "processors", lambda: 2)
    report.write(results(tapestream=0.5), GIB)
    page = (tmp_path / "performance.md").read_text()
    for line in (
        "| Backup, contiguous disk: unix, fresh | imageio, one stream | at least 1.3x | 2.00x |",
        "| Restore, digests checked: fragmented, gaps joined | the fastest of them | at least 4x |",
        "| Imports of a backup: until the last one, time | import ovirt_imageio.client |",
        "| unix socket, a new qemu-nbd each time | tapestream | 0.00 | 0.50 | 2147 |",
    ):
        assert f"\n{line}" in page
    for table in TABLES:
        assert f"### {table.title}\n" in page
    chart = ElementTree.parse(tmp_path / "charts" / "overview.svg")
    kinds = [shape.get("class") for shape in chart.iter()]
    assert kinds.count("behind") == 1  # in the legend
    assert "| 2.00x | 4.00x | **missed** |" in page


def test_what_it_would_be_if_no_processor_were_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "processors", lambda: 2)
    measured = results(tapestream=0.5)  # and the machine worked for half a second: one of two
    targets = {(target.table, target.measure): target for target in TARGETS}
    for table, wanted in (("restore-contiguous/tls", 4.0), ("line-1gbit/fragmented", None)):
        assert report.never_idle(targets[table, "speed"], measured) == wanted
    assert report.never_idle(targets["import/fresh", "time"], measured) is None
    assert report.never_idle(targets["restore-contiguous/tls", "speed"], {}) is None


def test_page_without_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "DOCS", tmp_path)
    report.write({}, GIB)
    assert "met |" not in (tmp_path / "performance.md").read_text()


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


def test_profile_draws_where_the_time_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "DOCS", tmp_path)
    stacks = [
        charts.Stack("over a unix socket", "tapestream", [0.75, 0.125, 0.0625, 0.0625]),
        charts.Stack("over TLS", "tapestream", [1.5, 0.25, 0.125, 0.125]),
    ]
    profile.write(stacks, ["## Conditions\n"])
    page = (tmp_path / "profile.md").read_text()
    assert (
        "over TLS, tapestream: 2.0 seconds, most of them for digests and TLS](charts/time.svg)"
        in page
    )
    assert page.endswith("## Conditions\n")
    chart = ElementTree.parse(tmp_path / "charts" / "time.svg")
    shapes = [shape for shape in chart.iter() if shape.get("class") == "part1"]
    _, once, twice = [float(shape.attrib["width"]) for shape in shapes]  # the first is the legend
    assert twice == pytest.approx(2 * once, abs=0.1)
    assert "2.0 s" in [shape.text for shape in chart.iter()]
