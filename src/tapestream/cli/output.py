"""Where commands show things: for people, or as one JSON object a line.

    |                 | for people             | with --json |
    | show, result    | standard output        | an object on standard output |
    | progress, note  | standard error         | the same |
    | warning, error  | standard error         | the same |

Each line is passed on its own. Whatever in it would change a terminal, or begin another line, is
escaped: a VM, a disk, a file, and what a server says, may have any characters.

If the stream of a backup goes to standard output, everything else goes to standard error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Protocol, TextIO

import tapestream

from .._typing import override
from .hints import in_our_words
from .status import Status
from .tables import printable, table, terminal_width, wrapped

if TYPE_CHECKING:
    from .progress import Shown


# The values for programs, and the cells for people.
Row = tuple[Mapping[str, object], Sequence[str]]


class ReportsStatus(Protocol):
    """What `tapestream.copy` takes as its `progress`."""

    def report_status(self, status: tapestream.CopyStatus, /) -> object:
        """Show what the copy is doing."""


class Output(Protocol):
    """Where a command shows what it does."""

    def stream_on_stdout(self) -> None:
        """Standard output gets the stream of a backup: from now on, show everything elsewhere."""

    def show(self, event: str, values: Mapping[str, object], *lines: str) -> None:
        """Show a part of what was asked for, such as a row of a table.

        Args:
            event: The kind of the object, for programs.
            values: What the object has besides.
            lines: The same for people.
        """

    def table(
        self, event: str, headings: Sequence[str], rows: Sequence[Row], *, notes: Sequence[str] = ()
    ) -> None:
        """Show a table of what was asked for: an object for each row, for programs.

        Args:
            event: The kind of these objects.
            headings: One for each column, as for `tables.table`.
            rows: For each row, the values of its object, and its cells.
            notes: Lines for people, after the table.
        """

    def result(self, values: Mapping[str, object], *lines: str) -> None:
        """Show how a command has ended; called once, at the end.

        People see only the lines, and with --quiet not even those.
        """

    def note(self, *lines: str) -> None:
        """Show what is good to know. With --quiet, people see none."""

    def warning(self, *lines: str) -> None:
        """Show what must be known."""

    def error(self, error: BaseException, status: Status) -> None:
        """Show why a command failed: what is wrong, and what to do next."""

    def progress(self, what: str) -> AbstractContextManager[ReportsStatus | None]:
        """Show, in a with block, how far a copy is: gives the `progress` of `tapestream.copy`.

        Args:
            what: What is copied, in a few words.
        """

    def paused(self) -> AbstractContextManager[None]:
        """Show no progress in this block, because somebody is asked something at the terminal."""


class ForPeople(Output):
    """Lines of text.

    Args:
        quiet: Show neither progress nor notes, nor how the command has ended.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._shown: Shown | None = None
        self._stdout_is_taken = False

    @override
    def stream_on_stdout(self) -> None:
        self._stdout_is_taken = True

    @override
    def show(self, event: str, values: Mapping[str, object], *lines: str) -> None:
        if lines:
            self._write(sys.stderr if self._stdout_is_taken else sys.stdout, lines)

    @override
    def table(
        self, event: str, headings: Sequence[str], rows: Sequence[Row], *, notes: Sequence[str] = ()
    ) -> None:
        lines = table(headings, [cells for _, cells in rows]) if rows else []
        self.show(event, {}, *lines, *notes)

    @override
    def result(self, values: Mapping[str, object], *lines: str) -> None:
        if lines and not self._quiet:
            self.show("result", values, *lines)

    @override
    def note(self, *lines: str) -> None:
        if not self._quiet:
            self._write(sys.stderr, lines)

    @override
    def warning(self, *lines: str) -> None:
        first, *rest = lines
        self._write(sys.stderr, [f"tapestream: warning: {first}", *rest])

    @override
    def error(self, error: BaseException, status: Status) -> None:
        lines = [f"tapestream: {message_of(error)}", hint_of(error)]
        self._write(sys.stderr, [line for line in lines if line])

    @override
    @contextmanager
    def progress(self, what: str) -> Iterator[ReportsStatus | None]:
        if self._quiet:
            yield None
            return
        from .progress import new_progress  # noqa: PLC0415 - few commands copy anything

        with new_progress(printable(what)) as shown:
            self._shown = shown
            try:
                yield shown
            finally:
                self._shown = None

    @override
    def paused(self) -> AbstractContextManager[None]:
        return nullcontext() if self._shown is None else self._shown.paused()

    def _write(self, file: TextIO, lines: Sequence[str]) -> None:
        lines = [printable(line) for line in lines]
        if file.isatty():
            width = terminal_width(file)
            lines = [part for line in lines for part in wrapped(line, width)]
        text = "\n".join(lines)
        if self._shown is not None and file.isatty():
            self._shown.print_above(text)
        else:
            write_line(text, file)


