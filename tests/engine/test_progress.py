"""What a copy reports while it runs, and the samples that its result keeps of it."""

from __future__ import annotations

import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tapestream import (
    CopyResult,
    CopySample,
    CopyStatus,
    DiscardSink,
    RawImageSink,
    RawImageSource,
    TarStreamSink,
    copy,
    restore_chain,
    verify,
)
from tapestream.drive.lease import Lease
from tapestream.engine.samples import MAX_SAMPLES, Samples
from tapestream.errors import UsageError
from tapestream.tape import TapeDrive, VolumeRequest
from tapestream.testing import MemorySink, MemorySource
from tapestream.testing.drive import Cartridge, FakeDrive
from tests.disks import noise
from tests.tape.tapes import impatient

KIB, MIB = 1024, 1024**2


class Shown:
    """Keeps every report, and asserts that no two come at the same time."""

    def __init__(self, seconds: float = 0) -> None:
        self.seconds = seconds
        self.reports: list[CopyStatus] = []
        self.updated = 0
        self.busy = threading.Lock()

    def report_status(self, status: CopyStatus) -> None:
        assert self.busy.acquire(blocking=False)
        self.reports.append(status)
        time.sleep(self.seconds)
        self.busy.release()

    @property
    def phases(self) -> list[str]:
        """Each phase once for as long as it lasts."""
        phases: list[str] = []
        for status in self.reports:
            if phases[-1:] != [status.phase]:
                phases.append(status.phase)
        return phases


class Both(Shown):
    """Has what a progress bar has, too."""

    total = 0

    def update(self, n: int) -> None:
        assert self.busy.acquire(blocking=False)
        self.updated += n
        self.busy.release()


def check_samples(result: CopyResult) -> None:
    samples = result.samples
    assert samples[0] == CopySample(0.0, 0, 0.0)
    assert samples[-1][:2] == (result.seconds, result.data_bytes)
    assert len(samples) <= MAX_SAMPLES
    for column in zip(*samples, strict=True):
        assert list(column) == sorted(column)


