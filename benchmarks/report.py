"""Tables for the terminal and for docs/performance.md."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from benchmarks import charts
from benchmarks.cases import TABLES, TARGETS, Target
from benchmarks.model import GIB, MIB, Table
from benchmarks.results import Measured, Row

DOCS = Path(__file__).parents[1] / "docs"

INTRODUCTION = """\
# Performance

Written by `make bench` (`python -m benchmarks --write`): do not edit. Every table is one run. The
contenders took turns, each round in a new process, against a real ovirt-imageio daemon and qemu-nbd
on the same machine. **On another machine, only the ratios mean anything**: client, daemon and
qemu-nbd share the processors. What each contender transferred was compared with the disk before
anything was timed, and after every restore.

- MB/s counts the data of the disk in units of 10^6 bytes, without holes, whatever a contender
  reads. The table shows the median of all rounds, and the range from the slowest to the fastest.
- "CPU" is the user and system time of the client and its child processes, per GiB of data.
- "servers" is the same for the daemon and qemu-nbd.
- "busy" is how many of the machine's processors were busy, on average.
- "peak" is the largest resident set of the client, without child processes.

If all processors are busy, only less work makes a transfer faster. A digest is work; the rows with
and without one show how much. So a target that was missed has a number under "all busy": what would
have been measured, with the same work for each byte, if no processor had ever waited. A
[profile](profile.md) shows where the time goes.

Each transfer gets a new qemu-nbd, as with oVirt. Only the backup of a running VM is served by the
VM's own qemu. For every large request, qemu-nbd gets new memory from the kernel, which costs more
than reading, unless it has served a larger request before. tapestream sends the largest request
first; none of the other contenders does.

- "imageio, one stream" is a connection of imageio's own client, with one GET for each extent.
- "client.download" and "client.upload" are functions of that client. They copy between a transfer
  and a disk image, with the help of qemu.
- The "proof of concept" is a script that uses Python's tarfile, with one GET for each extent.
- The "bare loop" is not a tool, but a yardstick. One Python thread requests the same pieces as
  tapestream, over two connections in turn, computes digests while the data is still in the
  processor's cache, and writes the data, without a format and without checks.
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
    """Write docs/performance.md, and its charts, from everything that was measured."""
    folder = DOCS / "charts"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    parts = [INTRODUCTION, "## Conditions\n", bullets(_conditions(results, size))]
    parts += ["## Targets\n", *_targets(results), "## Measured\n"]
    for table in TABLES:
        measured = results.get(table.name)
        if measured is None:
            parts.append(f"### {table.title}\n\nNot measured.\n")
            continue
        name = f"{table.name.replace('/', '-')}.svg"
        (folder / name).write_text(_chart(table, measured))
        parts.append(f"### {table.title}\n\n![{table.title}](charts/{name})\n")
        parts.append(markdown(_header(table), _cells(table, measured)))
    (DOCS / "performance.md").write_text("\n".join(parts))


