"""What a copy asks of its source, from all that is learnt: one trial at a time."""

from __future__ import annotations

from .gap import AutoGap, Limits, Sample
from .shape import AutoShape


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

    def limits(self) -> Limits:
        """How far the next request may reach, and how it is made."""
        limits = self._gap if isinstance(self._gap, Limits) else self._gap.limits()
        return limits if self._shape is None else limits._replace(ask=self._shape.ask())

    def observe(self, limits: Limits, sample: Sample) -> None:
        """Learn what a request took."""
        gap = None if isinstance(self._gap, Limits) else self._gap
        if gap is not None and (limits.ask is None or not limits.ask.is_trial):
            gap.observe(limits, sample)
        # A request without gaps is the same, whatever gap is tried. On a disk of large extents, gaps
        # are tried in vain, and often.
        may_learn = gap is None or not gap.is_trial or sample.data == sample.bytes
        if limits.ask is not None and self._shape is not None and may_learn:
            self._shape.observe(limits.ask, sample)