@pytest.mark.parametrize("kind", [Shown, Both])
def test_the_phases_of_a_copy(kind: type[Shown], tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(noise(MIB))
    shown = kind()
    with RawImageSource(path) as src, RawImageSink(tmp_path / "copy.raw") as dst:
        result = copy(src, dst, buffer_size=4096, progress=shown)
    assert shown.phases == ["extents", "data", "check", "commit"]
    first, last = shown.reports[0], shown.reports[-1]
    assert (first.data_bytes, first.total, first.waited) == (0, 0, 0.0)
    assert (last.data_bytes, last.total) == (MIB, MIB)
    assert last.rate > 0
    assert shown.updated == getattr(shown, "total", 0)
    check_samples(result)


def test_reports_come_while_data_is_moved() -> None:
    """At a limited rate: the copy takes two seconds, and a chunk comes while a report is shown."""
    shown = Both(0.1)
    with MemorySource(noise(2 * MIB)) as src:
        result = copy(src, DiscardSink(), max_rate=MIB, buffer_size=128 * KIB, progress=shown)
    moving = [status for status in shown.reports if status.phase == "data"]
    assert len(moving) >= 2
    assert 0 < moving[-1].data_bytes < 2 * MIB
    assert 0 < moving[-1].rate < 2 * MIB
    assert moving[-1].waited > 0.5  # the sink waits for the limit
    assert len(result.samples) >= 5
    check_samples(result)


class Station:
    """A drive, and an operator who takes a while to load the next tape."""

    def __init__(self, tape: Cartridge) -> None:
        self.fake = FakeDrive(tape)
        self.drive = impatient(TapeDrive("/dev/nst0", open_device=self.fake.open))

    def load(self, request: VolumeRequest) -> None:
        time.sleep(0.3)
        self.fake.swap(Cartridge())

    def back_up(self, size: int, progress: Any) -> CopyResult:
        with (
            MemorySource(noise(size)) as src,
            TarStreamSink(
                self.drive, record_size=64 * KIB, part_size=64 * KIB, on_volume_full=self.load
            ) as dst,
        ):
            return copy(src, dst, progress=progress)


def test_a_wait_for_a_tape() -> None:
    shown = Shown()
    station = Station(Cartridge(400 * KIB, 200 * KIB))
    with station.drive:
        result = station.back_up(600 * KIB, shown)
    assert shown.phases == ["extents", "data", "waiting for tape", "data", "check", "commit"]
    assert shown.reports[-1].waited >= 0.3
    assert result.samples[-1].waited >= 0.3
    check_samples(result)


def test_a_wait_for_a_drive_that_another_backup_has() -> None:
    station = Station(Cartridge())
    has_it = threading.Event()

    def use() -> None:
        with Lease(station.drive):
            has_it.set()
            time.sleep(0.3)

    other = threading.Thread(target=use)
    other.start()
    has_it.wait()
    with station.drive:
        shown = Shown()
        result = station.back_up(64 * KIB, shown)
        other.join()
        assert shown.phases == ["extents", "data", "waiting for drive", "data", "check", "commit"]
        assert result.samples[-1].waited > 0.2
        shown = Shown()
        station.back_up(64 * KIB, shown)
    assert "waiting for drive" not in shown.phases  # nobody has it now


@pytest.mark.parametrize("phase", ["extents", "data", "check", "commit", "waiting for tape"])
def test_an_error_in_a_report_ends_the_copy(phase: str) -> None:
    class Failing:
        def report_status(self, status: CopyStatus) -> None:
            if status.phase == phase:
                raise ZeroDivisionError(phase)

    station = Station(Cartridge(400 * KIB, 200 * KIB))
    with station.drive, pytest.raises(ZeroDivisionError, match=phase):
        station.back_up(600 * KIB, Failing())
    if phase != "waiting for tape":
        dst = MemorySink()
        with MemorySource(noise(64 * KIB)) as src, pytest.raises(ZeroDivisionError, match=phase):
            copy(src, dst, progress=Failing())
        assert dst.state == "aborted"


def test_those_who_pass_the_options_on_report_as_well() -> None:
    disk = noise(64 * KIB)
    for do in (verify, lambda src, **options: restore_chain([src], MemorySink(), **options)):
        shown = Shown()
        with MemorySource(disk) as src:
            do(src, progress=shown)
        assert shown.phases == ["extents", "data", "check", "commit"]


class NoNumber:
    def update(self) -> None: ...


class NoStatus:
    report_status = 5


class OneOfBoth(Shown):
    update = None
    report_status = None  # type: ignore[assignment]


@pytest.mark.parametrize("wrong", [NoNumber(), NoStatus(), OneOfBoth(), {}, Shown, object()])
def test_what_cannot_show_progress(wrong: Any) -> None:
    with pytest.raises(UsageError, match=r"an update\(n\).* or a report_status\(status\)"):
        copy(MemorySource(b""), DiscardSink(), progress=wrong)


@pytest.mark.parametrize("count", [0, 1, 510, 511, 512, 1023, 100_000])
def test_samples_are_thinned_out_evenly(count: int) -> None:
    samples = Samples()
    for i in range(1, count + 1):
        samples.add(CopySample(float(i), i * 10, i / 2))
        assert len(samples.kept) < MAX_SAMPLES
    samples.end(CopySample(count + 0.5, count * 10 + 5, count / 2))
    kept = samples.kept
    assert kept[0] == CopySample(0, 0, 0)
    assert kept[-1] == CopySample(count + 0.5, count * 10 + 5, count / 2)
    assert len(kept) >= min(count + 2, MAX_SAMPLES // 2)
    steps = {b.seconds - a.seconds for a, b in pairwise(kept[:-1])}
    assert len(steps) <= 1


def test_no_value_of_a_sample_decreases() -> None:
    samples = Samples()
    samples.add(CopySample(1.0, 10, 0.5))
    samples.end(CopySample(2.0, 10, 0.4))
    assert samples.kept[-1] == CopySample(2.0, 10, 0.5)
