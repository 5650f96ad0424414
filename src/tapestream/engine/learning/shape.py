"""The size of requests and the number of connections, learnt from bytes per second.

    used   used   tried   used   tried   used   tried   used   tried   used      stretches
                  another shape, in turn with the one in use

A stretch is a few requests of each reader, all with the same shape. A shape is tried in turn with
the one in use, so that a server that gets faster or slower meanwhile does not decide. The other one
is used from then on if each of its stretches was faster than each of those around it. Where both
are equally fast, that happens once in 126 times, whatever the noise. After the first stretch that
was not faster, the trial ends: so a bad shape costs one stretch.

Only shapes that differ in one step from the one in use are tried. What all trials together may cost
is bounded by the size of the disk: nothing is tried on a small one. But a small one begins with the
shape that a large disk of the same server has shown to be the fastest.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ...backend.abilities import Shape
from .gap import Sample

MIB = 1024**2

# Shorter requests are not compared: their time is that of a request, not of its bytes.
LARGE = 4 * MIB
# A stretch takes at least this many requests of each reader, and this many seconds: in a shorter
# one, the scheduler hides the difference. The first request of each reader does not count: it
# waited for requests of the stretch before.
REQUESTS = 3
SECONDS = 0.05
# A shape wins if this many stretches of it are faster than all stretches around them. With four,
# and five around them, chance does that once in 126 times.
WINS = 4
# A shape that is not faster by this much is not worth a change.
MARGIN = 1.05
# The part of the disk that could have been read in the time that trials have cost. It is not
# reached: a trial begins only if one that is as bad as `FEARED` fits in it.
SHARE = 0.01
# So many times the bytes of a trial could be read in the time that a bad shape loses.
FEARED = 3
# A request that takes this many times as long as it should ends a trial immediately: it need not be
# tried for a whole stretch.
HOPELESS = 4
# So many shorter requests of each reader end a trial: a disk may go on with nothing but short ones,
# and the shape that is tried may be bad for them. Gaps are not learnt meanwhile, either.
SHORT = 16
# A shape that was not faster is tried again after this many times the bytes of a stretch, then
# after twice as many, and so on, up to 2**`DOUBLINGS` times as many.
REST = 100
DOUBLINGS = 4
# If the server becomes faster or slower by this factor, all shapes may be tried again.
CHANGED = 1.5
# Seconds of use after its last trial, the most for which other disks begin with a shape. On a line
# of 1 Gbit/s, a large disk has a trial every 20 minutes in the end.
LONGEST_USE = 3600.0


class Ask(NamedTuple):
    """How a request is made.

    Attributes:
        shape: Its shape.
        stretch: Number of the stretch that it belongs to.
        is_trial: True if this is not the shape in use.
    """

    shape: Shape
    stretch: int = 0
    is_trial: bool = False


class KnownShape(NamedTuple):
    """The fastest shape of a server, for its next disk.

    Attributes:
        shape: The shape.
        seconds: How long it was used since it was last compared with another one.
    """

    shape: Shape
    seconds: float


class _Miss(NamedTuple):
    """A trial of a shape that was not faster.

    Attributes:
        at: Bytes that were read before it.
        number: How many such trials of this shape there were.
    """

    at: int
    number: int


def is_too_small(total: int, readers: int) -> bool:
    """True if a disk of so many bytes has no budget for even one trial."""
    return SHARE * total < FEARED * (REQUESTS + 2) * readers * LARGE


def usable(known: KnownShape | None, shapes: Sequence[Shape]) -> KnownShape | None:
    """What is known of a server, if it is still to be believed, and possible with this disk."""
    if known is None or known.seconds >= LONGEST_USE or known.shape not in shapes[1:]:
        return None
    return known


class AutoShape:
    """Learns the shape of requests with which a server is fastest.

    Args:
        shapes: What is possible; the first is used until another was faster.
        readers: How many readers work at the same time.
        total: Bytes that will be read in all. Bounds what the trials may cost.
        known: What the last disk of this server has shown; see `usable`. None for nothing.
    """

    def __init__(
        self,
        shapes: Sequence[Shape],
        readers: int,
        total: int,
        known: KnownShape | None = None,
    ) -> None:
        self._shapes = shapes
        self._readers = readers
        self._total = total
        self._lock = threading.Lock()
        self._best, self._age = known or KnownShape(shapes[0], 0.0)
        self._ask = Ask(self._best)
        self._candidate: Shape | None = None
        self._misses: dict[Shape, _Miss] = {}
        # Bytes per second of one reader, of the stretches of this trial.
        self._used: list[float] = []
        self._tried: list[float] = []
        # The same, of the last stretches with the shape in use; and what it was once.
        self._usual: deque[float] = deque(maxlen=WINS)
        self._before: float | None = None
        self._seen = Sample()
        self._early = 0
        self._short = 0
        self._done = 0
        self._lost = 0.0

    @property
    def best(self) -> Shape:
        """The shape in use."""
        return self._best

    def known(self) -> KnownShape:
        """What is known now: the next disk begins with it."""
        with self._lock:
            return KnownShape(self._best, self._age)

    @property
    def lost(self) -> float:
        """Bytes that could have been read in the time that the trials have cost so far."""
        return self._lost

    def ask(self) -> Ask:
        """How the next request is made."""
        return self._ask  # no lock: it is replaced as a whole

    def observe(self, ask: Ask, sample: Sample) -> None:
        """Learn what a request took."""
        with self._lock:
            self._age += sample.seconds / self._readers
            if sample.bytes < LARGE:
                if ask.is_trial:
                    self._note_short(ask)
            elif sample.seconds:
                self._note_large(ask, sample)

    def _note_large(self, ask: Ask, sample: Sample) -> None:
        """Count a request for its stretch."""
        self._done += sample.bytes
        slower = 1.0
        if ask.is_trial:
            due = sample.seconds * _median(self._usual)
            slower = due / sample.bytes
            self._lost = max(0.0, self._lost + due - sample.bytes)
        if ask.stretch != self._ask.stretch:
            return
        if slower > HOPELESS:
            self._miss()
        elif self._early < self._readers:
            self._early += 1
        else:
            self._seen = self._seen.plus(sample)
            if self._is_over():
                self._end()

    def _note_short(self, ask: Ask) -> None:
        """End a trial in which most requests are too short to count."""
        self._short += ask.stretch == self._ask.stretch
        if self._short > SHORT * self._readers:
            self._give_up()

    def _is_over(self) -> bool:
        enough = self._seen.requests >= REQUESTS * self._readers
        return enough and self._seen.seconds >= SECONDS * self._readers

    def _end(self) -> None:
        """End a stretch."""
        seen, self._seen = self._seen, Sample()
        if seen.waited > seen.seconds:
            # The sink is slower than the server: the shape does not matter.
            self._stop()
            return
        rate = seen.bytes / seen.seconds
        if self._ask.is_trial:
            self._tried.append(rate)
        else:
            self._used.append(rate)
            self._note(rate)
        if self._candidate is None:
            self._used = self._used[-1:]
            self._candidate = self._due(seen.bytes // seen.requests)
            if self._candidate is not None:
                self._use(self._candidate, is_trial=True)
        elif self._tried and min(self._tried) <= max(self._used):
            self._miss()
        elif self._ask.is_trial:
            self._use(self._best)
        elif len(self._tried) < WINS:
            self._use(self._candidate, is_trial=True)
        elif _mean(self._tried) < MARGIN * _mean(self._used):
            self._miss()
        else:
            self._change(self._candidate)

    def _note(self, rate: float) -> None:
        """Notice if the server has changed: then no earlier trial means anything."""
        self._usual.append(rate)
        if len(self._usual) < WINS:
            return
        now = _median(self._usual)
        if self._before is None or not now / CHANGED < self._before < now * CHANGED:
            self._before = now
            self._misses.clear()

    def _due(self, request: int) -> Shape | None:
        """The next shape to try; None if it is not yet time for any.

        Args:
            request: Bytes in a request.
        """
        # Those that were announced before a stretch ends have its shape, too.
        stretch = (REQUESTS + 2) * self._readers * request
        budget = SHARE * (self._total + self._done) / 2
        if len(self._usual) < WINS or self._lost + FEARED * stretch > budget:
            return None
        return min(
            (shape for shape in self._neighbours() if self._has_rested(shape, stretch)),
            key=lambda shape: self._misses[shape].at if shape in self._misses else -1,
            default=None,
        )

    def _has_rested(self, shape: Shape, stretch: int) -> bool:
        miss = self._misses.get(shape)
        if miss is None:
            return True
        return self._done - miss.at >= (REST * stretch) << min(miss.number - 1, DOUBLINGS)

    def _neighbours(self) -> list[Shape]:
        """The shapes one step away from the one in use."""
        sizes = sorted({shape.size for shape in self._shapes})
        numbers = sorted({shape.connections for shape in self._shapes})
        size, number = sizes.index(self._best.size), numbers.index(self._best.connections)
        return [
            shape
            for shape in self._shapes
            if abs(sizes.index(shape.size) - size) + abs(numbers.index(shape.connections) - number)
            == 1
        ]

    def _miss(self) -> None:
        """End a trial of a shape that was not faster."""
        self._age = 0.0
        self._give_up()

    def _give_up(self) -> None:
        """End a trial, and let the shape rest, also if the trial has not shown anything."""
        if self._candidate is not None:
            earlier = self._misses.get(self._candidate)
            number = 1 if earlier is None else earlier.number + 1
            self._misses[self._candidate] = _Miss(self._done, number)
        self._stop()

    def _change(self, shape: Shape) -> None:
        """Use the shape that was faster."""
        self._misses = {self._best: _Miss(self._done, 1)}
        self._usual = deque(self._tried, WINS)
        self._before = _median(self._tried)
        self._best = shape
        self._age = 0.0
        self._stop()

    def _stop(self) -> None:
        """End a trial, if there is one."""
        self._candidate = None
        self._used, self._tried = [], []
        if self._ask.shape != self._best:
            self._use(self._best)

    def _use(self, shape: Shape, *, is_trial: bool = False) -> None:
        """Begin a stretch."""
        self._ask = Ask(shape, self._ask.stretch + 1, is_trial)
        self._early, self._short, self._seen = 0, 0, Sample()


# Not from the statistics module: to import it takes longer than a small copy.
def _mean(rates: Sequence[float]) -> float:
    return sum(rates) / len(rates)


def _median(rates: Iterable[float]) -> float:
    ordered = sorted(rates)
    middle = len(ordered) // 2
    return (ordered[middle] + ordered[~middle]) / 2
