"""The parser of arguments, and how a group of commands adds its own to it.

    def add_commands(subparsers: Commands) -> None:
        parser = add_command(subparsers, "list", run_list, "list the backups in a folder")
        parser.add_argument("folder", metavar="FOLDER")

    def run_list(args: argparse.Namespace, context: Context) -> Status: ...

A module of commands is imported for every `tapestream --help`. What its commands need is loaded
when one of them runs: `import tapestream`, and then `tapestream.archive.read_folder` inside the
function, because the public names are loaded when they are first used.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from .._typing import override
from .status import Status

if TYPE_CHECKING:
    from .context import Context

    Commands = argparse._SubParsersAction["Parser"]  # noqa: SLF001 - it has no public name
    Run = Callable[[argparse.Namespace, Context], Status]
else:
    Commands = Run = Any

_Namespace = TypeVar("_Namespace")

# Long lines are hard to read, however wide the terminal is.
_WIDEST = 100


class Parser(argparse.ArgumentParser):
    """Takes options anywhere among the other arguments, and shows no URL in an error."""

    _is_inside = False

    @override
    def parse_known_args(  # type: ignore[override] # argparse has three overloads of it
        self, args: Sequence[str] | None = None, namespace: _Namespace | None = None
    ) -> tuple[argparse.Namespace | _Namespace, list[str]]:
        # `parse_known_intermixed_args` calls this method, and cannot have subcommands.
        if self._is_inside or self._subparsers is not None:
            return super().parse_known_args(args, namespace)
        if "" in (args or ()) or any(re.fullmatch("--[a-z-]+=", each) for each in args or ()):
            self.error("an argument is empty: is a variable of your script not set?")
        self._is_inside = True
        try:
            found, unknown = self.parse_known_intermixed_args(args, namespace)
            if unknown:  # otherwise the parser of the whole program would report them
                self.error(f"there is no such option or argument: {' '.join(unknown)}")
            return found, unknown
        finally:
            self._is_inside = False

    @override
    def error(self, message: str) -> NoReturn:
        text = re.sub(r"\w+://\S+", "URL", message)  # a transfer URL is a secret
        lines = [f"{self.prog}: {text}", f"Try '{self.prog} --help'."]
        if sys.stderr.isatty():
            from .tables import terminal_width, wrapped  # noqa: PLC0415 - few runs need it

            width = terminal_width(sys.stderr)
            lines = [part for line in lines for part in wrapped(line, width)]
        self.exit(Status.USAGE, "".join(f"{line}\n" for line in lines))


class _Help(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=min(_columns(), _WIDEST) - 2)

    @override
    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Fill each paragraph, but leave lines alone that are indented, such as examples."""
        paragraphs = text.strip().split("\n\n")
        filled = (
            part
            if part[:1].isspace() or "\n " in part
            else super(_Help, self)._fill_text(part, width, indent)
            for part in paragraphs
        )
        return "\n\n".join(filled)


def _columns() -> int:
    """The width of the terminal. `shutil`, which argparse would import for it, takes longer."""
    try:
        return int(os.environ.get("COLUMNS") or os.get_terminal_size(sys.stdout.fileno()).columns)
    except (ValueError, OSError, AttributeError):
        return 80


def new_parser(prog: str, description: str, epilog: str) -> Parser:
    """Make the parser of the whole program."""
    return Parser(
        prog=prog,
        description=description,
        epilog=epilog,
        formatter_class=_Help,
        allow_abbrev=False,
    )


def add_group(commands: Commands, name: str, summary: str) -> Commands:
    """Add a command that has commands of its own, and return these, to add some."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=_sentence(summary),
        formatter_class=_Help,
        allow_abbrev=False,
    )
    add_common(parser, default=argparse.SUPPRESS)
    return parser.add_subparsers(
        title="commands", metavar="COMMAND", dest=f"{name}_command", required=True
    )


def add_command(
    commands: Commands, name: str, run: Run, summary: str, *, details: str = "", usage: str = ""
) -> Parser:
    """Add a command, and return its parser, to add arguments.

    Args:
        commands: What `add_commands` of the module was given, or what `add_group` returned.
        name: What the user types.
        run: Called to run it.
        summary: One line for the list of commands, without a capital letter and a full stop.
        details: What else the help of the command says.
        usage: The arguments in the first line of the help; what argparse makes of them if empty.
    """
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{_sentence(summary)}\n\n{details}".strip(),
        usage=f"%(prog)s {usage}" if usage else None,
        formatter_class=_Help,
        allow_abbrev=False,
    )
    # Options of the whole program may stand after the command, too. They have no default here: it
    # would replace what stands before the command.
    add_common(parser, default=argparse.SUPPRESS)
    parser.set_defaults(run=run)
    return parser


def add_common(parser: Parser, default: object = False) -> None:
    """Add the options that all commands have."""
    group = parser.add_argument_group("output")
    group.add_argument(
        "--json",
        action="store_true",
        default=default,
        help="print one JSON object a line: for progress, and for each result",
    )
    group.add_argument(
        "-q",
        "--quiet",
        action="store_true",
        default=default,
        help="show no progress and no notes; only what was asked for, warnings and errors",
    )
    group.add_argument(
        "-v",
        "--verbose",
        "--debug",
        action="store_true",
        default=default,
        help="log what is done, and show where in the program an error came from",
    )


def _sentence(summary: str) -> str:
    return f"{summary[0].upper()}{summary[1:]}."
