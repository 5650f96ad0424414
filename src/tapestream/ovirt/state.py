"""What a run has started in the engine, in a file: the next run finds it if this one is killed.

Each run has a file of its own, and keeps it locked. The file is there before anything is started,
and goes when everything has ended. So a file that nobody has locked is that of a run that was
killed, or could not clean up. It has ids only: no password, ticket or URL of a transfer.

A file has a line of JSON for each thing that happened. A line is added by one write, so a run that
is killed leaves whole lines, and at most one that is cut.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .._typing import Self
from ..errors import LocalIOError

Facts = Mapping[str, Any]
_SUFFIX = ".run"
_MAX_FILE = 1024**2  # far more than the ids of the largest VM


def state_directory(state: str | os.PathLike[str] | None) -> Path:
    """The directory of these files: `$XDG_STATE_HOME/tapestream`, if no other is given."""
    if state is not None:
        return Path(state)
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(home).expanduser() / "tapestream"


class RunRecord:
    """The file of a run that is under way. A context manager, which leaves the file.

    Args:
        directory: Where to make it; it is created if it does not exist.
        name: A name that no other run has.
        first: What the next run has to know in any case.

    Raises:
        LocalIOError: The file cannot be written. Nothing has been started yet.
    """

    def __init__(self, directory: Path, name: str, first: Facts) -> None:
        self._path = directory / f"{name}{_SUFFIX}"
        with _local_errors(f"cannot write {self._path}"):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = _locked_new_file(self._path)
            _sync_directory(directory)
        self.note(first)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        os.close(self._fd)

    def note(self, facts: Facts) -> None:
        """Add what has just happened; it is on stable storage when this returns.

        Raises:
            LocalIOError: It cannot be written.
        """
        with _local_errors(f"cannot write {self._path}"):
            os.write(self._fd, json.dumps(facts).encode() + b"\n")
            os.fsync(self._fd)

    def remove(self) -> None:
        """Remove the file: everything has ended."""
        with _local_errors(f"cannot remove {self._path}"):
            self._path.unlink(missing_ok=True)


class OldRecord:
    """The file of a run that is not under way any more, locked.

    Attributes:
        path: The file.
        facts: Its lines; None if it is no file of ours, or cannot be read.
    """

    def __init__(self, path: Path, facts: list[Facts] | None) -> None:
        self.path = path
        self.facts = facts

    def remove(self) -> None:
        """Remove the file: everything has ended."""
        with _local_errors(f"cannot remove {self.path}"):
            self.path.unlink(missing_ok=True)


def old_records(directory: Path) -> Iterator[OldRecord]:
    """Yield the files of runs that were killed. Each is locked until the next one is asked for.

    Args:
        directory: The directory of the files; it need not exist.

    Raises:
        LocalIOError: The directory cannot be read.
    """
    with _local_errors(f"cannot read {directory}"):
        paths = sorted(directory.glob(f"*{_SUFFIX}")) if directory.is_dir() else []
    for path in paths:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue  # its run has just ended
        except OSError:
            yield OldRecord(path, None)
            continue
        try:
            if not _lock(fd) or not os.fstat(fd).st_nlink:
                continue  # it is under way, or has just ended
            text = os.read(fd, _MAX_FILE)
            if text:
                yield OldRecord(path, _lines(text))
            else:
                path.unlink(missing_ok=True)  # killed before it started anything
        finally:
            os.close(fd)


def _lines(text: bytes) -> list[Facts] | None:
    whole = text.split(b"\n")[:-1]  # the last line may be cut
    try:
        facts = [json.loads(line) for line in whole]
    except ValueError:
        return None
    return facts if facts and all(isinstance(each, dict) for each in facts) else None


def _locked_new_file(path: Path) -> int:
    while True:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:
            return fd
        os.close(fd)  # another run took the empty file for that of a killed one


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        if e.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def _local_errors(doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise LocalIOError(
            doing, e, hint="Pass another directory as `state`, or correct who may write there."
        ) from e
