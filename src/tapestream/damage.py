"""What is found wrong with a backup that is read to its end all the same."""

from __future__ import annotations

from dataclasses import dataclass, field

# A stream out of step has a bad header for each of a million members.
MAX_PROBLEMS = 100


@dataclass(frozen=True)
class Damage:
    """A stretch of the disk that a backup does not hold as it should.

    Attributes:
        start: Offset of its first byte in the disk.
        length: Its length in bytes.
        member: Member of the tar that holds it, or should.
        missing: True when its bytes are not there, or cannot be read; False when they are, but do
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
    """What was found so far.

    Attributes:
        damage: Bad stretches of the disk: in ascending order those that are missing, and those
            that do not match their digest, which only shows at the end.
        problems: What is wrong besides, in words.
        complete: True once the end was found where it should be.
        compared: Name of the digest that all data was compared with; None until it was.
    """

    damage: list[Damage] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    complete: bool = False
    compared: str | None = None

    def add(self, found: Damage) -> None:
        """Note damage; what goes on where the last one ended becomes one with it."""
        if self.damage:
            last = self.damage[-1]
            end = last.start + last.length
            if (found.start, found.member, found.missing) == (end, last.member, last.missing):
                length = last.length + found.length
                self.damage[-1] = Damage(last.start, length, last.member, last.missing)
                return
        self.damage.append(found)

    def note(self, problem: str) -> None:
        """Note what is wrong besides: the first problems, for others follow from them."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)
        elif len(self.problems) == MAX_PROBLEMS:
            self.problems.append("and more")
