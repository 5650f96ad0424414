"""The options of copy(): checks them, and chooses readers, writers, gaps and buffers by them."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import Literal, TypedDict

from ..arguments import flag, number
from ..backend.checks import server_is_local, server_of, skips_gaps, writes_to_server
from ..backend.protocols import SinkLike, SourceLike
from ..cancel import Cancel, check_cancel
from ..errors import UsageError
from .buffers import BufferPool
from .learning.gap import NOTHING, OF_LOCAL, AutoGap, Known, Limits
from .learning.memory import MEMORY
from .progress import Progress, ReportsStatus, check_progress
from .rate import FASTEST, PAGE, Pace, RateLimit

MIB = 1024**2

# A request may be larger than a buffer: the server's cost per request is paid once, and the
# first bytes are written while the others arrive.
REQUEST_SIZE = 16 * MIB
# Smaller buffers pass more often from thread to thread. While a larger one is digested, nothing is
# received: over TLS, and on a slow line, that costs some per cent (measured: 0.25 to 4 MiB, on 2
# cores).
BUFFER_SIZE = 2 * MIB
# The size of buffers for a sink that writes to a server, unless the caller chooses another: a write
# is one request, and storage takes some time for each. Measured on 2 processors, restores from a
# tar, compared with 2 MiB: where the storage takes 10 ms for each write, 1.22 times as fast over a
# unix socket, and 1.18 times over TLS; on a local disk 1.02 and 1.09 times. 8 MiB were no faster
# than 4, and cost qemu-nbd almost three times as much.
SERVER_BUFFER_SIZE = 4 * MIB
# Enough for four readers with a request each, and as much again so that the writer may lag.
BUFFER_MEMORY = 128 * MIB
MAX_WORKERS = 4
# The fewest writers to a server on this host, when there is one for every two processors. Each
# chunk under way keeps a thread of the daemon busy. Measured on 2 processors, restores from a tar,
# compared with three writers, the most that imageio's limit allows: over a unix socket 1.06 and
# 1.11 times as fast, over TLS 1.02 and 1.05 times; a fragmented disk over a unix socket 1.04 and
# 0.87 times (two noisy runs). One writer was another 1.09 times as fast over a unix socket, and no
# faster over TLS. But where the storage takes 10 ms for each write, it was 1.7 times as slow as two
# (two rounds, on a busy machine).
LOCAL_WRITERS = 2


class CopyKeywords(TypedDict, total=False):
    """The options of `copy`, for the `**options` of functions that pass them on."""

    max_workers: int | None
    buffer_size: int
    buffer_memory: int
    max_gap: int | Literal["auto"]
    block_hash: bool
    progress: Progress | ReportsStatus | None
    max_rate: int | RateLimit | None
    cancel: Cancel | None


@dataclass(frozen=True)
class CopyOptions:
    """The options of `copy`, checked.

    Raises:
        UsageError: One of them cannot work.
    """

    max_workers: int | None = None
    buffer_size: int = BUFFER_SIZE
    buffer_memory: int = BUFFER_MEMORY
    max_gap: int | Literal["auto"] = "auto"
    block_hash: bool = False
    progress: Progress | ReportsStatus | None = None
    max_rate: int | RateLimit | None = None
    cancel: Cancel | None = None

    @classmethod
    def of(cls, options: CopyKeywords) -> CopyOptions:
        """Check the options that a function passes on."""
        unknown = sorted(set(options) - {field.name for field in fields(cls)})
        if unknown:
            raise UsageError(
                f"there is no option {unknown[0]!r}", hint="The options are those of copy()."
            )
        return cls(**options)

    def __post_init__(self) -> None:
        if self.max_workers is not None:
            number("max_workers", self.max_workers, least=1)
        number("buffer_size", self.buffer_size, least=PAGE, unit=PAGE)
        if number("buffer_memory", self.buffer_memory) < 2 * self.buffer_size:
            raise UsageError(
                f"buffer_memory must hold at least two buffers of {self.buffer_size} bytes, "
                f"not {self.buffer_memory!r} bytes"
            )
        if self.max_gap != "auto":
            number("max_gap, unless it is 'auto',", self.max_gap)
        flag("block_hash", self.block_hash)
        check_progress(self.progress)
        if self.max_rate is not None and not isinstance(self.max_rate, RateLimit):
            number("max_rate, unless it is a RateLimit,", self.max_rate, least=PAGE, most=FASTEST)
        check_cancel(self.cancel)

    def readers(self, src: SourceLike) -> int:
        """How many readers to open.

        Measured on 2 processors: two readers read a local file 1.7 times as fast as one, with or
        without digests. With a server on the same host, which needs a processor itself, the second
        reader costs more, in caches and thread switches, than it saves in waiting.
        """
        if src.sequential:
            return 1
        most = self.max_workers
        if most is None:
            most = min(max(1, _processors(shared=server_is_local(src))), MAX_WORKERS)
        return min(most, src.max_readers)

    def writers(self, dst: SinkLike) -> int:
        """How many writers to open. They wait for the other side more than they work."""
        if dst.sequential:
            return 1
        most = self.max_workers
        if most is None and server_is_local(dst):
            most = min(max(LOCAL_WRITERS, _processors(shared=True)), MAX_WORKERS)
        return min(most or MAX_WORKERS, dst.max_writers)

    def pace(self) -> Pace | None:
        """What limits the rate of a copy; None for nothing."""
        if self.max_rate is None:
            return None
        limit = self.max_rate if isinstance(self.max_rate, RateLimit) else RateLimit(self.max_rate)
        return Pace(limit, self.buffer_size)

    def gap(self, src: SourceLike, readers: int, pace: Pace | None) -> Limits | AutoGap:
        """Which gaps the requests read through."""
        size = REQUEST_SIZE if pace is None else pace.size
        if self.max_gap != "auto":
            return Limits(self.max_gap, size)
        if skips_gaps(src):
            return Limits(0, size)
        if src.sequential:
            # The gaps are not in the stream: it costs nothing to skip them. A limit of the rate
            # would count them.
            return Limits(self.buffer_size if pace is None else 0, size)
        if pace is not None:
            return Limits(pace.gap, size)
        at_first = OF_LOCAL if server_is_local(src) else NOTHING
        return AutoGap(size, readers, MEMORY.recall(server_of(src), Known) or at_first)

    def pool(self, dst: SinkLike, pace: Pace | None) -> BufferPool:
        """Make the buffers of a copy, the first of them immediately.

        Raises:
            LocalIOError: There is no memory for it.
        """
        size = self._buffer_size(dst) if pace is None else pace.size
        pool = BufferPool(self.buffer_memory // size, size)
        pool.give_back(pool.take())
        return pool

    def _buffer_size(self, dst: SinkLike) -> int:
        by_default = (self.buffer_size, self.buffer_memory) == (BUFFER_SIZE, BUFFER_MEMORY)
        return SERVER_BUFFER_SIZE if by_default and writes_to_server(dst) else self.buffer_size


def _processors(*, shared: bool) -> int:
    """How many processors a copy has, if it shares them with a server or not."""
    return len(os.sched_getaffinity(0)) // (2 if shared else 1)
