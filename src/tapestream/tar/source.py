"""TarStreamSource: a backup out of a tar, strictly forward."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from ..errors import (
    CorruptStreamError,
    ExtentsError,
    ForeignStreamError,
    IncompleteStreamError,
    UsageError,
)
from ..extents import Extents, Kind
from ..info import BackupInfo
from ..protocols import Reader, Source
from . import format as fmt
from .digests import ALGORITHMS, Hash, hex_digest
from .sink import MAX_ATTACHMENTS
from .streams import BinaryInput, Input, open_input

# A header's size field may lie; memory is taken as the bytes arrive.
READ_STEP = fmt.MIB


class TarStreamSource(Source):
    """Read a backup from the tar that `TarStreamSink` wrote: from a file, a fifo, a pipe.

    The stream is read once, from front to back, and exactly to its end: a file object is then
    where the next stream may begin. Names in the tar are compared, never used as paths.

    Args:
        target: A path; "-" for standard input; or a binary file object with `read`, which stays
            open.
        verify: Check all data against the digests in the manifest. Without, only the stream's
            structure is checked.

    Raises:
        LocalIOError: The target cannot be opened or read.
        ForeignStreamError: It is not a tapestream tar.
        NewerFormatError: It is of a later version of the format.
        IncompleteStreamError: It ends too early.
        CorruptStreamError: It is damaged.
    """

    max_readers = 1
    sequential = True

    def __init__(
        self, target: str | os.PathLike[str] | BinaryInput, *, verify: bool = True
    ) -> None:
        self._input = open_input(target)
        self._members = _MemberReader(self._input)
        self._verify = verify
        self._digests: dict[str, str | None] = {}
        self._attachments: dict[str, bytes] = {}
        self._extents: Extents | None = None
        self._broken = False
        self._reader: _TarReader | None = None
        try:
            self._preamble = self._read_preamble()
        except BaseException:
            self._input.close()
            raise

    @property
    def info(self) -> BackupInfo:
        """What the stream says of the backup."""
        return self._preamble.info

    @property
    def checksum(self) -> str | None:
        """Name of the digest that the data is checked against; None without `verify`."""
        return self._preamble.checksum if self._verify else None

    @property
    def attachments(self) -> dict[str, bytes]:
        """The files that were kept with the disk, by name."""
        self.extents()
        return dict(self._attachments)

    def extents(self) -> Extents:
        """See `Source.extents`: reads up to the first data member, once."""
        if self._extents is None:
            if self._broken:
                raise UsageError("the stream could not be read: open it anew")
            self._broken = True
            text = self._read_member(fmt.EXTENTS, fmt.MAX_MEMBER)
            try:
                extents = Extents.parse(text, context=self.info.context)
            except ExtentsError as e:
                raise CorruptStreamError(f"{fmt.EXTENTS}: {e.args[0]}") from e
            if extents.size != self.info.size:
                raise CorruptStreamError(
                    f"{fmt.EXTENTS} covers {extents.size} bytes of a disk of {self.info.size}"
                )
            self._read_attachments()
            self._extents, self._broken = extents, False
        return self._extents

    def open_reader(self) -> Reader:
        """See `Source.open_reader`."""
        if self._reader is not None:
            raise UsageError("a tar stream is read once: open it anew")
        self._reader = _TarReader(
            self._members, self._input, self._preamble, self.extents(), verify=self._verify
        )
        return self._reader

    def finish(self) -> None:
        """See `Source.finish`: reads to the end of the stream and checks it against its manifest.

        Raises:
            DigestMismatchError: Data does not match its digest; says where on the disk it is.
            CorruptStreamError: Something else does not match.
            IncompleteStreamError: There is no manifest, or no end.
        """
        reader, extents = self._reader, self.extents()
        if reader is None or not reader.complete:
            raise UsageError("not all data of the stream was read")
        data = extents.tally(Kind.DATA)
        found = fmt.Manifest(
            checksum=self._preamble.checksum,
            data_extents=data.extents,
            data_members=reader.count,
            data_bytes=data.bytes,
            members=self._digests,
            segments=bytes(reader.segments),
            volume=self._preamble.volume,
        )
        text = self._members.unlike(fmt.MANIFEST, found.length, found.encode)
        if text is not None:
            found.check(text, extents, self._preamble, data_too=self._verify)
        self._members.end(self._preamble.record_size)

    def close(self) -> None:
        """See `Source.close`."""
        self._input.close()

    def _read_preamble(self) -> fmt.Preamble:
        text = self._members.first(fmt.INFO, fmt.MAX_INFO)
        preamble = fmt.Preamble.decode(text)
        self._add_digest(preamble.checksum, fmt.INFO, text)
        return preamble

    def _read_member(self, name: str, limit: int) -> bytes:
        text = self._members.whole(name, limit)
        self._add_digest(self._preamble.checksum, name, text)
        return text

    def _read_attachments(self) -> None:
        while True:
            header = self._members.header()
            if header is None or not header.name.startswith(fmt.ATTACHMENTS):
                return
            name = header.name[len(fmt.ATTACHMENTS) :]
            try:
                fmt.attachment_member(name)
            except UsageError as e:
                raise CorruptStreamError(f"a member has a bad name: {header.name!r}") from e
            if name in self._attachments:
                raise CorruptStreamError(f"there are two members {header.name}")
            left = MAX_ATTACHMENTS - sum(map(len, self._attachments.values()))
            self._attachments[name] = self._read_member(header.name, left)

    def _add_digest(self, checksum: str | None, name: str, text: bytes) -> None:
        self._digests[name] = hex_digest(checksum, text)


class _TarReader(Reader):
    """Finds the data of the disk in the members that come by.

    Attributes:
        count: Number of data members seen.
        segments: The digests of all segments so far.
    """

    def __init__(
        self,
        members: _MemberReader,
        stream: Input,
        preamble: fmt.Preamble,
        extents: Extents,
        *,
        verify: bool,
    ) -> None:
        self.count = 0
        self.segments = bytearray()
        self._members = members
        self._stream = stream
        self._preamble = preamble
        self._checksum = preamble.checksum if verify else None
        self._expected: Iterator[fmt.Member] = fmt.data_members(extents, preamble.part_size)
        self._next = next(self._expected, None)
        self._position = self._member_end = 0
        self._segment = 0
        self._hash: Hash | None = None

    @property
    def complete(self) -> bool:
        """True when all data members have been read."""
        return self._next is None and self._position == self._member_end

    def readinto(self, start: int, buffer: memoryview) -> None:
        """See `Reader.readinto`; bytes that are not data are left as they are."""
        end = start + len(buffer)
        while start < end:
            if self._position == self._member_end:
                if self._next is None or self._next.start >= end:
                    return
                buffer = buffer[max(self._next.start - start, 0) :]
                start = max(start, self._next.start)
                self._begin_member(self._next)
            if start != self._position:
                raise UsageError(
                    f"a tar is read in order: asked for offset {start}, not {self._position}"
                )
            step = min(end, self._segment_end()) - start
            self._read_data(buffer[:step])
            start, buffer = start + step, buffer[step:]

    def cancel(self) -> None:
        """See `Reader.cancel`."""
        self._stream.cancel()

    def close(self) -> None:
        """See `Reader.close`: the stream is the source's."""

    def _begin_member(self, member: fmt.Member) -> None:
        header = self._members.take(member.name)
        if header.size != member.length:
            raise CorruptStreamError(
                f"{member.name} has {header.size} bytes, but {fmt.EXTENTS} says {member.length}"
            )
        self.count += 1
        self._segment = self._position = member.start
        self._member_end = member.start + member.length
        self._next = next(self._expected, None)

    def _segment_end(self) -> int:
        return min(self._segment + self._preamble.segment_size, self._member_end)

    def _read_data(self, view: memoryview) -> None:
        self._members.readinto(view)
        self._position += len(view)
        if self._checksum is not None:
            if self._hash is None:
                self._hash = ALGORITHMS[self._checksum]()
            self._hash.update(view)
        if self._position == self._segment_end():
            if self._hash is not None:
                self.segments += self._hash.digest()
                self._hash = None
            self._segment = self._position


