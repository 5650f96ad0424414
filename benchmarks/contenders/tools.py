"""Programs that are not Python. Each returns the peak memory of the tool."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import threading
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.model import KIB, MIB, Job


def curl(job: Job) -> int:
    """The whole image, holes included."""
    if job.unix_socket:
        url = f"http://localhost{urlsplit(job.url).path}"
        options = ["--unix-socket", job.unix_socket]
    else:
        url = job.url
        options = ["--cacert", job.cafile]
    return _run("curl", "--silent", "--fail", *options, "--output", job.target, url)


def nbdcopy(job: Job) -> int:
    """From the NBD server that stands behind the daemon: the limit, without HTTP."""
    target = "null:" if job.target == "/dev/null" else job.target
    return _run("nbdcopy", f"nbd+unix:///?socket={job.nbd_socket}", target)


def gnu_tar(job: Job) -> int:
    """Through a pipe: GNU tar reads nothing when it sees that the archive is /dev/null."""
    source = Path(job.source)
    with open(job.target, "wb") as out, subprocess.Popen(["cat"], stdin=-1, stdout=out) as cat:
        assert cat.stdin is not None
        with cat.stdin:
            command = ["tar", "-cS", "-f-", "-C", str(source.parent), source.name]
            return _run(*command, stdout=cat.stdin.fileno())


def sha256sum(job: Job) -> int:
    """The whole tar as one."""
    with open(job.target, "wb") as out:
        return _run("sha256sum", job.source, stdout=out.fileno())


def line(job: Job) -> None:
    """One TCP connection, with nothing but bytes: what the line gives."""
    buffer = bytearray(MIB)
    url = urlsplit(job.url)
    with socket.create_connection((url.hostname, url.port)) as connection:
        while connection.recv_into(buffer):
            pass


def _run(*command: str, stdout: int | None = None) -> int:
    with subprocess.Popen(command, stdout=stdout) as process:
        ended = threading.Event()
        peaks = [0]

        def sample() -> None:
            # A peak only grows, so the last look before the end is (almost) the peak.
            while not ended.wait(0.02):
                # A process that has ended has no memory left to tell of.
                with contextlib.suppress(OSError):
                    status = Path(f"/proc/{process.pid}/status").read_text()
                    peaks.extend(int(kib) * KIB for kib in re.findall(r"VmHWM:\s*(\d+)", status))

        sampler = threading.Thread(target=sample)
        sampler.start()
        code = process.wait()
        ended.set()
        sampler.join()
    if code:
        raise subprocess.CalledProcessError(code, command)
    return max(peaks)