class ForPrograms(Output):
    """One JSON object a line.

    Args:
        quiet: Show neither progress nor notes.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._file = sys.stdout

    @override
    def stream_on_stdout(self) -> None:
        self._file = sys.stderr

    @override
    def show(self, event: str, values: Mapping[str, object], *lines: str) -> None:
        self._print({"event": event, **values})

    @override
    def table(
        self, event: str, headings: Sequence[str], rows: Sequence[Row], *, notes: Sequence[str] = ()
    ) -> None:
        for values, _ in rows:
            self.show(event, values)

    @override
    def result(self, values: Mapping[str, object], *lines: str) -> None:
        self._print({"event": "result", **values})

    @override
    def note(self, *lines: str) -> None:
        if not self._quiet:
            self._print({"event": "note", "text": "\n".join(lines)})

    @override
    def warning(self, *lines: str) -> None:
        self._print({"event": "warning", "text": "\n".join(lines)})

    @override
    def error(self, error: BaseException, status: Status) -> None:
        self._print(
            {
                "event": "error",
                "error": type(error).__name__,
                "message": message_of(error),
                "hint": hint_of(error),
                "status": int(status),
            }
        )

    @override
    @contextmanager
    def progress(self, what: str) -> Iterator[ReportsStatus | None]:
        yield None if self._quiet else _ProgressObjects(what, self._print)

    @override
    def paused(self) -> AbstractContextManager[None]:
        return nullcontext()

    def _print(self, values: Mapping[str, object]) -> None:
        write_line(json.dumps(values), self._file)


class _ProgressObjects:
    def __init__(self, what: str, write: Callable[[Mapping[str, object]], object]) -> None:
        self._what = what
        self._write = write

    def report_status(self, status: tapestream.CopyStatus) -> None:
        """Print an object."""
        self._write(
            {
                "event": "progress",
                "what": self._what,
                "phase": status.phase,
                "bytes": status.data_bytes,
                "total": status.total,
                "rate": round(status.rate),
                "stalled": round(status.waited, 1),
                "seconds": round(status.seconds, 1),
            }
        )


def write_line(text: str, file: TextIO) -> None:
    """Write text, in one call: threads of a copy report their progress, too.

    Raises:
        BrokenPipeError: Nobody reads it any more.
        LocalIOError: It cannot be written.
    """
    try:
        file.write(f"{text}\n")
        file.flush()
    except BrokenPipeError:
        raise
    except OSError as e:
        name = "standard output" if file is sys.stdout else "standard error"
        raise tapestream.errors.LocalIOError(f"cannot write to {name}", e) from e


def message_of(error: BaseException) -> str:
    """What is wrong, without what to do next."""
    if isinstance(error, tapestream.TapestreamError):
        return in_our_words(error.message)
    return f"{type(error).__name__}: {error}"


def hint_of(error: BaseException) -> str:
    """What to do next."""
    if isinstance(error, tapestream.TapestreamError):
        return in_our_words(error.hint)
    return "This is a fault of tapestream: please report it, with the lines that -v shows."
