"""Calls sources and sinks, and checks that they keep their contract.

What a backend returns and what it reports about itself are checked at each use. A mistake in a
backend must not become a backup of garbage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar, cast

from .._log import Log
from ..errors import BackendError, ExtentsError, UsageError
from ..model.extents import Extents, Kind, Run
from ..model.info import BackupInfo
from .abilities import (
    ChecksItself,
    CoalescesZeros,
    Digests,
    FindsMissing,
    HasDigests,
    Hash,
    HasLocalServer,
    HasPieceSize,
    HasPlace,
    HasReadOrder,
    HasShapes,
    HoldsDevice,
    LendsMemory,
    LosesWrites,
    Prefetches,
    Rewinds,
    Shape,
    SkipsGaps,
    Streams,
    ability,
    has,
)
from .protocols import Reader, SinkLike, SourceLike, Writer

Core = TypeVar("Core")

log = Log("tapestream.copy")


def source_of(source: object) -> SourceLike:
    """Make sure that an object is a source, and not a path or a sink.

    Raises:
        UsageError: It is not a source.
    """
    return _core(source, SourceLike, "a source is needed to read from", "TarStreamSource(path)")


def sink_of(sink: object) -> SinkLike:
    """Make sure that an object is a sink, and not a path or a source.

    Raises:
        UsageError: It is not a sink.
    """
    return _core(sink, SinkLike, "a sink is needed to write to", "TarStreamSink(path)")


def reader_of(source: SourceLike) -> Reader:
    """Open a reader of a source.

    Raises:
        BackendError: What `open_reader` returned is not a reader.
    """
    return _opened(source, "open_reader", Reader)


def writer_of(sink: SinkLike) -> Writer:
    """Open a writer of a sink.

    Raises:
        BackendError: What `open_writer` returned is not a writer.
    """
    return _opened(sink, "open_writer", Writer)


def info_of(source: SourceLike) -> BackupInfo:
    """What a source says about its backup.

    Raises:
        BackendError: It is not a `BackupInfo`.
    """
    info: object = source.info
    if not isinstance(info, BackupInfo):
        raise _wrong(source, "info is", info, "a BackupInfo")
    return info


def extents_of(source: SourceLike) -> Extents:
    """Get the extents of a source, and check that they describe its disk.

    Raises:
        ExtentsError: They do not.
        BackendError: `extents` did not return a list.
    """
    try:
        listed: object = source.extents()
        if not isinstance(listed, Iterable):
            raise _wrong(source, "extents() returned", listed, "a list")
        info = info_of(source)
        extents = Extents.of(listed, context=info.context)
        if extents.size != info.size:
            raise ExtentsError(
                f"the extents cover {extents.size} bytes of a disk of {info.size} bytes"
            )
    except ExtentsError as e:
        e.add_context(place_of(source) or class_of(source))
        raise
    return extents


def check_unchanged(source: SourceLike, before: BackupInfo) -> None:
    """Make sure that a source still reports the size and the context that it had before the copy.

    Raises:
        BackendError: It reports something else.
    """
    now = info_of(source)
    for name in ("size", "context"):
        was, is_now = getattr(before, name), getattr(now, name)
        if was != is_now:
            raise BackendError(
                f"{class_of(source)}.info changed while it was read: {name} was {was}, "
                f"and is now {is_now}"
            )


def read_order(source: SourceLike, extents: Extents) -> Iterator[Iterable[Run]] | None:
    """The passes in which a source must be read; None for the order of the disk.

    Raises:
        BackendError: Together they do not read each byte of the disk once. This is raised only
            after the last pass.
    """
    ordered = ability(source, HasReadOrder)
    passes = None if ordered is None else ordered.read_order()
    return None if passes is None else _covered(ordered, passes, extents)


def _covered(
    source: object, passes: Sequence[Iterable[Run]], extents: Extents
) -> Iterator[Iterator[Run]]:
    """Yield a source's passes, and make sure that together they read each byte of the disk once.

    Raises:
        BackendError: They do not. This is raised only after the last pass.
    """
    # The sum adds a hash of each run's start and subtracts a hash of its end. Where two runs touch,
    # these cancel out. So the sum is the same however the same bytes are cut, and takes no memory.
    if not isinstance(passes, Sequence) or not all(isinstance(each, Iterable) for each in passes):
        raise _wrong(source, "read_order() returned", passes, "lists")
    name = f"{class_of(source)}.read_order()"
    left = sum(_border_sum(*run) for run in extents.runs() if run[2] is not Kind.CLEAN)

    def walk(runs: Iterable[Run]) -> Iterator[Run]:
        nonlocal left
        at = 0
        for run in runs:
            if not _is_run(run):
                raise _wrong(source, "read_order() has", run, "a run")
            start, length, kind = run
            if not at <= start <= start + length <= extents.size:
                raise BackendError(f"{name} is not in order at offset {start}")
            at = start + length
            if kind is not Kind.CLEAN:
                left -= _border_sum(start, length, kind)
            yield start, length, kind

    for runs in passes:
        yield walk(runs)
    if left:
        raise BackendError(f"{name} must have all data and all zeros, each byte once")


# A `match` statement would take 7 times as long, and there may be millions of runs.
def _is_run(run: object) -> bool:
    return (
        isinstance(run, tuple)
        and len(run) == 3
        and type(run[0]) is type(run[1]) is int
        and isinstance(run[2], Kind)
    )


def _border_sum(start: int, length: int, kind: Kind) -> int:
    return hash((start, kind)) - hash((start + length, kind))


def number_of(backend: object, name: str, *, least: int) -> int:
    """A number that a backend reports about itself.

    Raises:
        BackendError: It is not a whole number.
        UsageError: It is less than `least`.
    """
    value = getattr(backend, name)
    if type(value) is not int:
        raise _wrong(backend, f"{name} is", value, "a whole number")
    if value < least:
        raise UsageError(f"{class_of(backend)}.{name} is {value}: it must be at least {least}")
    return value


def missing_until(source: FindsMissing) -> int | None:
    """Offset before which no more data of a source comes; None if all of it comes.

    Raises:
        BackendError: It is neither.
    """
    value: object = source.missing_until
    if value is None or type(value) is int:
        return value
    raise BackendError(
        f"{class_of(source)}.missing_until is {_shown(value)}, not a whole number or None"
    )


def flag_of(backend: object | None, name: str) -> bool:
    """True or False, as a backend reports it. False if the backend is None: it lacks the ability.

    Raises:
        BackendError: It is neither, such as a method that was not called.
    """
    value = False if backend is None else getattr(backend, name)
    if not isinstance(value, bool):
        raise _wrong(backend, f"{name} is", value, "True or False")
    return value


def text_of(backend: object | None, name: str) -> str | None:
    """A name that a backend reports. None if the backend is None: it lacks the ability.

    Raises:
        BackendError: It is not a text.
    """
    value = None if backend is None else getattr(backend, name)
    if value is not None and not isinstance(value, str):
        raise _wrong(backend, f"{name} is", value, "a str or None")
    return value


def place_of(backend: SourceLike | SinkLike) -> str | None:
    """Where a source is read from, or a sink writes to; None if it does not say."""
    return text_of(ability(backend, HasPlace), "place")


def device_of(source: SourceLike) -> str | None:
    """Name of the device that a source holds; None if it holds none."""
    return text_of(ability(source, HoldsDevice), "device")


def digest_name_of(source: SourceLike) -> str | None:
    """Name of the digest that a source compares its data with; None for none."""
    return text_of(ability(source, HasDigests), "digest_name")


def server_is_local(backend: SourceLike | SinkLike) -> bool:
    """True if a server on this host reads the source, or writes the sink, for us."""
    return flag_of(ability(backend, HasLocalServer), "server_is_local")


def writes_to_server(sink: SinkLike) -> bool:
    """True if what is written to a sink goes to a server, on this host or another."""
    return ability(sink, HasLocalServer) is not None


def server_of(backend: SourceLike | SinkLike) -> tuple[str, bool] | None:
    """What all disks of a server have in common, to remember something about the server.

    Where it is, without a ticket, and if it is on this host. None if there is no server, or the
    source or sink does not say where it is.
    """
    place = place_of(backend)
    if place is None or ability(backend, HasLocalServer) is None:
        return None
    return place, server_is_local(backend)


def skips_gaps(source: SourceLike) -> bool:
    """True if nothing between the data of a source should be read."""
    return flag_of(ability(source, SkipsGaps), "skips_gaps")


def is_streaming(sink: SinkLike) -> bool:
    """True if a sink should not run out of data."""
    return flag_of(ability(sink, Streams), "streaming")


def coalesce_zeros(sink: SinkLike) -> int:
    """The longest run of zeros, in bytes, that a sink takes as data; 0 if it takes none."""
    coalesces = ability(sink, CoalescesZeros)
    return 0 if coalesces is None else number_of(coalesces, "coalesce_zeros", least=0)


def piece_size(sink: SinkLike) -> int:
    """Where data may be cut for a sink: at multiples of this many bytes; 1 for everywhere."""
    has = ability(sink, HasPieceSize)
    return 1 if has is None else number_of(has, "piece_size", least=1)


def check_piece_size(sink: SinkLike, buffer_size: int) -> None:
    """Make sure that a buffer holds a whole piece of a sink.

    Raises:
        UsageError: It does not.
    """
    size = piece_size(sink)
    if size > buffer_size:
        raise UsageError(
            f"{class_of(sink)}.piece_size is {size} bytes, but a buffer of this copy has only "
            f"{buffer_size}",
            hint="Pass a larger buffer_size, and a buffer_memory of at least two buffers. A "
            "max_rate also makes buffers smaller.",
        )


def check_sink(sink: SinkLike) -> None:
    """Check everything that a sink reports about itself, before anything is touched.

    Raises:
        BackendError: A value has the wrong type.
        UsageError: A number is too small, such as no writers at all.
    """
    number_of(sink, "max_writers", least=1)
    flag_of(sink, "sequential")
    server_is_local(sink)
    place_of(sink)
    coalesce_zeros(sink)
    piece_size(sink)
    is_streaming(sink)
    digests = ability(sink, Digests)
    if digests is not None:
        number_of(digests, "segment_size", least=1)
        text_of(digests, "digest_name")


def check_source(source: SourceLike) -> None:
    """Check everything that a source reports about itself, before anything is touched.

    Raises:
        BackendError: A value has the wrong type.
        UsageError: A number is too small, such as no readers at all.
    """
    number_of(source, "max_readers", least=1)
    flag_of(source, "sequential")
    for check in (server_is_local, skips_gaps, digest_name_of, device_of, place_of):
        check(source)


def rewind(source: SourceLike) -> None:
    """Make a source readable again.

    Raises:
        UsageError: It can be read only once.
    """
    rewinds = ability(source, Rewinds)
    if rewinds is None:
        raise UsageError(f"the {class_of(source)} can be read only once")
    rewinds.rewind()


def fill(reader: Reader, start: int, buffer: memoryview) -> None:
    """Let a reader fill a buffer, and take the buffer away from it.

    Raises:
        BackendError: It reports another number of bytes, or keeps the buffer.
    """
    _do_all(reader, "readinto", start, buffer, len(buffer))
    _take_back(reader, "readinto", start, buffer)


def write(writer: Writer, start: int, buffer: memoryview) -> None:
    """Let a writer write a buffer, and take the buffer away from it.

    Raises:
        BackendError: It reports another number of bytes, or keeps the buffer.
    """
    _do_all(writer, "write", start, buffer, len(buffer))
    _take_back(writer, "write", start, buffer)


def zero(writer: Writer, start: int, length: int) -> None:
    """Let a writer zero a stretch.

    Raises:
        BackendError: It reports another number of bytes.
    """
    _do_all(writer, "zero", start, length, length)


def memory_of(writer: LendsMemory, start: int, length: int) -> memoryview | None:
    """The memory that a writer lends for data of the disk; None if it lends none.

    Raises:
        BackendError: It cannot be written to, or has another length.
    """
    memory: object = writer.memory(start, length)
    if memory is None:
        return None
    if not isinstance(memory, memoryview) or memory.readonly or memory.format != "B":
        raise _wrong(writer, "memory() returned", memory, "writable bytes, or None")
    if len(memory) != length:
        raise _wrong(writer, "memory() returned bytes:", len(memory), str(length))
    return memory


def shapes_of(worker: HasShapes, workers: int) -> Sequence[Shape]:
    """The shapes of the requests of a reader or a writer, checked.

    Raises:
        BackendError: There is none, or one of them is no shape.
    """
    shapes: object = worker.shapes(workers)
    if (
        not isinstance(shapes, Sequence)
        or not shapes
        or not all(isinstance(each, Shape) for each in shapes)
        or not all(type(number) is int and number > 0 for each in shapes for number in each)
    ):
        needed = "at least one Shape of whole numbers, 1 or more"
        raise _wrong(worker, "shapes() returned", shapes, needed)
    return shapes


def done(backend: object, name: str, *args: object) -> object:
    """Call a method that must have done its work when it returns.

    So it must not return an awaitable: that has not even begun.

    Returns:
        What it returned.

    Raises:
        BackendError: It returned an awaitable, or False.
    """
    returned: object = getattr(backend, name)(*args)
    if returned is False or hasattr(returned, "__await__"):
        raise _wrong(backend, f"{name}() returned", returned, "None")
    return returned


def lost_of(sink: SinkLike) -> list[tuple[int, int]]:
    """The ranges that a sink has lost, and that must be written again; see `LosesWrites`.

    Raises:
        BackendError: The sink did not return ordered ranges of a disk.
    """
    loses = ability(sink, LosesWrites)
    lost: object = () if loses is None else loses.lost()
    at = -1
    if not isinstance(lost, Sequence):
        raise _wrong(loses, "lost() returned", lost, "a list")
    for each in lost:
        if not isinstance(each, tuple) or len(each) != 2 or not at < each[0] < each[1]:
            raise BackendError(f"{class_of(loses)}.lost() must return ordered (start, end) ranges")
        at = each[1]
    return list(lost)


def finish(source: SourceLike) -> str | None:
    """Let a source check what can only be checked at the end.

    Returns:
        Name of the digest that it compared all data with; None for none.

    Raises:
        BackendError: It returned something else.
    """
    checks = ability(source, ChecksItself)
    confirmed: object = None if checks is None else checks.finish()
    if confirmed is not None and not isinstance(confirmed, str):
        needed = "the name of the digest that it compared all data with, or None"
        raise _wrong(checks, "finish() returned", confirmed, needed)
    digest_name = digest_name_of(source)
    if confirmed is None and digest_name is not None:
        log.warning(
            "%s says that its data has %s digests, but its finish() compared none: a source that "
            "wraps another must return what finish() of the other returned",
            class_of(source),
            digest_name,
        )
    return confirmed


def new_hash_of(sink: SinkLike) -> Callable[[], Hash | None] | None:
    """A function that makes a hash for each segment; None if the sink records no digests.

    The function raises a `BackendError` if the sink's hash is not a hash.
    """
    digests = ability(sink, Digests)
    if digests is None or digests.digest_name is None:
        return None

    def new_hash() -> Hash | None:
        made = digests.new_hash()
        methods = (getattr(made, name, None) for name in ("update", "digest"))
        if made is not None and not all(map(callable, methods)):
            raise _wrong(digests, "new_hash() returned", made, "a hash with update() and digest()")
        return made

    return new_hash


def class_of(backend: object) -> str:
    """The name of a backend's class, for errors. Its `repr` may contain a transfer URL."""
    return type(backend).__qualname__


