"""Run the commands that docs/command-line.md shows, in a real terminal, and write what they show.

Usage: captures.py

Each block after a line such as `<!-- terminal: 80 columns -->` holds commands, each after "$ ", and
what a terminal of that width showed. `after 2 s` in that line means what it showed 2 seconds after
the last command, while that still ran. The commands run one after another in tmux, in a folder with
backups of a small archive. The server is a real imageio daemon. The tape drive is simulated: its
tapes are kept in a file from one command to the next, and somebody loads the next tape when one is
unloaded, and presses Enter.
"""

from __future__ import annotations

import os
import pickle
import random
import re
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

from tapestream import BackupInfo, Extent, TarStreamSink, copy
from tapestream.cli.main import main as tapestream
from tapestream.tape import TapeDrive
from tapestream.testing import (
    Cartridge,
    FakeDrive,
    ImageioDaemon,
    MemorySource,
    create_image,
    serve_image,
    write_pattern,
)

PAGE = Path(__file__).parents[1] / "command-line.md"
BLOCK = re.compile(
    r"(?P<line><!-- terminal: (?P<width>\d+) columns(?:, after (?P<after>\d+) s)? -->)\n\n"
    r"```text\n(?P<text>.*?)```\n",
    re.DOTALL,
)
MIB = 1024**2
DEVICE = "/dev/nst0"
TAPES = 2
# The prompt of the shell, by which the script sees that a command has ended.
PROMPT = "done> "


class Simulation:
    """A simulated tape drive and its tapes, which are kept in a file between two commands."""

    def __init__(self, file: Path) -> None:
        self._file = file
        if file.exists():
            self.drive, self._shelf = pickle.loads(file.read_bytes())
        else:
            self._shelf = [Cartridge(100 * MIB, 24 * MIB) for _ in range(TAPES)]
            self.drive = FakeDrive(self._shelf[0])
            for number in range(1, TAPES):
                with TapeDrive(DEVICE, open_device=self.drive.open) as drive:
                    self.drive.swap(self._shelf[number])
                    drive.write_label(f"VM{number + 1:04}")
            self.drive.swap(self._shelf[0])

    def operate(self) -> None:
        """Load the next tape whenever one was unloaded."""
        while True:
            if not self.drive.loaded and self.drive.cartridge is not None:
                time.sleep(1)
                number = self._shelf.index(self.drive.cartridge)
                self.drive.swap(self._shelf[(number + 1) % TAPES])
            time.sleep(0.05)

    def keep(self) -> None:
        """Write the file."""
        new = self._file.with_suffix(".new")
        new.write_bytes(pickle.dumps((self.drive, self._shelf)))
        new.rename(self._file)


def run_command(file: Path, arguments: list[str]) -> int:
    """What `tapestream` does in the terminal: with the simulated drive for /dev/nst0."""
    simulation = Simulation(file)
    threading.Thread(target=simulation.operate, daemon=True).start()
    tape = TapeDrive(DEVICE, open_device=simulation.drive.open)
    try:
        return tapestream(arguments, drives={DEVICE: tape})
    finally:
        simulation.keep()


