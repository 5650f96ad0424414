"""The program `tapestream`: reads the arguments, runs the command, and ends with its status."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

import tapestream

from .._version import __version__
from .parsing import Parser, add_common, new_parser
from .status import MEANINGS, Status

# The modules of commands, in the order of the help. Each has an `add_commands`.
GROUPS = ("vm", "backup", "restore", "archive", "extents", "checks", "merge", "tape", "completion")

_NOTICE = "\nEnding. Press Ctrl-C again if this takes too long.\n"


def main(
    argv: Sequence[str] | None = None,
    *,
    drives: Mapping[str, tapestream.tape.TapeDrive] | None = None,
) -> int:
    """Run the command line, and return the exit status.

    Args:
        argv: The arguments; None for those of the process.
        drives: Tape drives by the paths that stand for them in arguments: simulated drives, or
            drives of another driver. They are released at the end. All other paths are opened.
    """
    _open_closed_files()
    args = make_parser().parse_args(argv)
    from .context import Context  # noqa: PLC0415 - `tapestream --help` needs none of these
    from .drives import Drives  # noqa: PLC0415
    from .failures import exit_status  # noqa: PLC0415
    from .logs import logging_to  # noqa: PLC0415
    from .output import ForPeople, ForPrograms  # noqa: PLC0415
    from .signals import Signals  # noqa: PLC0415

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names may have any characters
    out = (ForPrograms if args.json else ForPeople)(quiet=args.quiet)
    cancel = tapestream.Cancel()
    is_watched = not args.json and sys.stderr.isatty()
    signals = Signals(cancel, _NOTICE if is_watched else None)

    def run() -> Status:
        with Drives(drives or {}) as found:
            return args.run(args, Context(out, cancel, signals, found))  # type: ignore[no-any-return]

    with signals.caught(), logging_to(out, verbose=args.verbose):
        return exit_status(run, out, signals, verbose=args.verbose)


def _open_closed_files() -> None:
    """Put something in the place of standard files that are closed, as after `>&-`.

    Otherwise the next file that is opened would get the number of standard output, and what is
    printed. Writing to the new standard output fails, because it is opened for reading.
    """
    for fd, name, flags in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            os.open(os.devnull, os.O_WRONLY if fd == 2 else os.O_RDONLY)
            setattr(sys, name, open(fd, flags, closefd=False))  # noqa: SIM115 - stays open


def make_parser() -> Parser:
    """Make the parser of all commands."""
    statuses = "\n".join(f"  {status:3}  {meaning}" for status, meaning in MEANINGS.items())
    parser = new_parser(
        "tapestream",
        "Stream oVirt VM disk backups to tape, pipe or file as a plain tar, and back.",
        f"exit status:\n{statuses}",
    )
    parser.add_argument("--version", action="version", version=f"tapestream {__version__}")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", required=True
    )
    for group in GROUPS:
        import_module(f".{group}", __package__).add_commands(commands)
    add_common(parser)
    return parser
