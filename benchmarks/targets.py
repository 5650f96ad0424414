"""What is compared with what, and what we want to come of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.cases import (
    CLIENT,
    CURL,
    FROM_FILE,
    FROM_TAPE,
    GAPS,
    GNU_TAR,
    OURS,
    OURS_ALL,
    OURS_JOINED,
    OURS_PLAIN,
    OURS_VERIFY,
    SCRIPT,
    SHA256SUM,
    STREAM,
    TO_NULL,
    TO_TAPE,
    UPLOAD,
    gap_label,
)
from benchmarks.model import MIB

GROUPS = {
    "contiguous": "Backup, contiguous disk",
    "fragmented": "Backup, fragmented disk",
    "filesystem": "Backup, file system",
    "scattered": "Backup, scattered changes",
}
SHORT_CHANNELS = {"unix": "unix", "tls": "TLS"}


@dataclass(frozen=True)
class Target:
    """A comparison, and what we want to come of it.

    Attributes:
        group: What it is about.
        text: Which of these.
        table: Name of the table.
        label: Our row in it.
        against: The rows to compare with; the best of them counts.
        measure: "speed", "cpu" or "time".
        wanted: At least so many times their speed; at most so many times their CPU seconds or
            time. None where we only want to see it.
    """

    group: str
    text: str
    table: str
    label: str
    against: tuple[str, ...]
    measure: str
    wanted: float | None

    @property
    def wanted_ratio(self) -> float | None:
        """How many times better than the peer that is: "at most 1.25 times as long" is 0.8."""
        if self.wanted is None:
            return None
        return self.wanted if self.measure == "speed" else 1 / self.wanted


@dataclass(frozen=True)
class PeakTarget:
    """The largest resident set that we want to see.

    Attributes:
        text: In words.
        table: Name of the table.
        label: Our row in it.
        wanted: In bytes.
    """

    text: str
    table: str
    label: str
    wanted: int


def _backup_targets() -> Iterator[Target]:
    wanted = {
        ("contiguous", "unix", "fresh"): (1.3, 1.1),
        ("contiguous", "unix", "warm"): (1.1, 0.9),
        ("contiguous", "tls", "fresh"): (1.3, 1.0),
        ("contiguous", "tls", "warm"): (1.1, 0.9),
        ("fragmented", "unix", "fresh"): (None, 3.5),
        ("fragmented", "unix", "warm"): (None, 3.5),
        ("fragmented", "tls", "fresh"): (None, 2.7),
        ("fragmented", "tls", "warm"): (None, 2.7),
    }
    for disk, group in GROUPS.items():
        for channel, where in SHORT_CHANNELS.items():
            for server in ("fresh", "warm"):
                table = f"backup-{disk}/{channel}-{server}"
                plain, sha256 = wanted.get((disk, channel, server), (None, None))
                text = f"{where}, {server}"
                if disk == "contiguous":
                    yield Target(group, text, table, OURS_PLAIN, (STREAM,), "speed", plain)
                yield Target(group, f"{text}, sha256", table, OURS, (STREAM,), "speed", sha256)
                if (disk, channel) == ("fragmented", "unix"):
                    yield Target(
                        group, f"{text}, against curl", table, OURS_PLAIN, (CURL,), "speed", 1.0
                    )


def _vm_targets() -> Iterator[Target]:
    group = "Backup of a running VM"
    for channel, where in SHORT_CHANNELS.items():
        for server in ("first", "later"):
            table = f"backup-vm/{channel}-{server}"
            text = f"{where}, {server}"
            yield Target(group, text, table, OURS_PLAIN, (STREAM,), "speed", None)
            yield Target(group, f"{text}, sha256", table, OURS, (STREAM,), "speed", None)


def _small_targets() -> Iterator[Target]:
    group = "Small incremental backup, sha256"
    for changes, what in ((1000, "1000 changes"), (0, "no change")):
        for channel, where in SHORT_CHANNELS.items():
            table = f"backup-small/{channel}-{changes}"
            yield Target(group, f"{what}, {where}", table, OURS, (SCRIPT,), "time", 1.2)


def _cpu_targets() -> Iterator[Target]:
    group = "Processor time of the client"
    for channel, where in SHORT_CHANNELS.items():
        for server in ("fresh", "warm"):
            table = f"backup-contiguous/{channel}-{server}"
            text = f"contiguous, {where}, {server}"
            yield Target(group, text, table, OURS_PLAIN, (STREAM,), "cpu", 1.15)


def _restore_targets() -> Iterator[Target]:
    group = "Restore, digests checked"
    peers = (UPLOAD, STREAM)
    for disk, channel, wanted in (
        ("contiguous", "unix", 1.2),
        ("contiguous", "tls", 1.1),
        ("fragmented", "unix", 2.0),
        ("filesystem", "unix", None),
    ):
        text = f"{disk.replace('filesystem', 'file system')}, {SHORT_CHANNELS[channel]}"
        table = f"restore-{disk}/{channel}"
        yield Target(group, text, table, OURS, peers, "speed", wanted)
    text = "fragmented, gaps joined"
    yield Target(group, text, "restore-fragmented/unix", OURS_JOINED, peers, "speed", 4.0)


def _line_targets() -> Iterator[Target]:
    group = "A line of 1 Gbit/s, TLS"
    yield Target(group, "contiguous", "line-1gbit/contiguous", OURS, (STREAM,), "speed", None)
    gaps = tuple(map(gap_label, GAPS))
    text = "fragmented, best fixed gap"
    yield Target(group, text, "line-1gbit/fragmented", OURS, gaps, "speed", 0.97)


def _local_targets() -> Iterator[Target]:
    group = "A drive that takes no time"
    for variant, wanted in (("plain", 0.8), ("sha256", 0.9)):
        what = {"plain": "no digests"}.get(variant, variant)
        for way, label, peer in (("write", TO_TAPE, TO_NULL), ("read", FROM_TAPE, FROM_FILE)):
            text = f"{way}, {what}"
            table = f"tape-{way}/{variant}"
            least = wanted if way == "write" else None
            yield Target(group, text, table, label, (peer,), "speed", least)
    group = "Without a server"
    yield Target(
        group, "verify a tar", "verify/contiguous", OURS_VERIFY, (SHA256SUM,), "speed", None
    )
    for disk, least in (("contiguous", 1.0), ("filesystem", None)):
        text = f"raw image, {disk.replace('filesystem', 'file system')}"
        table = f"local-raw/{disk}"
        yield Target(group, text, table, OURS_PLAIN, (GNU_TAR,), "speed", least)
    group = "Imports of a backup"
    yield Target(group, "until the last one", "import/fresh", OURS_ALL, (CLIENT,), "time", 1.3)


TARGETS = (
    *_backup_targets(),
    *_vm_targets(),
    *_small_targets(),
    *_cpu_targets(),
    *_restore_targets(),
    *_line_targets(),
    *_local_targets(),
)

_PEAK = (128 + 150) * MIB  # the default of `buffer_memory`, and what all else may take
PEAK_TARGETS = (
    PeakTarget("1,000,000 extents, written", "scale-extents/write", "1,000,000", _PEAK),
    PeakTarget("1,000,000 extents, read", "scale-extents/read", "1,000,000", _PEAK),
    PeakTarget("a disk of 16 GiB", "scale-size/unix", "16 GiB", _PEAK),
)
