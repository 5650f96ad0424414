"""What can happen to which copy: one case for each seed, the same each time."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import IO, Any

from tapestream.testing import ImageioDaemon, create_image

from .judge import WrongEndError, check_backup, check_disk, same
from .proxy import Proxy
from .world import DISK_SIZE, MIB, Templates, World, is_root

# A job has some seconds to work, and then some to end. Whatever takes longer hangs.
LONGEST = 90.0
# What the jobs wait for a server, in seconds, and how often they try again.
TIMEOUT = 2.0
RETRIES = 4
OLD = b"old" * 1000
# About so many bytes go through each job.
DATA = 13 * MIB


@dataclass(frozen=True)
class Job:
    """A kind of copy, and where its result is.

    Attributes:
        reads: It reads from a transfer.
        writes: It writes to a transfer.
        result: "tar", "raw", "disk", or None where nothing is left to look at.
    """

    reads: bool
    writes: bool
    result: str | None


JOBS = {
    "backup_file": Job(reads=True, writes=False, result="tar"),
    "backup_incremental": Job(reads=True, writes=False, result="tar"),
    "backup_pipe": Job(reads=True, writes=False, result="tar"),
    "backup_raw": Job(reads=True, writes=False, result="raw"),
    "restore_raw": Job(reads=False, writes=False, result="raw"),
    "restore": Job(reads=False, writes=True, result="disk"),
    "restore_week": Job(reads=False, writes=True, result="disk"),
    "upload_image": Job(reads=False, writes=True, result="disk"),
    "move": Job(reads=True, writes=True, result="disk"),
    "hash_disk": Job(reads=True, writes=False, result=None),
    "compare_live": Job(reads=True, writes=False, result=None),
}
ALL = tuple(JOBS)
SERVED = tuple(name for name, job in JOBS.items() if job.reads or job.writes)
LOCAL = ("backup_file", "backup_incremental", "backup_raw", "restore_raw")


@dataclass(frozen=True)
class Fault:
    """Something that happens.

    Attributes:
        jobs: The jobs that it can happen to.
        act: Makes it happen, to the world or to the process of the job.
        way: "tls", "unix", or None for either.
        limits: What the process of the job may not have; by a random number generator.
        harmless: The copy must go on and succeed.
        signals: It ends the job by a signal: a process that is killed says nothing.
    """

    jobs: tuple[str, ...]
    act: Callable[[World, subprocess.Popen[str]], None] | None = None
    way: str | None = None
    limits: Callable[[Random], Mapping[str, int]] | None = None
    harmless: bool = False
    signals: bool = False


def _signal(number: int) -> Callable[[World, subprocess.Popen[str]], None]:
    return lambda _, process: process.send_signal(number)


def _sleeping(seconds: float) -> Callable[[World, subprocess.Popen[str]], None]:
    def act(_: World, process: subprocess.Popen[str]) -> None:
        process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        process.send_signal(signal.SIGCONT)

    return act


FAULTS: dict[str, Fault] = {
    "nothing": Fault(ALL, harmless=True),
    "daemon killed": Fault(SERVED, lambda w, _: w.kill_daemon()),
    "daemon restarted": Fault(SERVED, lambda w, _: w.restart_daemon()),
    "daemon stopped for a moment": Fault(SERVED, lambda w, _: w.stop_daemon(0.5), harmless=True),
    "daemon stopped": Fault(SERVED, lambda w, _: w.stop_daemon(4 * TIMEOUT)),
    "qemu-nbd killed": Fault(SERVED, lambda w, _: w.kill_nbd()),
    "qemu-nbd restarted": Fault(SERVED, lambda w, _: w.restart_nbd()),
    "qemu-nbd stopped for a moment": Fault(SERVED, lambda w, _: w.stop_nbd(0.5), harmless=True),
    "qemu-nbd stopped": Fault(SERVED, lambda w, _: w.stop_nbd(4 * TIMEOUT)),
    "ticket removed": Fault(SERVED, lambda w, _: w.remove_tickets()),
    "ticket added again": Fault(SERVED, lambda w, _: w.readd_tickets()),
    "connections cut": Fault(SERVED, lambda w, _: w.proxy.cut(), way="tls"),
    "connections reset": Fault(SERVED, lambda w, _: w.proxy.cut(reset=True), way="tls"),
    "connections refused": Fault(SERVED, lambda w, _: w.proxy.refuse(1.0), way="tls"),
    "line stalls for a moment": Fault(
        SERVED, lambda w, _: w.proxy.stall(0.5), way="tls", harmless=True
    ),
    "line stalls": Fault(SERVED, lambda w, _: w.proxy.stall(4 * TIMEOUT), way="tls"),
    "line drips": Fault(SERVED, lambda w, _: w.proxy.drip(2.0), way="tls"),
    "line corrupts": Fault(SERVED, lambda w, _: w.proxy.corrupt(), way="tls"),
    "disk full": Fault(LOCAL, limits=lambda r: {"disk": r.randrange(MIB, DATA)}),
    "file too large": Fault(LOCAL, limits=lambda r: {"file_size": r.randrange(0, DATA)}),
    "few descriptors": Fault(ALL, limits=lambda r: {"files": r.randrange(0, 14)}),
    "little memory": Fault(ALL, limits=lambda r: {"memory": r.randrange(0, 160 * MIB)}),
    "few threads": Fault(
        ALL, limits=lambda r: {"stack": 256 * MIB, "memory": r.randrange(1, 9) * 256 * MIB + MIB}
    ),
    "SIGINT": Fault(ALL, _signal(signal.SIGINT), signals=True),
    "SIGTERM": Fault(ALL, _signal(signal.SIGTERM), signals=True),
    "SIGKILL": Fault(ALL, _signal(signal.SIGKILL), signals=True),
    "asleep for a while": Fault(ALL, _sleeping(1.0), harmless=True),
    "reader gone": Fault(("backup_pipe",), limits=lambda r: {"pipe": r.randrange(0, DATA)}),
}


@dataclass(frozen=True)
class Case:
    """One copy, and what happens to it.

    Attributes:
        seed: Its number.
        job: The copy.
        fault: What happens.
        unix: Over the unix socket of the host, not TLS.
        gate: It happens when so many bytes are written; None: after `delay` seconds.
        delay: Seconds.
        limits: What the process may not have.
    """

    seed: int
    job: str
    fault: str
    unix: bool
    gate: int | None
    delay: float
    limits: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, seed: int) -> Case:
        """The case of a seed; as many seeds as there are faults have each of them once."""
        random = Random(seed)
        name = list(FAULTS)[seed % len(FAULTS)]
        fault = FAULTS[name]
        return cls(
            seed=seed,
            job=random.choice(fault.jobs),
            fault=name,
            unix=fault.way == "unix" or (fault.way is None and random.random() < 0.5),
            gate=random.randrange(0, DATA) if random.random() < 0.7 else None,
            delay=random.random() * 0.6,
            limits=fault.limits(random) if fault.limits else {},
        )

    def __str__(self) -> str:
        when = f"after {self.delay:.2f} s" if self.gate is None else f"at byte {self.gate}"
        way = "unix" if self.unix else "TLS"
        limits = f" {dict(self.limits)}" if self.limits else ""
        return f"{self.seed}: {self.job} ({way}), {self.fault}{limits} {when}"


@dataclass(frozen=True)
class Outcome:
    """How a case ended.

    Attributes:
        kind: "right", the type of a typed error, or "killed".
        text: What the error says.
    """

    kind: str
    text: str = ""


class Laboratory:
    """Runs cases one after the other, with one daemon, and judges them.

    Args:
        directory: Where everything goes.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        # The abstract address stays when the daemon is killed, and started again.
        address = f"\0tapestream-faults-{os.getpid()}"
        self._daemon = ImageioDaemon(directory / "imageio", local_socket=address)
        self._daemon.start()
        self._proxy = Proxy(lambda: self._daemon.port)
        (directory / "templates").mkdir()
        self._templates = Templates.make(directory / "templates", self._daemon)

    def close(self) -> None:
        """Stop what runs."""
        self._proxy.close()
        self._daemon.stop()

    def run(self, case: Case) -> Outcome:
        """Run a case.

        Raises:
            WrongEndError: What came out was neither right nor an error that says so.
        """
        work = self._directory / f"case-{case.seed}"
        work.mkdir()
        try:
            with contextlib.suppress(RuntimeError):
                self._daemon.start()  # the case before may have killed it
            with World(work, self._daemon, self._proxy) as world:
                return _Run(case, world, self._templates, self._proxy).outcome()
        finally:
            shutil.rmtree(work)


