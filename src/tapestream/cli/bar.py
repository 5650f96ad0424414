"""A progress bar, drawn with rich on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from .._typing import Self
from .amounts import duration_text, rate_text, size_text

if TYPE_CHECKING:
    import tapestream


# The line fits into 80 columns, however wide the terminal is: it may become narrower meanwhile.
_WIDTH = 20


class Bar:
    """One line on standard error: what, a bar, how much, how fast, how long.

    Args:
        what: What is copied.
    """

    def __init__(self, what: str) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=_WIDTH),
            TaskProgressColumn(),
            TextColumn("{task.fields[amount]}", markup=False),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task(what, total=None, amount="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def report_status(self, status: tapestream.CopyStatus) -> None:
        """Draw it."""
        amount = f"{size_text(status.data_bytes)}/{size_text(status.total)}"
        if status.phase == "data":
            left = status.total - status.data_bytes
            after = f" {duration_text(left / status.rate)}" if status.rate > 1 else ""
            amount += f" {rate_text(status.rate)}{after}"
        else:
            amount = status.phase if status.phase == "extents" else f"{amount} {status.phase}"
        self._progress.update(
            self._task,
            total=status.total or None,
            completed=status.data_bytes,
            amount=amount,
        )

    def print_above(self, text: str) -> None:
        """Print text above the bar."""
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Remove the bar in this block."""
        self._progress.stop()
        try:
            yield
        finally:
            self._progress.start()
