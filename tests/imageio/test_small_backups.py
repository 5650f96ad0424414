"""What an incremental backup of few changes asks of the real daemon: nothing twice."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestream import ImageioHTTPSource, TarStreamSink, copy
from tapestream.imageio.sockets import tls_context
from tapestream.testing import ImageioDaemon, create_image, serve_image, write_pattern

MIB = 1024**2
SIZE = 1024 * MIB
BITMAP = "since-full"
# Of the daemon's log: "[http] OPEN connection=4 client=local", "[extents] [local] EXTENTS ...".
ASKED = re.compile(r"\] (OPEN|OPTIONS|EXTENTS)\b(?:.* (context=\w+))?|(out of allowed range)")


@pytest.fixture(params=[0, 5], ids=["nothing dirty", "5 dirty extents"])
def dirty(request: pytest.FixtureRequest) -> int:
    count: int = request.param
    return count


@pytest.fixture
def url(daemon: ImageioDaemon, tmp_path: Path, dirty: int) -> Iterator[str]:
    disk = tmp_path / "disk.qcow2"
    create_image(disk, SIZE)
    write_pattern(disk, ["write -P 1 0 1M"])
    subprocess.run(["qemu-img", "bitmap", "--add", disk, BITMAP], check=True)
    if dirty:
        write_pattern(disk, [f"write -P 2 {(1 + i) * 100 * MIB} 64k" for i in range(dirty)])
    with serve_image(disk, bitmap=BITMAP) as nbd_url:
        yield daemon.add_ticket(nbd_url, SIZE, dirty=True)


@pytest.mark.parametrize("unix", [True, False], ids=["unix", "tls"])
def test_requests_and_connections(
    daemon: ImageioDaemon, url: str, dirty: int, tmp_path: Path, unix: bool
) -> None:
    before = len(daemon.read_log())
    with (
        ImageioHTTPSource(
            url, context="dirty", cafile=daemon.cafile, use_unix_socket=unix
        ) as source,
        TarStreamSink(tmp_path / "disk.tar") as sink,
    ):
        result = copy(source, sink)
    assert (result.data_bytes, result.requests) == (dirty * 64 * 1024, dirty)
    asked = Counter(
        " ".join(filter(None, found)) for found in ASKED.findall(daemon.read_log()[before:])
    )
    # One connection on each way to the server. The list, and the data, which are small requests,
    # come over the one that asked what the server can do.
    assert asked.pop("OPEN") == 1 + unix
    assert asked.pop("OPTIONS") == 1 + unix
    assert asked.pop("EXTENTS context=dirty") == 1
    # A server that ignores the context would list the same; see `imageio/listing.py`.
    assert asked.pop("EXTENTS context=zero", 0) == (not dirty)
    assert asked.pop("out of allowed range") == 1  # the byte after the end of the list
    assert not asked


def test_the_cas_of_the_system_are_not_loaded_if_nothing_is_checked(
    daemon: ImageioDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(daemon.cafile))
    assert tls_context(None, secure=True).get_ca_certs()
    assert not tls_context(None, secure=False).get_ca_certs()
