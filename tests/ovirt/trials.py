"""Backups of a VM in which something goes wrong at random, and what is left after each.

In each trial, an engine double refuses requests, loses connections or replies, has objects that
fail or hang, or the program is ended by a signal. What is judged is not asked of tapestream but of
the double, and of the bytes of restored disks:

- No transfer and no backup stays open. Only if the program was killed, or the engine refused to end
  something for good, the next run says so, and cleans it up.
- Every checkpoint from which an incremental backup could start is one at which every disk can be
  restored from the folder.
- Every stream that looks complete is restored, and is the disk as it was.
- The next run is good, and so is what is restored from it.
- No secret is in what was logged or raised, in the output, or in a file.

`python -m tests.ovirt.trials --count 300` runs as many as asked for; the tests, a few. With
`--each`, each failure comes at each step, once.
"""

from __future__ import annotations

import argparse
import logging
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tapestream import RawImageSink, TapestreamError, restore_chain
from tapestream.archive import read_folder
from tapestream.ovirt import EngineTimeouts, back_up_vm, connect, exit_on_sigterm
from tapestream.testing import DiskDouble, EngineDouble, ImageioDaemon, VmDouble, write_pattern
from tests.ovirt.leaks import Heard, listening
from tests.ovirt.mishaps import FOREVER, Outcome, lost, random_fault, refusal

ROOT = Path(__file__).parents[2]
MIB = 1024**2
# The double moves an object at each look. What never gets ready is given up soon.
LIMITS = EngineTimeouts(
    backup_start=0.3,
    backup_end=0.3,
    transfer_start=0.3,
    transfer_end=0.3,
    checkpoint_end=0.3,
    refused=0.3,
    poll=0.001,
    longest_poll=0.01,
)
READING = (
    ("GET", "/vms"),
    ("GET", "/vms/*"),
    ("GET", "/disks/*"),
    ("GET", "/vms/*/checkpoints"),
    ("GET", "/vms/*/backups"),
    ("GET", "/vms/*/backups/*"),
    ("GET", "/vms/*/backups/*/disks"),
    ("GET", "/imagetransfers"),
    ("GET", "/imagetransfers/*"),
    ("GET", "/events"),
)
STARTING = (("POST", "/vms/*/backups"), ("POST", "/imagetransfers"))
ENDING = (
    ("POST", "/imagetransfers/*/finalize"),
    ("POST", "/imagetransfers/*/cancel"),
    ("POST", "/vms/*/backups/*/finalize"),
    ("DELETE", "/vms/*/checkpoints/*"),
)
REQUESTS = READING + STARTING + ENDING
# Phases that the double shows, for each operation. None that would keep a backup from ever ending:
# there is nothing that a program could do about that.
PHASES = {
    "backup_start": (
        ("initializing", "failed"),
        ("initializing",),
        ("initializing", "starting"),
        ("initializing", "dancing"),
        ("initializing", "succeeded"),
    ),
    "backup_finalize": (
        ("finalizing", "failed"),
        ("finalizing", "dancing", "succeeded"),
        ("finalizing",) * 200 + ("succeeded",),
    ),
    "transfer_start": (
        ("initializing",),
        ("initializing", "dancing"),
        ("initializing", "paused_system"),
        ("initializing", "cancelled_system", "finished_failure"),
        ("initializing", "finished_failure"),
    ),
    "transfer_finalize": (
        ("finalizing_failure", "finished_failure"),
        ("finalizing_success", "dancing", "finished_success"),
        ("paused_system",),
        ("finalizing_success",) * 200 + ("finished_success",),
    ),
    "transfer_cancel": (
        ("finalizing_cleanup",) * 200 + ("finished_cleanup",),
        ("cancelled_user", "dancing", "finished_cleanup"),
    ),
    "checkpoint_remove": (("invalid",) * 200 + ("removed",), ("invalid",)),
}


@dataclass
class World:
    """An engine with a VM, its disks' bytes at each backup, and the folder with the backups.

    Attributes:
        truth: For each checkpoint, the bytes of each disk; "" for those of the trial.
        locked: Disks that another program has locked.
    """

    engine: EngineDouble
    vm: VmDouble
    directory: Path
    truth: dict[str, list[bytes]] = field(default_factory=dict)
    locked: list[DiskDouble] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.directory / "backups"

    @property
    def state(self) -> Path:
        return self.directory / "state"

    @property
    def config(self) -> Path:
        return self.directory / "home" / ".config" / "ovirt.conf"

    def records(self) -> list[str]:
        return [path.name for path in self.state.glob("*")]

    def write(self, byte: int) -> list[bytes]:
        """Write somewhere on each disk; all bytes of each."""
        for disk in self.vm.disks:
            write_pattern(disk.path, [f"write -P {byte} {byte * 64}k 64k"])
        return [self.bytes_of(disk.path) for disk in self.vm.disks]

    def bytes_of(self, image: Path) -> bytes:
        raw = self.directory / "now.raw"
        subprocess.run(["qemu-img", "convert", "-O", "raw", image, raw], check=True)
        return raw.read_bytes()

    def back_up(self) -> tuple[str, list[str]]:
        """One run in this process: its checkpoint, and what it says about killed ones."""
        with connect(self.config) as connection:
            report = back_up_vm(
                connection,
                self.vm.id,
                self.folder,
                incremental=True,
                state=self.state,
                timeouts=LIMITS,
            )
        return str(report.checkpoint_id), [str(run) for run in report.killed]


