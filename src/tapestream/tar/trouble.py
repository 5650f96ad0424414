"""The data of a damaged tar: read to the end, with a list of what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..errors import (
    CorruptStreamError,
    DigestMismatchError,
    IncompleteStreamError,
    LocalIOError,
    StreamError,
    TapestreamError,
)
from ..model.damage import Damage, Findings
from ..model.extents import Extents
from . import format as fmt
from .digests import digest_of
from .members import READ_STEP
from .reader import TarReader
from .table import MemberTable
from .volume import Volumes
from .zerofill import BridgedInput

# How far a header is looked for after a damaged one, in memory, before the data in between is
# delivered. Bytes that were written twice push it that far; where some are lost, it comes early.
WINDOW = 64 * fmt.MIB
# Digests of what is missing are kept only to compare the others in their places.
MAX_PLACEHOLDERS = 1024**2


class _Found(NamedTuple):
    """A good header further on: of a data member, or, without one, of the manifest."""

    offset: int
    header: fmt.Header
    member: fmt.Member | None


class SalvageReader(TarReader):
    """Delivers what there is: damaged data as it is, zeros for what is missing.

    Where a header is damaged, the next good one shows what happened. If it lies where the extents
    say, so does the data before it, which is taken for good only when the digests say so. If it
    lies elsewhere, bytes were lost or doubled: reading goes on there, and the members that did not
    come are missing.

    Args:
        volumes: The volume that is open, and how to come by the next.
        extents: All extents of the disk.
        findings: Where damage is noted.
        verify: Compare all data with its digests.
    """

    def __init__(
        self, volumes: Volumes, extents: Extents, findings: Findings, *, verify: bool
    ) -> None:
        super().__init__(volumes, extents, verify=verify)
        self._table = MemberTable(extents, self._part_size)
        self._findings = findings
        self._digest = self._checksum
        self._ended = False
        self._vouches = self._is_comparable = True
        self._last: fmt.Member | None = None
        self._suspects: list[fmt.Member] = []
        self._gone = 0  # bytes of the last of them that are missing
        self._searched = 0  # in this volume, there is no good header ahead before this offset,
        self._found: _Found | None = None  # but for this one
        self._in_place: _Found | None = None
        self._data_end = 0  # of a member that may end earlier, for all that is known
        self._goes_on_at: _Found | None = None
        self._look_again = False

    @property
    def missing_until(self) -> int:
        """No more data comes from before this offset of the disk."""
        return self._missing_until

    def finish(self) -> None:
        """Read to the end of the last volume; see `TarReader.finish`."""
        super().finish()
        self._clear_suspects(vouched=False)

    # The next header

    def _at_end_of_volume(self) -> bool:
        if self._ended:
            return False
        try:
            try:
                return super()._at_end_of_volume()
            except CorruptStreamError:
                # A damaged header, of the manifest or of the member that is expected.
                several = self._volumes.preamble.set_id is not None
                return several and self._volumes.members.begins_with(fmt.MANIFEST_START)
        except LocalIOError as e:
            self._end(e)
            return False

    def _begin_member(self, member: fmt.Member) -> None:
        super()._begin_member(member)
        self._skip_missing()

    def _go_to(self, member: fmt.Member) -> bool:
        is_there = super()._go_to(member)
        while self._look_again:
            self._look_again = False
            is_there = super()._go_to(member)
        return is_there

    def _take(self, member: fmt.Member) -> bool:
        if self._ended:
            return False
        self._data_end = 0
        members = self._volumes.members
        try:
            is_whole = self._is_whole(member)
            super()._take(member)
        except (CorruptStreamError, IncompleteStreamError) as e:
            if not members.is_at_header:
                raise  # the stream has ended
            self._findings.note(f"{member.name}: {e.args[0]}")
            return self._go_past(member)
        except LocalIOError as e:
            self._end(e)
            return False
        self._data_end = 0 if is_whole else members.offset + fmt.padded(member.length)
        self._last = member
        return True

    def _is_whole(self, member: fmt.Member) -> bool:
        """Whether the next member is this one, and is not known to be short.

        Goes to its second copy, where it comes twice, and the first one is damaged. That is how it
        looks where a record was written twice that holds a header and not all of the data. Only a
        small member can then come again as a whole, so only those are looked at.
        """
        members = self._volumes.members
        while member.length <= READ_STEP and self._is_next(member) and not self._follows(member):
            here = members.offset
            if self._found is None or self._found.offset < here:
                self._found = None
                self._search(here, member.start)
            if self._found is None or self._found.member != member:
                return False
            self._findings.note(f"{member.name}: it comes twice, and its first copy is damaged")
            members.drop_to(self._found.offset, self._found.header)
        return True

    def _is_next(self, member: fmt.Member) -> bool:
        header = self._volumes.members.header()
        return header is not None and header == (member.name, member.length)

    def _go_past(self, member: fmt.Member) -> bool:
        """Go on after the damaged header of a member; False where another one is next."""
        members = self._volumes.members
        found = self._find(member)
        if found is None or self._is_in_place(found, member):
            members.assume(member.name, member.length)
            self._suspect(member)
            self._data_end = 0 if found else members.offset + fmt.padded(member.length)
            self._last = member
            return True
        self._suspect(None)
        members.drop_to(found.offset, found.header)
        if found.member is None and self._volumes.preamble.set_id is not None:
            self._look_again = True  # what is missing here may be on the next volume
        else:
            self._goes_on_at = found
        return False

    def _take_manifest(self, found: fmt.Manifest) -> None:
        members = self._volumes.members
        try:
            self._go_to_whole_manifest()
            super()._take_manifest(found)
        except (CorruptStreamError, IncompleteStreamError) as e:
            if not members.is_at_header:
                raise
            self._findings.note(f"{fmt.MANIFEST}: {e.args[0]}")
            self._suspect(None)
            further_on = self._find(None)
            if further_on is not None:
                members.drop_to(further_on.offset, further_on.header)
                super()._take_manifest(found)
            elif not members.assume_text(fmt.MANIFEST_START, found.length):
                members.assume(fmt.MANIFEST, found.length)

    def _go_to_whole_manifest(self) -> None:
        """Go to the second manifest, where it comes twice, for it was written twice in part."""
        members = self._volumes.members
        header = members.header()
        if header is None or header.name != fmt.MANIFEST or header.size > READ_STEP:
            return
        if members.is_zero_behind(header.size):
            return
        here = members.offset
        self._found = None
        self._search(here, self._extents.size)
        if self._found is not None:
            self._findings.note(f"{fmt.MANIFEST}: it comes twice")
            members.drop_to(self._found.offset, self._found.header)

    def _find(self, member: fmt.Member | None) -> _Found | None:
        """Look for a good header, from the damaged one of a member on, or of the manifest."""
        members = self._volumes.members
        here = members.offset - fmt.BLOCK
        start = member.start if member else self._extents.size
        header = members.found_here
        if header is not None and self._is_wanted(header, start):
            return self._found_at(here, header)
        found = self._found
        if found is None or found.offset < here or not self._is_wanted(found.header, start):
            self._found = None
            self._search(here + fmt.BLOCK, start)
        return self._found

    def _search(self, begin: int, start: int) -> None:
        """Look at what was not looked at before, in the window that begins here.

        Not at a little at a time, for what is ahead in memory is moved.
        """
        if self._searched >= begin + WINDOW // 2:
            return
        self._searched, header = self._volumes.members.look_ahead(
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

    def _found_at(self, offset: int, header: fmt.Header) -> _Found:
        return _Found(offset, header, self._table.find(header))

    def _is_in_place(self, found: _Found, member: fmt.Member) -> bool:
        """Whether it is where it should be, counted from the damaged header of a member."""
        if found == self._in_place:
            return True  # as it was for the damaged header before
        members = self._volumes.members
        distance = found.offset - (members.offset - fmt.BLOCK)
        is_at = self._table.is_at(
            distance, member.start, found.member, members.extension, ends=self._volumes.may_go_on
        )
        self._in_place = found if is_at else None
        return is_at or self._follows(member)

    def _follows(self, member: fmt.Member) -> bool:
        """Whether what follows a member is where it should be, whatever there is in between.

        There can be tars on a disk.
        """
        following = next(self._table.following(member.start + member.length), None)
        return self._volumes.is_behind(following, member.length)

    def _suspect(self, member: fmt.Member | None) -> None:
        """Bytes may have been lost before a bad header: in the member before, too.

        Not where it could not be read: how many bytes that are is known.
        """
        if self._is_behind_bridged():
            return
        for each in (self._last, member):
            if each is not None and each not in self._suspects[-2:]:
                self._suspects.append(each)
        self._gone = 0

    # The data

    def _read_data(self, view: memoryview) -> None:
        super()._read_data(view)
        self._skip_missing()

    def _fill(self, view: memoryview) -> None:
        got, found = 0, self._ends_at(len(view))
        if found is not None:
            self._goes_on_at = found
            got = found.offset - self._volumes.members.offset
        rest = view[got:]
        view = view[:got] if found else view
        while view and not self._ended:
            members, bridge = self._volumes.members, self._volumes.bridge
            assert bridge is not None
            before, begin = members.offset, bridge.offset - members.ahead
            try:
                members.readinto(view)
            except IncompleteStreamError as e:
                got = members.offset - before
                self._next_volume(e)
            except LocalIOError as e:
                got = members.offset - before
                self._end(e)
            else:
                self._note_bridged(bridge, begin, len(view))
                break
            if self._ended:
                self._note_bridged(bridge, begin, got)
                rest = view[got:]
        if found is not None:
            self._volumes.members.drop_to(found.offset, found.header)
        if found is not None or self._ended:
            rest[:] = bytes(len(rest))
            self._note_missing(self._position + got, len(rest))

    def _ends_at(self, length: int) -> _Found | None:
        """The header that comes in the next bytes of a member which may end early."""
        if not self._data_end:
            return None
        assert self._member is not None
        end = self._volumes.members.offset + length
        if self._found is None and self._searched < end:
            self._search(self._volumes.members.offset, self._member.start + 1)
        if self._found is None or self._found.offset >= end:
            return None
        return self._found if self._found.offset < self._data_end else None

    def _skip_missing(self) -> None:
        """Note what is missing up to where reading goes on, and go there."""
        if self._goes_on_at is None and not self._ended:
            return
        target = self._goes_on_at.member if self._goes_on_at and not self._ended else None
        self._goes_on_at = None
        if self._member is not None:
            self._note_missing(self._position, self._member_end - self._position)
            self._fill_up(-(-(self._member_end - self._segment) // self._segment_size))
            self._member = self._hash = None
        end = target.start if target else self._extents.size
        if self._next is not None:
            self._lose(self._next.start, end)
        self._missing_until = end
        self._expected = self._table.following(end)
        self._next = next(self._expected, None)

    def _lose(self, start: int, end: int) -> None:
        """All members that begin in this range of the disk are missing."""
        lost = self._table.tally(start, end)
        if lost.members and self._next is not None:
            self._vouched.add_lost(self._next.number, lost.number, lost.members, lost.bytes)
        self._fill_up(lost.segments)
        for member in self._table.following(start):
            if member.start >= end:
                return
            length, data = member.length, member.length
            if self._findings.is_full(missing=True):  # one for all that follow
                length, data = end - member.start, self._table.tally(member.start, end).bytes
            self._findings.add(Damage(member.start, length, member.name, missing=True), data)
            if length != member.length:
                return

    def _fill_up(self, segments: int) -> None:
        """Keep the places of the digests that are missing."""
        self._is_comparable = self._is_comparable and segments <= MAX_PLACEHOLDERS
        if self._checksum is not None and self._is_comparable:
            self._vouched.segments += bytes(segments * len(digest_of(self._checksum, b"")))

    def _next_volume(self, error: IncompleteStreamError | None) -> None:
        try:
            super()._next_volume(error)
        except (StreamError, LocalIOError) as e:
            self._end(e)
        self._last = self._found = None
        self._searched = 0

    def _check_volume(self, *, continues: bool) -> None:
        if self._ended:
            return
        if not self._is_comparable:
            self._vouches = False
            self._findings.note(f"too much is missing to compare the rest with {fmt.MANIFEST}")
            return
        try:
            self._check_manifest(continues=continues)
        except (CorruptStreamError, LocalIOError) as e:
            self._vouches = False
            self._note(e)
            return
        self._clear_suspects(vouched=self._vouches and self._checksum is not None)
        if not continues and self._vouches:
            self._findings.digest_name = self._digest
        try:
            if not self._findings.problems:  # otherwise it follows from them
                self._volumes.check_listed()
            self._volumes.end()
        except (CorruptStreamError, LocalIOError) as e:
            self._note(e)
        else:
            self._findings.complete = not continues and self._vouches

    def _differences(self, found: fmt.Manifest, text: bytes) -> Iterator[CorruptStreamError]:
        """Note them all, and go on."""
        self._vouches = self._vouches and found.is_like(text, data_too=self._verify)
        for error in super()._differences(found, text):
            if isinstance(error, DigestMismatchError):
                self._findings.add(Damage(error.start, error.length, error.member, missing=False))
            else:
                self._note(error)
        return iter(())

    def _end(self, error: TapestreamError) -> None:
        self._ended = True
        self._checksum = None  # no manifest will say what the digests should be
        self._note(error)

    def _note(self, error: TapestreamError) -> None:
        self._findings.note(str(error.args[0]))

    def _clear_suspects(self, *, vouched: bool) -> None:
        for member in [] if vouched else self._suspects:
            self._findings.add(Damage(member.start, member.length, member.name, missing=False))
        self._suspects = []

    def _is_behind_bridged(self) -> bool:
        """Whether something between the last data and here could not be read."""
        bridge = self._volumes.bridge
        if bridge is None:
            return False
        here = bridge.offset - self._volumes.members.ahead
        return any(offset < here for offset, _ in bridge.bridged)

    def _note_bridged(self, bridge: BridgedInput, begin: int, length: int) -> None:
        """Note what could not be read of the data that begins there in the stream."""
        end = begin + length
        ahead = []  # what was read already, but is not of this data
        for offset, count in bridge.bridged:
            first = max(offset, begin)  # before is a header
            last = min(offset + count, end)
            self._note_missing(self._position + first - begin, last - first)
            if offset + count > end:
                ahead.append((max(offset, end), offset + count - max(offset, end)))
        bridge.bridged = ahead

    def _note_missing(self, start: int, length: int) -> None:
        assert self._member is not None
        if length > 0:
            self._findings.add(Damage(start, length, self._member.name, missing=True))
        if self._suspects and self._suspects[-1] == self._member:
            self._gone += max(0, length)
            if self._gone == self._member.length:
                self._suspects.pop()  # all of it is reported already
