"""Sizes, rates, durations and times, as people read and write them."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

_UNITS = {
    "": 1,
    **{letter: 1000**power for power, letter in enumerate("kMGT", start=1)},
    **{f"{letter}i": 1024**power for power, letter in enumerate("KMGT", start=1)},
}


def size_text(size: int) -> str:
    """A size of a disk or a file, such as "1.5 GiB"."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        # 1023.96 KiB would be shown as "1024.0 KiB".
        if round(size / 1024**power, 1) >= 1:
            return f"{size / 1024**power:.1f} {unit}"
    return f"{size} B"


def rate_text(rate: float) -> str:
    """Bytes per second, such as "112 MB/s"."""
    return f"{rate / 1e6:.0f} MB/s" if rate >= 10e6 else f"{rate / 1e6:.1f} MB/s"


def duration_text(seconds: float) -> str:
    """A duration, such as "1:02:03"."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}"


def time_text(time: datetime | None) -> str:
    """A time in the local time zone, as --at takes it; "-" if it is not known."""
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S}" if time is not None else "-"


def amount(text: str) -> int:
    """Read a number of bytes: the `type=` of an argument, such as "100M" or "2Gi"."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kKMGT]?i?)(?:B(?:/s)?)?", text)
    unit = match[2] if match else ""
    factor = _UNITS.get("k" if unit == "K" else unit)
    if match is None or factor is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of bytes, such as 500000, 100M or 2Gi"
        )
    return int(float(match[1]) * factor)