@contextmanager
def a_world(daemon: ImageioDaemon) -> Iterator[World]:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with EngineDouble(directory / "engine", daemon=daemon) as engine:
            engine.write_config(directory / "home")
            (directory / "backups").mkdir()
            yield World(engine, engine.add_vm("mail", [MIB, MIB]), directory)


class Trial(NamedTuple):
    """What goes wrong.

    Attributes:
        name: In words.
        has_base: There is a good backup before.
        faults: They are done to the world before the run.
        number: The signal that ends the program; None for no signal.
        again: A second signal of that kind follows.
        moment: When it comes: a part of the time that a run takes, or at which request.
    """

    name: str
    has_base: bool
    faults: tuple[Callable[[World], object], ...]
    number: signal.Signals | None = None
    again: bool = False
    moment: float | tuple[str, str, int] = 0.0

    @property
    def is_killed(self) -> bool:
        return self.number == signal.SIGKILL

    @property
    def lasts(self) -> bool:
        """The engine refuses something for good, or needs longer than the time limit."""
        return f"{FOREVER} times" in self.name or "for too long" in self.name


def random_trial(seed: int) -> Trial:
    """A trial; the same for the same seed."""
    chance = random.Random(seed)
    has_base = chance.random() < 0.5
    if chance.random() < 0.4:
        number = chance.choice([signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
        again = number != signal.SIGKILL and chance.random() < 0.5
        moment: float | tuple[str, str, int] = chance.random()
        if chance.random() < 0.6:
            method, path = chance.choice(REQUESTS)
            moment = (method, path, chance.randrange(2))
        name = f"{number.name}{' twice' if again else ''} at {moment}"
        faults: tuple[Callable[[World], object], ...] = ()
        if chance.random() < 0.3:
            name, faults = _with(name, _fault(chance, ENDING))
        return Trial(name, has_base, faults, number, again, moment)
    name, faults = _with("", _fault(chance, REQUESTS) if chance.random() < 0.6 else _event(chance))
    if chance.random() < 0.7:
        # What cleans up is only asked for if something has failed before.
        for more in (("400 to the second transfer", _refuse_transfer), _fault(chance, ENDING)):
            name, others = _with(name, more)
            faults += others
    return Trial(name, has_base, faults)


def each_trial() -> list[Trial]:
    """Each failure at each step, and each signal; there is a good backup before."""
    trials = []
    for method, path in REQUESTS:
        faults = [
            refusal(method, path, 400, 0, 1),
            refusal(method, path, 409, 0, FOREVER),
            refusal(method, path, 503, 1, 3),
            lost(method, path, 0, FOREVER, carry_out=False),
            lost(method, path, 0, 2, carry_out=True),
        ]
        for words, fault in faults:
            act = partial(_of_engine, fault)
            trials.append(Trial(words, True, (act,)))
            if (method, path) in ENDING:  # what cleans up after a failure
                more = f"{words}, 400 to the second transfer"
                trials.append(Trial(more, True, (act, _refuse_transfer)))
        for name in EVENTS:
            words, happen = _event_at(name, method, path, 0)
            trials.append(Trial(words, True, (happen,)))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            moment = (method, path, 0)
            trials.append(Trial(f"{number.name} at {moment}", True, (), number, moment=moment))
    for operation, several in PHASES.items():
        for phases in several:
            words, fault_of_world = _phases(operation, phases)
            trials.append(Trial(words, True, (fault_of_world,)))
            more = f"{words}, 400 to the second transfer"
            trials.append(Trial(more, True, (fault_of_world, _refuse_transfer)))
    return trials


def _of_engine(fault: Callable[[EngineDouble], object], world: World) -> None:
    fault(world.engine)


def _refuse_transfer(world: World) -> None:
    world.engine.refuse("POST", "/imagetransfers", 400, skip=1)


def _with(
    name: str, fault: tuple[str, Callable[[World], object]]
) -> tuple[str, tuple[Callable[[World], object], ...]]:
    return f"{name}, {fault[0]}".removeprefix(", "), (fault[1],)


def _fault(
    chance: random.Random, requests: tuple[tuple[str, str], ...]
) -> tuple[str, Callable[[World], object]]:
    words, fault = random_fault(chance, requests, most_before=1)
    return words, lambda world: fault(world.engine)


def _event(chance: random.Random) -> tuple[str, Callable[[World], object]]:
    """Phases that fail, or something that happens when a request comes."""
    if chance.random() < 0.5:
        operation = chance.choice(sorted(PHASES))
        return _phases(operation, chance.choice(PHASES[operation]))
    name = chance.choice(sorted(EVENTS))
    method, path = chance.choice(REQUESTS)
    return _event_at(name, method, path, chance.randrange(2))


def _phases(operation: str, phases: tuple[str, ...]) -> tuple[str, Callable[[World], object]]:
    slow = " for too long" if len(phases) > 100 else ""
    return f"{operation} {phases[:3]}{slow}", lambda world: setattr(
        world.engine.phases, operation, phases
    )


def _event_at(
    name: str, method: str, path: str, skip: int
) -> tuple[str, Callable[[World], object]]:
    def happen(world: World) -> None:
        world.engine.when(method, path, lambda: EVENTS[name](world), skip=skip)

    return f"{name} at {method} {path} ({skip} before)", happen


def lose_newest_checkpoint(world: World) -> None:
    if world.vm.checkpoints:
        world.engine.lose_checkpoint(world.vm, world.vm.checkpoints[-1].id)


def lock_a_disk(world: World) -> None:
    disk = world.vm.disks[1]
    if disk.status == "ok":  # not locked by the backup
        disk.status = "locked"
        world.locked.append(disk)


EVENTS: dict[str, Callable[[World], object]] = {
    "the host goes down": lambda world: setattr(world.engine.host, "status", "down"),
    "the token expires": lambda world: world.engine.expire_tokens(),
    "the transfers time out": lambda world: world.engine.pass_time(3601),
    "the newest checkpoint is lost": lose_newest_checkpoint,
    "another program locks a disk": lock_a_disk,
    "the daemon dies": lambda world: world.engine.daemon.kill(),
}


def run(trial: Trial, daemon: ImageioDaemon, seconds: float) -> Outcome:
    """Run a trial, and then another backup in which nothing goes wrong.

    Args:
        trial: What goes wrong.
        daemon: A daemon, which this may kill and start again.
        seconds: How long a run in a process of its own takes.
    """
    with a_world(daemon) as world, listening() as heard:
        first = world.write(1)
        if trial.has_base:
            base, _ = world.back_up()
            world.truth = {base: first, "": world.write(2)}
        else:
            world.truth = {"": first}
        for fault in trial.faults:
            fault(world)
        if trial.number:
            ended = _run_in_process(trial, world, seconds, heard)
        else:
            ended = _run_here(world, heard)
        problems = [ended] if ended.startswith("BUG") else []
        left = world.engine.leftovers()
        may_stay = trial.is_killed or trial.lasts
        if (left.transfers or left.backups) and not (may_stay and world.records()):
            problems.append(f"open after the run: {left}, {world.records()}")
        problems += _wrong_streams(world)
        if not may_stay:
            problems += _wrong_checkpoints(world)
        problems += heard.leaks(world.engine, world.folder, world.state)
        more, killed = _next_run(world)
        return Outcome(problems + more, ended.partition("\n")[0], killed)


def _run_here(world: World, heard: Heard) -> str:
    try:
        world.back_up()
    except TapestreamError as e:
        heard.add_error(e)
        return f"{type(e).__name__}: {e}"
    except Exception:  # noqa: BLE001 - whatever it is, it is a bug
        return f"BUG {traceback.format_exc()}"
    return "good"


def _run_in_process(trial: Trial, world: World, seconds: float, heard: Heard) -> str:
    """Run the program in a process of its own, and send it the signal."""
    with _started(world) as process:
        assert trial.number is not None
        send = partial(process.send_signal, trial.number)
        if isinstance(trial.moment, float):
            time.sleep(trial.moment * seconds)
            send()
        else:
            method, path, skip = trial.moment
            world.engine.when(method, path, send, skip=skip)
        if trial.again:
            for method, path in ENDING:
                world.engine.when(method, path, send)
        try:
            _, text = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            return f"BUG it hangs: {process.communicate()[1]}"
    heard.add("the messages", text.encode())
    # SIGINT or SIGTERM may also come when the program has restored the handlers.
    if process.returncode not in (0, 3, 130, 143, -2, -15, -9):
        return f"BUG exit {process.returncode}: {text}"
    return "good" if process.returncode == 0 else f"exit {process.returncode}"


@contextmanager
def _started(world: World) -> Iterator[subprocess.Popen[str]]:
    """Start the program in a process of its own, and wait until it is about to log in."""
    command = [sys.executable, "-m", "tests.ovirt.trials", "--run"]
    with subprocess.Popen(
        [*command, world.config, world.vm.id, world.folder, world.state],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process


def program(config: str, vm: str, folder: str, state: str) -> int:
    """The program that gets signals: `--run`. It says all that it can."""
    logging.basicConfig(level=logging.DEBUG)
    try:
        with exit_on_sigterm():
            print("ready", flush=True)
            with connect(config) as connection:
                back_up_vm(connection, vm, folder, incremental=True, state=state, timeouts=LIMITS)
    except TapestreamError:
        traceback.print_exc()
        return 3
    except KeyboardInterrupt:
        return 130
    return 0


def _wrong_streams(world: World) -> list[str]:
    """What looks complete in the folder, but cannot be restored, or is not the disk as it was."""
    problems = []
    archive = read_folder(world.folder)
    for number, disk in enumerate(world.vm.disks):
        if not any(backup.info.disk_id == disk.id for backup in archive.backups):
            continue
        for point in archive.restore_points(vm=world.vm.id, disk=disk.id):
            if point.chain is None:
                problems.append(f"cannot be restored: {point.problem}")
                continue
            truth = world.truth.get(str(point.checkpoint_id), world.truth[""])
            with point.chain.open() as sources, RawImageSink(world.directory / "raw") as sink:
                restore_chain(sources, sink)
            if (world.directory / "raw").read_bytes() != truth[number]:
                problems.append(f"{point.checkpoint_id} is restored with other bytes")
            (world.directory / "raw").unlink()
    return problems


def _wrong_checkpoints(world: World) -> list[str]:
    """Checkpoints that look usable, but some disk cannot be restored as it was then."""
    archive = read_folder(world.folder)
    return [
        f"checkpoint {each.id} looks usable"
        for each in world.vm.checkpoints
        if each.progress.phase == "created"
        if any(each.id not in archive.good_checkpoints(world.vm.id, disk.id) for disk in each.disks)
    ]


def _next_run(world: World) -> tuple[list[str], list[str]]:
    """What is wrong with the next run, or after it; and what it says about killed runs."""
    world.engine.heal()
    for disk in world.locked:
        disk.status = "ok"
    with suppress(RuntimeError):
        world.engine.daemon.start()  # if it was killed
    now = world.write(3)
    records = world.records()
    try:
        newest, killed = world.back_up()
    except Exception:  # noqa: BLE001 - it must be good
        return [f"the next run: {traceback.format_exc()}"], []
    world.truth[newest] = now
    problems = [f"the next run said nothing about {records}"] if records and not killed else []
    left = world.engine.leftovers()
    if left.transfers or left.backups or left.locked_disks or world.records():
        problems.append(f"open after the next run: {left}, {world.records()}")
    return problems + _wrong_streams(world) + _wrong_checkpoints(world), killed


def how_long(daemon: ImageioDaemon) -> float:
    """Seconds that a good run in a process of its own takes, from the login on."""
    with a_world(daemon) as world, _started(world) as process:
        begin = time.monotonic()
        process.wait()
        return time.monotonic() - begin


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1, help="that of the first trial")
    parser.add_argument("--each", action="store_true", help="each failure at each step, once")
    parser.add_argument("--run", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        return program(*args.run)
    ends: Counter[str] = Counter()
    failed = told = 0
    with tempfile.TemporaryDirectory() as directory, ImageioDaemon(Path(directory)) as daemon:
        seconds = how_long(daemon)
        seeds = range(args.seed, args.seed + args.count)
        if args.each:
            trials = list(enumerate(each_trial(), 1))[args.seed - 1 : args.seed - 1 + args.count]
        else:
            trials = [(seed, random_trial(seed)) for seed in seeds]
        for seed, trial in trials:
            outcome = run(trial, daemon, seconds)
            ends[outcome.ended.partition(":")[0]] += 1
            told += bool(outcome.killed)
            if outcome.problems:
                failed += 1
                words = f"{seed}: {trial.name}: {outcome.ended}"
                print(words, *outcome.problems, sep="\n    ", flush=True)
    kinds = ", ".join(f"{count} {kind}" for kind, count in ends.most_common())
    print(f"{len(trials)} trials: {failed} failed. They ended so: {kinds}.")
    print(f"After {told}, the next run found something, and cleaned it up.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
