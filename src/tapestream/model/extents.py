"""Extents: which parts of a disk are data, zeros, or unchanged; parsed from imageio's JSON.

imageio lists the whole disk, from 0 to its size, without gaps (ovirt-imageio docs, "extents").
The list of a large disk has a million entries, so `Extents` keeps columns, not objects.
"""

from __future__ import annotations

import io
import json
import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from itertools import chain, compress, islice
from operator import sub
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, overload

from .._readable import size_text
from .._shown import Shown
from .._typing import override
from ..errors import ExtentsError
from .info import Context

if TYPE_CHECKING:
    Starts: TypeAlias = array[int]
else:
    Starts = array  # it takes no type before Python 3.12

# A disk larger than this could not be addressed by the kernel, nor by our columns.
MAX_OFFSET = 2**63 - 1


class Kind(IntEnum):
    """What a copy does with an extent."""

    DATA = 0
    """Its bytes are transferred."""
    ZERO = 1
    """It reads as zeros: the target must read as zeros there."""
    CLEAN = 2
    """Unchanged since the parent checkpoint: the target is left alone."""


@dataclass(frozen=True)
class Extent:
    """A stretch of a disk.

    Args:
        start: Offset of its first byte in the disk.
        length: Its length in bytes, at least 1.
        zero: True if it reads as zeros.
        hole: True if it is not allocated (qcow2 without a backing chain); None if the server did
            not say, as old servers do.
        dirty: True if it changed since the parent checkpoint; None in a full backup.
    """

    start: int
    length: int
    zero: bool = False
    hole: bool | None = None
    dirty: bool | None = None

    @property
    def kind(self) -> Kind:
        """Data, zero or clean."""
        return _kind(zero=self.zero, dirty=self.dirty)

    def to_dict(self) -> dict[str, Any]:
        """The extent as imageio writes it."""
        values: dict[str, Any] = {"start": self.start, "length": self.length, "zero": self.zero}
        if self.hole is not None:
            values["hole"] = self.hole
        if self.dirty is not None:
            values["dirty"] = self.dirty
        return values


class Segment(NamedTuple):
    """A stretch of one data extent: the unit of a digest."""

    start: int
    length: int


def cut(start: int, length: int, size: int) -> Iterator[Segment]:
    """Cut a stretch into segments of `size` bytes, counted from its start; the last is shorter."""
    for offset in range(0, length, size):
        yield Segment(start + offset, min(size, length - offset))


# Start, length and kind of an extent.
Run = tuple[int, int, Kind]


