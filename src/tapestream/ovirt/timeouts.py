"""How long to wait for the engine, and how often to look."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

from ..errors import UsageError


@dataclass(frozen=True)
class EngineTimeouts:
    """How long to wait for an oVirt engine, in seconds.

    Args:
        backup_start: Until a backup is ready. The engine creates scratch disks for it, or adds
            bitmaps to the disks.
        backup_end: Until a backup that is finalized has ended.
        transfer_start: Until a transfer has its URL.
        transfer_end: Until a transfer that is finalized or cancelled has ended. For a large disk,
            the engine needs longer than a minute.
        checkpoint_end: Until a checkpoint is removed.
        disk: Until a new disk can be used.
        refused: How long a request is repeated that the engine refuses for now (409), because it is
            still busy with something else, or that it cannot answer, because it is restarting.
        request: For the reply to one request, in whole seconds.
        poll: The first pause between two looks at an object. Each pause is longer than the last.
        longest_poll: The longest of these pauses.

    Raises:
        UsageError: One of them is not a number above 0.
    """

    backup_start: float = 600
    backup_end: float = 600
    transfer_start: float = 300
    transfer_end: float = 3600
    checkpoint_end: float = 600
    disk: float = 3600
    refused: float = 300
    request: int = 120
    poll: float = 1
    longest_poll: float = 10

    def __post_init__(self) -> None:
        for field in fields(self):
            seconds = getattr(self, field.name)
            if type(seconds) not in (int, float) or not 0 < seconds < float("inf"):
                raise UsageError(
                    f"{field.name} must be a number of seconds above 0, not {seconds!r}"
                )
        if type(self.request) is not int:
            raise UsageError(f"request must be a whole number of seconds, not {self.request!r}")

    def pauses(self) -> Iterator[float]:
        """The pauses between two looks, one after the other, without an end."""
        pause = float(self.poll)
        while True:
            yield min(pause, self.longest_poll)
            # From 1 to 10 seconds in six looks: short operations are noticed soon, and an engine
            # that has much to do is asked rarely.
            pause = min(pause * 1.5, self.longest_poll)
