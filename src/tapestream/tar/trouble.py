"""What happens where a tar is damaged: a strict reader fails, a lenient one notes it and goes on.

| Damage                   | `Strict`            | `Lenient`                              |
|--------------------------|---------------------|----------------------------------------|
| a bad header             | raises              | notes it; the next good one is found   |
| a digest that differs    | raises              | adds the segment to the damage         |
| an unreadable stretch    | raises              | reads zeros, adds it to the damage     |
| an early end             | raises              | notes it; the rest is missing          |
"""

from __future__ import annotations

from ..errors import DigestMismatchError, TapestreamError
from ..model.damage import Damage, Findings
from .format import Member
from .medium import InputMedium
from .members import Readable
from .table import MemberTable
from .zerofill import ZeroFilledInput


class Strict:
    """Raises the first error; so there is never anything to take note of."""

    goes_on = has_problems = False

    def readable(self, medium: InputMedium, before: Readable | None = None) -> Readable:
        """What is read in place of a medium: the medium itself.

        Args:
            medium: The medium.
            before: What was read in its place up to here.
        """
        return medium

    def meet(self, error: TapestreamError, member: str | None = None) -> None:
        """Raise the error.

        Args:
            error: What is wrong.
            member: Name of the member, unless the error says it.
        """
        raise error

    def add(self, damage: Damage) -> None:
        """Do nothing; this is never called."""

    def lose(self, start: int, end: int, table: MemberTable) -> None:
        """Do nothing; this is never called."""

    def compared(self, digest_name: str | None) -> None:
        """Do nothing: whoever reads strictly sees that no error was raised."""

    def complete(self) -> None:
        """Do nothing."""


STRICT = Strict()


class Lenient:
    """Notes what is wrong, and goes on.

    Args:
        findings: Where it is noted.
    """

    goes_on = True

    def __init__(self, findings: Findings) -> None:
        self._findings = findings

    @property
    def has_problems(self) -> bool:
        """True if something was noted that is no damage of the disk's data."""
        return bool(self._findings.problems)

    def readable(self, medium: InputMedium, before: Readable | None = None) -> ZeroFilledInput:
        """What is read in place of a medium: the same with zeros for what cannot be read."""
        return before if isinstance(before, ZeroFilledInput) else ZeroFilledInput(medium)

    def meet(self, error: TapestreamError, member: str | None = None) -> None:
        """Take note of an error; see `Strict.meet`."""
        if isinstance(error, DigestMismatchError):
            self.add(Damage(error.start, error.length, error.member, missing=False))
            return
        text = str(error.args[0])
        self._findings.note(f"{member}: {text}" if member else text)

    def add(self, damage: Damage) -> None:
        """Take note of data that is damaged or missing."""
        self._findings.add(damage)

    def lose(self, start: int, end: int, table: MemberTable) -> None:
        """Take note that all members that begin in this range of the disk are missing."""
        for member in table.following(start):
            if member.start >= end:
                return
            if self._findings.is_full(missing=True):  # one for all that follow
                rest = Damage(member.start, end - member.start, member.name, missing=True)
                self._findings.add(rest, table.tally(member.start, end).bytes)
                return
            self.add(Damage(member.start, member.length, member.name, missing=True))

    def compared(self, digest_name: str | None) -> None:
        """Take note that all data was compared with the manifest.

        Args:
            digest_name: Name of the digest in it; None if there is none.
        """
        self._findings.digest_name = digest_name

    def complete(self) -> None:
        """Take note that the stream has its end."""
        self._findings.complete = True


Trouble = Strict | Lenient


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
