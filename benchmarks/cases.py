"""Which contenders meet on which disk, and what we want to come of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.model import KIB, MIB, Contender, Table

STREAM = "imageio, one stream"
LETTER = "proof of concept"
DOWNLOAD = "client.download"
UPLOAD = "client.upload"
NBDCOPY = "nbdcopy"
GNU_TAR = "GNU tar -cS"
TCP = "plain TCP"
BARE = "bare loop, sha256"
BARE_PLAIN = "bare loop, no digests"
SHA256SUM = "sha256sum of the tar"
SERVER_HASH = "the server's /checksum"
EACH = "tapestream, one copy each"
CLIENT = "import ovirt_imageio.client"
NOTHING = "nothing"
TO_NULL = "the same tar into /dev/null"
FROM_FILE = "the same tar from a file"

OURS = "tapestream"
OURS_BARE = "tapestream, no name used"
OURS_CRC32 = "tapestream, crc32"
OURS_HASHED = "tapestream, and block hash"
OURS_PLAIN = "tapestream, no digests"
OURS_READ = "tapestream, copy to DiscardSink"
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
# The slow peers need ten seconds for so much of a fragmented disk; of less, half of our time would
# be start-up.
PARTS = {
    "contiguous": "contiguous",
    "fragmented": "fragmented/2",
    "filesystem": "filesystem/2",
    "scattered": "scattered/4",
}
CHANNELS = {"unix": "unix socket", "tls": "TLS"}


def _backup(disk: str, channel: str) -> Table:
    contenders = [
        Contender(OURS_PLAIN, "ours.backup", {"checksum": None}, "tape"),
        Contender(OURS_CRC32, "ours.backup", {"checksum": "crc32"}, "tape"),
        Contender(OURS, "ours.backup", {"checksum": "sha256"}, "tape"),
        Contender(OURS_HASHED, "ours.backup", {"block_hash": True}, "tape"),
        Contender(STREAM, "imageio.stream", produces="raw"),
        Contender(LETTER, "letter.backup", produces="tar"),
        Contender(DOWNLOAD, "imageio.download", produces="qcow2"),
    ]
    if disk != "scattered":
        contenders.append(
            Contender("curl, whole image", "tools.curl", produces="raw", needs="curl")
        )
    if channel == "unix":
        contenders.append(Contender(NBDCOPY, "tools.nbdcopy", produces="raw", needs="nbdcopy"))
    if disk == "contiguous":
        contenders += [
            Contender(BARE_PLAIN, "bare.loop", {"digest": False}, "raw"),
            Contender(BARE, "bare.loop", {"digest": True}, "raw"),
        ]
    return Table(
        f"backup-{disk}/{channel}",
        f"Backup of {DISKS[disk]}, {CHANNELS[channel]}",
        "Backup",
        PARTS[disk],
        tuple(contenders),
        STREAM,
        tls=channel == "tls",
    )


def _restore(disk: str, channel: str) -> Table:
    return Table(
        f"restore-{disk}/{channel}",
        f"Restore of {DISKS[disk]}, {CHANNELS[channel]}",
        "Restore",
        PARTS[disk],
        (
            Contender(OURS, "ours.restore", produces="disk"),
            Contender(OURS_JOINED, "ours.restore", {"max_gap": 128 * KIB}, "disk"),
            Contender(STREAM, "imageio.stream_upload", produces="disk"),
            Contender(UPLOAD, "imageio.upload", produces="disk"),
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
            Contender(OURS_PLAIN, "ours.local", {"checksum": None}, "tape"),
            Contender(OURS, "ours.local", {"checksum": "sha256"}, "tape"),
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
            Contender(OURS_READ, "ours.read_tar"),
            Contender(OURS_VERIFY, "ours.verify_tar"),
            Contender("tapestream, verify=False", "ours.read_tar", {"verify": False}),
            Contender("tapestream, compare with transfer", "ours.compare_with_transfer"),
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
            Contender("tapestream, from what it reads", "ours.hash_disk", produces="hash"),
            Contender(SERVER_HASH, "ours.ask_server", produces="hash"),
            Contender("client.checksum, local image", "imageio.checksum", produces="hash"),
        ),
        SERVER_HASH,
    )


def _chain() -> Table:
    return Table(
        "restore-chain/unix",
        "Restore of a full backup and 6 incremental ones, each of 15 % of the disk, unix socket",
        "Chain",
        "contiguous/2",
        (
            Contender("tapestream, restore_chain", "ours.restore_all", produces="disk"),
            Contender(
                "tapestream, restore_chain, verify_first",
                "ours.restore_all",
                {"verify_first": True},
                "disk",
            ),
            Contender(EACH, "ours.restore_each", produces="disk"),
            Contender("tapestream, merge_chain to a tar", "ours.merge", produces="tape"),
        ),
        EACH,
    )


def gap_label(gap: int) -> str:
    """The row of a fixed gap on the line of 1 Gbit/s."""
    return f"max_gap {gap // KIB} KiB"


GAPS = (0, 16 * KIB, 64 * KIB, 256 * KIB, MIB)


def _lines() -> Iterator[Table]:
    plain = Contender(TCP, "tools.line")
    stream = Contender(STREAM, "imageio.stream", produces="raw")
    yield Table(
        "line-1gbit/contiguous",
        "Backup of a contiguous disk over a line of 1 Gbit/s, TLS",
        "Line",
        "contiguous/2",
        (Contender(OURS, "ours.backup", produces="tape"), stream, plain),
        TCP,
        tls=True,
        most_rounds=3,
    )
    fixed = (
        Contender(gap_label(gap), "ours.backup", {"max_gap": gap}, "tape", x=gap) for gap in GAPS
    )
    yield Table(
        "line-1gbit/fragmented",
        "Backup of a fragmented disk over a line of 1 Gbit/s, TLS",
        "Line",
        "fragmented/2",
        (Contender(OURS, "ours.backup", produces="tape"), *fixed, stream, plain),
        TCP,
        tls=True,
        most_rounds=3,
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
    return Table(name, title, stage, disk, tuple(contenders), first, tls, axis, most_rounds)


def _extents(action: str, title: str) -> Table:
    points = [
        Contender(f"{10**n:,}", f"synthetic.{action}_tar", x=10**n, produces="tape")
        for n in (3, 4, 5, 6)
    ]
    name = f"scale-extents/{action}"
    return _curve(name, title, "ManyExtents", points, "extents", most_rounds=2)


def _sizes() -> Table:
    points = [Contender(f"{n} GiB", "ours.backup", x=n) for n in (1, 4, 16)]
    title = "Backup of growing disks, unix socket"
    return _curve("scale-size/unix", title, "Sizes", points, "GiB", most_rounds=2)


def _workers(disk: str, channel: str) -> Table:
    points = [
        Contender(f"{n} workers", "ours.backup", {"max_workers": n}, "tape", x=n)
        for n in (1, 2, 4, 8)
    ]
    return _curve(
        f"scale-workers/{disk}-{channel}",
        f"Backup of {DISKS[disk]} by workers, {CHANNELS[channel]}",
        "Backup",
        points,
        "workers",
        PARTS[disk],
        tls=channel == "tls",
        most_rounds=3,
    )


def _imports() -> Table:
    backup = "from tapestream import ImageioHTTPSource, TarStreamSink, copy"
    codes = {
        NOTHING: "",
        OURS_BARE: "import tapestream",
        OURS: backup,
        CLIENT: "import ovirt_imageio.client",
    }
    contenders = [
        Contender(label, "imports.fresh", {"code": code, "times": 3})
        for label, code in codes.items()
    ]
    title = "Imports in a fresh interpreter"
    return Table("import/fresh", title, "Imports", "", tuple(contenders), CLIENT)


TABLES: tuple[Table, ...] = (
    *(_backup(disk, channel) for disk in DISKS for channel in CHANNELS),
    _restore("contiguous", "unix"),
    _restore("contiguous", "tls"),
    _restore("fragmented", "unix"),
    _restore("filesystem", "unix"),
    _chain(),
    _verify(),
    *_tape(None, "plain", "no digests"),
    *_tape("sha256", "sha256", "sha256"),
    _block_hash("contiguous"),
    _block_hash("fragmented"),
    _local("contiguous"),
    _local("filesystem"),
    *_lines(),
    _imports(),
    _extents("write", "Backup of made-up disks by number of extents"),
    _extents("read", "Reading their tars back"),
    _sizes(),
    _workers("contiguous", "unix"),
    _workers("contiguous", "tls"),
    _workers("fragmented", "unix"),
)


@dataclass(frozen=True)
class Target:
    """What we want to come of a comparison.

    Attributes:
        text: In words.
        table: Name of the table.
        label: Our row in it.
        against: The rows to compare with; the best of them counts. Empty for an absolute.
        measure: "rate", "cpu" or "peak".
        wanted: The ratio, or the absolute: a rate at least, a cost at most.
    """

    text: str
    table: str
    label: str
    against: tuple[str, ...]
    measure: str
    wanted: float


def _targets() -> Iterator[Target]:
    for channel, plain in (("unix", 1.3), ("tls", 1.1)):
        table = f"backup-contiguous/{channel}"
        what = f"backup, contiguous, {CHANNELS[channel]}"
        yield Target(f"{what}, digests off", table, OURS_PLAIN, (STREAM,), "rate", plain)
        yield Target(f"{what}, digests on", table, OURS, (STREAM,), "rate", 1.0)
        yield Target(f"CPU of {what}, digests off", table, OURS_PLAIN, (STREAM,), "cpu", 1.2)
    for variant, wanted in (("plain", 0.8), ("sha256", 0.9)):
        text = f"a drive that takes no time, {variant}"
        yield Target(text, f"tape-write/{variant}", TO_TAPE, (TO_NULL,), "rate", wanted)
    table, what = "backup-contiguous/unix", "backup, contiguous, unix socket"
    yield Target(f"{what}, digests on", table, OURS, (LETTER,), "rate", 1.5)
    yield Target(f"{what}, digests on", table, OURS, (DOWNLOAD,), "rate", 2.0)
    yield Target(f"{what}, digests off", table, OURS_PLAIN, (NBDCOPY,), "rate", 0.5)
    for channel, wanted in (("unix", 3.5), ("tls", 2.5)):
        text = f"backup, fragmented, {CHANNELS[channel]}, digests on"
        yield Target(text, f"backup-fragmented/{channel}", OURS, (STREAM,), "rate", wanted)
    text = "restore, contiguous, digests checked"
    yield Target(text, "restore-contiguous/unix", OURS, (UPLOAD,), "rate", 1.0)
    table = "restore-fragmented/unix"
    yield Target("restore, fragmented, sparseness kept", table, OURS, (UPLOAD,), "rate", 2.0)
    yield Target("restore, fragmented, gaps joined", table, OURS_JOINED, (UPLOAD,), "rate", 4.0)
    text = "local raw image, digests off"
    yield Target(text, "local-raw/contiguous", OURS_PLAIN, (GNU_TAR,), "rate", 1.0)
    yield Target("1 Gbit/s, contiguous", "line-1gbit/contiguous", OURS, (TCP,), "rate", 0.95)
    gaps = tuple(map(gap_label, GAPS))
    text = "1 Gbit/s, fragmented, against the best fixed gap"
    yield Target(text, "line-1gbit/fragmented", OURS, gaps, "rate", 0.95)
    peak = (128 + 150) * MIB  # the default of `buffer_memory`, and what all else may take
    for action in ("write", "read"):
        text = f"peak memory, 1,000,000 extents, {action}"
        yield Target(text, f"scale-extents/{action}", "1,000,000", (), "peak", peak)
    text = "CPU of importing what a backup needs"
    yield Target(text, "import/fresh", OURS, (CLIENT,), "cpu", 1.3)
    yield Target("peak memory, 16 GiB", "scale-size/unix", "16 GiB", (), "peak", peak)


TARGETS = tuple(_targets())
