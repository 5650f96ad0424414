"""Reads the members of a tar one after another, and looks ahead for headers after damage."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice

from ..errors import (
    CorruptStreamError,
    ForeignStreamError,
    IncompleteStreamError,
    LocalIOError,
    UsageError,
)
from ..model.formats import packer_of
from . import extended
from . import format as fmt
from .lookahead import LookAhead, Readable

# Bytes per read. A header's size field may be wrong, so memory is taken only as the bytes arrive.
READ_STEP = fmt.MIB
# Most extension headers before a member's own header. Other programs usually write one or two.
MAX_EXTENSIONS = 16
# Most bytes to look ahead, in memory.
MAX_AHEAD = 64 * fmt.MIB
# How the headers begin that we look for after damage, and where they hold the backup's time.
_OUR_NAMES = (b"extent-", b"attachments/", b"manifest.json\0")
_FIRST = b"backup-info.json\0"
_TIME = slice(136, 148)


class MemberReader(LookAhead):
    """Reads members from a stream, one after another.

    The header of the next member is read together with the padding before it, and kept until that
    member is entered.

    This also reads a backup that another tar program packed again: extension headers count as a
    part of the header that they extend.

    Attributes:
        extension: Bytes of extension headers before the last undamaged header.
        left: How many bytes of the member are not read yet.
        is_at_header: True if a block for the next member's header was read, damaged or not.
    """

    def __init__(self, stream: Readable) -> None:
        super().__init__(stream)
        self.extension = 0
        self.left = 0
        self.is_at_header = False
        self._header: fmt.Header | None = None
        self._problem: CorruptStreamError | None = None  # what is wrong with the next header
        self._pad = 0
        self._block = b""
        self._name = ""
        self._unfilled = 0
        self._time: bytes | None = None

    def read_first_member(self, name: str, limit: int) -> bytes:
        """Read the first member of the stream.

        Raises:
            ForeignStreamError: The stream is not a backup at all.
            IncompleteStreamError: It ends too early.
            CorruptStreamError: It is a backup, but damaged.
        """
        start = self._next_bytes(fmt.BLOCK)
        if len(start) < fmt.BLOCK and name.encode().startswith(start[: len(name)]):
            raise IncompleteStreamError(
                f"the stream ends after {len(start)} bytes, in its first header"
            )
        is_extended = len(start) == fmt.BLOCK and extended.kind_of(start) is not None
        foreign = _foreign(f"{self._stream.name} does not begin with {name}", start)
        if not is_extended and not start.startswith(name.encode() + b"\0"):
            raise foreign
        try:
            header = self.header()
        except CorruptStreamError:
            if is_extended:
                raise foreign from None
            raise
        if header is None or header.name != name:
            raise foreign
        return self.read_member(name, limit)

    def header(self) -> fmt.Header | None:
        """The next member's header, which stays the next; None at the end of the archive.

        Raises:
            CorruptStreamError: The header, or the padding before it, is damaged.
        """
        if not self.is_at_header:
            if self.left:
                raise UsageError("the member before has not been read to its end")
            self._name = f"the header behind {self._name}" if self._name else "the first header"
            try:
                self._header = self._read_header()
            except CorruptStreamError as e:
                self._problem = e
            self.is_at_header = True
        if self._problem is not None:
            raise CorruptStreamError(self._problem.message, hint=self._problem.hint)
        return self._header

    def _read_header(self) -> fmt.Header | None:
        """Read a member's header, and the extension headers before it."""
        name: str | None = None
        size: int | None = None
        length = 0
        for _ in range(MAX_EXTENSIONS):
            self._block = self._read_block()
            kind = extended.kind_of(self._block)
            if kind is None:
                break
            text = self._extension(self._block)
            length += fmt.BLOCK + fmt.padded(len(text))
            new_name, new_size = extended.overrides(kind, text)
            if kind == extended.DIRECTORY:
                name = size = None  # the extensions before it belong to the directory
            name, size = new_name or name, size if new_size is None else new_size
        header = fmt.parse_header(self._block, name)
        self.extension = length
        if header is None:
            return None
        self._unfilled = max(self._unfilled, _unfilled(self._block, length))
        time = self._block[_TIME]
        # If times differ, another program changed them: they identify nothing.
        self._time = time if self._time in (None, time) else b""
        return header if size is None else header._replace(size=size)

    def _read_block(self) -> bytes:
        block = bytearray(self._pad + fmt.BLOCK)
        self.fill(memoryview(block))
        pad, self._pad = self._pad, 0
        if any(block[:pad]):
            self._block = bytes(block[pad:])
            raise CorruptStreamError(f"the padding before {self._name} is not zero")
        return bytes(block[pad:])

    def _extension(self, block: bytes) -> bytes:
        """Read the data of an extension."""
        try:
            size = fmt.size_in(block)
        except ValueError as e:
            raise CorruptStreamError(f"a tar header is damaged or not ours: {e}") from e
        if size > extended.MAX_LENGTH:
            raise CorruptStreamError(f"a pax header or long name has {size} bytes")
        self.left = fmt.padded(size)
        return self._rest(self.left)[:size]

    def enter(self, name: str, size: int | None = None) -> None:
        """Enter the next member, which must have this name, and this size if one is given."""
        header = self.named(name)
        if size not in (None, header.size):
            raise CorruptStreamError(
                f"{name} has {header.size} bytes, but {fmt.EXTENTS} says {size}"
            )
        self.enter_as(name, header.size)

    def enter_as(self, name: str, size: int) -> None:
        """Enter the next member with this name and size, whatever its header says."""
        self.is_at_header, self._problem = False, None
        self._name, self.left, self._pad = name, size, fmt.padding(size)

    def enter_text(self, start: bytes, size: int) -> bool:
        """Enter a member whose header is lost, so that its data begins where the header should be.

        Returns:
            False if the block there does not begin with `start`.
        """
        if not self._block.startswith(start):
            return False
        self._push_back(self._block)
        self.enter_as("a member without a header", size)
        return True

    def text_length(self) -> int | None:
        """Bytes of the next member, which holds a JSON array, and whose header is damaged or lost.

        The member ends where its header says, if it can end there; otherwise before the next good
        header.

        Returns:
            The number of bytes; None if it cannot be found out.
        """
        guessed = fmt.guess_header(self._block) if self.is_damaged else None
        end, header = self.look_ahead(lambda _: True, self.offset, self.offset + MAX_AHEAD)
        if header is None:
            return guessed.size if guessed else None
        lost = self._block if self._block.startswith(b"[") else b""
        text = lost + bytes(self._ahead[: end - self.offset])
        whole = text.rstrip(b"\0")
        if guessed is None or guessed.size >= len(whole):
            return len(whole)
        can_end = text[: guessed.size].endswith(b"]")
        pad = text[guessed.size : fmt.padded(guessed.size)]
        return guessed.size if can_end and not any(pad) else len(whole)

    def best_guess(self) -> fmt.Header | None:
        """The next member's header; if that is damaged, what it may have been."""
        return fmt.guess_header(self._block) if self.is_damaged else self._header

    @property
    def is_damaged(self) -> bool:
        """True if the next member's header is damaged."""
        return self._problem is not None

    def begins_with(self, start: bytes) -> bool:
        """Whether the data after the damaged header of the next member begins with `start`."""
        return self._next_bytes(len(start)) == start

    def look_ahead(
        self, wanted: Callable[[fmt.Header], bool], begin: int, end: int
    ) -> tuple[int, fmt.Header | None]:
        """Look for an undamaged header further on in the stream, block by block.

        Everything up to there is kept in memory, and stays to be read.

        Args:
            wanted: Returns True for the header that is wanted; the search ends there.
            begin: Offset in the stream of the first block to look at, at least `offset`.
            end: Offset in the stream; blocks that begin there or later are not looked at.

        Returns:
            The offset of the header, and the header. If there is none: the offset up to which there
            is none, and None.
        """
        ahead = self._read_on(begin - self.offset)
        here, found = self.offset, None
        while found is None and here < end:
            block = self._read_on(fmt.BLOCK)
            ahead += block
            header = self._header_in(block)
            if len(block) < fmt.BLOCK or self._is_of_another(block):
                here = end  # the stream has ended
            elif header is not None and wanted(header):
                found = header
            else:
                here += fmt.BLOCK
        self._push_back(ahead)
        return here, found

    def is_header_after(
        self, starts: tuple[bytes, ...], size: int, peek: Callable[[int, int], bytes | None]
    ) -> bool:
        """Whether a header comes after the data of the next member; False if that is too far ahead.

        Args:
            starts: The header must begin with one of these.
            size: Bytes of data in the next member.
            peek: Reads at an offset of the stream, if possible: see `InputMedium.peek`.
        """
        distance = fmt.padded(size) + self.extension
        with suppress(LocalIOError):
            block = peek(self.offset + distance, fmt.BLOCK)
            if block is not None:
                return block.startswith(starts)
        if distance > MAX_AHEAD:
            return False
        ahead = self._read_on(distance + fmt.BLOCK)
        self._push_back(ahead)
        return ahead.startswith(starts, distance)

    def ends_after(self, size: int) -> bool:
        """Whether the archive ends after a next member with `size` bytes of data."""
        ahead = self._read_on(fmt.padded(size) + fmt.BLOCK)
        self._push_back(ahead)
        return not any(ahead[fmt.padded(size) :])

    @property
    def found_here(self) -> fmt.Header | None:
        """The next member's header, if it is good itself; the padding before it may be damaged."""
        return self._header_in(self._block) if self.is_at_header else None

    def _header_in(self, block: bytes | bytearray) -> fmt.Header | None:
        """The header in a block; None unless it is an undamaged header of this backup."""
        if not block.startswith(_OUR_NAMES) or (self._time or block[_TIME]) != block[_TIME]:
            return None
        try:
            return fmt.parse_header(bytes(block))
        except CorruptStreamError:
            return None

    def _is_of_another(self, block: bytearray) -> bool:
        """Whether another stream begins here."""
        return block.startswith(_FIRST) and self._time not in (b"", bytes(block[_TIME]))

    def skip_to(self, offset: int, header: fmt.Header) -> None:
        """Skip everything before a header that was found at this offset in the stream."""
        distance = offset - self.offset
        if distance < 0:  # it is the block that was read as the next header
            self._problem, self._header = None, header
        else:
            self.enter_as("what was passed over", distance)
            self.skip(distance)

    def readinto(self, view: memoryview) -> None:
        """Fill the view with data of the member."""
        left, self.left = self.left, 0  # after an error it is not known
        self.fill(view)
        self.left = left - len(view)

    def skip(self, length: int) -> None:
        """Read data of the member, and drop it."""
        step = memoryview(bytearray(min(READ_STEP, length)))
        while length:
            chunk = step[:length]
            self.readinto(chunk)
            length -= len(chunk)

    def read_member(self, name: str, limit: int) -> bytes:
        """Read all of the next member, which must have this name and up to `limit` bytes."""
        size = self.named(name).size
        if size > limit:
            raise CorruptStreamError(f"{name} is too large: {size} bytes")
        self.enter_as(name, size)
        return self._rest(size)

    def read_text(self, name: str, limit: int) -> bytes:
        """Read the member to its end; it must hold JSON.

        Stops at bytes that are not text, and at the limit: the size in a header may be too large.
        """
        data = io.BytesIO()
        while self.left:
            if data.tell() >= limit:
                raise CorruptStreamError(f"{name} is too large: {data.tell() + self.left} bytes")
            chunk = self._rest(min(READ_STEP, self.left))
            if b"\0" in chunk:
                raise CorruptStreamError(f"{name} is not JSON: there are zeros in it")
            data.write(chunk)
        return data.getvalue()

    def named(self, name: str) -> fmt.Header:
        """The next member's header, which must have this name, and stays the next."""
        header = self.header()
        if header is None:
            raise IncompleteStreamError(f"the archive ends where {name} should be")
        if header.name != name:
            raise CorruptStreamError(f"found member {header.name!r} where {name} should be")
        return header

    def read_if_different(self, length: int, wanted: Callable[[], Iterable[bytes]]) -> bytes | None:
        """Read the member to its end, and return its data; None if that is as wanted.

        If it is as wanted, it is never in memory as a whole: it can have hundreds of MB.
        """
        if self.left != length:
            return self._rest(self.left)
        for i, chunk in enumerate(wanted()):
            found = self._rest(len(chunk))
            if found != chunk:
                same = islice(wanted(), i)
                return b"".join([*same, found, self._rest(self.left)])
        return None

    def _rest(self, size: int) -> bytes:
        data = io.BytesIO()
        step = memoryview(bytearray(min(READ_STEP, size)))
        while data.tell() < size:
            chunk = step[: size - data.tell()]
            self.readinto(chunk)
            data.write(chunk)
        return data.getvalue()

    def end(self, record_size: int) -> None:
        """Read the end of the archive, up to the end of its last record."""
        if self.header() is not None:
            raise CorruptStreamError(f"there is more behind {fmt.MANIFEST}")
        left = fmt.BLOCK + fmt.padding(self.offset + fmt.BLOCK, record_size)
        self._name = "the padding at its end (all data is there)"
        may_end = self.offset + fmt.BLOCK if left <= self._unfilled else None
        while left:
            rest = memoryview(bytearray(min(left, READ_STEP)))
            count = self._fill(rest)
            if any(rest[:count]):
                raise CorruptStreamError("the padding at the end of the stream is not zero")
            left -= count
            if count < len(rest):
                if may_end is not None and self.offset >= may_end:
                    return
                raise self._too_short(
                    "It may have been packed again by a tar program that does not fill the last "
                    "record: TarStreamSource(..., allow_incomplete=True) takes it all the same."
                )

    def fill(self, view: memoryview) -> None:
        """Fill the view from the stream."""
        if self._fill(view) < len(view):
            raise self._too_short()

    def _too_short(self, hint: str | None = None) -> IncompleteStreamError:
        where = f"{self._stream.name} ends after {self.offset} bytes, in {self._name}"
        return IncompleteStreamError(where, hint=hint)


def _foreign(message: str, start: bytes) -> ForeignStreamError:
    packer = packer_of(start)
    hint = f"It is compressed with {packer}: read what '{packer} -dc' writes into a pipe."
    return ForeignStreamError(message, hint=hint if packer else None)


def _unfilled(header: bytes, extension: int) -> int:
    """Bytes that may be missing in the last record, if this header shows another tar program.

    Many programs fill records of 10240 bytes, some of 512. A backup with larger records may end
    early only if it is clear that it was packed again.
    """
    if extension or not fmt.is_ustar(header):
        return fmt.GIB
    return 0 if fmt.is_own(header) else fmt.RECORD_SIZE
