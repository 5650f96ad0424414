"""Opens the volumes of a stream for reading, and reads the members before the data.

A stream has one volume, or several on tapes.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property
from itertools import islice

from ..errors import (
    CorruptStreamError,
    ExtentsError,
    IncompleteStreamError,
    LocalIOError,
    StreamError,
    UsageError,
)
from ..model.extents import Extents
from ..model.info import BackupInfo, describe
from . import format as fmt
from .digests import hex_digest
from .lookahead import Readable
from .medium import InputMedium, VolumeId
from .members import MemberReader
from .preamble import Preamble, attachment_member, resembles
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
        attachments: The files that are kept with the disk, as far as they were read.
        is_listed: True after everything up to the first data member was read.
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
            self._read_all_attachments()

    @cached_property
    def table(self) -> MemberTable:
        """All data members of all volumes."""
        assert self.extents is not None
        return MemberTable(self.extents, self.preamble.part_size)

    def _read_extents(self) -> Extents:
        try:
            self._enter_extents()
            text = self.members.read_text(fmt.EXTENTS, fmt.MAX_EXTENTS)
            self._add_digest(fmt.EXTENTS, text)
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
            self._check_size(members.named(fmt.EXTENTS), listed)
            members.enter(fmt.EXTENTS)
        except (CorruptStreamError, IncompleteStreamError) as e:
            if not self.trouble.goes_on or not members.is_at_header:
                raise
            size = known if listed is None else listed
            if size is None:  # a stream of older software, which did not list it
                size = members.text_length(b"[")
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
        self._read_all_attachments()

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
        self._to_come = self.preamble.attachments
        self.digests: dict[str, str | None] = {}
        self._add_digest(fmt.INFO, text)

    def _read_all_attachments(self) -> None:
        if self.preamble.members_problem is not None:
            self.trouble.meet(CorruptStreamError(self.preamble.members_problem))
        if self.trouble.goes_on:
            # If the stream has ended, the data reader meets this error again, and reports it.
            with suppress(IncompleteStreamError, LocalIOError):
                self._salvage_attachments()
        else:
            self._read_attachments()
        self.is_listed = True

    def _read_attachments(self) -> None:
        """Read attachments up to another header; stop before one that is refused."""
        left = fmt.MAX_ATTACHMENTS - sum(map(len, self.attachments.values()))
        while (header := self._next_attachment()) is not None:
            name = header.name[len(fmt.ATTACHMENTS) :]
            try:
                attachment_member(name)
            except UsageError as e:
                raise CorruptStreamError(f"a member has a bad name: {name!r}") from e
            if name in self.attachments:
                raise CorruptStreamError(f"there are two members {header.name}")
            if len(self.attachments) == fmt.MAX_FILES:
                raise CorruptStreamError(f"there are more than {fmt.MAX_FILES} attachments")
            self._check_size(header, self._to_come.get(header.name))
            self.attachments[name] = text = self.members.read_member(header.name, left)
            self._add_digest(header.name, text)
            self._to_come.pop(header.name, None)
            left -= len(text)

    def check_listed(self) -> None:
        """Make sure that the volume has the members that its preamble lists, and no others.

        Raises:
            CorruptStreamError: It has others, or lacks some.
        """
        listed = self.preamble.members
        if listed is not None and dict(listed).keys() != self.digests.keys() - {fmt.INFO}:
            raise CorruptStreamError(f"{fmt.INFO} lists other members than the stream has")

    def _salvage_attachments(self) -> None:
        """Read the attachments; skip those that are refused or have a bad header.

        A bad header belongs to an attachment if one is still to come, and if a header after it is
        where it should be. Otherwise bytes were lost or doubled: the attachments end here, and the
        reader of the data searches for it.
        """
        is_in_step = False
        while True:
            problem = CorruptStreamError("its header is not there")
            try:
                self._read_attachments()
            except CorruptStreamError as e:
                problem = e
            bad = self._bad_attachment()
            if bad is None:
                return
            self.trouble.meet(problem, bad.name)
            if self._to_come.pop(bad.name, None) is not None and not self._is_next_in_place(bad):
                is_in_step = is_in_step or self._is_data_in_place(bad)
                if not is_in_step:
                    return
            self.members.enter_as(bad.name, bad.size)
            self.members.skip(bad.size)

    def _bad_attachment(self) -> fmt.Header | None:
        """The bad attachment that the next member must be; None if the attachments have ended.

        If attachments are listed and were not read, it is one of those. A refused one that is not
        listed has the size in its header. So has a damaged one in a stream of older software, if
        another header follows it at that distance.
        """
        found = self.members.best_guess()
        if found and not self.members.is_damaged:
            if found.name == fmt.MANIFEST or self.table.find(found) is not None:
                return None  # the attachments still to come are missing
            if found.name.startswith(fmt.ATTACHMENTS) and found.name not in self._to_come:
                return found
        name = found.name if found else ""
        if found and self.preamble.members is None:
            is_one = resembles(name, fmt.ATTACHMENTS) and self._is_in_place(found)
            return found if is_one else None
        if name not in self._to_come:
            name = next(iter(self._to_come), "")
        return fmt.Header(name, self._to_come[name]) if name else None

    def _is_in_place(self, member: fmt.Header) -> bool:
        """Whether another attachment, or the data, follows an attachment that is not listed."""
        first = next(self.table.following(self.preamble.volume_start), None)
        starts = (fmt.ATTACHMENTS.encode(), *self._starts(first))
        return self.members.is_header_after(starts, member.size, self._medium.peek)

    def _is_next_in_place(self, member: fmt.Header) -> bool:
        """Whether the attachment after this one is where it should be."""
        following = next(iter(self._to_come), None)
        return following is not None and self.members.is_header_after(
            (_start(following),), member.size, self._medium.peek
        )

    def _is_data_in_place(self, member: fmt.Header) -> bool:
        """Whether the data is where it should be, counted from this attachment."""
        extra = fmt.BLOCK + self.members.extension
        distance = fmt.padded(member.size)
        distance += sum(extra + fmt.padded(size) for size in self._to_come.values())
        for each in islice(self.table.following(self.preamble.volume_start), 2):
            if self.has_header_after(each, distance):
                return True
            distance += extra + fmt.padded(each.length)
        return self.has_header_after(None, distance)

    def has_header_after(self, member: fmt.Member | None, distance: int) -> bool:
        """Whether the header of a member is `distance` bytes after the next header.

        None stands for the manifest.
        """
        return self.members.is_header_after(self._starts(member), distance, self._medium.peek)

    def _starts(self, member: fmt.Member | None) -> tuple[bytes, ...]:
        """How the header of a data member begins, or the manifest's that may be there instead."""
        manifest = _start(fmt.MANIFEST)
        if member is None:
            return (manifest,)
        return (_start(member.name), manifest) if self.may_go_on else (_start(member.name),)

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
        self._add_digest(fmt.EXTENTS, text or extents.json)
        if text is not None:
            problem = f"{fmt.EXTENTS} differs from that which was read before"
            self.trouble.meet(CorruptStreamError(problem))
        return extents

    def _next_attachment(self) -> fmt.Header | None:
        """Header of the next member if it is an attachment; otherwise None."""
        header = self.members.header()
        is_one = header is not None and header.name.startswith(fmt.ATTACHMENTS)
        return header if is_one else None

    def _check_size(self, header: fmt.Header, listed: int | None) -> None:
        """Make sure that a header agrees with the list, if there is one.

        The header has a checksum, the list has none: if reading goes on, it is by the header.
        """
        if listed not in (None, header.size):
            problem = (
                f"{header.name} has {header.size} bytes, not the {listed} that {fmt.INFO} says"
            )
            self.trouble.meet(CorruptStreamError(problem), header.name)

    def _add_digest(self, name: str, text: bytes) -> None:
        self.digests[name] = hex_digest(self.preamble.checksum, text)


def _start(name: str) -> bytes:
    """How the header of a member begins."""
    return name.encode() + b"\0"


def _common(preamble: Preamble) -> tuple[str | None, BackupInfo, str | None, int]:
    """The values that are the same on all volumes of a set."""
    return preamble.set_id, preamble.info, preamble.checksum, preamble.part_size
