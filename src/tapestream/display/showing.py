"""Finds out how a value is shown, by the name of its class."""

from __future__ import annotations

import sys
from importlib import import_module

import tapestream

from .card import Card, Page

# The module that makes the card of a class, in a function `show`. A module is loaded when a value
# of its class is shown: the other classes may not be loaded at all.
_MODULES = {
    "Archive": "archives",
    "BackupInfo": "infos",
    "Catalog": "catalogs",
    "CatalogContents": "catalogs",
    "Chain": "archives",
    "CompareReport": "compared",
    "CopyResult": "copies",
    "Extents": "disks",
    "TapeContents": "tapes",
    "TapeReport": "tapes",
    "VerifyReport": "verified",
}


def html(value: object) -> str:
    """A value as HTML, as its `_repr_html_` returns it for a notebook.

    It contains no script, no style sheet and no id, and is less than 20 KB, whatever the value.

    Args:
        value: The value.

    Raises:
        UsageError: Values of this class are not shown.
    """
    return _card(value).html()


def text(value: object, *, width: int = 80, ascii_only: bool | None = None) -> str:
    """A value as a few lines of text, for a terminal.

    Args:
        value: The value.
        width: Columns of the terminal. At least 40 are used.
        ascii_only: True to draw with ASCII characters. None to do so if standard output cannot
            show others. Names keep their characters.

    Raises:
        UsageError: Values of this class are not shown.
    """
    if ascii_only is None:
        encoding = getattr(sys.stdout, "encoding", None) or "ascii"
        ascii_only = not encoding.lower().replace("-", "").startswith("utf")
    return "\n".join(_card(value).text(Page(max(width, 40), ascii_only=ascii_only)))


def _card(value: object) -> Card:
    for cls in type(value).__mro__:
        if cls.__name__ in _MODULES and cls.__module__.startswith("tapestream."):
            module = import_module(f".{_MODULES[cls.__name__]}", __package__)
            card: Card = module.show(value)
            return card
    shown = ", ".join(_MODULES)
    raise tapestream.errors.UsageError(
        f"there is no picture of a {type(value).__name__}", hint=f"There is one of: {shown}."
    )
