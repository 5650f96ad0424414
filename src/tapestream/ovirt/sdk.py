"""oVirt's engine SDK, or a clear error if it is not installed. No other module imports it."""

from __future__ import annotations

try:
    import ovirtsdk4 as sdk
    import pycurl
    from ovirtsdk4 import types
except ImportError as e:
    raise ImportError(
        f"tapestream.ovirt needs oVirt's engine SDK ({e}): install it with: "
        'pip install "tapestream[ovirt]", which needs gcc and the headers of libxml2'
    ) from e

__all__ = ["pycurl", "sdk", "types"]