# `Callable`, not `type[Core]`: a type checker would refuse a protocol there.
def _opened(backend: object, name: str, protocol: Callable[..., Core]) -> Core:
    opened: object = None
    try:
        opened = getattr(backend, name)()
        missing = _missing(opened, protocol)
        if missing:
            raise BackendError(
                f"{class_of(backend)}.{name}() returned {_shown(opened)}, which has no "
                f"{' and no '.join(missing)}"
            )
        prefetches = ability(opened, Prefetches)
        if prefetches is not None:
            number_of(prefetches, "prefetch_depth", least=1)
        return cast("Core", opened)
    except BaseException:  # an interrupt, too: nobody else can close it yet
        close = getattr(opened, "close", None)
        if close is not None:
            close()
        raise


def _core(backend: object, protocol: Callable[..., Core], needed: str, example: str) -> Core:
    hint = f"For example: {example}."
    if isinstance(backend, type):
        raise UsageError(f"{needed}, not the class {backend.__qualname__} itself", hint=hint)
    missing = _missing(backend, protocol)
    if {"open_reader", "open_writer"}.intersection(missing):
        raise UsageError(f"{needed}, not a {class_of(backend)}", hint=hint)
    if missing:
        raise UsageError(
            f"{needed}, but {class_of(backend)} has no {' and no '.join(missing)}",
            hint="docs/own-backend.md says what a source and a sink must have.",
        )
    return cast("Core", backend)


