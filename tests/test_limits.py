"""What a machine may lack: threads, memory, descriptors, a disk that can be read, a right clock.

Each program runs by itself, with a real limit, or a real file that cannot be read.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tapestream import (
    DiscardSink,
    ImageioHTTPSource,
    ImageioUploadSink,
    RawImageSink,
    RawImageSource,
    TarStreamSink,
    TarStreamSource,
    compare,
    copy,
    merge_chain,
    restore_chain,
    verify,
)
from tapestream.errors import LocalIOError, UsageError
from tapestream.tape import Catalog, TapeDrive
from tapestream.testing.memory import MemorySource

LIMITED = """
import os, resource, sys, threading
import tapestream
from tapestream import *
from tapestream.errors import *
from tapestream.testing.memory import MemorySink, MemorySource

def limit_memory(more):
    with open("/proc/self/statm") as f:
        used = int(f.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + more, resource.RLIM_INFINITY))

def use_up_descriptors():
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    while True:
        try:
            os.dup(2)
        except OSError:
            return

MIB = 2**20
sink = MemorySink(sequential=True)
try:
    %s
except TapestreamError as e:
    print(type(e).__name__, e)
    print([t.name for t in threading.enumerate()], sink.state)
"""


def limited(program: str) -> str:
    """What a program says whose machine lacks something."""
    code = LIMITED % "\n    ".join(program.strip().splitlines())
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


COPIES = {
    "copy": "copy(MemorySource(bytes(8 * MIB)), sink, {options})",
    "chain": "restore_chain([MemorySource(bytes(8 * MIB))], sink, {options})",
}


@pytest.mark.parametrize("call", COPIES)
def test_no_thread_can_be_started(call: str) -> None:
    """Its stack does not fit into the memory that the program may use."""
    said = limited(f"""
source = MemorySource(bytes(8 * MIB))
limit_memory(64 * MIB)
threading.stack_size(1024 * MIB)
{COPIES[call].format(options="")}
""")
    assert said.startswith("LocalIOError cannot start the thread tapestream-")
    assert "ulimit -u" in said
    assert "['MainThread'] aborted" in said


@pytest.mark.parametrize("call", COPIES)
def test_no_memory_for_a_buffer(call: str) -> None:
    said = limited(f"""
limit_memory(256 * MIB)
{COPIES[call].format(options="buffer_size=512 * MIB, buffer_memory=1024 * MIB, max_workers=1")}
""")
    assert said.startswith("LocalIOError cannot get memory for buffer 1, of 536870912 bytes: ")
    assert "smaller buffer_memory" in said
    assert "['MainThread'] aborted" in said


class Huge(MemorySource):
    """A source that needs more memory than there is."""

    def open_reader(self) -> Any:
        raise MemoryError


@pytest.mark.parametrize(
    "call",
    [
        lambda: copy(Huge(b"x"), DiscardSink()),
        lambda: restore_chain([Huge(b"x")], DiscardSink()),
        lambda: copy(merge_chain([Huge(b"x")]), DiscardSink()),
        lambda: compare(Huge(b"x"), MemorySource(b"x")),
        lambda: compare(MemorySource(b"x"), Huge(b"x")),
        lambda: verify(Huge(b"x")),
    ],
)
def test_no_memory(call: Any) -> None:
    with pytest.raises(LocalIOError, match="not enough memory") as caught:
        call()
    assert isinstance(caught.value.__cause__, MemoryError)


@pytest.mark.parametrize("url", ["https://host.example:54322/images/t", "https://grün.de/images/t"])
@pytest.mark.parametrize("party", ["ImageioHTTPSource", "ImageioUploadSink"])
@pytest.mark.parametrize("ca", ["None", "'/etc/ssl/certs/ca-certificates.crt'"])
def test_no_descriptor_for_the_first_url(ca: str, party: str, url: str) -> None:
    said = limited(f"""
use_up_descriptors()
{party}({url!r}, cafile={ca}, retries=0)
""")
    assert "too many open files" in said.lower() or "cannot connect" in said


@pytest.mark.parametrize("what", ["RawImageSource", "TarStreamSource", "TarStreamSink"])
def test_no_descriptor_for_a_file(what: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    said = limited(f"""
use_up_descriptors()
{what}({str(tmp_path / "file")!r})
""")
    assert said.startswith("LocalIOError cannot ")
    assert "Too many open files" in said
    assert "ulimit -n" in said
    assert (tmp_path / "file").read_bytes() == b"x"


@pytest.mark.parametrize("reads", [RawImageSource, TarStreamSource])
def test_a_file_that_cannot_be_read(reads: Any) -> None:
    """The memory of this process at its first byte: nothing is there."""
    with pytest.raises(LocalIOError, match="/proc/self/mem"):
        reads("/proc/self/mem")


@pytest.mark.parametrize(
    "url",
    [
        "https://ho\0st:54322/images/ticket",
        "https://host:54322/images/tic\0ket",
        "https://ho\ud800st/images/ticket",
        "https://host/images/\udcff",
        "https://host:99999/images/ticket",
        "https://host:x/images/ticket",
        "https://[::1/images/ticket",
        f"https://{'x' * 64}.example/images/ticket",
    ],
)
def test_a_url_that_no_server_has(url: str) -> None:
    for given in ((url, None), ("https://127.0.0.1:1/images/ticket", url)):
        with pytest.raises(UsageError, match="transfer URL") as caught:
            ImageioHTTPSource(given[0], proxy_url=given[1])
        assert "tic" not in str(caught.value).replace("/images/TICKET", "")


def test_a_clock_before_1970(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(time, "time", lambda: -86400.0)
    with (
        TarStreamSink(tmp_path / "disk.tar") as sink,
        pytest.raises(LocalIOError, match="clock of this machine is wrong") as caught,
    ):
        copy(MemorySource(b"x"), sink)
    assert "Set the clock" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "cls",
    [
        ImageioHTTPSource,
        ImageioUploadSink,
        RawImageSource,
        RawImageSink,
        TarStreamSource,
        TarStreamSink,
        DiscardSink,
        TapeDrive,
        Catalog,
    ],
)
def test_an_object_whose_constructor_failed(cls: Any) -> None:
    """A debugger and a log show it, and a `finally` closes it."""
    made = cls.__new__(cls)
    assert cls.__name__ in repr(made)
    made.close()
    if hasattr(made, "abort"):
        made.abort()
