"""Writes the disk's data as members of a tar, on one volume or several."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from .._typing import override
from ..backend.protocols import Writer
from ..errors import UsageError
from ..model.extents import Extents, Kind
from ..model.info import describe
from . import format as fmt
from .digests import hex_digest
from .layout import Layout
from .manifest import ManifestBuilder
from .medium import OutputMedium, VolumeFull, VolumeId
from .preamble import Preamble


class TarWriter(Writer):
    """Writes a tar in one pass.

    If the medium has several volumes, each holds a whole tar. A volume that will soon be full ends
    before the next member, with a manifest. A volume that is full earlier ends in the middle of a
    member; the members that are not completely on it are written again on the next one.

    Args:
        medium: Where the tar is written.
        preamble: The preamble of the first volume.
        extents: All extents of the disk.
        attachments: The contents of the attachments by member name; every volume has them.
    """

    def __init__(
        self,
        medium: OutputMedium,
        preamble: Preamble,
        extents: Extents,
        attachments: Mapping[str, bytes],
    ) -> None:
        assert preamble.info.created is not None
        self._medium = medium
        self._preamble = preamble
        self._extents = extents
        self._attachments = attachments
        self._headers = fmt.HeaderWriter(int(preamble.info.created.timestamp()))
        self._left = extents.tally(Kind.DATA).bytes  # bytes of data that are not yet written
        self._expected: Iterator[fmt.Member] = fmt.data_members(extents, preamble.part_size)
        self._next = next(self._expected, None)
        # Digests of this volume's members that are not data, by name.
        self._digests: dict[str, str | None] = {}
        # Digests of segments that are not completely written, by start and length.
        self._segment_digests: dict[tuple[int, int], bytes] = {}
        self._segment = self._position = self._member_end = 0
        self._manifest = ManifestBuilder(start=0)
        self._layout: Layout | None = None  # of this volume

    def begin(self) -> None:
        """Write the members before the data."""
        try:
            self._put_preamble()
            if self._position == self._member_end:
                self._plan_layout()
        except VolumeFull as full:
            self._go_on(full.start)

    def memory(self, start: int, length: int) -> memoryview | None:
        """Lend the memory from which data of the disk will be written; None if there is none."""
        layout = self._layout
        return None if layout is None else layout.memory(start, length)

    def digested(self, start: int, length: int, digest: bytes) -> None:
        """Keep the digest of a segment until its last byte is written."""
        self._segment_digests[start, length] = digest

    @override
    def write(self, start: int, buffer: memoryview) -> None:
        while buffer:
            if self._position == self._member_end:
                self._begin_member()
            if start != self._position:
                raise UsageError(
                    f"a tar is written in order: got offset {start}, not {self._position}"
                )
            end = self._segment_end()
            step = min(len(buffer), end - start)
            self._left -= step
            self._put_data(buffer[:step])
            start = self._position = start + step
            buffer = buffer[step:]
            if start == end:
                self._end_segment()

    @override
    def zero(self, start: int, length: int) -> None:
        """Write nothing: `extents.json` says where zeros are."""

    def flush(self) -> None:
        """Write the bytes that the medium has gathered."""
        self._medium.flush()

    @override
    def close(self) -> None:
        """Keep it open: the sink uses it until the end."""

    def cancel(self) -> None:
        """Make a call fail that waits for a drive, or for the reader of a pipe."""
        self._medium.cancel()

    def end(self) -> None:
        """Write the manifest and the end of the archive, and fill the last record."""
        if self._position != self._member_end or self._next is not None:
            raise UsageError("not all data extents were written")
        while not self._end_volume(continues=False):
            continue

    def _begin_member(self) -> None:
        member = self._next
        if member is None:
            raise UsageError("more data was written than the extents have")
        # If the manifest does not fit, the next volume's manifest covers this volume, too.
        if self._medium.is_ending and self._end_volume(continues=True):
            self._manifest = ManifestBuilder(member.start)
            self._go_on(member.start)
        if self._layout is None:
            self._plan_layout()
        self._next = next(self._expected, None)
        self._manifest.add(member)
        self._segment = self._position = member.start
        self._member_end = member.start + member.length
        self._put_data(self._headers.header(member.name, member.length))

    def _end_segment(self) -> None:
        if self._preamble.checksum is not None:
            segment = self._segment, self._position - self._segment
            digest = self._segment_digests.pop(segment, None)
            if digest is None:
                raise UsageError(
                    f"the data up to disk offset {self._position} was written without its digest",
                    hint="A sink that wraps a tar must have its new_hash(), and use its writer.",
                )
            self._manifest.segments += digest
        self._segment = self._position
        if self._position == self._member_end:
            if padding := fmt.padding(self._medium.length):
                self._put_data(bytes(padding))
            self._medium.boundary(self._next.start if self._next else self._extents.size)

    def _segment_end(self) -> int:
        return min(self._segment + self._preamble.segment_size, self._member_end)

    def _put_data(self, data: bytes | memoryview) -> None:
        """Write a part of a data member; continue on the next volume if this one is full."""
        try:
            self._medium.write(data)
        except VolumeFull as full:
            self._go_on(full.start)

    # Volumes

    def _go_on(self, start: int | None) -> None:
        """Continue on the next volume, with the members that this one does not hold completely.

        Args:
            start: Disk offset of the first of them; None if this volume holds no complete member,
                so that the next one replaces it.
        """
        if start is not None:
            number = self._preamble.volume + 1
            self._preamble = self._preamble._replace(volume=number, volume_start=start)
        preamble = self._preamble
        self._layout = None
        volume = VolumeId(preamble.set_id or "", preamble.volume, describe(preamble.info))
        self._medium.next_volume(volume, self._left)
        self.begin()

    def _plan_layout(self) -> None:
        """Plan where data will be in this volume, which so far ends with a complete member."""
        lend = self._medium.lender()
        if lend is not None and self._next is not None:
            part_size, offset = self._preamble.part_size, self._medium.length
            self._layout = Layout(self._extents, part_size, self._next.start, offset, lend)

    def _put_preamble(self) -> None:
        """Write the members before the data; the medium then writes again what it must."""
        self._digests = {}
        self._put_text(fmt.INFO, self._preamble.encode())
        self._put_text(fmt.EXTENTS, self._extents.json)
        for name, data in self._attachments.items():
            self._put_text(name, data)
        self._medium.flush()
        self._medium.boundary(self._preamble.volume_start)

    def _end_volume(self, *, continues: bool) -> bool:
        """Write the manifest and the end; False if they did not fit and the next volume began."""
        manifest = self._manifest.manifest(self._preamble, self._digests, continues=continues)
        medium = self._medium
        medium.boundary(None)
        try:
            self._put_member(fmt.MANIFEST, manifest.length, manifest.encode())
            medium.write(fmt.END)
            medium.write(bytes(fmt.padding(medium.length, self._preamble.record_size)))
        except VolumeFull as full:
            self._go_on(full.start)
            return False
        return True

    def _put_text(self, name: str, data: bytes) -> None:
        if len(data) > fmt.MAX_MEMBER:
            raise UsageError(f"{name} is too large for a tar: {len(data)} bytes")
        self._digests[name] = hex_digest(self._preamble.checksum, data)
        self._put_member(name, len(data), [data])

    def _put_member(self, name: str, length: int, chunks: Iterable[bytes]) -> None:
        self._medium.write(self._headers.header(name, length))
        for chunk in chunks:
            self._medium.write(chunk)
        self._medium.write(bytes(fmt.padding(length)))
