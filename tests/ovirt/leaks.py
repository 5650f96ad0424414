"""Looks for secrets in all that a program says and writes: tickets, tokens and the password.

`python -m tests.ovirt.leaks` runs each command of `tapestream vm` with each failure, and searches
its output, its log and the files that it writes. The tests do a part of that. The random trials
search what `back_up_vm` and `restore_vm` say and write, with failures of every kind.
"""

from __future__ import annotations

import argparse
import base64
import logging
import os
import pickle
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch
from urllib.parse import quote, quote_plus

from tapestream.ovirt import back_up_vm, connect
from tapestream.testing import EngineDouble, ImageioDaemon, VmDouble, write_pattern
from tests.cli.program import call, environment
from tests.ovirt.mishaps import FOREVER

MIB = 1024**2


def forms(secret: str) -> set[bytes]:
    """How a secret may be written."""
    plain = secret.encode()
    quoted = {quote(secret).encode(), quote_plus(secret).encode()}
    return {plain, *quoted, base64.b64encode(plain), plain.hex().encode()}


class Heard(logging.Handler):
    """All that is said: what is logged at any level, and what is added."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.said: list[tuple[str, bytes]] = []
        self.setFormatter(logging.Formatter())

    def emit(self, record: logging.LogRecord) -> None:
        """Add a message of the log."""
        self.add("the log", self.format(record).encode(errors="replace"))

    def add(self, where: str, said: bytes) -> None:
        """Add something else."""
        self.said.append((where, said))

    def add_error(self, error: BaseException) -> None:
        """Add all that an exception can show, and those that it comes from."""
        text = "".join(traceback.format_exception(error))
        self.add("the traceback", text.encode(errors="replace"))
        seen: list[BaseException] = []
        todo: list[BaseException | None] = [error]
        while todo:
            each = todo.pop()
            if each is None or each in seen:
                continue
            seen.append(each)
            todo += [each.__cause__, each.__context__]
            for shown in (str(each), repr(each), repr(each.args), repr(vars(each))):
                self.add(f"a {type(each).__name__}", shown.encode(errors="replace"))
            self.add_pickle(each)

    def add_pickle(self, value: object) -> None:
        """Add what another process would get of a value."""
        with suppress(Exception):  # not everything can be pickled
            self.add(f"a pickled {type(value).__name__}", pickle.dumps(value))

    def add_value(self, value: object) -> None:
        """Add what a value shows."""
        self.add(f"a {type(value).__name__}", f"{value!r} {value}".encode(errors="replace"))
        self.add_pickle(value)

    def leaks(self, engine: EngineDouble, *folders: Path) -> list[str]:
        """Where secrets are in what was heard, or in the files of folders."""
        files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
        written = [(str(path), str(path).encode() + path.read_bytes()) for path in files]
        places = [*self.said, *written]
        found = []
        for secret in engine.secrets:
            for form in forms(secret):
                for where, said in places:
                    if (at := said.find(form)) >= 0:
                        found.append(f"a secret in {where}: {said[max(at - 200, 0) : at]!r}...")
        return found


@contextmanager
def listening() -> Iterator[Heard]:
    """Hear what is logged in this block."""
    heard = Heard()
    loggers = [logging.getLogger(), logging.getLogger("tapestream")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    loggers[0].addHandler(heard)
    try:
        yield heard
    finally:
        loggers[0].removeHandler(heard)
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


class World(NamedTuple):
    """An engine with a VM that has a backup, and the home directory of who runs the program."""

    engine: EngineDouble
    vm: VmDouble
    home: Path
    folder: Path


@contextmanager
def a_world(daemon: ImageioDaemon) -> Iterator[World]:
    """The program looks at the engine once a second: so everything there is ready immediately."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        home, folder = directory / "home", directory / "backups"
        folder.mkdir()
        with (
            EngineDouble(directory / "engine", daemon=daemon) as engine,
            patch.dict(os.environ, {"HOME": str(home)}),
        ):
            for variable in [each for each in os.environ if each.startswith(("OVIRT_", "XDG_"))]:
                del os.environ[variable]
            engine.write_config(home)
            for phases in fields(engine.phases):
                setattr(engine.phases, phases.name, getattr(engine.phases, phases.name)[-1:])
            vm = engine.add_vm("mail", [MIB, MIB])
            for disk in vm.disks:
                write_pattern(disk.path, ["write -P 1 0 64k"])
            with connect() as connection:
                back_up_vm(connection, "mail", folder)
            yield World(engine, vm, home, folder)


def refused(method: str, path: str) -> Callable[[World], None]:
    # What ends something is asked again for minutes after a 400, but not after a 405.
    return lambda world: world.engine.refuse(method, path, 405, "[No.]", skip=1, times=FOREVER)


def dropped(method: str, path: str) -> Callable[[World], None]:
    return lambda world: world.engine.drop(method, path, carry_out=True, times=2)


