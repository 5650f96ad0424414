"""The block hash: the value."""

from __future__ import annotations

from typing import Any

import pytest

from tapestream.errors import UsageError
from tapestream.model.blockhash import BlockHash

MIB = 1024**2

HEX = "0123456789abcdef" * 4


def test_a_block_hash_as_the_server_writes_it() -> None:
    values = {"algorithm": "blake2b", "block_size": 4194304, "checksum": HEX}
    assert BlockHash(HEX).to_dict() == values
    assert BlockHash.from_dict({**values, "new": 1}) == BlockHash(HEX)


@pytest.mark.parametrize(
    "wrong",
    [
        {"checksum": ""},
        {"checksum": "0x12"},
        {"checksum": HEX[1:]},
        {"checksum": HEX.upper()},
        {"checksum": HEX + "\n"},
        {"checksum": HEX.encode()},
        {"checksum": None},
        {"algorithm": ""},
        {"algorithm": 1},
        {"algorithm": "two words"},
        {"block_size": 0},
        {"block_size": -1},
        {"block_size": True},
        {"block_size": 4194304.0},
        {"block_size": "4194304"},
    ],
    ids=str,
)
def test_nonsense(wrong: dict[str, Any]) -> None:
    values = {**BlockHash(HEX).to_dict(), **wrong}
    with pytest.raises(UsageError, match=next(iter(wrong))):
        BlockHash.from_dict(values)
    with pytest.raises(UsageError):
        BlockHash(**values)


@pytest.mark.parametrize("key", ["checksum", "algorithm", "block_size"])
def test_a_missing_key(key: str) -> None:
    values = BlockHash(HEX).to_dict()
    del values[key]
    with pytest.raises(UsageError, match=key):
        BlockHash.from_dict(values)


@pytest.mark.parametrize("values", [HEX, None, [HEX], 7])
def test_not_a_mapping(values: Any) -> None:
    with pytest.raises(UsageError, match="mapping"):
        BlockHash.from_dict(values)


def test_what_can_be_compared() -> None:
    assert BlockHash(HEX).is_comparable(BlockHash("00"))
    assert not BlockHash(HEX).is_comparable(BlockHash(HEX, "sha256"))
    assert not BlockHash(HEX).is_comparable(BlockHash(HEX, block_size=MIB))
