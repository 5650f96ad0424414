"""Moves data from a source to a sink, with new readers and writers each time."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import NamedTuple

from ..backend.abilities import Digests, Hash, HasShapes, ability
from ..backend.checks import (
    coalesce_zeros,
    is_streaming,
    piece_size,
    reader_of,
    server_of,
    shapes_of,
    writer_of,
)
from ..backend.protocols import Reader, SinkLike, SourceLike, Writer
from ..backend.running import Running
from ..model.extents import Run
from .buffers import BufferPool
from .learning.gap import AutoGap, Limits
from .learning.learner import Learner
from .learning.memory import MEMORY
from .learning.shape import AutoShape, KnownShape, is_too_small, usable
from .learning.writes import LearningWriter
from .options import REQUEST_SIZE, CopyOptions
from .pipeline import Pipeline
from .plan import plan_requests
from .queue import Counts
from .rate import Pace, PacedReader, PacedWriter
from .threads import logged


class Mover(NamedTuple):
    """Moves data from a source to a sink.

    Args:
        src: The source.
        dst: The sink, after its `begin`.
        pool: The buffers for the data.
        readers: How many readers to open.
        writers: How many writers to open.
        gap: Which gaps to read through.
        pace: Limits the rate of readers and writers; None for no limit.
        run: The copy that this is part of.
    """

    src: SourceLike
    dst: SinkLike
    pool: BufferPool
    readers: int
    writers: int
    gap: Limits | AutoGap
    pace: Pace | None
    run: Running

    @classmethod
    def of(
        cls,
        src: SourceLike,
        dst: SinkLike,
        options: CopyOptions,
        pool: BufferPool,
        run: Running,
        *,
        pace: Pace | None,
    ) -> Mover:
        """Make one with as many readers and writers as the options, source and sink allow."""
        readers, writers = options.readers(src), options.writers(dst)
        gap = options.gap(src, readers, pace)
        return cls(src, dst, pool, readers, writers, gap, pace, run)

    def move(
        self,
        passes: Iterable[Iterable[Run]],
        *,
        new_hash: Callable[[], Hash | None] | None = None,
        progress: Callable[[int], None] = lambda _: None,
        watch: Callable[[int, float], None] = lambda *_: None,
        total: int = 0,
    ) -> Counts:
        """Move the data and zeros of these passes, one after another; see `Pipeline`.

        `total` is the number of bytes of data in them: it bounds what trials may cost.
        """
        dst = self.dst
        digests, piece = ability(dst, Digests), piece_size(dst)
        request_size = REQUEST_SIZE if self.pace is None else self.pace.size
        readers: list[Reader] = []
        writers: list[Writer] = []
        with _closed(readers), _closed(writers):
            while len(readers) < self.readers:
                readers.append(reader_of(self.src))
                if self.pace is not None:
                    readers[-1] = PacedReader(readers[-1], self.pace, piece)
            while len(writers) < self.writers:
                writers.append(writer_of(dst))
                # After a stall, a stream may get its data in a burst: a tape drive should not stop.
                if self.pace is not None and not dst.sequential:
                    writers[-1] = PacedWriter(writers[-1], self.pace)
            shape = self._shape(readers[0], self.readers, self._read_from, total)
            written = self._shape(writers[0], self.writers, self._written_to, total)
            if written is not None:
                writers[:] = [_learning(each, written) for each in writers]
            learner = Learner(self.gap, shape)
            plan = chain.from_iterable(
                plan_requests(
                    runs,
                    segment_size=digests.segment_size if digests else None,
                    request_size=request_size,
                    buffer_size=self.pool.size,
                    limits=learner.limits,
                    piece_size=piece,
                )
                for runs in passes
            )
            pipeline = Pipeline(
                ordered=dst.sequential,
                streaming=is_streaming(dst),
                coalesce_zeros=coalesce_zeros(dst),
                new_hash=new_hash,
                observe=learner.observe,
                progress=progress,
                watch=watch,
            )
            counts = pipeline.run(plan, readers, writers, self.pool, self.run)
        self._remember(shape, written)
        return counts

    def _remember(self, shape: AutoShape | None, written: AutoShape | None) -> None:
        """Keep what was learnt for the next disk of this server."""
        server = server_of(self.src)
        if server is not None and isinstance(self.gap, AutoGap):
            MEMORY.remember(server, self.gap.known())
        for place, learnt in ((self._read_from, shape), (self._written_to, written)):
            if place is not None and learnt is not None:
                MEMORY.remember(place, learnt.known())

    @property
    def _read_from(self) -> Hashable | None:
        """Names the server of the source; None if there is none."""
        return server_of(self.src)

    @property
    def _written_to(self) -> Hashable | None:
        """Names the server of the sink: what it gets may need another shape than what it sends."""
        server = server_of(self.dst)
        return None if server is None else ("written", server)

    def _shape(
        self, worker: Reader | Writer, workers: int, server: Hashable | None, total: int
    ) -> AutoShape | None:
        """Learns how to make requests; None if there is nothing to learn.

        At a limited rate, requests are small, and any shape is fast enough.

        Args:
            worker: One of the readers, or of the writers.
            workers: How many there are.
            server: Names what they use.
            total: Bytes of data that will be moved.
        """
        has_shapes = None if self.pace else ability(worker, HasShapes)
        if has_shapes is None:
            return None
        shapes = shapes_of(has_shapes, workers)
        known = usable(MEMORY.recall(server, KnownShape), shapes)
        if known is None and is_too_small(total, workers):
            return None
        return AutoShape(shapes, workers, total, known)


def _learning(writer: Writer, learnt: AutoShape) -> Writer:
    """The writer, in the shape that is due; as it is if it has no shapes."""
    has_shapes = ability(writer, HasShapes)
    return writer if has_shapes is None else LearningWriter(writer, has_shapes, learnt)


@contextmanager
def _closed(workers: list[Reader] | list[Writer]) -> Iterator[None]:
    """Close all readers, or writers, at the end. An error in this does not hide an earlier one."""
    try:
        try:
            yield
            while workers:
                workers.pop().close()
        finally:
            _close_the_rest(workers)
    finally:
        _close_the_rest(workers)  # an interrupt may have come in the middle


def _close_the_rest(workers: list[Reader] | list[Writer]) -> None:
    while workers:
        with logged("a reader or writer could not be closed cleanly"):
            workers.pop().close()
