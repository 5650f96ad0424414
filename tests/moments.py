"""A cancel at a random moment of each kind of copy, and what is left after it.

Half of the cancels come from another thread, the others from a signal handler in the main thread.
The moments are drawn from a seed; how far the work is at that moment depends on the machine. The
servers are the real daemon, over its unix socket and over TLS, and doubles that hang in all phases.

What is judged is not asked of tapestream. Either the work was done, and its result is right; or it
raises the reason, nothing looks complete, and no thread, descriptor or connection is left.

`make moments` runs as many as asked for, and reports how long they took to end; the tests, one of
each kind. `tests.cancels` cancels at lines instead, which is exact, but knows only what runs.
"""

from __future__ import annotations

import argparse
import gc
import io
import os
import random
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from tapestream import (
    Cancel,
    DiscardSink,
    Extent,
    ImageioHTTPSource,
    ImageioUploadSink,
    OperationCancelledError,
    RawImageSink,
    RawImageSource,
    TarStreamSink,
    TarStreamSource,
    compare,
    copy,
    restore_chain,
    verify,
)
from tapestream.tape import Catalog, TapeDrive, VolumeRequest
from tapestream.testing import ImageioDaemon, serve_image
from tapestream.testing.drive import Cartridge, FakeDrive
from tapestream.testing.memory import MemorySource

from .hostile import Fault, HostileServer, Stall
from .imageio.support import StuckImage, TLSServer, always, authority
from .interrupts import OURS, full_source, info, new_file
from .leftovers import PATIENCE, left_over, open_files

KIB, MIB = 1024, 1024**2
SIZE = 4 * MIB
RECORD = 64 * KIB
SMALL: dict[str, Any] = {"buffer_size": 64 * KIB, "buffer_memory": 512 * KIB}
REASON = "a random moment"
# Seconds. What hangs is cancelled within this time after it began.
HANGS = 0.15
FOREVER = 1000.0

Work = Callable[[Path, Cancel], object]
Judge = Callable[[Path, bool], str | None]


def nothing_there(directory: Path, done: bool) -> str | None:
    """No file is left; what has hung was not done."""
    found = sorted(p.name for p in directory.iterdir())
    return f"there is {found}" if found else None


def hung(directory: Path, done: bool) -> str | None:
    return "it was done, but should hang" if done else nothing_there(directory, done)


@dataclass(frozen=True)
class Kind:
    """Something to be cancelled.

    Attributes:
        work: Does it, from the constructors to the end of the `with` block.
        judge: What is wrong afterwards in the directory; its second argument says if it was done.
        around: What is there meanwhile; `work` gets its value instead of the directory.
        hangs: True if it never ends by itself.
    """

    work: Callable[[Any, Cancel], object]
    judge: Judge = nothing_there
    around: Callable[[Path], AbstractContextManager[Any]] | None = None
    hangs: bool = False


# --- One moment ---


@dataclass(frozen=True)
class Outcome:
    """What came of one cancel.

    Attributes:
        took: Seconds from the beginning of the work to its end.
        seconds: How long the work took to end after the cancel; None if it had ended before.
        wrong: What is wrong; None if nothing is.
    """

    took: float
    seconds: float | None
    wrong: str | None


class _Canceller:
    """Cancels after a while: in a thread, or in a signal handler in the main thread."""

    def __init__(self, after: float, *, by_signal: bool) -> None:
        self.cancel = Cancel()
        self.at: float | None = None
        self._after = after
        self._by_signal = by_signal
        self._before: Any = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="canceller")

    def __enter__(self) -> _Canceller:
        self._before = signal.signal(signal.SIGUSR1, self._now)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        signal.signal(signal.SIGUSR1, self._before)

    def _run(self) -> None:
        if self._ended.wait(self._after):
            return
        if self._by_signal:
            main = threading.main_thread().ident
            assert main
            signal.pthread_kill(main, signal.SIGUSR1)
        else:
            self._now()

    def _now(self, *_: object) -> None:
        self.at = time.monotonic()
        self.cancel.cancel(REASON)


