"""What the trials of backups and of restores have in common: requests that go wrong, and an end."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tapestream.testing import EngineDouble

# More often than any program asks.
FOREVER = 10**6


class Outcome(NamedTuple):
    """How a trial ended.

    Attributes:
        problems: What is wrong.
        ended: How the run ended: "good", or the kind of error.
        killed: What the next run said about it.
    """

    problems: list[str]
    ended: str
    killed: list[str]


def random_fault(
    chance: random.Random, requests: Sequence[tuple[str, str]], most_before: int
) -> tuple[str, Callable[[EngineDouble], object]]:
    """A request that is refused, or whose connection is closed.

    Args:
        chance: Decides.
        requests: Method and path of those that can be chosen.
        most_before: Up to this many such requests are good first.

    Returns:
        What goes wrong, in words, and a function that makes the engine do it.
    """
    method, path = chance.choice(requests)
    skip = chance.randrange(most_before + 1)
    times = chance.choice([1, 2, 3, FOREVER])
    words = f"{method} {path} ({skip} before, {times} times)"
    if chance.random() < 0.5:
        status = chance.choice([400, 409, 500, 503])
        return f"{status} to {words}", lambda engine: engine.refuse(
            method, path, status, skip=skip, times=times
        )
    carry_out = chance.random() < 0.5
    what = "no reply" if carry_out else "no connection"
    return f"{what} to {words}", lambda engine: engine.drop(
        method, path, carry_out=carry_out, skip=skip, times=times
    )
