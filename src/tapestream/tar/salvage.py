"""The data of a damaged tar: read to the end, with a list of what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator

from ..damage import Damage, Findings
from ..errors import (
    CorruptStreamError,
    DigestMismatchError,
    IncompleteStreamError,
    LocalIOError,
    StreamError,
    TapestreamError,
)
from ..extents import Extents
from . import format as fmt
from .reader import TarReader
from .unreadable import BridgedInput
from .volume import Volumes


class SalvageReader(TarReader):
    """Delivers what there is: damaged data as it is, zeros for what is missing.

    Where each member lies follows from the extents, so a damaged header is passed over. What is
    behind one is taken for good only when the digests say so.

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
        self._findings = findings
        self._digest = self._checksum
        self._ended = False
        self._vouches = True
        self._last: fmt.Member | None = None
        self._suspects: list[fmt.Member] = []
        self._gone = 0  # bytes of the last of them that are missing

    def finish(self) -> None:
        """Read to the end of the last volume; see `TarReader.finish`."""
        super().finish()
        self._clear_suspects(vouched=False)

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

    def _take(self, member: fmt.Member) -> None:
        if self._ended:
            return
        try:
            super()._take(member)
        except (CorruptStreamError, IncompleteStreamError) as e:
            self._assume(member.name, member.length, e)
            self._suspect(member)
        except LocalIOError as e:
            self._end(e)
        self._last = member

    def _take_manifest(self, found: fmt.Manifest) -> None:
        try:
            super()._take_manifest(found)
        except (CorruptStreamError, IncompleteStreamError) as e:
            self._assume(fmt.MANIFEST, found.length, e)
            self._suspect(None)

    def _assume(self, name: str, size: int, error: StreamError) -> None:
        """Pass over a damaged header; where there is none, the stream has ended."""
        if not self._volumes.members.assume(name, size):
            raise error
        self._findings.note(f"{name}: {error.args[0]}")

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

    def _fill(self, view: memoryview) -> None:
        got = 0
        while not self._ended:
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
                return
            if self._ended:
                self._note_bridged(bridge, begin, got)
        view[got:] = bytes(len(view) - got)
        self._note_missing(self._position + got, len(view) - got)

    def _next_volume(self, error: IncompleteStreamError | None) -> None:
        try:
            super()._next_volume(error)
        except (StreamError, LocalIOError) as e:
            self._end(e)
        self._last = None

    def _check_volume(self, *, continues: bool) -> None:
        if self._ended:
            return
        try:
            self._check_manifest(continues=continues)
        except (CorruptStreamError, LocalIOError) as e:
            self._vouches = False
            self._note(e)
            return
        self._clear_suspects(vouched=self._vouches and self._checksum is not None)
        if not continues and self._vouches:
            self._findings.compared = self._digest
        try:
            self._volumes.members.end(self._volumes.preamble.record_size)
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
        self._checksum = None  # no manifest will tell what the digests should be
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
                self._suspects.pop()  # all of it is told already
