"""What a benchmark is made of: tables of contenders, which get jobs and report outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

KIB, MIB, GIB = 1024, 1024**2, 1024**3

# Bytes of data of a whole disk: as large as a run of all cases in half an hour allows.
DEFAULT_SIZE = GIB
# Stands for importing what a backup has imported at its end.
ALL_OF_A_BACKUP = "ALL OF A BACKUP"
# What is transferred by the runs that are looked at, and not timed.
CHECKED_SIZE = 16 * MIB


@dataclass(frozen=True)
class Contender:
    """One row of a table.

    Attributes:
        label: Its name in the table.
        program: What runs in the fresh process: MODULE.FUNCTION in `benchmarks.contenders`.
        options: Given to that function as they are.
        produces: What it writes to `Job.target`, so that it can be checked: "tape" is a tar of
            ours, "gnu" one of GNU tar, "raw" and "qcow2" are images, "disk" is the disk behind the
            ticket, "" cannot be looked at.
        needs: The tool that it runs; without it the row is left out.
        x: Its place on the x axis, where the table is a curve.
        disk: A disk of its own; "" for that of the table.
    """

    label: str
    program: str
    options: Mapping[str, Any] = field(default_factory=dict)
    produces: str = ""
    needs: str = ""
    x: float = 0
    disk: str = ""


@dataclass(frozen=True)
class Table:
    """Contenders that are run in turn, on the same disk and over the same channel.

    Attributes:
        name: CASE/VARIANT.
        title: Its heading.
        stage: What it is run on: a class of `benchmarks.stages`.
        disk: A disk of `benchmarks.disks`; "" where the stage brings its own.
        server: What serves the disk of a backup: a key of `benchmarks.servers.SERVERS`.
        contenders: The rows.
        baseline: Label of the row that all others are compared to.
        tls: Over TLS and TCP; otherwise over the unix socket.
        axis: What `Contender.x` means, where the table is a curve.
        least_rounds: Fewer rounds than this tell nothing.
        most_rounds: More rounds than this take too long.
    """

    name: str
    title: str
    stage: str
    disk: str
    contenders: tuple[Contender, ...]
    baseline: str
    tls: bool = False
    axis: str = ""
    server: str = "fresh"
    least_rounds: int = 1
    most_rounds: int = 100

    @property
    def case(self) -> str:
        """What it is called on the command line."""
        return self.name.partition("/")[0]


@dataclass(frozen=True)
class Job:
    """What a contender's process is told, on its standard input, as JSON.

    Attributes:
        program: See `Contender`.
        url: Of the transfer.
        size: Of its disk, in bytes.
        cafile: To verify the server with; "" not to.
        unix_socket: Of the server; "" to go over TLS.
        nbd_socket: What stands behind the server.
        source: The file to read, where it is not the transfer that is read.
        target: The file to write; /dev/null where only the time counts.
        options: See `Contender`.
    """

    program: str
    url: str = ""
    size: int = 0
    cafile: str = ""
    unix_socket: str = ""
    nbd_socket: str = ""
    source: str = ""
    target: str = "/dev/null"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a run of a contender took, as its parent process saw it.

    Attributes:
        began: When it began, in seconds of the monotonic clock.
        seconds: Wall time of the whole process, from its start to its end.
        cpu: User and system seconds, those of its child processes included.
        machine: The same of all processes of the machine, so of the servers, too.
        peak: Largest resident set of the process, in bytes.
    """

    began: float
    seconds: float
    cpu: float
    machine: float
    peak: int
