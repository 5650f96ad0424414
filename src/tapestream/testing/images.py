"""Makes, serves, fills and compares disk images for tests and demos, with the qemu tools."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .._process import OfThisProcess
from .._shown import short_repr
from .._typing import Self
from ..arguments import path as checked_path

_START_TIMEOUT = 30.0
# At its end, qemu-nbd writes back what it has cached: that may take long.
_STOP_TIMEOUT = 60.0
_STOP_AGAIN = 0.1


class ImageServer(OfThisProcess):
    """A qemu-nbd process that serves one image. The end of its context ends it.

    It can be killed and started again. It then serves the image at the same URL:

        with ImageServer(path) as server:
            ...  # server.url
            server.kill()
            server.start()

    Args:
        path: The image.
        format: Its format, "qcow2" or "raw".
        read_only: Refuse writes.
        bitmap: Export this dirty bitmap of the image, for dirty extents.
        detect_zeroes: Turn writes of zeros into holes.

    Raises:
        UsageError: No file can have this path.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        format: str = "qcow2",  # noqa: A002 - as the qemu tools call it
        read_only: bool = True,
        bitmap: str | None = None,
        detect_zeroes: bool = False,
    ) -> None:
        self._options = [
            "--persistent",
            "--shared=8",  # as oVirt's vdsm does
            f"--format={format}",
            "--cache=writeback",
            "--discard=unmap",
        ]
        if read_only:
            self._options.append("--read-only")
        if bitmap is not None:
            self._options.append(f"--bitmap={bitmap}")
        if detect_zeroes:
            self._options.append("--detect-zeroes=unmap")
        self._path = _absolute("path", path)
        # A unix socket's path is limited to 107 bytes, and the image's directory may be deep.
        self._directory = tempfile.TemporaryDirectory(prefix="ts-")
        self._sock = Path(self._directory.name, "nbd")
        self._log_file = Path(self._directory.name, "log")
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return short_repr(self, str(self._path))

    @property
    def url(self) -> str:
        """The URL of the export, "nbd:unix:PATH"."""
        return f"nbd:unix:{self._sock}"

    @property
    def pid(self) -> int:
        """Id of qemu-nbd's process, to send it signals; RuntimeError unless it was started."""
        if self._process is None:
            raise RuntimeError("qemu-nbd is not running: call start() first")
        return self._process.pid

    def start(self) -> None:
        """Start qemu-nbd, and return when it accepts connections.

        Raises:
            RuntimeError: qemu-nbd is not installed, or did not start. Nothing is left running.
        """
        command = [_find_tool("qemu-nbd"), f"--socket={self._sock}", *self._options]
        with self._log_file.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, self._path],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C must not end qemu-nbd: clients that clean up still need the image.
                start_new_session=True,
            )
        try:
            _wait_for_socket(self._process, self._sock)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End qemu-nbd, which writes back what it has cached; does nothing when it does not run.

        Raises:
            RuntimeError: It had died already, or failed; the message ends with its output.
        """
        process, self._process = self._process, None
        if process is not None:
            _stop(process, self._log_file)

    def kill(self) -> None:
        """End qemu-nbd by SIGKILL: what it has cached and not flushed is lost."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
        self._sock.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._directory.cleanup()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        try:
            self.stop()
        finally:
            self._directory.cleanup()


@contextlib.contextmanager
def serve_image(
    path: str | os.PathLike[str],
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
        UsageError: No file can have this path.
        RuntimeError: qemu-nbd is not installed, did not start, or died before the end of the
            block; the message ends with its output. Nothing is left running.
    """
    with ImageServer(
        path, format=format, read_only=read_only, bitmap=bitmap, detect_zeroes=detect_zeroes
    ) as server:
        yield server.url


def create_image(
    path: str | os.PathLike[str],
    size: int,
    format: str = "qcow2",  # noqa: A002
) -> None:
    """Create an empty image.

    Args:
        path: The image.
        size: Size of its disk in bytes.
        format: "qcow2", "raw", or another format of qemu-img.

    Raises:
        UsageError: No file can have this path.
        RuntimeError: qemu-img is not installed, or failed.
    """
    _run("qemu-img", "create", "-q", "-f", format, _absolute("path", path), str(size))


def image_info(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what `qemu-img info` reports about an image.

    Args:
        path: The image.

    Raises:
        UsageError: No file can have this path.
        RuntimeError: qemu-img is not installed, or failed.
    """
    info: dict[str, Any] = json.loads(
        _run("qemu-img", "info", "--force-share", "--output=json", _absolute("path", path)).stdout
    )
    return info


def virtual_size(path: str | os.PathLike[str]) -> int:
    """Return the size in bytes of the disk that an image holds.

    Args:
        path: The image.

    Raises:
        UsageError: No file can have this path.
        RuntimeError: qemu-img is not installed, or failed.
    """
    return int(image_info(path)["virtual-size"])


def compare_images(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
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
        strict: Also distinguish sizes and allocation. Otherwise a hole equals zeros, and the longer
            image may end in zeros.

    Raises:
        UsageError: No file can have one of the paths.
        AssertionError: They differ; the message says where.
        RuntimeError: qemu-img is not installed, or failed.
    """
    options = ["-s"] if strict else []
    formats = ["-f", a_format, "-F", b_format]
    images = _absolute("a", a), _absolute("b", b)
    result = _run("qemu-img", "compare", *options, *formats, *images, accept=(0, 1))
    if result.returncode != 0:
        raise AssertionError(f"{a} and {b} differ: {_output(result)}")


def write_pattern(
    path: str | os.PathLike[str],
    commands: Sequence[str],
    format: str = "qcow2",  # noqa: A002
) -> None:
    """Run commands of qemu-io on an image.

    Args:
        path: The image.
        commands: The commands, such as "write -P 1 0 64k" or "write -z 1m 1m".
        format: The format of the image.

    Raises:
        UsageError: No file can have this path.
        RuntimeError: qemu-io is not installed, or a command failed.
    """
    arguments = [argument for command in commands for argument in ("-c", command)]
    _run("qemu-io", "-f", format, *arguments, _absolute("path", path))


def _find_tool(name: str) -> str:
    tool = shutil.which(name)
    if tool is None:
        raise RuntimeError(f"{name} not found: install qemu-utils")
    return tool


def _absolute(name: str, path: str | os.PathLike[str]) -> str:
    """An absolute path: the qemu tools take it for nothing else, such as an option or a URL."""
    return str(Path(checked_path(name, path)).absolute())


def _run(
    name: str, *arguments: str, accept: Sequence[int] = (0,)
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
        command = " ".join(arguments)
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
    deadline = time.monotonic() + _STOP_TIMEOUT
    code = None
    while code is None:
        # A SIGTERM is lost if it comes when qemu-nbd listens already, but is not in its loop yet.
        if time.monotonic() < deadline:
            process.terminate()
        else:
            process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(_STOP_AGAIN)
    if died or code != 0:
        message = log_file.read_text(errors="replace").strip()
        raise RuntimeError(f"qemu-nbd ended with code {code}: {message}")
