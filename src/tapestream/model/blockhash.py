"""The value of a block hash: one digest for a whole disk, as imageio's server computes it.

The disk is cut into blocks of 4 MiB, counted from its start; the last may be shorter. Each block
has a BLAKE2b digest of 32 bytes. The block hash is the BLAKE2b digest of all these digests, in the
order of the blocks (ovirt-imageio docs, "checksum"). Two disks with the same bytes have the same
block hash, whatever their formats and extents.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError

ALGORITHM = "blake2b"
BLOCK_SIZE = 4 * 1024**2


@dataclass(frozen=True)
class BlockHash:
    """The block hash of a disk.

    Args:
        checksum: The digest, in hexadecimal.
        algorithm: Name of the digest.
        block_size: Bytes in one block.

    Raises:
        UsageError: A field has the wrong type or form.
    """

    checksum: str
    algorithm: str = ALGORITHM
    block_size: int = BLOCK_SIZE

    def __post_init__(self) -> None:
        for name, pattern in (("checksum", "([0-9a-f]{2})+"), ("algorithm", "[!-~]+")):
            value = getattr(self, name)
            if not isinstance(value, str) or not re.fullmatch(pattern, value):
                raise UsageError(f"a block hash cannot have the {name} {value!r}")
        if type(self.block_size) is not int or self.block_size <= 0:
            raise UsageError(f"a block hash cannot have the block_size {self.block_size!r}")

    def is_comparable(self, other: BlockHash) -> bool:
        """True if both are computed in the same way: they then differ only if their disks do."""
        return (self.algorithm, self.block_size) == (other.algorithm, other.block_size)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types, with the server's names."""
        return {
            "algorithm": self.algorithm,
            "block_size": self.block_size,
            "checksum": self.checksum,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BlockHash:
        """The reverse of `to_dict`; unknown keys are ignored.

        Raises:
            UsageError: This is not a block hash.
        """
        if not isinstance(values, Mapping):
            raise UsageError(f"a block hash must be a mapping, not {values!r}")
        try:
            return cls(values["checksum"], values["algorithm"], values["block_size"])
        except KeyError as e:
            raise UsageError(f"a block hash must have the key {e}") from e
