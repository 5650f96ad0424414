"""The frame of the conformance kit: what a report says, and a check that hangs."""

from __future__ import annotations

import pickle
import threading
from unittest import SkipTest

import pytest

from tapestream.errors import UsageError
from tapestream.testing.kit.frame import Case, Clause, checks, examine


def keeps_its_word(case: Case) -> None:
    """It does what it
    said.
    """


def says_why(case: Case) -> None:
    """It says why."""
    raise AssertionError("offset 5 reads as 7")


def raises_an_error(case: Case) -> None:
    """It raises nothing."""
    raise KeyError("lost")


def needs_more(case: Case) -> None:
    """It can be asked."""
    raise SkipTest("there is nobody to ask")


CLAUSES = [Clause.of(each) for each in (keeps_its_word, says_why, raises_an_error, needs_more)]


def test_the_report_says_what_was_found_for_each_clause() -> None:
    report = examine(CLAUSES, Case(), None)
    assert len(report) == 4
    assert report.passed == ["keeps-its-word"]
    assert report.failed.keys() == {"says-why", "raises-an-error"}
    assert report.failed["says-why"] == "offset 5 reads as 7"
    assert report.failed["raises-an-error"].startswith("KeyError: 'lost' (in raises_an_error, line")
    assert report.skipped == {"needs-more": "there is nobody to ask"}
    assert report.expected == {}
    assert pickle.loads(pickle.dumps(report)) == report
    assert "4 clauses: 1 kept, 2 broken, 0 broken as expected, 1 not checked" in str(report)


def test_one_error_lists_all_failures() -> None:
    with pytest.raises(AssertionError) as e:
        examine(CLAUSES, Case(), None).raise_()
    assert "BROKEN says-why: It says why.\n    offset 5 reads as 7" in str(e.value)
    assert "BROKEN raises-an-error" in str(e.value)
    examine(CLAUSES[:1], Case(), None).raise_()


def test_an_expected_failure_is_not_a_failure() -> None:
    report = examine(CLAUSES, Case(), {"says-why": "not yet", "raises-an-error": "nor this"})
    assert report.expected == {"says-why": "not yet", "raises-an-error": "nor this"}
    report.raise_()


def test_an_expected_failure_that_passes_is_a_failure() -> None:
    report = examine(CLAUSES[:1], Case(), {"keeps-its-word": "not yet"})
    assert report.failed == {
        "keeps-its-word": "the backend keeps it: remove it from expected_failures (not yet)"
    }
    [(_, check)] = checks(CLAUSES[:1], Case, {"keeps-its-word": "not yet"})
    with pytest.raises(AssertionError, match="remove it from expected_failures"):
        check()


@pytest.mark.parametrize(
    "ask", [lambda e: examine(CLAUSES, Case(), e), lambda e: checks(CLAUSES, Case, e)]
)
def test_an_unknown_clause_is_an_error(ask) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match="no clause of the contract: nope") as e:
        ask({"nope": "because"})
    assert "keeps-its-word, says-why" in str(e.value)


def test_the_checks_for_parametrize_raise_what_was_found() -> None:
    found = dict(checks(CLAUSES, Case, None))
    assert [found[clause.id].__name__ for clause in CLAUSES] == [
        "keeps_its_word",
        "says_why",
        "raises_an_error",
        "needs_more",
    ]
    found["keeps-its-word"]()
    with pytest.raises(AssertionError, match="offset 5"):
        found["says-why"]()
    with pytest.raises(KeyError, match="lost"):
        found["raises-an-error"]()
    with pytest.raises(SkipTest):
        found["needs-more"](limit=5)
    [_, (_, expected), *_] = checks(CLAUSES, Case, {"says-why": "not yet"})
    with pytest.raises(SkipTest, match="not yet"):
        expected()


def test_a_check_that_hangs_is_a_failure_that_says_where() -> None:
    over = threading.Event()

    def never_returns(case: Case) -> None:
        over.wait()

    report = examine([Clause.of(never_returns)], Case(limit=0.05), None)
    over.set()
    [why] = report.failed.values()
    assert why.startswith(
        "it hangs: not done after 0.05 seconds; contract-check is in never_returns"
    )


def test_a_backend_that_hangs_twice_is_not_checked_any_more() -> None:
    over = threading.Event()

    def never_returns(case: Case) -> None:
        over.wait()

    hangs = [Clause(f"hangs-{i}", "It ends.", never_returns) for i in range(2)]
    report = examine([*hangs, *CLAUSES], Case(limit=0.05), {"hangs-1": "it is slow"})
    over.set()
    assert report.failed.keys() == {"hangs-0"}
    assert report.expected.keys() == {"hangs-1"}
    assert report.skipped.keys() == {clause.id for clause in CLAUSES}
    assert report.skipped["says-why"].startswith("it hangs in hangs-0 and hangs-1: correct")


def test_a_check_leaves_no_thread_behind() -> None:
    before = set(threading.enumerate())
    examine(CLAUSES, Case(), None)
    assert set(threading.enumerate()) <= before


def test_the_docstring_of_a_check_is_its_clause() -> None:
    assert CLAUSES[0].says == "It does what it said."
