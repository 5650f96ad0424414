"""A Ctrl-C at every line of the main thread, in each kind of copy, and what is left after it.

A tracer raises KeyboardInterrupt in place of a line of tapestream, in the constructors, in the copy
and where things are closed. What is judged is not asked of tapestream: files, their bytes,
descriptors, threads. Either the job is complete and right, or nothing looks complete, what was
there before is as promised, nothing is left over, and a second try works.

`make interrupts` runs as many as asked for, at random lines and repetitions; the tests, a sample of
the lines.

Two places are left out, for Python itself does not look for signals there. One is the end of a
`with` statement, before `__exit__` is called. The other is between two lines of a finalizer.
"""

from __future__ import annotations

import argparse
import dis
import io
import os
import random
import shutil
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import tapestream
from tapestream import (
    BackupInfo,
    Cancel,
    ImageioHTTPSource,
    ImageioUploadSink,
    RawImageSink,
    RawImageSource,
    Source,
    TarStreamSink,
    TarStreamSource,
    compare,
    copy,
    merge_chain,
    restore_chain,
    verify,
)
from tapestream.errors import CorruptStreamError
from tapestream.model.extents import Extent
from tapestream.tape import TapeDrive
from tapestream.testing import ImageioDaemon, serve_image
from tapestream.testing.drive import Cartridge, FakeDrive
from tapestream.testing.memory import MemorySource

from .leftovers import PATIENCE, left_over, open_files, threads

PACKAGE = os.path.dirname(tapestream.__file__) + os.sep
OTHERS = PACKAGE + "testing" + os.sep
KIB = 1024
SIZE = 512 * KIB
RECORD = 64 * KIB
CREATED = datetime(2026, 11, 26, 12, 0, tzinfo=timezone.utc)
SMALL: dict[str, Any] = {"buffer_size": 64 * KIB, "buffer_memory": 256 * KIB, "max_workers": 1}
# Ends the job that runs; None if nothing will. See cancels.py.
CANCEL: ContextVar[Cancel | None] = ContextVar("CANCEL", default=None)
# The names of tapestream's threads begin so.
OURS = "tapestream"

