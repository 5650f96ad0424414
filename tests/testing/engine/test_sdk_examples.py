"""The SDK's own examples, unmodified, run with the double: it is as honest as they are picky.

They are taken from the SDK's source distribution, and only their clock is faster: a second that
they sleep takes 20 ms.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path

import pytest

from tapestream.testing import EngineDouble, VmDouble, compare_images, write_pattern

pytest.importorskip("ovirtsdk4", reason="the engine SDK is not installed")

SDK = "ovirt-engine-sdk-python"
MIB = 1024**2
FASTER = """
import os, runpy, sys, time
sleep = time.sleep
time.sleep = lambda seconds: sleep(seconds / 50)
sys.argv = sys.argv[1:]
sys.path[0] = os.path.dirname(sys.argv[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="session")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples of the SDK that is installed; its source is kept in the user's cache."""
    version = metadata.version(SDK)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "tapestream-tests")
    found = list(cache.glob(f"*{version}.tar.gz"))
    if not found:
        command = ["download", "--quiet", "--no-deps", "--no-binary", SDK, f"{SDK}=={version}"]
        done = subprocess.run(
            [sys.executable, "-m", "pip", *command, "--dest", cache],
            capture_output=True,
            text=True,
            check=False,
        )
        found = list(cache.glob(f"*{version}.tar.gz"))
        if not found:
            pytest.skip(f"no source of {SDK} {version}: {done.stderr.strip()[-200:]}")
    where = tmp_path_factory.mktemp("sdk")
    with tarfile.open(found[0]) as tar:
        members = [member for member in tar if "/examples/" in member.name and member.isfile()]
        for member in members:
            member.name = member.name.partition("/")[2]
        tar.extractall(where, members)
    return where / "examples"


class Example:
    """Runs the examples in a directory, with the configuration of an engine."""

    def __init__(self, examples: Path, engine: EngineDouble, home: Path) -> None:
        engine.write_config(home)
        self._examples = examples
        self._home = home

    def run(self, name: str, *arguments: str | Path, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-c", FASTER, self._examples / name, "-c", "engine", *arguments],
            cwd=self._home,
            env={**os.environ, "HOME": str(self._home)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def example(examples: Path, engine: EngineDouble, tmp_path: Path) -> Example:
    return Example(examples, engine, tmp_path)


@pytest.fixture
def vm(engine: EngineDouble) -> VmDouble:
    vm = engine.add_vm("mail", [4 * MIB, 2 * MIB])
    write_pattern(vm.disks[0].path, ["write -P 1 0 1M", "write -P 2 3M 64k"])
    write_pattern(vm.disks[1].path, ["write -P 3 1M 128k"])
    return vm


def copies(vm: VmDouble, directory: Path) -> list[Path]:
    """Keep what a VM's disks hold now."""
    directory.mkdir()
    kept = []
    for disk in vm.disks:
        kept.append(directory / disk.id)
        kept[-1].write_bytes(disk.path.read_bytes())
    return kept


def downloaded(vm: VmDouble, directory: Path, mode: str) -> list[Path]:
    return [next(directory.glob(f"*.{disk.id}.{mode}.qcow2")) for disk in vm.disks]


def test_backup_vm_full_and_incremental(
    example: Example, engine: EngineDouble, vm: VmDouble, tmp_path: Path
) -> None:
    first = copies(vm, tmp_path / "first")
    said = example.run("backup_vm.py", "full", vm.id)
    assert "completed successfully" in said
    [checkpoint] = engine.leftovers().checkpoints
    assert f"Created checkpoint '{checkpoint}'" in said

    write_pattern(vm.disks[0].path, ["write -P 4 2M 256k", "write -z 0 64k"])
    second = copies(vm, tmp_path / "second")
    chosen = ("--from-checkpoint-uuid", checkpoint, vm.id)
    said = example.run("backup_vm.py", "incremental", *chosen)
    assert "completed successfully" in said

    for mode, truth in (("full", first), ("incremental", second)):
        for image, kept in zip(downloaded(vm, tmp_path, mode), truth, strict=True):
            compare_images(image, kept)
    incremental = downloaded(vm, tmp_path, "incremental")[1]
    assert incremental.stat().st_size < MIB  # of a disk that did not change
    left = engine.leftovers()
    assert left.nothing_open
    assert len(left.checkpoints) == 2


def test_backup_vm_in_steps(
    example: Example, engine: EngineDouble, vm: VmDouble, tmp_path: Path
) -> None:
    truth = copies(vm, tmp_path / "truth")
    said = example.run("backup_vm.py", "start", vm.id)
    [backup] = engine.leftovers().backups
    assert f"Backup '{backup}' is ready" in said
    write_pattern(vm.disks[0].path, ["write -P 9 0 4M"])
    example.run("backup_vm.py", "download", vm.id, "--backup-uuid", backup)
    example.run("backup_vm.py", "stop", vm.id, backup)
    for image, kept in zip(downloaded(vm, tmp_path, "full"), truth, strict=True):
        compare_images(image, kept)
    assert engine.leftovers().nothing_open


def test_backup_vm_says_why_a_backup_failed(
    example: Example, engine: EngineDouble, vm: VmDouble
) -> None:
    engine.phases.backup_start = ("initializing", "failed")
    said = example.run("backup_vm.py", "full", vm.id, code=1)
    assert "has failed, last reported event: {'code': 10795" in said
    left = engine.leftovers()
    assert left.nothing_open
    assert left.checkpoints == ()


def test_checkpoints(example: Example, engine: EngineDouble, vm: VmDouble) -> None:
    example.run("backup_vm.py", "full", "--skip-download", "--description", "Monday", vm.id)
    [checkpoint] = engine.leftovers().checkpoints
    assert '"description": "Monday"' in example.run("checkpoints.py", "list", vm.id)
    assert "removed successfully" in example.run("checkpoints.py", "remove", vm.id, checkpoint)
    assert engine.leftovers().checkpoints == ()


def test_upload_disk(example: Example, engine: EngineDouble, vm: VmDouble) -> None:
    options = ("--disk-format", "qcow2", "--disk-sparse", "--enable-backup")
    image = vm.disks[0].path
    said = example.run("upload_disk.py", "--sd-name", "data", *options, image)
    assert "Upload completed successfully" in said
    new = engine.disks[-1]
    assert new not in vm.disks
    assert new.incremental
    compare_images(image, new.path)
    assert engine.leftovers().nothing_open


def test_download_disk_of_a_vm_that_is_down(
    example: Example, engine: EngineDouble, vm: VmDouble, tmp_path: Path
) -> None:
    disk = vm.disks[0]
    said = example.run("download_disk.py", disk.id, tmp_path / "disk.qcow2", code=1)
    assert "which is not down, uses the disk" in said
    vm.status = "down"
    example.run("download_disk.py", disk.id, tmp_path / "disk.qcow2")
    compare_images(tmp_path / "disk.qcow2", disk.path)
    assert engine.leftovers().nothing_open
