"""Reads the disk's data from the members of a tar, on one volume or several."""

from __future__ import annotations

from collections.abc import Iterator

from .._typing import override
from ..backend.protocols import Reader
from ..errors import (
    CorruptStreamError,
    IncompleteStreamError,
    LocalIOError,
    StreamError,
    UsageError,
)
from ..model.damage import Damage
from ..model.extents import Extents
from . import format as fmt
from .digests import ALGORITHMS, Hash, digest_of
from .manifest import ManifestBuilder
from .members import READ_STEP
from .search import Found
from .trouble import Suspects
from .volume import Volumes
from .walk import VolumeWalk
from .zerofill import ZeroFilledInput

# Most segments that may be missing. Each gets a placeholder for its digest, so that the digests
# after it are compared with the right ones.
MAX_PLACEHOLDERS = 1024**2


class TarReader(Reader):
    """Reads the data of the disk from the members, in order.

    `volumes.trouble` decides what happens at damage. If reading continues, damaged data is
    delivered as it is, with zeros for missing data.

    Args:
        volumes: Opens the volumes, one after another.
        extents: All extents of the disk.
        verify: True to compute digests of all data.

    Attributes:
        missing_until: Disk offset; data before it that was not read yet is missing.
    """

    def __init__(self, volumes: Volumes, extents: Extents, *, verify: bool) -> None:
        self._volumes = volumes
        self._trouble = volumes.trouble
        self._extents = extents
        self._part_size = volumes.preamble.part_size
        self._segment_size = volumes.preamble.segment_size
        self._checksum = volumes.preamble.checksum if verify else None
        self._verify = verify
        self._manifest = ManifestBuilder(start=0)
        self._expected: Iterator[fmt.Member] = fmt.data_members(extents, self._part_size)
        self._next = next(self._expected, None)
        self._member: fmt.Member | None = None
        self._position = self._member_end = 0
        self._segment = 0
        self._hash: Hash | None = None
        self._dropped = memoryview(bytearray(READ_STEP))
        self.missing_until = 0
        # The rest is only used if reading continues after damage.
        self._has_ended = self._is_finishing = False
        self._vouches = self._is_comparable = True
        self._suspects = Suspects()
        self._walk = VolumeWalk(volumes, self._suspects)
        self._goes_on_at: Found | None = None
        self._is_on_next_volume = False

    @override
    def readinto(self, start: int, buffer: memoryview) -> None:
        """Fill the buffer from disk offset `start`; bytes that are not data stay as they are."""
        self._pass_over(start)
        self._read(start, buffer)

    def _read(self, start: int, buffer: memoryview) -> None:
        end = start + len(buffer)
        while start < end:
            if start < self.missing_until:
                step = min(end, self.missing_until) - start
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

    @property
    def is_unchecked(self) -> bool:
        """True if all data was read, but `finish`, which checks the manifest, was not called."""
        at_end = self._member is None and self._next is None
        return at_end and not self._is_finishing and not self._volumes.is_cancelled

    def finish(self) -> None:
        """Read to the end of the last volume, and compare it with its manifest."""
        self._is_finishing = True
        self._pass_over(self._extents.size)
        while True:
            try:
                self._check_volume(continues=False)
                break
            except IncompleteStreamError as e:
                self._next_volume(e)
        self._clear_suspects(vouched=False)

    def cancel(self) -> None:
        """Make a call fail that waits for the drive, or for the writer of a pipe."""
        self._volumes.cancel()

    @override
    def close(self) -> None:
        """Do nothing: the source closes the stream."""

    def _pass_over(self, end: int) -> None:
        """Read the unused data before `end`, to check it."""
        while (start := self._next_data()) < end:
            if self._volumes.is_cancelled:
                raise LocalIOError("cancelled")
            self._read(start, self._dropped[: end - start])

    def _next_data(self) -> int:
        """Disk offset of the first data that was not read yet; the size of the disk at the end."""
        if self._member is not None:
            return self._position
        return self._next.start if self._next else self._extents.size

    # The next member

    def _begin_member(self, member: fmt.Member) -> None:
        try:
            is_there = self._go_to(member)
        except CorruptStreamError as e:
            e.add_context(member.name)
            e.add_context(self._volumes.name)
            raise
        if is_there:
            self._manifest.add(member)
            self._member, self._next = member, next(self._expected, None)
            self._segment = self._position = member.start
            self._member_end = member.start + member.length
        if self._goes_on_at is not None or self._has_ended:
            self._skip_missing()

    def _go_to(self, member: fmt.Member) -> bool:
        """Enter a member, on the volume that has it; False if another member comes next."""
        while True:
            try:
                if self._is_at_end_of_volume():
                    self._check_volume(continues=True)
                    self._manifest = ManifestBuilder(member.start)
                    self._next_volume(None)
                is_there = self._enter(member)
            except IncompleteStreamError as e:
                self._next_volume(e)
                continue
            if not self._is_on_next_volume:
                return is_there
            self._is_on_next_volume = False

    def _is_at_end_of_volume(self) -> bool:
        try:
            return not self._has_ended and self._walk.is_at_end()
        except LocalIOError as e:
            self._end(e)
            return False

    def _enter(self, member: fmt.Member) -> bool:
        """Enter a member on this volume; False if another member comes next."""
        if self._has_ended:
            return False
        try:
            found = self._walk.enter(member)
        except LocalIOError as e:
            self._end(e)
            return False
        if found is None:
            return True
        if found.member is None and self._volumes.may_go_on:
            self._is_on_next_volume = True  # the next volume may have what is missing here
        else:
            self._goes_on_at = found
        return False

    def _skip_missing(self) -> None:
        """Record what is missing before the place where reading continues, and go there."""
        target = self._goes_on_at.member if self._goes_on_at and not self._has_ended else None
        self._goes_on_at = None
        if self._member is not None:
            self._note_missing(self._position, self._member_end - self._position)
            self._fill_up(-(-(self._member_end - self._segment) // self._segment_size))
            self._member = self._hash = None
        end, table = target.start if target else self._extents.size, self._volumes.table
        if self._next is not None:
            start = self._next.start
            lost = table.tally(start, end)
            if lost.members:
                self._manifest.add_lost(self._next.number, lost.number, lost.members, lost.bytes)
            self._fill_up(lost.segments)
            self._trouble.lose(start, end, table)
        self.missing_until = end
        self._expected = table.following(end)
        self._next = next(self._expected, None)

    def _fill_up(self, segments: int) -> None:
        """Add placeholders for the digests of missing segments."""
        self._is_comparable = self._is_comparable and segments <= MAX_PLACEHOLDERS
        if self._checksum is not None and self._is_comparable:
            self._manifest.segments += bytes(segments * len(digest_of(self._checksum, b"")))

    # The data

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
                self._manifest.segments += self._hash.digest()
                self._hash = None
            self._segment = self._position
        if self._position == self._member_end:
            self._member = None
        if self._goes_on_at is not None or self._has_ended:
            self._skip_missing()

    def _fill(self, view: memoryview) -> None:
        """Read the next bytes of the member, with zeros for what is missing."""
        done = self._read_up_to_header(view)
        missing = len(view) - done
        if missing:
            view[done:] = bytes(missing)
            self._note_missing(self._position + done, missing)

    def _read_up_to_header(self, view: memoryview) -> int:
        """Read the next bytes of the member, which may end early; return how many there were."""
        found = self._walk.ends_within(len(view), self._member) if self._member else None
        if found is None:
            return self._read_member(view)
        done = self._read_member(view[: found.offset - self._volumes.members.offset])
        self._goes_on_at = found
        if not self._has_ended:
            self._volumes.members.skip_to(found.offset, found.header)
        return done

    def _read_member(self, view: memoryview) -> int:
        """Read the next bytes, on the volume that has them; return how many there were."""
        if view and not self._has_ended:
            members, zeros = self._volumes.members, self._volumes.zeros
            before, begin = members.offset, zeros.offset - members.ahead if zeros else 0
            try:
                members.readinto(view)
                done = len(view)
            except IncompleteStreamError as e:
                done = members.offset - before
                self._next_volume(e)
                if not self._has_ended and self._goes_on_at is None:
                    return self._read_up_to_header(view)
            except LocalIOError as e:
                done = members.offset - before
                self._end(e)
            if zeros is not None:
                self._note_filled(zeros, begin, done)
            return done
        return 0

    def _note_filled(self, zeros: ZeroFilledInput, begin: int, length: int) -> None:
        """Record what could not be read of `length` bytes of data at stream offset `begin`."""
        end = begin + length
        ahead = []  # zeros that were read ahead, after this data
        for offset, count in zeros.filled:
            first = max(offset, begin)  # before it is a header
            last = min(offset + count, end)
            self._note_missing(self._position + first - begin, last - first)
            if offset + count > end:
                ahead.append((max(offset, end), offset + count - max(offset, end)))
        zeros.filled = ahead

    def _note_missing(self, start: int, length: int) -> None:
        if length > 0 and self._member is not None:
            self._trouble.add(Damage(start, length, self._member.name, missing=True))
            self._suspects.is_missing(self._member, length)

    # The end of a volume

    def _next_volume(self, error: IncompleteStreamError | None) -> None:
        """Open the next volume, and skip what was already read.

        Args:
            error: The error with which this volume ended; None if it ended with a manifest.
        """
        try:
            self._open_next_volume(error)
        except (StreamError, LocalIOError) as e:
            self._end(e)

    def _open_next_volume(self, error: IncompleteStreamError | None) -> None:
        """Open the next volume, and go to the place in it where reading continues.

        The part of an incomplete member that was read from the volume before is not read again; the
        member's digest covers that part, too.
        """
        whole = self._manifest.members - (self._member is not None)
        if error is not None and not whole:
            raise error  # it holds no complete member: another tape has the volume of this number
        self._volumes.open_next(error)
        self._walk = VolumeWalk(self._volumes, self._suspects)
        start = self._volumes.preamble.volume_start
        resume = self._member or self._next
        resume_at = resume.start if resume else self._extents.size
        if not self._manifest.start <= start <= resume_at:
            raise CorruptStreamError(
                f"volume {self._volumes.preamble.volume} goes on at disk offset {start}, "
                f"but the one before ends at {resume_at}"
            )
        found = self._leave_out_members(start, resume_at)
        if self._member is not None:
            length = self._position - self._member.start
            if found is None or found.member == self._member:
                found = self._walk.pass_over(self._member, length)
            if found is not None and found.member is None and self._volumes.may_go_on:
                found = found._replace(member=self._next)  # the next volume may have that one
            self._goes_on_at = found

    def _leave_out_members(self, start: int, end: int) -> Found | None:
        """Skip the members between two disk offsets, which were read from the volume before.

        Returns:
            The header at which the volume then stands, if some of them are not there.
        """
        # They may be damaged here: that makes nothing suspect of what was read.
        walk = VolumeWalk(self._volumes, Suspects())
        found: Found | None = None
        for member in fmt.data_members(self._extents, self._part_size, start):
            if member.start >= end:
                break
            if found is None or found.member == member:
                found = walk.pass_over(member, member.length)
        return found

    def _check_volume(self, *, continues: bool) -> None:
        """Read from the manifest to the end of the volume."""
        if self._has_ended:
            return
        try:
            self._check_manifest(continues=continues)
        except (CorruptStreamError, LocalIOError) as e:
            self._trouble.meet(e)
            self._vouches = False
            return
        self._clear_suspects(vouched=self._vouches and self._checksum is not None)
        is_last = self._vouches and not continues
        if is_last:
            self._trouble.compared(self._checksum)
        try:
            if not self._trouble.has_problems:  # otherwise it follows from them
                self._volumes.check_listed()
            self._volumes.end()
        except (CorruptStreamError, LocalIOError) as e:
            self._trouble.meet(e)
            return
        if is_last:
            self._trouble.complete()

    def _check_manifest(self, *, continues: bool) -> None:
        if not self._is_comparable:
            raise CorruptStreamError(f"too much is missing to compare the rest with {fmt.MANIFEST}")
        volumes = self._volumes
        found = self._manifest.manifest(volumes.preamble, volumes.digests, continues=continues)
        self._walk.enter_manifest(found.length, self._extents.size)
        left = volumes.members.left
        # As many as fit into what was read; the extents may claim more.
        segments = found.data_bytes // self._segment_size + found.data_members
        if left > found.longest(segments):
            raise CorruptStreamError(f"{fmt.MANIFEST} is too large: {left} bytes")
        text = volumes.members.read_if_different(found.length, found.encode)
        if text is not None:
            try:
                for error in found.differences(
                    text, self._extents, volumes.preamble, data_too=self._verify
                ):
                    self._trouble.meet(error)
            except CorruptStreamError as e:
                self._trouble.meet(e)
                self._vouches = False

    # What is wrong

    def _end(self, error: StreamError | LocalIOError) -> None:
        """Record that the stream ends here, too early."""
        self._trouble.meet(error)
        self._has_ended = True
        self._checksum = None  # there is no manifest to compare digests with

    def _clear_suspects(self, *, vouched: bool) -> None:
        for member in self._suspects.take_all():
            if not vouched:
                self._trouble.add(Damage(member.start, member.length, member.name, missing=False))
