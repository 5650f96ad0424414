"""The frame of the conformance kit: clauses of the contract, a check for each, and the report.

A check gets a case, which says how to make the backend under test. The check returns if the backend
keeps the clause, and raises any error if it does not. It raises `unittest.SkipTest` if the clause
cannot be checked for this backend; pytest and unittest know that error, too.
"""

from __future__ import annotations

import inspect
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Generic, Literal, ParamSpec, TypeVar
from unittest import SkipTest

from ...errors import UsageError

# Seconds. A check takes milliseconds if the backend is in memory or in files, and a second or two
# with a server. One that takes longer than this hangs.
LIMIT = 30.0
# If a backend hangs in this many clauses, the rest is not checked: that would take too long.
MOST_HANGS = 2


@dataclass(frozen=True, kw_only=True)
class Case:
    """What every check gets; sources and sinks add how they are made.

    Args:
        limit: Seconds that one check may take. After that, the backend counts as hanging.
    """

    limit: float = LIMIT

    def __post_init__(self) -> None:
        if not __debug__:
            raise UsageError(
                "Python runs without assertions, so the checks would find nothing wrong",
                hint="Run Python without -O and without PYTHONOPTIMIZE.",
            )
        if not self.limit > 0:
            raise UsageError(f"limit must be more than 0 seconds, not {self.limit!r}")


class HangsError(AssertionError):
    """A check was not done within its limit."""


C = TypeVar("C", bound=Case)
P = ParamSpec("P")


@dataclass(frozen=True)
class Clause(Generic[C]):
    """One clause of the contract.

    Args:
        id: Its name, and its anchor in docs/own-backend.md.
        says: The clause, in one or two sentences.
        check: Raises if a backend breaks it.
    """

    id: str
    says: str
    check: Callable[[C], None]

    @classmethod
    def of(cls, check: Callable[[C], None]) -> Clause[C]:
        """Make a clause from its check: the function's name is the id, its docstring the text."""
        says = " ".join(inspect.cleandoc(check.__doc__ or "").split())
        return cls(check.__name__.replace("_", "-"), says, check)

    def ask(self, case: C) -> None:
        """Check that a backend keeps this clause, within the case's limit.

        Raises:
            SkipTest: It cannot be checked for this backend.
            AssertionError: The backend breaks it, or hangs. An error of the backend itself is
                raised as it is.
        """
        within(case.limit, partial(self.check, case))


@dataclass(frozen=True)
class Outcome:
    """What the check of one clause found.

    Attributes:
        clause: The clause's id.
        says: What the clause says.
        state: "passed", "failed", "skipped" (it cannot be checked), or "expected" (it failed, as
            the caller expected).
        why: What is wrong, or the reason. Empty if it passed.
        hangs: True if the check was not done within its limit.
    """

    clause: str
    says: str
    state: Literal["passed", "failed", "skipped", "expected"]
    why: str = ""
    hangs: bool = False


@dataclass(frozen=True)
class ContractReport:
    """Which clauses of the contract a backend keeps. `len` says how many there are.

    Attributes:
        outcomes: What was found, clause by clause.
    """

    outcomes: tuple[Outcome, ...]

    def __len__(self) -> int:
        return len(self.outcomes)

    @property
    def passed(self) -> list[str]:
        """The clauses that the backend keeps."""
        return list(self._why("passed"))

    @property
    def failed(self) -> dict[str, str]:
        """The clauses that it breaks, and how; and those that it keeps although it should not."""
        return self._why("failed")

    @property
    def skipped(self) -> dict[str, str]:
        """The clauses that cannot be checked for this backend, each with the reason."""
        return self._why("skipped")

    @property
    def expected(self) -> dict[str, str]:
        """The clauses that it breaks, as the caller expected, each with the caller's reason."""
        return self._why("expected")

    def raise_(self) -> None:
        """Raise if the backend breaks any clause.

        Raises:
            AssertionError: It does. The text lists all of them.
        """
        if self.failed:
            raise AssertionError(str(self))

    def __str__(self) -> str:
        counts = (
            f"{len(self)} clauses: {len(self.passed)} kept, {len(self.failed)} broken, "
            f"{len(self.expected)} broken as expected, {len(self.skipped)} not checked"
        )
        broken = [f"BROKEN {o.clause}: {o.says}\n    {o.why}" for o in self._all("failed")]
        expected = [f"broken as expected: {o.clause}: {o.why}" for o in self._all("expected")]
        skipped = [f"not checked: {o.clause}: {o.why}" for o in self._all("skipped")]
        return "\n".join([counts, *broken, *expected, *skipped])

    def _all(self, state: str) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.state == state]

    def _why(self, state: str) -> dict[str, str]:
        return {outcome.clause: outcome.why for outcome in self._all(state)}


