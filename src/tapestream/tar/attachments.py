"""Reads the attachments of a volume: the files that are kept with the disk."""

from __future__ import annotations

from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

from ..errors import CorruptStreamError, IncompleteStreamError, LocalIOError, UsageError
from . import format as fmt
from .preamble import attachment_member, resembles

if TYPE_CHECKING:
    from .volume import Volumes


class AttachmentReader:
    """Reads the attachments of a volume that were not read yet.

    Args:
        volumes: The volume that is open. Its `attachments` get what is read.
    """

    def __init__(self, volumes: Volumes) -> None:
        self._volumes = volumes
        self._members = volumes.members
        self._trouble = volumes.trouble
        self._contents = volumes.attachments
        # The listed ones that were not read yet: sizes by member name.
        self._to_come = {
            name: size
            for name, size in volumes.preamble.attachments.items()
            if name.removeprefix(fmt.ATTACHMENTS) not in self._contents
        }

    def read(self) -> None:
        """Read up to the first data member.

        Raises:
            CorruptStreamError: One is refused, or has a bad header, and reading does not go on.
        """
        if self._trouble.goes_on:
            # If the stream has ended, the data reader meets this error again, and reports it.
            with suppress(IncompleteStreamError, LocalIOError):
                self._salvage()
        else:
            self._read()

    def _read(self) -> None:
        """Read attachments up to another header; stop before one that is refused."""
        left = fmt.MAX_ATTACHMENTS - sum(map(len, self._contents.values()))
        while (header := self._next()) is not None:
            name = header.name[len(fmt.ATTACHMENTS) :]
            try:
                attachment_member(name)
            except UsageError as e:
                raise CorruptStreamError(f"a member has a bad name: {name!r}") from e
            if name in self._contents:
                raise CorruptStreamError(f"there are two members {header.name}")
            if len(self._contents) == fmt.MAX_FILES:
                raise CorruptStreamError(f"there are more than {fmt.MAX_FILES} attachments")
            self._volumes.check_size(header, self._to_come.get(header.name))
            self._contents[name] = text = self._members.read_member(header.name, left)
            self._volumes.add_digest(header.name, text)
            self._to_come.pop(header.name, None)
            left -= len(text)

    def _salvage(self) -> None:
        """Read the attachments; skip those that are refused or have a bad header.

        A bad header belongs to an attachment if one is still to come, and if a header after it is
        where it should be. Otherwise bytes were lost or doubled: the attachments end here, and the
        reader of the data searches for it.
        """
        is_in_step = False
        while True:
            problem = CorruptStreamError("its header is not there")
            try:
                self._read()
            except CorruptStreamError as e:
                problem = e
            bad = self._bad()
            if bad is None:
                return
            self._trouble.meet(problem, bad.name)
            if self._to_come.pop(bad.name, None) is not None and not self._is_next_in_place(bad):
                is_in_step = is_in_step or self._is_data_in_place(bad)
                if not is_in_step:
                    return
            self._members.enter_as(bad.name, bad.size)
            self._members.skip(bad.size)

    def _bad(self) -> fmt.Header | None:
        """The bad attachment that the next member must be; None if the attachments have ended.

        If attachments are listed and were not read, it is one of those. A refused one that is not
        listed has the size in its header. So has a damaged one in a stream of older software, if
        another header follows it at that distance.
        """
        found = self._members.best_guess()
        if found and not self._members.is_damaged:
            if found.name == fmt.MANIFEST or self._volumes.table.find(found) is not None:
                return None  # the attachments still to come are missing
            if found.name.startswith(fmt.ATTACHMENTS) and found.name not in self._to_come:
                return found
        name = found.name if found else ""
        if found and self._volumes.preamble.members is None:
            is_one = resembles(name, fmt.ATTACHMENTS) and self._is_in_place(found)
            return found if is_one else None
        if name not in self._to_come:
            name = next(iter(self._to_come), "")
        return fmt.Header(name, self._to_come[name]) if name else None

    def _is_in_place(self, member: fmt.Header) -> bool:
        """Whether another attachment, or the data, follows an attachment that is not listed."""
        start = self._volumes.preamble.volume_start
        first = next(self._volumes.table.following(start), None)
        return self._volumes.has_header_after(first, member.size, fmt.ATTACHMENTS.encode())

    def _is_next_in_place(self, member: fmt.Header) -> bool:
        """Whether the attachment after this one is where it should be."""
        following = next(iter(self._to_come), None)
        return following is not None and self._volumes.is_followed(member.size, following)

    def _is_data_in_place(self, member: fmt.Header) -> bool:
        """Whether the data is where it should be, counted from this attachment."""
        start = self._volumes.preamble.volume_start
        extra = fmt.BLOCK + self._members.extension
        distance = fmt.padded(member.size)
        distance += sum(extra + fmt.padded(size) for size in self._to_come.values())
        for each in islice(self._volumes.table.following(start), 2):
            if self._volumes.has_header_after(each, distance):
                return True
            distance += extra + fmt.padded(each.length)
        return self._volumes.has_header_after(None, distance)

    def _next(self) -> fmt.Header | None:
        """Header of the next member if it is an attachment; otherwise None."""
        header = self._members.header()
        is_one = header is not None and header.name.startswith(fmt.ATTACHMENTS)
        return header if is_one else None
