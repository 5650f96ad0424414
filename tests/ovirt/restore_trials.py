"""Restores of a VM in which something goes wrong at random, and what is left after each.

In each trial, the double of an engine refuses requests, loses connections or replies, has objects
that fail or hang, or the program is ended by a signal. Then another restore follows in which
nothing goes wrong. What is judged is not asked of tapestream but of the double, and of whole disks:

- A restore that says that it was good has made a VM with all disks as they were.
- After any other one, there is neither a new VM nor a new disk. Only if the program was killed, or
  the engine refused to remove something for good, the next run removes it.
- The next restore is good.
- No secret is in what was logged or raised, in the output, or in a file.

`python -m tests.ovirt.restore_trials --count 300` runs as many as asked for; the tests, a few.
"""

from __future__ import annotations

import argparse
import logging
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from tapestream import TapestreamError
from tapestream.ovirt import EngineTimeouts, back_up_vm, connect, exit_on_sigterm, restore_vm
from tapestream.testing import EngineDouble, ImageioDaemon, VmDouble, compare_images, write_pattern
from tests.ovirt.leaks import Heard, listening
from tests.ovirt.mishaps import FOREVER, Outcome, random_fault

ROOT = Path(__file__).parents[2]
MIB = 1024**2
LIMITS = EngineTimeouts(
    transfer_start=0.3,
    transfer_end=0.3,
    disk=0.3,
    refused=0.3,
    poll=0.001,
    longest_poll=0.01,
)
# For what goes well, on a machine that may be busy.
PATIENT = replace(LIMITS, transfer_start=20, transfer_end=20, disk=20, refused=20)
REQUESTS = (
    ("GET", "/vms"),
    ("GET", "/vms/*"),
    ("GET", "/clusters"),
    ("GET", "/storagedomains"),
    ("GET", "/disks/*"),
    ("GET", "/imagetransfers"),
    ("GET", "/imagetransfers/*"),
    ("POST", "/vms"),
    ("POST", "/disks"),
    ("POST", "/imagetransfers"),
    ("POST", "/imagetransfers/*/finalize"),
    ("POST", "/imagetransfers/*/cancel"),
    ("POST", "/vms/*/diskattachments"),
    ("PUT", "/vms/*"),
    ("DELETE", "/vms/*"),
    ("DELETE", "/disks/*"),
)
# What cleans up.
ENDING = (
    ("POST", "/imagetransfers/*/cancel"),
    ("DELETE", "/vms/*"),
    ("DELETE", "/disks/*"),
)
PHASES = {
    "disk_add": (("locked", "illegal"), ("locked", "dancing", "ok"), ("locked", "locked", "ok")),
    "transfer_start": (
        ("initializing", "dancing"),
        ("initializing", "paused_system"),
        ("initializing", "finished_failure"),
    ),
    "transfer_finalize": (
        ("finalizing_failure", "finished_failure"),
        ("paused_system",),
        ("finalizing_success", "dancing", "finished_success"),
    ),
    "vm_add": (("image_locked", "down"), ("image_locked", "image_locked", "down")),
}


class Trial(NamedTuple):
    """What goes wrong.

    Attributes:
        name: In words.
        faults: They are done to the engine before the run.
        number: The signal that ends the program; None for no signal.
        moment: The request at which it comes.
    """

    name: str
    faults: tuple[Callable[[EngineDouble], object], ...] = ()
    number: signal.Signals | None = None
    moment: tuple[str, str, int] = ("GET", "/vms", 0)

    @property
    def may_leave_something(self) -> bool:
        """The program is killed, or what cleans up is refused for good, as by a 400."""
        is_refused = any(f"400 to {method} {path}" in self.name for method, path in ENDING)
        return is_refused or self.number == signal.SIGKILL or f"{FOREVER} times" in self.name