def cancel_at(kind: Kind, after: float, *, by_signal: bool) -> Outcome:
    """Cancel work so many seconds after it began, and judge what is left."""
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        directory = Path(name)
        before = open_files()
        with ExitStack() as stack:
            given: Any = directory
            if kind.around is not None:
                given = stack.enter_context(kind.around(directory))
            with _Canceller(after, by_signal=by_signal) as canceller:
                began = time.monotonic()
                wrong, done = _run(kind, given, canceller.cancel)
                ended = time.monotonic()
            at = canceller.at
        wrong = wrong or left_over(before, OURS) or kind.judge(directory, done)
    return Outcome(ended - began, None if at is None or at > ended else ended - at, wrong)


def _run(kind: Kind, given: Any, cancel: Cancel) -> tuple[str | None, bool]:
    try:
        kind.work(given, cancel)
    except OperationCancelledError as e:
        return None if e.reason == REASON else f"the reason is {e.reason!r}", False
    except BaseException as e:  # noqa: BLE001 - that is what is looked for
        return f"raises {e!r}\n{traceback.format_exc()}", False
    return None, True


def duration(kind: Kind) -> float:
    """How long the work takes when nobody cancels it."""
    outcomes = [cancel_at(kind, FOREVER, by_signal=False) for _ in range(3)]
    wrong = [outcome.wrong for outcome in outcomes if outcome.wrong is not None]
    if wrong:
        raise AssertionError(f"without a cancel: {wrong[0]}")
    return min(outcome.took for outcome in outcomes)


