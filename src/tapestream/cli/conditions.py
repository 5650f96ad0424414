"""Options that would have no effect are refused: whoever passes one expects something of it."""

from __future__ import annotations

import argparse

import tapestream


def refuse(args: argparse.Namespace, *options: str, why: str, hint: str) -> None:
    """Make sure that none of these options was given.

    Args:
        args: The arguments.
        options: Their names, such as "--label". Such an option is None or False if it is not given.
        why: Why it would have no effect: what follows its name in the error.
        hint: What to do instead.

    Raises:
        UsageError: One was given.
    """
    for option in options:
        value = getattr(args, option.lstrip("-").replace("-", "_"))
        if value is not None and value is not False:  # 0 is the number of a tape file
            raise tapestream.errors.UsageError(f"{option} {why}", hint=hint)
