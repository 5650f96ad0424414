"""The version, which the stream and requests name too."""

from __future__ import annotations

__version__ = "0.1.0"
