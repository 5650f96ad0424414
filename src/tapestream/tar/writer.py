"""The members of a tar around the disk's data, on one volume or several."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from ..backend.abilities import Digester
from ..backend.protocols import Writer
from ..drive.records import VolumeFull
from ..errors import EndOfTapeError, UsageError
from ..files.outputs import Output
from ..model.extents import Extents, Kind
from ..model.info import describe
from ..tape.output import TapeOutput
from ..tape.report import TapeReport
from . import format as fmt
from .digests import ALGORITHMS, Hash, hex_digest
from .replay import NOWHERE, Unconfirmed

# Small writes are gathered up to this; from half of it on, data goes out without a copy.
GATHER_SIZE = fmt.MIB


class TarWriter(Writer):
    """Puts members around the data that comes by, in one pass.

    On tape, the stream continues on another volume when the tape is full: in the early-warning zone
    at the next border of members, with a manifest; or else at the hard end, where the members that
    are not wholly on the tape are written again on the next.

    Args:
        output: Where the stream goes.
        preamble: Of the first volume.
        extents: All extents of the disk.
        attachments: Their contents by member name; every volume has them.
    """

    def __init__(
        self,
        output: Output,
        preamble: fmt.Preamble,
        extents: Extents,
        attachments: Mapping[str, bytes],
    ) -> None:
        assert preamble.info.created is not None
        self._output = output
        self._tape = output if isinstance(output, TapeOutput) else None
        if self._tape is not None:
            self._tape.backup = describe(preamble.info)
        self._preamble = preamble
        self._extents = extents
        self._attachments = attachments
        self._headers = fmt.HeaderWriter(int(preamble.info.created.timestamp()))
        # Filled again and again: fresh memory would cost more than what is copied into it.
        self._gathered = memoryview(bytearray(GATHER_SIZE))
        self._filled = 0
        self._length = 0
        self._data_bytes = extents.tally(Kind.DATA).bytes
        self._expected: Iterator[fmt.Member] = fmt.data_members(extents, preamble.part_size)
        self._next = next(self._expected, None)
        self._digests: dict[str, str | None] = {}
        self._hashes: dict[tuple[int, int], Hash] = {}  # by their segments
        self._segment = self._position = self._member_end = 0
        self._written = 0
        self._vouched = fmt.Vouched(start=0)
        self._unconfirmed = Unconfirmed(self._next_start)
        self._in_data = False

    def begin(self) -> None:
        """Write the members before the data."""
        try:
            self._begin_volume()
        except VolumeFull:
            self._go_on()

    def digester(self, start: int, length: int) -> Digester | None:
        """Give the hash for the segment at `start`, and wait for it to be fed."""
        if self._preamble.checksum is None:
            return None
        self._hashes[start, length] = ALGORITHMS[self._preamble.checksum]()
        return self._hashes[start, length]

    def write(self, start: int, buffer: memoryview) -> None:
        """See `Writer.write`."""
        while buffer:
            if self._position == self._member_end:
                self._begin_member()
            if start != self._position:
                raise UsageError(
                    f"a tar is written in order: got offset {start}, not {self._position}"
                )
            step = min(len(buffer), self._segment_end() - start)
            self._put(buffer[:step])
            self._written += step
            start = self._position = start + step
            buffer = buffer[step:]
            if start == self._segment_end():
                self._end_segment()

    def zero(self, start: int, length: int) -> None:
        """See `Writer.zero`: `extents.json` says it all."""

    def flush(self) -> None:
        """Write what was gathered."""
        try:
            self._flush()
        except VolumeFull:
            self._go_on()

    def close(self) -> None:
        """See `Writer.close`: the sink keeps it until the end."""

    def cancel(self) -> None:
        """End a wait for a drive, or for the reader of a pipe."""
        self._output.cancel()

    def end(self) -> None:
        """Write the manifest, the end of the archive, and fill up the last record."""
        if self._position != self._member_end or self._next is not None:
            raise UsageError("not all data extents were written")
        while True:
            try:
                return self._end_volume(continues=False)
            except VolumeFull:
                self._go_on()

    def _begin_volume(self) -> None:
        self._in_data = False
        self._filled = self._length = 0
        self._digests = {}
        self._unconfirmed.move(NOWHERE)
        self._whole_member(fmt.INFO, self._preamble.encode())
        self._whole_member(fmt.EXTENTS, self._extents.json)
        for name, data in self._attachments.items():
            self._whole_member(name, data)
        self._flush()
        self._unconfirmed.move(self._length)
        self._in_data = True

    def _end_volume(self, *, continues: bool) -> None:
        self._in_data = False
        manifest = self._vouched.manifest(self._preamble, self._digests, continues=continues)
        self._put_member(fmt.MANIFEST, manifest.length, manifest.encode())
        self._put(fmt.END)
        self._put(bytes(fmt.padding(self._length, self._preamble.record_size)))
        self._flush()

    def _begin_member(self) -> None:
        member = self._next
        if member is None:
            raise UsageError("more data was written than the extents have")
        if self._tape is not None and self._tape.is_ending and self._unconfirmed.members:
            self._next_volume(member)
        self._next = next(self._expected, None)
        self._vouched.add(member)
        self._segment = self._position = member.start
        self._member_end = member.start + member.length
        self._put(self._headers.header(member.name, member.length))

    def _end_segment(self) -> None:
        if self._preamble.checksum is not None:
            fed = self._hashes.pop((self._segment, self._position - self._segment), None)
            if fed is None:
                raise UsageError(
                    f"the data up to disk offset {self._position} was written without its digest",
                    hint="A sink that wraps a tar must have its digester() and segment_size.",
                )
            self._vouched.segments += fed.digest()
        self._segment = self._position
        if self._position == self._member_end:
            self._put(bytes(fmt.padding(self._length)))
            if self._tape is not None:
                self._unconfirmed.end_member(self._next_start)

    def _segment_end(self) -> int:
        return min(self._segment + self._preamble.segment_size, self._member_end)

    @property
    def _next_start(self) -> int:
        return self._next.start if self._next else self._extents.size

    @property
    def tape(self) -> TapeReport | None:
        """How the backup went to tape so far; None for other targets."""
        if self._tape is None:
            return None
        return self._tape.report(self._preamble.info, self._preamble.set_id or "")

    # Volumes

    def _next_volume(self, member: fmt.Member) -> None:
        """End this volume, in the early-warning zone, before this member."""
        try:
            self._end_volume(continues=True)
        except VolumeFull:
            pass  # the manifest of the next volume vouches for this one, too
        else:
            self._vouched = fmt.Vouched(member.start)
        self._go_on()

    def _go_on(self) -> None:
        """Go on on the next tape, with what is not on this one."""
        assert self._tape is not None
        while True:
            self._unconfirmed.confirm(self._tape.accepted)
            if self._unconfirmed.whole:
                number = self._preamble.volume + 1
            elif self._tape.began_empty:
                raise EndOfTapeError(
                    f"{self._tape.name}: not one part of the backup fits on the whole tape",
                    hint="Use larger tapes, or pass a smaller part_size.",
                )
            else:  # what is left there holds no data, and is not missed
                number = self._preamble.volume
            start = self._unconfirmed.start if number > 1 else 0
            self._preamble = replace(self._preamble, volume=number, volume_start=start)
            left = self._data_bytes - self._written + len(self._unconfirmed.data)
            self._tape.next_volume(self._preamble, left)
            try:
                self._begin_volume()
                kept = bytes(self._unconfirmed.data)
                self._length += len(kept)
                return self._send(kept)
            except VolumeFull:
                continue

    # Bytes

    def _whole_member(self, name: str, data: bytes) -> None:
        if len(data) > fmt.MAX_MEMBER:
            raise UsageError(f"{name} is too large for a tar: {len(data)} bytes")
        self._digests[name] = hex_digest(self._preamble.checksum, data)
        self._put_member(name, len(data), [data])

    def _put_member(self, name: str, length: int, chunks: Iterable[bytes]) -> None:
        self._put(self._headers.header(name, length))
        for chunk in chunks:
            self._put(chunk)
        self._put(bytes(fmt.padding(length)))

    def _put(self, data: bytes | memoryview) -> None:
        self._length += len(data)
        if not (self._in_data and self._tape):
            return self._send(data)
        self._unconfirmed.add(data)
        try:
            self._send(data)
        except VolumeFull:
            self._go_on()
        else:
            self._unconfirmed.confirm(self._tape.accepted)

    def _send(self, data: bytes | memoryview) -> None:
        if len(data) >= GATHER_SIZE // 2:
            self._flush()
            self._output.write(memoryview(data))
            return
        end = self._filled + len(data)
        if end > GATHER_SIZE:
            self._flush()
            end = len(data)
        self._gathered[self._filled : end] = data
        self._filled = end

    def _flush(self) -> None:
        filled, self._filled = self._filled, 0
        if filled:
            self._output.write(self._gathered[:filled])
