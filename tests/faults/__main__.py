"""Run faults by hand: `python -m tests.faults [NUMBER [FIRST [WORKERS]]]`, and say how they ended.

The table that it prints is the one in docs/reliability.md.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from .judge import WrongEndError
from .matrix import FAULTS, Case, Laboratory

WRONG = "**wrong**"


def main() -> int:
    number, first, workers = (
        int(sys.argv[i]) if sys.argv[i:] else default for i, default in ((1, 100), (2, 0), (3, 2))
    )
    began = time.monotonic()
    seeds = range(first, first + number)
    with ProcessPoolExecutor(workers) as pool:
        ends = [
            end
            for ends in pool.map(_run, (seeds[i::workers] for i in range(workers)))
            for end in ends
        ]
    print(f"\n{_table(ends)}\n")
    wrong = sum(kind == WRONG for _, kind in ends)
    print(f"{number} copies in {time.monotonic() - began:.0f} s, {wrong} wrong")
    return 1 if wrong else 0


def _run(seeds: Sequence[int]) -> list[tuple[str, str]]:
    """Run the cases of some seeds: what happened in each, and how it ended."""
    ends = []
    with tempfile.TemporaryDirectory(prefix="tapestream-faults-") as directory:
        laboratory = Laboratory(Path(directory))
        try:
            for seed in seeds:
                case = Case.of(seed)
                try:
                    kind = laboratory.run(case).kind
                except WrongEndError as e:
                    kind = WRONG
                    print(f"WRONG {case}: {e}", flush=True)
                ends.append((case.fault, kind))
        finally:
            laboratory.close()
    return ends


def _table(ends: Sequence[tuple[str, str]]) -> str:
    lines = ["| what happened | copies | right | ended with |", "|---|---:|---:|---|"]
    for name in FAULTS:
        kinds = Counter(kind for fault, kind in ends if fault == name)
        others = ", ".join(f"{kind} {n}" for kind, n in kinds.most_common() if kind != "right")
        lines.append(f"| {name} | {sum(kinds.values())} | {kinds['right']} | {others} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
