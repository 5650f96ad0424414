"""How fast a copy was, over time, and when it waited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tapestream

from .._readable import rate_text, seconds_text
from .._typing import override
from .card import WIDTH, Key, Page, Part, legend, quoted, spread, svg

# Steps of the curve, each four pixels wide.
_STEP = 4
_STEPS = WIDTH // _STEP
_HEIGHT = 80
_LEVELS, _ASCII_LEVELS = "▁▂▃▄▅▆▇█", "_.-=+*#@"
# Below this many samples there is no curve: the copy was too short.
_LEAST = 5
# A step in which the copy waited for more than this part of the time is marked.
_WAITED = 0.1
_WAIT_COLOR = "#d9822b"


@dataclass(frozen=True)
class Curve(Part):
    """The curve.

    Attributes:
        samples: Those of a `CopyResult`.
    """

    samples: Sequence[tapestream.CopySample]

    @override
    def html(self) -> str:
        if len(self.samples) < _LEAST:
            return ""
        rates, waits = _steps(self.samples, _STEPS)
        top = max(rates) or 1.0
        path, before = [f"M0 {_HEIGHT}"], 0
        for i, rate in enumerate(rates):
            pixels = round(rate / top * (_HEIGHT - 4))
            if pixels != before:
                path.append(f"H{_STEP * i}V{_HEIGHT - pixels}")
                before = pixels
        area = "".join([*path, f"H{WIDTH}V{_HEIGHT}z"])
        marks = "".join(
            f"M{_STEP * i} {_HEIGHT + 2}h{_STEP}v6h-{_STEP}z"
            for i, wait in enumerate(waits)
            if wait
        )
        axis = f'<path fill-opacity="0.5" d="M0 {_HEIGHT}h{WIDTH}v1H0z"/>'
        inner = f'<path fill="#3f88c5" d="{area}"/>{axis}<path fill="{_WAIT_COLOR}" d="{marks}"/>'
        what = f"rate over time, up to {rate_text(top)}"
        return (
            f"<div>{quoted(what)}</div>"
            + svg(WIDTH, _HEIGHT + 8, what, inner)
            + spread("0", seconds_text(self.samples[-1].seconds))
            + (legend([Key("waited", _WAIT_COLOR, mark="\N{LOWER HALF BLOCK}")]) if marks else "")
        )

    @override
    def text(self, page: Page) -> list[str]:
        if len(self.samples) < _LEAST:
            return []
        rates, waits = _steps(self.samples, min(page.width - 30, 60))
        top = max(rates) or 1.0
        levels = page.drawn(_LEVELS, _ASCII_LEVELS)
        drawn = "".join(
            levels[min(len(levels) - 1, int(rate / top * len(levels)))] for rate in rates
        )
        lines = [f"  rate    {drawn}  up to {rate_text(top)}"]
        if any(waits):
            mark = page.drawn("▲", "x")
            lines.append(f"  waited  {''.join(mark if wait else ' ' for wait in waits)}".rstrip())
        return lines


def _steps(samples: Sequence[tapestream.CopySample], count: int) -> tuple[list[float], list[bool]]:
    """The rate in each of some equal steps of time, and whether the copy waited in it."""
    end = samples[-1].seconds or 1.0
    done = [_at(samples, end * i / count) for i in range(count + 1)]
    rates = [(done[i + 1][0] - done[i][0]) * count / end for i in range(count)]
    waits = [(done[i + 1][1] - done[i][1]) * count / end > _WAITED for i in range(count)]
    return rates, waits


def _at(samples: Sequence[tapestream.CopySample], seconds: float) -> tuple[float, float]:
    """The bytes and the wait until a point in time, between two samples."""
    after = next((i for i, each in enumerate(samples) if each.seconds >= seconds), -1)
    b, a = samples[after], samples[max(after - 1, 0)] if after >= 0 else samples[-1]
    part = (seconds - a.seconds) / (b.seconds - a.seconds) if b.seconds > a.seconds else 1.0
    part = min(max(part, 0.0), 1.0)
    return (
        a.data_bytes + part * (b.data_bytes - a.data_bytes),
        a.waited + part * (b.waited - a.waited),
    )
