"""Finds where to continue in a damaged tar: at the next good header, in place or elsewhere.

header │ data           │ header │ data         The next good header is where it should be:
  bad  │ ...            │  good  │              so is the data before it.

header │ da│ header │ data                      It is elsewhere: bytes were lost or doubled,
  bad  │...│  good  │                           and the members in between are missing.
"""

from __future__ import annotations

from typing import NamedTuple

from . import format as fmt
from .volume import Volumes

# How many bytes after a damaged header are searched for a good one. They are kept in memory,
# because the data in between is delivered later. Bytes that were written twice can delay the next
# header this far; after lost bytes it comes early.
WINDOW = 64 * fmt.MIB


class Found(NamedTuple):
    """A good header further on, and its data member; the member is None for the manifest."""

    offset: int
    header: fmt.Header
    member: fmt.Member | None


class HeaderSearch:
    """Looks ahead in a volume for good headers of data members and of the manifest.

    Args:
        volumes: The volume that is open.
    """

    def __init__(self, volumes: Volumes) -> None:
        self._volumes = volumes
        self._members = volumes.members
        self._table = volumes.table
        self._searched = 0  # up to this offset, there is no good header
        self._found: Found | None = None  # except this one
        self._in_place: Found | None = None

    def from_bad_header(self, start: int) -> Found | None:
        """The next good header, beginning with the damaged one.

        Args:
            start: Disk offset; headers of members that begin before it do not count. The
                manifest's always does.
        """
        here = self._members.offset - fmt.BLOCK
        header = self._members.found_here
        if header is not None and self._is_wanted(header, start):
            return self._found_at(here, header)
        found = self._found
        if found is None or found.offset < here or not self._is_wanted(found.header, start):
            self._found = None
            self._search(here + fmt.BLOCK, start)
        return self._found

    def second_copy(self, member: fmt.Member) -> Found | None:
        """The second copy of a good header, if it is the next good header."""
        here = self._members.offset
        if self._found is None or self._found.offset < here:
            self._found = None
            self._search(here, member.start)
        return self._found if self._found and self._found.member == member else None

    def second_manifest(self, disk_size: int) -> Found | None:
        """The header of another manifest, after a good one."""
        self._found = None
        self._search(self._members.offset, disk_size)
        return self._found

    def within(self, length: int, start: int) -> Found | None:
        """A good header in the next `length` bytes, of a member at disk offset `start` or later."""
        end = self._members.offset + length
        if self._found is None and self._searched < end:
            self._search(self._members.offset, start)
        return self._found if self._found and self._found.offset < end else None

    def is_in_place(self, found: Found, member: fmt.Member) -> bool:
        """Whether a header is where it should be, counted from the damaged header of `member`."""
        if found == self._in_place:
            return True  # it was in place for the previous damaged header already
        distance = found.offset - (self._members.offset - fmt.BLOCK)
        is_at = self._table.is_at(
            distance,
            member.start,
            found.member,
            self._members.extension,
            ends=self._volumes.may_go_on,
        )
        self._in_place = found if is_at else None
        return is_at or self.is_followed(member)

    def is_followed(self, member: fmt.Member) -> bool:
        """Whether the header that follows a member is where it should be.

        Other headers in between do not count: the data of a disk can hold tars.
        """
        following = next(self._table.following(member.start + member.length), None)
        return self._volumes.has_header_after(following, member.length)

    def _search(self, begin: int, start: int) -> None:
        """Search the part of the window from `begin` that was not searched before.

        At least half a window is searched each time, because every search copies the bytes that
        were read ahead.
        """
        if self._searched >= begin + WINDOW // 2:
            return
        self._searched, header = self._members.look_ahead(
            lambda header: self._is_wanted(header, start),
            max(begin, self._searched),
            begin + WINDOW,
        )
        if header is not None:
            self._found = self._found_at(self._searched, header)
            self._searched += fmt.BLOCK

    def _is_wanted(self, header: fmt.Header, start: int) -> bool:
        member = self._table.find(header)
        return member.start >= start if member else header.name == fmt.MANIFEST

    def _found_at(self, offset: int, header: fmt.Header) -> Found:
        return Found(offset, header, self._table.find(header))
