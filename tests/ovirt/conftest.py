from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tapestream.testing import EngineDouble, ImageioDaemon

# All of them need oVirt's engine SDK. The tests of the double say so if it is not installed.
collect_ignore_glob = [] if find_spec("ovirtsdk4") else ["test_*.py"]


@pytest.fixture
def engine(
    daemon: ImageioDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[EngineDouble]:
    """A double of an engine, with a configuration in the home directory."""
    if shutil.which("qemu-nbd") is None:
        pytest.skip("qemu-nbd is not installed")
    for name in ("OVIRT_URL", "OVIRT_USERNAME", "OVIRT_PASSWORD", "OVIRT_CAFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    with EngineDouble(tmp_path / "engine", daemon=daemon) as running:
        running.write_config(tmp_path / "home")
        yield running


@pytest.fixture
def connection(engine: EngineDouble) -> Iterator[Any]:
    """A connection to the double."""
    from tapestream.ovirt import connect  # noqa: PLC0415 - it needs the SDK

    with connect() as connection:
        yield connection