def _missing(backend: object, protocol: object) -> list[str]:
    """The members of the core that this backend does not have."""
    core: Iterable[str] = protocol.__abstractmethods__  # type: ignore[attr-defined]
    return [name for name in sorted(core) if not has(backend, name)]


def _do_all(backend: object, name: str, start: int, what: object, length: int) -> None:
    """Call a method that must do all of its work, and may say how many bytes that was."""
    count: object = getattr(backend, name)(start, what)
    if count is not None and (type(count) is not int or count != length):
        raise BackendError(
            f"{class_of(backend)}.{name}() at offset {start} returned {_shown(count)} for {length} "
            "bytes: it must do all of it, or raise an error, and return None"
        )


def _take_back(backend: object, name: str, start: int, buffer: memoryview) -> None:
    try:
        buffer.release()
    except BufferError:
        raise BackendError(
            f"{class_of(backend)}.{name}() at offset {start} still uses its buffer after it "
            "returned: the buffer is used again for other data"
        ) from None


def _wrong(backend: object, what: str, value: object, needed: str) -> BackendError:
    return BackendError(f"{class_of(backend)}.{what} {_shown(value)}, not {needed}")


def _shown(value: object) -> str:
    """A value for an error text. Most values appear only as their type: their text may be a URL."""
    is_plain = value is None or type(value) in (int, float, bool)
    return repr(value) if is_plain else f"a {type(value).__qualname__}"