def random_trial(seed: int) -> Trial:
    """A trial; the same for the same seed."""
    chance = random.Random(seed)
    if chance.random() < 0.4:
        number = chance.choice([signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
        method, path = chance.choice(REQUESTS)
        moment = (method, path, chance.randrange(3))
        name, faults = f"{number.name} at {moment}", ()
        if chance.random() < 0.3:
            words, fault = random_fault(chance, ENDING, most_before=2)
            return Trial(f"{name}, {words}", (fault,), number, moment)
        return Trial(name, faults, number, moment)
    if chance.random() < 0.3:
        operation = chance.choice(sorted(PHASES))
        phases = chance.choice(PHASES[operation])
        trial = Trial(
            f"{operation} {phases}", (lambda engine: setattr(engine.phases, operation, phases),)
        )
    else:
        words, fault = random_fault(chance, REQUESTS, most_before=2)
        trial = Trial(words, (fault,))
    if chance.random() < 0.6:
        # What cleans up is only asked for if something has failed before.
        words, fault = random_fault(chance, ENDING, most_before=2)
        trial = replace_trial(trial, f"400 to the last step, {words}", (_refuse_attachment, fault))
    return trial


def replace_trial(
    trial: Trial, words: str, faults: tuple[Callable[[EngineDouble], object], ...]
) -> Trial:
    return trial._replace(name=f"{trial.name}, {words}", faults=trial.faults + faults)


def _refuse_attachment(engine: EngineDouble) -> None:
    engine.refuse("POST", "/vms/*/diskattachments", 400, skip=1)


@dataclass(frozen=True)
class World:
    """An engine with a VM, and a folder with a backup of it."""

    engine: EngineDouble
    vm: VmDouble
    directory: Path

    def restore(self, name: str, timeouts: EngineTimeouts = LIMITS) -> list[str]:
        """Restore it in this process; what it says about killed runs."""
        with connect(self.directory / "home" / ".config" / "ovirt.conf") as connection:
            report = restore_vm(
                connection,
                self.directory / "backups",
                name=name,
                state=self.directory / "state",
                timeouts=timeouts,
            )
        return [str(run) for run in report.killed]


@contextmanager
def a_world(daemon: ImageioDaemon) -> Iterator[World]:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with EngineDouble(directory / "engine", daemon=daemon) as engine:
            engine.write_config(directory / "home")
            (directory / "backups").mkdir()
            vm = engine.add_vm("mail", [MIB, MIB])
            for number, disk in enumerate(vm.disks, 1):
                write_pattern(disk.path, [f"write -P {number} {number * 64}k 64k"])
            with connect(directory / "home" / ".config" / "ovirt.conf") as connection:
                back_up_vm(
                    connection,
                    "mail",
                    directory / "backups",
                    state=directory / "state",
                    timeouts=PATIENT,
                )
            yield World(engine, vm, directory)


def run(trial: Trial, daemon: ImageioDaemon) -> Outcome:
    """Run a trial, and then another restore in which nothing goes wrong."""
    with a_world(daemon) as world, listening() as heard:
        for fault in trial.faults:
            fault(world.engine)
        ended = (_run_in_process if trial.number else _run_here)(trial, world, heard)
        problems = [ended] if ended.startswith("BUG") else []
        if ended == "good":
            problems += _not_whole(world, "new")
        elif trial.number and not _not_whole(world, "new"):
            pass  # the signal came when the VM was restored already
        elif not trial.may_leave_something:
            problems += _left(world, "after the run", ())
        problems += heard.leaks(
            world.engine, world.directory / "backups", world.directory / "state"
        )
        world.engine.heal()
        was_restored = not _not_whole(world, "new")
        try:
            killed = world.restore("another", PATIENT)
        except Exception as e:  # noqa: BLE001 - a trial reports it
            return Outcome([*problems, f"the next run: {e!r}"], ended, [])
        problems += _not_whole(world, "another")
        names = ("new", "another") if was_restored else ("another",)
        problems += _left(world, "after the next run", names)
        if list((world.directory / "state").iterdir()):
            problems.append("a file of a run is left")
        return Outcome(problems, ended, killed)


def _run_here(_trial: Trial, world: World, heard: Heard) -> str:
    try:
        world.restore("new")
    except TapestreamError as e:
        heard.add_error(e)
        return type(e).__name__
    except Exception as e:  # noqa: BLE001 - a trial reports it
        return f"BUG: {e!r}"
    return "good"


def _run_in_process(trial: Trial, world: World, heard: Heard) -> str:
    program = subprocess.Popen(
        [sys.executable, "-m", "tests.ovirt.restore_trials", "--restore", str(world.directory)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
    )
    assert trial.number is not None
    number = trial.number
    method, path, skip = trial.moment
    world.engine.when(method, path, lambda: program.send_signal(number), skip=skip)
    _, err = program.communicate(timeout=60)
    heard.add("the messages", err)
    if program.returncode == 0:
        return "good"
    ends = {-number, 128 + number}
    text = err.decode()
    if program.returncode in ends or "KeyboardInterrupt" in text or "EngineError" in text:
        return number.name
    return f"BUG: {program.returncode}, {text[-2000:]}"


def _not_whole(world: World, name: str) -> list[str]:
    """What is wrong with a VM that was restored."""
    found = [vm for vm in world.engine.vms if vm.name == name]
    if len(found) != 1:
        return [f"there are {len(found)} VMs {name}"]
    if len(found[0].disks) != 2 or found[0].comment:
        return [f"{name} has {len(found[0].disks)} disks, and the comment {found[0].comment!r}"]
    try:
        for before, after in zip(world.vm.disks, found[0].disks, strict=True):
            compare_images(before.path, after.path)
    except AssertionError as e:
        return [f"{name} differs: {e}"]
    return []


def _left(world: World, when: str, names: tuple[str, ...]) -> list[str]:
    """What is there that should not be."""
    left = world.engine.leftovers()
    problems = []
    if left.transfers or left.locked_disks:
        problems.append(f"{when}: {left}")
    vms = [vm.name for vm in world.engine.vms]
    if vms != ["mail", *names]:
        problems.append(f"{when}, there are the VMs {vms}")
    if len(world.engine.disks) != 2 * (1 + len(names)):
        problems.append(f"{when}, there are {len(world.engine.disks)} disks")
    return problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--restore", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.restore is not None:
        logging.basicConfig(level=logging.DEBUG)
        with exit_on_sigterm(), connect(args.restore / "home" / ".config" / "ovirt.conf") as engine:
            restore_vm(
                engine,
                args.restore / "backups",
                name="new",
                state=args.restore / "state",
                timeouts=LIMITS,
            )
        return
    ends: Counter[str] = Counter()
    bad = 0
    with tempfile.TemporaryDirectory() as name, ImageioDaemon(Path(name)) as daemon:
        for seed in range(args.first, args.first + args.count):
            trial = random_trial(seed)
            outcome = run(trial, daemon)
            ends[outcome.ended.partition(":")[0]] += 1
            if outcome.problems:
                bad += 1
                print(f"{seed}: {trial.name}: {outcome.ended}: {outcome.problems}", flush=True)
    print(f"{args.count} trials, {bad} bad: {dict(ends)}")
    with suppress(BrokenPipeError):
        sys.exit(bad > 0)


if __name__ == "__main__":
    main()
