"""Runs the program `tapestream` as a process of its own."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import tapestream
from tapestream.cli.main import main
from tapestream.tape import TapeDrive
from tapestream.testing import FakeDrive

PROGRAM = (sys.executable, "-m", "tapestream")
# A hang must not stop all tests. Nothing here takes more than a few seconds.
LIMIT = 60
# The program shows local time.
ZONE = "Europe/Berlin"
SOURCE = str(Path(tapestream.__file__).parents[1])


def environment(**more: str) -> dict[str, str]:
    """The environment of the program: that of the tests, but with known widths and times."""
    known = {"PYTHONPATH": SOURCE, "COLUMNS": "80", "TZ": ZONE}
    # Without bytecode, each process would compile all modules again.
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {**inherited, **known, **more}


class Ended(NamedTuple):
    """How the program has ended."""

    status: int
    out: str
    err: str

    @property
    def objects(self) -> list[dict[str, Any]]:
        """What --json printed."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def result(self) -> dict[str, Any]:
        """The last of these objects."""
        return self.objects[-1]


def run(
    *arguments: object,
    stdin: bytes | None = None,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
    **variables: str,
) -> Ended:
    """Run the program to its end.

    Args:
        arguments: Its arguments.
        stdin: What it reads; nothing when not given.
        cwd: Where it runs.
        pass_fds: Descriptors that it inherits.
        variables: Environment variables.
    """
    ended = subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        input=b"" if stdin is None else stdin,
        capture_output=True,
        cwd=cwd,
        pass_fds=pass_fds,
        env=environment(**variables),
        timeout=LIMIT,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout.decode(), ended.stderr.decode())


def call(*arguments: object, drives: Mapping[str, FakeDrive] | None = None) -> Ended:
    """Run the program in this process: that is faster, where a process is not what is tested.

    Args:
        arguments: Its arguments.
        drives: Simulated tape drives, by the paths that stand for them.
    """
    opened = {
        path: TapeDrive(path, open_device=drive.open) for path, drive in (drives or {}).items()
    }
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            status = main([str(argument) for argument in arguments], drives=opened)
        except SystemExit as e:  # that is how argparse ends
            status = int(e.code or 0)
    return Ended(status, out.getvalue(), err.getvalue())


def start(
    *arguments: object,
    prefix: Sequence[str] = (),
    pass_fds: Sequence[int] = (),
    variables: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start the program, with pipes for its output.

    Args:
        arguments: Its arguments.
        prefix: A command that runs it.
        pass_fds: Descriptors that it inherits.
        variables: Environment variables.
    """
    return subprocess.Popen(
        [*prefix, *PROGRAM, *map(str, arguments)],
        env=environment(**(variables or {})),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=pass_fds,
    )
