"""The data of a damaged tar: read to the end, with a list of what is wrong with it."""

from __future__ import annotations

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

    Where each member lies follows from the extents, so a damaged header is passed over.

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
        self._ended = False

    def _at_end_of_volume(self) -> bool:
        try:
            return not self._ended and super()._at_end_of_volume()
        except CorruptStreamError:
            return False  # a damaged header: that of the member that is expected

    def _take(self, member: fmt.Member) -> None:
        if self._ended:
            return
        try:
            super()._take(member)
        except (CorruptStreamError, IncompleteStreamError) as e:
            if not self._volumes.members.assume(member.name, member.length):
                raise
            self._note(e)

    def _fill(self, view: memoryview) -> None:
        got = 0
        while not self._ended:
            members, bridge = self._volumes.members, self._volumes.bridge
            before, bridge.bridged = members.offset, []
            begin = bridge.offset
            try:
                members.readinto(view)
            except IncompleteStreamError as e:
                got = members.offset - before
                self._next_volume(e)
            except LocalIOError as e:
                got = members.offset - before
                self._end(e)
            else:
                self._note_bridged(bridge, begin)
                return
        view[got:] = bytes(len(view) - got)
        self._note_missing(self._position + got, len(view) - got)

    def _next_volume(self, error: IncompleteStreamError | None) -> None:
        try:
            super()._next_volume(error)
        except (StreamError, LocalIOError) as e:
            self._end(e)

    def _check_volume(self, *, continues: bool) -> None:
        if self._ended:
            return
        try:
            super()._check_volume(continues=continues)
        except (CorruptStreamError, LocalIOError) as e:
            self._note(e)
        else:
            self._findings.complete = not continues

    def _differs(self, error: CorruptStreamError) -> None:
        if isinstance(error, DigestMismatchError):
            self._findings.add(Damage(error.start, error.length, error.member, missing=False))
        else:
            self._note(error)

    def _end(self, error: TapestreamError) -> None:
        self._ended = True
        self._note(error)

    def _note(self, error: TapestreamError) -> None:
        self._findings.note(str(error.args[0]))

    def _note_bridged(self, bridge: BridgedInput, begin: int) -> None:
        for offset, length in bridge.bridged:
            self._note_missing(self._position + offset - begin, length)

    def _note_missing(self, start: int, length: int) -> None:
        assert self._member is not None
        self._findings.add(Damage(start, length, self._member.name, missing=True))
