"""A disk as one strip: where its data is, or what is wrong, from its first byte to its last."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from .._readable import size_text
from .._typing import override
from .card import BAD, THIN, WIDTH, Key, Page, Part, fitted, legend, spread, svg

# Parts of the disk that a strip shows, each two pixels wide.
PARTS = 320
_PART, _HEIGHT = WIDTH // PARTS, 40
# If only so few parts have something of a kind, arrows below the strip point at them.
_FEW = 8


@dataclass(frozen=True)
class Layer:
    """What a strip shows of one kind.

    Attributes:
        name: The kind.
        shares: How much of each of `PARTS` parts of the disk is of this kind, from 0 to 1.
        color: Its color.
        opacity: From 0 to 1.
        marks: Characters for it, from a small share to all of a part.
        ascii_marks: The same in ASCII.
        mark_height: Draw each part in this height, however small the share is: it must be seen. 0
            to draw the share itself.
    """

    name: str
    shares: list[float]
    color: str
    marks: str
    ascii_marks: str
    opacity: float = 1.0
    mark_height: float = 0.0


def data_layer(shares: list[float]) -> Layer:
    """The data of a disk."""
    return Layer("data", shares, "#3f88c5", "░▒▓█", ":+*#")


def clean_layer(shares: list[float]) -> Layer:
    """What has not changed since the parent backup."""
    return Layer("unchanged", shares, "currentColor", "·", ".", opacity=0.25)


def bad_layer(
    name: str, shares: list[float], *, mark: str, color: str = BAD, height: float = 1.0
) -> Layer:
    """What is wrong. Two kinds differ in height, too: not everybody can tell their colors apart."""
    return Layer(name, shares, color, mark, mark, mark_height=height)


@dataclass(frozen=True)
class Strip(Part):
    """The strip.

    Attributes:
        size: Size of the disk in bytes.
        layers: What is shown. In HTML, shares are stacked from the bottom, the first one lowest.
            In text, of two kinds in the same part, the first one is shown.
        rest: What the blank parts are.
    """

    size: int
    layers: tuple[Layer, ...]
    rest: str = ""

    @override
    def html(self) -> str:
        if not self.size:
            return ""
        frame = (
            f'<rect width="{WIDTH}" height="{_HEIGHT}" fill-opacity="0.05" stroke="currentColor" '
            f'stroke-opacity="0.5" {THIN}/>'
        )
        areas = []
        below = [0.0] * PARTS
        for layer in self._seen():
            look = f'fill="{layer.color}" fill-opacity="{layer.opacity:g}"'
            if layer.mark_height:
                bars = _bars(layer)
                areas.append(f'<path {look} stroke="{layer.color}" {THIN} d="{bars}"/>')
            else:
                heights = [
                    low + share if share > 0 else 0.0
                    for low, share in zip(below, layer.shares, strict=True)
                ]
                below = [max(low, top) for low, top in zip(below, heights, strict=True)]
                areas.append(f'<path {look} d="{_area(heights)}"/>')
        areas.reverse()  # what is lower is drawn over what is stacked on it
        arrows = "".join(map(_arrows, self._seen()))
        what = "map of the disk: " + ", ".join(layer.name for layer in self._seen())
        height = _HEIGHT + (8 if arrows else 1)
        return (
            svg(WIDTH, height, what, frame + "".join(areas) + arrows)
            + spread("0", size_text(self.size / 2), size_text(self.size))
            + legend(self._keys())
        )

    @override
    def text(self, page: Page) -> list[str]:
        if not self.size:
            return []
        width = page.width - 4
        marks = [" "] * width
        for layer in reversed(self.layers):
            ramp = layer.ascii_marks if page.ascii_only else layer.marks
            for i, share in enumerate(_resampled(layer.shares, width)):
                if share > 0:
                    # Little is shown, too: only a part without any is blank.
                    marks[i] = ramp[min(len(ramp) - 1, int(share * len(ramp)))]
        edge = page.drawn("▏", "|"), page.drawn("▕", "|")
        end = size_text(self.size)
        legend = [
            f"{(layer.ascii_marks if page.ascii_only else layer.marks)[-1]} {layer.name}"
            for layer in self._seen()
        ]
        if self.rest:
            legend.append(f"blank: {self.rest}")
        return [
            f" {edge[0]}{''.join(marks)}{edge[1]}",
            f"  0{end:>{width - 1}}",
            fitted(f"  {'   '.join(legend)}", page),
        ]

    def _seen(self) -> list[Layer]:
        return [layer for layer in self.layers if any(layer.shares)]

    def _keys(self) -> Iterator[Key]:
        for layer in self._seen():
            is_low = 0 < layer.mark_height < 1
            mark = "\N{LOWER HALF BLOCK}" if is_low else "\N{BLACK SQUARE}"
            yield Key(layer.name, layer.color, layer.opacity, mark)
        if self.rest:
            yield Key(self.rest, mark="\N{WHITE SQUARE}")


def shares_of(ranges: Iterable[tuple[int, int]], size: int) -> list[float]:
    """How much of each of `PARTS` parts of a disk is in some ranges.

    Args:
        ranges: (start, length) of each, not overlapping.
        size: Size of the disk in bytes. It may be 0.
    """
    shares = [0.0] * PARTS
    if not size:
        return shares
    for start, length in ranges:
        first, end = start * PARTS / size, min((start + length) * PARTS / size, PARTS)
        i = int(first)
        while i < end:
            shares[i] += min(end, i + 1) - max(first, i)
            i += 1
    return [min(share, 1.0) for share in shares]


def _area(heights: list[float]) -> str:
    """The outline of steps of these heights, as the path of an SVG."""
    path, before = [f"M0 {_HEIGHT}"], 0
    for i, height in enumerate(heights):
        # One pixel can hardly be seen; two can.
        pixels = max(2, round(min(height, 1.0) * _HEIGHT)) if height > 0 else 0
        if pixels != before:
            path.append(f"H{_PART * i}V{_HEIGHT - pixels}")
            before = pixels
    return "".join([*path, f"H{WIDTH}V{_HEIGHT}z"])


def _bars(layer: Layer) -> str:
    """A bar for all parts next to each other that have something of a kind, as a path."""
    top = _HEIGHT - round(layer.mark_height * _HEIGHT)
    return "".join(
        f"M{_PART * first} {_HEIGHT}V{top}h{_PART * count}V{_HEIGHT}z"
        for first, count in _runs(layer)
    )


def _runs(layer: Layer) -> Iterator[tuple[int, int]]:
    """(first, count) of all parts next to each other that have something of a kind."""
    for is_seen, parts in groupby(range(PARTS), key=lambda i: layer.shares[i] > 0):
        numbers = list(parts)
        if is_seen:
            yield numbers[0], len(numbers)


def _arrows(layer: Layer) -> str:
    """Arrows that point at the parts of a kind, if these are only a few."""
    runs = list(_runs(layer))
    if sum(count for _, count in runs) > _FEW or layer.opacity < 1:
        return ""
    path = "".join(
        f"M{_PART * first + _PART * count // 2} {_HEIGHT + 1}l4 7h-8z" for first, count in runs
    )
    return f'<path fill="{layer.color}" d="{path}"/>'


def _resampled(shares: list[float], width: int) -> list[float]:
    """The same shares in another number of parts."""
    found = []
    for i in range(width):
        first, end = i * len(shares) / width, (i + 1) * len(shares) / width
        total, number = 0.0, int(first)
        while number < end and number < len(shares):
            total += shares[number] * (min(end, number + 1) - max(first, number))
            number += 1
        found.append(total / (end - first))
    return found