def within(starts: Starts, size: int, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (number, start, length) of every stretch between two offsets, cut there.

    Args:
        starts: Where each stretch begins; it ends where the next one begins.
        size: Where the last stretch ends.
        start: The first of the two offsets.
        end: The second.
    """
    for i in range(max(0, bisect_right(starts, start) - 1), len(starts)):
        first = max(starts[i], start)
        if first >= end:
            return
        last = starts[i + 1] if i + 1 < len(starts) else size
        if first < last:
            yield i, first, min(last, end) - first


class Tally(NamedTuple):
    """A number of extents, and the bytes in all of them together."""

    extents: int
    bytes: int


_ZERO, _HOLE, _HOLE_KNOWN, _DIRTY, _DIRTY_KNOWN = 1, 2, 4, 8, 16


def _kind(*, zero: bool, dirty: bool | None) -> Kind:
    if dirty is False:
        return Kind.CLEAN
    return Kind.ZERO if zero else Kind.DATA


def _dirty(flags: int) -> bool | None:
    return bool(flags & _DIRTY) if flags & _DIRTY_KNOWN else None


_KINDS = tuple(_kind(zero=bool(flags & _ZERO), dirty=_dirty(flags)) for flags in range(32))
# For each kind, a table that translates flags to 1 or 0.
_IS = {kind: bytes(each is kind for each in _KINDS).ljust(256, b"\0") for kind in Kind}


class Extents(Shown, Sequence[Extent]):
    """A checked, immutable list of extents that covers a disk from 0 to its size.

    Made by `Extents.parse` from imageio's JSON, by `Extents.of` from `Extent` objects, or by
    `Extents.of_runs` from what `runs` yields.

    Attributes:
        size: Size of the disk in bytes: where the last extent ends.
    """

    def __init__(self, starts: Starts, flags: bytes, size: int, text: bytes | None) -> None:
        self._starts = starts
        self._flags = flags
        self.size = size
        self._text = text

    @classmethod
    def parse(cls, text: bytes, *, context: Context = "zero") -> Extents:
        """Parse and check imageio's extents JSON.

        Args:
            text: The JSON.
            context: "dirty" requires the key `dirty` in every extent. Old servers leave out `zero`
                and `hole`: without `zero` an extent is data, and without `hole` it may be a hole.

        Raises:
            ExtentsError: The text is not JSON, or the list does not describe a disk.
        """
        dirty = context == "dirty"
        try:
            return _parse_at_once(text, dirty=dirty)
        except (ExtentsError, ValueError, RecursionError):
            # Find out what is wrong, and where. Perhaps nothing is: the fast parser mistakes an
            # object inside an extent, under a key that we do not know, for one more extent.
            return _parse_one_by_one(text, dirty=dirty)

    @classmethod
    def of(cls, extents: Iterable[Extent], *, context: Context | None = None) -> Extents:
        """Check a list of `Extent` objects; an `Extents` is returned as it is.

        Args:
            extents: The list.
            context: In "dirty" all extents must say if they are dirty; in "zero" none may say it.
                None allows both.

        Raises:
            ExtentsError: The list does not describe a disk, or does not fit the context.
        """
        if not isinstance(extents, Extents):
            listed = list(extents)
            for i, extent in enumerate(listed, 1):
                if not isinstance(extent, Extent):
                    raise ExtentsError(f"extent {i} is a {type(extent).__name__}, not an Extent")
            dicts = [extent.to_dict() for extent in listed]
            builder = _Builder(dirty=any(extent.dirty is not None for extent in listed))
            for item in dicts:
                builder.collect(item)
            extents = builder.build(json.dumps(dicts).encode())
        dirty = bool(extents) and extents[0].dirty is not None
        if context is not None and extents and dirty is not (context == "dirty"):
            says = "say" if dirty else "do not say"
            raise ExtentsError(f"the extents {says} what is dirty, in context {context!r}")
        return extents

    @classmethod
    def of_runs(cls, runs: Iterable[Run]) -> Extents:
        """Make the extents of a full disk from ordered runs without gaps, which are data or zeros.

        Neighbours of the same kind become one extent.
        """
        starts, flags, end = array("q"), bytearray(), 0
        for start, length, kind in runs:
            flag = _ZERO if kind is Kind.ZERO else 0
            if not flags or flags[-1] != flag:
                starts.append(start)
                flags.append(flag)
            end = start + length
        return cls(starts, bytes(flags), end, None)

    @property
    def json(self) -> bytes:
        """The list as JSON. What a server sent is kept as it is, with keys that we do not know."""
        if self._text is None:
            text = io.BytesIO()  # a list of a million strings would take more memory than the text
            for i, extent in enumerate(self):
                text.write(b"," if i else b"[")
                text.write(json.dumps(extent.to_dict()).encode())
            text.write(b"]" if self else b"[]")
            self._text = text.getvalue()
        return self._text

    def runs(self) -> Iterator[Run]:
        """Yield (start, length, kind) of every extent: the cheap way to walk a million."""
        starts = self._starts
        last = len(starts) - 1
        for i, start in enumerate(starts):
            end = starts[i + 1] if i < last else self.size
            yield start, end - start, _KINDS[self._flags[i]]

    def within(self, start: int, end: int) -> Iterator[Run]:
        """Yield what lies between two offsets of the disk, cut there."""
        for i, first, length in within(self._starts, self.size, start, end):
            yield first, length, _KINDS[self._flags[i]]

    def cut(self, size: int) -> Extents:
        """The extents of the first `size` bytes of the disk; size must be less than its own."""
        count = bisect_left(self._starts, size)
        return Extents(self._starts[:count], self._flags[:count], size, None)

    def tally(self, kind: Kind) -> Tally:
        """How many extents are of a kind, and how many bytes they have together.

        This is counted only once: a copy needs it in several places, and there may be a million
        extents.
        """
        return self._tallies[kind]

    @cached_property
    def _tallies(self) -> dict[Kind, Tally]:
        found = {}
        for kind in Kind:
            is_kind = self._is(kind)
            found[kind] = Tally(is_kind.count(1), self._sum(is_kind, 0, len(self)))
        return found

    def lengths(self, kind: Kind) -> Iterator[int]:
        """Yield the length of each extent of a kind, in order."""
        ends = chain(islice(self._starts, 1, None), (self.size,))
        return compress(map(sub, ends, self._starts), self._is(kind))

    def shares(self, kind: Kind, count: int) -> list[float]:
        """Cut the disk into parts of the same size, and find out how much of each is of a kind.

        Args:
            kind: The kind.
            count: The number of parts, at least 1.

        Returns:
            For each part, a number from 0 to 1.
        """
        is_kind = self._is(kind)
        shares, first, surplus = [], 0, 0
        for number in range(count):
            begin, end = self.size * number // count, self.size * (number + 1) // count
            # The extents that begin before the end of the part, and were not counted before.
            last = bisect_left(self._starts, end)
            found = surplus + self._sum(is_kind, first, last)
            # The last one may go on after the part.
            surplus = (self._end_of(last - 1) - end) * is_kind[last - 1] if last else 0
            shares.append((found - surplus) / max(end - begin, 1))
            first = last
        return shares

    def _is(self, kind: Kind) -> bytes:
        """For each extent, 1 if it is of a kind, otherwise 0."""
        return self._flags.translate(_IS[kind])

    def _sum(self, is_kind: bytes, first: int, last: int) -> int:
        """The bytes in the extents of a kind from one number to before another."""
        chosen = is_kind[first:last]
        if 1 not in chosen:
            return 0
        starts = self._starts[first : last + 1]
        if last == len(self):
            starts.append(self.size)
        return sum(compress(starts[1:], chosen)) - sum(compress(starts, chosen))

    def _end_of(self, i: int) -> int:
        return self._starts[i + 1] if i + 1 < len(self) else self.size

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> Extent: ...
    @overload
    def __getitem__(self, index: slice) -> list[Extent]: ...
    def __getitem__(self, index: int | slice) -> Extent | list[Extent]:
        if isinstance(index, slice):
            return [self._extent(i) for i in range(*index.indices(len(self)))]
        return self._extent(range(len(self))[index])

    @override
    def _in_short(self) -> str:
        data = self.tally(Kind.DATA)
        return (
            f"{size_text(data.bytes)} of {size_text(self.size)} are data, in {data.extents} of "
            f"{len(self)} extents"
        )

    def _extent(self, i: int) -> Extent:
        start, flags = self._starts[i], self._flags[i]
        return Extent(
            start,
            self._end_of(i) - start,
            zero=bool(flags & _ZERO),
            hole=bool(flags & _HOLE) if flags & _HOLE_KNOWN else None,
            dirty=_dirty(flags),
        )


_NO_EXTENT = "the extents list holds something that is not an extent"
_TAKEN = object()


def _parse_at_once(text: bytes, *, dirty: bool) -> Extents:
    """Check every extent as soon as it is parsed: a million dicts never exist together."""
    builder = _Builder(dirty=dirty)
    items = json.loads(text.decode(), object_hook=builder.collect)
    if not isinstance(items, list) or any(item is not _TAKEN for item in items):
        raise ExtentsError(_NO_EXTENT)
    if len(items) != builder.count:
        raise ExtentsError(_NO_EXTENT)  # an object inside an extent was counted as an extent
    return builder.build(text)


def _parse_one_by_one(text: bytes, *, dirty: bool) -> Extents:
    """Parse one item after the other, which shows where an error is.

    This takes a third more time than `_parse_at_once`, and no more memory.
    """
    builder = _Builder(dirty=dirty)
    for item in _items(text):
        builder.collect(item)
    return builder.build(text)


# What stands before the first extent, and after each.
_OPENING = re.compile(r"[ \t\n\r]*\[[ \t\n\r]*")
_CLOSING = re.compile(r"[ \t\n\r]*\][ \t\n\r]*")
_COMMA = re.compile(r"[ \t\n\r]*,[ \t\n\r]*(?!\])")


def _items(text: bytes) -> Iterator[object]:
    """Yield the items of a JSON list, one after the other.

    Errors are raised "from None": a cause would keep the whole text in memory, and show it.
    """
    try:
        decoded = text.decode()
    except UnicodeDecodeError as e:
        raise ExtentsError(f"the extents are not JSON: byte {e.start} is not UTF-8") from None
    opening = _OPENING.match(decoded)
    if opening is None:
        raise ExtentsError("the extents are not JSON, or not a list of extents")
    decode, at = json.JSONDecoder().raw_decode, opening.end()
    closing = _CLOSING.match(decoded, at)
    while closing is None:
        try:
            item, at = decode(decoded, at)
        except (ValueError, RecursionError) as e:
            raise ExtentsError(f"the extents are not JSON: {e}") from None
        comma = _COMMA.match(decoded, at)
        if comma is not None:
            at = comma.end()
        else:
            closing = _CLOSING.match(decoded, at)
            if closing is None:
                raise ExtentsError(f"the extents are not JSON: no comma at character {at}")
        yield item
    if closing.end() != len(decoded):
        raise ExtentsError("the extents are not JSON: more text follows the list")


class _Builder:
    """Takes extents one by one, checks that they leave no gap, and keeps them in columns.

    `collect` returns a mark, `_TAKEN`, in place of each extent.
    """

    def __init__(self, *, dirty: bool) -> None:
        self._dirty = dirty
        self._starts = array("q")
        self._flags = bytearray()
        self._end = 0

    @property
    def count(self) -> int:
        return len(self._starts)

    def collect(self, item: object) -> object:
        if not isinstance(item, dict):
            raise ExtentsError(_NO_EXTENT)
        start, length = item.get("start"), item.get("length")
        if type(start) is not int or type(length) is not int:  # a bool is an int in Python
            if start is None and length is None:
                raise ExtentsError(_NO_EXTENT)
            _integer(item, "start")
            _integer(item, "length")
        elif start != self._end:
            what = "overlaps the one before" if start < self._end else "leaves a gap"
            raise ExtentsError(
                f"extent {self.count + 1} starts at {_number(start)}, not at {self._end}: it {what}"
            )
        elif length <= 0:
            raise ExtentsError(f"the extent at {start} has length {_number(length)}")
        elif length > MAX_OFFSET - start:
            raise ExtentsError(f"the extent at {start} ends beyond any disk")
        else:
            self._end = start + length
            self._starts.append(start)
            self._flags.append(self._flags_of(item))
        return _TAKEN

    def build(self, text: bytes) -> Extents:
        return Extents(self._starts, bytes(self._flags), self._end, text)

    def _flags_of(self, item: dict[str, Any]) -> int:
        zero, hole, dirty = item.get("zero"), item.get("hole"), item.get("dirty")
        flags = 0
        if zero is True:
            flags = _ZERO
        elif zero is not False:
            _check_boolean("zero", zero)
        if hole is True:
            flags |= _HOLE_KNOWN | _HOLE
        elif hole is False:
            flags |= _HOLE_KNOWN
        else:
            _check_boolean("hole", hole)
        if self._dirty:
            if dirty is True:
                flags |= _DIRTY_KNOWN | _DIRTY
            elif dirty is False:
                flags |= _DIRTY_KNOWN
            else:
                _check_boolean("dirty", dirty)
                raise ExtentsError(f"the extent at {item['start']} does not say if it is dirty")
        return flags


def _integer(item: dict[str, Any], key: str) -> None:
    value = item.get(key)
    if type(value) is not int:
        raise ExtentsError(f"an extent's {key} is not a whole number but a {type(value).__name__}")


def _check_boolean(key: str, value: object) -> None:
    if value is not None:
        raise ExtentsError(f"an extent's {key} is not true or false but a {type(value).__name__}")


def _number(value: int) -> str:
    """A number for an error text. Thousands of digits would say nothing, or cannot be printed."""
    return str(value) if abs(value) <= 2**64 else "a number beyond any disk"