class _Run:
    """One case: what the job is given, what happens to it, and what it leaves."""

    def __init__(self, case: Case, world: World, templates: Templates, proxy: Proxy) -> None:
        self._case = case
        self._job = JOBS[case.job]
        self._fault = FAULTS[case.fault]
        self._world = world
        self._templates = templates
        self._work = world.directory
        self._target = self._work / "target" / "result"
        self._target.parent.mkdir()
        self._restored = self._work / "restored.qcow2"
        self._reader: subprocess.Popen[bytes] | None = None

    def outcome(self) -> Outcome:
        spec = self._spec()
        lines, stderr, code = self._execute(spec)
        self._check_secrets(lines, stderr)
        if "Traceback" in stderr or "Exception ignored" in stderr:
            raise WrongEndError(f"an exception went to stderr: {stderr[-3000:]}")
        end = next((line for line in lines if "end" in line), None)
        if end is None:
            if code == -signal.SIGKILL and self._case.fault == "SIGKILL":
                self._check_incomplete(killed=True)
                return Outcome("killed")
            if self._case.fault in ("SIGINT", "SIGTERM") and not any("at" in x for x in lines):
                return Outcome("killed")  # before it began, or after its end
            raise WrongEndError(f"it ended with {code}, and said nothing: {stderr[-3000:]}")
        if end["left"]["threads"] or end["left"]["files"]:
            raise WrongEndError(f"it left {end['left']} after {end}")
        if end["end"] == "done":
            self._check_complete()
            return Outcome("right")
        if not end["typed"]:
            raise WrongEndError(f"{end['type']}: {end['text']}\n{end.get('trace', '')[-3000:]}")
        if self._fault.harmless:
            raise WrongEndError(f"it should have gone on: {end['type']}: {end['text']}")
        self._check_incomplete()
        return Outcome(end["type"], end["text"])

    # --- What the job is given ---

    def _spec(self) -> dict[str, Any]:
        case, templates = self._case, self._templates
        spec: dict[str, Any] = {
            "job": case.job,
            "cafile": str(self._world.daemon.cafile),
            "unix": case.unix,
            "timeout": TIMEOUT,
            "retries": RETRIES,
            "gate": case.gate if self._fault.act else None,
            "limits": dict(case.limits),
            "target": str(self._target),
            "tar": str(templates.full),
            "tars": [str(templates.full), str(templates.incremental)],
            "image": str(templates.monday),
        }
        if case.job == "compare_live":
            spec["tar"] = str(self._monday_tar())
        if self._job.reads:
            disk = self._work / "disk.qcow2"
            shutil.copyfile(templates.disk, disk)
            spec["source_url"] = self._world.serve(disk, dirty=case.job == "backup_incremental")
        if self._job.writes:
            create_image(self._restored, DISK_SIZE)
            spec["target_url"] = self._world.serve(self._restored, writable=True)
        if "disk" in case.limits:
            if is_root():
                self._world.small_disk(self._target.parent, case.limits["disk"])
            else:
                spec["limits"]["file_size"] = case.limits["disk"]
        if case.job == "backup_pipe":
            fifo, self._reader = self._world.fifo(self._target, case.limits.get("pipe"))
            spec["fifo"] = str(fifo)
        elif self._job.result == "raw" and "disk" not in case.limits:
            self._target.write_bytes(OLD)
        return spec

    def _monday_tar(self) -> Path:
        """A full backup of Monday; it is not what is tried here."""
        tar = self._templates.full.with_name("monday.tar")
        if not tar.exists():
            from tapestream import RawImageSource, TarStreamSink, copy  # noqa: PLC0415

            with RawImageSource(self._templates.monday) as src, TarStreamSink(tar) as dst:
                copy(src, dst)
        return tar

    # --- What happens ---

    def _execute(self, spec: dict[str, Any]) -> tuple[list[dict[str, Any]], str, int]:
        errors = self._work / "stderr"
        with errors.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.job", json.dumps(spec)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        assert process.stdout is not None
        reading = threading.Thread(target=_collect, args=(process.stdout, lines), daemon=True)
        reading.start()
        try:
            said = self._attend(process, lines)
            code = process.wait(LONGEST)
        except (subprocess.TimeoutExpired, queue.Empty):
            process.send_signal(signal.SIGABRT)
            raise WrongEndError(f"it hangs: {errors.read_text()[-3000:]}") from None
        finally:
            process.kill()
            process.wait()
            reading.join()
            for stream in (process.stdin, process.stdout):
                assert stream is not None
                with contextlib.suppress(OSError):
                    stream.close()
        return said, errors.read_text(), code

    def _attend(
        self, process: subprocess.Popen[str], lines: queue.Queue[dict[str, Any] | None]
    ) -> list[dict[str, Any]]:
        """Read what the job says, and let it happen at its time."""
        said: list[dict[str, Any]] = []
        act = self._fault.act
        happening: threading.Thread | None = None
        while (line := lines.get(timeout=LONGEST)) is not None:
            said.append(line)
            if act is None:
                continue
            if "start" in line and self._case.gate is None:
                happening = threading.Thread(target=self._later, args=(act, process))
                happening.start()
            if "at" in line:
                # What lasts goes on while the job does.
                happening = threading.Thread(target=act, args=(self._world, process))
                happening.start()
                happening.join(0.05)
                assert process.stdin is not None
                with contextlib.suppress(OSError):
                    process.stdin.write("\n")
                    process.stdin.flush()
        if happening is not None:
            happening.join()
        return said

    def _later(
        self,
        act: Callable[[World, subprocess.Popen[str]], None],
        process: subprocess.Popen[str],
    ) -> None:
        time.sleep(self._case.delay)
        if process.poll() is None:
            act(self._world, process)

    # --- What it leaves ---

    def _check_secrets(self, lines: list[dict[str, Any]], stderr: str) -> None:
        text = json.dumps(lines) + stderr
        for side in self._world.sides:
            for part in (side.ticket_id, side.ticket_id[:13], side.ticket_id[-12:]):
                if part in text:
                    raise WrongEndError(f"the ticket is in what it says: {text[-2000:]}")

    def _check_complete(self) -> None:
        templates = self._templates
        match self._case.job:
            case "backup_file" | "backup_pipe":
                self._wait_for_reader()
                check_backup(self._target, templates.monday, self._work)
            case "backup_incremental":
                check_backup(self._target, templates.monday, self._work, templates.sunday)
            case "backup_raw":
                same(self._target, templates.monday)
            case "restore_raw":
                same(self._target, templates.sunday)
            case "restore":
                self._stop_serving()
                check_disk(self._restored, templates.sunday)
            case "restore_week" | "upload_image" | "move":
                self._stop_serving()
                check_disk(self._restored, templates.monday)
        self._check_no_others()

    def _check_incomplete(self, *, killed: bool = False) -> None:
        """Nothing may look complete and not be; a killed process may leave its hidden files."""
        if self._case.job == "backup_pipe" or self._job.result in (None, "disk"):
            return
        if self._target.exists():
            is_old = self._job.result == "raw" and self._target.read_bytes() == OLD
            if not is_old:
                self._check_complete()  # it was done, and only what came after failed
        elif self._job.result == "raw" and "disk" not in self._case.limits:
            partial = self._target.with_name(self._target.name + ".partial")
            if not partial.exists() and not killed:
                raise WrongEndError("the image is gone, under any name")
        if not killed:
            self._check_no_others()

    def _check_no_others(self) -> None:
        names = {path.name for path in self._target.parent.iterdir()}
        others = names - {self._target.name, f"{self._target.name}.partial"}
        if others:
            raise WrongEndError(f"it left {sorted(others)}")

    def _wait_for_reader(self) -> None:
        if self._reader is not None and self._reader.wait(LONGEST) != 0:
            raise WrongEndError("the reader of the pipe failed")

    def _stop_serving(self) -> None:
        """Let qemu-nbd write what it has cached, as finalizing a transfer does."""
        try:
            for side in self._world.sides:
                side.server.stop()
        except RuntimeError as e:
            raise WrongEndError(str(e)) from e


def _collect(stream: IO[str], lines: queue.Queue[dict[str, Any] | None]) -> None:
    for line in stream:
        lines.put(json.loads(line))
    lines.put(None)
