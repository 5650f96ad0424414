"""A source that a workflow reads itself: a backup of a chain, or one side of a comparison."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from ..backend.abilities import ChecksEnd, KeepsAlive, Prefetches, ability, cancel
from ..backend.checks import (
    check_source,
    check_unchanged,
    extents_of,
    fill,
    finish,
    info_of,
    reader_of,
    rewind,
)
from ..backend.protocols import Reader, SourceLike
from ..engine.copy import require_disk_order
from ..errors import TapestreamError


class Part:
    """A source whose extents were read and checked, as a copy would do it.

    Args:
        source: The source. The caller closes it.
        name: The name that its errors get, if it is one of several; None to add nothing.

    Attributes:
        source: The source.
        extents: Its extents.
        info: What it says about its backup.
        naming: A context in which the name is added to errors.

    Raises:
        UsageError: It cannot be read in the order of the disk.
        TapestreamError: Its extents cannot be read, or what it reports about itself is wrong.
    """

    def __init__(self, source: SourceLike, name: str | None = None) -> None:
        self.source = source
        self.naming: AbstractContextManager[None] = nullcontext() if name is None else _Naming(name)
        self.begin()
        check_source(source)
        with self.naming:
            self.extents = extents_of(source)
            self.info = info_of(source)
            require_disk_order(source)

    def begin(self) -> None:
        """Mark it as unread: it is new or rewound, or will be read again."""
        self._is_open = self._is_finished = False
        self._digest_name: str | None = None

    def check_end(self) -> None:
        """Make sure that its end is there, if that can be seen quickly.

        Raises:
            TapestreamError: The end is missing.
        """
        checks = ability(self.source, ChecksEnd)
        if checks is not None:
            with self.naming:
                checks.check_complete()

    def open(self) -> PartReader:
        """Open a reader."""
        with self.naming:
            reader = reader_of(self.source)
        self._is_open = True
        return PartReader(reader, self.naming)

    def finish(self) -> str | None:
        """Let it check itself, after all its readers were closed.

        A part that was not read is read now: none of its data is needed, but it may be damaged.

        Returns:
            Name of the digest that all its data was compared with; None for none.

        Raises:
            TapestreamError: It is not complete, not intact, or no longer the same backup.
        """
        if not self._is_finished:
            with self.naming:
                if not self._is_open:
                    reader_of(self.source).close()
                self._digest_name = finish(self.source)
                check_unchanged(self.source, self.info)
            self._is_finished = True
        return self._digest_name

    def rewind(self) -> None:
        """Make it readable again.

        Raises:
            UsageError: It can be read only once.
        """
        rewind(self.source)
        self.begin()

    def cancel(self) -> None:
        """Make a call that is blocking in another thread fail soon."""
        cancel(self.source)


class PartReader:
    """Reads a part, and adds its name to errors."""

    def __init__(self, reader: Reader, naming: AbstractContextManager[None]) -> None:
        self._reader = reader
        self._naming = naming
        self._prefetches = ability(reader, Prefetches)

    def prefetch(self, start: int, length: int) -> None:
        """Announce a range that will be read from its start to its end."""
        if self._prefetches is not None:
            with self._naming:
                self._prefetches.prefetch(start, length)

    def readinto(self, start: int, buffer: memoryview) -> None:
        """Fill a buffer with what was announced."""
        with self._naming:
            fill(self._reader, start, buffer[:])

    def cancel(self) -> None:
        """Make a call that is blocking in another thread fail soon."""
        cancel(self._reader)

    def close(self) -> None:
        """Close the reader."""
        self._reader.close()


class _Naming(AbstractContextManager[None]):
    """Adds a name to errors. It is not a generator, since it is entered for every piece of data."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __exit__(self, exc_type: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, TapestreamError):
            error.add_context(self._name)


def keep_alive(source: SourceLike) -> None:
    """Keep a source alive, if it has that ability."""
    keeps = ability(source, KeepsAlive)
    if keeps is not None:
        keeps.keep_alive()