def _header(table: Table) -> Cells:
    if table.stage == "ManyExtents":
        return ("extents", "seconds", "µs/extent", "peak MiB")
    what = table.axis or "contender"
    if table.stage == "Imports":
        return (what, "ms", f"vs {table.baseline}", "CPU ms", "min..max")
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
    baseline = measured.rows[table.baseline]
    for row in measured.rows.values():
        peak = f"{row.peak / MIB:.0f}"
        if table.stage == "ManyExtents":
            yield row.label, f"{row.seconds:.2f}", f"{row.seconds / row.x * 1e6:.1f}", peak
        elif table.stage == "Imports":
            yield (
                row.label,
                f"{1e9 / row.rate:.0f}",
                f"{baseline.rate / row.rate:.2f}x",
                f"{row.cpu / GIB * 1e9:.0f}",
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


def _chart(table: Table, measured: Measured) -> str:
    rows = list(measured.rows.values())
    if not table.axis:
        unit = "imports per second" if table.stage == "Imports" else "MB/s"
        return charts.bars(
            f"{table.title}: {unit}",
            [
                charts.Bar(
                    row.label,
                    row.rate / 1e6,
                    (min(row.rates) / 1e6, max(row.rates) / 1e6),
                    ours=_is_ours(row),
                )
                for row in rows
            ],
        )
    if table.stage == "ManyExtents":
        points = [(row.x, row.seconds / row.x * 1e6) for row in rows]
        return charts.curve(f"{table.title}: µs per extent", table.axis, points)
    points = [(row.x, row.rate / 1e6) for row in rows]
    return charts.curve(f"{table.title}: MB/s", table.axis, points)


def _is_ours(row: Row) -> bool:
    return row.label.startswith(("tapestream", "max_gap"))


def _targets(results: dict[str, Measured]) -> Iterator[str]:
    header = ("case", "against", "wanted", "measured", "all busy", "")
    yield markdown(header, [_judged(target, results) for target in TARGETS])


def _judged(target: Target, results: dict[str, Measured]) -> Cells:
    measured = results.get(target.table)
    if measured is not None and not {target.label, *target.against} <= measured.rows.keys():
        measured = None  # without the tool of the peer
    against = " / ".join(target.against) if len(target.against) == 1 else "the best of them"
    if not target.against:
        wanted = f"at most {target.wanted / MIB:.0f} MiB"
        if measured is None:
            return target.text, "absolute", wanted, "", "", "not measured"
        peak = measured.rows[target.label].peak
        found = f"{peak / MIB:.0f} MiB"
        return target.text, "absolute", wanted, found, "", _verdict(peak <= target.wanted)
    bound = "at most" if target.measure == "cpu" else "at least"
    wanted = f"{bound} {target.wanted:g}x"
    if measured is None:
        return target.text, against, wanted, "", "", "not measured"
    ours, peers = measured.rows[target.label], [measured.rows[peer] for peer in target.against]
    if target.measure == "cpu":
        ratio = ours.cpu / min(peer.cpu for peer in peers)
        verdict = _verdict(ratio <= target.wanted)
        return target.text, against, wanted, f"{ratio:.2f}x", "", verdict
    ratio = ours.rate / max(peer.rate for peer in peers)
    met = ratio >= target.wanted
    all_busy = "" if met else f"{ratio * len(_cores()) / ours.busy:.2f}x"
    return target.text, against, wanted, f"{ratio:.2f}x", all_busy, _verdict(met)


def _verdict(met: bool) -> str:
    return "met" if met else "**missed**"


def markdown(header: Cells, rows: Iterable[Cells]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def machine() -> Iterator[str]:
    """What is measured on; nothing that tells whose machine it is."""
    imageio = f"ovirt-imageio {importlib.metadata.version('ovirt-imageio')}"
    kernel = re.match(r"[\d.]+", platform.release())
    yield f"Processor: {_processor()}, {len(_cores())} cores"
    yield f"Kernel: Linux {kernel[0] if kernel else ''}"
    yield f"Python {platform.python_version()}, {imageio}, {_first_line('qemu-nbd')}"


def bullets(lines: Iterable[str]) -> str:
    """A list in Markdown."""
    return "".join(f"- {line}\n" for line in lines)


def _conditions(results: dict[str, Measured], size: int) -> Iterator[str]:
    rounds = sorted({str(m.rounds) for m in results.values()})
    dates = sorted({m.date for m in results.values()})
    yield from machine()
    yield f"Peers: {', '.join(_first_line(tool) for tool in ('curl', 'nbdcopy', 'tar'))}"
    yield f"Date: {' to '.join(dict.fromkeys((dates[0], dates[-1])))}" if dates else "Date: none"
    yield f"Rounds: {' or '.join(rounds)}"
    yield f"Data: {size / GIB:g} GiB contiguous, half of it as file system or fragmented"


def _cores() -> Sequence[str]:
    return re.findall(r"^processor\s*:", Path("/proc/cpuinfo").read_text(), re.MULTILINE)


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
