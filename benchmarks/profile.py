"""Where the time goes: that of all processors, by process and by kind of work, as perf sees it.

`python -m benchmarks.profile` prints it. With `--write` it also writes docs/profile.md, and draws
docs/charts/time.svg. It needs perf, and to be root: it looks at the whole machine, and into its
kernel.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from benchmarks import charts, report
from benchmarks.cases import OURS, OURS_PLAIN, STREAM, TABLES, UPLOAD
from benchmarks.disks import default_work_dir
from benchmarks.model import DEFAULT_SIZE, GIB, Contender, Table
from benchmarks.stages import STAGES, Setting, Stage
from tapestream.testing import ImageioDaemon

INTRODUCTION = """\
# Where the time goes

Written by `make profile` (`python -m benchmarks.profile --write`): do not edit. It explains the
numbers in [Performance](performance.md). While a contender transferred a disk, perf checked every
quarter of a millisecond what each processor was doing. The tables show seconds of processor time
per GiB of data, on average over all rounds. The sums differ from those in Performance, because this
is another run, and perf takes time, too.

- "cryptography" is TLS and sha256, which cannot be distinguished here. Over a unix socket there is
  no TLS, and without digests there is no sha256.
- "interpreter" is the Python interpreter, in the client or in the daemon, which is a Python
  program, too.
- "copying" is what the kernel copies between processes, and from the disk's file.
- "memory" is the time that the kernel spends on pages: to find, clear, count and free them.
- "kernel" is the kernel's other work: sockets, scheduling, files.

{chart}

This is what it shows:

- **A client's CPU time over a unix socket.** tapestream's client does less in the kernel than the
  single stream. It does more in the interpreter, because it handles the replies to smaller
  requests. This lets the server read ahead, and saves a fresh qemu-nbd page faults, so all
  processes together have less to do.
- **Digests and a warm server.** sha256 costs about as much as the daemon and qemu-nbd together.
  With it, the two processors are nearly always busy, so a warm server gains nothing.
- **Long requests.** We tried GETs of 64 MiB, 256 MiB and 1 GiB on one connection, over a unix
  socket. With a fresh qemu-nbd they were 0.6 times as fast as our requests of 4 MiB over two
  connections, with a warm one 0.8 to 1.0 times. So they are not one of the shapes that are tried.
- **A fragmented disk.** Both interpreters work on each range of 64 KiB: the daemon on the holes
  that qemu-nbd reports in the data, the client on the header, the digest and the write. Over a unix
  socket, none of the three processes is always busy, because they wait for each other. We tried
  smaller and larger requests and buffers, more connections and readers, and digests in a separate
  thread; none of this was faster. Over TLS the holes are encrypted, too, and the processors hardly
  ever wait.

## What waits, and what is out of reach

