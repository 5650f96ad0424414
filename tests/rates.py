"""Measures how exactly copies from a real daemon keep to a limit that they share.

    python -m tests.rates --copies 8 --seconds 60 --rate 64

`tests/engine/test_rate.py` does the same for a few seconds.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tapestream import DiscardSink, ImageioHTTPSource, RateLimit, Reader, copy
from tapestream.backend import ForwardingReader, ForwardingSource
from tapestream.engine.options import BUFFER_SIZE
from tapestream.testing import ImageioDaemon, serve_image
from tests.disks import noise

MIB = 1024**2


@dataclass(frozen=True)
class Request:
    """What a server was asked for, and when."""

    time: float
    size: int
    copy: int


class Watched(ForwardingSource):
    """Notes each request."""

    def __init__(self, wrapped: ImageioHTTPSource, number: int, requests: list[Request]) -> None:
        super().__init__(wrapped)
        self.number = number
        self.requests = requests

    def open_reader(self) -> Reader:
        return _WatchedReader(super().open_reader(), self)


class _WatchedReader(ForwardingReader):
    def __init__(self, wrapped: Reader, source: Watched) -> None:
        super().__init__(wrapped)
        self.source = source
        self.prefetch_depth: int = wrapped.prefetch_depth  # type: ignore[attr-defined]

    def prefetch(self, start: int, length: int) -> None:
        self.source.requests.append(Request(time.monotonic(), length, self.source.number))
        self.wrapped.prefetch(start, length)  # type: ignore[attr-defined]


def excess(requests: Sequence[Request], rate: float) -> float:
    """The most bytes that any window of time saw, beyond its part of the rate."""
    total, lowest, most = 0.0, float("inf"), 0.0
    for request in requests:
        lowest = min(lowest, total - rate * request.time)
        total += request.size
        most = max(most, total - rate * request.time - lowest)
    return most


def watch(
    directory: Path, daemon: ImageioDaemon, limit: RateLimit, *, copies: int, size: int
) -> list[Request]:
    """Let several copies share a limit, and return what they asked for, in order."""
    requests: list[Request] = []
    errors: list[BaseException] = []
    path = directory / "disk.raw"
    with path.open("wb") as f:
        for _ in range(0, size, MIB):
            f.write(noise(MIB))

    def read(number: int, url: str) -> None:
        try:
            with (
                ImageioHTTPSource(url, cafile=daemon.cafile) as src,
                DiscardSink() as dst,
            ):
                copy(Watched(src, number, requests), dst, max_rate=limit)
        except BaseException as e:  # noqa: BLE001 - raised below
            errors.append(e)

    with ExitStack() as stack:
        threads = []
        for number in range(copies):
            nbd_url = stack.enter_context(serve_image(path, format="raw"))
            url = daemon.add_ticket(nbd_url, size=size)
            threads.append(threading.Thread(target=read, args=(number, url)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    return sorted(requests, key=lambda request: request.time)


def main() -> None:
    """Measure, and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--copies", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--rate", type=int, default=64, help="MiB per second")
    given = parser.parse_args()
    rate = given.rate * MIB
    size = rate * given.seconds // given.copies
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with ImageioDaemon(directory / "daemon") as daemon:
            requests = watch(
                directory, daemon, RateLimit(rate), copies=given.copies, size=size - size % MIB
            )
    began = requests[0].time
    took = requests[-1].time - began
    total = sum(request.size for request in requests)
    print(f"{total} bytes in {took:.3f} s: {100 * (total / took / rate - 1):+.2f} % of the rate")
    for window in (1, 10):
        if took < window:
            break
        sums = [0] * int(took / window)
        for request in requests:
            place = int((request.time - began) / window)
            if place < len(sums):
                sums[place] += request.size
        off = sorted(100 * (each / window / rate - 1) for each in sums)
        print(f"windows of {window} s: {off[0]:+.2f} to {off[-1]:+.2f} %")
    print(f"most beyond the rate in any window: {excess(requests, rate)} of {BUFFER_SIZE} bytes")
    half = [r.copy for r in requests if r.time < began + took / 2]
    each = [half.count(number) for number in range(given.copies)]
    print(f"requests of each copy in the first half: {each}")


if __name__ == "__main__":
    main()