def phases(operation: str, *words: str) -> Callable[[World], None]:
    return lambda world: setattr(world.engine.phases, operation, words)


def at_a_transfer(what: Callable[[World], object]) -> Callable[[World], None]:
    return lambda world: world.engine.when("GET", "/imagetransfers/*", lambda: what(world))


def damage(world: World) -> None:
    """Another byte in each backup."""
    for path in world.folder.iterdir():
        text = path.read_bytes()
        path.write_bytes(text.replace(b"\1" * 512, b"\2" * 512, 1))


def distrust(world: World) -> None:
    """The CA of the engine alone: it has not signed the host's certificate."""
    config = world.home / ".config" / "ovirt.conf"
    with config.open("a") as file:
        file.write(f"host_cafile = {world.engine.cafile}\n")


def forget_who(world: World) -> None:
    """A user that does not exist, so the password is wrong."""
    config = world.home / ".config" / "ovirt.conf"
    config.write_text(config.read_text().replace("username = ", "username = x"))


FAILURES: dict[str, Callable[[World], None]] = {
    "nothing": lambda _: None,
    "the data is not trusted": distrust,
    "the tickets are gone": at_a_transfer(lambda world: world.engine.pass_time(4000)),
    "the token expires": at_a_transfer(lambda world: world.engine.expire_tokens()),
    "the backups are damaged": damage,
    "the password is wrong": forget_who,
    "the backup fails": phases("backup_start", "failed"),
    "the transfer fails": phases("transfer_start", "finished_failure"),
    "the transfer is not finalized": phases("transfer_finalize", "finished_failure"),
    "the disk is illegal": phases("disk_add", "illegal"),
    **{
        f"{method} {path} is {what}": fail(method, path)
        for what, fail in (("refused", refused), ("dropped", dropped))
        for method, path in (
            ("GET", "/vms"),
            ("GET", "/vms/*/backups/*"),
            ("GET", "/imagetransfers/*"),
            ("POST", "/vms/*/backups"),
            ("POST", "/imagetransfers"),
            ("POST", "/imagetransfers/*/finalize"),
            ("POST", "/vms/*/backups/*/finalize"),
            ("POST", "/disks"),
            ("POST", "/vms"),
            ("PUT", "/vms/*"),
        )
    },
}
COMMANDS: dict[str, tuple[str, ...]] = {
    "full": ("-v", "vm", "full", "mail"),
    "incremental": ("-v", "--json", "vm", "incremental", "mail"),
    "restore": ("-v", "vm", "restore", "--name", "mail-2"),
    "list": ("-v", "--json", "vm", "list"),
}


def leaks_of(command: str, failure: str, daemon: ImageioDaemon) -> tuple[int, list[str]]:
    """Run a command in this process, with a failure; its exit status, and where it leaks."""
    with a_world(daemon) as world:
        FAILURES[failure](world)
        arguments = [*COMMANDS[command], *([] if command == "list" else [world.folder])]
        with listening() as heard:
            ended = call(*arguments)
        heard.add("the output", ended.out.encode())
        heard.add("the messages", ended.err.encode())
        found = heard.leaks(world.engine, world.folder, world.home / ".local")
        return ended.status, found


def leaks_of_a_process(daemon: ImageioDaemon) -> list[str]:
    """Where others can see secrets while a program runs: what `ps` shows of it."""
    with a_world(daemon) as world:
        heard = Heard()

        def look() -> None:
            for name in ("cmdline", "environ", "comm"):
                heard.add(f"/proc: {name}", Path("/proc", str(process.pid), name).read_bytes())

        world.engine.when("POST", "/imagetransfers/*/finalize", look, times=2)
        command = [
            sys.executable,
            "-m",
            "tapestream",
            "-v",
            "vm",
            "full",
            "mail",
            str(world.folder),
        ]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment()
        ) as process:
            heard.add("the output", process.communicate(timeout=60)[0])
        assert len(heard.said) == 7, heard.said
        return heard.leaks(world.engine)


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("commands", nargs="*", help=f"of {', '.join(COMMANDS)}; all by default")
    args = parser.parse_args()
    bad = 0
    ends: dict[int, int] = {}
    with tempfile.TemporaryDirectory() as directory, ImageioDaemon(Path(directory)) as daemon:
        for command in args.commands or COMMANDS:
            for failure in FAILURES:
                begin = time.monotonic()
                status, found = leaks_of(command, failure, daemon)
                seconds = time.monotonic() - begin
                print(f"{command}, {failure}: exit status {status}, {seconds:.1f} s", flush=True)
                ends[status] = ends.get(status, 0) + 1
                bad += bool(found)
                for each in found:
                    print(f"{command}, {failure}: {each}", flush=True)
        found = leaks_of_a_process(daemon)
        print(*found, sep="\n", end="")
    print(f"{sum(ends.values())} runs, by exit status: {ends}. Of {bad}, something shows a secret.")
    return 1 if bad or found else 0


if __name__ == "__main__":
    sys.exit(main())
