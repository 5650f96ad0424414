"""What tests and demos need: doubles of a tape drive and an engine, a real daemon, disk images.

The daemon needs the optional dependencies (`pip install "tapestream[testing]"`), the images the
qemu tools (`qemu-utils` on Debian, `qemu-img` and `qemu-nbd` elsewhere).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy

if TYPE_CHECKING:
    from .daemon import ImageioDaemon
    from .drive import Cartridge, FakeDrive
    from .engine.double import EngineDouble
    from .engine.entities import DiskDouble, EngineCall, EngineLeftovers, EnginePhases, VmDouble
    from .images import (
        ImageServer,
        compare_images,
        create_image,
        image_info,
        serve_image,
        virtual_size,
        write_pattern,
    )
    from .kit.frame import ContractReport
    from .kit.sink import check_sink, sink_checks
    from .kit.source import check_source, source_checks
    from .memory import MemorySink, MemorySource, Pattern
else:
    # The same names once more; tests/test_names.py compares them.
    __getattr__, __dir__ = lazy(
        __name__,
        {
            ".daemon": "ImageioDaemon",
            ".drive": "Cartridge FakeDrive",
            ".engine.double": "EngineDouble",
            ".engine.entities": "DiskDouble EngineCall EngineLeftovers EnginePhases VmDouble",
            ".images": "ImageServer compare_images create_image image_info serve_image "
            "virtual_size write_pattern",
            ".kit.frame": "ContractReport",
            ".kit.sink": "check_sink sink_checks",
            ".kit.source": "check_source source_checks",
            ".memory": "MemorySink MemorySource Pattern",
        },
    )

__all__ = [
    "Cartridge",
    "ContractReport",
    "DiskDouble",
    "EngineCall",
    "EngineDouble",
    "EngineLeftovers",
    "EnginePhases",
    "FakeDrive",
    "ImageServer",
    "ImageioDaemon",
    "MemorySink",
    "MemorySource",
    "Pattern",
    "VmDouble",
    "check_sink",
    "check_source",
    "compare_images",
    "create_image",
    "image_info",
    "serve_image",
    "sink_checks",
    "source_checks",
    "virtual_size",
    "write_pattern",
]
