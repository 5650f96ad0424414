"""Disk images for tests and demos: made, served, filled and compared by the qemu tools."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_START_TIMEOUT = 30.0
# At its end qemu-nbd writes back what it has cached.
_STOP_TIMEOUT = 60.0


@contextlib.contextmanager
def serve_image(
    path: Path,
    *,
    format: str = "qcow2",  # noqa: A002 - as the qemu tools call it
    read_only: bool = True,
    bitmap: str | None = None,
    detect_zeroes: bool = False,
) -> Iterator[str]:
    """Serve an image with qemu-nbd for the length of the block.

    Args:
        path: The image.
        format: Its format, "qcow2" or "raw".
        read_only: Refuse writes.
        bitmap: Export this dirty bitmap of the image, for dirty extents.
        detect_zeroes: Turn writes of zeros into holes.

    Yields:
        The URL of the export, "nbd:unix:PATH".

    Raises:
        RuntimeError: qemu-nbd is not installed, did not start, or died before the end of the
            block; the message ends with what it said. Nothing is left running.
    """
    with tempfile.TemporaryDirectory(prefix="ts-") as directory:
        # A unix socket's path is limited to 107 bytes, and the image's directory may be deep.
        sock = Path(directory, "nbd")
        log_file = Path(directory, "log")
        command = [
            _find_tool("qemu-nbd"),
            f"--socket={sock}",
            "--persistent",
            "--shared=16",
            f"--format={format}",
            "--cache=writeback",
            "--discard=unmap",
        ]
        if read_only:
            command.append("--read-only")
        if bitmap is not None:
            command.append(f"--bitmap={bitmap}")
        if detect_zeroes:
            command.append("--detect-zeroes=unmap")
        command.append(str(path.absolute()))
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for us: the image must outlive the clients that clean up.
                start_new_session=True,
            )
        try:
            _wait_for_socket(process, sock)
            yield f"nbd:unix:{sock}"
        finally:
            _stop(process, log_file)


def create_image(path: Path, size: int, format: str = "qcow2") -> None:  # noqa: A002
    """Create an empty image of `size` bytes.

    Raises:
        RuntimeError: qemu-img is not installed, or failed.
    """
    _run("qemu-img", "create", "-q", "-f", format, path.absolute(), str(size))


def image_info(path: Path) -> dict[str, Any]:
    """Return what `qemu-img info` tells about an image.

    Raises:
        RuntimeError: qemu-img is not installed, or failed.
    """
    info: dict[str, Any] = json.loads(
        _run("qemu-img", "info", "--force-share", "--output=json", path.absolute()).stdout
    )
    return info


def virtual_size(path: Path) -> int:
    """Return the size in bytes of the disk that an image holds.

    Raises:
        RuntimeError: qemu-img is not installed, or failed.
    """
    return int(image_info(path)["virtual-size"])


def compare_images(
    a: Path,
    b: Path,
    *,
    a_format: str = "qcow2",
    b_format: str = "qcow2",
    strict: bool = False,
) -> None:
    """Check that two images hold the same disk.

    Args:
        a: One image.
        b: The other.
        a_format: The format of `a`.
        b_format: The format of `b`.
        strict: Also tell sizes and allocation apart. Otherwise a hole equals zeros, and the longer
            image may end in zeros.

    Raises:
        AssertionError: They differ; the message says where.
        RuntimeError: qemu-img is not installed, or failed.
    """
    options = ["-s"] if strict else []
    formats = ["-f", a_format, "-F", b_format]
    result = _run(
        "qemu-img", "compare", *options, *formats, a.absolute(), b.absolute(), accept=(0, 1)
    )
    if result.returncode != 0:
        raise AssertionError(f"{a} and {b} differ: {_output(result)}")


def write_pattern(path: Path, commands: Sequence[str], format: str = "qcow2") -> None:  # noqa: A002
    """Run qemu-io commands on an image, such as "write -P 1 0 64k" or "write -z 1m 1m".

    Raises:
        RuntimeError: qemu-io is not installed, or a command failed.
    """
    arguments = [argument for command in commands for argument in ("-c", command)]
    _run("qemu-io", "-f", format, *arguments, path.absolute())


def _find_tool(name: str) -> str:
    tool = shutil.which(name)
    if tool is None:
        raise RuntimeError(f"{name} not found: install qemu-utils")
    return tool


def _run(
    name: str, *arguments: str | Path, accept: Sequence[int] = (0,)
) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [_find_tool(name), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if result.returncode not in accept:
        command = " ".join(map(str, arguments))
        raise RuntimeError(f"{name} {command} failed: {_output(result)}")
    return result


def _output(result: subprocess.CompletedProcess[str]) -> str:
    return (result.stdout + result.stderr).strip()


def _wait_for_socket(process: subprocess.Popen[bytes], path: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT
    while process.poll() is None:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"qemu-nbd accepted no connection for {_START_TIMEOUT:.0f} s")
        time.sleep(0.01)
    raise RuntimeError("qemu-nbd did not start")


def _stop(process: subprocess.Popen[bytes], log_file: Path) -> None:
    died = process.poll() is not None
    process.terminate()
    try:
        code = process.wait(_STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    if died or code != 0:
        message = log_file.read_text(errors="replace").strip()
        raise RuntimeError(f"qemu-nbd ended with code {code}: {message}")
