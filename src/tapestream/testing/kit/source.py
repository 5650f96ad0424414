"""check_source: proves that a source keeps the contract, clause by clause."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..memory import Content
from .frame import LIMIT, Clause, ContractReport, checks, examine
from .reading import MakeSource, SourceCase
from .source_abilities import ABILITIES
from .source_data import DATA
from .source_end import END

SOURCE_CLAUSES = tuple(Clause.of(check) for check in (*DATA, *END, *ABILITIES))


def check_source(
    make: MakeSource,
    content: Content | None = None,
    *,
    failing: MakeSource | None = None,
    blocking: MakeSource | None = None,
    limit: float = LIMIT,
    expected_failures: Mapping[str, str] | None = None,
) -> ContractReport:
    """Check that a source keeps the contract of a backend; see docs/own-backend.md.

    Each clause is checked with new sources, which are read in every way that `copy` may use, and
    closed. No test framework is needed:

        check_source(lambda: MySource("disk"), Path("disk.raw").read_bytes()).raise_()

    Use a small disk of up to a few MiB: it is kept in memory, and read about a hundred times. It
    should have several data extents with zeros between them, and an odd size, so that every clause
    can be checked. Check a full backup and an incremental one.

    Args:
        make: Returns a new source of the same disk each time, open and unread.
        content: All bytes of the disk. In an incremental backup, only what has changed is compared.
            None if they are not known; then the data is only compared with what the source delivers
            when it is read in another way.
        failing: As `make`, but a part of the data cannot be read, or is damaged. None to skip the
            clauses about errors.
        blocking: As `make`, but one of the calls blocks until it is cancelled, for example because
            a server does not reply. None to skip the clauses about that.
        limit: Seconds that one check may take. After that, it fails because the source hangs.
        expected_failures: Clauses that the source is known to break, each with the reason. It is a
            failure if it keeps one of them.

    Returns:
        What was found; its `raise_` raises if any clause is broken.

    Raises:
        UsageError: A clause that is expected to fail does not exist.
    """
    case = SourceCase(make, content, failing, blocking, limit=limit)
    return examine(SOURCE_CLAUSES, case, expected_failures)


def source_checks(
    expected_failures: Mapping[str, str] | None = None,
) -> list[tuple[str, Callable[..., None]]]:
    """The checks of `check_source` one by one, for a test framework.

    With pytest, each is a separate test:

        @pytest.mark.parametrize(("clause", "check"), source_checks())
        def test_my_source(clause, check):
            check(make, content)

    Args:
        expected_failures: As for `check_source`.

    Returns:
        The id of each clause, and a function that takes the arguments of `check_source` up to
        `limit`. It raises if the source breaks the clause, and `unittest.SkipTest` if the clause
        cannot be checked, or fails as expected.

    Raises:
        UsageError: A clause that is expected to fail does not exist.
    """
    return checks(SOURCE_CLAUSES, SourceCase, expected_failures)