def examine(
    clauses: Sequence[Clause[C]], case: C, expected_failures: Mapping[str, str] | None
) -> ContractReport:
    """Check a backend against every clause.

    Args:
        clauses: The clauses.
        case: How to make the backend.
        expected_failures: Clauses that it is known to break, each with the reason. It is a failure
            if it keeps one of them.

    Raises:
        UsageError: A clause that is expected to fail does not exist.
    """
    expected = _known(expected_failures, clauses)
    outcomes: list[Outcome] = []
    for each in clauses:
        hung = [outcome.clause for outcome in outcomes if outcome.hangs]
        if len(hung) < MOST_HANGS:
            outcomes.append(_outcome(each, case, expected.get(each.id)))
        else:
            reason = f"it hangs in {' and '.join(hung)}: correct that first"
            outcomes.append(Outcome(each.id, each.says, "skipped", reason))
    return ContractReport(tuple(outcomes))


def checks(
    clauses: Sequence[Clause[C]],
    case: Callable[P, C],
    expected_failures: Mapping[str, str] | None,
) -> list[tuple[str, Callable[P, None]]]:
    """The clauses for `pytest.mark.parametrize`: for each its id, and a function that checks it.

    Args:
        clauses: The clauses.
        case: Makes a case of the arguments that the function is called with.
        expected_failures: Clauses that the backend is known to break, each with the reason. Such a
            function raises SkipTest if the backend breaks it, and AssertionError if it keeps it.

    Raises:
        UsageError: A clause that is expected to fail does not exist.
    """
    expected = _known(expected_failures, clauses)
    return [(each.id, _check(each, case, expected.get(each.id))) for each in clauses]


def _check(clause: Clause[C], case: Callable[P, C], reason: str | None) -> Callable[P, None]:
    @wraps(clause.check)
    def check(*args: P.args, **kwargs: P.kwargs) -> None:
        __tracebackhide__ = True  # pytest shows the clause's own lines
        asked = case(*args, **kwargs)
        if reason is None:
            clause.ask(asked)
            return
        outcome = _outcome(clause, asked, reason)
        if outcome.state == "failed":
            raise AssertionError(outcome.why)
        raise SkipTest(outcome.why)

    del check.__wrapped__  # pytest would look for its arguments there
    return check


def _outcome(clause: Clause[C], case: C, reason: str | None) -> Outcome:
    outcome = partial(Outcome, clause.id, clause.says)
    try:
        clause.ask(case)
    except SkipTest as e:
        return outcome("skipped", str(e))
    except Exception as e:  # noqa: BLE001 - whatever a backend raises is what the report is about
        hangs = isinstance(e, HangsError)
        if reason is None:
            return outcome("failed", _explained(e), hangs)
        return outcome("expected", reason, hangs)
    if reason is None:
        return outcome("passed")
    return outcome("failed", f"the backend keeps it: remove it from expected_failures ({reason})")


def _known(
    expected_failures: Mapping[str, str] | None, clauses: Sequence[Clause[C]]
) -> Mapping[str, str]:
    expected = expected_failures or {}
    unknown = sorted(expected.keys() - {clause.id for clause in clauses})
    if unknown:
        raise UsageError(
            f"expected_failures names no clause of the contract: {', '.join(unknown)}",
            hint=f"The clauses are {', '.join(clause.id for clause in clauses)}.",
        )
    return expected


def within(seconds: float, do: Callable[[], None]) -> None:
    """Do something in a separate thread, and wait for it up to this many seconds.

    Raises:
        HangsError: It hangs. The text says which thread is where.
        BaseException: What it raises.
    """
    error: BaseException | None = None

    def run() -> None:
        nonlocal error
        try:
            do()
        except BaseException as e:  # noqa: BLE001 - raised again below
            error = e

    before = set(threading.enumerate())
    thread = threading.Thread(
        target=copy_context().run, args=(run,), name="contract-check", daemon=True
    )
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        ours = [each for each in threading.enumerate() if each not in before]
        raise HangsError(f"it hangs: not done after {seconds:g} seconds; {_where(ours)}")
    if error is not None:
        try:
            raise error
        finally:
            error = None  # otherwise this frame and its traceback would keep each other alive


def _where(threads: Sequence[threading.Thread]) -> str:
    """Say where each thread is, without the lines of Python's own `threading`."""
    frames = sys._current_frames()  # noqa: SLF001 - documented, and the only way
    places = []
    for thread in threads:
        frame = frames.get(thread.ident or 0)
        stack = [] if frame is None else traceback.extract_stack(frame)
        lines = [line for line in stack if line.filename != threading.__file__]
        places += [f"{thread.name} is in {_line(line)}" for line in lines[-1:]]
    return "; ".join(places)


def _explained(error: Exception) -> str:
    """The text of an error; if it is an error of the backend, also where it was raised."""
    if type(error) in (AssertionError, HangsError) and str(error):
        return str(error)
    lines = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__}: {error} (in {_line(lines[-1])})"


def _line(line: traceback.FrameSummary) -> str:
    return f"{line.name}, line {line.lineno} of {Path(line.filename).name}"
