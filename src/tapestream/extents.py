"""Extents: what lies where on a disk, in the JSON that imageio speaks.

imageio lists the whole disk, from 0 to its size, without gaps (ovirt-imageio docs, "extents").
A list of a large disk has a million entries, so `Extents` keeps columns, not objects.
"""

from __future__ import annotations

import io
import json
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple, overload

from .errors import ExtentsError
from .info import Context

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
        zero: True when it reads as zeros.
        hole: True when it is not allocated (qcow2 without a backing chain); None when the server
            did not say: old ones do not.
        dirty: True when it changed since the parent checkpoint; None in a full backup.
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


# Start, length and kind of an extent.
Run = tuple[int, int, Kind]


def within(starts: array[int], size: int, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (number, start, length) of every stretch between two offsets, cut there.

    Args:
        starts: Where each of them begins; it ends where the next one does.
        size: Where the last one ends.
        start: The first offset.
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
    """A number of extents and their bytes together."""

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


class Extents(Sequence[Extent]):
    """A checked, immutable list of extents that covers a disk from 0 to its size.

    Made by `Extents.parse` from imageio's JSON, by `Extents.of` from `Extent` objects, or by
    `Extents.of_runs` from what `runs` yields.

    Attributes:
        size: Size of the disk in bytes: where the last extent ends.
    """

    def __init__(self, starts: array[int], flags: bytes, size: int, text: bytes | None) -> None:
        self._starts = starts
        self._flags = flags
        self.size = size
        self._text = text

    @classmethod
    def parse(cls, text: bytes, *, context: Context = "zero") -> Extents:
        """Parse and check imageio's extents JSON.

        Args:
            text: The JSON.
            context: "dirty" requires the key `dirty` in every extent. A missing `zero` means
                data, a missing `hole` unknown: old servers leave them out.

        Raises:
            ExtentsError: The text is not JSON, or the list does not describe a disk.
        """
        dirty = context == "dirty"
        try:
            return _parse_at_once(text, dirty=dirty)
        except ExtentsError:
            # Objects in keys that we do not know look like extents to the quick way.
            return _parse_one_by_one(text, dirty=dirty)

    @classmethod
    def of(cls, extents: Iterable[Extent], *, context: Context | None = None) -> Extents:
        """Check a list of `Extent` objects; an `Extents` is returned as it is.

        Args:
            extents: The list.
            context: In "dirty" all extents must say if they are dirty, in "zero" none may.

        Raises:
            ExtentsError: The list does not describe a disk, or not in that context.
        """
        if not isinstance(extents, Extents):
            listed = list(extents)
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

        Neighbours of one kind become one extent.
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
        """The list as JSON; from a server exactly what it sent, with keys that we do not know."""
        if self._text is None:
            text = io.BytesIO()  # a list of a million strings would take more than the text
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

    def tally(self, kind: Kind) -> Tally:
        """How many extents are of a kind, and how many bytes they have together."""
        extents = total = 0
        for _, length, k in self.runs():
            if k is kind:
                extents += 1
                total += length
        return Tally(extents, total)

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

    def __repr__(self) -> str:
        return f"<Extents: {len(self)} over {self.size} bytes>"

    def _extent(self, i: int) -> Extent:
        start, flags = self._starts[i], self._flags[i]
        end = self._starts[i + 1] if i + 1 < len(self) else self.size
        return Extent(
            start,
            end - start,
            zero=bool(flags & _ZERO),
            hole=bool(flags & _HOLE) if flags & _HOLE_KNOWN else None,
            dirty=_dirty(flags),
        )


_TAKEN = object()


def _parse_at_once(text: bytes, *, dirty: bool) -> Extents:
    """Check every extent as soon as it is parsed: a million dicts never exist together."""
    builder = _Builder(dirty=dirty)
    items = _load_list(text, builder.collect)
    if builder.count != len(items) or any(item is not _TAKEN for item in items):
        raise ExtentsError("the extents list holds something that is not an extent")
    return builder.build(text)


def _parse_one_by_one(text: bytes, *, dirty: bool) -> Extents:
    builder = _Builder(dirty=dirty)
    for item in _load_list(text, None):
        if not isinstance(item, dict) or builder.collect(item) is not _TAKEN:
            raise ExtentsError("the extents list holds something that is not an extent")
    return builder.build(text)


def _load_list(text: bytes, hook: Callable[[dict[str, Any]], object] | None) -> list[Any]:
    try:
        items = json.loads(text, object_hook=hook)
    except (ValueError, RecursionError) as e:
        raise ExtentsError(f"the extents are not JSON: {e}") from e
    if not isinstance(items, list):
        raise ExtentsError(f"the extents are not a list but {type(items).__name__}")
    return items


class _Builder:
    """Takes extents one by one, checks each against its neighbour, keeps columns."""

    def __init__(self, *, dirty: bool) -> None:
        self._dirty = dirty
        self._starts = array("q")
        self._flags = bytearray()
        self._end = 0

    @property
    def count(self) -> int:
        return len(self._starts)

    def collect(self, item: dict[str, Any]) -> object:
        if "start" not in item and "length" not in item:
            return item  # the value of a key that we do not know
        start, length = _integer(item, "start"), _integer(item, "length")
        if start != self._end:
            what = "overlaps the one before" if start < self._end else "leaves a gap"
            raise ExtentsError(
                f"extent {self.count + 1} starts at {start}, not at {self._end}: it {what}"
            )
        if length <= 0:
            raise ExtentsError(f"the extent at {start} has length {length}")
        if length > MAX_OFFSET - start:  # of so many digits, it may be, that none can be told
            raise ExtentsError(f"the extent at {start} ends beyond any disk")
        self._end = start + length
        self._starts.append(start)
        self._flags.append(self._flags_of(item))
        return _TAKEN

    def build(self, text: bytes) -> Extents:
        return Extents(self._starts, bytes(self._flags), self._end, text)

    def _flags_of(self, item: dict[str, Any]) -> int:
        flags = 0
        if _boolean(item, "zero"):
            flags |= _ZERO
        hole = _boolean(item, "hole")
        if hole is not None:
            flags |= _HOLE_KNOWN | (_HOLE if hole else 0)
        if self._dirty:
            dirty = _boolean(item, "dirty")
            if dirty is None:
                raise ExtentsError(f"the extent at {item['start']} does not say if it is dirty")
            flags |= _DIRTY_KNOWN | (_DIRTY if dirty else 0)
        return flags


def _integer(item: dict[str, Any], key: str) -> int:
    value = item.get(key)
    if type(value) is not int:  # a bool is an int in Python, not in JSON
        raise ExtentsError(f"an extent's {key} is not a whole number but a {type(value).__name__}")
    return value


def _boolean(item: dict[str, Any], key: str) -> bool | None:
    value = item.get(key)
    if value is not None and type(value) is not bool:
        raise ExtentsError(f"an extent's {key} is not true or false but a {type(value).__name__}")
    return value
