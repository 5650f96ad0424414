"""What the double answers, and what it does instead if a test wants it to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any


class FaultError(Exception):
    """A reply that is an error, with the words that the engine uses.

    Args:
        status: The HTTP status.
        detail: What is wrong.
        reason: The kind of error.
    """

    def __init__(self, status: int, detail: str, reason: str = "Operation Failed") -> None:
        super().__init__(f"{reason}: {detail}")
        self.status = status
        self.detail = detail
        self.reason = reason


class DroppedError(Exception):
    """The connection is closed without a reply."""


def refused(detail: str) -> FaultError:
    """Return the error for a request that is not possible now."""
    return FaultError(409, f"[{detail}]")


def missing(what: str) -> FaultError:
    """Return the error for an object that does not exist."""
    return FaultError(404, f"Entity not found: {what}")


def invalid(detail: str) -> FaultError:
    """Return the error for a request that no engine understands."""
    return FaultError(400, detail, "Invalid request")


@dataclass
class Script:
    """What happens to the next requests that match.

    Attributes:
        method: The method.
        path: The path below `/ovirt-engine/api`; `*` stands for any characters.
        act: What happens: it is called with what carries out the request, and returns the reply.
        skip: How many matching requests come before.
        times: How many requests it happens to.
    """

    method: str
    path: str
    act: Callable[[Callable[[], Any]], Any]
    skip: int
    times: int

    def takes(self, method: str, path: str) -> bool:
        """Whether it happens to this request; it counts the requests that match."""
        if method != self.method or not fnmatchcase(path, self.path) or self.times == 0:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        return True
