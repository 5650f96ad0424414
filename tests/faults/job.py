"""The program that copies, in a process of its own: `python -m tests.faults.job SPEC`.

It says what happens in lines of JSON: {"at": BYTES} when so much was written, and then waits for a
line before it goes on; {"end": "done"} or {"end": "error", ...}; and what was left open.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from tapestream import (
    DiscardSink,
    ImageioHTTPSource,
    ImageioUploadSink,
    RawImageSink,
    RawImageSource,
    TapestreamError,
    TarStreamSink,
    TarStreamSource,
    compare,
    copy,
    restore_chain,
)
from tapestream.engine.options import CopyKeywords

from ..leftovers import open_files, threads

MIB = 1024**2

Spec = dict[str, Any]


def options(gate: Gate) -> CopyKeywords:
    """Few buffers, so that a fault in the middle finds data that was not read yet."""
    return {"progress": gate, "buffer_size": MIB // 4, "buffer_memory": MIB}


def say(**what: object) -> None:
    print(json.dumps(what), flush=True)


class Gate:
    """A progress that stops at a point, and waits there until it is told to go on.

    Attributes:
        done: Bytes written so far.
    """

    def __init__(self, at: int | None) -> None:
        self._at = at
        self.done = 0
        self._lock = threading.Lock()

    def update(self, n: int) -> None:
        with self._lock:
            self.done += n
            if self._at is None or self.done < self._at:
                return
            self._at = None
        say(at=self.done)
        sys.stdin.readline()


def source(spec: Spec, **options: Any) -> ImageioHTTPSource:
    """The transfer to read from."""
    return ImageioHTTPSource(
        spec["source_url"],
        cafile=spec["cafile"],
        use_unix_socket=spec["unix"],
        read_timeout=spec["timeout"],
        extents_timeout=spec["timeout"],
        connect_timeout=spec["timeout"],
        retries=spec["retries"],
        **options,
    )


def upload(spec: Spec) -> ImageioUploadSink:
    """The transfer to write to."""
    return ImageioUploadSink(
        spec["target_url"],
        cafile=spec["cafile"],
        use_unix_socket=spec["unix"],
        read_timeout=spec["timeout"],
        zero_timeout=spec["timeout"],
        connect_timeout=spec["timeout"],
    )


def backup_file(spec: Spec, gate: Gate) -> None:
    with source(spec) as src, TarStreamSink(spec["target"]) as dst:
        copy(src, dst, **options(gate))


def backup_incremental(spec: Spec, gate: Gate) -> None:
    with source(spec, context="dirty") as src, TarStreamSink(spec["target"]) as dst:
        copy(src, dst, **options(gate))


def backup_pipe(spec: Spec, gate: Gate) -> None:
    with source(spec) as src, TarStreamSink(spec["fifo"]) as dst:
        copy(src, dst, **options(gate))


def backup_raw(spec: Spec, gate: Gate) -> None:
    with source(spec) as src, RawImageSink(spec["target"]) as dst:
        copy(src, dst, **options(gate))


def restore_raw(spec: Spec, gate: Gate) -> None:
    with TarStreamSource(spec["tar"]) as src, RawImageSink(spec["target"]) as dst:
        copy(src, dst, **options(gate))


def restore(spec: Spec, gate: Gate) -> None:
    with TarStreamSource(spec["tar"]) as src, upload(spec) as dst:
        copy(src, dst, **options(gate))


def restore_week(spec: Spec, gate: Gate) -> None:
    with contextlib.ExitStack() as stack:
        chain = [stack.enter_context(TarStreamSource(tar)) for tar in spec["tars"]]
        dst = stack.enter_context(upload(spec))
        restore_chain(chain, dst, **options(gate))


def upload_image(spec: Spec, gate: Gate) -> None:
    with RawImageSource(spec["image"]) as src, upload(spec) as dst:
        copy(src, dst, **options(gate))


def move(spec: Spec, gate: Gate) -> None:
    with source(spec) as src, upload(spec) as dst:
        copy(src, dst, **options(gate))


def hash_disk(spec: Spec, gate: Gate) -> None:
    with source(spec) as src, DiscardSink() as dst:
        copy(src, dst, progress=gate, block_hash=True)


def compare_live(spec: Spec, gate: Gate) -> None:
    with TarStreamSource(spec["tar"]) as a, source(spec) as b:
        report = compare(a, b, **options(gate))
    if not report.equal:
        raise AssertionError("they differ")


JOBS: dict[str, Callable[[Spec, Gate], None]] = {
    f.__name__: f
    for f in (
        backup_file,
        backup_incremental,
        backup_pipe,
        backup_raw,
        restore_raw,
        restore,
        restore_week,
        upload_image,
        move,
        hash_disk,
        compare_live,
    )
}


def limit(spec: Spec) -> None:
    """Take away what the process is not to have."""
    limits = spec.get("limits", {})
    if "files" in limits:
        set_limit(resource.RLIMIT_NOFILE, len(open_files()) + limits["files"])
    if "file_size" in limits:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        set_limit(resource.RLIMIT_FSIZE, limits["file_size"])
    if "stack" in limits:
        threading.stack_size(limits["stack"])
    if "memory" in limits:
        set_limit(resource.RLIMIT_AS, virtual_memory() + limits["memory"])


def set_limit(what: int, most: int | None) -> None:
    """Set a limit of this process, or lift it."""
    _, hard = resource.getrlimit(what)
    resource.setrlimit(what, (hard if most is None else most, hard))


def virtual_memory() -> int:
    """Bytes of address space that this process has."""
    with open("/proc/self/statm") as f:
        return int(f.read().split()[0]) * resource.getpagesize()


def _left(before: set[str]) -> dict[str, object]:
    """What the job left: threads, and descriptors that are no standard ones."""
    gc.collect()
    return {"threads": threads(), "files": sorted(open_files() - before)}


def main() -> None:
    spec: Spec = json.loads(sys.argv[1])
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    # Whoever starts this in the background may have SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _terminated)
    before = open_files()
    gate = Gate(spec.get("gate"))
    say(start=True)
    if spec.get("wait"):
        sys.stdin.readline()
    try:
        limit(spec)
        JOBS[spec["job"]](spec, gate)
        end: dict[str, object] = {"end": "done"}
    except BaseException as e:  # noqa: BLE001 - whatever it is, it is told
        typed = isinstance(e, (TapestreamError, KeyboardInterrupt, SystemExit))
        end = {"end": "error", "type": type(e).__name__, "typed": typed, "text": str(e)}
        if not typed:
            end["trace"] = traceback.format_exc()
    for what in (resource.RLIMIT_NOFILE, resource.RLIMIT_AS):
        set_limit(what, None)
    say(**end, left=_left(before))


def _terminated(*_: object) -> NoReturn:
    """What a program does that wants to clean up on SIGTERM."""
    sys.exit(143)


if __name__ == "__main__":
    main()
