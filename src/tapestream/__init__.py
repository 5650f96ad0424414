"""Stream oVirt VM disk backups straight to tape, pipe or file, and back, as a plain tar.

from tapestream import copy, ImageioHTTPSource, TarStreamSink

with ImageioHTTPSource(url, cafile="ca.pem") as src, TarStreamSink("disk.tar") as dst:
    result = copy(src, dst)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._lazy import lazy

if TYPE_CHECKING:
    from . import archive as archive
    from . import backend as backend
    from . import display as display
    from . import errors as errors
    from . import ovirt as ovirt
    from . import tape as tape
    from . import testing as testing
    from .backend.protocols import Reader, Sink, Source, Writer
    from .cancel import Cancel
    from .engine.copy import CopyResult, copy
    from .engine.rate import RateLimit
    from .engine.samples import CopySample
    from .engine.status import CopyStatus
    from .errors import OperationCancelledError, TapestreamError
    from .files.raw import RawImageSink, RawImageSource
    from .imageio.sink import ImageioUploadSink
    from .imageio.source import ImageioHTTPSource
    from .model.blockhash import BlockHash
    from .model.damage import Damage, Findings
    from .model.extents import Extent, Extents, Kind
    from .model.info import BackupInfo
    from .stream.sink import TarStreamSink
    from .stream.source import TarStreamSource
    from .workflows.chain import merge_chain, restore_chain
    from .workflows.compare import CompareReport, compare
    from .workflows.discard import DiscardSink
    from .workflows.verify import VerifyReport, verify
else:
    # The same names once more; tests/test_names.py compares them.
    __getattr__, __dir__ = lazy(
        __name__,
        {
            ".archive": "",
            ".backend": "",
            ".backend.protocols": "Reader Sink Source Writer",
            ".cancel": "Cancel",
            ".display": "",
            ".engine.copy": "CopyResult copy",
            ".engine.rate": "RateLimit",
            ".engine.samples": "CopySample",
            ".engine.status": "CopyStatus",
            ".errors": "OperationCancelledError TapestreamError",
            ".files.raw": "RawImageSink RawImageSource",
            ".imageio.sink": "ImageioUploadSink",
            ".imageio.source": "ImageioHTTPSource",
            ".model.blockhash": "BlockHash",
            ".model.damage": "Damage Findings",
            ".model.extents": "Extent Extents Kind",
            ".model.info": "BackupInfo",
            ".ovirt": "",
            ".stream.sink": "TarStreamSink",
            ".stream.source": "TarStreamSource",
            ".tape": "",
            ".testing": "",
            ".workflows.chain": "merge_chain restore_chain",
            ".workflows.compare": "CompareReport compare",
            ".workflows.discard": "DiscardSink",
            ".workflows.verify": "VerifyReport verify",
        },
    )

__all__ = [
    "BackupInfo",
    "BlockHash",
    "Cancel",
    "CompareReport",
    "CopyResult",
    "CopySample",
    "CopyStatus",
    "Damage",
    "DiscardSink",
    "Extent",
    "Extents",
    "Findings",
    "ImageioHTTPSource",
    "ImageioUploadSink",
    "Kind",
    "OperationCancelledError",
    "RateLimit",
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
