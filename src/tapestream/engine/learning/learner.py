"""What a copy asks of its source, from all that is learnt: one trial at a time."""

from __future__ import annotations

from .gap import AutoGap, Limits, Sample
from .shape import Ask, AutoShape


class Learner:
    """Combines what is learnt about gaps and about the shape of requests.

    While one of the two tries something, the other learns nothing from what that changes: it would
    mistake the other's trial for a change of the server.

    Args:
        gap: Which gaps to read through: fixed, or learnt.
        shape: How to ask; None if the source has only one way.
    """

    def __init__(self, gap: Limits | AutoGap, shape: AutoShape | None) -> None:
        self._gap = gap
        self._shape = shape
        self._given: Limits | None = None
        self._parts: tuple[Limits, Ask] | None = None

    def limits(self) -> Limits:
        """How far the next request may reach, and how it is made. Called by one thread at a time.

        A small request takes so little time that a new object for each would show.
        """
        limits = self._gap if isinstance(self._gap, Limits) else self._gap.limits()
        if self._shape is None:
            return limits
        ask = self._shape.ask()
        if self._parts is None or self._parts[0] is not limits or self._parts[1] is not ask:
            self._parts = limits, ask
            self._given = limits._replace(ask=ask)
        return self._given or limits

    def observe(self, limits: Limits, sample: Sample) -> None:
        """Learn what a request took."""
        gap, shape, ask = self._gap, self._shape, limits.ask
        tries_gap = self._tries_gap()
        if isinstance(gap, AutoGap) and (ask is None or not ask.is_trial):
            gap.observe(limits, sample)
        # A request that has begun a trial must not begin one of a shape, too. But one without gaps
        # is the same, whatever gap is tried. On a disk of large extents, gaps are tried in vain,
        # and often.
        tries_gap = (tries_gap or self._tries_gap()) and sample.data != sample.bytes
        # A trial of a shape must see every request, to notice when all of them are short.
        if shape is not None and ask is not None and (ask.is_trial or not tries_gap):
            shape.observe(ask, sample)

    def _tries_gap(self) -> bool:
        return isinstance(self._gap, AutoGap) and self._gap.is_trial
