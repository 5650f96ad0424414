"""What copies have learnt about servers: the next disk of a server begins with it.

Nothing is written anywhere: it ends with the process.
"""

from __future__ import annotations

from collections.abc import Hashable
from itertools import islice
from typing import TypeVar

T = TypeVar("T")

# More things than one program learns about the servers that it uses by turns.
MOST = 64


class Memory:
    """Remembers the last values of each kind for some servers.

    Threads may use it, and a process that was forked meanwhile: the dict is never changed, but
    replaced as a whole, without a lock. If two threads remember something at the same time, one
    value may be lost.

    Args:
        most: How many values are kept: those that were remembered last.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._known: dict[tuple[Hashable, type], object] = {}

    def recall(self, server: Hashable, kind: type[T]) -> T | None:
        """The value of this kind that was remembered last for a server; None if there is none.

        Args:
            server: Names the server: see `backend.checks.server_of`.
            kind: The class of the value.
        """
        value = self._known.get((server, kind))
        return value if isinstance(value, kind) else None

    def remember(self, server: Hashable, value: object) -> None:
        """Keep a value, in place of the last one of its class for this server.

        Args:
            server: Names the server. It is kept, so it must hold no secret.
            value: Immutable, since other threads may have it.
        """
        known = dict(self._known)
        known.pop((server, type(value)), None)
        known[server, type(value)] = value
        self._known = dict(islice(known.items(), max(0, len(known) - self._most), None))

    def forget(self) -> None:
        """Forget everything, as a new process has."""
        self._known = {}


# What this process knows.
MEMORY = Memory()
