"""The disk's data out of the members of a tar, on one volume or several."""

from __future__ import annotations

from collections.abc import Iterator

from ..backend.protocols import Reader
from ..errors import CorruptStreamError, IncompleteStreamError, LocalIOError, UsageError
from ..model.extents import Extents
from . import format as fmt
from .digests import ALGORITHMS, Hash
from .members import READ_STEP
from .volume import Volumes


class TarReader(Reader):
    """Finds the data of the disk in the members that come by.

    Args:
        volumes: The volume that is open, and how to come by the next.
        extents: All extents of the disk.
        verify: Make digests of all data.
    """

    def __init__(self, volumes: Volumes, extents: Extents, *, verify: bool) -> None:
        self._volumes = volumes
        self._extents = extents
        self._part_size = volumes.preamble.part_size
        self._segment_size = volumes.preamble.segment_size
        self._checksum = volumes.preamble.checksum if verify else None
        self._verify = verify
        self._vouched = fmt.Vouched(start=0)
        self._expected: Iterator[fmt.Member] = fmt.data_members(extents, self._part_size)
        self._next = next(self._expected, None)
        self._member: fmt.Member | None = None
        self._position = self._member_end = 0
        self._segment = 0
        self._hash: Hash | None = None
        self._dropped = memoryview(bytearray(READ_STEP))
        self._missing_until = 0

    def readinto(self, start: int, buffer: memoryview) -> None:
        """See `Reader.readinto`; bytes that are not data are left as they are."""
        end = start + len(buffer)
        self._pass_over(start)
        while start < end:
            if start < self._missing_until:
                step = min(end, self._missing_until) - start
                buffer[:step] = bytes(step)
                start, buffer = start + step, buffer[step:]
                continue
            if self._member is None:
                if self._next is None or self._next.start >= end:
                    return
                buffer = buffer[max(self._next.start - start, 0) :]
                start = max(start, self._next.start)
                self._begin_member(self._next)
                continue
            if start != self._position:
                raise UsageError(
                    f"a tar is read in order: asked for offset {start}, not {self._position}"
                )
            step = min(end, self._segment_end()) - start
            self._read_data(buffer[:step])
            start, buffer = start + step, buffer[step:]

    def finish(self) -> None:
        """Read to the end of the last volume, and check it against its manifest."""
        self._pass_over(self._extents.size)
        while True:
            try:
                return self._check_volume(continues=False)
            except IncompleteStreamError as e:
                self._next_volume(e)

    def _pass_over(self, start: int) -> None:
        """Read, and check, the data before `start` that nobody asked for."""
        while True:
            if self._member is None:
                if self._next is None or self._next.start >= start:
                    return
                self._begin_member(self._next)
                continue
            if self._volumes.cancelled:
                raise LocalIOError("cancelled")
            end = min(start, self._segment_end(), self._position + len(self._dropped))
            if end <= self._position:
                return
            self._read_data(self._dropped[: end - self._position])

    def cancel(self) -> None:
        """End a wait for the drive, or for the writer of a pipe."""
        self._volumes.cancel()

    def close(self) -> None:
        """See `Reader.close`: the stream is the source's."""

    def _begin_member(self, member: fmt.Member) -> None:
        try:
            is_there = self._go_to(member)
        except CorruptStreamError as e:
            e.tell_where(member.name)
            e.tell_where(self._volumes.name)
            raise
        if not is_there:
            return
        self._vouched.add(member)
        self._member, self._next = member, next(self._expected, None)
        self._segment = self._position = member.start
        self._member_end = member.start + member.length

    def _go_to(self, member: fmt.Member) -> bool:
        """Go into a member, on whichever volume it is; False where another one is next."""
        while True:
            try:
                if self._at_end_of_volume():
                    self._check_volume(continues=True)
                    self._vouched = fmt.Vouched(member.start)
                    self._next_volume(None)
                return self._take(member)
            except IncompleteStreamError as e:
                self._next_volume(e)

    def _at_end_of_volume(self) -> bool:
        """True where another volume must follow, for there is data to come."""
        header = self._volumes.members.header()
        return (
            self._volumes.preamble.set_id is not None
            and header is not None
            and header.name == fmt.MANIFEST
        )

    def _take(self, member: fmt.Member) -> bool:
        self._volumes.members.take(member.name, member.length)
        return True

    def _segment_end(self) -> int:
        return min(self._segment + self._segment_size, self._member_end)

    def _read_data(self, view: memoryview) -> None:
        self._fill(view)
        self._position += len(view)
        if self._checksum is not None:
            if self._hash is None:
                self._hash = ALGORITHMS[self._checksum]()
            self._hash.update(view)
        if self._position == self._segment_end():
            if self._hash is not None:
                self._vouched.segments += self._hash.digest()
                self._hash = None
            self._segment = self._position
        if self._position == self._member_end:
            self._member = None

    def _fill(self, view: memoryview) -> None:
        """Read the next bytes of the member, on whichever volume they are."""
        while True:
            try:
                return self._volumes.members.readinto(view)
            except IncompleteStreamError as e:
                self._next_volume(e)

    def _check_volume(self, *, continues: bool) -> None:
        """Read from the manifest to the end of the volume."""
        self._check_manifest(continues=continues)
        self._volumes.check_listed()
        self._volumes.end()

    def _check_manifest(self, *, continues: bool) -> None:
        volumes = self._volumes
        found = self._vouched.manifest(volumes.preamble, volumes.digests, continues=continues)
        self._take_manifest(found)
        left = volumes.members.left
        # As many as there can be in what was read, and not in what the extents claim.
        segments = found.data_bytes // self._segment_size + found.data_members
        if left > found.longest(segments):
            raise CorruptStreamError(f"{fmt.MANIFEST} is too large: {left} bytes")
        text = volumes.members.unlike(found.length, found.encode)
        if text is not None:
            for error in self._differences(found, text):
                raise error

    def _differences(self, found: fmt.Manifest, text: bytes) -> Iterator[CorruptStreamError]:
        preamble = self._volumes.preamble
        return found.differences(text, self._extents, preamble, data_too=self._verify)

    def _take_manifest(self, found: fmt.Manifest) -> None:
        self._volumes.members.take(fmt.MANIFEST)

    def _next_volume(self, error: IncompleteStreamError | None) -> None:
        """Open the next volume, and pass over what was already read.

        What was read of a torn member stays read; its digest will be of that.

        Args:
            error: How this volume ended, where it was torn.
        """
        whole = self._vouched.members - (self._member is not None)
        if error is not None and not whole:
            raise error  # it is void: the volume of this number is on another tape
        self._volumes.open_next(self._extents, error)
        start = self._volumes.preamble.volume_start
        resume = self._member or self._next
        resume_at = resume.start if resume else self._extents.size
        if not self._vouched.start <= start <= resume_at:
            raise CorruptStreamError(
                f"volume {self._volumes.preamble.volume} goes on at disk offset {start}, "
                f"but the one before ends at {resume_at}"
            )
        for member in fmt.data_members(self._extents, self._part_size):
            if start <= member.start < resume_at:
                self._take(member)
                self._volumes.members.skip(member.length)
        if self._member is not None:
            self._take(self._member)
            self._volumes.members.skip(self._position - self._member.start)
