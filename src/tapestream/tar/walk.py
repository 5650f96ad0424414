"""Goes from member to member of one volume, also past headers that are damaged."""

from __future__ import annotations

from functools import cached_property

from ..errors import CorruptStreamError, IncompleteStreamError
from . import format as fmt
from .members import READ_STEP
from .search import Found, HeaderSearch
from .trouble import Suspects
from .volume import Volumes


class VolumeWalk:
    """Goes from member to member of one volume, also past headers that are damaged.

    After a bad header, the next good one shows what happened: see `HeaderSearch`.

    Args:
        volumes: The volume that is open.
        suspects: Gets the members next to each bad header.
    """

    def __init__(self, volumes: Volumes, suspects: Suspects) -> None:
        self._volumes = volumes
        self._trouble = volumes.trouble
        self._members = volumes.members
        self._suspects = suspects
        self._last: fmt.Member | None = None
        # Offset in the stream where the member's data should end; 0 if it is sure to end there.
        self._data_end = 0

    @cached_property
    def _search(self) -> HeaderSearch:
        return HeaderSearch(self._volumes)

    def is_at_end(self) -> bool:
        """True if this volume ends here; then another must follow, because there is more data."""
        may_go_on = self._volumes.may_go_on
        try:
            header = self._members.header()
        except CorruptStreamError:
            # The damaged header is that of the manifest, or of the expected member.
            if not self._trouble.goes_on:
                raise
            return may_go_on and self._members.begins_with(fmt.MANIFEST_START)
        return may_go_on and header is not None and header.name == fmt.MANIFEST

    def enter(self, member: fmt.Member) -> Found | None:
        """Enter a data member.

        Returns:
            None if it was entered. If its header is bad and it is not there: the next good header,
            at which the volume then stands.

        Raises:
            IncompleteStreamError: The volume has ended.
        """
        self._data_end = 0
        try:
            is_whole = not self._trouble.goes_on or self._is_whole(member)
            self._members.enter(member.name, member.length)
        except (CorruptStreamError, IncompleteStreamError) as e:
            if not self._members.is_at_header:
                raise  # the stream has ended
            self._trouble.meet(e, member.name)
            return self._go_past(member)
        self._data_end = 0 if is_whole else self._members.offset + fmt.padded(member.length)
        self._last = member
        return None

    def pass_over(self, member: fmt.Member, length: int) -> Found | None:
        """Enter a data member, and skip its beginning, which was read from the volume before.

        Returns:
            None if the rest of the member comes next. If it is not there: the next good header, at
            which the volume then stands.
        """
        found = self.enter(member)
        while found is not None and found.member == member:
            found = self.enter(member)
        if found is None:
            found = self.ends_within(length, member)
            if found is None:
                self._members.skip(length)
            else:
                self._members.skip_to(found.offset, found.header)
        return found

    def ends_within(self, length: int, member: fmt.Member) -> Found | None:
        """A header within the next bytes of the entered member, which may end early."""
        if not self._data_end:
            return None
        found = self._search.within(length, member.start + 1)
        return found if found and found.offset < self._data_end else None

    def enter_manifest(self, length: int, disk_size: int) -> None:
        """Enter the manifest; `length` is what it should have if its header is bad.

        Raises:
            IncompleteStreamError: The volume has ended.
        """
        members = self._members
        try:
            if self._trouble.goes_on:
                self._go_to_whole_manifest(disk_size)
            members.enter(fmt.MANIFEST)
        except (CorruptStreamError, IncompleteStreamError) as e:
            if not members.is_at_header:
                raise
            self._trouble.meet(e, fmt.MANIFEST)
            self._suspect(None)
            further_on = self._search.from_bad_header(disk_size)
            if further_on is not None:
                members.skip_to(further_on.offset, further_on.header)
                members.enter(fmt.MANIFEST)
            elif not members.enter_text(fmt.MANIFEST_START, length):
                members.enter_as(fmt.MANIFEST, length)

    def _is_whole(self, member: fmt.Member) -> bool:
        """Whether the member is complete, as far as that is known.

        If the member comes twice and its first copy is damaged, this goes to the second copy. That
        happens if a record was written twice that holds a header and only a part of the data. Only
        a small member can then come a second time completely, so only small ones are checked.
        """
        while (
            member.length <= READ_STEP
            and self._members.header() == (member.name, member.length)
            and not self._search.is_followed(member)
        ):
            second = self._search.second_copy(member)
            if second is None:
                return False
            problem = "it comes twice, and its first copy is damaged"
            self._trouble.meet(CorruptStreamError(problem), member.name)
            self._members.skip_to(second.offset, second.header)
        return True

    def _go_past(self, member: fmt.Member) -> Found | None:
        """Continue after the damaged header of a member; see `enter`."""
        members = self._members
        found = self._search.from_bad_header(member.start)
        if found is None or self._search.is_in_place(found, member):
            members.enter_as(member.name, member.length)
            self._suspect(member)
            self._data_end = 0 if found else members.offset + fmt.padded(member.length)
            self._last = member
            return None
        self._suspect(None)
        members.skip_to(found.offset, found.header)
        return found

    def _go_to_whole_manifest(self, disk_size: int) -> None:
        """Go to the second manifest if there are two: a record was written twice."""
        header = self._members.header()
        if header is None or header.name != fmt.MANIFEST or header.size > READ_STEP:
            return
        if self._members.ends_after(header.size):
            return
        second = self._search.second_manifest(disk_size)
        if second is not None:
            self._trouble.meet(CorruptStreamError("it comes twice"), fmt.MANIFEST)
            self._members.skip_to(second.offset, second.header)

    def _suspect(self, member: fmt.Member | None) -> None:
        """Suspect the members on both sides of a bad header: bytes may have been lost before it.

        An unreadable place is different: its length is known, so nothing has shifted.
        """
        zeros = self._volumes.zeros
        here = zeros.offset - self._members.ahead if zeros else 0
        if zeros is None or not any(offset < here for offset, _ in zeros.filled):
            self._suspects.add(self._last, member)
