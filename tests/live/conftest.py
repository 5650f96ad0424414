from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tapestream.testing import ImageioDaemon

from .host import Host
from .machine import Machine

MIB = 1024**2
SIZE = 48 * MIB
TOOLS = ("qemu-system-x86_64", "qemu-img", "qemu-nbd", "nbdcopy", "stdbuf")


@pytest.fixture(scope="session", autouse=True)
def tools() -> None:
    """Skip these tests where a tool is missing; `make live` installs them."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: make live installs what it needs")


@pytest.fixture(scope="session")
def images(tools: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the first state of every disk, as disk.raw and disk.qcow2.

    It is noise, with holes: what is found at a wrong offset never looks right.
    """
    directory = tmp_path_factory.mktemp("images")
    raw, noise = directory / "disk.raw", random.Random(1)
    with raw.open("wb") as f:
        f.truncate(SIZE)
        for start in range(0, SIZE, 8 * MIB):
            f.seek(start + noise.randrange(16) * 64 * 1024)
            f.write(noise.randbytes(6 * MIB))
    convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2"]
    subprocess.run([*convert, raw, directory / "disk.qcow2"], check=True)
    return directory


@pytest.fixture
def start(images: Path, daemon: ImageioDaemon, tmp_path: Path) -> Iterator[Callable[..., Host]]:
    """Start a machine with disks of these names and formats, such as `start(vda="qcow2")`."""
    with ExitStack() as stack:

        def start_machine(**disks: str) -> Host:
            paths = {name: tmp_path / f"{name}.{form}" for name, form in disks.items()}
            for path in paths.values():
                shutil.copy(images / f"disk{path.suffix}", path)
            machine = stack.enter_context(Machine(tmp_path, paths))
            return Host(machine, daemon, tmp_path)

        yield start_machine


@pytest.fixture
def host(start: Callable[..., Host]) -> Host:
    """The host of a machine with one disk, vda."""
    return start(vda="qcow2")
