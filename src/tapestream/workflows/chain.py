"""A full backup and the incremental ones that change it: restored as one, or made one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace

from typing_extensions import Unpack

from ..arguments import flag
from ..backend.abilities import ChecksEnd, KeepsAlive, Prefetches, ability, cancel
from ..backend.checks import (
    check_source,
    check_unchanged,
    device_of,
    digest_name_of,
    extents_of,
    fill,
    finish,
    info_of,
    place_of,
    reader_of,
    rewind,
    server_is_local,
    sink_of,
    source_of,
)
from ..backend.protocols import Reader, Sink, Source
from ..backend.running import Running, running, uses
from ..engine.copy import (
    CopyResult,
    aborted_on_error,
    require_disk_order,
    transfer,
)
from ..engine.keepalive import keep_alive_during
from ..engine.options import CopyKeywords, CopyOptions
from ..engine.threads import enough_memory
from ..errors import ChainError, TapestreamError, UsageError
from ..model.checkpoints import describe_backup, order_by_checkpoint
from ..model.extents import Extent, Extents, Kind, Run
from ..model.info import BackupInfo
from ..model.overlay import Overlay
from .discard import DiscardSink

# Of qcow2, in bytes.
LARGEST_CLUSTER = 2 * 1024**2
# In bytes: changes are never reported in smaller units.
SECTOR = 512


@enough_memory()
def restore_chain(
    sources: Iterable[Source],
    sink: Sink,
    *,
    verify_first: bool = False,
    **options: Unpack[CopyKeywords],
) -> CopyResult:
    """Restore a disk as it was at the last of a chain of backups, and commit the sink.

    Every byte is written once, from the newest backup that has it; every stream is read once,
    to its end. Streams on the same tape drive are read one after another, others side by side.
    Sources and sink stay open.

    Before anything is written, all extents are read, and it is checked that the backups are one
    chain of one disk, and, where that is quickly told, that no stream was cut. Damage inside a
    stream shows when it is read, and then the disk is not restored. After any error the sink is
    aborted.

    Args:
        sources: A full backup and all incremental ones up to the point in time to restore, open,
            in any order. What a later full backup makes superfluous is left alone. Of several on
            one tape, each needs the number of its tape file.
        sink: Where to write; any but a tar or a tape also takes streams of the same tape drive.
        verify_first: Read all streams twice: first to check every byte, and only then to write.
        **options: As for `copy`.

    Returns:
        What was done, as of `copy`: the disk is on stable storage.

    Raises:
        ChainError: The backups are not one chain of one disk. Nothing was written.
        UsageError: An argument cannot work: with `verify_first` all sources must be readable
            twice, which a pipe is not. Nothing was written.
        TapestreamError: A stream is damaged, or the copy failed; the message names the backup.
    """
    sink = sink_of(sink)
    with running(sink) as run, aborted_on_error(sink, run), ExitStack() as stack:
        flag("verify_first", verify_first)
        checked = CopyOptions.of(options)
        given = _given(sources)
        run.use(*given)
        stack.enter_context(keep_alive_during(*given, sink, run=run))
        chain = _Chain(given)
        if sink.sequential or checked.block_hash:
            require_disk_order(chain)
        if verify_first:
            chain.verify(replace(checked, block_hash=False, progress=None), run)
        return transfer(chain, sink, checked, run)


@enough_memory()
def merge_chain(sources: Iterable[Source]) -> Source:
    """Make a chain of backups one source: a synthetic full backup, as of the last of them.

    It is in itself a full backup, and later incremental ones go on from it. A copy reads every
    stream once, to its end, side by side, and checks it. Closing it leaves the sources open.

    Args:
        sources: A full backup and the incremental ones up to a point in time, in any order.

    Returns:
        A source for one copy, into any sink; into a tar or a tape, only if no two of the sources
        are on the same tape drive.

    Raises:
        ChainError: The backups are not one chain of one disk.
        TapestreamError: The extents of one cannot be read, or a stream was cut.
    """
    return _Chain(_given(sources))


def _given(sources: Iterable[Source]) -> list[Source]:
    if not isinstance(sources, Iterable):
        raise UsageError(f"a chain is a list of sources, not a {type(sources).__name__}")
    given = [source_of(source) for source in sources]
    if len({id(source) for source in given}) < len(given):
        raise UsageError("one source was given twice", hint="Open each backup of the chain once.")
    return given


class _Chain(Source):
    """The disk as the last backup of a chain left it."""

    def __init__(self, given: list[Source]) -> None:
        infos = [_complete_info(source) for source in given]
        places = [place_of(source) for source in given]
        order = order_by_checkpoint(infos, places)
        self._sources = [given[i] for i in order]
        self._infos = [infos[i] for i in order]
        names = [describe_backup(infos[i], places[i]) for i in order]
        extents = [_examine(source) for source in self._sources]
        _check_sizes(names, extents)
        self.overlay = Overlay(extents)
        devices = Counter(filter(None, map(device_of, self._sources)))
        self._in_turn = any(count > 1 for count in devices.values())
        self._one_by_one: _OneByOne | None = None

    @property
    def info(self) -> BackupInfo:
        """That of the last backup, as a full one."""
        return replace(self._infos[-1], context="zero", parent_checkpoint_id=None, fallback=False)

    @property
    def digest_name(self) -> str | None:
        """Those of all the streams; None if one has none."""
        return _all_of(map(digest_name_of, self._sources))

    @property
    def max_readers(self) -> int:
        """See `Source.max_readers`."""
        return 1 if self._in_turn else min(source.max_readers for source in self._sources)

    @property
    def sequential(self) -> bool:
        """See `Source.sequential`."""
        return self._in_turn or any(source.sequential for source in self._sources)

    @property
    def server_is_local(self) -> bool:
        """True if that of one source is."""
        return any(map(server_is_local, self._sources))

    @property
    def device(self) -> str | None:
        """The first that one of the sources holds."""
        return next(filter(None, map(device_of, self._sources)), None)

    def extents(self) -> Extents:
        """See `Source.extents`."""
        return self.overlay.extents

    def read_order(self) -> Sequence[Iterable[Run]] | None:
        """One backup after another, if two are on the same drive."""
        if not self._in_turn:
            return None
        return [self.overlay.provided_by(layer) for layer in range(len(self._sources))]

    def verify(self, options: CopyOptions, run: Running) -> None:
        """Read all streams once, to check every byte.

        Raises:
            UsageError: One can be read only once; none was read.
        """
        self.rewind()
        for source in self._sources:
            with _naming(source):
                transfer(source, DiscardSink(), options, run)
            rewind(source)

    def rewind(self) -> None:
        """Rewind all sources."""
        self._one_by_one = None
        for source in self._sources:
            rewind(source)

    def open_reader(self) -> Reader:
        """See `Source.open_reader`."""
        uses(*self._sources)
        if not self._in_turn:
            return _SideBySide(self._sources, self.overlay)
        self._one_by_one = _OneByOne(self._sources, self.overlay)
        return self._one_by_one

    def finish(self) -> str | None:
        """Finish all sources; also read streams that no data was needed of, to find damage."""
        confirmed = list(self._one_by_one.confirmed) if self._one_by_one else []
        opened = self._one_by_one.opened if self._one_by_one else len(self._sources)
        for layer, source in enumerate(self._sources[len(confirmed) :], len(confirmed)):
            with _naming(source):
                if layer >= opened:
                    reader_of(source).close()
                confirmed.append(finish(source))
        for source, info in zip(self._sources, self._infos, strict=True):
            check_unchanged(source, info)
        return _all_of(confirmed)

    def cancel(self) -> None:
        """Cancel all sources."""
        for source in self._sources:
            cancel(source)

    def keep_alive(self) -> None:
        """Keep all sources alive."""
        for source in self._sources:
            keeps = ability(source, KeepsAlive)
            if keeps is not None:
                keeps.keep_alive()

    def close(self) -> None:
        """See `Source.close`: the sources are the caller's."""


