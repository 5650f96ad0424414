"""Sizes, rates, durations and times, as people read and write them."""

from __future__ import annotations

import argparse
import re

from .._readable import duration_text, rate_text, size_text, time_text

__all__ = ["amount", "duration_text", "rate_text", "size_text", "time_text"]

# What `tapestream.RateLimit` takes at least.
SLOWEST = 4096
_UNITS = {
    "": 1,
    **{letter: 1000**power for power, letter in enumerate("kMGT", start=1)},
    **{f"{letter}i": 1024**power for power, letter in enumerate("KMGT", start=1)},
}


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


def rate(text: str) -> int:
    """Read a limit of bytes per second: the `type=` of an argument."""
    found = amount(text)
    if found < SLOWEST:
        raise argparse.ArgumentTypeError(
            f"{text!r} is too slow: the lowest limit is {SLOWEST} bytes per second, and without "
            "this option there is none"
        )
    return found
