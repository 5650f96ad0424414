"""Restores a chain of backups (a full one and incremental ones), or merges it into one source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace

from .._typing import Unpack, override
from ..arguments import flag
from ..backend.checks import (
    device_of,
    digest_name_of,
    info_of,
    place_of,
    server_is_local,
    sink_of,
    source_of,
)
from ..backend.protocols import Reader, SinkLike, Source, SourceLike
from ..backend.running import Running, running, uses
from ..cancel import Cancel, check_cancel
from ..engine.copy import (
    CopyResult,
    aborted_on_error,
    require_disk_order,
    transfer,
)
from ..engine.ending import cancel_wins, stopping
from ..engine.keepalive import keep_alive_during
from ..engine.options import CopyKeywords, CopyOptions
from ..engine.threads import enough_memory
from ..errors import UsageError
from ..model.checkpoints import describe_backup, order_by_checkpoint
from ..model.extents import Extents, Run
from ..model.growth import check_growth
from ..model.info import BackupInfo
from ..model.overlay import Overlay
from .discard import DiscardSink
from .part import Part, PartReader, keep_alive


@enough_memory()
def restore_chain(
    sources: Iterable[SourceLike],
    sink: SinkLike,
    *,
    verify_first: bool = False,
    **options: Unpack[CopyKeywords],
) -> CopyResult:
    """Restore a disk as it was at the last backup of a chain, and commit the sink.

    Every byte is written once, from the newest backup that has it. Every stream is read once, to
    its end. Streams on the same tape drive are read one after another, others side by side.
    Sources and sink stay open.

    Before anything is written, all extents are read. The backups must be one chain of one disk,
    and no stream may be cut, as far as that can be seen quickly. Damage inside a stream is found
    when it is read, and then the disk is not restored. After any error the sink is aborted.

    Args:
        sources: A full backup and all incremental ones up to the point in time to restore, open,
            in any order. Backups before a later full backup are not needed, and not read. If
            several are on one tape, each must be opened with the number of its tape file.
        sink: Where to write. If two streams are on the same tape drive, this cannot be a tar or a
            tape.
        verify_first: Read all streams twice: first to check every byte, and only then to write.
        **options: As for `copy`.

    Returns:
        What was done, as `copy` returns it: the disk is on stable storage.

    Raises:
        ChainError: The backups are not one chain of one disk. Nothing was written.
        UsageError: An argument cannot work: with `verify_first` all sources must be readable
            twice, which a pipe is not. Nothing was written.
        TapestreamError: A stream is damaged, or the copy failed; the message names the backup.
    """
    sink, cancel = sink_of(sink), options.get("cancel")
    check_cancel(cancel)
    with (
        running(sink, cancel=cancel) as run,
        aborted_on_error(sink, run),
        ExitStack() as stack,
    ):
        run.check()
        stack.enter_context(stopping(run, cancel))
        flag("verify_first", verify_first)
        checked = CopyOptions.of(options)
        given = _given(sources)
        run.use(*given)
        stack.enter_context(keep_alive_during(*given, sink, run=run))
        chain = _Chain(given, run)
        if sink.sequential or checked.block_hash:
            require_disk_order(chain)
        if verify_first:
            chain.verify(replace(checked, block_hash=False, progress=None), run)
        return transfer(chain, sink, checked, run)


@enough_memory()
def merge_chain(sources: Iterable[SourceLike], *, cancel: Cancel | None = None) -> Source:
    """Merge a chain of backups into one source: a synthetic full backup, as of the last of them.

    It is a full backup, and the next incremental one may start from it. A copy reads all streams
    side by side, each once to its end, and checks them. Closing it leaves the sources open.

    Args:
        sources: A full backup and the incremental ones up to a point in time, in any order.
        cancel: Ends this call, which reads the extents. It does not end a copy of the source that
            is returned: pass it to `copy`, too.

    Returns:
        A source for one copy, into any sink; into a tar or a tape, only if no two of the sources
        are on the same tape drive.

    Raises:
        ChainError: The backups are not one chain of one disk.
        OperationCancelledError: It was cancelled.
        TapestreamError: The extents of one cannot be read, or a stream was cut.
    """
    check_cancel(cancel)
    with running(cancel=cancel) as run, cancel_wins(run), stopping(run, cancel):
        run.check()
        given = _given(sources)
        run.use(*given)
        return _Chain(given, run)


def _given(sources: Iterable[SourceLike]) -> list[SourceLike]:
    if not isinstance(sources, Iterable):
        raise UsageError(f"a chain is a list of sources, not a {type(sources).__name__}")
    given = [source_of(source) for source in sources]
    if len({id(source) for source in given}) < len(given):
        raise UsageError("one source was given twice", hint="Open each backup of the chain once.")
    return given


class _Chain(Source):
    """The disk as the last backup of a chain left it.

    Its streams are read side by side. If two of them are on the same tape drive, they are read one
    after another instead, and so not in the order of the disk.

    Args:
        given: The sources, in any order.
        run: The operation in which their extents are read.
    """

    def __init__(self, given: Sequence[SourceLike], run: Running) -> None:
        parts = [_part(given[i], run) for i in _order(given)]
        # Put them in order again: reading its extents may have shown that an incremental backup
        # became a full one.
        self._parts = [parts[i] for i in _order([part.source for part in parts])]
        layers = [part.extents for part in self._parts]
        check_growth([_named(part.source) for part in self._parts], layers)
        self._overlay = Overlay(layers)
        devices = Counter(filter(None, (device_of(part.source) for part in self._parts)))
        self._in_turn = any(count > 1 for count in devices.values())

    @property
    @override
    def info(self) -> BackupInfo:
        """The info of the last backup, as that of a full backup."""
        last = self._parts[-1].info
        return replace(last, context="zero", parent_checkpoint_id=None, fallback=False)

    @property
    def digest_name(self) -> str | None:
        """Names of the digests of all streams; None if one has none."""
        return _all_of(digest_name_of(part.source) for part in self._parts)

    @property
    @override
    def max_readers(self) -> int:
        return 1 if self._in_turn else min(part.source.max_readers for part in self._parts)

    @property
    @override
    def sequential(self) -> bool:
        return self._in_turn or any(part.source.sequential for part in self._parts)

    @property
    def server_is_local(self) -> bool:
        """True if one of the sources has a server on this host."""
        return any(server_is_local(part.source) for part in self._parts)

    @property
    def device(self) -> str | None:
        """The first device that one of the sources holds."""
        return next(filter(None, (device_of(part.source) for part in self._parts)), None)

    @override
    def extents(self) -> Extents:
        return self._overlay.extents

    def read_order(self) -> Sequence[Iterable[Run]] | None:
        """One backup after another, if two are on the same drive."""
        if not self._in_turn:
            return None
        return [self._overlay.provided_by(layer) for layer in range(len(self._parts))]

    def verify(self, options: CopyOptions, run: Running) -> None:
        """Read all streams once, to check every byte.

        Raises:
            UsageError: One of them can be read only once. Nothing was read.
        """
        self.rewind()
        for part in self._parts:
            with part.naming:
                transfer(part.source, DiscardSink(), options, run)
            part.rewind()

    def rewind(self) -> None:
        """Rewind all sources."""
        for part in self._parts:
            part.rewind()

    @override
    def open_reader(self) -> Reader:
        uses(*(part.source for part in self._parts))
        for part in self._parts:
            part.begin()
        return (_InTurn if self._in_turn else _SideBySide)(self._parts, self._overlay)

    def finish(self) -> str | None:
        """Finish all sources. One that was not needed is read now, to find damage in it."""
        return _all_of([part.finish() for part in self._parts])

    def cancel(self) -> None:
        """Cancel all sources."""
        for part in self._parts:
            part.cancel()

    def keep_alive(self) -> None:
        """Keep all sources alive."""
        for part in self._parts:
            keep_alive(part.source)

    @override
    def close(self) -> None:
        """Do nothing: the caller closes the sources."""


class _SideBySide(Reader):
    """Reads every stretch from the layer that provides it. All layers are open."""

    def __init__(self, parts: Sequence[Part], overlay: Overlay) -> None:
        self._overlay = overlay
        with ExitStack() as stack:
            self._readers: list[PartReader] = []
            for part in parts:
                self._readers.append(part.open())
                stack.callback(self._readers[-1].close)
            self._open = stack.pop_all()

    @override
    def readinto(self, start: int, buffer: memoryview) -> None:
        for run in self._overlay.data_within(start, start + len(buffer)):
            offset = run.start - start
            reader = self._readers[run.layer]
            reader.prefetch(run.start, run.length)
            reader.readinto(run.start, buffer[offset : offset + run.length])

    def cancel(self) -> None:
        """Cancel all readers."""
        for reader in self._readers:
            reader.cancel()

    @override
    def close(self) -> None:
        self._open.close()


class _InTurn(Reader):
    """Reads one layer after another, from the oldest on. One is open at a time."""

    prefetch_depth = 1

    def __init__(self, parts: Sequence[Part], overlay: Overlay) -> None:
        self._parts = parts
        self._overlay = overlay
        self._layer = 0  # the layers before it are finished
        self._reader: PartReader | None = None
        self._is_cancelled = False

    def prefetch(self, start: int, length: int) -> None:
        """Open the layer that has this range. A range is never spread over two layers."""
        layer = self._overlay.layer_at(start)
        if layer < self._layer:
            raise _out_of_turn(start)
        reader = self._reader
        if layer > self._layer or reader is None:
            reader = self._open(layer)
        reader.prefetch(start, length)

    @override
    def readinto(self, start: int, buffer: memoryview) -> None:
        if self._reader is None:  # nothing was announced
            raise _out_of_turn(start)
        self._reader.readinto(start, buffer)

    def cancel(self) -> None:
        """Cancel the open reader, and the one that is opened next."""
        self._is_cancelled = True
        reader = self._reader  # another thread may close it and set it to None meanwhile
        if reader is not None:
            reader.cancel()
        for part in self._parts:  # one may be waiting for the drive, or reading its rest
            part.cancel()

    @override
    def close(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def _open(self, layer: int) -> PartReader:
        """Finish all layers before this one, and open it."""
        self.close()
        while self._layer < layer:
            self._parts[self._layer].finish()
            self._layer += 1
        self._reader = reader = self._parts[layer].open()
        if self._is_cancelled:  # it was cancelled while there was no reader
            reader.cancel()
        return reader


def _out_of_turn(start: int) -> UsageError:
    return UsageError(
        f"the backups are read one after another, and it is not the turn of offset {start}",
        hint="A source that wraps another must forward its read_order(), and its readers' "
        "prefetch().",
    )


def _order(sources: Sequence[SourceLike]) -> list[int]:
    """The order of a chain, from its last full backup on: indexes, oldest first."""
    return order_by_checkpoint([info_of(s) for s in sources], [place_of(s) for s in sources])


def _part(source: SourceLike, run: Running) -> Part:
    run.check()
    part = Part(source, describe_backup(info_of(source)))
    part.check_end()
    return part


def _named(source: SourceLike) -> str:
    return describe_backup(info_of(source), place_of(source))


def _all_of(names: Iterable[str | None]) -> str | None:
    """The names of the digests of all backups, separated by commas; None if one has none."""
    known = set(names)
    return None if None in known else ", ".join(sorted(filter(None, known)))
