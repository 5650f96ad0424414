"""What the trials of backups and of restores have in common: requests that go wrong, and an end."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tapestream.testing import EngineDouble

# More often than any program asks.
FOREVER = 10**6
# In words, and what makes the engine do it.
Fault = tuple[str, Callable[[EngineDouble], object]]


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
) -> Fault:
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
    if chance.random() < 0.5:
        return refusal(method, path, chance.choice([400, 409, 500, 503]), skip, times)
    return lost(method, path, skip, times, carry_out=chance.random() < 0.5)


def refusal(method: str, path: str, status: int, skip: int, times: int) -> Fault:
    """Requests that are refused, after some that are good."""
    return f"{status} to {_words(method, path, skip, times)}", lambda engine: engine.refuse(
        method, path, status, skip=skip, times=times
    )


def lost(method: str, path: str, skip: int, times: int, *, carry_out: bool) -> Fault:
    """Requests whose connection is closed, before or after they are carried out."""
    what = "no reply" if carry_out else "no connection"
    return f"{what} to {_words(method, path, skip, times)}", lambda engine: engine.drop(
        method, path, carry_out=carry_out, skip=skip, times=times
    )


def _words(method: str, path: str, skip: int, times: int) -> str:
    return f"{method} {path} ({skip} before, {times} times)"
