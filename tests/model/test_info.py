"""BackupInfo: checked when made, the same after a round trip."""

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from tapestream import BackupInfo
from tapestream.errors import UsageError
from tapestream.model.blockhash import BlockHash

FULL = BackupInfo(
    vm_id="7f5c",
    vm_name="größer",
    disk_id="4a1e",
    disk_name="system",
    backup_id="b1",
    checkpoint_id="c2",
    parent_checkpoint_id="c1",
    created=datetime(2026, 11, 23, 16, 0, 1, 999, timezone(timedelta(hours=1))),
    metadata={"job": "nightly", "tags": [1, None, {"a": True}]},
    size=2**40,
    context="dirty",
    block_hash=BlockHash("00ff" * 16),
    fallback=True,
)


@pytest.mark.parametrize("info", [FULL, BackupInfo()])
def test_round_trip(info: BackupInfo) -> None:
    assert BackupInfo.from_dict(info.to_dict()) == info


def test_created_is_utc_to_the_second() -> None:
    assert FULL.to_dict()["created"] == "2026-11-23T15:00:01Z"


def test_unknown_keys_are_ignored() -> None:
    assert BackupInfo.from_dict({"vm_id": "a", "colour": "red"}) == BackupInfo(vm_id="a")


def test_the_block_hash_is_as_the_server_writes_it() -> None:
    values = FULL.to_dict()
    assert values["block_hash"] == {
        "algorithm": "blake2b",
        "block_size": 4194304,
        "checksum": "00ff" * 16,
    }
    assert BackupInfo().to_dict()["block_hash"] is None


def test_infos_of_before_block_hashes() -> None:
    values = FULL.to_dict()
    del values["block_hash"], values["fallback"]
    assert BackupInfo.from_dict(values) == replace(FULL, block_hash=None, fallback=False)


@pytest.mark.parametrize("value", ["00ff", {}, {"checksum": "00ff"}, {"block_size": 0}, 7])
def test_no_block_hash(value: Any) -> None:
    with pytest.raises(UsageError, match="block hash"):
        BackupInfo.from_dict({"block_hash": value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vm_id", 7),
        ("vm_name", b"vm"),
        ("created", 1700000000),
        ("created", datetime(2026, 11, 23, 16, 0, 1)),
        ("metadata", ["not", "a", "mapping"]),
        ("metadata", {"a": object()}),
        ("metadata", {"a": float("nan")}),
        ("size", -1),
        ("size", "1"),
        ("size", True),
        ("context", "full"),
        ("block_hash", "00ff"),
        ("block_hash", {"checksum": "00ff"}),
        ("fallback", None),
        ("fallback", "full"),
        ("fallback", 1),
    ],
)
def test_wrong_fields(field: str, value: Any) -> None:
    with pytest.raises(UsageError, match=field):
        BackupInfo(**{field: value})


@pytest.mark.parametrize("values", [None, 5, "{}", [("vm_id", "a")]])
def test_no_mapping(values: Any) -> None:
    with pytest.raises(UsageError, match="mapping"):
        BackupInfo.from_dict(values)


@pytest.mark.parametrize("created", ["yesterday", "2026-11-23", "2026-11-23T15:00:01"])
def test_wrong_time(created: str) -> None:
    with pytest.raises(UsageError, match="created"):
        BackupInfo.from_dict({"created": created})
