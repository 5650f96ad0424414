"""Shows values: `html(value)` for a notebook, `text(value)` for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy

if TYPE_CHECKING:
    from .showing import html, text
else:
    # The same names again, loaded when first used; tests/test_names.py compares both lists.
    __getattr__, __dir__ = lazy(__name__, {".showing": "html text"})

__all__ = ["html", "text"]
