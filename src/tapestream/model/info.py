"""BackupInfo: which disk of which VM a backup holds, and when it was taken."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from typing import Any, Literal, TypedDict

from .._readable import kind_text, size_text
from .._shown import Shown
from .._typing import Unpack, override
from ..arguments import flag
from ..errors import UsageError
from .blockhash import BlockHash

Context = Literal["zero", "dirty"]

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)", re.ASCII)

# The fields that identify a backup. Names are for people, but they are compared as well.
IDS = (
    "vm_id",
    "vm_name",
    "disk_id",
    "disk_name",
    "backup_id",
    "checkpoint_id",
    "parent_checkpoint_id",
)


class BackupFilter(TypedDict, total=False):
    """The ids to look for; None allows any."""

    vm_id: str | None
    disk_id: str | None
    backup_id: str | None
    checkpoint_id: str | None


@dataclass(frozen=True, repr=False)
class BackupInfo(Shown):
    """What is known about a backup: which disk of which VM, when, full or incremental.

    All fields are optional for the caller. The *source* overwrites `size` and `context`.

    Args:
        vm_id: oVirt's id of the virtual machine.
        vm_name: Its name, for people.
        disk_id: oVirt's id of the disk.
        disk_name: Its name (alias), for people.
        backup_id: oVirt's id of the backup.
        checkpoint_id: The checkpoint this backup created; the next incremental starts there.
        parent_checkpoint_id: The checkpoint an incremental backup starts from.
        created: When the backup was taken; must have a time zone. If it is None, the sink fills in
            the current time. Kept to the second, in UTC.
        metadata: Anything else worth keeping, as JSON types. It is copied.
        size: Virtual size of the disk in bytes.
        context: "zero" for a full backup, "dirty" for an incremental one.
        block_hash: Block hash of the disk at the time of the backup, computed by the server. It
            covers the whole disk in an incremental backup, too. None if it was not asked for.
        fallback: True for a full backup that was taken although an incremental one was asked for:
            oVirt decides that for each disk.

    Raises:
        UsageError: A field has the wrong type, or `created` has no time zone.
    """

    vm_id: str | None = None
    vm_name: str | None = None
    disk_id: str | None = None
    disk_name: str | None = None
    backup_id: str | None = None
    checkpoint_id: str | None = None
    parent_checkpoint_id: str | None = None
    created: datetime | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    size: int = 0
    context: Context = "zero"
    block_hash: BlockHash | None = None
    fallback: bool = False

    def __post_init__(self) -> None:
        for name in IDS:
            _require(name, getattr(self, name), "a string or None", (str, type(None)))
            _require_text(name, getattr(self, name))
        _require("created", self.created, "a datetime or None", (datetime, type(None)))
        _require("metadata", self.metadata, "a mapping", (Mapping,))
        _require("size", self.size, "a whole number of bytes", (int,))
        if self.size < 0:
            raise UsageError(f"size must not be negative, not {self.size}")
        if self.context not in ("zero", "dirty"):
            raise UsageError(f"context must be 'zero' or 'dirty', not {self.context!r}")
        _require("block_hash", self.block_hash, "a BlockHash or None", (BlockHash, type(None)))
        flag("fallback", self.fallback)
        if self.created is not None:
            if self.created.utcoffset() is None:
                raise UsageError("created must have a time zone, for example timezone.utc")
            try:
                in_utc = self.created.astimezone(timezone.utc).replace(microsecond=0)
            except OverflowError as e:
                raise UsageError(f"created is not a time in UTC: {self.created}") from e
            # The times that fit into the 11 octal digits of a tar header.
            if not 0 <= in_utc.timestamp() < 8**11:
                raise UsageError(f"created must be between 1970 and 2242, not {self.created}")
            object.__setattr__(self, "created", in_utc)
        try:
            # A copy, so that later changes by the caller do not change this. A read-only view
            # could be neither pickled nor copied.
            metadata = deepcopy(dict(self.metadata))
            json.dumps(metadata, allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError, RecursionError) as e:
            raise UsageError(f"metadata must consist of JSON types: {e}") from e
        object.__setattr__(self, "metadata", metadata)

    @override
    def _in_short(self) -> str:
        return f"{describe(self)}, {kind_text(self.context)}, {size_text(self.size)}"

    def matches(self, **ids: Unpack[BackupFilter]) -> bool:
        """True if this backup has every id that is given and not None."""
        return all(wanted is None or getattr(self, name) == wanted for name, wanted in ids.items())

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types; `created` as RFC 3339 in UTC."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["metadata"] = dict(self.metadata)
        if self.created is not None:
            values["created"] = self.created.strftime("%Y-%m-%dT%H:%M:%SZ")
        if self.block_hash is not None:
            values["block_hash"] = self.block_hash.to_dict()
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BackupInfo:
        """The reverse of `to_dict`; unknown keys are ignored.

        Raises:
            UsageError: A value has the wrong type or form.
        """
        if not isinstance(values, Mapping):
            raise UsageError(f"a backup's info is a mapping, not a {type(values).__name__}")
        known = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        created = known.get("created")
        if isinstance(created, str):
            known["created"] = _time_of(created)
        if known.get("block_hash") is not None:
            known["block_hash"] = BlockHash.from_dict(known["block_hash"])
        return cls(**known)


def _time_of(text: str) -> datetime:
    """Parse a time. `strptime` would import a module, and no descriptor may be left for that."""
    try:
        if _TIME.fullmatch(text):
            return datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        pass
    raise UsageError(f"created is not an RFC 3339 time: {text!r}")


def describe(info: BackupInfo) -> str:
    """Describe a backup for people: the VM, the disk, and the time."""
    vm = info.vm_name or info.vm_id or "unknown VM"
    disk = info.disk_name or info.disk_id or "unknown disk"
    return f"{vm}, {disk}{f' of {local_time(info.created)}' if info.created else ''}"


def disk_of(info: BackupInfo) -> str:
    """The disk of a backup, as a part of a sentence."""
    name = info.disk_name or info.disk_id
    return f"the disk {name}" if name else "the disk"


def local_time(time: datetime) -> str:
    """A time in the local time zone, with the name of the zone."""
    return f"{time.astimezone():%Y-%m-%d %H:%M %Z}"


def check_info(info: object) -> BackupInfo:
    """Check the `info` that a caller passes; None becomes an empty one.

    Raises:
        UsageError: It is neither a `BackupInfo` nor None.
    """
    if info is not None and not isinstance(info, BackupInfo):
        raise UsageError(f"info must be a BackupInfo or None, not a {type(info).__name__}")
    return info or BackupInfo()


def _require(name: str, value: object, what: str, types: tuple[type, ...]) -> None:
    if not isinstance(value, types) or isinstance(value, bool):
        raise UsageError(f"{name} must be {what}, not {value!r}")


def _require_text(name: str, value: str | None) -> None:
    try:
        (value or "").encode()
    except UnicodeEncodeError as e:
        raise UsageError(f"{name} must be Unicode text, not {value!r}") from e
