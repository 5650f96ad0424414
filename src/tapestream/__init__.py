"""Stream oVirt VM disk backups straight to tape, pipe or file, and back, as a plain tar.

from tapestream import copy, ImageioHTTPSource, TarStreamSink

with ImageioHTTPSource(url, cafile="ca.pem") as src, TarStreamSink("disk.tar") as dst:
    result = copy(src, dst)
"""

from __future__ import annotations

__version__ = "0.1.0"

from .chain import merge_chain, restore_chain
from .compare import CompareReport, compare
from .damage import Damage
from .discard import DiscardSink
from .engine.copy import CopyResult, copy
from .errors import TapestreamError
from .extents import Extent
from .imageio.sink import ImageioUploadSink
from .imageio.source import ImageioHTTPSource
from .info import BackupInfo
from .protocols import Reader, Sink, Source, Writer
from .raw import RawImageSink, RawImageSource
from .tar.sink import TarStreamSink
from .tar.source import TarStreamSource
from .verify import VerifyReport, verify

__all__ = [
    "BackupInfo",
    "CompareReport",
    "CopyResult",
    "Damage",
    "DiscardSink",
    "Extent",
    "ImageioHTTPSource",
    "ImageioUploadSink",
    "RawImageSink",
    "RawImageSource",
    "Reader",
    "Sink",
    "Source",
    "TapestreamError",
    "TarStreamSink",
    "TarStreamSource",
    "VerifyReport",
    "Writer",
    "compare",
    "copy",
    "merge_chain",
    "restore_chain",
    "verify",
]
