"""A double of OpenNebula's backup exporter, OneBEX: not the real one, which is written in Ruby.

Written from OpenNebula's src/onebex/ (app/routes.rb, app/helpers.rb, exporters/*.rb) as of August
2026. It answers as those do. It leaves out what a client of the imageio API does not call:
/status, /export, /transfers, finalize and cancel; and the end of the server after 300 idle seconds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from tests.servers.double import Double, Handler, to_json

TRANSFER = "one-17-0-9f3a61c2"


def nbd_blocks(*runs: tuple[int, str]) -> list[dict[str, Any]]:
    """What the exporter `nbd` makes of the lengths and descriptions that `nbdinfo --map` prints."""
    blocks, start = [], 0
    for length, description in runs:
        flags = {each: description == each for each in ("dirty", "zero", "hole")}
        blocks.append({"start": start, "length": length, **flags})
        start += length
    return blocks


def changed_blocks(ranges: Iterable[tuple[int, int, bool]]) -> list[dict[str, Any]]:
    """What the exporters `lvm` and `rbd` list in an incremental export: only what changed."""
    return [
        {"start": start, "length": length, "dirty": True, "zero": zero, "hole": False}
        for start, length, zero in ranges
    ]


def whole_disk(size: int) -> list[dict[str, Any]]:
    """What the exporters `lvm` and `rbd` list in a full export."""
    return changed_blocks([(0, size, False)])


class OneBEX(Double):
    """OneBEX with one transfer.

    Args:
        disk: What the transfer exports.
        blocks: Its list of extents, which is the same for every context.
    """

    def __init__(self, disk: bytes, blocks: list[dict[str, Any]]) -> None:
        super().__init__(_Handler)
        self.disk = disk
        self.blocks = blocks
        self.transfer_url = self.url(f"/images/{TRANSFER}")


class _Handler(Handler):
    server: OneBEX

    def answer_options(self) -> None:  # whatever the transfer is
        features = ["checksum", "extents", "flush", "zero"]
        self._json(200, {"features": features, "max_readers": 1, "max_writers": 1})

    def answer_get(self) -> None:
        path = self.path.partition("?")[0]
        if not re.fullmatch(r"/images/[^/]+(/extents)?", path):
            self._error(404, "Not found")
        elif path.endswith("/extents"):
            if self._is_known(path.removesuffix("/extents")):
                self._json(200, self.server.blocks)
        else:
            self._data(path)

    def answer_put(self) -> None:
        self.body()
        self._error(501, "Write operation not implemented")

    def answer_patch(self) -> None:
        if json.loads(self.body()).get("op") != "flush":
            self._error(400, "Unsupported operation")
        elif self._is_known(self.path):
            self._send(200, b"", "application/json")

    def _data(self, path: str) -> None:
        wanted = self.headers.get("Range")
        if wanted is None:
            self._error(416, "Missing Range header")
            return
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", wanted)
        if match is None:
            self._error(400, "Invalid Range format. Expected: bytes=start-end")
            return
        start, end = int(match[1]), int(match[2]) + 1
        if not self._is_known(path):
            return
        data = self.server.disk[start:end]
        if len(data) != end - start:  # it may not start a request beyond the end, either
            self._error(500, "nbdsh failed: nbd_pread: request out of bounds: Invalid argument")
            return
        self._send(
            206,
            data,
            "application/octet-stream",
            {
                "Content-Disposition": "attachment",
                "Content-Range": f"bytes {start}-{end - 1}/*",
                "Accept-Ranges": "bytes",
            },
        )

    def _is_known(self, path: str) -> bool:
        known = path == f"/images/{TRANSFER}"
        if not known:
            self._error(404, "Transfer not found")
        return known

    def _error(self, status: int, message: str) -> None:
        self._json(status, {"error": message})

    def _json(self, status: int, value: object) -> None:
        self._send(status, to_json(value), "application/json")

    def _send(
        self, status: int, body: bytes, content_type: str, more: dict[str, str] | None = None
    ) -> None:
        nosniff = {"X-Content-Type-Options": "nosniff"}
        self.send(status, body, {"Content-Type": content_type, **nosniff, **(more or {})})

    def version_string(self) -> str:
        return "imageio/2.5.0"  # what OneBEX says with data
