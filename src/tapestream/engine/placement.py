"""The balance: which threads write and digest, by what the last chunk took.

Where data is wanted in order, by a sink that has shown to take it at once, a reader's own thread
writes the chunk that is due: to wake up another one costs more, and the data is still in the cache
of its processor. A sink that takes its time works in a thread of its own, beside the reading.

Digests are computed by the readers. Where there is only one, the writer's thread may do it, while
the next chunk is received.
"""

from __future__ import annotations

from typing import NamedTuple

# A sink takes data at once when a chunk is written in so small a part of the time of its reading.
QUICK_PART = 1 / 4


class Spent(NamedTuple):
    """What a chunk took before it was written, in seconds.

    Attributes:
        reading: To read it.
        working: For how much of that a processor worked.
        inspecting: To show it to whoever wants to see all data.
        digesting: To digest it.
        writer_digested: True when the writer's thread did that, not the reader's.
    """

    reading: float = 0.0
    working: float = 0.0
    inspecting: float = 0.0
    digesting: float = 0.0
    writer_digested: bool = False


class Balance:
    """Not locked: `ChunkQueue` does that.

    Args:
        readers: How many there are.
        shares_processors: See `HasLocalServer.server_is_local`.

    Attributes:
        is_quick: True when the sink takes data at once.
        writer_digests: True when the writer's thread is to digest, if it is the only one.
    """

    def __init__(self, readers: int, *, shares_processors: bool) -> None:
        self.is_quick = False
        self.writer_digests = False
        self._readers = readers
        self._shares_processors = shares_processors

    def weigh(self, spent: Spent, writing: float) -> None:
        """Learn what a chunk took, and how many seconds the writing of it."""
        reader = spent.reading + spent.inspecting
        has_time = writing < reader
        if not spent.writer_digested:
            reader += spent.digesting
        self.is_quick = writing * self._readers <= reader * QUICK_PART
        # Receiving may be more work than all that is done with the data: over TLS. No processor is
        # free then if the server needs one, too, and a second thread is only in the way (measured
        # on 2 processors: 0.96 times as fast over TLS, 1.04 to 1.12 times over a unix socket).
        is_busy = self._shares_processors and spent.working > spent.inspecting + spent.digesting
        self.writer_digests = self._readers == 1 and has_time and not is_busy