def make_archive(folder: Path) -> None:
    """Backups of two VMs: a chain, of which the last is not complete, and a full backup."""
    folder.mkdir()
    content = random.Random(1).randbytes(8 * MIB)
    monday = datetime(2026, 11, 16, 22, 30, tzinfo=timezone.utc)
    for vm, days in (("mail", 4), ("web", 1)):
        for day in range(days):
            time_of = monday + timedelta(days=day)
            info = BackupInfo(
                vm_name=vm,
                disk_name=f"{vm}_Disk1",
                disk_id=f"{vm}-1",
                checkpoint_id=f"{vm}-{day}",
                parent_checkpoint_id=f"{vm}-{day - 1}" if day else None,
                created=time_of,
            )
            changed = Extent(day * MIB, MIB, dirty=True)
            rest = (day + 1) * MIB
            extents = [
                Extent(0, day * MIB, dirty=False),
                changed,
                Extent(rest, len(content) - rest, dirty=False),
            ]
            tar = folder / f"{vm}_{time_of:%Y-%m-%d}.tar"
            with (
                MemorySource(content, extents if day else None, info=info) as source,
                TarStreamSink(tar) as sink,
            ):
                copy(source, sink)
    last = folder / "mail_2026-11-19.tar"
    os.truncate(last, last.stat().st_size // 2)


class Terminal:
    """A shell in tmux."""

    def __init__(self, work: Path, width: int) -> None:
        # A server of its own: the last one may still be ending.
        self._socket = Path(tempfile.mkdtemp(dir=work)) / "tmux"
        path = f"{work / 'bin'}:{os.environ['PATH']}"
        shell = (
            f"cd {shlex.quote(str(work / 'home'))}; export LC_ALL=C.UTF-8 TZ=UTC "
            f"PATH={shlex.quote(path)} PS1={shlex.quote(PROMPT)}; exec bash --norc"
        )
        size = ("-x", str(width), "-y", "50")
        self._tmux("-f", "/dev/null", "new-session", "-d", *size, shell)

    def _tmux(self, *words: str) -> str:
        command = ("tmux", "-S", str(self._socket), *words)
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def shown(self) -> str:
        """What is on the screen."""
        return self._tmux("capture-pane", "-p").rstrip("\n")

    def run(self, command: str, after: float | None) -> str:
        """Type a command, and return what it shows: at its end, or after this many seconds."""
        self._wait()
        self._tmux("send-keys", "-l", "clear\n")
        self._wait()
        self._tmux("send-keys", "-l", f"{command}\n")
        if after is not None:
            time.sleep(after)
            text = self.shown()
            self._tmux("send-keys", "C-c")
            self._wait()
        else:
            self._wait()
            text = self.shown().removesuffix(PROMPT.strip()).rstrip("\n")
        return without_command(text, PROMPT + command)

    def _wait(self) -> None:
        """Wait for the shell, and press Enter when somebody is asked to."""
        answered = 0
        time.sleep(0.3)
        while not (shown := self.shown()).endswith(PROMPT.strip()):
            asked = shown.count("press Enter:")
            if asked > answered:
                time.sleep(1.5)  # the operator loads the tape
                self._tmux("send-keys", "Enter")
                answered = asked
            time.sleep(0.1)

    def close(self) -> None:
        """End it."""
        self._tmux("kill-server")


def without_command(screen: str, typed: str) -> str:
    """What a screen shows after the command, which may take several lines itself."""
    lines = screen.split("\n")
    while lines and typed.startswith(lines[0]) and lines[0]:
        typed = typed.removeprefix(lines.pop(0))
    return "\n".join(lines)


def captured(block: re.Match[str], work: Path) -> str:
    """A block of the page, with what the terminal shows now."""
    commands = re.findall(r"^\$ (.*)$", block["text"], re.MULTILINE)
    terminal = Terminal(work, int(block["width"]))
    try:
        text = ""
        for command in commands:
            is_last = command == commands[-1]
            after = float(block["after"]) if block["after"] and is_last else None
            text += f"$ {command}\n{terminal.run(command, after)}\n"
    finally:
        terminal.close()
    return f"{block['line']}\n\n```text\n{text}```\n"


def capture_all(work: Path) -> None:
    """Make the environment of the commands, run them, and write the page."""
    home, program = work / "home", work / "bin" / "tapestream"
    home.mkdir()
    program.parent.mkdir()
    words = (sys.executable, __file__, "--run", str(work / "tapes"))
    program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    program.chmod(0o755)
    make_archive(home / "backups")
    image, noise = work / "disk.qcow2", work / "noise"
    size = 2048 * MIB
    create_image(image, size)
    noise.write_bytes(random.Random(2).randbytes(10 * MIB))
    write_pattern(image, [f"write -s {noise} {n * 128}M 10M" for n in range(12)])
    with ImageioDaemon(work / "imageio") as daemon, serve_image(image) as nbd_url:
        (home / "ca.pem").write_bytes(daemon.cafile.read_bytes())
        (home / "url").write_text(daemon.add_ticket(nbd_url, size, ops=["read"]))
        page = PAGE.read_text(encoding="utf-8")
        page = BLOCK.sub(lambda block: captured(block, work), page)
    PAGE.write_text(page, encoding="utf-8")


def main() -> None:
    """Write the page, or run one command for it."""
    if sys.argv[1:2] == ["--run"]:
        sys.exit(run_command(Path(sys.argv[2]), sys.argv[3:]))
    if len(sys.argv) > 1:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory(prefix="tapestream-captures-") as work:
        capture_all(Path(work))


if __name__ == "__main__":
    main()
