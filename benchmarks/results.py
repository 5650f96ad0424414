"""What was measured, kept as JSON between runs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.model import GIB, Outcome, Table


@dataclass
class Row:
    """The outcomes of one contender."""

    label: str
    x: float
    data_bytes: int
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def rates(self) -> list[float]:
        """Bytes of data per second, round by round."""
        return [self.data_bytes / outcome.seconds for outcome in self.outcomes]

    @property
    def rate(self) -> float:
        """The median."""
        return median(self.rates)

    @property
    def seconds(self) -> float:
        """The median."""
        return median(outcome.seconds for outcome in self.outcomes)

    @property
    def cpu(self) -> float:
        """Median of the CPU seconds of the client per GiB of data."""
        return median(outcome.cpu for outcome in self.outcomes) * GIB / self.data_bytes

    @property
    def servers(self) -> float:
        """The same of all other processes of the machine: the daemon and qemu-nbd."""
        used = median(outcome.machine - outcome.cpu for outcome in self.outcomes)
        return max(0.0, used) * GIB / self.data_bytes

    @property
    def busy(self) -> float:
        """Median of how many processors of the machine were busy."""
        return median(outcome.machine / outcome.seconds for outcome in self.outcomes)

    @property
    def peak(self) -> int:
        """The largest of all rounds, in bytes."""
        return max(outcome.peak for outcome in self.outcomes)


@dataclass
class Measured:
    """The rows of one table.

    Attributes:
        name: That of the table.
        rounds: How many outcomes each row has.
        date: Of the measurement.
        took: Seconds for all of it, with the preparations.
        rows: By label.
    """

    name: str
    rounds: int
    date: str
    rows: dict[str, Row]
    took: float = 0

    @classmethod
    def begin(cls, table: Table, rounds: int) -> Measured:
        today = datetime.now(timezone.utc).date().isoformat()
        return cls(table.name, rounds, today, {})


def load(path: Path) -> dict[str, Measured]:
    """Read what was saved; nothing if there is nothing."""
    if not path.exists():
        return {}
    return {name: _measured(values) for name, values in json.loads(path.read_text()).items()}


def save(path: Path, results: dict[str, Measured]) -> None:
    path.write_text(json.dumps({name: asdict(m) for name, m in results.items()}, indent=1))


def _measured(values: dict[str, Any]) -> Measured:
    rows = {}
    for label, row in values.pop("rows").items():
        outcomes = [Outcome(**outcome) for outcome in row.pop("outcomes")]
        rows[label] = Row(**row, outcomes=outcomes)
    return Measured(**values, rows=rows)