class _MemberReader:
    """Reads members off the stream, one after another.

    The header that follows a member is read together with the padding before it, and kept until
    somebody takes it.
    """

    def __init__(self, stream: Input) -> None:
        self._stream = stream
        self._offset = 0
        self._header: fmt.Header | None = None
        self._peeked = False
        self._left = 0
        self._pad = 0
        self._name = "its first header"

    def first(self, name: str, limit: int) -> bytes:
        """Read the first member of the stream, and tell a foreign stream from a damaged one."""
        block = bytearray(fmt.BLOCK)
        length = self._fill(memoryview(block))
        start = block[:length]
        if length < fmt.BLOCK and name.encode().startswith(start[: len(name)]):
            raise IncompleteStreamError(f"the stream ends after {length} bytes, in {self._name}")
        if not start.startswith(name.encode() + b"\0"):
            raise ForeignStreamError(f"{self._stream.name} does not begin with {name}")
        self._header = fmt.parse_header(bytes(block))
        self._peeked = True
        return self.whole(name, limit)

    def header(self) -> fmt.Header | None:
        """Look at the next member's header; None at the end of the archive."""
        if not self._peeked:
            if self._left:
                raise UsageError("the member before has not been read to its end")
            block = bytearray(self._pad + fmt.BLOCK)
            self._name = f"the header behind {self._name}"
            self.exactly(memoryview(block))
            if any(block[: self._pad]):
                raise CorruptStreamError(f"the padding before {self._name} is not zero")
            self._header = fmt.parse_header(bytes(block[self._pad :]))
            self._peeked = True
        return self._header

    def take(self, name: str) -> fmt.Header:
        """Go into the next member, which must have this name."""
        header = self.header()
        if header is None:
            raise IncompleteStreamError(f"the archive ends where {name} should be")
        if header.name != name:
            raise CorruptStreamError(f"found member {header.name!r} where {name} should be")
        self._peeked = False
        self._name, self._left, self._pad = name, header.size, fmt.padding(header.size)
        return header

    def readinto(self, view: memoryview) -> None:
        """Fill the view with data of the member."""
        self._left -= len(view)
        self.exactly(view)

    def whole(self, name: str, limit: int) -> bytes:
        """Read the next member, which must have this name, from its first byte to its last."""
        size = self.take(name).size
        if size > limit:
            raise CorruptStreamError(f"{name} is too large: {size} bytes")
        return self._rest(size)

    def unlike(self, name: str, length: int, wanted: Callable[[], Iterable[bytes]]) -> bytes | None:
        """Read the next member, which must have this name; None if it is just as wanted.

        A member of hundreds of MB that is as it should be is never in memory as a whole.
        """
        size = self.take(name).size
        if size != length:
            return self._rest(size)
        for i, chunk in enumerate(wanted()):
            found = self._rest(len(chunk))
            if found != chunk:
                same = islice(wanted(), i)
                return b"".join([*same, found, self._rest(self._left)])
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
        left = fmt.BLOCK + fmt.padding(self._offset + fmt.BLOCK, record_size)
        self._name = "the padding at its end (all data is there)"
        while left:
            rest = bytearray(min(left, READ_STEP))
            self.exactly(memoryview(rest))
            if any(rest):
                raise CorruptStreamError("the padding at the end of the stream is not zero")
            left -= len(rest)

    def exactly(self, view: memoryview) -> None:
        """Fill the view from the stream."""
        if self._fill(view) < len(view):
            raise IncompleteStreamError(
                f"{self._stream.name} ends after {self._offset} bytes, in {self._name}"
            )

    def _fill(self, view: memoryview) -> int:
        done = 0
        while done < len(view):
            count = self._stream.readinto(view[done:])
            if count == 0:
                break
            done += count
            self._offset += count
        return done