class _SideBySide(Reader):
    """Reads every stretch from the layer that tells it; all layers are open."""

    def __init__(self, sources: Sequence[Source], overlay: Overlay) -> None:
        self._sources = sources
        self._overlay = overlay
        with ExitStack() as stack:
            self._readers = []
            for source in sources:
                self._readers.append(reader_of(source))
                stack.callback(self._readers[-1].close)
            self._prefetches = [ability(reader, Prefetches) for reader in self._readers]
            self._open = stack.pop_all()

    def readinto(self, start: int, buffer: memoryview) -> None:
        """See `Reader.readinto`."""
        for run in self._overlay.data_within(start, start + len(buffer)):
            reader, prefetches = self._readers[run.layer], self._prefetches[run.layer]
            offset = run.start - start
            with _naming(self._sources[run.layer]):
                if prefetches is not None:
                    prefetches.prefetch(run.start, run.length)
                fill(reader, run.start, buffer[offset : offset + run.length])

    def cancel(self) -> None:
        """Cancel all readers."""
        for reader in self._readers:
            cancel(reader)

    def close(self) -> None:
        """See `Reader.close`."""
        self._open.close()


class _OneByOne(Reader):
    """Reads one layer after another, from the oldest on; one is open at a time.

    Attributes:
        opened: How many were opened.
        confirmed: Which digest each of those that were read to their end compared its data with.
    """

    prefetch_depth = 1

    def __init__(self, sources: Sequence[Source], overlay: Overlay) -> None:
        self._sources = sources
        self._overlay = overlay
        self._reader: Reader | None = None
        self._prefetches: Prefetches | None = None
        self._cancelled = False
        self.opened = 0
        self.confirmed: list[str | None] = []

    def prefetch(self, start: int, length: int) -> None:
        """Open the backup that has this range: always a single one."""
        layer = self._overlay.layer_at(start)
        while self.opened <= layer:
            self._next()
        if layer != self.opened - 1 or self._reader is None:
            raise UsageError(
                f"the backups are read one after another: asked for offset {start} of a backup "
                "that was before",
                hint="A source that wraps another must have its read_order(), too.",
            )
        if self._prefetches is not None:
            self._prefetches.prefetch(start, length)

    def readinto(self, start: int, buffer: memoryview) -> None:
        """See `Reader.readinto`."""
        assert self._reader is not None
        with _naming(self._sources[self.opened - 1]):
            fill(self._reader, start, buffer[:])

    def cancel(self) -> None:
        """Cancel what is open, and what comes."""
        self._cancelled = True
        reader = self._reader  # another thread may close it meanwhile
        if reader is not None:
            cancel(reader)
        for source in self._sources:  # one may wait for the drive, or read its rest
            cancel(source)

    def close(self) -> None:
        """See `Reader.close`."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def _next(self) -> None:
        self.close()
        if self.opened:
            with _naming(self._sources[self.opened - 1]):
                self.confirmed.append(finish(self._sources[self.opened - 1]))
        with _naming(self._sources[self.opened]):
            self._reader = reader_of(self._sources[self.opened])
        self._prefetches = ability(self._reader, Prefetches)
        self.opened += 1
        if self._cancelled:  # while there was no reader to cancel
            cancel(self._reader)


class _naming:  # noqa: N801 - a context manager, called for every piece of data
    """Tell of which backup of the chain an error is."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def __enter__(self) -> None:
        pass

    def __exit__(self, exc_type: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, TapestreamError):
            error.tell_where(describe_backup(self._source.info))


