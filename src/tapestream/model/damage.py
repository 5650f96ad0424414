"""What is wrong with a backup that is read to its end in spite of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

# A stream out of step has a bad header for each of a million members, and each text may repeat what
# the header claims.
MAX_PROBLEMS = 100
MAX_TEXT = 1000
# Stretches of each kind. The last one grows over all further ones, and over what is between them.
MAX_DAMAGE = 10_000
_AND_MORE = ", and members after it"


@dataclass(frozen=True)
class Damage:
    """A stretch of the disk that a backup does not hold as it should.

    Attributes:
        start: Offset of its first byte in the disk.
        length: Its length in bytes.
        member: Member of the tar that holds it, or should.
        missing: True if its bytes are not there or cannot be read. False if they are there, but do
            not match their digest.
    """

    start: int
    length: int
    member: str
    missing: bool

    def __str__(self) -> str:
        what = "missing" if self.missing else "damaged"
        return f"{self.length} bytes at disk offset {self.start} are {what} ({self.member})"


@dataclass
class Findings:
    """What has been found so far.

    Attributes:
        damage: Bad stretches of the disk: those that are missing in ascending order, and those that
            do not match their digest, which are only found at the end.
        problems: Whatever else is wrong, in words.
        complete: True once the end was found where it should be.
        digest_name: Name of the digest that all data was compared with; None until it was.
        missing_bytes: Bytes of data that are missing.
    """

    damage: list[Damage] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    complete: bool = False
    digest_name: str | None = None
    missing_bytes: int = field(default=0, compare=False, repr=False)
    _counts: dict[bool, int] = field(default_factory=dict, compare=False, repr=False)
    _last: dict[bool, int] = field(default_factory=dict, compare=False, repr=False)

    def add(self, found: Damage, data_bytes: int | None = None) -> None:
        """Note damage. If it begins where the one before ended, the two become one.

        After the first 10,000 stretches of a kind, the last one grows over all that follow.

        Args:
            found: The damage. It begins after all damage of its kind that was noted before.
            data_bytes: Bytes of data in it; its length if None.
        """
        if found.missing:
            self.missing_bytes += found.length if data_bytes is None else data_bytes
        if self.damage:
            last = self.damage[-1]
            end = last.start + last.length
            if (found.start, found.member, found.missing) == (end, last.member, last.missing):
                length = last.length + found.length
                self.damage[-1] = replace(last, length=length)
                return
        self._counts[found.missing] = self._counts.get(found.missing, 0) + 1
        if self._counts[found.missing] > MAX_DAMAGE:
            self._widen(found)
        else:
            self._last[found.missing] = len(self.damage)
            self.damage.append(found)

    def is_full(self, *, missing: bool) -> bool:
        """Whether further damage of this kind only widens the last stretch."""
        return self._counts.get(missing, 0) >= MAX_DAMAGE

    def _widen(self, found: Damage) -> None:
        """Let the last stretch of the same kind reach to the end of this one."""
        i = self._last[found.missing]
        last = self.damage[i]
        member = last.member if last.member.endswith(_AND_MORE) else last.member + _AND_MORE
        length = max(last.start + last.length, found.start + found.length) - last.start
        self.damage[i] = replace(last, length=length, member=member)

    def note(self, problem: str) -> None:
        """Note another problem. Only the first 100 are kept: later ones often follow from them."""
        if len(self.problems) < MAX_PROBLEMS:
            cut = len(problem) > MAX_TEXT
            self.problems.append(problem[:MAX_TEXT] + " ..." if cut else problem)
        elif len(self.problems) == MAX_PROBLEMS:
            self.problems.append("and more")
