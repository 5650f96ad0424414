"""`tapestream backup` and `restore` through a real daemon, and where the secret URL comes from."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tapestream import TarStreamSource
from tapestream.testing import ImageioDaemon

from .conftest import Disk, Week
from .program import call, run, start


def test_a_backup_to_a_file_and_back_to_an_image(
    disk: Disk, shared_week: Week, tmp_path: Path
) -> None:
    ovf = tmp_path / "vm.ovf"
    ovf.write_text("<vm/>")
    about = ["--vm=mail", "--disk=mail_Disk1", "--disk-id=disk-1", "--checkpoint=sunday"]
    server = ["--url-file", disk.url_file, "--cafile", disk.cafile]
    ended = run(
        "backup", *server, tmp_path / "a.tar", *about, "--attach", ovf, "--checksum", "crc32"
    )
    assert ended.status == 0, ended.err
    assert "a.tar: 3.0 MiB of data, of a disk of 8.0 MiB" in ended.out
    with TarStreamSource(tmp_path / "a.tar") as source:
        assert source.info.vm_name == "mail"
        assert source.info.checkpoint_id == "sunday"
        assert source.info.created is not None
        assert source.attachments == {"vm.ovf": b"<vm/>"}
        assert source.digest_name == "crc32"
    assert run("restore", tmp_path / "a.tar", tmp_path / "a.raw").status == 0
    assert (tmp_path / "a.raw").read_bytes() == shared_week.sunday


def test_a_backup_through_a_pipe_leaves_nothing_else_in_it(disk: Disk, tmp_path: Path) -> None:
    """Standard output is the tar; with --json, too, everything else goes to standard error."""
    read, write = os.pipe()
    os.write(write, disk.url.encode())
    os.close(write)
    for more in [], ["--json"]:
        where = ["--url-fd", str(read)] if not more else ["--url-env", "TRANSFER"]
        process = start(
            *["backup", *where, "-", "--cafile", disk.cafile, *more],
            pass_fds=[read],
            variables={"TRANSFER": disk.url},
        )
        stdout, stderr = process.communicate()
        assert process.returncode == 0, stderr
        (tmp_path / "piped.tar").write_bytes(stdout)
        assert run("verify", tmp_path / "piped.tar").status == 0
        assert (b"standard output: " in stderr) == (not more)
    os.close(read)


def test_a_file_in_a_folder_gets_a_name_that_says_what_it_is(disk: Disk, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    arguments = ["backup", "--url-file", disk.url_file, tmp_path / "folder", "--json"]
    ended = run(*arguments, "--cafile", disk.cafile, "--vm=mail", "--disk=Disk 1")
    assert ended.status == 0, ended.out
    (name,) = os.listdir(tmp_path / "folder")
    assert ended.result["target"] == str(tmp_path / "folder" / name)
    assert name.startswith("mail_Disk_1_")
    assert name.endswith("_full.tar")
    ended = run(*arguments, "--cafile", disk.cafile)
    assert ended.status == 64
    assert "--vm, --disk" in ended.result["hint"]


def test_a_fifo_can_be_the_target_and_the_source(
    disk: Disk, shared_week: Week, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = start("backup", disk.url, fifo, "--cafile", disk.cafile)
    assert run("restore", fifo, tmp_path / "a.raw").status == 0
    writer.communicate()
    assert writer.returncode == 0
    assert (tmp_path / "a.raw").read_bytes() == shared_week.sunday


def test_a_chain_from_a_folder_to_a_server(
    disk: Disk, shared_week: Week, daemon: ImageioDaemon
) -> None:
    hashes = daemon.log_file.read_text().count("CHECKSUM")
    ended = run(
        *["restore", shared_week.folder, "--url-file", disk.url_file, "--cafile", disk.cafile],
        "--check",
    )
    assert ended.status == 0, ended.err
    assert disk.image.read_bytes() == shared_week.monday
    assert daemon.log_file.read_text().count("CHECKSUM") == hashes + 1
    server = ["--url-file", disk.url_file, "--cafile", disk.cafile]
    assert call("compare", shared_week.folder, *server).status == 0
    assert "sunday.tar" in ended.err
    assert "monday.tar" in ended.err


def test_an_older_file_is_kept_unless_the_user_says_so(disk: Disk, tmp_path: Path) -> None:
    target = tmp_path / "a.tar"
    target.write_bytes(b"precious")
    arguments = ["backup", "--url-file", disk.url_file, target, "--cafile", disk.cafile]
    ended = run(*arguments)
    assert ended.status == 64
    assert "--overwrite" in ended.err
    assert target.read_bytes() == b"precious"
    assert run(*arguments, "--overwrite").status == 0
    assert run("verify", target).status == 0


class TestTheUrlIsShownNowhere:
    def test_by_a_backup_that_works_or_fails(
        self, disk: Disk, daemon: ImageioDaemon, tmp_path: Path
    ) -> None:
        ticket = disk.url.rpartition("/")[2]
        server = ["--url-file", disk.url_file, "--cafile", disk.cafile]
        texts = [run("backup", *server, tmp_path / "a.tar", "-v")]
        texts.append(run("extents", *server, "-v", "--json"))
        disk.url_file.write_text(disk.url.replace(ticket, f"{ticket}-unknown"))
        texts.append(run("backup", *server, tmp_path / "b.tar", "-v"))
        texts.append(run("restore", tmp_path / "a.tar", *server, "--json"))
        assert [ended.status for ended in texts] == [0, 0, 1, 1]
        assert not any(ticket in ended.out + ended.err for ended in texts)

    @pytest.mark.parametrize("content", ["", "two https://host/images/7a3f", "7a3f"])
    def test_if_there_is_none(self, tmp_path: Path, content: str) -> None:
        url_file = tmp_path / "url"
        url_file.write_text(content)
        ended = run("backup", "--url-file", url_file, tmp_path / "a.tar")
        assert ended.status == 64
        assert str(url_file) in ended.err
        assert "7a3f" not in ended.err.replace(str(url_file), "")


class TestASignalEndsTheWork:
    @pytest.mark.parametrize(
        ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
    )
    def test_and_leaves_nothing(
        self, disk: Disk, tmp_path: Path, number: signal.Signals, status: int
    ) -> None:
        with ExitStack() as stack:
            # The program ignores what its parent ignores: these tests may run under nohup.
            previous = signal.signal(number, signal.SIG_DFL)
            stack.callback(signal.signal, number, previous)
            self._end(disk, tmp_path, number, status)

    def _end(self, disk: Disk, tmp_path: Path, number: signal.Signals, status: int) -> None:
        folder = tmp_path / "folder"
        folder.mkdir()
        process = start(
            *["backup", "--url-file", disk.url_file, folder / "a.tar", "--json"],
            *["--cafile", disk.cafile, "--max-rate", "100k"],
        )
        assert process.stdout is not None
        while b'"data"' not in process.stdout.readline():
            pass
        process.send_signal(number)
        stdout, stderr = process.communicate()
        assert (process.returncode, stderr) == (status, b"")
        assert b"OperationCancelledError" in stdout
        assert os.listdir(folder) == []

    def test_also_while_it_waits_for_the_url(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "url")
        process = start("backup", "--url-file", tmp_path / "url", tmp_path / "a.tar")
        fd = os.open(tmp_path / "url", os.O_WRONLY)  # returns when the program has opened it
        time.sleep(0.1)  # it reads; if not yet, the signal ends it all the same
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        process.communicate()
        os.close(fd)

    def test_but_one_that_was_ignored_stays_ignored(self, disk: Disk, tmp_path: Path) -> None:
        """As a shell script starts it in the background, or nohup."""
        command = 'trap "" INT; exec "$@"'
        process = start(
            *["backup", "--url-file", disk.url_file, tmp_path / "a.tar", "--json"],
            *["--cafile", disk.cafile, "--max-rate", "3M"],
            prefix=["sh", "-c", command, "sh"],
        )
        assert process.stdout is not None
        while b'"data"' not in process.stdout.readline():
            pass
        process.send_signal(signal.SIGINT)
        process.communicate()
        assert process.returncode == 0


def test_a_reader_that_has_gone_ends_the_backup(disk: Disk) -> None:
    process = start("backup", "--url-file", disk.url_file, "-", "--cafile", disk.cafile)
    assert process.stdout is not None
    threading.Timer(0, process.stdout.close).run()
    _, stderr = process.communicate()
    assert process.returncode == 141
    first, hint = stderr.decode().splitlines()[-2:]
    assert first == "tapestream: cannot write standard output: Broken pipe"
    assert hint == "The reader of the pipe ended: its exit status and messages say why."
    assert b"Traceback" not in stderr


def test_a_server_that_is_gone_is_reported_long_before_the_end(tmp_path: Path) -> None:
    with socket.socket() as unused:  # bound, so that nobody else takes the port; nobody listens
        unused.bind(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{unused.getsockname()[1]}/images/7a3f"
        process = start(*["backup", "--url-env", "TRANSFER", "a.tar"], variables={"TRANSFER": url})
        assert process.stderr is not None
        line = process.stderr.readline().decode()
        is_running = process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate()
    assert "tapestream: warning: cannot connect to https://127.0.0.1" in line
    assert "trying again, up to 4 times" in line
    assert is_running
    assert process.returncode == 143
    assert b"warning" not in rest
    assert "7a3f" not in line


def test_a_file_that_is_passed_as_a_url_is_not_one(disk: Disk, tmp_path: Path) -> None:
    ended = call("backup", disk.url_file, tmp_path / "a.tar")
    assert ended.status == 64
    assert f"{disk.url_file} is not a URL" in ended.err
    assert "--url-file" in ended.err
