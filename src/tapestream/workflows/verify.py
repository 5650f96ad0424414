"""verify(): read a backup to its end, and report everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .._readable import printable, size_text
from .._shown import Shown
from .._typing import Unpack, override
from ..backend.abilities import Salvages, ability
from ..backend.checks import class_of, digest_name_of, info_of, source_of
from ..backend.protocols import SourceLike
from ..backend.running import Running
from ..engine.copy import copying, transfer
from ..engine.options import CopyKeywords, CopyOptions
from ..engine.threads import enough_memory
from ..errors import LocalIOError, StreamError
from ..model.damage import Damage, Findings, found_text
from ..model.extents import Extent, Extents, Kind
from ..model.info import BackupInfo
from .discard import DiscardSink

# Lines of damage in the text of a report. A stream that was cut may lack a million stretches.
MAX_LINES = 100


@dataclass(frozen=True, repr=False)
class VerifyReport(Shown):
    """What `verify` found.

    Attributes:
        info: What the backup says about itself.
        complete: True if the stream has its end: manifest, end of archive, padding.
        damage: Every stretch of the disk that is missing, or does not match its digest.
        problems: Everything else that is wrong, in words.
        data_bytes: Bytes of data that are there.
        checksum: Name of the digest that all data was compared with. None if the stream has no
            digests, or its manifest is missing: then only its structure was checked.
    """

    info: BackupInfo
    complete: bool
    damage: tuple[Damage, ...]
    problems: tuple[str, ...]
    data_bytes: int
    checksum: str | None

    @property
    def ok(self) -> bool:
        """True if nothing is wrong."""
        return self.complete and not self.damage and not self.problems

    @override
    def _in_short(self) -> str:
        how = f"against {self.checksum}" if self.checksum else "without digests"
        found = "good" if self.ok else f"bad, {found_text(self.damage, self.problems)}"
        end = "" if self.complete else ", no good end"
        return f"{found}{end}; {size_text(self.data_bytes)} of data, read {how}"

    def __str__(self) -> str:
        """The result, each problem and the first 100 stretches of damage, each in a line."""
        end = "The end is there." if self.complete else "The end is missing, or damaged."
        how = f"against {self.checksum}" if self.checksum else "without digests"
        result = "good" if self.ok else "bad"
        lines = [f"{result}: {self.data_bytes} bytes of data, read {how}. {end}"]
        lines += [*self.problems, *map(str, self.damage[:MAX_LINES])]
        if len(self.damage) > MAX_LINES:
            lines.append(f"and {len(self.damage) - MAX_LINES} stretches more")
        # A name in a damaged tar may have any characters, also line breaks.
        return "\n".join(map(printable, lines))


@enough_memory()
def verify(source: SourceLike, **options: Unpack[CopyKeywords]) -> VerifyReport:
    """Read a backup to its end, past all damage, and report what is wrong with it.

    After a bad sector, or a bad record of a tape, reading goes on. After a damaged header, and
    after lost or doubled records, it goes on at the next good header of the backup. Looking for
    that can take another 64 MiB of memory. Without readable extents, the whole disk counts as
    missing. Otherwise this needs as much memory as a copy. Time and memory depend on how long the
    stream is, not on what it claims. The source is used up, as by a copy, and stays open.

    Args:
        source: An open `TarStreamSource`. Any other source is read, too: its first error is
            raised, as by `copy`.
        **options: As for `copy`.

    Returns:
        Everything that is wrong. To get an error for a bad backup instead, copy it to a
        `DiscardSink`.

    Raises:
        OperationCancelledError: It was cancelled; there is no report.
        TapestreamError: The source cannot be read at all.
    """
    source = source_of(source)
    checked = CopyOptions.of(options)
    findings = Findings()
    with copying(source, DiscardSink(), cancel=checked.cancel) as run:
        salvages = ability(source, Salvages)
        view = None if salvages is None else salvages.salvaging(findings)
        if view is None:
            findings.complete = True  # the source records nothing, but raises its errors
            data_bytes = _read(source, source.extents(), findings, checked, run)
        else:
            run.use(view)
            data_bytes = _read_past_damage(view, findings, checked, run)
    return VerifyReport(
        info_of(source),
        findings.complete,
        tuple(findings.damage),
        tuple(findings.problems),
        data_bytes,
        findings.digest_name,
    )


def _read_past_damage(
    source: SourceLike, findings: Findings, options: CopyOptions, run: Running
) -> int:
    """Read all data that is there, and count it. Without the extents, there is none."""
    try:
        extents = source.extents()
    except (StreamError, LocalIOError) as e:
        run.check()  # an error that a cancel caused is not damage
        findings.note(e.message)
        size = info_of(source).size
        if size:
            findings.add(Damage(0, size, "extents.json", missing=True))
        return 0
    return _read(source, extents, findings, options, run)


def _read(
    source: SourceLike,
    extents: Iterable[Extent],
    findings: Findings,
    options: CopyOptions,
    run: Running,
) -> int:
    read = transfer(source, DiscardSink(), options, run)
    findings.digest_name = findings.digest_name or read.verified
    digest_name = digest_name_of(source)
    if findings.digest_name is None and digest_name is not None and not findings.damage:
        findings.complete = False
        findings.note(
            f"{class_of(source)} says that its data has {digest_name} digests, but its "
            "finish() compared none"
        )
    return Extents.of(extents).tally(Kind.DATA).bytes - findings.missing_bytes
