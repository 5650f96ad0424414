"""The folders that earlier versions have written, for the tests that read them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tapestream import RawImageSink, Source, copy

from .recipes import image

FOLDERS = sorted((Path(__file__).parent / "data").iterdir())


@dataclass(frozen=True)
class Case:
    """One thing in one of the folders.

    Attributes:
        folder: The folder.
        values: What is expected of it.
        name: What it is called.
    """

    folder: Path
    values: Mapping[str, Any]
    name: str

    def __str__(self) -> str:
        return f"{self.folder.name} {self.name}"


@cache
def expected(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    return values


def whole_image(backups: Mapping[str, Any], name: str) -> bytes:
    """The disk at that backup, by the recipes of the backups up to it."""
    return image(backups[name]["recipe"], image_before(backups, name))


def image_before(backups: Mapping[str, Any], name: str) -> bytes:
    base = backups[name]["base"]
    return whole_image(backups, base) if base else b""


def restored(source: Source, path: Path, before: bytes = b"") -> bytes:
    """The raw image after a restore onto one that holds `before`."""
    path.unlink(missing_ok=True)
    if before:
        path.write_bytes(before.ljust(source.info.size, b"\0"))
    with source, RawImageSink(path) as sink:
        copy(source, sink)
    return path.read_bytes()


def stretches(damage: Iterable[Any]) -> list[list[Any]]:
    return [[d.start, d.length, d.member, d.missing] for d in damage]


def subjects(problems: Iterable[str]) -> list[set[str]]:
    """What each problem is about: members and offsets. Its words may change."""
    name = re.compile(r"extent-\d+@\d+|[\w/]+\.(?:json|ovf)|\b\d{4,}\b")
    return [set(name.findall(problem)) for problem in problems]
