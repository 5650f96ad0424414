"""Charts as SVG, readable on light and on dark pages.

One shows how far ahead or behind we are, the other what processors do during a backup.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

# Narrow, so that a phone shows it without making the letters much smaller.
WIDTH = 440
LEFT, RIGHT = 172, 386  # where the bars may be
STACKS = 104  # where the bars of parts begin
LETTER = 6.5  # about as wide as one
ROW, HEADING, TOP, BOTTOM = 19, 26, 62, 22

STYLE = """\
<style>
  text { font: 12px sans-serif; fill: #24292f; }
  .heading { font-weight: bold; }
  .scale { font-size: 11px; fill: #57606a; }
  .missed { font-weight: bold; fill: #bc4c00; }
  .ahead { fill: #0969da; }
  .behind { fill: #e16f24; }
  .part1 { fill: #54aeff; }
  .part2 { fill: #4ac26b; }
  .part3 { fill: #eac54f; }
  .part4 { fill: #afb8c1; }
  .grid { stroke: #8c959f; stroke-opacity: 0.35; }
  .even { stroke: #57606a; }
  .wanted { stroke: #24292f; stroke-width: 2.5; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .scale { fill: #9198a1; }
    .missed { fill: #ffa657; }
    .ahead { fill: #4493f8; }
    .behind { fill: #db6d28; }
    .part1 { fill: #1f6feb; }
    .part2 { fill: #2ea043; }
    .part3 { fill: #9e6a03; }
    .part4 { fill: #6e7681; }
    .even { stroke: #9198a1; }
    .wanted { stroke: #e6edf3; }
  }
</style>"""


@dataclass(frozen=True)
class Bar:
    """A case.

    Attributes:
        group: The heading that it is under.
        label: Which case of these.
        ratio: How many times better than the peer we are; below 1, worse.
        wanted: What we want that to be; None if we do not say.
    """

    group: str
    label: str
    ratio: float
    wanted: float | None


@dataclass(frozen=True)
class Stack:
    """A bar of parts.

    Attributes:
        group: The heading that it is under.
        label: What it is about.
        parts: How large each part is.
    """

    group: str
    label: str
    parts: Sequence[float]


def overview(title: str, bars: Sequence[Bar]) -> str:
    """A bar for each case, to the right from 1.0 where we are ahead, to the left where behind.

    The scale is logarithmic: twice as good is as far from 1.0 as half as good.
    """
    values = [1.0, *(b.ratio for b in bars), *(b.wanted for b in bars if b.wanted)]
    scale = _Scale(min(0.5, *values), max(4.0, *values))
    y = float(TOP)
    rows: list[str] = []
    group = ""
    for bar in bars:
        if bar.group != group:
            group = bar.group
            y += HEADING
            rows.append(_text(6, y - 8, group, kind="heading"))
        rows += _row(bar, scale, y)
        y += ROW
    legend = [
        _text(6, 18, title, kind="heading"),
        _rect("ahead", 6, 28, 12),
        _text(22, 38, "ahead"),
        _rect("behind", 68, 28, 12),
        _text(84, 38, "behind"),
        _line("wanted", 140, 26, 140, 42),
        _text(148, 38, "target"),
        _text(196, 38, "1.23", kind="missed"),
        _text(226, 38, "target missed"),
    ]
    shapes = [*legend, *_grid(scale, y), *rows]
    height = round(y + BOTTOM)
    return _document(title, height, shapes)


def stacked(title: str, parts: Sequence[str], stacks: Sequence[Stack], unit: str) -> str:
    """A bar for each stack, of its parts from left to right. Up to four parts have a colour."""
    most = max(sum(stack.parts) for stack in stacks)
    shapes = [_text(6, 18, title, kind="heading"), *_legend(parts)]
    y = float(TOP - 8)
    group = ""
    for stack in stacks:
        if stack.group != group:
            group = stack.group
            y += HEADING
            shapes.append(_text(6, y - 8, group, kind="heading"))
        shapes.append(_text(STACKS - 6, y + 12, stack.label, anchor="end"))
        x = float(STACKS)
        for number, part in enumerate(stack.parts, 1):
            width = part / most * (RIGHT - STACKS)
            shapes.append(_rect(f"part{number}", x, y + 2, width))
            x += width
        shapes.append(_text(x + 6, y + 12, f"{sum(stack.parts):.1f} {unit}"))
        y += ROW
    return _document(title, round(y + 8), shapes)


def _document(title: str, height: int, shapes: Sequence[str]) -> str:
    body = "\n".join(shapes)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img" aria-label="{escape(title)}">\n'
        f"{STYLE}\n{body}\n</svg>\n"
    )


def _legend(parts: Sequence[str]) -> Iterator[str]:
    x = 6.0
    for number, part in enumerate(parts, 1):
        yield _rect(f"part{number}", x, 28, 12)
        yield _text(x + 16, 38, part)
        x += 34 + LETTER * len(part)


class _Scale:
    """Where a ratio is, from left to right."""

    def __init__(self, least: float, most: float) -> None:
        self.least, self.most = least, most

    def __call__(self, ratio: float) -> float:
        across = math.log(ratio / self.least) / math.log(self.most / self.least)
        return LEFT + across * (RIGHT - LEFT)


def _grid(scale: _Scale, bottom: float) -> Iterator[str]:
    exponents = range(math.ceil(math.log2(scale.least)), math.floor(math.log2(scale.most)) + 1)
    for ratio in (2.0**exponent for exponent in exponents):
        x = scale(ratio)
        yield _line("even" if ratio == 1 else "grid", x, TOP, x, bottom)
        for y in (TOP - 5, bottom + 15):
            yield _text(x, y, f"{ratio:g}x", anchor="middle", kind="scale")


def _row(bar: Bar, scale: _Scale, y: float) -> Iterator[str]:
    even, end = scale(1), scale(bar.ratio)
    missed = bar.wanted is not None and bar.ratio < bar.wanted
    yield _text(LEFT - 6, y + 12, bar.label, anchor="end")
    kind = "ahead" if bar.ratio >= 1 else "behind"
    yield _rect(kind, min(even, end), y + 2, max(abs(end - even), 1))
    if bar.wanted is not None:
        yield _line("wanted", scale(bar.wanted), y, scale(bar.wanted), y + ROW - 3)
    value = f"{bar.ratio:.2f}" if bar.ratio < 10 else f"{bar.ratio:.0f}"
    yield _text(WIDTH - 6, y + 12, value, anchor="end", kind="missed" if missed else "")


def _text(x: float, y: float, text: str, *, anchor: str = "start", kind: str = "") -> str:
    kind = f' class="{kind}"' if kind else ""
    return f'<text{kind} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _rect(kind: str, x: float, y: float, width: float) -> str:
    where = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}"'
    return f'<rect class="{kind}" {where} height="12"/>'


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    where = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line class="{kind}" {where}/>'
