"""Bar charts and curves as SVG, readable on light and on dark pages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 720
LABELS = 190
ROW = 28
TOP = 40

STYLE = """\
<style>
  text { font: 13px sans-serif; fill: #24292f; }
  .title { font-weight: bold; }
  .ours { fill: #0969da; }
  .peer { fill: #8c959f; }
  .line { fill: none; stroke: #0969da; stroke-width: 2; }
  .mark { stroke: #24292f; }
  .grid { stroke: #8c959f; stroke-opacity: 0.4; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .ours { fill: #4493f8; }
    .peer { fill: #6e7681; }
    .line { stroke: #4493f8; }
    .mark { stroke: #e6edf3; }
  }
</style>"""


@dataclass(frozen=True)
class Bar:
    """A bar, with its value and the range that it was measured in."""

    label: str
    value: float
    span: tuple[float, float]
    ours: bool


def bars(title: str, rows: Sequence[Bar]) -> str:
    """A horizontal bar for each row, with a mark from its smallest to its largest value."""
    scale = (WIDTH - LABELS - 70) / max(row.span[1] for row in rows)
    shapes = [_text(10, 22, title, kind="title")]
    for i, row in enumerate(rows):
        y, middle = TOP + i * ROW, TOP + i * ROW + 10
        low, high = (LABELS + value * scale for value in row.span)
        shapes += [
            _text(LABELS - 8, y + 15, row.label, anchor="end"),
            _bar("ours" if row.ours else "peer", LABELS, y, row.value * scale),
            _line("mark", low, middle, high, middle),
            _text(max(high, LABELS + row.value * scale) + 8, y + 15, f"{row.value:.0f}"),
        ]
    return _svg(TOP + len(rows) * ROW + 10, title, shapes)


def curve(title: str, axis: str, points: Sequence[tuple[float, float]]) -> str:
    """Values over a logarithmic x axis; the y axis begins at 0."""
    left, right, bottom, height = 60, WIDTH - 50, 250, 300
    first, last = math.log(points[0][0]), math.log(points[-1][0])
    top = max(y for _, y in points) * 1.1

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log(x) - first) / (last - first)
        return left + across * (right - left), bottom - y / top * (bottom - TOP)

    placed = [place(x, y) for x, y in points]
    shapes = [_text(10, 22, title, kind="title"), _line("grid", left, bottom, right, bottom)]
    shapes.append(_text((left + right) / 2, height - 10, axis, anchor="middle"))
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
    shapes.append(f'<polyline class="line" points="{path}"/>')
    for (x, y), (left_of, above) in zip(points, placed, strict=True):
        shapes += [
            _line("grid", left_of, TOP, left_of, bottom),
            f'<circle class="ours" cx="{left_of:.1f}" cy="{above:.1f}" r="4"/>',
            _text(left_of, bottom + 18, f"{x:,g}" if x < 1e4 else f"{x:,.0f}", anchor="middle"),
            _text(left_of, above - 9, f"{y:.3g}" if y < 100 else f"{y:.0f}", anchor="middle"),
        ]
    return _svg(height, title, shapes)


def _svg(height: int, title: str, shapes: Iterable[str]) -> str:
    body = "\n".join(shapes)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img" aria-label="{escape(title)}">\n'
        f"{STYLE}\n{body}\n</svg>\n"
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", kind: str = "") -> str:
    kind = f' class="{kind}"' if kind else ""
    return f'<text{kind} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _bar(kind: str, x: float, y: float, width: float) -> str:
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{width:.1f}" height="20"/>'


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    where = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line class="{kind}" {where}/>'
