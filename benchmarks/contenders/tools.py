"""Programs that are not Python: their commands."""

from __future__ import annotations

import shlex
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.model import Job


def curl(job: Job) -> list[str]:
    """The whole image, holes included."""
    if job.unix_socket:
        url = f"http://localhost{urlsplit(job.url).path}"
        options = ["--unix-socket", job.unix_socket]
    else:
        url = job.url
        options = ["--cacert", job.cafile]
    return ["curl", "--silent", "--fail", *options, "--output", job.target, url]


def nbdcopy(job: Job) -> list[str]:
    """From the NBD server that stands behind the daemon: the limit, without HTTP."""
    target = "null:" if job.target == "/dev/null" else job.target
    return ["nbdcopy", f"nbd+unix:///?socket={job.nbd_socket}", target]


def gnu_tar(job: Job) -> list[str]:
    """Through a pipe: GNU tar reads nothing when it sees that the archive is /dev/null."""
    source = Path(job.source)
    tar = shlex.join(["tar", "-cS", "-f-", "-C", str(source.parent), source.name])
    return ["sh", "-c", f"{tar} | cat >{shlex.quote(job.target)}"]


def sha256sum(job: Job) -> list[str]:
    """The whole tar as one."""
    return ["sha256sum", job.source]
