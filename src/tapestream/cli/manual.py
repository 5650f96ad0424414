"""The manual page of tapestream, in roff: the help of all commands, one after another."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterator, Mapping

from .status import Status

# Options that every command has are described once, for the whole program.
_COMMON = "output"


def manual_page(
    parser: argparse.ArgumentParser, version: str, meanings: Mapping[Status, str]
) -> str:
    """Write the manual page.

    Args:
        parser: The parser of all commands.
        version: The version of the program.
        meanings: What each exit status means.
    """
    return "\n".join(_page(parser, version, meanings)) + "\n"


def _page(
    parser: argparse.ArgumentParser, version: str, meanings: Mapping[Status, str]
) -> Iterator[str]:
    date = time.strftime("%Y-%m-%d", time.gmtime())
    yield f'.TH TAPESTREAM 1 {date} "tapestream {version}" "User Commands"'
    yield ".SH NAME"
    yield r"tapestream \- back up and restore disks of oVirt VMs, to tape, pipe or file"
    yield ".SH SYNOPSIS"
    yield r"\fBtapestream\fR \fICOMMAND\fR ..."
    yield ".SH DESCRIPTION"
    yield from _paragraphs(parser.description or "")
    yield ".SH OPTIONS OF ALL COMMANDS"
    for group in parser._action_groups:  # noqa: SLF001 - argparse has no public way to ask
        if group.title == _COMMON:
            yield from _arguments(group)
    yield ".SH COMMANDS"
    yield from _commands(parser)
    yield ".SH EXIT STATUS"
    for status, meaning in meanings.items():
        yield from (".TP", f"{status:d}", _escaped(meaning))


def _commands(parser: argparse.ArgumentParser) -> Iterator[str]:
    """All commands that do something, also those in groups."""
    for action in parser._actions:  # noqa: SLF001 - likewise
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - likewise
            for command in action.choices.values():
                yield from _commands(command)
            return
    yield from _command(parser)


def _command(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield f".SS {_escaped(parser.prog)}"
    words = parser.format_usage().split()[1 + len(parser.prog.split()) :]
    usage = " ".join(word for word in words if word not in ("[-h]", "[--json]", "[-q]", "[-v]"))
    yield rf"\fB{_escaped(parser.prog)}\fR {_escaped(usage)}".rstrip()
    yield from _paragraphs(parser.description or "", first=".PP")
    for group in parser._action_groups:  # noqa: SLF001 - likewise
        if group.title != _COMMON:
            yield from _arguments(group)


def _arguments(group: argparse._ArgumentGroup) -> Iterator[str]:
    if group.title not in (_COMMON, "options", "positional arguments"):
        yield from (".PP", rf"\fB{_escaped(str(group.title).capitalize())}\fR")
    if group.description:
        yield from _paragraphs(group.description, first=".PP")
    for action in group._group_actions:  # noqa: SLF001 - likewise
        if action.help == argparse.SUPPRESS or action.dest in ("help", "version"):
            continue
        yield ".TP"
        yield _names(action)
        yield _escaped(_help_of(action))


def _names(action: argparse.Action) -> str:
    """An argument as one types it."""
    value = action.metavar or "|".join(map(str, action.choices or ())) or action.dest.upper()
    if not action.option_strings:
        return rf"\fI{_escaped(str(value))}\fR"
    end = "" if action.nargs == 0 else rf" \fI{_escaped(str(value))}\fR"
    return ", ".join(rf"\fB{_escaped(name)}\fR{end}" for name in action.option_strings)


def _help_of(action: argparse.Action) -> str:
    return (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%")


def _paragraphs(text: str, first: str = "") -> Iterator[str]:
    """Text that is filled; indented lines stay as they are."""
    for number, block in enumerate(text.strip().split("\n\n")):
        if number or first:
            yield ".PP"
        if all(line.startswith(" ") for line in block.splitlines()):
            yield from (".nf", *map(_escaped, block.splitlines()), ".fi")
        else:
            yield from map(_escaped, block.splitlines())


def _escaped(text: str) -> str:
    r"""Text that roff takes as it is: \ and - are special, and so are . and ' in front."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    return re.sub(r"^(?=[.'])", r"\&", escaped)
