"""`tapestream vm`: the real program, with a double of an engine and a real imageio daemon."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import pytest

from tapestream import TarStreamSource
from tapestream.cli.main import main
from tapestream.tape import TapeDrive
from tapestream.testing import (
    Cartridge,
    EngineDouble,
    FakeDrive,
    ImageioDaemon,
    VmDouble,
    compare_images,
    write_pattern,
)

from .program import LIMIT, Ended, call, run, start

pytest.importorskip("ovirtsdk4", reason="oVirt's engine SDK is not installed")
MIB = 1024**2


class World(NamedTuple):
    """An engine with a VM, and a home directory with the configuration."""

    engine: EngineDouble
    vm: VmDouble
    home: Path
    folder: Path

    def run(self, *arguments: object) -> Ended:
        """As a process of its own."""
        return run("vm", *arguments, HOME=str(self.home))

    def back_up(self) -> None:
        """A full backup to the folder."""
        assert call("vm", "full", "mail", self.folder).status == 0


@pytest.fixture
def world(
    daemon: ImageioDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    if shutil.which("qemu-nbd") is None:
        pytest.skip("qemu-nbd is not installed")
    for name in ("OVIRT_URL", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    home, folder = tmp_path / "home", tmp_path / "backups"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(home))
    with EngineDouble(tmp_path / "engine", daemon=daemon) as engine:
        engine.write_config(home)
        # The program looks once a second, so nothing here takes more than one look.
        for phases in fields(engine.phases):
            setattr(engine.phases, phases.name, getattr(engine.phases, phases.name)[-1:])
        vm = engine.add_vm("mail", [2 * MIB, MIB])
        write_pattern(vm.disks[0].path, ["write -P 1 0 64k", "write -P 2 1M 64k"])
        write_pattern(vm.disks[1].path, ["write -P 3 512k 64k"])
        yield World(engine, vm, home, folder)
        assert engine.leftovers().tokens == 0


def same(old: VmDouble, new: VmDouble) -> None:
    assert len(old.disks) == len(new.disks)
    for before, after in zip(old.disks, new.disks, strict=True):
        compare_images(before.path, after.path)


def test_a_vm_there_and_back(world: World) -> None:
    full = world.run("full", "mail", world.folder)
    assert (full.status, full.err) == (0, "")
    assert "mail_Disk1: full, " in full.out
    assert full.out.splitlines()[-1].startswith("VM mail is backed up, as of 20")
    assert "2 disks, 192.0 KiB of data" in full.out

    write_pattern(world.vm.disks[0].path, ["write -P 4 128k 64k", "write -z 0 64k"])
    changes = call("--json", "vm", "incremental", world.vm.id, world.folder, "--max-rate", "1G")
    assert changes.status == 0
    assert [each["kind"] for each in changes.objects if each["event"] == "disk"] == [
        "incremental",
        "incremental",
    ]
    assert {each["what"] for each in changes.objects if each["event"] == "progress"} == {
        "backup of mail_Disk1",
        "backup of mail_Disk2",
    }
    point = changes.result["checkpoint_id"]
    assert point == world.engine.leftovers().checkpoints[-1]

    back = world.run("restore", world.folder, "--name", "mail-2", "--storage-domain", "data")
    assert back.status == 0
    assert "VM mail-2 is restored, as of 20" in back.out
    assert "The engine has the old VM: the new one has a new id" in back.err
    same(*world.engine.vms)

    listed = call("vm", "list")
    assert [line.split()[:2] for line in listed.out.splitlines()[1:]] == [
        ["mail", "up"],
        ["mail-2", "down"],
    ]
    lines = call("vm", "list", "mail").out.splitlines()
    assert lines[3] == ""  # between the two tables
    assert lines[4].split() == ["CHECKPOINT", "ID"]
    one = call("--json", "vm", "list", "mail")
    assert [each["event"] for each in one.objects] == ["disk", "disk", "checkpoint", "checkpoint"]
    assert one.objects[-1]["checkpoint_id"] == point


def test_names_begin_no_lines_of_their_own(world: World) -> None:
    world.vm.name = "mail\nFORGED\u202e"
    world.vm.disks[1].name = "disk\nFORGED"
    full = call("vm", "full", world.vm.id, world.folder)
    shown = [
        full,
        call("vm", "list"),
        call("vm", "list", world.vm.id),
        call("vm", "restore", world.folder, "--name", "new"),
        call("vm", "restore", world.folder, "--vm", "nobody"),
        call("vm", "full", world.vm.id, world.folder, "--disk", "nobody"),
    ]
    assert [ended.status for ended in shown] == [0, 0, 0, 0, 64, 64]
    for ended in shown:
        lines = (ended.out + ended.err).split("\n")
        assert any("\\nFORGED" in line for line in lines), ended
        assert all(line.isprintable() and not line.startswith("FORGED") for line in lines)
    names = {each.get("vm") for each in call("--json", "vm", "list").objects}
    assert world.vm.name in names


def test_a_vm_that_is_lost_comes_back_under_its_name(world: World) -> None:
    world.back_up()
    taken = call("vm", "restore", world.folder)
    assert taken.status == 64
    assert "there is a VM mail already" in taken.err
    assert "--name" in taken.err
    world.engine.vms[0].name = "mail-old"
    back = call("--json", "vm", "restore", *sorted(world.folder.iterdir()), "--vm", "mail")
    assert (back.status, back.result["vm"], back.result["has_new_ids"]) == (0, "mail", True)
    same(*world.engine.vms)


def test_to_tape_and_back(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeDrive(Cartridge())

    def vm(*arguments: str) -> int:
        drive = TapeDrive("/dev/nst0", open_device=fake.open)
        return main(["vm", *arguments], drives={"/dev/nst0": drive})

    assert vm("full", "mail", "/dev/nst0") == 0
    assert "mail_Disk2: full, " in capsys.readouterr().out
    assert vm("restore", "/dev/nst0", "--name", "new") == 0
    same(*world.engine.vms)


def test_one_disk_into_a_pipe(world: World, tmp_path: Path) -> None:
    two = call("vm", "full", "mail", "-")
    assert (two.status, two.out) == (64, "")
    assert "disk" in two.err
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    ended: list[Ended] = []
    writer = threading.Thread(
        target=lambda: ended.append(world.run("full", "mail", fifo, "--disk", "mail_Disk2"))
    )
    writer.start()
    with fifo.open("rb") as stream:
        (tmp_path / "disk.tar").write_bytes(stream.read())
    writer.join()
    assert ended[0].status == 0
    with TarStreamSource(tmp_path / "disk.tar") as source:
        assert source.info.disk_name == "mail_Disk2"
        assert "vm.ovf" in source.attachments


@pytest.mark.parametrize(
    ("command", "number"),
    [("full", signal.SIGTERM), ("full", signal.SIGINT), ("restore", signal.SIGTERM)],
)
def test_a_signal_ends_it_cleanly(world: World, command: str, number: signal.Signals) -> None:
    places = ["mail", world.folder]
    if command == "restore":
        world.back_up()
        places = [world.folder, "--name", "new"]
    before = len(world.engine.leftovers().checkpoints)
    program = start("vm", command, *places, variables={"HOME": str(world.home)})
    world.engine.when("POST", "/imagetransfers", lambda: program.send_signal(number), skip=0)
    out, err = program.communicate(timeout=LIMIT)
    assert program.returncode == 128 + number, (out, err)
    assert f"cancelled: {number.name}" in err.decode()
    left = world.engine.leftovers()
    assert left.nothing_open
    assert len(left.checkpoints) == before
    assert len(world.engine.vms) == 1
    assert len(world.engine.disks) == 2


def test_the_next_run_says_what_a_killed_one_has_left(world: World) -> None:
    world.back_up()
    program = start(
        "vm", "restore", world.folder, "--name", "new", variables={"HOME": str(world.home)}
    )
    world.engine.when("POST", "/imagetransfers", program.kill, skip=1)
    program.communicate(timeout=LIMIT)
    assert program.returncode == -signal.SIGKILL
    assert [vm.name for vm in world.engine.vms] == ["mail", "new"]
    again = call("vm", "restore", world.folder, "--name", "other")
    assert again.status == 0
    assert "warning: Found the restore of VM new that started at 20" in again.err
    assert re.search(r"started at [-\d]+ [:\d]+ CET was killed, or could not clean", again.err)
    assert [vm.name for vm in world.engine.vms] == ["mail", "other"]
    assert len(world.engine.disks) == 4
    world.engine._desk.tokens.expire()


def test_a_failed_backup_says_what_is_complete(world: World) -> None:
    world.engine.refuse("POST", "/imagetransfers", 400, "[No space.]", skip=1)
    ended = call("vm", "full", "mail", world.folder)
    assert ended.status == 1
    assert "cannot start the download of disk mail_Disk2: No space" in ended.err
    assert "warning: Disk mail_Disk1 is complete, and can be restored" in ended.err
    assert world.engine.leftovers().checkpoints == ()


def test_a_vm_without_backups_is_answered_by_each_name_once(world: World) -> None:
    world.back_up()  # of two disks
    ended = call("vm", "restore", world.folder, "--vm", "news")
    assert ended.status == 64
    assert ended.err.splitlines() == [
        "tapestream: there is no backup of VM news here",
        "There are backups of VM mail.",
    ]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["full", "news", "."], 64, "there is no VM news, or this user may not see it"),
        (["full", "news", "."], 64, "'tapestream vm list' lists the VMs"),
        (["full", "", "."], 64, "an argument is empty: is a variable of your script not set?"),
        (["full", "mail", ".", "--max-rate", "0"], 64, "'0' is too slow"),
        (["restore", "-"], 64, "a VM cannot be restored from standard input"),
        (["full", "mail", ".", "--section", "x"], 64, "no section [x]"),
        (["list", "--config", "nowhere.conf"], 1, "cannot read the configuration nowhere.conf"),
        (
            ["list", "--config", "nowhere.conf"],
            1,
            "'tapestream vm list --help' says what is needed",
        ),
        (["restore", "."], 64, "there are no backups here, of any VM"),
        (["full", "mail"], 64, "TARGET"),
    ],
)
def test_wrong_arguments(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    status: int,
    message: str,
) -> None:
    monkeypatch.chdir(world.folder)
    ended = call("vm", *arguments)
    assert ended.status == status, ended.err
    assert message in ended.err


def test_without_the_sdk(tmp_path: Path) -> None:
    (tmp_path / "ovirtsdk4.py").write_text("raise ImportError('not here')\n")
    path = f"{tmp_path}{os.pathsep}{Path(__file__).parents[2] / 'src'}"
    ended = run("vm", "list", PYTHONPATH=path)
    assert ended.status == 1
    assert "tapestream.ovirt needs oVirt's engine SDK (not here)" in ended.err
    assert "Traceback" not in ended.err


def test_a_ctrl_c_ends_the_wait_for_an_engine_that_hangs(tmp_path: Path) -> None:
    """A listener that accepts a connection, and never answers, stands in for the engine."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        variables = {
            "OVIRT_URL": f"https://127.0.0.1:{listener.getsockname()[1]}",
            "OVIRT_USERNAME": "me",
            "OVIRT_PASSWORD": "secret",
        }
        program = start("vm", "list", variables=variables)
        with listener.accept()[0] as connection:
            connection.recv(1)
            program.send_signal(signal.SIGINT)
            out, err = program.communicate(timeout=LIMIT)
    assert program.returncode == 130, (out, err)
    assert "cancelled: SIGINT" in err.decode()


def test_the_help_fits_into_80_columns() -> None:
    for name in ("full", "incremental", "restore", "list"):
        ended = call("vm", name, "--help")
        assert ended.status == 0
        assert max(map(len, ended.out.splitlines())) <= 80
