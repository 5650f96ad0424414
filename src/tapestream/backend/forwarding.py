"""Backends that wrap another one, forward the core to it, and have all of its abilities.

Inherit from one of these to change a single thing, for example to limit the speed or to count.
Call `super()` for the rest: it checks what the other backend returns.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from typing import TYPE_CHECKING, Any

from .._typing import override
from ..model.extents import Extent, Extents
from ..model.info import BackupInfo
from .abilities import Salvages, ability
from .checks import done, fill, reader_of, sink_of, source_of, write, writer_of, zero
from .protocols import MYPY, Reader, Sink, SinkLike, Source, SourceLike, Writer

if TYPE_CHECKING:
    from ..model.damage import Findings
else:
    Findings = object  # for typing.get_type_hints: a backup has no damage


class ForwardingSource(Source):
    """Forwards all calls to another source.

    Args:
        wrapped: The other source. Closing this one closes it.
    """

    def __init__(self, wrapped: SourceLike) -> None:
        self.wrapped = source_of(wrapped)

    @property
    @override
    def info(self) -> BackupInfo:
        return self.wrapped.info

    @property
    @override
    def max_readers(self) -> int:
        return self.wrapped.max_readers

    @property
    @override
    def sequential(self) -> bool:
        return self.wrapped.sequential

    if TYPE_CHECKING and not MYPY:
        info: BackupInfo | Any
        max_readers: int | Any
        sequential: bool | Any

    @override
    def extents(self) -> Iterable[Extent]:
        return self.wrapped.extents()

    @override
    def open_reader(self) -> Reader:
        return reader_of(self.wrapped)

    def salvaging(self, findings: Findings) -> Source | None:
        """This wrapper, around the source that goes on after damage; None if there is none."""
        salvages = ability(self.wrapped, Salvages)
        inner = None if salvages is None else salvages.salvaging(findings)
        if inner is None:
            return None
        view = copy(self)
        view.wrapped = inner
        return view

    @override
    def close(self) -> None:
        self.wrapped.close()


class ForwardingReader(Reader):
    """Forwards all calls to another reader.

    Args:
        wrapped: The other reader. Closing this one closes it.
    """

    def __init__(self, wrapped: Reader) -> None:
        self.wrapped = wrapped

    @override
    def readinto(self, start: int, buffer: memoryview) -> None:
        fill(self.wrapped, start, buffer[:])

    @override
    def close(self) -> None:
        self.wrapped.close()


class ForwardingSink(Sink):
    """Forwards all calls to another sink.

    Args:
        wrapped: The other sink. Closing this one closes it.
    """

    def __init__(self, wrapped: SinkLike) -> None:
        self.wrapped = sink_of(wrapped)

    @property
    @override
    def max_writers(self) -> int:
        return self.wrapped.max_writers

    @property
    @override
    def sequential(self) -> bool:
        return self.wrapped.sequential

    if TYPE_CHECKING and not MYPY:
        max_writers: int | Any
        sequential: bool | Any

    @override
    def begin(self, info: BackupInfo, extents: Extents) -> None:
        done(self.wrapped, "begin", info, extents)

    @override
    def open_writer(self) -> Writer:
        return writer_of(self.wrapped)

    @override
    def commit(self) -> object:
        return done(self.wrapped, "commit")

    @override
    def abort(self) -> None:
        self.wrapped.abort()

    @override
    def close(self) -> None:
        self.wrapped.close()


class ForwardingWriter(Writer):
    """Forwards all calls to another writer.

    Args:
        wrapped: The other writer. Closing this one closes it.
    """

    def __init__(self, wrapped: Writer) -> None:
        self.wrapped = wrapped

    @override
    def write(self, start: int, buffer: memoryview) -> None:
        write(self.wrapped, start, buffer[:])

    @override
    def zero(self, start: int, length: int) -> None:
        zero(self.wrapped, start, length)

    @override
    def close(self) -> None:
        self.wrapped.close()
