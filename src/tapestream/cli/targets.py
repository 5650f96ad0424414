"""What is written to: nothing that exists is overwritten, unless the user says so."""

from __future__ import annotations

import argparse
import os
import stat
from typing import TYPE_CHECKING

import tapestream

from .amounts import size_text
from .conditions import refuse
from .parsing import Parser
from .urls import is_url

if TYPE_CHECKING:
    from .context import Context


def add_overwrite_option(parser: Parser) -> None:
    """Add --overwrite."""
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="write to a file that exists, or to a disk of this machine: what is there is lost",
    )


def check_overwrite(target: str, args: argparse.Namespace, context: Context) -> None:
    """Make sure that nothing is lost, or that the user wants it; checked before anything else.

    Raises:
        UsageError: There is something; or --overwrite has no effect on such a target.
    """
    why = _cannot_lose(target, context)
    if why is not None:
        refuse(args, "--overwrite", why=f"is for files and disks: {why}", hint="Leave it out.")
    elif not args.overwrite:
        _check_empty(target)


def _cannot_lose(target: str, context: Context) -> str | None:
    """Why nothing that is in the target can be lost; None if it can."""
    if is_url(target):
        return "a transfer writes to its disk without it"
    if context.drives.find(target) is not None:
        return "what is on a tape stays there, unless 'tapestream tape label --overwrite' ends it"
    if os.path.isdir(target):
        return "in a folder, each backup gets a file of its own"
    if target == "-" or stat.S_ISFIFO(_mode(target)) or stat.S_ISCHR(_mode(target)):
        return "a pipe or such a device keeps nothing that could be lost"
    return None


def _mode(path: str) -> int:
    found = _found(path)
    return 0 if found is None else found.st_mode


def _found(path: str) -> os.stat_result | None:
    """What is there; None if there is nothing.

    Raises:
        LocalIOError: That cannot be found out.
    """
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None
    except OSError as e:
        raise tapestream.errors.LocalIOError(f"cannot look at {path}", e) from e


def _check_empty(target: str) -> None:
    found = _found(target)
    if found is not None and stat.S_ISBLK(found.st_mode):
        what = f"{target} is a disk of this machine"
    elif found is not None and stat.S_ISREG(found.st_mode) and found.st_size:
        what = f"{target} exists, with {size_text(found.st_size)}"
    else:
        return
    raise tapestream.errors.UsageError(
        f"{what}: what it holds would be lost",
        hint="Pass --overwrite if that is what you want; nothing was touched.",
    )
