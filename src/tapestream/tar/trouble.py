"""What to do when a tar is damaged: `Strict` raises, `Lenient` records the damage and continues.

| Damage                   | `Strict`            | `Lenient`                              |
|--------------------------|---------------------|----------------------------------------|
| a bad header             | raises              | records it, finds the next good header |
| a digest that differs    | raises              | records the segment as damaged         |
| an unreadable place      | raises              | reads zeros, records them as missing   |
| an early end             | raises              | records it, and the rest as missing    |
"""

from __future__ import annotations

from ..errors import DigestMismatchError, TapestreamError
from ..model.damage import Damage, Findings
from .format import Member
from .lookahead import Readable
from .medium import InputMedium
from .table import MemberTable
from .zerofill import ZeroFilledInput


class Strict:
    """Raises the first error, so there is never anything to record."""

    goes_on = has_problems = False

    def readable(self, medium: InputMedium, before: Readable | None = None) -> Readable:
        """The object to read the stream from: the medium itself.

        Args:
            medium: The medium.
            before: The object that the stream was read from until now.
        """
        return medium

    def meet(self, error: TapestreamError, member: str | None = None) -> None:
        """Raise the error.

        Args:
            error: What is wrong.
            member: Name of the member, unless the error has it.
        """
        raise error

    def add(self, damage: Damage) -> None:
        """Do nothing; this is never called."""

    def lose(self, start: int, end: int, table: MemberTable) -> None:
        """Do nothing; this is never called."""

    def compared(self, digest_name: str | None) -> None:
        """Do nothing: in strict reading, no error means that all is right."""

    def complete(self) -> None:
        """Do nothing."""


STRICT = Strict()


class Lenient:
    """Records what is wrong, so that reading can continue.

    Args:
        findings: Where to record it.
    """

    goes_on = True

    def __init__(self, findings: Findings) -> None:
        self._findings = findings

    @property
    def has_problems(self) -> bool:
        """True if something was recorded that is not damage of the disk's data."""
        return bool(self._findings.problems)

    def readable(self, medium: InputMedium, before: Readable | None = None) -> ZeroFilledInput:
        """The object to read the stream from: one that gives zeros for unreadable places."""
        return before if isinstance(before, ZeroFilledInput) else ZeroFilledInput(medium)

    def meet(self, error: TapestreamError, member: str | None = None) -> None:
        """Record an error; see `Strict.meet`."""
        if isinstance(error, DigestMismatchError):
            self.add(Damage(error.start, error.length, error.member, missing=False))
            return
        text = str(error.args[0])
        self._findings.note(f"{member}: {text}" if member else text)

    def add(self, damage: Damage) -> None:
        """Record data that is damaged or missing."""
        self._findings.add(damage)

    def lose(self, start: int, end: int, table: MemberTable) -> None:
        """Record that all members that begin in this range of the disk are missing."""
        for member in table.following(start):
            if member.start >= end:
                return
            if self._findings.is_full(missing=True):  # record all the rest as one
                rest = Damage(member.start, end - member.start, member.name, missing=True)
                self._findings.add(rest, table.tally(member.start, end).bytes)
                return
            self.add(Damage(member.start, member.length, member.name, missing=True))

    def compared(self, digest_name: str | None) -> None:
        """Record that all data was compared with the manifest.

        Args:
            digest_name: Name of the digest in it; None if it has no digests.
        """
        self._findings.digest_name = digest_name

    def complete(self) -> None:
        """Record that the stream is complete."""
        self._findings.complete = True


Trouble = Strict | Lenient


class Suspects:
    """Members next to a bad header: bytes may be lost there, unless the digests prove otherwise."""

    def __init__(self) -> None:
        self._members: list[Member] = []
        self._gone = 0  # missing bytes of the last of them

    def add(self, *members: Member | None) -> None:
        """Add members; None is ignored."""
        for member in members:
            if member is not None and member not in self._members[-2:]:
                self._members.append(member)
        self._gone = 0

    def is_missing(self, member: Member, length: int) -> None:
        """Count missing bytes of a member; one that is missing completely is no suspect anymore."""
        if self._members and self._members[-1] == member:
            self._gone += length
            if self._gone == member.length:
                self._members.pop()  # all of it is reported already

    def take_all(self) -> list[Member]:
        """Return all suspects, and forget them."""
        members, self._members = self._members, []
        return members
