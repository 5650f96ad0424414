"""A double of CloudStack's image server: not the real one, which needs libnbd and an NBD server.

Written from CloudStack's scripts/vm/hypervisor/kvm/imageserver/ (handler.py, backends/, util.py) as
of its last commits of 2026, and from the earlier one that spoke HTTP/1.0. It answers as those do.
It leaves out the control socket, the expiry of idle transfers, and PATCH with a range.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Literal

from tests.hostile import BytesImage, honest_extents
from tests.servers.double import Double, Handler, to_json

TRANSFER = "5b1c7f0e-3d52-4b7a-9a57-0d6c1f2e8a44"


class ImageServer(Double):
    """CloudStack's image server with one transfer.

    Args:
        disk: What the transfer reads and writes.
        backend: "nbd", or "file", which has no extents and takes only a whole image.
        read_only: True for a download, for which the NBD server is read-only.
        bitmap: The (start, length) that changed, if the export has a bitmap.
        bitmap_is_lost: The NBD server does not know the bitmap.
        protocol: "HTTP/1.0" for the early versions.
        dies_after: After this many uploads without "flush=n" the NBD server is killed and started
            again: what was not flushed is gone. 0 for never.
        tls: True for https, with a certificate of `authority`.

    Attributes:
        disk: The disk, as the requests left it.
        durable: What of it would survive a power failure: what was flushed.
    """

    def __init__(
        self,
        disk: bytes,
        *,
        backend: Literal["nbd", "file"] = "nbd",
        read_only: bool = False,
        bitmap: Sequence[tuple[int, int]] | None = None,
        bitmap_is_lost: bool = False,
        protocol: Literal["HTTP/1.0", "HTTP/1.1"] = "HTTP/1.1",
        dies_after: int = 0,
        tls: bool = False,
    ) -> None:
        handler = type("_Handler", (_Handler,), {"protocol_version": protocol})
        super().__init__(handler, tls=tls)
        self.disk = bytearray(disk)
        self.durable = bytes(disk)
        self.backend = backend
        self.read_only = read_only
        self.bitmap = bitmap
        self.bitmap_is_lost = bitmap_is_lost
        self.dies_after = dies_after
        self.transfer_url = self.url(f"/images/{TRANSFER}")

    def allocation(self) -> list[dict[str, Any]]:
        """What base:allocation says, in clusters."""
        return [
            {"start": e["start"], "length": e["length"], "zero": e["zero"]}
            for e in honest_extents(BytesImage(self.disk))
        ]

    def dirty(self) -> list[dict[str, Any]]:
        """The allocation and the bitmap together; all dirty when there is nothing to tell."""
        listed = None if self.bitmap is None or self.bitmap_is_lost else self._merged(self.bitmap)
        # It takes this for a bitmap that is missing.
        if listed is None or [(e["dirty"], e["zero"]) for e in listed] == [(False, False)]:
            listed = [{**e, "dirty": True} for e in self.allocation()]
        return [{key: e[key] for key in ("start", "length", "dirty", "zero")} for e in listed]

    def _merged(self, bitmap: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
        zero = self.allocation()
        bounds = {0, len(self.disk)} | {e["start"] for e in zero}
        bounds |= {bound for start, length in bitmap for bound in (start, start + length)}
        merged: list[dict[str, Any]] = []
        for start, end in zip(sorted(bounds), sorted(bounds)[1:], strict=False):
            flags = {
                "dirty": any(at <= start < at + length for at, length in bitmap),
                "zero": next(e["zero"] for e in reversed(zero) if e["start"] <= start),
            }
            if merged and merged[-1].items() >= flags.items():
                merged[-1]["length"] += end - start
            else:
                merged.append({"start": start, "length": end - start, **flags})
        return merged


class _Handler(Handler):
    server: ImageServer
    server_version = "cloudstack-image-server/1.0"

    def answer_options(self) -> None:
        if not self._is_known():
            return
        if self.server.backend == "file":
            features, writers, allowed = ["flush"], 1, "GET, PUT, POST, OPTIONS"
        elif self.server.read_only:
            features, writers, allowed = ["extents"], 0, "GET, OPTIONS"
        else:
            features, writers, allowed = ["extents", "zero", "flush"], 4, "GET, PUT, PATCH, OPTIONS"
        options = {
            "unix_socket": None,
            "features": features,
            "max_readers": 4,
            "max_writers": writers,
        }
        self._json(200, options, allowed)

    def answer_get(self) -> None:
        if self.path.partition("?")[0].endswith("/extents"):
            if not self._is_known("/extents"):
                return
            if self.server.backend == "file":
                self._error(400, "extents not supported for file backend")
            elif "context=dirty" in self.path:
                self._json(200, self.server.dirty())
            else:
                self._json(200, self.server.allocation())
        elif self._is_known():
            self._data()

    def answer_put(self) -> None:
        if not self._is_known():
            return
        flush = self.path.endswith(("?flush=y", "?flush=yes", "?flush=true", "?flush=1"))
        found = self.headers.get("Content-Range")
        if self.server.backend == "file" and found is not None:
            self._error(400, "Content-Range PUT not supported for file backend; use full PUT")
            return
        match = re.fullmatch(r"bytes\s+(\d+)-(\d+)/(?:\*|\d+)", found or "bytes 0-0/*")
        if match is None:
            self._error(400, "invalid Content-Range header: invalid Content-Range")
            return
        start, length = int(match[1]), int(self.headers["Content-Length"])
        if start + length > len(self.server.disk):
            self._unsatisfiable()
            return
        self.server.disk[start : start + length] = self.body()
        if flush:
            self._flush()
        if not self.path.endswith("flush=n"):
            self.server.dies_after -= 1
            if self.server.dies_after == 0:
                self.server.disk[:] = self.server.durable
        self._json(200, {"ok": True, "bytes_written": length, "flushed": flush})

    def answer_patch(self) -> None:
        if not self._is_known():
            return
        if self.server.backend == "file":
            self._error(
                400,
                "range writes and PATCH not supported for file backend; use PUT for full upload",
            )
            return
        message = json.loads(self.body())
        if message["op"] == "zero":
            start, size = int(message.get("offset", 0)), int(message["size"])
            if size <= 0:
                self._error(400, '"size" must be positive')
                return
            if start >= len(self.server.disk):
                self._error(400, "offset must be less than image size")
                return
            end = min(start + size, len(self.server.disk))
            self.server.disk[start:end] = bytes(end - start)
        if message["op"] == "flush" or message.get("flush", False):
            self._flush()
        self._json(200, {"ok": True})

    def _data(self) -> None:
        size = len(self.server.disk)
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, end = (int(match[1]), int(match[2] or size - 1)) if match else (0, size - 1)
        if match and (start >= size or end < start):
            self._unsatisfiable()
            return
        end = min(end, size - 1)
        headers = {"Content-Type": "application/octet-stream"}
        if match:
            headers["Content-Range"] = f"bytes {start}-{end}/{size}"
        data = bytes(self.server.disk[start : end + 1])
        self.send(206 if match else 200, data, {**_imageio(), **headers})

    def _flush(self) -> None:
        self.server.durable = bytes(self.server.disk)

    def _unsatisfiable(self) -> None:
        """As the real one, this leaves the body of a PUT on the connection."""
        size = {"Content-Range": f"bytes */{len(self.server.disk)}"}
        self._json(416, {"error": "range not satisfiable"}, more=size)

    def _is_known(self, tail: str = "") -> bool:
        known = self.path.partition("?")[0] == f"/images/{TRANSFER}{tail}"
        if not known:
            self._error(404, "unknown image_id")
        return known

    def _error(self, status: int, message: str) -> None:
        self._json(status, {"error": message})

    def _json(
        self,
        status: int,
        value: object,
        allowed: str = "GET, PUT, OPTIONS",
        more: dict[str, str] | None = None,
    ) -> None:
        headers = {**_imageio(allowed), "Content-Type": "application/json", **(more or {})}
        self.send(status, to_json(value), headers)


def _imageio(allowed: str = "GET, PUT, OPTIONS") -> dict[str, str]:
    return {"Access-Control-Allow-Methods": allowed, "Accept-Ranges": "bytes"}
