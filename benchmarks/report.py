"""Tables for the terminal and for docs/performance.md."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import charts
from benchmarks.cases import TABLES, short
from benchmarks.model import GIB, MIB, Table
from benchmarks.results import Measured, Row
from benchmarks.targets import PEAK_TARGETS, TARGETS, PeakTarget, Target

DOCS = Path(__file__).parents[1] / "docs"
# Tables of short things: how long they take says more than how much they transfer in a second.
MILLISECONDS = ("Imports", "Small")
MET, MISSED, UNKNOWN = "met", "**missed**", "not measured"

INTRODUCTION = """\
# Performance

Written by `make bench` (`python -m benchmarks --write`): do not edit.

The chart shows how many times as fast as another tool tapestream is. 2x is twice as fast, 0.5x is
half as fast. Where processor time or imports count, 2x is half as much. {counts}

![How far ahead or behind](charts/overview.svg)

- Unless a row names another tool, backups are compared with **one stream**: a connection of
  imageio's own client, with one GET for each extent, into a file, without digests. A row with
  "sha256" compares our copy with digests, which is the default, with that. The others compare our
  copy without digests.
- **fresh**: each transfer has a new qemu-nbd. oVirt starts one for the disk of a VM that is down.
- **warm**: one qemu-nbd serves all transfers. A running VM is served by its own qemu: "first" is
  its first backup after power-on, "later" is a backup of a VM that was backed up before.
- Restores are compared with the faster of one stream and imageio's `client.upload`, small backups
  with a script of 20 lines over imageio's client, and imports with `import ovirt_imageio.client`.
- "A drive that takes no time" shows what the way to a tape costs. It is compared with the same tar
  to or from a file. "Without a server" is compared with `sha256sum` and GNU tar.

Why fresh and warm differ: a qemu gets memory from the kernel for each request, which costs more
than reading, and keeps some of it. A qemu that has served large requests has less work.
What the contenders warm for each other: before the first measured round, the warm qemu serves each
contender of the table once, and then all take turns. So each is served by a qemu that has seen the
long GETs of one stream and the requests of tapestream, and on a unix socket also those of the other
tools in the table.
"""

READING = """\
Each table is one run. The contenders took turns, each round in a new process, against a real
ovirt-imageio daemon on the same machine. **On another machine, only the ratios mean anything**:
client, daemon and qemu share the processors. What each contender transfers was compared with the
disk in a separate run with less data, before anything was timed.

- The time is that of the whole process: start of the interpreter, imports, and transfer.
- MB/s counts the data of the disk in units of 10^6 bytes, without holes, whatever a contender
  reads. The tables show the median of all rounds, and the range from the slowest to the fastest.
- "CPU" is the user and system time of the client and its child processes, per GiB of data.
- "servers" is the same for the daemon and qemu.
- "busy" is how many of the machine's processors were busy, on average. If all are busy, only less
  work makes a transfer faster. A [profile](profile.md) shows where the time goes.
- "peak" is the largest resident set of the client, without child processes.
- "client.download" and "client.upload" are functions of imageio's client. They copy between a
  transfer and a disk image, with the help of qemu. nbdcopy reads from qemu-nbd, without imageio:
  the limit.
