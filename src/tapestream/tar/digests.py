"""The digests that a stream can carry, by name: SHA-256, BLAKE2b and CRC-32."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from functools import partial
from typing import Protocol

from .._typing import Buffer
from ..errors import UsageError


class Hash(Protocol):
    """A digest that is being computed."""

    def update(self, data: Buffer, /) -> object:
        """Add the next bytes."""

    def digest(self) -> bytes:
        """The digest of all bytes so far."""


class Crc32:
    """The CRC-32 of zlib, gzip and Ethernet: detects accidents, not attacks, at half the cost."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: Buffer, /) -> None:
        """Add the next bytes."""
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        """The checksum, most significant byte first."""
        return self._value.to_bytes(4, "big")


ALGORITHMS: dict[str, Callable[[], Hash]] = {
    "sha256": hashlib.sha256,
    "blake2b": partial(hashlib.blake2b, digest_size=32),
    "crc32": Crc32,
}


def check_algorithm(name: str | None) -> None:
    """Make sure that `name` is None or the name of a digest.

    Raises:
        UsageError: There is no such digest.
    """
    if name is not None and (not isinstance(name, str) or name not in ALGORITHMS):
        raise UsageError(f"checksum must be one of {', '.join(ALGORITHMS)}, or None, not {name!r}")


def hex_digest(algorithm: str | None, data: Buffer) -> str | None:
    """The digest of a whole buffer in lower case hex; None without an algorithm."""
    return None if algorithm is None else digest_of(algorithm, data).hex()


def digest_of(algorithm: str, data: Buffer) -> bytes:
    """The digest of a whole buffer."""
    h = ALGORITHMS[algorithm]()
    h.update(data)
    return h.digest()
