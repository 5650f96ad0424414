"""What is written to: nothing that exists is overwritten, unless the user says so."""

from __future__ import annotations

import argparse
import os
import stat

import tapestream

from .amounts import size_text
from .parsing import Parser


def add_overwrite_option(parser: Parser) -> None:
    """Add --overwrite."""
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="write to a file that exists, or to a disk of this machine: what is there is lost",
    )


def check_overwrite(target: str, args: argparse.Namespace) -> None:
    """Make sure that nothing is lost, or that the user wants it; checked before anything else.

    A tape, a fifo and a device such as /dev/null lose nothing: what is on a tape stays.

    Raises:
        UsageError: There is something.
    """
    if args.overwrite or target == "-":
        return
    try:
        found = os.stat(target)
    except FileNotFoundError:
        return
    except OSError as e:
        raise tapestream.errors.LocalIOError(f"cannot look at {target}", e) from e
    if stat.S_ISBLK(found.st_mode):
        what = f"{target} is a disk of this machine"
    elif stat.S_ISREG(found.st_mode) and found.st_size:
        what = f"{target} exists, with {size_text(found.st_size)}"
    else:
        return
    raise tapestream.errors.UsageError(
        f"{what}: what it holds would be lost",
        hint="Pass --overwrite if that is what you want; nothing was touched.",
    )