"""

STEADY = """\
Each contender backed up two contiguous disks, of {short:g} and {long:g} GiB. The difference shows
what a further GiB takes: the steady rate. The rest is start-up: the interpreter, imports,
connections, and what is slower at the beginning. It is below 0 where the beginning was faster than
the rest, and where a median happened to be.
"""

IDLE = """\
"never idle" is what the same work would reach if none of the {cores} processors of the machine were
ever idle: the processor time of tapestream and of the servers, shared between them. Where that is
below the target, only less work could meet it. [Where the time goes](profile.md) shows which work
that is.
"""

Cells = Sequence[str]


def text_table(table: Table, measured: Measured) -> str:
    """A table for the terminal."""
    rows = [_header(table), *_cells(table, measured)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    first, *others = widths
    lines = [
        "  ".join([row[0].ljust(first), *map(str.rjust, row[1:], others)]).rstrip() for row in rows
    ]
    counted = f"{measured.rounds} round{'s' if measured.rounds > 1 else ''}"
    return "\n".join([f"{table.title} ({counted})", *lines])


def write(results: dict[str, Measured], size: int) -> None:
    """Write docs/performance.md, and its chart, from everything that was measured."""
    folder = DOCS / "charts"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "overview.svg").write_text(overview(results))
    (DOCS / "performance.md").write_text("\n".join(_page(results, size)))


def overview(results: dict[str, Measured]) -> str:
    """The chart of all comparisons that were measured."""
    bars = []
    for target in TARGETS:
        ratio = compare(target, results)
        if ratio is not None:
            group = target.group
            bars.append(charts.Bar(group, target.text, ratio, target.wanted_ratio))
    return charts.overview("tapestream compared with other tools", bars)


def _page(results: dict[str, Measured], size: int) -> Iterator[str]:
    rows = _target_rows(results)
    yield INTRODUCTION.format(counts=_counts(rows))
    yield "## Targets\n"
    yield IDLE.format(cores=processors())
    yield markdown(("case", "compared with", "wanted", "measured", "never idle", ""), rows)
    yield from ("## Conditions\n", bullets(_conditions(results, size)))
    yield from ("## How to read the tables\n", READING)
    steady = [*_steady(results)]
    if steady:
        yield "## Start-up and steady rate\n"
        yield STEADY.format(short=size / GIB, long=4 * size / GIB)
        header = ("server", "contender", "start-up s", "s for each GiB", "MB/s then")
        yield markdown(header, steady)
    yield "## Measured\n"
    for table in TABLES:
        measured = results.get(table.name)
        yield f"### {table.title}\n"
        yield "Not measured.\n" if measured is None else markdown(*_shown(table, measured))


def _shown(table: Table, measured: Measured) -> tuple[Cells, Iterator[Cells]]:
    return _header(table), _cells(table, measured)


def _steady(results: dict[str, Measured]) -> Iterator[Cells]:
    for table in TABLES:
        measured = results.get(table.name)
        for row in measured.rows.values() if measured else ():
            quarter = measured.rows.get(short(row.label)) if measured else None
            if quarter is not None:
                line = _line_through(quarter, row)
                where = table.title.removeprefix("Backup of a contiguous disk, ")
                yield (
                    where,
                    row.label,
                    f"{line.start:.2f}",
                    f"{line.seconds_per_gib:.2f}",
                    f"{GIB / line.seconds_per_gib / 1e6:.0f}",
                )


@dataclass(frozen=True)
class _Line:
    """Seconds as a function of GiB."""

    start: float
    seconds_per_gib: float


def _line_through(small: Row, large: Row) -> _Line:
    more = (large.data_bytes - small.data_bytes) / GIB
    # A machine's whim can make more data take no longer.
    slope = max((large.seconds - small.seconds) / more, 1e-9)
    return _Line(small.seconds - slope * small.data_bytes / GIB, slope)


def compare(target: Target, results: dict[str, Measured]) -> float | None:
    """How many times better than the best of the peers we are; None if that was not measured."""
    measured = results.get(target.table)
    # A row is missing without the tool of the peer.
    if measured is None or not {target.label, *target.against} <= measured.rows.keys():
        return None
    ours, peers = measured.rows[target.label], [measured.rows[peer] for peer in target.against]
    if target.measure == "cpu":
        return min(peer.cpu for peer in peers) / ours.cpu
    return ours.rate / max(peer.rate for peer in peers)


def never_idle(target: Target, results: dict[str, Measured]) -> float | None:
    """What `compare` would give if no processor were idle while we work; None if unknown.

    Where processor time itself is compared, the time of short things, or a line that is slower than
    any processor, there is no such bound.
    """
    ratio = compare(target, results)
    if ratio is None or target.measure != "speed" or target.table.startswith("line-"):
        return None
    ours = results[target.table].rows[target.label]
    shared = (ours.cpu + ours.servers) * ours.data_bytes / GIB / processors()
    return ratio * ours.seconds / shared


def _header(table: Table) -> Cells:
    if table.stage == "ManyExtents":
        return ("extents", "seconds", "µs/extent", "peak MiB")
    what = table.axis or "contender"
    if table.stage in MILLISECONDS:
        return (what, "ms", f"vs {table.baseline}", "CPU ms", "peak MiB", "min..max")
    return (
        what,
        "MB/s",
        f"vs {table.baseline}",
        "CPU s/GiB",
        "servers",
        "busy",
        "peak MiB",
        "min..max",
    )


def _cells(table: Table, measured: Measured) -> Iterator[Cells]:
    for row in measured.rows.values():
        is_short = row.label == short(row.label.removesuffix(short("")))
        baseline = measured.rows[short(table.baseline) if is_short else table.baseline]
        peak = f"{row.peak / MIB:.0f}"
        if table.stage == "ManyExtents":
            count = row.data_bytes / 2048  # every other extent of 4096 bytes is data
            yield row.label, f"{row.seconds:.2f}", f"{row.seconds / count * 1e6:.1f}", peak
        elif table.stage in MILLISECONDS:
            yield (
                row.label,
                f"{1e9 / row.rate:.0f}",
                f"{baseline.rate / row.rate:.2f}x",
                f"{row.cpu / GIB * 1e9:.0f}",
                peak,
                f"{1e9 / max(row.rates):.0f}..{1e9 / min(row.rates):.0f}",
            )
        else:
            yield (
                row.label,
                f"{row.rate / 1e6:.0f}",
                f"{row.rate / baseline.rate:.2f}x",
                f"{row.cpu:.2f}",
                f"{row.servers:.2f}",
                f"{row.busy:.1f}",
                peak,
                f"{min(row.rates) / 1e6:.0f}..{max(row.rates) / 1e6:.0f}",
            )


def _target_rows(results: dict[str, Measured]) -> list[Cells]:
    """What was missed comes first."""
    rows = [
        *(_judged(target, results) for target in TARGETS if target.wanted is not None),
        *(_judged_peak(target, results) for target in PEAK_TARGETS),
    ]
    return sorted(rows, key=lambda row: row[-1] != MISSED)


def _counts(rows: Sequence[Cells]) -> str:
    met, missed = ([row[-1] for row in rows].count(verdict) for verdict in (MET, MISSED))
    return f"Of {len(rows)} targets, {met} were met, and {missed} were missed."


def _judged(target: Target, results: dict[str, Measured]) -> Cells:
    against = target.against[0] if len(target.against) == 1 else "the fastest of them"
    text = f"{target.group}: {target.text}"
    ratio = compare(target, results)
    less = target.measure != "speed"
    wanted = f"at most {target.wanted:g}x" if less else f"at least {target.wanted:g}x"
    if less:
        text += ", time" if target.measure == "time" else ""
    if ratio is None or target.wanted_ratio is None:
        return text, against, wanted, "", "", UNKNOWN
    found = f"{1 / ratio if less else ratio:.2f}x"
    bound = never_idle(target, results)
    most = "" if bound is None else f"{bound:.2f}x"
    return text, against, wanted, found, most, MET if ratio >= target.wanted_ratio else MISSED


def _judged_peak(target: PeakTarget, results: dict[str, Measured]) -> Cells:
    text, wanted = f"Peak memory: {target.text}", f"at most {target.wanted / MIB:.0f} MiB"
    measured = results.get(target.table)
    if measured is None:
        return text, "", wanted, "", "", UNKNOWN
    peak = measured.rows[target.label].peak
    return text, "", wanted, f"{peak / MIB:.0f} MiB", "", MET if peak <= target.wanted else MISSED


def markdown(header: Cells, rows: Iterable[Cells]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def machine() -> Iterator[str]:
    """What is measured on; nothing that tells whose machine it is."""
    imageio = f"ovirt-imageio {importlib.metadata.version('ovirt-imageio')}"
    kernel = re.match(r"[\d.]+", platform.release())
    yield f"Processor: {_processor()}, {processors()} cores"
    yield f"Kernel: Linux {kernel[0] if kernel else ''}"
    yield f"Python {platform.python_version()}, {imageio}, {_first_line('qemu-nbd')}"


def bullets(lines: Iterable[str]) -> str:
    """A list in Markdown."""
    return "".join(f"- {line}\n" for line in lines)


def _conditions(results: dict[str, Measured], size: int) -> Iterator[str]:
    rounds = map(str, sorted({m.rounds for m in results.values()}))
    dates = sorted({m.date for m in results.values()})
    yield from machine()
    yield f"Peers: {', '.join(_first_line(tool) for tool in ('curl', 'nbdcopy', 'tar'))}"
    yield f"Date: {' to '.join(dict.fromkeys((dates[0], dates[-1])))}" if dates else "Date: none"
    yield f"Rounds: {' or '.join(rounds)}"
    yield (
        f"Data: {size / GIB:g} GiB; four times as much in backups of a contiguous disk, half of it "
        "if fragmented, a quarter as file system, an eighth as scattered changes"
    )
    took = sum(m.took for m in results.values())
    yield f"All tables took {took / 60:.0f} minutes"


def processors() -> int:
    """How many the machine has."""
    return len(re.findall(r"^processor\s*:", Path("/proc/cpuinfo").read_text(), re.MULTILINE))


def _processor() -> str:
    match = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return match[1] if match else platform.machine()


def _first_line(tool: str) -> str:
    """Name and version of a tool."""
    try:
        shown = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return f"no {tool}"
    match = re.search(r"\d[\d.]*\d", shown.stdout)
    return f"{tool} {match[0] if match else ''}"
