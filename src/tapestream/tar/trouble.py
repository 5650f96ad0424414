"""What happens where a tar is damaged: a strict reader fails, a lenient one notes it and goes on.

| Damage                   | `Strict`            | `Lenient`                              |
|--------------------------|---------------------|----------------------------------------|
| a bad header             | raises              | notes it; the next good one is found   |
| a digest that differs    | raises              | adds the segment to the damage         |
| an unreadable stretch    | raises              | reads zeros, adds it to the damage     |
| an early end             | raises              | notes it; the rest is missing          |
"""

from __future__ import annotations

from typing import Protocol

from typing_extensions import override

from ..errors import DigestMismatchError, TapestreamError
from ..model.damage import Damage, Findings
from .format import Member
from .medium import InputMedium
from .members import Readable
from .table import MemberTable
from .zerofill import ZeroFilledInput


class Trouble(Protocol):
    """What happens where a tar is damaged."""

    @property
    def goes_on(self) -> bool:
        """True if reading goes on."""
        ...

    @property
    def has_problems(self) -> bool:
        """True if something was noted that is no damage of the disk's data."""
        ...

    def readable(self, medium: InputMedium, before: Readable | None = None) -> Readable:
        """What is read in place of a medium: it decides what happens where that is unreadable.

        Args:
            medium: The medium.
            before: What was read in its place up to here.
        """
        ...

    def meet(self, error: TapestreamError, member: str | None = None) -> None:
        """Raise the error, or return to go on.

        Args:
            error: What is wrong.
            member: Name of the member, unless the error says it.
        """
        ...

    def add(self, damage: Damage) -> None:
        """Take note of data that is damaged or missing."""
        ...

    def lose(self, start: int, end: int, table: MemberTable) -> None:
        """Take note that all members that begin in this range of the disk are missing."""
        ...

    def compared(self, digest_name: str | None) -> None:
        """Take note that all data was compared with the manifest.

        Args:
            digest_name: Name of the digest in it; None if there is none.
        """
        ...

    def complete(self) -> None:
        """Take note that the stream has its end."""
        ...


class Strict(Trouble):
    """Raises the first error; so there is never any damage to take note of."""

    goes_on = has_problems = False

    @override
    def readable(self, medium: InputMedium, before: Readable | None = None) -> Readable:
        return medium

    @override
    def meet(self, error: TapestreamError, member: str | None = None) -> None:
        raise error

    @override
    def add(self, damage: Damage) -> None:
        """Do nothing; this is never called."""

    @override
    def lose(self, start: int, end: int, table: MemberTable) -> None:
        """Do nothing; this is never called."""

    @override
    def compared(self, digest_name: str | None) -> None:
        """Do nothing: whoever reads strictly sees that no error was raised."""

    @override
    def complete(self) -> None:
        """Do nothing."""


STRICT = Strict()


class Lenient(Trouble):
    """Notes what is wrong, and goes on.

    Args:
        findings: Where it is noted.
    """

    goes_on = True

    def __init__(self, findings: Findings) -> None:
        self._findings = findings

    @property
    @override
    def has_problems(self) -> bool:
        return bool(self._findings.problems)

    @override
    def readable(self, medium: InputMedium, before: Readable | None = None) -> ZeroFilledInput:
        return before if isinstance(before, ZeroFilledInput) else ZeroFilledInput(medium)

    @override
    def meet(self, error: TapestreamError, member: str | None = None) -> None:
        if isinstance(error, DigestMismatchError):
            self.add(Damage(error.start, error.length, error.member, missing=False))
            return
        text = error.message
        self._findings.note(f"{member}: {text}" if member else text)

    @override
    def add(self, damage: Damage) -> None:
        self._findings.add(damage)

    @override
    def lose(self, start: int, end: int, table: MemberTable) -> None:
        for member in table.following(start):
            if member.start >= end:
                return
            if self._findings.is_full(missing=True):  # one for all that follow
                rest = Damage(member.start, end - member.start, member.name, missing=True)
                self._findings.add(rest, table.tally(member.start, end).bytes)
                return
            self.add(Damage(member.start, member.length, member.name, missing=True))

    @override
    def compared(self, digest_name: str | None) -> None:
        self._findings.digest_name = digest_name

    @override
    def complete(self) -> None:
        self._findings.complete = True


class Suspects:
    """Members next to a bad header, where bytes may have been lost: bad unless digests vouch."""

    def __init__(self) -> None:
        self._members: list[Member] = []
        self._gone = 0  # bytes of the last of them that are missing

    def add(self, *members: Member | None) -> None:
        """Suspect these members."""
        for member in members:
            if member is not None and member not in self._members[-2:]:
                self._members.append(member)
        self._gone = 0

    def is_missing(self, member: Member, length: int) -> None:
        """So many bytes of a member are missing; no suspect is left if all of it is."""
        if self._members and self._members[-1] == member:
            self._gone += length
            if self._gone == member.length:
                self._members.pop()  # all of it is reported already

    def take_all(self) -> list[Member]:
        """All suspects, for the last time."""
        members, self._members = self._members, []
        return members