These were separate measurements, on 2026-11-27 and on 2 processors, each with its contenders in
turn. [Performance](performance.md#targets) says what each case would reach if no processor were
ever idle.

**A warm server over a unix socket, without digests.** We traced every switch of both processors for
0.8 seconds in the middle of a copy, twice for each contender. In per cent of the time:

| thread | running | waiting for a processor | asleep |
| --- | ---: | ---: | ---: |
| tapestream, reader | 30 and 31 | 24 and 25 | 44 and 43 |
| daemon, connection 1 | 31 and 30 | 32 and 32 | 35 and 36 |
| daemon, connection 2 | 32 and 30 | 27 and 29 | 39 and 38 |
| qemu-nbd, main thread | 34 and 31 | 11 and 15 | 55 and 54 |
| one stream, client | 30 and 21 | 1 and 1 | 68 and 74 |
| its daemon | 48 and 62 | 3 and 3 | 42 and 35 |
| its qemu-nbd, main thread | 34 and 33 | 2 and 0.4 | 63 and 67 |

With tapestream no thread lacks work. But in up to 37 to 53 % of the time, a thread that was woken
waited for its processor while the other one was idle. A likely reason is that Linux wakes the
reader of a unix socket where the writer runs. We tried one processor for all of our threads, batch
scheduling, and reading without sleep: none of these was faster in each run. A client of 50 lines
that makes the same requests, and does nothing else, was 1.08 times as fast as the single stream, so
1.1 times is out of reach in this way.

**A restore over TLS.** The digests are checked, which the other tools do not do, for 0.9 seconds of
each GiB. All processes together needed 4.5 seconds in that run, so with two processors that are
never idle, the restore would have been 1.13 times as fast as the single stream. Without checking
the digests, it was 1.25 times as fast.

**A drive that takes no time.** Before a file, one buffer of 2 MiB is filled again and again, and
stays in the processor's cache. Before a drive, the data must lie in some 250 MiB: what is not yet
safely on the tape is kept for the next tape, and a full window keeps the drive from stopping. A
bare copy of 2 GiB through so much memory takes 0.3 seconds longer than through 2 MiB, and the
target leaves 0.13 seconds. A real drive is a tenth as fast.

**A raw image.** GNU tar has no interpreter to start, which takes us 0.08 to 0.16 seconds of the 0.8
for a GiB, and it has one small buffer, while ours of 128 MiB must be touched for the first time.
`splice` would be three times as fast as both, but only without digests, because then the data is
never in our memory.
"""

LABELS = (OURS_PLAIN, STREAM, OURS, UPLOAD)
PROFILED = (
    "backup-contiguous/unix-fresh",
    "backup-contiguous/unix-warm",
    "backup-contiguous/tls-fresh",
    "backup-contiguous/tls-warm",
    "backup-fragmented/unix-fresh",
    "backup-fragmented/tls-fresh",
    "restore-contiguous/tls",
    "restore-fragmented/unix",
)
# The chart shows a backup with digests, from a new qemu-nbd.
CHARTED = {
    "backup-contiguous/unix-fresh": "over a unix socket",
    "backup-contiguous/tls-fresh": "over TLS",
}
ROUNDS = 3
PERIOD = 250_000  # nanoseconds between two looks at a processor
WARM_UP = 0.5  # seconds until perf looks

PROCESSES = {"python": "client", "ovirt-imageio": "daemon", "qemu-nbd": "qemu-nbd"}
IDLE = "swapper"
CRYPTOGRAPHY, INTERPRETER, COPYING, MEMORY, KERNEL, REST = KINDS = (
    "cryptography",
    "interpreter",
    "copying",
    "memory",
    "kernel",
    "rest",
)
# The parts of a bar in the chart.
PARTS = {
    "digests and TLS": (CRYPTOGRAPHY,),
    "Python": (INTERPRETER,),
    "copying": (COPYING,),
    "the kernel, and the rest": (MEMORY, KERNEL, REST),
}
_COPIES = re.compile(r"copy|memcpy")
_PAGES = re.compile(r"page|fault|folio|charge|alloc|free|lru|zap|mmap|vma|unmap|pte|tlb")
_LINE = re.compile(
    r"\s*(?P<process>\S.*?)\s+(?P<time>[\d.]+):\s+[0-9a-f]+ (?P<symbol>.*) \((?P<file>.*)\)$"
)


class Sample(NamedTuple):
    """What a processor did at some time, in seconds of the monotonic clock."""

    time: float
    process: str
    kind: str


Profile = dict[tuple[str, str], float]  # seconds per GiB, by process and kind


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.profile", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/profile.md")
    options = parser.parse_args(argv)
    if not shutil.which("perf") or os.geteuid() != 0:
        print("benchmarks.profile: needs perf (Debian: linux-perf), and root", file=sys.stderr)
        return 1
    today = datetime.now(timezone.utc).date()
    conditions = report.bullets([*report.machine(), f"Date: {today}", f"Rounds: {ROUNDS}"])
    tables: list[str] = []
    stacks: list[charts.Stack] = []
    with tempfile.TemporaryDirectory(
        prefix="tapestream-", dir=default_work_dir(DEFAULT_SIZE)
    ) as work:
        for table, profiles in _profiles(Path(work)):
            text = report.markdown(("contender", "process", "s/GiB", *KINDS), _rows(profiles))
            print(f"\n{table.title}\n\n{text}", flush=True)
            tables.append(f"## {table.title}\n\n{text}")
            if table.name in CHARTED:
                stacks += _stacks(CHARTED[table.name], profiles[OURS])
    if options.write:
        write(stacks, ["## Conditions\n", conditions, *tables])
    return 0


def write(stacks: Sequence[charts.Stack], sections: Sequence[str]) -> None:
    """Write docs/profile.md, with its chart."""
    title = "Processor time for one GiB of a backup"
    chart = report.DOCS / "charts" / "time.svg"
    chart.parent.mkdir(parents=True, exist_ok=True)
    chart.write_text(charts.stacked(title, [*PARTS], stacks, "s"))
    page = INTRODUCTION.format(chart=f"![{title}: {_in_words(stacks)}](charts/time.svg)")
    (report.DOCS / "profile.md").write_text("\n".join([page, *sections]))


def _profiles(work: Path) -> Iterator[tuple[Table, dict[str, Profile]]]:
    with ImageioDaemon(work / "daemon") as daemon:
        for table in TABLES:
            if table.name not in PROFILED:
                continue
            wanted = [c for c in table.contenders if c.label in LABELS]
            with STAGES[table.stage](table, Setting(work, DEFAULT_SIZE, daemon)) as stage:
                yield table, {c.label: _profile(stage, c, work / "perf.data") for c in wanted}


def _profile(stage: Stage, contender: Contender, file: Path) -> Profile:
    stage.run(contender, check=False)
    counts: Counter[tuple[str, str]] = Counter()
    for _ in range(ROUNDS):
        with _recorded(file):
            outcome = stage.run(contender, check=False)
        counts.update(
            (sample.process, sample.kind)
            for sample in samples(_shown(file))
            if 0 <= sample.time - outcome.began <= outcome.seconds
        )
    gib = ROUNDS * stage.data_bytes(contender) / GIB
    return {key: count * PERIOD / 1e9 / gib for key, count in counts.items()}


@contextlib.contextmanager
def _recorded(file: Path) -> Iterator[None]:
    command = ["perf", "record", "--quiet", "--all-cpus", "--event=cpu-clock", f"--count={PERIOD}"]
    with subprocess.Popen([*command, "--clockid=CLOCK_MONOTONIC", f"--output={file}"]) as perf:
        time.sleep(WARM_UP)
        try:
            yield
        finally:
            perf.send_signal(signal.SIGINT)


def _shown(file: Path) -> str:
    command = ["perf", "script", f"--input={file}", "--fields=comm,time,ip,sym,dso"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def samples(shown: str) -> Iterator[Sample]:
    """What `perf script` shows, a line for each."""
    for line in shown.splitlines():
        found = _LINE.match(line)
        if found is not None:
            kind = _kind(found["file"], found["symbol"])
            yield Sample(float(found["time"]), found["process"], kind)


def _kind(file: str, symbol: str) -> str:
    if "kernel" in file:
        if _COPIES.search(symbol):
            return COPYING
        return MEMORY if _PAGES.search(symbol) else KERNEL
    name = Path(file).name
    if name.startswith(("libcrypto", "libssl")):
        return CRYPTOGRAPHY
    return INTERPRETER if "python" in name else REST


def _stacks(group: str, profile: Profile) -> Iterator[charts.Stack]:
    for process, name in PROCESSES.items():
        parts = [
            sum(profile.get((process, kind), 0.0) for kind in kinds) for kinds in PARTS.values()
        ]
        yield charts.Stack(group, "tapestream" if name == "client" else name, parts)


def _in_words(stacks: Sequence[charts.Stack]) -> str:
    return "; ".join(
        f"{stack.group}, {stack.label}: {sum(stack.parts):.1f} seconds, most of them for {most}"
        for stack in stacks
        for most in [max(zip(stack.parts, PARTS, strict=True))[1]]
    )


def _rows(profiles: dict[str, Profile]) -> Iterator[Sequence[str]]:
    for label, profile in profiles.items():
        for process, name in PROCESSES.items():
            spent = [profile.get((process, kind), 0.0) for kind in KINDS]
            yield label, name, *(f"{seconds:.2f}" for seconds in (sum(spent), *spent))
        idle = sum(seconds for (process, _), seconds in profile.items() if process == IDLE)
        yield label, "idle", f"{idle:.2f}", *("" for _ in KINDS)


if __name__ == "__main__":
    sys.exit(main())
