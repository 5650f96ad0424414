"""Opens the volumes of a stream for reading, and reads the members before the data.

A stream has one volume, or several on tapes.
"""

from __future__ import annotations

from functools import cached_property

from ..errors import (
    CorruptStreamError,
    ExtentsError,
    IncompleteStreamError,
    StreamError,
)
from ..model.extents import Extents
from ..model.info import BackupInfo, describe
from . import format as fmt
from .attachments import AttachmentReader
from .digests import hex_digest
from .lookahead import Readable
from .medium import InputMedium, VolumeId
from .members import MemberReader
from .preamble import Preamble
from .table import MemberTable
from .trouble import STRICT, Trouble
from .zerofill import ZeroFilledInput

# Without the list of extents we cannot restore, but the name of each member has its disk offset.
_BY_HAND = (
    "'tar --ignore-zeros -xf' extracts what is left of it: the name of each member says where on "
    "the disk its data belongs."
)


class Volumes:
    """The volume that is being read; `open_next` goes to the next one.

    Args:
        medium: Where to read from. It stands at the beginning of the volume.
        trouble: What happens at damage.

    Attributes:
        trouble: What happens at damage.
        preamble: The contents of the volume's `backup-info.json`.
        members: Reads the volume's other members.
        digests: By name, the digests of the members that are not data, computed from what was read.
        extents: All extents of the disk; None before they were read.
        attachments: The files that are kept with the disk and were read so far.
        is_listed: True when everything up to the first data member was read.
        zeros: The object that gives zeros for unreadable places; None if they are errors.
        is_cancelled: True after `cancel`.

    Raises:
        StreamError: The medium does not stand at the beginning of a volume.
    """

    def __init__(self, medium: InputMedium, trouble: Trouble = STRICT) -> None:
        self.trouble = trouble
        self.is_cancelled = False
        self.extents: Extents | None = None
        self._medium = medium
        self._read_from(trouble.readable(medium))
        self._open()

    def go_on_with(self, trouble: Trouble) -> None:
        """Change what happens at damage, from here on."""
        self.trouble = trouble
        self._read_from(trouble.readable(self._medium, self._readable))
        self.members.go_on_with(self._readable)

    def _read_from(self, readable: Readable) -> None:
        self._readable = readable
        self.zeros = readable if isinstance(readable, ZeroFilledInput) else None

    def list(self, known: Extents | None) -> None:
        """Read up to the first data member: the extents, and the attachments.

        Args:
            known: The extents, if they were read before, at another time. Those that are read now
                must be the same.

        Raises:
            StreamError: The extents are damaged, so it is not known where the data belongs.
        """
        if self.extents is None:
            self.extents = self._read_extents() if known is None else self._pass_extents(known)
        if not self.is_listed:
            self._read_attachments()

    @cached_property
    def table(self) -> MemberTable:
        """All data members of all volumes."""
        assert self.extents is not None
        return MemberTable(self.extents, self.preamble.part_size)

    def _read_extents(self) -> Extents:
        try:
            self._enter_extents()
            text = self.members.read_text(fmt.EXTENTS, fmt.MAX_EXTENTS)
            self.add_digest(fmt.EXTENTS, text)
            return self._checked_extents(text)
        except StreamError as e:
            if self.trouble.goes_on:
                e.hint = _BY_HAND
            raise

    def _enter_extents(self, known: int | None = None) -> None:
        """Enter the extents; if reading continues at damage, even if their header is bad.

        Args:
            known: Bytes of the extents, if they were read before.
        """
        members, listed = self.members, self.preamble.extents_size
        try:
            self.check_size(members.named(fmt.EXTENTS), listed)
            members.enter(fmt.EXTENTS)
        except (CorruptStreamError, IncompleteStreamError) as e:
            if not self.trouble.goes_on or not members.is_at_header:
                raise
            size = known if listed is None else listed
            if size is None:  # a stream of older software, which did not list it
                size = members.text_length()
            if size is None:
                raise
            self.trouble.meet(e, fmt.EXTENTS)
            if not members.enter_text(b"[", size):
                members.enter_as(fmt.EXTENTS, size)

    def _checked_extents(self, text: bytes) -> Extents:
        info = self.preamble.info
        try:
            extents = Extents.parse(text, context=info.context)
        except ExtentsError as e:
            raise CorruptStreamError(f"{fmt.EXTENTS}: {e.message}") from e
        if extents.size != info.size:
            raise CorruptStreamError(
                f"{fmt.EXTENTS} covers {extents.size} bytes of a disk of {info.size}"
            )
        return extents

    def open_next(self, error: IncompleteStreamError | None) -> None:
        """Go to the first data member of the next volume.

        Args:
            error: The error with which the volume before ended; None if it ended with a manifest.

        Raises:
            TapestreamError: There is no next volume; this is `error` if it was given.
            CorruptStreamError: The volume does not belong to the one before.
        """
        before = self.preamble
        if error is not None and before.set_id is None:
            raise error
        number = before.volume + 1
        try:
            self._medium.next_volume(VolumeId(before.set_id or "", number, describe(before.info)))
        except IncompleteStreamError:
            if error is None:
                raise
            raise error from error.__cause__
        self._read_from(self.trouble.readable(self._medium))
        self._open()
        if _common(self.preamble) != _common(before) or self.preamble.volume != number:
            raise CorruptStreamError(
                f"{self._medium.name}: this is not volume {number} of the backup"
            )
        assert self.extents is not None
        self._pass_extents(self.extents)
        self._read_attachments()

    def end(self) -> None:
        """Read to the end of the volume, after its manifest.

        Raises:
            CorruptStreamError: Something other than the end follows.
            PositionLostError: The tape was moved: what was read last may come from elsewhere.
        """
        self.members.end(self.preamble.record_size)
        self._medium.check_position()

    @property
    def name(self) -> str:
        """The medium's name, for people."""
        return self._medium.name

    def cancel(self) -> None:
        """Make a read that blocks, now or later, fail."""
        self.is_cancelled = True
        self._medium.cancel()

    def _open(self) -> None:
        self.attachments: dict[str, bytes] = {}
        self.is_listed = False
        self.members = MemberReader(self._readable)
        text = self.members.read_first_member(fmt.INFO, fmt.MAX_INFO)
        self.preamble = Preamble.decode(text)
        self.digests: dict[str, str | None] = {}
        self.add_digest(fmt.INFO, text)

    def _read_attachments(self) -> None:
        if self.preamble.members_problem is not None:
            self.trouble.meet(CorruptStreamError(self.preamble.members_problem))
        AttachmentReader(self).read()
        self.is_listed = True

    def check_listed(self) -> None:
        """Make sure that the volume has the members that its preamble lists, and no others.

        Raises:
            CorruptStreamError: It has others, or lacks some.
        """
        listed = self.preamble.members
        if listed is not None and dict(listed).keys() != self.digests.keys() - {fmt.INFO}:
            raise CorruptStreamError(f"{fmt.INFO} lists other members than the stream has")

    def has_header_after(self, member: fmt.Member | None, distance: int, *others: bytes) -> bool:
        """Whether the header of a data member is `distance` bytes after the next header.

        Args:
            member: The member; None for the manifest, which may also be there if this volume can
                end before the member.
            distance: Bytes of data between the two headers.
            others: What else a header there may begin with.
        """
        starts = [*others]
        if member is not None:
            starts.append(_start(member.name))
        if member is None or self.may_go_on:
            starts.append(_start(fmt.MANIFEST))
        return self.members.is_header_after(tuple(starts), distance, self._medium.peek)

    def is_followed(self, distance: int, name: str) -> bool:
        """Whether the header of the member of this name is `distance` bytes after the next one."""
        return self.members.is_header_after((_start(name),), distance, self._medium.peek)

    @property
    def may_go_on(self) -> bool:
        """Whether there can be another volume; this one may then end after any member."""
        return self.preamble.set_id is not None

    def check_ending(self, extents: Extents) -> None:
        """Look for the manifest before the data is read, if the medium can look ahead.

        Raises:
            IncompleteStreamError: The manifest is not there, or not complete.
        """
        if self._medium.peek(0, 1) is None:
            return
        self.members.header()
        if self.members.extension:
            return  # other programs' extension headers take room, too: the place is not known
        start = self.members.offset - fmt.BLOCK
        start += fmt.data_length(extents, self.preamble.part_size)
        block = self._medium.peek(start, fmt.BLOCK)
        header = fmt.parse_header(block) if block and len(block) == fmt.BLOCK else None
        if header is None or header.name != fmt.MANIFEST:
            raise IncompleteStreamError(f"{self._medium.name} ends before its manifest")
        last = start + fmt.BLOCK + fmt.padded(header.size) + len(fmt.END) - 1
        if not self._medium.peek(last, 1):
            raise IncompleteStreamError(f"{self._medium.name} ends in its manifest")

    def _pass_extents(self, extents: Extents) -> Extents:
        """Read the extents, which must be the same as those that were read before."""
        self._enter_extents(len(extents.json))
        text = self.members.read_if_different(len(extents.json), lambda: [extents.json])
        self.add_digest(fmt.EXTENTS, text or extents.json)
        if text is not None:
            problem = f"{fmt.EXTENTS} differs from that which was read before"
            self.trouble.meet(CorruptStreamError(problem))
        return extents

    def check_size(self, header: fmt.Header, listed: int | None) -> None:
        """Make sure that a header agrees with the list, if there is one.

        The header has a checksum, the list has none: if reading goes on, it is by the header.
        """
        if listed not in (None, header.size):
            problem = (
                f"{header.name} has {header.size} bytes, not the {listed} that {fmt.INFO} says"
            )
            self.trouble.meet(CorruptStreamError(problem), header.name)

    def add_digest(self, name: str, text: bytes) -> None:
        """Keep the digest of a member that is not data."""
        self.digests[name] = hex_digest(self.preamble.checksum, text)


def _start(name: str) -> bytes:
    """How the header of a member begins."""
    return name.encode() + b"\0"


def _common(preamble: Preamble) -> tuple[str | None, BackupInfo, str | None, int]:
    """The values that are the same on all volumes of a set."""
    return preamble.set_id, preamble.info, preamble.checksum, preamble.part_size
