"""The command line: runs the contenders in turn, and prints what came of it."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from benchmarks import report, results
from benchmarks.cases import TABLES
from benchmarks.disks import default_work_dir
from benchmarks.model import CHECKED_SIZE, DEFAULT_SIZE, MIB, Table
from benchmarks.process import FailedError
from benchmarks.results import Measured, Row
from benchmarks.servers import WARM, SkippedError
from benchmarks.stages import STAGES, Setting
from tapestream import TapestreamError
from tapestream.testing import ImageioDaemon

CASES = tuple(dict.fromkeys(table.case for table in TABLES))


def main(argv: list[str] | None = None) -> int:
    options = _parse(argv)
    if options.list:
        for table in TABLES:
            print(f"{table.name:28} {table.title}")
        return 0
    wanted = set(options.cases)
    tables = [table for table in TABLES if not wanted or wanted & {table.case, table.name}]
    # What ends this, such as `timeout`, ends the daemons, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    size = options.size * MIB
    if options.work:
        options.work.mkdir(parents=True, exist_ok=True)
        return _run(tables, options, options.work, size)
    with tempfile.TemporaryDirectory(prefix="tapestream-", dir=default_work_dir(size)) as work:
        return _run(tables, options, Path(work), size)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument(
        "cases", nargs="*", metavar="CASE", help="or CASE/TABLE, of --list; by default all"
    )
    parser.add_argument("--list", action="store_true", help="show the tables of each case, and end")
    parser.add_argument("--rounds", type=int, help="measure so often (3)")
    parser.add_argument("--size", type=int, help="MiB of data of a whole disk (1024)")
    parser.add_argument("--quick", action="store_true", help="one round, and 32 MiB of data")
    parser.add_argument("--work", type=Path, help="keep disks and results in this directory")
    parser.add_argument(
        "--resume", action="store_true", help="leave out the tables that --work has results of"
    )
    parser.add_argument("--write", action="store_true", help="write docs/performance.md")
    options = parser.parse_args(argv)
    unknown = set(options.cases) - {*CASES, *(table.name for table in TABLES)}
    if unknown:
        parser.error(f"no case {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.size = options.size or (32 if options.quick else DEFAULT_SIZE // MIB)
    return options


def _run(tables: list[Table], options: argparse.Namespace, work: Path, size: int) -> int:
    kept = work / f"results-{options.size}.json"
    # What an earlier run measured stays, unless it is measured again.
    measured = results.load(kept)
    began = time.monotonic()
    code = 0
    with ImageioDaemon(work / "daemon") as daemon:
        setting = Setting(work, size, daemon)
        for table in tables:
            if options.resume and table.name in measured:
                continue
            try:
                measured[table.name] = _measure(table, setting, options.rounds)
            except SkippedError as e:
                print(f"\n{table.title}: skipped: {e}", flush=True)
            except (FailedError, TapestreamError) as e:
                print(f"\n{table.title}: FAILED: {e}", file=sys.stderr, flush=True)
                code = 1
            else:
                print(f"\n{report.text_table(table, measured[table.name])}", flush=True)
                print(f"({table.name} took {measured[table.name].took:.0f} seconds)", flush=True)
                results.save(kept, measured)
    print(f"\nthis took {time.monotonic() - began:.0f} seconds", flush=True)
    if options.write and code == 0:
        report.write(measured, size)
    return code


def _measure(table: Table, setting: Setting, rounds: int) -> Measured:
    began = time.monotonic()
    contenders = [c for c in table.contenders if not c.needs or shutil.which(c.needs)]
    for contender in (c for c in table.contenders if c not in contenders):
        print(f"\n{contender.label}: skipped: needs {contender.needs}", flush=True)
    stage = STAGES[table.stage]
    # What each transfers is looked at once, with less data. These runs fill Python's caches, too.
    with stage(table, replace(setting, size=min(setting.size, CHECKED_SIZE))) as checked:
        for contender in contenders:
            if not contender.disk:
                checked.run(contender, check=True)
    if rounds > 1:
        rounds = max(table.least_rounds, min(rounds, table.most_rounds))
    measured = Measured.begin(table, rounds)
    with stage(table, setting) as timed:
        for contender in contenders:
            row = Row(contender.label, contender.x, timed.data_bytes(contender))
            measured.rows[contender.label] = row
            if table.server in WARM:
                timed.run(contender, check=False)
        for _ in range(measured.rounds):
            for contender in contenders:
                measured.rows[contender.label].outcomes.append(timed.run(contender, check=False))
    measured.took = time.monotonic() - began
    return measured
