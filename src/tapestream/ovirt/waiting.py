"""Waits until an object of the engine has a phase, for a limited time."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from ..errors import EngineError, EnginePhaseError, EngineTimeoutError
from .asking import asking, may_succeed_later
from .patience import Patience, Wait
from .sdk import sdk

# More of an event than this is no help in an error.
_MAX_EVENT = 500


@dataclass(frozen=True)
class Waiting:
    """What is waited for.

    Attributes:
        what: The object, for errors, such as "backup 123 of VM mail".
        goal: The phases at which the waiting ends well.
        on_the_way: The phases at which it goes on. Every other phase is an error, and so is None,
            which the SDK makes of a phase that it does not know.
        seconds: The time limit.
        about: What the engine's events are searched for, to explain a failure: an id.
        phase_of: The phase of what `look` returns.
    """

    what: str
    goal: Collection[Any]
    on_the_way: Collection[Any]
    seconds: float
    about: str
    phase_of: Callable[[Any], Any] = lambda found: found.phase


def wait_for(
    connection: sdk.Connection,
    waiting: Waiting,
    look: Callable[[], Any],
    patience: Patience,
) -> Any:
    """Look at an object until it has one of the phases that are waited for.

    If the engine cannot answer for a while, because it is restarting, the waiting goes on.

    Args:
        connection: The connection, to ask for the engine's last event after a failure.
        waiting: What is waited for, and how long.
        look: Gets the object from the engine.
        patience: How often to look, and what ends the waiting early.

    Returns:
        The object, in one of the phases of `waiting.goal`.

    Raises:
        EngineTimeoutError: It took longer than `waiting.seconds`.
        EnginePhaseError: It is in another phase, from which it will not get there.
        EngineError: It does not exist, or the engine cannot be asked.
        OperationCancelledError: It was cancelled.
    """
    wait = Wait(patience, waiting.seconds)
    for left in wait:
        try:
            with asking(f"look at {waiting.what}"):
                found = look()
        except EngineError as e:
            if not left or not may_succeed_later(e):
                raise
            wait.goes_on(e.message)
        else:
            phase = waiting.phase_of(found)
            if phase in waiting.goal:
                return found
            if not left or phase not in waiting.on_the_way:
                raise _not_there(connection, waiting, phase)
            wait.goes_on(f"{waiting.what} is in phase {phase}")
    raise AssertionError  # the pauses have no end


def _not_there(connection: sdk.Connection, waiting: Waiting, phase: Any) -> EnginePhaseError:
    word = str(phase) if phase is not None else None
    event = last_event(connection, waiting.about)
    if phase in waiting.on_the_way:
        return EngineTimeoutError(waiting.what, word, waiting.seconds, event=event)
    return EnginePhaseError(waiting.what, word, event=event)


def last_event(connection: sdk.Connection, about: str) -> str:
    """What the engine said last about an object; "" if it said nothing, or cannot be asked.

    Args:
        connection: The connection to the engine.
        about: The object's id.
    """
    try:
        with asking("look for events"):
            events = connection.system_service().events_service().list(search=about, max=1)
    except EngineError:
        return ""  # this explains an error, and must not hide it
    return str(events[0].description or "")[:_MAX_EVENT] if events else ""