OLD = random.Random(1).randbytes(SIZE + 4096)
FULL = (
    random.Random(2).randbytes(SIZE // 2) + bytes(SIZE // 4) + random.Random(3).randbytes(SIZE // 4)
)
CHANGED = random.Random(4).randbytes(64 * KIB)
LATER = FULL[: 96 * KIB] + CHANGED + bytes(32 * KIB) + FULL[192 * KIB :]


# --- A tracer ---


class Place(NamedTuple):
    """A line that is about to be executed, for the nth time in a run."""

    file: str
    line: int
    nth: int = 1

    def __str__(self) -> str:
        name = self.file.removeprefix(PACKAGE)
        return f"{name}:{self.line}" + (f" ({self.nth})" if self.nth > 1 else "")


@cache
def exits(code: CodeType) -> frozenset[int]:
    """Where, in a function, a `with` statement calls `__exit__` after no error."""
    found = []
    steps = [i for i in dis.get_instructions(code) if i.opname not in ("CACHE", "NOP")]
    for before, first, second, third in zip(steps, steps[1:], steps[2:], steps[3:], strict=False):
        loads = [first.opname, second.opname, third.opname]
        if first.argval is None and loads in (
            ["LOAD_CONST"] * 3,
            ["LOAD_CONST", "DUP_TOP", "DUP_TOP"],
        ):
            found += [first.offset, before.offset if before.opname == "POP_BLOCK" else first.offset]
    return frozenset(found)


def interrupt_here() -> None:
    raise KeyboardInterrupt


class Tracer:
    """Counts the lines of tapestream that this thread executes, and does something at one of them.

    Args:
        target: Where to do it; None to count only.
        act: What to do; it may raise.
    """

    def __init__(self, target: Place | None = None, act: Callable[[], object] = interrupt_here):
        self.counts: Counter[tuple[str, int]] = Counter()
        self.hit = False
        self.target = target
        self._act = act

    def __enter__(self) -> Tracer:
        sys.settrace(self._on_call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _on_call(self, frame: FrameType, event: str, arg: object) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(PACKAGE) or code.co_filename.startswith(OTHERS):
            return None
        return None if code.co_name == "__del__" else self._on_line

    def _on_line(self, frame: FrameType, event: str, arg: object) -> Any:
        code = frame.f_code
        if event == "line" and frame.f_lasti not in exits(code):
            key = code.co_filename, frame.f_lineno
            self.counts[key] += 1
            if self.target is not None and (*key, self.counts[key]) == self.target:
                self.hit = True
                self._act()
        return self._on_line


# --- Jobs ---


def options() -> dict[str, Any]:
    """The options of what a job does: with a `Cancel`, since there is more to interrupt then."""
    return {**SMALL, "cancel": CANCEL.get() or Cancel()}


@dataclass
class Job:
    """Something to be interrupted.

    Attributes:
        work: Does it, from the constructors to the end of the `with` block.
        judge: What is wrong, after it was interrupted or not.
        prepare: Makes what it needs, in a new directory.
        clean: Makes the second try possible, as the documentation says.
    """

    work: Callable[[Path], object]
    judge: Callable[[Path, bool], str | None]
    prepare: Callable[[Path], object] = lambda _: None
    clean: Callable[[Path], object] = lambda _: None


def info(**values: Any) -> BackupInfo:
    return BackupInfo(vm_id="vm", disk_id="disk", created=CREATED, **values)


def full_source() -> Source:
    return MemorySource(FULL, info=info(checkpoint_id="1"))


def later_source() -> Source:
    dirty, zero = 96 * KIB, 160 * KIB
    extents = [
        Extent(0, dirty, dirty=False),
        Extent(dirty, 64 * KIB, dirty=True),
        Extent(zero, 32 * KIB, dirty=True, zero=True),
        Extent(192 * KIB, SIZE - 192 * KIB, dirty=False),
    ]
    return MemorySource(
        LATER, extents, info=info(checkpoint_id="2", parent_checkpoint_id="1", context="dirty")
    )


@cache
def tar_of(make: Callable[[], Source]) -> bytes:
    out = io.BytesIO()
    with make() as source, TarStreamSink(out) as sink:
        copy(source, sink, **SMALL)
    return out.getvalue()


def put(**files: bytes) -> Callable[[Path], None]:
    def prepare(directory: Path) -> None:
        for name, content in files.items():
            (directory / name.replace("_", ".")).write_bytes(content)

    return prepare


def unchanged(names: set[str]) -> Callable[[Path, bool], str | None]:
    """Nothing but what was there before is there."""

    def judge(directory: Path, done: bool) -> str | None:
        found = {p.name for p in directory.iterdir()}
        return None if found == names else f"there is {sorted(found)}"

    return judge


def new_file(name: str, right: bytes, *others: str) -> Callable[[Path, bool], str | None]:
    """A new file is either whole or not there."""

    def judge(directory: Path, done: bool) -> str | None:
        found = {p.name for p in directory.iterdir()}
        if found == set(others) and not done:
            return None
        if found != {name, *others}:
            return f"there is {sorted(found)}"
        return None if (directory / name).read_bytes() == right else f"{name} is wrong"

    return judge


def old_file(
    name: str, old: bytes, right: bytes, *others: str, in_place: bool = False
) -> Callable[[Path, bool], str | None]:
    """An older file is the old one, or the new one, or, changed in place, neither of its name."""

    def judge(directory: Path, done: bool) -> str | None:
        found = {p.name for p in directory.iterdir()}
        if found == {name, *others}:
            content = (directory / name).read_bytes()
            allowed = [right] if done else [old, right]
            return None if content in allowed else f"{name} is neither the old nor the new one"
        partial = f"{name}.partial"
        if not in_place or done or found != {partial, *others}:
            return f"there is {sorted(found)}"
        untouched = (directory / partial).read_bytes() == old
        return f"{partial} is untouched" if untouched else None

    return judge


def drop_partial(directory: Path) -> None:
    """What a person does with a half restored image: here, put the old one back."""
    partial = directory / "disk.raw.partial"
    if partial.exists():
        partial.unlink()
        (directory / "disk.raw").write_bytes(OLD)


def put_full_back(directory: Path) -> None:
    drop_partial(directory)
    (directory / "disk.raw").write_bytes(FULL)


def backup(directory: Path) -> None:
    with (
        RawImageSource(directory / "disk.raw", info=info()) as source,
        TarStreamSink(directory / "a.tar", attachments={"vm.ovf": b"<vm/>"}) as sink,
    ):
        copy(source, sink, block_hash=True, **options())


def tar_of_an_image(directory: Path) -> bytes:
    backup(directory)
    return (directory / "a.tar").read_bytes()


@cache
def tar_of_full_image() -> bytes:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "disk.raw").write_bytes(FULL)
        return tar_of_an_image(Path(name))


def restore(directory: Path) -> None:
    with (
        TarStreamSource(directory / "a.tar") as source,
        RawImageSink(directory / "disk.raw") as sink,
    ):
        copy(source, sink, **options())


def to_an_object(directory: Path) -> None:
    with (
        (directory / "a.tar").open("wb") as file,
        full_source() as source,
        TarStreamSink(file) as sink,
    ):
        copy(source, sink, **options())


def judge_object(directory: Path, done: bool) -> str | None:
    """A caller's file object is the caller's: one that looks complete is complete."""
    found = (directory / "a.tar").read_bytes() if (directory / "a.tar").exists() else b""
    right = tar_of(full_source)
    whole = len(found) == len(right)
    return None if found == right or not (done or whole) else "a.tar is wrong"


def through_a_pipe(directory: Path) -> None:
    read, write = os.pipe()

    def take() -> None:
        with open(read, "rb") as reader:
            (directory / "taken").write_bytes(reader.read())

    thread = threading.Thread(target=take, name="tapestream-pipe")
    thread.start()
    with (
        open(write, "wb", buffering=0) as pipe,
        full_source() as source,
        TarStreamSink(pipe) as sink,
    ):
        copy(source, sink, **options())
    thread.join()


def judge_pipe(directory: Path, done: bool) -> str | None:
    """What came through looks incomplete, or is whole."""
    threads(OURS)
    found, right = (directory / "taken").read_bytes(), tar_of(full_source)
    return None if found == right or not (done or len(found) == len(right)) else "it is wrong"


def chain_to_raw(directory: Path) -> None:
    with (
        TarStreamSource(directory / "a.tar") as first,
        TarStreamSource(directory / "b.tar") as second,
        RawImageSink(directory / "disk.raw") as sink,
    ):
        restore_chain([second, first], sink, verify_first=True, **options())


def chain_to_tar(directory: Path) -> None:
    with (
        TarStreamSource(directory / "a.tar") as first,
        TarStreamSource(directory / "b.tar") as second,
        merge_chain([first, second], cancel=options()["cancel"]) as merged,
        TarStreamSink(directory / "c.tar") as sink,
    ):
        copy(merged, sink, **options())


@cache
def merged_tar() -> bytes:
    with tempfile.TemporaryDirectory() as name:
        two_backups(Path(name))
        chain_to_tar(Path(name))
        return (Path(name) / "c.tar").read_bytes()


def two_backups(directory: Path) -> None:
    put(a_tar=tar_of(full_source), b_tar=tar_of(later_source))(directory)


def check(directory: Path) -> None:
    with TarStreamSource(directory / "a.tar") as source:
        report = verify(source, **options())
        if not report.ok:
            raise CorruptStreamError(str(report))
    with (
        TarStreamSource(directory / "a.tar") as one,
        RawImageSource(directory / "disk.raw") as other,
    ):
        assert compare(one, other, **options()).equal


def local_jobs() -> dict[str, Job]:
    return {
        "a raw image to a tar, over an old one": Job(
            backup,
            old_file("a.tar", OLD, tar_of_full_image(), "disk.raw"),
            put(disk_raw=FULL, a_tar=OLD),
        ),
        "a tar to a new raw image": Job(
            restore, new_file("disk.raw", FULL, "a.tar"), put(a_tar=tar_of(full_source))
        ),
        "a tar to an old raw image": Job(
            restore,
            old_file("disk.raw", OLD, FULL, "a.tar", in_place=True),
            put(a_tar=tar_of(full_source), disk_raw=OLD),
            drop_partial,
        ),
        "a tar to an old raw image that grows": Job(
            restore,
            old_file("disk.raw", OLD[:5000], FULL, "a.tar", in_place=True),
            put(a_tar=tar_of(full_source), disk_raw=OLD[:5000]),
            drop_partial,
        ),
        "an incremental tar to a raw image": Job(
            restore,
            old_file("disk.raw", FULL, LATER, "a.tar", in_place=True),
            put(a_tar=tar_of(later_source), disk_raw=FULL),
            put_full_back,
        ),
        "to a file object": Job(to_an_object, judge_object),
        "through a pipe": Job(through_a_pipe, judge_pipe),
        "a chain to a raw image": Job(
            chain_to_raw, new_file("disk.raw", LATER, "a.tar", "b.tar"), two_backups
        ),
        "a chain to a tar": Job(
            chain_to_tar, new_file("c.tar", merged_tar(), "a.tar", "b.tar"), two_backups
        ),
        "verify and compare": Job(
            check, unchanged({"a.tar", "disk.raw"}), put(a_tar=tar_of(full_source), disk_raw=FULL)
        ),
    }


# --- On tape ---


class Tape:
    """One drive for all tries: whose turn it is must be right after each."""

    def __init__(self) -> None:
        self.drive = FakeDrive(Cartridge())
        self.tape = TapeDrive("/dev/nst0", open_device=self.drive.open)
        self.tape.write_label("T1")
        with full_source() as source, TarStreamSink(self.tape, record_size=RECORD) as sink:
            copy(source, sink, **SMALL)
        self.complete = 1

    def renew(self, _: Path) -> None:
        self.tape.close()
        self.__init__()  # type: ignore[misc]

    def back_up(self, _: Path) -> None:
        with full_source() as source, TarStreamSink(self.tape, record_size=RECORD) as sink:
            copy(source, sink, **options())

    def restore(self, directory: Path) -> None:
        with (
            TarStreamSource(self.tape, file=1) as source,
            RawImageSink(directory / "disk.raw") as sink,
        ):
            copy(source, sink, **options())

    def judge(self, directory: Path, done: bool) -> str | None:
        """What is on the tape, read in another drive."""
        with TapeDrive(
            "/dev/nst0", open_device=FakeDrive(deepcopy(self.drive.cartridge)).open
        ) as other:
            found = other.find()
            for entry in found:
                out = io.BytesIO()
                with (
                    TarStreamSource(other, file=entry.file) as source,
                    TarStreamSink(out) as sink,
                ):
                    copy(source, sink, **SMALL)
                if out.getvalue() != tar_of(full_source):
                    return f"tape file {entry.file} looks complete, and is wrong"
        missing = done and len(found) < 2
        return "the backup is not there" if missing or not found else None


def tape_jobs() -> dict[str, Job]:
    tape = Tape()

    return {
        "to tape": Job(tape.back_up, tape.judge, tape.renew),
        "from tape": Job(tape.restore, new_file("disk.raw", FULL), tape.renew),
    }


# --- imageio ---


@contextmanager
def imageio_jobs(daemon: ImageioDaemon, directory: Path) -> Iterator[dict[str, Job]]:
    """Jobs with a real daemon."""
    served, target = directory / "served.raw", directory / "target.raw"
    served.write_bytes(FULL)
    target.write_bytes(bytes(SIZE))
    ca = str(daemon.cafile)
    with (
        serve_image(served, format="raw") as read,
        serve_image(target, format="raw", read_only=False) as write,
    ):
        # The tickets outlive all the jobs before.
        download = daemon.add_ticket(read, SIZE, timeout=86400)
        upload = daemon.add_ticket(write, SIZE, ops=["read", "write"], timeout=86400)

        def back_up(place: Path) -> None:
            with (
                ImageioHTTPSource(download, cafile=ca, info=info()) as source,
                TarStreamSink(place / "a.tar") as sink,
            ):
                copy(source, sink, **options())

        def restore_it(_: Path) -> None:
            with full_source() as source, ImageioUploadSink(upload, cafile=ca) as sink:
                copy(source, sink, **options())

        def idle(url: str) -> str | None:
            until = time.monotonic() + PATIENCE
            while daemon.ticket_info(url)["connections"]:
                if time.monotonic() > until:
                    return "the ticket is still in use"
                time.sleep(0.01)
            return None

        with tempfile.TemporaryDirectory() as name:
            back_up(Path(name))
            right = (Path(name) / "a.tar").read_bytes()

        def judge_download(place: Path, done: bool) -> str | None:
            return new_file("a.tar", right)(place, done) or idle(download)

        def judge_upload(_: Path, done: bool) -> str | None:
            wrong = done and target.read_bytes() != FULL
            return "the disk is wrong" if wrong else idle(upload)

        yield {
            "a download": Job(back_up, judge_download),
            "an upload": Job(
                restore_it, judge_upload, lambda _: target.write_bytes(bytes(SIZE)) and None
            ),
        }


# --- The judge ---


@dataclass(frozen=True)
class Outcome:
    """What came of one interrupt.

    Attributes:
        place: Where it came.
        hit: The line was executed.
        wrong: What is wrong; None if nothing is.
    """

    place: Place | None
    hit: bool
    wrong: str | None


def places_of(job: Job) -> Counter[tuple[str, int]]:
    """The lines that a job executes, and how often."""
    with tempfile.TemporaryDirectory() as name:
        job.prepare(Path(name))
        job.work(Path(name))  # what is made only once
        shutil.rmtree(name)
        Path(name).mkdir()
        job.prepare(Path(name))
        with Tracer() as tracer:
            job.work(Path(name))
    return tracer.counts


def interrupt(job: Job, place: Place) -> Outcome:
    """Interrupt a job at one line, and judge what is left."""
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        directory = Path(name)
        job.prepare(directory)
        before = open_files()
        tracer = Tracer(place)
        wrong, done = _run(job, directory, tracer)
        wrong = wrong or left_over(before, OURS) or job.judge(directory, done)
        if wrong is None and tracer.hit:
            job.clean(directory)
            wrong = second_try(job, directory)
    return Outcome(place, tracer.hit, wrong)


def _run(job: Job, directory: Path, tracer: Tracer) -> tuple[str | None, bool]:
    try:
        with tracer:
            job.work(directory)
    except KeyboardInterrupt:
        return None, False
    except BaseException as e:  # noqa: BLE001 - that is what is looked for
        return f"raises {e!r}", False
    return "swallows the interrupt" if tracer.hit else None, True


def second_try(job: Job, directory: Path) -> str | None:
    try:
        job.work(directory)
    except Exception as e:  # noqa: BLE001 - the same
        return f"a second try fails: {e!r}\n{traceback.format_exc()}"
    wrong = job.judge(directory, True)
    return f"after a second try: {wrong}" if wrong else None


def sample(job: Job, count: int | None, rng: random.Random) -> list[Place]:
    """Where to interrupt a job: lines, rather than their repetitions, evenly spread.

    Args:
        job: The job.
        count: How many; None for every line once, and once more where it comes last.
        rng: Chooses.
    """
    counts = places_of(job)
    lines = [Place(*key) for key in counts]
    if count is None:
        return lines + [Place(*key, n) for key, n in counts.items() if n > 1]
    if count <= len(lines):
        step = len(lines) / count
        return [lines[int(i * step + rng.random() * step)] for i in range(count)]
    again = [Place(*key, rng.randint(1, n)) for key, n in counts.items()]
    return lines + [rng.choice(again) for _ in range(count - len(lines))]


@contextmanager
def all_jobs(directory: Path) -> Iterator[dict[str, Job]]:
    with ImageioDaemon(directory / "daemon") as daemon, imageio_jobs(daemon, directory) as imageio:
        yield {**local_jobs(), **tape_jobs(), **imageio}


def main() -> int:
    parser = argparse.ArgumentParser(description="Interrupt copies at lines of the main thread.")
    parser.add_argument("--count", type=int, help="how many; all lines when not given")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--job", help="only jobs whose name contains this")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    wrong = total = 0
    with tempfile.TemporaryDirectory() as name, all_jobs(Path(name)) as jobs:
        chosen = {n: j for n, j in jobs.items() if not options.job or options.job in n}
        for job_name, job in chosen.items():
            each = options.count and -(-options.count // len(chosen))
            outcomes = [interrupt(job, place) for place in sample(job, each, rng)]
            bad = [outcome for outcome in outcomes if outcome.wrong]
            for outcome in bad:
                print(f"{job_name}, {outcome.place}: {outcome.wrong}")
            hit = sum(outcome.hit for outcome in outcomes)
            print(
                f"{job_name}: {len(outcomes)} interrupts, {hit} hit, {len(bad)} wrong", flush=True
            )
            wrong, total = wrong + len(bad), total + len(outcomes)
    print(f"{total} interrupts, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
