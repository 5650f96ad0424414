"""docs/command-line.md: what it shows was captured; what can be checked quickly is checked here."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tapestream.cli.main import make_parser

PAGE = (Path(__file__).parents[2] / "docs/command-line.md").read_text(encoding="utf-8")
BLOCKS = "".join(re.findall(r"```(?:sh|text)\n(.*?)```", PAGE, re.DOTALL))
COMMANDS = re.findall(r"(?:^|^\$ |\| )(tapestream [^|>\n]*)", BLOCKS, re.MULTILINE)


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_every_command_can_be_typed(command: str) -> None:
    """The parser ends the program if an argument is unknown, or lacking."""
    make_parser().parse_args(shlex.split(command)[1:])


def test_every_command_is_named() -> None:
    help_text = make_parser().format_help()
    commands = help_text[help_text.index("commands:") : help_text.index("exit status:")]
    names = re.findall(r"^    (\w+) ", commands, re.MULTILINE)
    assert "backup" in names
    assert [name for name in names if f"`{name}`" not in PAGE] == []
