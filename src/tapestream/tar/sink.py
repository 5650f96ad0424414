"""TarStreamSink: a backup into a tar, strictly forward."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timezone

from .. import __version__
from ..errors import UsageError
from ..extents import Extents, Kind
from ..info import BackupInfo
from ..protocols import Digester, Sink, Writer
from . import format as fmt
from .digests import ALGORITHMS, Hash, check_algorithm, hex_digest
from .streams import BinaryOutput, Output, open_output

# Attachments are kept in memory, on both sides.
MAX_ATTACHMENTS = 64 * fmt.MIB
# Small writes are gathered up to this; from half of it on, data goes out without a copy.
GATHER_SIZE = fmt.MIB


class TarStreamSink(Sink):
    """Write a backup as a plain tar: to a file, a fifo, a pipe or any file object.

    A regular file is written under a temporary name beside the final one, with mode 0600, and
    gets its name, replacing an older file, only when it is complete and on stable storage.
    Anything else gets the stream directly; an aborted one lacks its manifest, and every reader
    reports it as incomplete.

    Args:
        target: A path; "-" for standard output; or a binary file object with `write`, which
            stays open.
        record_size: The length of the stream is a multiple of this many bytes, itself a multiple
            of 512; 10240, as with GNU tar, when None.
        part_size: Largest data member in bytes, below 8 GiB: a multiple of 1 MiB, or less than that
            and a multiple of 512; 1 GiB when None.
        checksum: Digest of the data: "sha256", "blake2b" (256 bits), "crc32", or None.
        attachments: Files to keep with the disk, such as the VM's OVF: contents by name.

    Raises:
        UsageError: An argument cannot work.
        LocalIOError: The target cannot be opened.
    """

    max_writers = 1
    sequential = True

    def __init__(
        self,
        target: str | os.PathLike[str] | BinaryOutput,
        *,
        record_size: int | None = None,
        part_size: int | None = None,
        checksum: str | None = "sha256",
        attachments: Mapping[str, bytes] | None = None,
    ) -> None:
        self._record_size = fmt.RECORD_SIZE if record_size is None else record_size
        self._part_size = fmt.PART_SIZE if part_size is None else part_size
        self._attachments = {
            fmt.attachment_member(name): _contents(name, data)
            for name, data in (attachments or {}).items()
        }
        _check_size("record_size", self._record_size, fmt.GIB)
        _check_size("part_size", self._part_size, fmt.MAX_MEMBER)
        if self._part_size > fmt.MIB:
            # The digests would be of segments so small that no manifest could hold them.
            _check_size("part_size", self._part_size, fmt.MAX_MEMBER, unit=fmt.MIB)
        check_algorithm(checksum)
        if sum(map(len, self._attachments.values())) > MAX_ATTACHMENTS:
            raise UsageError(f"attachments must not exceed {MAX_ATTACHMENTS} bytes together")
        self._checksum = checksum
        self._output = open_output(target)
        self._writer: _TarWriter | None = None
        self._ended = False

    @property
    def checksum(self) -> str | None:
        """Name of the digest in the manifest; None for none."""
        return self._checksum

    @property
    def segment_size(self) -> int:
        """Bytes of an extent that one digest is made of."""
        return fmt.segment_size(self._part_size)

    def begin(self, info: BackupInfo, extents: Extents) -> None:
        """See `Sink.begin`: writes the members before the data."""
        if self._writer is not None or self._ended:
            raise UsageError("a TarStreamSink takes one backup: make a new one")
        created = info.created or datetime.fromtimestamp(int(time.time()), timezone.utc)
        preamble = self._preamble(replace(info, created=created))
        text = preamble.encode()
        if len(text) > fmt.MAX_INFO:
            raise UsageError(f"the metadata makes {fmt.INFO} larger than {fmt.MAX_INFO} bytes")
        self._writer = _TarWriter(self._output, preamble, extents)
        self._writer.member(fmt.INFO, text)
        self._writer.member(fmt.EXTENTS, extents.json)
        for name, data in self._attachments.items():
            self._writer.member(name, data)
        self._writer.flush()

    def digester(self, start: int, length: int) -> Digester | None:
        """See `Sink.digester`."""
        return self._begun().digester(start)

    def open_writer(self) -> Writer:
        """See `Sink.open_writer`."""
        return self._begun()

    def commit(self) -> None:
        """See `Sink.commit`: writes the manifest and the end of the archive.

        Raises:
            LocalIOError: The stream is not on stable storage.
            UsageError: Not all data was written.
        """
        self._begun().end()
        self._output.commit()
        self._ended = True

    def abort(self) -> None:
        """See `Sink.abort`."""
        if not self._ended:
            self._ended = True
            self._output.abort()

    def close(self) -> None:
        """See `Sink.close`."""
        self.abort()

    def _begun(self) -> _TarWriter:
        if self._writer is None or self._ended:
            raise UsageError("the sink has not begun, or has already ended")
        return self._writer

    def _preamble(self, info: BackupInfo) -> fmt.Preamble:
        return fmt.Preamble(
            info=info,
            checksum=self._checksum,
            part_size=self._part_size,
            record_size=self._record_size,
            software=f"tapestream {__version__}",
        )


class _TarWriter(Writer):
    """Puts members around the data that comes by, in one pass."""

    def __init__(self, output: Output, preamble: fmt.Preamble, extents: Extents) -> None:
        assert preamble.info.created is not None
        self._output = output
        self._preamble = preamble
        self._headers = fmt.HeaderWriter(int(preamble.info.created.timestamp()))
        self._gathered = bytearray()
        self._length = 0
        self._data = extents.tally(Kind.DATA)
        self._expected: Iterator[fmt.Member] = fmt.data_members(extents, preamble.part_size)
        self._members = 0
        self._digests: dict[str, str | None] = {}
        self._segments = bytearray()
        self._hashes: dict[int, Hash] = {}
        self._segment = self._position = self._member_end = 0

    def member(self, name: str, data: bytes) -> None:
        """Write a whole member."""
        if len(data) > fmt.MAX_MEMBER:
            raise UsageError(f"{name} is too large for a tar: {len(data)} bytes")
        self._digests[name] = hex_digest(self._preamble.checksum, data)
        self._put_member(name, len(data), [data])

    def digester(self, start: int) -> Digester | None:
        """Give the hash for the segment at `start`, and wait for it to be fed."""
        if self._preamble.checksum is None:
            return None
        self._hashes[start] = ALGORITHMS[self._preamble.checksum]()
        return self._hashes[start]

    def write(self, start: int, buffer: memoryview) -> None:
        """See `Writer.write`."""
        while buffer:
            if self._position == self._member_end:
                self._next_member()
            if start != self._position:
                raise UsageError(
                    f"a tar is written in order: got offset {start}, not {self._position}"
                )
            step = min(len(buffer), self._segment_end() - start)
            self._put(buffer[:step])
            start = self._position = start + step
            buffer = buffer[step:]
            if start == self._segment_end():
                self._end_segment()

    def zero(self, start: int, length: int) -> None:
        """See `Writer.zero`: `extents.json` says it all."""

    def flush(self) -> None:
        """See `Writer.flush`: write what was gathered."""
        if self._gathered:
            self._output.write(memoryview(self._gathered))
            self._gathered = bytearray()

    def close(self) -> None:
        """See `Writer.close`: the sink keeps it until the end."""

    def cancel(self) -> None:
        """See `Writer.cancel`."""
        self._output.cancel()

    def end(self) -> None:
        """Write the manifest, the end of the archive, and fill up the last record."""
        if self._position != self._member_end or next(self._expected, None) is not None:
            raise UsageError("not all data extents were written")
        manifest = fmt.Manifest(
            checksum=self._preamble.checksum,
            data_extents=self._data.extents,
            data_members=self._members,
            data_bytes=self._data.bytes,
            members=self._digests,
            segments=bytes(self._segments),
        )
        self._put_member(fmt.MANIFEST, manifest.length, manifest.encode())
        self._put(fmt.END)
        self._put(bytes(fmt.padding(self._length, self._preamble.record_size)))
        self.flush()

    def _put_member(self, name: str, length: int, chunks: Iterable[bytes]) -> None:
        self._put(self._headers.header(name, length))
        for chunk in chunks:
            self._put(chunk)
        self._put(bytes(fmt.padding(length)))

    def _next_member(self) -> None:
        member = next(self._expected, None)
        if member is None:
            raise UsageError("more data was written than the extents have")
        self._put(self._headers.header(member.name, member.length))
        self._members += 1
        self._segment = self._position = member.start
        self._member_end = member.start + member.length

    def _segment_end(self) -> int:
        return min(self._segment + self._preamble.segment_size, self._member_end)

    def _end_segment(self) -> None:
        if self._preamble.checksum is not None:
            self._segments += self._hashes.pop(self._segment).digest()
        self._segment = self._position
        if self._position == self._member_end:
            self._put(bytes(fmt.padding(self._length)))

    def _put(self, data: bytes | memoryview) -> None:
        self._length += len(data)
        if len(data) >= GATHER_SIZE // 2:
            self.flush()
            self._output.write(memoryview(data))
        else:
            self._gathered += data
            if len(self._gathered) >= GATHER_SIZE:
                self.flush()


def _contents(name: str, data: object) -> bytes:
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise UsageError(f"the contents of attachment {name!r} must be bytes, not {type(data)}")
    return bytes(data)


def _check_size(name: str, size: int, limit: int, unit: int = fmt.BLOCK) -> None:
    if type(size) is not int or size < unit or size % unit or size > limit:
        raise UsageError(f"{name} must be a multiple of {unit} up to {limit}, not {size}")
