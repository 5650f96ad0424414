"""Finds the data members that a stream should have, by name and by place, without a list of them.

A disk can have millions of members, so they are computed from the extents.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple

from ..model.extents import Extents, Kind
from . import format as fmt

# The numbers in a name have up to 19 digits, as many as the largest disk offset.
_NAME = re.compile(r"extent-([1-9][0-9]{0,18})@(0|[1-9][0-9]{0,18})", re.ASCII)


class Tally(NamedTuple):
    """Totals of some members; `number` is that of the last member's extent."""

    number: int
    members: int
    bytes: int
    segments: int


class MemberTable:
    """Finds members fast, for any number of extents.

    Args:
        extents: All extents of the disk.
        part_size: Largest size of a data member, in bytes.
    """

    def __init__(self, extents: Extents, part_size: int) -> None:
        self._part_size = part_size
        self._segment_size = fmt.segment_size(part_size)
        self._size = extents.size
        self._starts, self._ends = array("q"), array("q")
        for start, length, kind in extents.runs():
            if kind is Kind.DATA:
                self._starts.append(start)
                self._ends.append(start + length)

    def find(self, header: fmt.Header) -> fmt.Member | None:
        """The member that has this header; None if no member has it."""
        match = _NAME.fullmatch(header.name)
        number, start = (int(match[1]), int(match[2])) if match else (0, 0)
        if not 0 < number <= len(self._starts):
            return None
        first, end = self._starts[number - 1], self._ends[number - 1]
        if not first <= start < end or (start - first) % self._part_size:
            return None
        member = fmt.Member(number, start, min(self._part_size, end - start))
        return member if member.length == header.size else None

    def following(self, start: int) -> Iterator[fmt.Member]:
        """The members that begin at this disk offset or later."""
        for i in range(bisect_left(self._ends, start + 1), len(self._starts)):
            first, end = self._starts[i], self._ends[i]
            before = max(0, start - first)
            for offset in range(
                first + before + fmt.padding(before, self._part_size), end, self._part_size
            ):
                yield fmt.Member(i + 1, offset, min(self._part_size, end - offset))

    def is_at(
        self,
        distance: int,
        start: int,
        member: fmt.Member | None,
        extension: int,
        *,
        ends: bool = False,
    ) -> bool:
        """Whether a member's header is in the stream where it should be.

        Args:
            distance: Bytes in the stream from the header of the member that begins at `start` to
                the header of `member`.
            start: Disk offset.
            member: The member to check; None for the manifest.
            extension: Bytes of extension headers before each header.
            ends: True if the manifest may come after any member.
        """
        for each in self.following(start):
            if each == member or distance < 0 or (distance == 0 and member is None and ends):
                break
            distance -= fmt.BLOCK + fmt.padded(each.length) + extension
        return distance == 0

    def tally(self, start: int, end: int) -> Tally:
        """Count the members in a range of the disk; both ends must be where a member begins."""
        number = members = total = segments = 0
        for i in range(bisect_left(self._ends, start + 1), len(self._starts)):
            first, last = max(self._starts[i], start), min(self._ends[i], end)
            if first >= last:
                break
            number = i + 1
            members += -(-(last - first) // self._part_size)
            total += last - first
            segments += -(-(last - first) // self._segment_size)
        return Tally(number, members, total, segments)
