"""Hints name commands, not functions of the library."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import tapestream
from tapestream.cli.hints import WORDS, in_our_words
from tapestream.errors import EndOfTapeError

LIBRARY = Path(tapestream.__file__).parent


def texts() -> str:
    """The library's source, with the parts of each text joined."""
    sources = (path.read_text() for path in LIBRARY.rglob("*.py") if path.parent.name != "cli")
    return re.sub(r'"\s*\n\s*f?"', "", "\n".join(sources))


@pytest.mark.parametrize("words", WORDS)
def test_the_library_says_so(words: str) -> None:
    assert words in texts()


def test_a_hint_names_a_command() -> None:
    assert "on_volume_full" in EndOfTapeError.hint
    assert in_our_words(EndOfTapeError.hint).startswith("Run this in a terminal")
