"""`BackupInfo`: which disk of which VM, when, and what it starts from."""

from __future__ import annotations

import json
from itertools import islice

import tapestream

from .._readable import disk_text, kind_text, shortened, size_text, time_text
from .card import Card, Facts, Fold

# Keys of the metadata that are shown.
_KEYS = 20


def kind_of(info: tapestream.BackupInfo) -> str:
    """Full or incremental."""
    if info.fallback:
        return "full (fallback)"
    return kind_text(info.context)


def facts_of(info: tapestream.BackupInfo) -> Facts:
    """What a backup says about itself."""
    parent, checkpoint = info.parent_checkpoint_id, info.checkpoint_id
    made = f"from {parent or '?'} to {checkpoint or '?'}" if parent else checkpoint
    hashed = info.block_hash
    return Facts(
        (
            ("VM", _both(info.vm_name, info.vm_id)),
            ("disk", _both(info.disk_name, info.disk_id)),
            (
                "taken",
                f"{time_text(info.created)} {info.created.astimezone():%Z}"
                if info.created
                else None,
            ),
            ("kind", kind_of(info)),
            ("checkpoint", made),
            ("size", size_text(info.size) if info.size else None),
            ("block hash", f"{hashed.checksum[:16]}... ({hashed.algorithm})" if hashed else None),
            ("backup", info.backup_id),
        )
    )


def show(info: tapestream.BackupInfo) -> Card:
    """Show which backup it is."""
    metadata = tuple(
        (str(key), shortened(json.dumps(value, ensure_ascii=False), 100))
        for key, value in islice(info.metadata.items(), _KEYS)
    )
    keys = Facts(metadata, left=len(info.metadata) - len(metadata))
    return Card(
        "Backup",
        f"{shortened(disk_text(info), 80)}, {time_text(info.created)}",
        (facts_of(info), Fold(f"metadata: {len(info.metadata)}", (keys,))),
    )


def _both(name: str | None, id_: str | None) -> str | None:
    return f"{name} ({id_})" if name and id_ else name or id_
