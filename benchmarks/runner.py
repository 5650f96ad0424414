"""The command line: runs the contenders in turn, and prints what came of it."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import report, results
from benchmarks.cases import TABLES
from benchmarks.disks import default_work_dir
from benchmarks.model import DEFAULT_SIZE, MIB, Table
from benchmarks.results import Measured, Row
from benchmarks.stages import STAGES, FailedError, Setting, SkippedError
from tapestream import TapestreamError
from tapestream.testing import ImageioDaemon

CASES = tuple(dict.fromkeys(table.case for table in TABLES))


def main(argv: list[str] | None = None) -> int:
    options = _parse(argv)
    if options.list:
        for table in TABLES:
            print(f"{table.name:28} {table.title}")
        return 0
    tables = [table for table in TABLES if not options.cases or table.case in options.cases]
    size = options.size * MIB
    if options.work:
        options.work.mkdir(parents=True, exist_ok=True)
        return _run(tables, options, options.work, size)
    with tempfile.TemporaryDirectory(prefix="tapestream-", dir=default_work_dir(size)) as work:
        return _run(tables, options, Path(work), size)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="of --list; all by default")
    parser.add_argument("--list", action="store_true", help="show the tables of each case, and end")
    parser.add_argument("--rounds", type=int, help="measure so often (5)")
    parser.add_argument("--size", type=int, help="MiB of data of a whole disk (768)")
    parser.add_argument("--quick", action="store_true", help="one round, and 32 MiB of data")
    parser.add_argument("--work", type=Path, help="keep disks and results in this directory")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md")
    options = parser.parse_args(argv)
    unknown = set(options.cases) - set(CASES)
    if unknown:
        parser.error(f"no case {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    options.rounds = options.rounds or (1 if options.quick else 5)
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
            try:
                measured[table.name] = _measure(table, setting, options.rounds)
            except SkippedError as e:
                print(f"\n{table.title}: skipped: {e}", flush=True)
            except (FailedError, TapestreamError) as e:
                print(f"\n{table.title}: FAILED: {e}", file=sys.stderr, flush=True)
                code = 1
            else:
                print(f"\n{report.text_table(table, measured[table.name])}", flush=True)
                results.save(kept, measured)
    print(f"\nthis took {time.monotonic() - began:.0f} seconds", flush=True)
    if options.write and code == 0:
        report.write(measured, size)
    return code


def _measure(table: Table, setting: Setting, rounds: int) -> Measured:
    rounds = min(rounds, table.most_rounds)
    measured = Measured.begin(table, rounds)
    with STAGES[table.stage](table, setting) as stage:
        contenders = [c for c in table.contenders if not c.needs or shutil.which(c.needs)]
        for contender in (c for c in table.contenders if c not in contenders):
            print(f"\n{contender.label}: skipped: needs {contender.needs}", flush=True)
        # The first run of each is looked at, and not timed: it warms the caches for all.
        for contender in contenders:
            stage.run(contender, check=True)
            row = Row(contender.label, contender.x, stage.data_bytes(contender))
            measured.rows[contender.label] = row
        for _ in range(rounds):
            for contender in contenders:
                measured.rows[contender.label].outcomes.append(stage.run(contender, check=False))
    return measured
