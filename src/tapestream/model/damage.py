"""Records what is wrong with a backup while it is read to its end in spite of damage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from .._readable import count_text
from .._shown import short_repr

# A damaged stream may have a million members with bad headers, and each text may quote a header.
MAX_PROBLEMS = 100
MAX_TEXT = 1000
# Stretches of each kind that are kept. After that, the last one is extended over all later ones,
# and over what lies between them.
MAX_DAMAGE = 10_000
_AND_MORE = ", and members after it"


@dataclass(frozen=True)
class Damage:
    """A stretch of the disk whose data is missing in a backup, or does not match its digest.

    Attributes:
        start: Offset of its first byte in the disk.
        length: Its length in bytes.
        member: Member of the tar that holds the data, or should hold it.
        missing: True if the bytes are not there or cannot be read. False if they are there, but do
            not match their digest.
    """

    start: int
    length: int
    member: str
    missing: bool

    def __str__(self) -> str:
        what = "missing" if self.missing else "damaged"
        return f"{self.length} bytes at disk offset {self.start} are {what} ({self.member})"


def found_text(damage: Sequence[Damage], problems: Sequence[str]) -> str:
    """How much is wrong, in a few words."""
    stretches = count_text(len(damage), "bad stretch", "bad stretches")
    return f"{stretches}, {count_text(len(problems), 'other problem')}"


@dataclass(repr=False)
class Findings:
    """The damage and the other problems that were found so far.

    Attributes:
        damage: Bad stretches of the disk. First come those that are missing, in ascending order,
            then those that do not match their digest: they are found only at the end.
        problems: Everything else that is wrong, in words.
        complete: True after the end was found where it should be.
        digest_name: Name of the digest that all data was compared with; None until that is done.
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
        """Note damage. If it begins where the damage before it ended, the two become one.

        After the first 10,000 stretches of a kind, the last one is extended over all that follow.

        Args:
            found: The damage. It must begin after all damage of its kind that was noted before.
            data_bytes: Bytes of data in it; None if all of it is data.
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

    def __repr__(self) -> str:
        end = "the end is there" if self.complete else "no end so far"
        return short_repr(self, f"{found_text(self.damage, self.problems)}; {end}")

    def is_full(self, *, missing: bool) -> bool:
        """True if more damage of this kind will only extend the last stretch."""
        return self._counts.get(missing, 0) >= MAX_DAMAGE

    def _widen(self, found: Damage) -> None:
        """Extend the last stretch of the same kind to the end of this one."""
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
