"""Which contenders meet on which disk, and what we want to come of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from benchmarks.model import ALL_OF_A_BACKUP, KIB, MIB, Contender, Table

STREAM = "imageio, one stream"
DOWNLOAD = "client.download"
UPLOAD = "client.upload"
CURL = "curl, whole image"
NBDCOPY = "nbdcopy"
GNU_TAR = "GNU tar -cS"
TCP = "plain TCP"
SHA256SUM = "sha256sum of the tar"
SERVER_HASH = "the server's /checksum"
EACH = "tapestream, one copy each"
CLIENT = "import ovirt_imageio.client"
NOTHING = "nothing"
SCRIPT = "a script with imageio's client"
TO_NULL = "the same tar into /dev/null"
FROM_FILE = "the same tar from a file"

OURS = "tapestream"
OURS_ALL = "tapestream, all that a backup imports"
OURS_NAMES = "tapestream, the names alone"
OURS_PLAIN = "tapestream, no digests"
OURS_VERIFY = "tapestream, verify"
TO_TAPE = "tapestream to the drive"
FROM_TAPE = "tapestream from the drive"
OURS_JOINED = "tapestream, gaps joined"

DISKS = {
    "contiguous": "a contiguous disk",
    "fragmented": "a fragmented disk (64 KiB data, 64 KiB hole)",
    "filesystem": "an ext4 file system",
    "scattered": "scattered changes (64 KiB data, 2 MiB hole)",
}
# The slow peers need seconds for so much of a fragmented disk.
PARTS = {
    "contiguous": "contiguous",
    "fragmented": "fragmented/2",
    "filesystem": "filesystem/4",
    "scattered": "scattered/8",
}
# Where even that takes too long.
LESS = {**PARTS, "fragmented": "fragmented/4"}
# So long that the start of a process hardly counts.
LONG = "contiguous*4"
CHANNELS = {"unix": "unix socket", "tls": "TLS"}
SERVERS = {
    "fresh": "a new qemu-nbd each time",
    "warm": "a qemu-nbd that has served",
    "vm-first": "first backup after power-on",
    "vm-later": "later backup",
}


def short(label: str) -> str:
    """The row of a contender on a quarter of the disk."""
    return f"{label}, a quarter"


def _one_stream() -> tuple[Contender, ...]:
    """Us, and the peer that all backups are compared with."""
    return (
        Contender(OURS_PLAIN, "ours.backup", {"checksum": None}, "tape"),
        Contender(OURS, "ours.backup", {"checksum": "sha256"}, "tape"),
        Contender(STREAM, "imageio.stream", produces="raw"),
    )


def _backup(disk: str, channel: str, server: str) -> Table:
    contenders = [*_one_stream()]
    if disk == "contiguous":
        contenders += [
            replace(c, label=short(c.label), disk=PARTS["contiguous"]) for c in _one_stream()
        ]
        if channel == "unix":
            contenders.append(Contender(NBDCOPY, "tools.nbdcopy", produces="raw", needs="nbdcopy"))
    if disk == "fragmented":
        contenders.append(Contender(CURL, "tools.curl", produces="raw", needs="curl"))
    if disk == "filesystem":
        contenders.append(Contender(DOWNLOAD, "imageio.download", produces="qcow2"))
    return Table(
        f"backup-{disk}/{channel}-{server}",
        f"Backup of {DISKS[disk]}, {CHANNELS[channel]}, {SERVERS[server]}",
        "Backup",
        LONG if disk == "contiguous" else PARTS[disk],
        tuple(contenders),
        STREAM,
        tls=channel == "tls",
        server=server,
    )


def _vm(channel: str, server: str) -> Table:
    return Table(
        f"backup-vm/{channel}-{server.removeprefix('vm-')}",
        f"Backup of a running VM's disk, {CHANNELS[channel]}, {SERVERS[server]}",
        "Backup",
        PARTS["contiguous"],
        _one_stream(),
        STREAM,
        tls=channel == "tls",
        server=server,
    )


def _small(changes: int, channel: str) -> Table:
    what = f"{changes or 'no'} changes"
    return Table(
        f"backup-small/{channel}-{changes}",
        f"Incremental backup of a disk of 100 GiB with {what}, {CHANNELS[channel]}",
        "Small",
        f"{changes}",
        (
            Contender(OURS, "scripts.ours", produces="tape"),
            Contender(SCRIPT, "scripts.imageio", produces="raw"),
        ),
        SCRIPT,
        tls=channel == "tls",
        least_rounds=9,
    )


def _restore(disk: str, channel: str) -> Table:
    joined = Contender(OURS_JOINED, "restores.restore", {"max_gap": 128 * KIB}, "disk")
    return Table(
        f"restore-{disk}/{channel}",
        f"Restore of {DISKS[disk]}, {CHANNELS[channel]}",
        "Restore",
        LESS[disk],
        (
            Contender(OURS, "restores.restore", produces="disk"),
            *([] if disk == "contiguous" else [joined]),
            Contender(STREAM, "uploads.stream", produces="disk"),
            Contender(UPLOAD, "uploads.upload", produces="disk"),
        ),
        UPLOAD,
        tls=channel == "tls",
    )


def _local(disk: str) -> Table:
    return Table(
        f"local-raw/{disk}",
        f"Local raw image of {DISKS[disk]} into a pipe",
        "Local",
        PARTS[disk],
        (
            Contender(OURS_PLAIN, "local.pipe", {"checksum": None}, "tape"),
            Contender(OURS, "local.pipe", {"checksum": "sha256"}, "tape"),
            Contender(GNU_TAR, "tools.gnu_tar", produces="gnu"),
        ),
        GNU_TAR,
    )


def _verify() -> Table:
    return Table(
        "verify/contiguous",
        "Reading a tar of a contiguous disk back, to check it",
        "TarOfDisk",
        PARTS["contiguous"],
        (
            Contender(OURS_VERIFY, "checks.verify_tar"),
            Contender("tapestream, verify=False", "checks.read_tar", {"verify": False}),
            Contender("tapestream, compare with transfer", "checks.compare_with_transfer"),
            Contender(SHA256SUM, "tools.sha256sum", needs="sha256sum"),
        ),
        SHA256SUM,
    )


def _tape(checksum: str | None, variant: str, what: str) -> Iterator[Table]:
    """What the way to a tape costs, and back: with a double that takes no time."""
    yield Table(
        f"tape-write/{variant}",
        f"A disk in memory to a drive that takes no time, {what}",
        "NoDrive",
        "",
        (
            Contender(TO_TAPE, "tape.write_tape", {"checksum": checksum}, "tape"),
            Contender(TO_NULL, "tape.write_file", {"checksum": checksum}, "tape"),
        ),
        TO_NULL,
    )
    options = {"verify": checksum is not None}
    yield Table(
        f"tape-read/{variant}",
        f"Reading it back from a drive that takes no time, {what}",
        "NoDrive",
        "",
        (
            Contender(FROM_TAPE, "tape.read_tape", options),
            Contender(FROM_FILE, "tape.read_file", options),
        ),
        FROM_FILE,
    )


def _block_hash(disk: str) -> Table:
    return Table(
        f"block-hash/{disk}",
        f"The block hash of {DISKS[disk]}, unix socket",
        "BlockHash",
        PARTS[disk],
        (
            Contender("tapestream, from what it reads", "checks.hash_disk", produces="hash"),
            Contender(SERVER_HASH, "checks.ask_server", produces="hash"),
            Contender("client.checksum, local image", "imageio.checksum", produces="hash"),
        ),
        SERVER_HASH,
    )


def _chain() -> Table:
    return Table(
        "restore-chain/unix",
        "Restore of a full backup and 6 incremental ones, each of 15 % of the disk, unix socket",
        "Chain",
        "contiguous/4",
        (
            Contender("tapestream, restore_chain", "restores.restore_all", produces="disk"),
            Contender(EACH, "restores.restore_each", produces="disk"),
            Contender("tapestream, merge_chain to a tar", "restores.merge", produces="tape"),
        ),
        EACH,
    )


def gap_label(gap: int) -> str:
    """The row of a fixed gap on the line of 1 Gbit/s."""
    return f"max_gap {gap // KIB} KiB"


GAPS = (0, 64 * KIB, MIB)


def _lines() -> Iterator[Table]:
    plain = Contender(TCP, "tcp.line")
    stream = Contender(STREAM, "imageio.stream", produces="raw")
    ours = Contender(OURS, "ours.backup", produces="tape")
    yield Table(
        "line-1gbit/contiguous",
        "Backup of a contiguous disk over a line of 1 Gbit/s, TLS",
        "Line",
        "contiguous/4",
        (ours, stream, plain),
        STREAM,
        tls=True,
    )
    fixed = (
        Contender(gap_label(gap), "ours.backup", {"max_gap": gap}, "tape", x=gap) for gap in GAPS
    )
    yield Table(
        "line-1gbit/fragmented",
        "Backup of a fragmented disk over a line of 1 Gbit/s, TLS",
        "Line",
        LESS["fragmented"],
        (ours, *fixed, stream),
        STREAM,
        tls=True,
        least_rounds=5,
    )


def _curve(  # noqa: PLR0917
    name: str,
    title: str,
    stage: str,
    contenders: Sequence[Contender],
    axis: str,
    disk: str = "",
    *,
    tls: bool = False,
    most_rounds: int = 100,
) -> Table:
    first = contenders[0].label
    return Table(
        name, title, stage, disk, tuple(contenders), first, tls, axis, most_rounds=most_rounds
    )


def _extents(action: str, title: str) -> Table:
    points = [
        Contender(f"{10**n:,}", f"synthetic.{action}_tar", x=10**n, produces="tape")
        for n in (4, 5, 6)
    ]
    name = f"scale-extents/{action}"
    return _curve(name, title, "ManyExtents", points, "extents", most_rounds=1)


def _sizes() -> Table:
    points = [Contender(f"{n} GiB", "ours.backup", x=n) for n in (1, 16)]
    title = "Backup of growing disks, unix socket"
    return _curve("scale-size/unix", title, "Sizes", points, "GiB", most_rounds=1)


def _imports() -> Table:
    codes = {
        NOTHING: "",
        OURS_NAMES: "from tapestream import ImageioHTTPSource, TarStreamSink, copy",
        OURS_ALL: ALL_OF_A_BACKUP,
        CLIENT: "import ovirt_imageio.client",
    }
    contenders = tuple(
        Contender(label, "scripts.code", {"code": code}) for label, code in codes.items()
    )
    title = "Imports in a fresh interpreter"
    # They take so little time that whatever else the machine does changes a few of them much.
    return Table("import/fresh", title, "Imports", "", contenders, CLIENT, least_rounds=25)


TABLES: tuple[Table, ...] = (
    *(
        _backup(disk, channel, server)
        for disk in DISKS
        for channel in CHANNELS
        for server in ("fresh", "warm")
    ),
    *(_vm(channel, server) for channel in CHANNELS for server in ("vm-first", "vm-later")),
    *(_small(changes, channel) for changes in (1000, 0) for channel in CHANNELS),
    _restore("contiguous", "unix"),
    _restore("contiguous", "tls"),
    _restore("fragmented", "unix"),
    _restore("filesystem", "unix"),
    _chain(),
    _verify(),
    *_tape(None, "plain", "no digests"),
    *_tape("sha256", "sha256", "sha256"),
    _block_hash("filesystem"),
    _local("contiguous"),
    _local("filesystem"),
    *_lines(),
    _imports(),
    _extents("write", "Backup of made-up disks by number of extents"),
    _extents("read", "Reading their tars back"),
    _sizes(),
)
