"""Values that show what they are: in one line as text, and as a picture in a notebook.

`tapestream.display` draws the pictures. It lies above everything else, because it uses the public
names only, and imports point downwards. So it is found by its name here, when an object is shown
for the first time: a program that shows nothing does not load it.
"""

from __future__ import annotations

from importlib import import_module

from ._readable import printable, shortened

# A line of a log or of a debugger has this much room for a value.
_WIDTH = 100


def short_repr(value: object, what: str) -> str:
    """The repr of an object, in one line: its class, and what it is."""
    room = _WIDTH - len(type(value).__name__) - 4
    return f"<{type(value).__name__}: {shortened(printable(what), room)}>"


class Shown:
    """A value that says in a few words what it is, and that a notebook shows as a picture."""

    __slots__ = ()

    def _in_short(self) -> str:
        """What it is, in a few words, from what is in memory."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        """What Jupyter shows. No I/O: a value is also shown after its file was closed."""
        return str(import_module("tapestream.display").html(self))

    def __repr__(self) -> str:
        return short_repr(self, self._in_short())
