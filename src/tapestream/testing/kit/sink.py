"""check_sink: proves that a sink keeps the contract, clause by clause."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .disks import SIZE
from .frame import LIMIT, Clause, ContractReport, checks, examine
from .sink_abilities import ABILITIES
from .sink_data import DATA
from .sink_end import END
from .target import Existing, MakeSink, ReadBack, SinkCase

SINK_CLAUSES = tuple(Clause.of(check) for check in (*DATA, *END, *ABILITIES))


def check_sink(
    make: MakeSink,
    read_back: ReadBack,
    *,
    existing: Existing = "kept",
    size: int = SIZE,
    failing: MakeSink | None = None,
    blocking: MakeSink | None = None,
    limit: float = LIMIT,
    expected_failures: Mapping[str, str] | None = None,
) -> ContractReport:
    """Check that a sink keeps the contract of a backend; see docs/own-backend.md.

    Each clause is checked with new sinks and new targets: by `copy`, and by direct calls in any
    order that `copy` may use. No test framework is needed:

        def read_back(directory):
            with MySource(directory / "disk") as source, MemorySink() as sink:
                copy(source, sink)
            return sink.disk

        check_sink(lambda directory: MySink(directory / "disk"), read_back).raise_()

    Args:
        make: Called with a directory; returns a new sink. The directory is new and empty, and is
            the target, or represents it: a sink that writes to a server can use the name of the
            directory as the name of its target. If `make` is called again with the same directory,
            the new sink has the same target, which then holds what was written before.
        read_back: Called with such a directory; returns all bytes of the disk that its target
            holds. If there is nothing complete, it returns None, or raises a `TapestreamError` or
            a `FileNotFoundError`. It is also called while the sink is still open. If it cannot read
            then, it raises `unittest.SkipTest`. An incremental backup leaves some ranges as they
            are. What this returns for them matters only if the target is overwritten.
        existing: What happens to the old contents of a target when a new sink writes to it.
            "kept": they stay complete until the commit, such as an older file of the same name.
            "overwritten": they are changed in place, and nothing is complete until the commit.
            "unmarked": the same, but the target does not show whether it is complete, such as a
            disk; `read_back` returns whatever is there.
            "none": a target is always new; `make` gets each directory only once.
        size: Size in bytes of most of the disks that are written, a multiple of 65536. If the
            target has a fixed size, pass that.
        failing: As `make`, but the target cannot store a disk: the storage is full, the connection
            breaks. None to skip the clauses about errors.
        blocking: As `make`, but a call of the sink blocks in the middle of a copy, until it is
            cancelled: nobody reads the pipe, the server does not reply. None to skip that clause.
        limit: Seconds that one check may take. After that, it fails because the sink hangs.
        expected_failures: Clauses that the sink is known to break, each with the reason. It is a
            failure if it keeps one of them.

    Returns:
        What was found; its `raise_` raises if any clause is broken.

    Raises:
        UsageError: An argument cannot work, or a clause that is expected to fail does not exist.
    """
    case = SinkCase(make, read_back, existing, size, failing, blocking, limit=limit)
    return examine(SINK_CLAUSES, case, expected_failures)


def sink_checks(
    expected_failures: Mapping[str, str] | None = None,
) -> list[tuple[str, Callable[..., None]]]:
    """The checks of `check_sink` one by one, for a test framework.

    With pytest, each is a separate test:

        @pytest.mark.parametrize(("clause", "check"), sink_checks())
        def test_my_sink(clause, check):
            check(make, read_back)

    Args:
        expected_failures: As for `check_sink`.

    Returns:
        The id of each clause, and a function that takes the arguments of `check_sink` up to
        `limit`. It raises if the sink breaks the clause, and `unittest.SkipTest` if the clause
        cannot be checked, or fails as expected.

    Raises:
        UsageError: A clause that is expected to fail does not exist.
    """
    return checks(SINK_CLAUSES, SinkCase, expected_failures)
