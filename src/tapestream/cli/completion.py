"""`tapestream completion` and `tapestream man`: made from the parser of all commands."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

import tapestream

from .._version import __version__
from .manual import manual_page
from .parsing import Parser, add_command
from .status import MEANINGS, Status

if TYPE_CHECKING:
    from .context import Context
    from .parsing import Commands

# Arguments that are the path of something.
_PATHS = {"A", "B", "CATALOG", "DEVICE", "FILE", "FOLDER", "PLACE", "SOURCE", "TARGET"}
_DETAILS = """\
For bash:

  tapestream completion bash > ~/.local/share/bash-completion/completions/tapestream

For zsh, into a folder of $fpath:

  tapestream completion zsh > ~/.zfunc/_tapestream
"""


def add_commands(commands: Commands) -> None:
    """Add `completion` and `man`."""
    completion = add_command(
        commands,
        "completion",
        _completion,
        "print a script that completes commands in a shell",
        details=_DETAILS,
    )
    completion.add_argument("shell", choices=("bash", "zsh"), metavar="SHELL", help="bash or zsh")
    add_command(
        commands,
        "man",
        _man,
        "print the manual page of tapestream",
        details="To read it: tapestream man | man -l -",
    )


def _completion(args: argparse.Namespace, context: Context) -> Status:
    try:
        import shtab  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as e:
        raise tapestream.TapestreamError(
            "completion needs the library shtab", hint="Install it, or 'tapestream[cli]'."
        ) from e
    parser = _parser()
    for action in _actions(parser):
        if not _PATHS.isdisjoint(str(action.metavar).split()):
            action.complete = shtab.FILE  # type: ignore[attr-defined] # where shtab looks for it
    script = shtab.complete(parser, args.shell).rstrip()
    context.out.show("completion", {"script": script}, *script.split("\n"))
    return Status.GOOD


def _man(_: argparse.Namespace, context: Context) -> Status:
    page = manual_page(_parser(), __version__, MEANINGS).rstrip()
    context.out.show("man", {"page": page}, *page.split("\n"))
    return Status.GOOD


def _parser() -> Parser:
    from .main import make_parser  # noqa: PLC0415 - it imports this module

    return make_parser()


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """All arguments of all commands."""
    for action in parser._actions:  # noqa: SLF001 - there is no public list
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for command in action.choices.values():
                yield from _actions(command)
        else:
            yield action
