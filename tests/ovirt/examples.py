"""The engine of the examples in docs/ovirt.md: a double, whose operations need no time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tapestream.testing import EngineDouble, ImageioDaemon, write_pattern

from .steps import MIB


@contextmanager
def an_engine(daemon: ImageioDaemon) -> Iterator[None]:
    """Run an engine with a VM, a configuration in the home directory, and a folder for backups."""
    home = Path("home").absolute()
    with (
        EngineDouble(Path("engine"), daemon=daemon) as engine,
        pytest.MonkeyPatch.context() as patch,
    ):
        engine.phases.backup_start = ("ready",)
        engine.phases.backup_finalize = ("succeeded",)
        engine.phases.transfer_start = ("transferring",)
        engine.phases.transfer_finalize = ("finished_success",)
        engine.phases.disk_add = ("ok",)
        engine.phases.checkpoint_remove = ("removed",)
        vm = engine.add_vm("mail", [16 * MIB, 16 * MIB])
        for disk in vm.disks:
            write_pattern(disk.path, ["write -P 1 0 1M"])
        engine.write_config(home)
        for name in [name for name in os.environ if name.startswith(("OVIRT_", "XDG_STATE"))]:
            patch.delenv(name)
        patch.setenv("HOME", str(home))
        Path("backups").mkdir()
        yield
        assert not engine.leftovers().transfers
        assert not engine.leftovers().backups
