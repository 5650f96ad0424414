"""The size of uploads and the number of connections, learnt in the same way as for downloads."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..._typing import override
from ...backend.abilities import HasShapes
from ...backend.checks import done
from ...backend.forwarding import ForwardingWriter
from ...backend.protocols import Writer
from .gap import Sample
from .shape import MIB, AutoShape

# So many bytes are taken for one request, because a write returns before the server has stored all
# of it: the time of a single one says little. It is as much as one request to a source.
BYTES = 16 * MIB
# So many writes are taken for one request if they have fewer bytes: where the disk is fragmented,
# a trial must end soon.
WRITES = 16


class LearningWriter(ForwardingWriter):
    """Writes in the shape that is due, and reports what that takes.

    Args:
        wrapped: The writer. Closing this one closes it.
        has_shapes: The same writer, which can write in several shapes.
        learnt: Chooses the shape. All writers of a sink share it.
        clock: Seconds, from any time on.
    """

    def __init__(
        self,
        wrapped: Writer,
        has_shapes: HasShapes,
        learnt: AutoShape,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(wrapped)
        self._has_shapes = has_shapes
        self._learnt = learnt
        self._clock = clock
        self._ask = learnt.ask()
        self._seen = Sample()
        self._last = clock()
        done(has_shapes, "use", self._ask.shape)

    @override
    def write(self, start: int, buffer: memoryview) -> None:
        ask = self._learnt.ask()
        if ask is not self._ask:
            if ask.shape != self._ask.shape:
                done(self._has_shapes, "use", ask.shape)
            self._ask, self._seen = ask, Sample()
        began = self._clock()
        super().write(start, buffer)
        now = self._clock()
        size = len(buffer)
        self._seen = self._seen.plus(Sample(1, size, size, now - began, began - self._last))
        self._last = now
        if self._seen.bytes >= BYTES or self._seen.requests >= WRITES:
            self._learnt.observe(ask, self._seen._replace(requests=1))
            self._seen = Sample()
