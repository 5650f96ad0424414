"""The volumes of a stream on the way back: usually the only one, on tapes one after another."""

from __future__ import annotations

from contextlib import suppress
from itertools import islice

from ..errors import (
    CorruptStreamError,
    ExtentsError,
    ForeignStreamError,
    IncompleteStreamError,
    LocalIOError,
    StreamError,
    UsageError,
    WrongBackupError,
    WrongVolumeError,
)
from ..files.inputs import Input
from ..model.damage import Findings
from ..model.expected import Expected
from ..model.extents import Extents
from ..model.info import BackupInfo, describe
from ..tape.input import TapeInput
from . import format as fmt
from .digests import hex_digest
from .members import MemberReader
from .table import MemberTable
from .zerofill import BridgedInput

# Without the list of extents, nothing can be put in its place, but each name says where it belongs.
_BY_HAND = (
    "'tar --ignore-zeros -xf' extracts what is left of it: the name of each member says where on "
    "the disk its data belongs."
)


class Volumes:
    """The volume that is being read, and the way to the next.

    Args:
        stream: Where it is read from.
        expected: What it must be; None to take whatever it is.

    Attributes:
        preamble: What the volume says of itself.
        members: Its members, after the preamble.
        digests: The digests of the members that are not data, as read.
        bridge: What it is read through while damage is tolerated.
        cancelled: Somebody wants reading to end.

    Raises:
        StreamError: What is read is not the beginning of a backup.
        WrongBackupError: It is another backup than expected.
    """

    def __init__(self, stream: Input, expected: Expected | None = None) -> None:
        self._stream = stream
        self._findings: Findings | None = None
        self.bridge: BridgedInput | None = None
        self.cancelled = False
        if expected is None:
            self._open()
        else:
            self._open_expected(expected)
        self._first = self.preamble
        if isinstance(stream, TapeInput):
            stream.backup = describe(self.preamble.info)
        if self.preamble.volume != 1:
            raise WrongVolumeError(
                f"{stream.name}: this is volume {self.preamble.volume} of a backup"
            )

    def extents(self) -> Extents:
        """Read the extents, which are the next member.

        Raises:
            StreamError: They are damaged: where the data belongs is not known.
        """
        try:
            return self._checked_extents(self._extents_text())
        except StreamError as e:
            if self._findings is not None:
                e.hint = _BY_HAND
            raise

    def _extents_text(self) -> bytes:
        size = self.preamble.extents_size
        try:
            _check_size(self.members.named(fmt.EXTENTS), size)
            self.members.take(fmt.EXTENTS)
        except (CorruptStreamError, IncompleteStreamError) as e:
            if self._findings is None or not self._enter_extents(size):
                raise
            self._findings.note(f"{fmt.EXTENTS}: {e.args[0]}")
        text = self.members.text(fmt.EXTENTS, fmt.MAX_EXTENTS)
        self._add_digest(fmt.EXTENTS, text)
        return text

    def _enter_extents(self, size: int | None) -> bool:
        """Go into the extents despite their header; False if their size is not known."""
        members = self.members
        if size is None:
            guessed = members.guess()
            return guessed is not None and members.assume(fmt.EXTENTS, guessed.size)
        return members.assume_text(b"[", size) or members.assume(fmt.EXTENTS, size)

    def _checked_extents(self, text: bytes) -> Extents:
        info = self.preamble.info
        try:
            extents = Extents.parse(text, context=info.context)
        except ExtentsError as e:
            raise CorruptStreamError(f"{fmt.EXTENTS}: {e.args[0]}") from e
        if extents.size != info.size:
            raise CorruptStreamError(
                f"{fmt.EXTENTS} covers {extents.size} bytes of a disk of {info.size}"
            )
        return extents

    def attachments(self, extents: Extents) -> dict[str, bytes]:
        """Read the attachments, which are the next members.

        Args:
            extents: Those of the backup: they determine what comes after.
        """
        if self._findings is None:
            self._read_attachments()
        else:
            # Where the stream ends, the next member is looked for in vain.
            with suppress(IncompleteStreamError, LocalIOError):
                table = MemberTable(extents, self.preamble.part_size)
                self._salvage_attachments(table, self._findings)
        return self._attachments

    def open_next(self, extents: Extents, error: IncompleteStreamError | None) -> None:
        """Go to the first data member of the next volume.

        Args:
            extents: Those of the volumes before.
            error: How the volume before ended, where it was torn.

        Raises:
            TapestreamError: There is no next volume: `error`, where it is given.
            CorruptStreamError: It does not belong to the one before.
        """
        before = self.preamble
        if not isinstance(self._stream, TapeInput):
            raise error or IncompleteStreamError(
                f"{self._stream.name}: the backup goes on on volume {before.volume + 1}",
                hint="Restore it from the tapes that it was written to.",
            )
        self._stream.next_volume(before, error)
        self._open()
        if _common(self.preamble) != _common(before) or self.preamble.volume != before.volume + 1:
            raise CorruptStreamError(
                f"{self._stream.name}: this is not volume {before.volume + 1} of the backup"
            )
        self._pass_extents(extents)
        self.attachments(extents)

    def end(self) -> None:
        """Read to the end of the volume, after its manifest.

        Raises:
            CorruptStreamError: There is more, or something else.
            PositionLostError: The tape was moved: what was read last may come from elsewhere.
        """
        self.members.end(self.preamble.record_size)
        if isinstance(self._stream, TapeInput):
            self._stream.check_place()

    @property
    def has_bridged(self) -> bool:
        """True when zeros stand for something that could not be read."""
        return self.bridge is not None and self.bridge.was_needed

    def tolerate(self, findings: Findings | None) -> None:
        """From now on, read on after what cannot be read; None: do not."""
        self._findings = findings
        if findings is None:
            self.bridge = None
        elif self.bridge is None:
            self.bridge = BridgedInput(self._stream)
        self.members.go_on_with(self.bridge or self._stream)

    def rewind(self, extents: Extents) -> None:
        """Go back to the first volume, after its extents.

        Args:
            extents: Those of the backup, which were read before.

        Raises:
            UsageError: The stream can be read only once.
            WrongTapeError: The tape was changed, and nobody is there to load the right one.
            CorruptStreamError: What is there now is not what was there before.
        """
        self.cancelled = False
        if isinstance(self._stream, TapeInput):
            self._stream.go_back(self._first)
        else:
            self._stream.rewind()
        self._open()
        if self.preamble != self._first:
            raise CorruptStreamError(f"{self._stream.name} is not the backup that it was before")
        self._pass_extents(extents)

    def check_complete(self, extents: Extents) -> None:
        """Look for the manifest, before the data was read, where that is quickly done.

        Raises:
            IncompleteStreamError: It is not there, or not whole.
        """
        if isinstance(self._stream, TapeInput):
            self._stream.check_complete(self._first)
        else:
            self._check_ending(extents)

    @property
    def name(self) -> str:
        """Of the stream."""
        return self._stream.name

    def cancel(self) -> None:
        """Make a read that blocks, now or later, fail."""
        self.cancelled = True
        self._stream.cancel()

    def _open(self) -> None:
        if self.bridge is not None:
            self.bridge = BridgedInput(self._stream)
        self.members = MemberReader(self.bridge or self._stream)
        self._attachments: dict[str, bytes] = {}
        text = self.members.first(fmt.INFO, fmt.MAX_INFO)
        self.preamble = fmt.Preamble.decode(text)
        self._to_come = self.preamble.attachments
        self.digests: dict[str, str | None] = {}
        self._add_digest(fmt.INFO, text)

    def _open_expected(self, expected: Expected) -> None:
        try:
            self._open()
        except (ForeignStreamError, IncompleteStreamError) as e:
            raise expected.error(_place(self._stream), f"no backup ({e.args[0]})") from e
        try:
            expected.check(self.preamble.info, self.preamble.set_id, self._stream.name)
        except WrongBackupError:
            # Only now: to read the label, a tape is wound.
            expected.check(self.preamble.info, self.preamble.set_id, _place(self._stream))

    def _read_attachments(self) -> None:
        """Read them, up to a header that is not that of one; none of one that is refused."""
        left = fmt.MAX_ATTACHMENTS - sum(map(len, self._attachments.values()))
        while (header := self._next_attachment()) is not None:
            name = header.name[len(fmt.ATTACHMENTS) :]
            try:
                fmt.attachment_member(name)
            except UsageError as e:
                raise CorruptStreamError(f"a member has a bad name: {name!r}") from e
            if name in self._attachments:
                raise CorruptStreamError(f"there are two members {header.name}")
            if len(self._attachments) == fmt.MAX_FILES:
                raise CorruptStreamError(f"there are more than {fmt.MAX_FILES} attachments")
            _check_size(header, self._to_come.get(header.name))
            self._attachments[name] = self._member(header.name, left)
            self._to_come.pop(header.name, None)
            left -= len(self._attachments[name])

    def check_listed(self) -> None:
        """Make sure that the volume has the members that it lists, and no others.

        Raises:
            CorruptStreamError: It has others.
        """
        listed = self.preamble.members
        if listed is not None and dict(listed).keys() != self.digests.keys() - {fmt.INFO}:
            raise CorruptStreamError(f"{fmt.INFO} lists other members than the stream has")

    def _salvage_attachments(self, table: MemberTable, findings: Findings) -> None:
        """Read those that are there; pass over those that are refused, or have a bad header.

        A bad header is that of an attachment if one is still to come, and a header after it is
        where it should be. Otherwise bytes were lost or doubled: the attachments end here, and
        whoever reads the data looks for it.
        """
        is_in_step = False
        while True:
            problem = "its header is not there"
            try:
                self._read_attachments()
            except CorruptStreamError as e:
                problem = str(e.args[0])
            bad = self._bad_attachment(table)
            if bad is None:
                return
            findings.note(f"{bad.name}: {problem}")
            if self._to_come.pop(bad.name, None) is not None and not self._is_next_in_place(bad):
                is_in_step = is_in_step or self._is_data_in_place(bad, table)
                if not is_in_step:
                    return
            self.members.assume(bad.name, bad.size)
            self.members.skip(bad.size)

    def _bad_attachment(self, table: MemberTable) -> fmt.Header | None:
        """What the next member must be, as it is no good attachment; None where those have ended.

        What is listed must be there. What is refused and not listed has the size that it claims, as
        has a damaged one in a stream of older software, if another header follows it there.
        """
        found = self.members.guess()
        if found and not self.members.is_damaged:
            if found.name == fmt.MANIFEST or table.find(found) is not None:
                return None  # those between are missing
            if found.name.startswith(fmt.ATTACHMENTS) and found.name not in self._to_come:
                return found
        name = found.name if found else ""
        if found and self.preamble.members is None:
            is_one = fmt.resembles(name, fmt.ATTACHMENTS) and self._is_in_place(found, table)
            return found if is_one else None
        if name not in self._to_come:
            name = next(iter(self._to_come), "")
        return fmt.Header(name, self._to_come[name]) if name else None

    def _is_in_place(self, member: fmt.Header, table: MemberTable) -> bool:
        """Whether another attachment, or the data, follows one that is not listed."""
        first = next(table.following(self.preamble.volume_start), None)
        starts = (fmt.ATTACHMENTS.encode(), *self._starts(first))
        return self.members.is_behind(starts, member.size, self._stream.peek)

    def _is_next_in_place(self, member: fmt.Header) -> bool:
        """Whether the attachment after this one is where it should be."""
        following = next(iter(self._to_come), None)
        return following is not None and self.members.is_behind(
            (_start(following),), member.size, self._stream.peek
        )

    def _is_data_in_place(self, member: fmt.Header, table: MemberTable) -> bool:
        """Whether the data is where it should be, as seen from this attachment."""
        extra = fmt.BLOCK + self.members.extension
        distance = fmt.padded(member.size)
        distance += sum(extra + fmt.padded(size) for size in self._to_come.values())
        for each in islice(table.following(self.preamble.volume_start), 2):
            if self.is_behind(each, distance):
                return True
            distance += extra + fmt.padded(each.length)
        return self.is_behind(None, distance)

    def is_behind(self, member: fmt.Member | None, distance: int) -> bool:
        """Whether a member, or for None the manifest, comes so many bytes after the next header."""
        return self.members.is_behind(self._starts(member), distance, self._stream.peek)

    def _starts(self, member: fmt.Member | None) -> tuple[bytes, ...]:
        """How the header of a data member begins, or what may be there instead of it."""
        manifest = _start(fmt.MANIFEST)
        if member is None:
            return (manifest,)
        return (_start(member.name), manifest) if self.may_go_on else (_start(member.name),)

    @property
    def may_go_on(self) -> bool:
        """Whether there can be another volume, so that this one may end after any member."""
        return self.preamble.set_id is not None

    def _check_ending(self, extents: Extents) -> None:
        if self._stream.peek(0, 1) is None:
            return
        self.members.header()
        if self.members.extension:
            return  # what another program put before each header takes room, too
        start = self.members.position + fmt.data_length(extents, self.preamble.part_size)
        block = self._stream.peek(start, fmt.BLOCK)
        header = fmt.parse_header(block) if block and len(block) == fmt.BLOCK else None
        if header is None or header.name != fmt.MANIFEST:
            raise IncompleteStreamError(f"{self._stream.name} ends before its manifest")
        last = start + fmt.BLOCK + fmt.padded(header.size) + len(fmt.END) - 1
        if not self._stream.peek(last, 1):
            raise IncompleteStreamError(f"{self._stream.name} ends in its manifest")

    def _pass_extents(self, extents: Extents) -> None:
        """Read the extents, which must be those that were read before."""
        self._take_extents(extents)
        text = self.members.unlike(len(extents.json), lambda: [extents.json])
        self._add_digest(fmt.EXTENTS, text or extents.json)
        if text is not None:
            self._differ(f"{fmt.EXTENTS} differs from that which was read before")

    def _take_extents(self, extents: Extents) -> None:
        try:
            self.members.take(fmt.EXTENTS)
        except CorruptStreamError as e:
            if self._findings is None or not self.members.assume(fmt.EXTENTS, len(extents.json)):
                raise
            self._findings.note(f"{fmt.EXTENTS}: {e.args[0]}")

    def _differ(self, problem: str) -> None:
        if self._findings is None:
            raise CorruptStreamError(problem)
        self._findings.note(problem)

    def _next_attachment(self) -> fmt.Header | None:
        """Header of the attachment that comes next; None where something else does."""
        header = self.members.header()
        is_one = header is not None and header.name.startswith(fmt.ATTACHMENTS)
        return header if is_one else None

    def _member(self, name: str, limit: int) -> bytes:
        text = self.members.whole(name, limit)
        self._add_digest(name, text)
        return text

    def _add_digest(self, name: str, text: bytes) -> None:
        self.digests[name] = hex_digest(self.preamble.checksum, text)


def _start(name: str) -> bytes:
    """How the header of a member begins."""
    return name.encode() + b"\0"


def _check_size(header: fmt.Header, listed: int | None) -> None:
    """Make sure that a header agrees with what the preamble lists, if it lists anything."""
    if listed not in (None, header.size):
        raise CorruptStreamError(
            f"{header.name} has {header.size} bytes, not the {listed} that {fmt.INFO} says"
        )


def _place(stream: Input) -> str:
    """The name of a stream; on a tape also what that is called, and the number of the file."""
    return stream.place() if isinstance(stream, TapeInput) else stream.name


def _common(preamble: fmt.Preamble) -> tuple[str | None, BackupInfo, str | None, int]:
    """What all volumes of a set agree on."""
    return preamble.set_id, preamble.info, preamble.checksum, preamble.part_size
