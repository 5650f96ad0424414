"""Run one job, read from standard input."""

import json
import sys
from importlib import import_module
from types import SimpleNamespace


def main() -> None:
    # A `benchmarks.model.Job`, whose import would count as the contender's.
    job = SimpleNamespace(**json.load(sys.stdin))
    module, _, function = job.program.partition(".")
    getattr(import_module(f"benchmarks.contenders.{module}"), function)(job)


if __name__ == "__main__":
    main()
