"""Backup and restore of oVirt VMs: each step of a program alone, and whole programs.

It needs oVirt's engine SDK: `pip install "tapestream[ovirt]"`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy

if TYPE_CHECKING:
    from .connection import EngineConnection, EngineSettings, connect, read_settings
    from .disks import NewDisk, new_disk, qcow2_size
    from .timeouts import EngineTimeouts
    from .transfers import Transfer
    from .uploads import upload_transfer
else:
    # The same names again, loaded when first used; tests/test_names.py compares both lists.
    __getattr__, __dir__ = lazy(
        __name__,
        {
            ".connection": "EngineConnection EngineSettings connect read_settings",
            ".disks": "NewDisk new_disk qcow2_size",
            ".timeouts": "EngineTimeouts",
            ".transfers": "Transfer",
            ".uploads": "upload_transfer",
        },
    )

__all__ = [
    "EngineConnection",
    "EngineSettings",
    "EngineTimeouts",
    "NewDisk",
    "Transfer",
    "connect",
    "new_disk",
    "qcow2_size",
    "read_settings",
    "upload_transfer",
]
