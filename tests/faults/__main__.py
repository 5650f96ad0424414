"""Run faults by hand: `python -m tests.faults [NUMBER [FIRST]]`, and say how they ended."""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from .judge import WrongEndError
from .matrix import FAULTS, Case, Laboratory


def main() -> int:
    number = int(sys.argv[1]) if sys.argv[1:] else 100
    first = int(sys.argv[2]) if sys.argv[2:] else 0
    ends: dict[str, Counter[str]] = {name: Counter() for name in FAULTS}
    wrong = 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tapestream-faults-") as directory:
        laboratory = Laboratory(Path(directory))
        try:
            for seed in range(first, first + number):
                case = Case.of(seed)
                try:
                    outcome = laboratory.run(case)
                except WrongEndError as e:
                    wrong += 1
                    ends[case.fault]["WRONG"] += 1
                    print(f"WRONG {case}: {e}", flush=True)
                else:
                    ends[case.fault][outcome.kind] += 1
        finally:
            laboratory.close()
    print(f"\n{'what happened':30} {'cases':>5} {'right':>5}  ended with")
    for name, counts in ends.items():
        others = ", ".join(f"{kind} {n}" for kind, n in counts.most_common() if kind != "right")
        print(f"{name:30} {sum(counts.values()):5} {counts['right']:5}  {others}")
    print(f"{number} cases in {time.monotonic() - began:.0f} s, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
