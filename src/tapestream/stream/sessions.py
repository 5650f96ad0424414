"""Reads a stream in one session or in two: first the members before the data, then the data.

    a file, a pipe, a tape as it stands      list, read
    a tape file with a known number          list │ others may use the drive │ open again, read

The second session opens the stream again, makes sure that the members before the data are the same
as before, and continues after them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import (
    CorruptStreamError,
    ForeignStreamError,
    IncompleteStreamError,
    LocalIOError,
    StreamError,
    UsageError,
    WrongBackupError,
    WrongVolumeError,
)
from ..model.damage import Findings
from ..model.expected import Expected
from ..model.extents import Extents
from ..model.info import describe
from ..tar.medium import InputMedium
from ..tar.reader import TarReader
from ..tar.trouble import Lenient, Trouble
from ..tar.volume import Volumes

if TYPE_CHECKING:
    from ..tape.input import TapeInput


class StreamSessions:
    """The state of a stream, shared by its source and by the sources that read it past damage.

    Args:
        medium: Where the stream is read from.
        tape: The same object if it is a tape; otherwise None.
        expected: The backup that must be there; None to accept any.

    Attributes:
        medium: Where the stream is read from.
        tape: The same object if it is a tape; otherwise None.
        first: The preamble of the first volume.
        attachments: The files that are kept with the disk; empty before `list`.
        reader: The reader of the data; None before `open_reader`.
    """

    def __init__(
        self, medium: InputMedium, tape: TapeInput | None, expected: Expected | None
    ) -> None:
        self.medium = medium
        self.tape = tape
        self.attachments: dict[str, bytes] = {}
        self.reader: TarReader | None = None
        self._extents: Extents | None = None
        self._error: Exception | None = None
        self._is_done = False
        with self._named():
            self._volumes: Volumes | None = self._first_volume(expected)
        self.first = self._volumes.preamble
        if self.tape is not None:
            self.tape.backup = describe(self.first.info)
        if self.first.volume != 1:
            raise WrongVolumeError(f"{medium.name}: this is volume {self.first.volume} of a backup")

    @property
    def is_shared(self) -> bool:
        """True if others may use the drive between two sessions."""
        return self.tape is not None and self.tape.knows_file

    def list(self, trouble: Trouble) -> Extents:
        """Read up to the first data member, once; return the extents."""
        if trouble.goes_on and self._can_go_on:
            self._error = None
        elif self._error is None and self._is_past_damage and not trouble.goes_on:
            self._error = UsageError("the stream was read past damage: open it again, or rewind it")
        if self._error is not None:
            raise self._error
        with self._kept():
            if self._extents is None and self.is_shared:
                # Damage is recorded when it is met again by the session that reads the data.
                try:
                    self._list(Lenient(Findings()) if trouble.goes_on else trouble)
                finally:
                    self.leave()
            elif self._extents is None or self._volumes is not None:
                self._list(trouble)
        assert self._extents is not None
        return self._extents

    def open_reader(self, trouble: Trouble, *, verify: bool) -> TarReader:
        """Make the reader of the data; open the stream again if that is needed."""
        self.require_unread()
        extents = self.list(trouble)
        if self._volumes is None:
            try:
                with self._named():
                    self._list(trouble)
            except BaseException:
                self.leave()
                raise
        assert self._volumes is not None
        self._volumes.go_on_with(trouble)
        self.reader = TarReader(self._volumes, extents, verify=verify)
        return self.reader

    def finish(self) -> None:
        """Read to the end of the stream, and compare it with its manifest."""
        if self.reader is None:
            raise UsageError("not all data of the stream was read")
        with self._named():
            self.reader.finish()
        if self.tape is not None:
            self.tape.end_file()
        self._is_done = True

    def require_unread(self) -> None:
        """Make sure that no reader was opened."""
        if self.reader is not None:
            raise UsageError("a tar stream is read once: open it anew, or rewind it")

    def check_complete(self) -> None:
        """Make sure that the stream has its end, if that can be seen without reading it all."""
        if self.tape is not None:
            self.tape.check_complete(self.first)
        elif self._volumes is not None and self._extents is not None:
            self._volumes.check_ending(self._extents)

    def rewind(self, trouble: Trouble) -> None:
        """Go back, so that the stream can be read once more."""
        if self._extents is None:
            self.list(trouble)
        self.medium.rewind()
        self.reader = self._error = self._volumes = None
        self._is_done = False
        if self.tape is None:
            with self._kept():
                self._open_again(trouble)

    def leave(self) -> None:
        """End a session: let others use the drive."""
        self._volumes = None
        if self.tape is not None:
            self.tape.leave()

    def cancel(self) -> None:
        """Make a call that blocks, now or later, fail."""
        volumes = self._volumes
        if volumes is not None:
            volumes.cancel()
        self.medium.cancel()

    def _list(self, trouble: Trouble) -> None:
        volumes = self._volumes or self._open_again(trouble)
        if not volumes.is_listed:
            volumes.go_on_with(trouble)
        try:
            volumes.list(self._extents)
        finally:
            self._extents = self._extents if volumes.extents is None else volumes.extents
        self.attachments = volumes.attachments

    def _open_again(self, trouble: Trouble) -> Volumes:
        """Begin a session: open the stream again, and make sure that it is the same backup."""
        if self.tape is not None:
            self.tape.go_back(self.first)
        self._volumes = Volumes(self.medium, trouble)
        if self._volumes.preamble != self.first:
            raise CorruptStreamError(f"{self.medium.name} is not the backup that it was before")
        return self._volumes

    def _first_volume(self, expected: Expected | None) -> Volumes:
        """Open the stream, and compare it with the expected backup."""
        if expected is None:
            return Volumes(self.medium)
        try:
            volumes = Volumes(self.medium)
        except (ForeignStreamError, IncompleteStreamError) as e:
            raise expected.error(self._place(), f"no backup ({e.message})") from e
        preamble = volumes.preamble
        try:
            expected.check(preamble.info, preamble.set_id, self.medium.name)
        except WrongBackupError:
            # Only now, because `_place` may wind the tape to read its label.
            expected.check(preamble.info, preamble.set_id, self._place())
        return volumes

    def _place(self) -> str:
        """Where the stream is, for errors; for a tape with its label and the number of the file."""
        return self.tape.place() if self.tape is not None else self.medium.name

    @property
    def _can_go_on(self) -> bool:
        """Whether a lenient reader can continue after the error that stopped a strict one."""
        return self.is_shared or (
            self._extents is not None and isinstance(self._error, StreamError)
        )

    @property
    def _is_past_damage(self) -> bool:
        """Whether an unfinished salvage has given zeros for something unreadable."""
        zeros = self._volumes.zeros if self._volumes and self.reader else None
        return zeros is not None and zeros.was_needed and not self._is_done

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Keep an error for later calls: after it, the position in the stream is unknown."""
        try:
            with self._named():
                yield
        except (StreamError, LocalIOError) as e:
            self._error = e
            raise
        except BaseException:
            self._error = UsageError("reading the stream was interrupted: open it anew")
            raise

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Add the stream's name to an error."""
        try:
            yield
        except StreamError as e:
            e.add_context(self.medium.name)
            raise