def _complete_info(source: Source) -> BackupInfo:
    """What a source says of its backup, if need be only after its extents."""
    if not info_of(source).size:
        with _naming(source):
            source.extents()
    return info_of(source)


def _examine(source: Source) -> Extents:
    """Read the extents of one backup, and see if it can be part of a chain."""
    check_source(source)
    with _naming(source):
        extents = extents_of(source)
        require_disk_order(source)
        checks = ability(source, ChecksEnd)
        if checks is not None:
            checks.check_complete()
    return extents


def _all_of(names: Iterable[str | None]) -> str | None:
    """The digests of all backups, in words; None where one has none."""
    known = set(names)
    return None if None in known else ", ".join(sorted(filter(None, known)))


def _check_sizes(names: Sequence[str], extents: Sequence[Extents]) -> None:
    """Make sure that what the disk has grown by, from one backup to the next, is known."""
    for i in range(1, len(names)):
        before, now = extents[i - 1].size, extents[i].size
        if now < before:
            raise ChainError(
                f"the disk of {names[i - 1]} has {before} bytes, that of {names[i]} only {now}: "
                "a disk does not shrink",
                hint="They are of two disks, or one of them is not what its name says: restore "
                "the older backup alone.",
            )
        behind = _behind(extents[i], before)
        if any(_is_unknown(extent, extents[i], before) for extent in behind):
            raise ChainError(
                f"the disk had grown to {now} bytes by {names[i]}, which leaves out data "
                f"after the {before} bytes of the backup before it, {names[i - 1]}",
                hint="Restore the backup before it, and start a new chain with a full backup.",
            )


def _behind(extents: Extents, start: int) -> Iterator[Extent]:
    """The extents that end after an offset, last first."""
    for i in reversed(range(len(extents))):
        extent = extents[i]
        if extent.start + extent.length <= start:
            return
        yield extent


def _is_unknown(extent: Extent, extents: Extents, old_end: int) -> bool:
    """Whether an extent after the old end of the disk has data that no backup has.

    What was never written there reads as zeros. It is reported as data where it is in a cluster
    with what was written, or with the old end: the whole cluster is allocated.
    """
    if extent.zero or extent.dirty:
        return False
    start, end = extent.start, extent.start + extent.length
    if start < old_end:
        first = old_end + -old_end % LARGEST_CLUSTER
    elif start % SECTOR or (end % SECTOR and end != extents.size):
        return True
    else:
        first = start - start % LARGEST_CLUSTER
    return not all(_was_written(extents, at) for at in range(first, end, LARGEST_CLUSTER))


def _was_written(extents: Extents, cluster: int) -> bool:
    return any(
        kind is not Kind.CLEAN for _, _, kind in extents.within(cluster, cluster + LARGEST_CLUSTER)
    )
