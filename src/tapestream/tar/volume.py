"""The volumes of a stream on the way back: usually the only one, on tapes one after another."""

from __future__ import annotations

from contextlib import suppress

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
from .members import MAX_AHEAD, MemberReader
from .table import MemberTable
from .zerofill import BridgedInput

# More than a server sends: over ten million extents.
MAX_EXTENTS = fmt.GIB
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
        try:
            text = self.members.text(fmt.EXTENTS, MAX_EXTENTS)
        except (CorruptStreamError, IncompleteStreamError) as e:
            found = None if self._findings is None else self._behind_damaged_header()
            if found is None or self._findings is None:
                raise
            self._findings.note(f"{fmt.EXTENTS}: {e.args[0]}")
            text = found
        self._add_digest(fmt.EXTENTS, text)
        return text

    def _behind_damaged_header(self) -> bytes | None:
        """All up to the next good header, without padding; None where none is found."""
        members = self.members
        if not members.is_at_header:
            return None
        here = members.offset
        if not members.assume_text(b"[", 0):
            members.assume(fmt.EXTENTS, 0)
        offset, header = members.look_ahead(lambda _: True, here, here + MAX_AHEAD)
        return None if header is None else members.read_to(offset).rstrip(b"\0")

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
        self._searched = 0  # no good header begins before this offset
        text = self.members.first(fmt.INFO, fmt.MAX_INFO)
        self.preamble = fmt.Preamble.decode(text)
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
        while (name := self._next_attachment()) is not None:
            try:
                fmt.attachment_member(name)
            except UsageError as e:
                raise CorruptStreamError(f"a member has a bad name: {name!r}") from e
            if name in self._attachments:
                raise CorruptStreamError(f"there are two members {fmt.ATTACHMENTS}{name}")
            if len(self._attachments) == fmt.MAX_FILES:
                raise CorruptStreamError(f"there are more than {fmt.MAX_FILES} attachments")
            self._attachments[name] = self._member(fmt.ATTACHMENTS + name, left)
            left -= len(self._attachments[name])

    def _salvage_attachments(self, table: MemberTable, findings: Findings) -> None:
        """Read those that are there; pass over those that are refused, or have a damaged header."""
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
            self.members.assume(bad.name, bad.size)
            self.members.skip(bad.size)

    def _bad_attachment(self, table: MemberTable) -> fmt.Header | None:
        """What the next member must have been; None where it is the one after the attachments."""
        found = self.members.guess()
        name = found.name if found else ""
        if found and fmt.resembles(name, fmt.ATTACHMENTS):
            if not self.members.is_damaged:
                return found
            distance = self._distance(table, attachments=True)  # for its size may be damaged, too
            return found if distance is None else fmt.Header(name, distance)
        if found and not self.members.is_damaged and table.find(found) is not None:
            return None  # those between are missing
        behind = table.following(self.preamble.volume_start)
        first, second = next(behind, None), next(behind, None)
        expected = [first.name, fmt.MANIFEST] if first else [fmt.MANIFEST]
        if any(fmt.resembles(name, other) for other in expected):
            return None
        if first and self.is_followed(first, second):
            return None
        distance = self._distance(table, attachments=False)
        return None if distance is None else fmt.Header("an attachment", distance)

    def is_followed(self, member: fmt.Member, following: fmt.Member | None) -> bool:
        """Whether the next data member, if its header is this one, has the next one after it."""
        name = following.name if following else fmt.MANIFEST
        names = (name, fmt.MANIFEST) if self.may_go_on else (name,)
        return self.members.is_behind(names, member.length, self._stream.peek)

    @property
    def may_go_on(self) -> bool:
        """Whether there can be another volume, so that this one may end after any member."""
        return self.preamble.set_id is not None

    def _distance(self, table: MemberTable, *, attachments: bool) -> int | None:
        """How many bytes there are between a damaged header and the next good one.

        Args:
            table: All data members.
            attachments: Stop at another attachment, too: not where this may be the disk's data,
                for there can be tars on a disk.

        Returns:
            None where it is not found, or where the damaged one is that of the first data member.
        """

        def is_next(header: fmt.Header) -> bool:
            is_one = attachments and header.name.startswith(fmt.ATTACHMENTS)
            return is_one or header.name == fmt.MANIFEST or table.find(header) is not None

        here = self.members.offset
        if self._searched >= here + fmt.MAX_ATTACHMENTS // 2:
            return None
        offset, header = self.members.look_ahead(
            is_next,
            max(here, self._searched),
            here + fmt.MAX_ATTACHMENTS,
        )
        if header is None:
            self._searched = offset
            return None
        start, distance = self.preamble.volume_start, offset - here + fmt.BLOCK
        found = table.find(header)
        if table.is_at(distance, start, found, self.members.extension, ends=self.may_go_on):
            return None
        return offset - here

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

    def _next_attachment(self) -> str | None:
        """Name of the attachment that comes next; None where something else does."""
        header = self.members.header()
        if header is None or not header.name.startswith(fmt.ATTACHMENTS):
            return None
        return header.name[len(fmt.ATTACHMENTS) :]

    def _member(self, name: str, limit: int) -> bytes:
        text = self.members.whole(name, limit)
        self._add_digest(name, text)
        return text

    def _add_digest(self, name: str, text: bytes) -> None:
        self.digests[name] = hex_digest(self.preamble.checksum, text)


def _place(stream: Input) -> str:
    """The name of a stream; on a tape also what that is called, and the number of the file."""
    return stream.place() if isinstance(stream, TapeInput) else stream.name


def _common(preamble: fmt.Preamble) -> tuple[str | None, BackupInfo, str | None, int]:
    """What all volumes of a set agree on."""
    return preamble.set_id, preamble.info, preamble.checksum, preamble.part_size