@dataclass
class Report:
    """What came of all cancels of one kind.

    Attributes:
        cancelled: Seconds that each took to end.
        done: How many ended before the cancel, or in spite of it.
        wrong: What was wrong, and when.
    """

    cancelled: list[float] = field(default_factory=list)
    done: int = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        times = sorted(self.cancelled)
        text = f"{len(times)} cancelled, {self.done} done before, {len(self.wrong)} wrong"
        if times:
            median, most = times[len(times) // 2], times[-1]
            slow = sum(seconds > 1 for seconds in times)
            text += f"; median {1000 * median:.1f} ms, most {1000 * most:.0f} ms, {slow} over 1 s"
        return text


def moments(kind: Kind, count: int, rng: random.Random, longest: float | None = None) -> Report:
    """Cancel at this many random moments.

    Args:
        kind: What is cancelled.
        count: How often.
        rng: Draws the moments.
        longest: The latest moment, in seconds; None for the end of the work.
    """
    if longest is None:
        longest = HANGS if kind.hangs else duration(kind) * 1.05
    report = Report()
    for number in range(count):
        after = rng.random() * longest
        by_signal = rng.random() < 0.5
        outcome = cancel_at(kind, after, by_signal=by_signal)
        if outcome.seconds is None:
            report.done += 1
        else:
            report.cancelled.append(outcome.seconds)
        if outcome.wrong is not None:
            how = "by a signal" if by_signal else "by a thread"
            report.wrong.append(f"{number}, after {after:.4f} s, {how}: {outcome.wrong}")
    return report


# --- Copies with the real daemon ---

FULL = (
    random.Random(2).randbytes(SIZE // 2) + bytes(SIZE // 4) + random.Random(3).randbytes(SIZE // 4)
)


@contextmanager
def daemon_kinds(daemon: ImageioDaemon, directory: Path) -> Iterator[dict[str, Kind]]:
    """Kinds of copies with a real daemon; what they read is in the directory."""
    served, target = directory / "served.raw", directory / "target.raw"
    served.write_bytes(FULL)
    target.write_bytes(bytes(SIZE))
    tar, later = directory / "full.tar", directory / "later.tar"
    for source, path in ((_full(), tar), (_later(), later)):
        with source, TarStreamSink(path) as sink:
            copy(source, sink, **SMALL)
    with (
        serve_image(served, format="raw") as read,
        serve_image(target, format="raw", read_only=False) as write,
    ):
        # The tickets outlive everything.
        download = daemon.add_ticket(read, SIZE, timeout=86400)
        upload = daemon.add_ticket(write, SIZE, ops=["read", "write"], timeout=86400)
        kinds: dict[str, Kind] = {}
        for how in ("unix", "tls"):
            options: dict[str, Any] = {"cafile": daemon.cafile, "use_unix_socket": how == "unix"}
            source_of = partial(ImageioHTTPSource, download, info=info(), **options)
            sink_of = partial(ImageioUploadSink, upload, **options)
            down = partial(_idle, daemon, download)
            up = partial(_idle, daemon, upload, right=(target, FULL))
            kinds |= {
                f"download to a tar, {how}": Kind(
                    partial(_download_to_tar, source_of), _both(_one_tar, down)
                ),
                f"download to a raw image, {how}": Kind(
                    partial(_download_to_raw, source_of), _both(new_or_none("a.raw"), down)
                ),
                f"upload of a tar, {how}": Kind(partial(_upload, sink_of, tar), up),
                f"upload of a raw image, {how}": Kind(partial(_upload_raw, sink_of, served), up),
                f"restore of a chain, {how}": Kind(
                    partial(_restore_chain, sink_of, [later, tar]),
                    partial(_idle, daemon, upload, right=(target, LATER)),
                ),
                f"compare, {how}": Kind(partial(_compare, source_of, tar), down),
            }
        source_of = partial(ImageioHTTPSource, download, info=info(), cafile=daemon.cafile)
        tape = _tape()
        kinds |= {
            "download to a tape": Kind(
                partial(_download_to_tape, source_of), partial(_idle, daemon, download), tape
            ),
            "verify": Kind(partial(_verify, tar)),
            "verify a tape": Kind(_verify_tape, around=tape),
            "restore of a chain to a raw image": Kind(
                partial(_chain_to_raw, [later, tar]), new_or_none("a.raw", LATER)
            ),
            "scan": Kind(_scan, around=tape),
        }
        yield kinds


def _full() -> MemorySource:
    return MemorySource(FULL, info=info(checkpoint_id="1"))


CHANGED = random.Random(4).randbytes(MIB)
LATER = FULL[: MIB // 2] + CHANGED + FULL[MIB // 2 + MIB :]


def _later() -> MemorySource:
    extents = [
        Extent(0, MIB // 2, dirty=False),
        Extent(MIB // 2, MIB, dirty=True),
        Extent(MIB // 2 + MIB, SIZE - MIB // 2 - MIB, dirty=False),
    ]
    late = info(checkpoint_id="2", parent_checkpoint_id="1", context="dirty")
    return MemorySource(LATER, extents, info=late)


def _both(*judges: Judge) -> Judge:
    def judge(directory: Path, done: bool) -> str | None:
        return next((wrong for each in judges if (wrong := each(directory, done))), None)

    return judge


def new_or_none(name: str, right: bytes = FULL) -> Judge:
    return new_file(name, right)


def _one_tar(directory: Path, done: bool) -> str | None:
    """A tar is either whole or not there."""
    found = [p.name for p in directory.iterdir()]
    if not found and not done:
        return None
    if found != ["a.tar"]:
        return f"there is {found}"
    with TarStreamSource(directory / "a.tar") as source:
        return None if verify(source, **SMALL).ok else "a.tar is damaged"


def _idle(
    daemon: ImageioDaemon,
    url: str,
    directory: Path,
    done: bool,
    right: tuple[Path, bytes] | None = None,
) -> str | None:
    """The daemon has no connection any more; if it was done, its disk is right."""
    until = time.monotonic() + PATIENCE
    while daemon.ticket_info(url)["connections"]:
        if time.monotonic() > until:
            return "the ticket is still in use"
        time.sleep(0.002)
    if done and right is not None and right[0].read_bytes() != right[1]:
        return "the disk is wrong"
    return None


Sources = Callable[..., ImageioHTTPSource]
Sinks = Callable[..., ImageioUploadSink]


def _download_to_tar(source_of: Sources, place: Path, cancel: Cancel) -> None:
    with source_of(cancel=cancel) as source, TarStreamSink(place / "a.tar", cancel=cancel) as sink:
        copy(source, sink, cancel=cancel, **SMALL)


def _download_to_raw(source_of: Sources, place: Path, cancel: Cancel) -> None:
    with source_of(cancel=cancel) as source, RawImageSink(place / "a.raw") as sink:
        copy(source, sink, cancel=cancel, **SMALL)


def _upload(sink_of: Sinks, tar: Path, _: Path, cancel: Cancel) -> None:
    with TarStreamSource(tar, cancel=cancel) as source, sink_of(cancel=cancel) as sink:
        copy(source, sink, cancel=cancel, **SMALL)


def _upload_raw(sink_of: Sinks, image: Path, _: Path, cancel: Cancel) -> None:
    with RawImageSource(image) as source, sink_of(cancel=cancel) as sink:
        copy(source, sink, cancel=cancel, **SMALL)


def _restore_chain(sink_of: Sinks, tars: list[Path], _: Path, cancel: Cancel) -> None:
    with ExitStack() as stack:
        chain = [stack.enter_context(TarStreamSource(tar, cancel=cancel)) for tar in tars]
        sink = stack.enter_context(sink_of(cancel=cancel))
        restore_chain(chain, sink, cancel=cancel, **SMALL)


def _chain_to_raw(tars: list[Path], place: Path, cancel: Cancel) -> None:
    with ExitStack() as stack:
        chain = [stack.enter_context(TarStreamSource(tar, cancel=cancel)) for tar in tars]
        sink = stack.enter_context(RawImageSink(place / "a.raw"))
        restore_chain(chain, sink, verify_first=True, cancel=cancel, **SMALL)


def _compare(source_of: Sources, tar: Path, _: Path, cancel: Cancel) -> None:
    with TarStreamSource(tar, cancel=cancel) as one, source_of(cancel=cancel) as other:
        assert compare(one, other, cancel=cancel, **SMALL).equal


def _verify(tar: Path, _: Path, cancel: Cancel) -> None:
    with TarStreamSource(tar, cancel=cancel) as source:
        assert verify(source, cancel=cancel, **SMALL).ok


# --- Copies with the double of a tape drive ---


def _tape() -> Callable[[Path], AbstractContextManager[TapeDrive]]:
    """A drive whose tape has a label and two backups, the same each time."""
    cartridge = Cartridge()
    with TapeDrive("/dev/nst0", open_device=FakeDrive(cartridge).open) as drive:
        drive.write_label("T1")
        for _ in range(2):
            with _full() as source, TarStreamSink(drive, record_size=RECORD) as sink:
                copy(source, sink, **SMALL)

    @contextmanager
    def around(directory: Path) -> Iterator[TapeDrive]:
        tape = deepcopy(cartridge)
        with TapeDrive("/dev/nst0", open_device=FakeDrive(tape).open) as drive:
            yield drive
            with drive.turn():  # nobody has it any more
                entries = list(drive.scan())
            assert [entry.complete for entry in entries[:3]] == [True] * 3
            for entry in entries[3:]:
                with TarStreamSource(drive, file=entry.file) as source:
                    assert verify(source, **SMALL).ok == entry.complete

    return around


def _download_to_tape(source_of: Sources, drive: TapeDrive, cancel: Cancel) -> None:
    with (
        source_of(cancel=cancel) as source,
        TarStreamSink(drive, record_size=RECORD, cancel=cancel) as sink,
    ):
        copy(source, sink, cancel=cancel, **SMALL)


def _verify_tape(drive: TapeDrive, cancel: Cancel) -> None:
    with TarStreamSource(drive, file=1, cancel=cancel) as source:
        assert verify(source, cancel=cancel, **SMALL).ok


def _scan(drive: TapeDrive, cancel: Cancel) -> None:
    drive.wait_ready(cancel=cancel)
    with closing(Catalog(":memory:")) as catalog:
        catalog.scan(drive, cancel=cancel)


# --- What hangs ---


class HandshakeHangs(TLSServer):
    """A server that answers one connection, and then begins no TLS handshake any more."""

    def _accept(self) -> None:
        wrap = self._context.wrap_socket
        first = True

        class Once:
            @staticmethod
            def wrap_socket(sock: socket.socket, *, server_side: bool) -> socket.socket:
                nonlocal first
                if first:
                    first = False
                    return wrap(sock, server_side=server_side)
                plain.append(sock)
                raise OSError

        plain: list[socket.socket] = []
        self._context = Once  # type: ignore[misc, assignment]
        super()._accept()
        for sock in plain:
            sock.close()


@contextmanager
def _silent(_: Path, *, full: bool) -> Iterator[str]:
    """The URL of a server that accepts nothing; with a full queue, not even a connect."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0 if full else 5)
        port = listener.getsockname()[1]
        for _n in range(3 if full else 0):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
        yield f"https://127.0.0.1:{port}/images/ticket"


def _server(_: Path, *, make: type[HostileServer], **behaviour: Any) -> HostileServer:
    return make(HELD, **behaviour)


@contextmanager
def _stuck_server(_: Path, *, make: type[HostileServer]) -> Iterator[HostileServer]:
    image = StuckImage(16 * MIB)
    with make(image) as server:
        yield server
        image.released.set()


# What a hanging server's disk holds: nothing that reads as zeros.
HELD = random.Random(5).randbytes(256 * KIB)
PATIENT: dict[str, Any] = {
    "secure": False,
    "use_unix_socket": False,
    "connect_timeout": FOREVER,
    "read_timeout": FOREVER,
}


def _make_source(url: str, cancel: Cancel, *, ca: Path) -> None:
    with ImageioHTTPSource(url, cafile=ca, cancel=cancel, **PATIENT):
        raise AssertionError("it cannot be made")


def _download(server: HostileServer, cancel: Cancel, *, ca: Path) -> None:
    with (
        ImageioHTTPSource(
            server.url, cafile=ca, cancel=cancel, extents_timeout=FOREVER, **PATIENT
        ) as source,
        TarStreamSink(io.BytesIO()) as sink,
    ):
        copy(source, sink, cancel=cancel, **SMALL)


@cache
def _half_zero(size: int) -> bytes:
    return random.Random(1).randbytes(size // 2) + bytes(size // 2)


def _upload_to(server: HostileServer, cancel: Cancel, *, ca: Path, size: int = 256 * KIB) -> None:
    with (
        MemorySource(_half_zero(size)) as source,
        ImageioUploadSink(
            server.url, cafile=ca, cancel=cancel, zero_timeout=FOREVER, **PATIENT
        ) as sink,
    ):
        copy(source, sink, cancel=cancel, **SMALL)


@contextmanager
def _fifo(directory: Path) -> Iterator[Path]:
    path = directory / "fifo"
    os.mkfifo(path)
    yield path
    path.unlink()


@contextmanager
def _held_fifo(directory: Path) -> Iterator[Path]:
    """A fifo that has a reader and a writer, who do nothing."""
    with _fifo(directory) as path, open(os.open(path, os.O_RDWR | os.O_NONBLOCK), "rb"):
        yield path


def _write_fifo(path: Path, cancel: Cancel) -> None:
    with MemorySource(FULL) as source, TarStreamSink(path, cancel=cancel) as sink:
        copy(source, sink, cancel=cancel, **SMALL)


def _read_fifo(path: Path, cancel: Cancel) -> None:
    with TarStreamSource(path, cancel=cancel) as source, DiscardSink() as sink:
        copy(source, sink, cancel=cancel, **SMALL)


@contextmanager
def _drive(_: Path, *, loaded: bool) -> Iterator[TapeDrive]:
    fake = FakeDrive(Cartridge() if loaded else None)
    with TapeDrive("/dev/nst0", open_device=fake.open) as drive:
        drive.raw.load_seconds = FOREVER
        yield drive


@contextmanager
def _busy_drive(directory: Path) -> Iterator[TapeDrive]:
    """A drive that another thread uses."""
    has_it, done = threading.Event(), threading.Event()

    def use() -> None:
        with drive.turn():
            has_it.set()
            done.wait()

    with _drive(directory, loaded=True) as drive:
        user = threading.Thread(target=use)
        user.start()
        has_it.wait()
        yield drive
        done.set()
        user.join()


@contextmanager
def _short_tape(_: Path) -> Iterator[TapeDrive]:
    cartridge = Cartridge(8 * RECORD, 2 * RECORD)
    with TapeDrive("/dev/nst0", open_device=FakeDrive(cartridge).open) as drive:
        yield drive
        with drive.turn():
            pass


def _change_tapes(drive: TapeDrive, cancel: Cancel) -> None:
    """Nobody brings the next tape."""

    def wait_for_operator(request: VolumeRequest) -> None:
        while not request.cancelled:
            time.sleep(0.01)

    with (
        full_source() as source,
        TarStreamSink(
            drive,
            record_size=RECORD,
            part_size=RECORD,
            on_volume_full=wait_for_operator,
            cancel=cancel,
        ) as sink,
    ):
        copy(source, sink, cancel=cancel, **SMALL)


def _back_up(drive: TapeDrive, cancel: Cancel) -> None:
    with full_source() as source, TarStreamSink(drive, record_size=RECORD) as sink:
        copy(source, sink, cancel=cancel, **SMALL)


def _open_tape_file(drive: TapeDrive, cancel: Cancel) -> None:
    with TarStreamSource(drive, file=1, cancel=cancel):
        raise AssertionError("the drive is in use")


def hanging_kinds(directory: Path) -> dict[str, Kind]:
    """What hangs for ever in one phase. The directory is for a CA: the system's have too many."""
    ca = directory / "ca.pem"
    authority.cert_pem.write_to_path(ca)
    make_source = partial(_make_source, ca=ca)
    download = partial(_download, ca=ca)
    upload = partial(_upload_to, ca=ca)

    def stall(after: int | None) -> Callable[..., Fault | None]:
        return always(Stall(after, FOREVER))

    def server(make: type[HostileServer], **behaviour: Any) -> Any:
        return partial(_server, make=make, **behaviour)

    kinds = {
        "no accept": Kind(make_source, hung, partial(_silent, full=True), True),
        "no handshake": Kind(make_source, hung, partial(_silent, full=False), True),
        "no handshake later": Kind(
            download, hung, server(HandshakeHangs, close_after_each=True), True
        ),
    }
    for scheme, make in (("http", HostileServer), ("https", TLSServer)):
        kinds |= {
            f"no reply to the first request, {scheme}": Kind(
                download, hung, server(make, on_options=stall(None)), True
            ),
            f"no extents, {scheme}": Kind(
                download, hung, server(make, on_extents=stall(None)), True
            ),
            f"stalled extents, {scheme}": Kind(
                download, hung, server(make, on_extents=stall(10)), True
            ),
            f"no reply, {scheme}": Kind(download, hung, server(make, on_get=_data(None)), True),
            f"a stalled body, {scheme}": Kind(
                download, hung, server(make, on_get=_data(1000)), True
            ),
            f"no reply to an upload, {scheme}": Kind(
                upload, hung, server(make, on_put=stall(None)), True
            ),
            f"a stalled upload, {scheme}": Kind(
                partial(upload, size=16 * MIB),
                hung,
                partial(_stuck_server, make=make),
                True,
            ),
            f"no reply to a zero or a flush, {scheme}": Kind(
                upload, hung, server(make, on_patch=stall(None)), True
            ),
            f"a server that fails, {scheme}": Kind(
                download, hung, server(make, options_status=500), True
            ),
        }
    return kinds | {
        "a fifo without a reader": Kind(_write_fifo, hung, _fifo, True),
        "a fifo without a writer": Kind(_read_fifo, hung, _fifo, True),
        "a fifo whose reader stalls": Kind(_write_fifo, hung, _held_fifo, True),
        "a fifo whose writer stalls": Kind(_read_fifo, hung, _held_fifo, True),
        "a drive without a cartridge": Kind(
            lambda drive, cancel: drive.wait_ready(cancel=cancel),
            hung,
            partial(_drive, loaded=False),
            True,
        ),
        "a tape change": Kind(_change_tapes, hung, _short_tape, True),
        "a backup that waits for its turn": Kind(_back_up, hung, _busy_drive, True),
        "a restore that waits for its turn": Kind(_open_tape_file, hung, _busy_drive, True),
        "a scan that waits for its turn": Kind(_scan, hung, _busy_drive, True),
    }


def _data(after: int | None) -> Callable[[int, int, int], Fault | None]:
    """Stall in every reply but that of one byte, with which the end of the disk is looked for."""
    return lambda n, start, length: Stall(after, FOREVER) if length > 1 else None


@contextmanager
def all_kinds(directory: Path) -> Iterator[dict[str, Kind]]:
    with ImageioDaemon(directory / "daemon") as daemon, daemon_kinds(daemon, directory) as kinds:
        yield {**kinds, **hanging_kinds(directory)}


def main() -> int:
    parser = argparse.ArgumentParser(description="Cancel copies at random moments.")
    parser.add_argument("--count", type=int, default=100, help="moments in each kind of copy")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", help="only kinds whose name contains this")
    options = parser.parse_args()
    wrong = total = 0
    with tempfile.TemporaryDirectory() as name, all_kinds(Path(name)) as kinds:
        gc.freeze()  # so that each look at what is left is fast
        for kind_name, kind in kinds.items():
            if options.kind and options.kind not in kind_name:
                continue
            rng = random.Random(f"{options.seed} {kind_name}")
            report = moments(kind, options.count, rng)
            for problem in report.wrong:
                print(f"{kind_name}: {problem}")
            print(f"{kind_name}: {report}", flush=True)
            wrong, total = wrong + len(report.wrong), total + options.count
    print(f"{total} moments, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
