"""`VerifyReport`: is a backup good, and what is wrong with it, and where?"""

from __future__ import annotations

import tapestream

from .._readable import count_text, disk_text, size_text, time_text
from .card import BAD, Card, Facts, Fold, Notes, Table
from .infos import facts_of
from .strip import Strip, bad_layer, shares_of

# Bad stretches that are listed, and that the text has; and other problems.
_ROWS = 20
_STRETCHES = 5
_PROBLEMS = 5


def show(report: tapestream.VerifyReport) -> Card:
    """Show the verdict first, then where the disk is bad."""
    how = f"compared with {report.checksum}" if report.checksum else "without digests"
    facts = Facts(
        (
            ("missing", _amount(report, missing=True)),
            ("damaged", _amount(report, missing=False)),
            ("backup", f"{disk_text(report.info)}, {time_text(report.info.created)}"),
            ("data", f"{size_text(report.data_bytes)}, {how}"),
        )
    )
    return Card(
        "Verified",
        _verdict(report),
        (_map(report), _problems(report), facts, _list(report), _about(report)),
        good=report.ok,
    )


def _verdict(report: tapestream.VerifyReport) -> str:
    if report.ok:
        return "complete and good"
    found = []
    if not report.complete:
        found.append("incomplete")
    if report.damage:
        found.append(
            "damaged" if not all(each.missing for each in report.damage) else "data missing"
        )
    if report.problems:
        found.append(count_text(len(report.problems), "other problem"))
    return ", ".join(found)


def _amount(report: tapestream.VerifyReport, *, missing: bool) -> str | None:
    lengths = [each.length for each in report.damage if each.missing is missing]
    stretches = count_text(len(lengths), "stretch", "stretches")
    return f"{size_text(sum(lengths))} in {stretches}" if lengths else None


def _problems(report: tapestream.VerifyReport) -> Notes:
    more = len(report.problems) - _PROBLEMS
    others = [f"and {count_text(more, 'other problem')}"] if more > 0 else []
    return Notes((*report.problems[:_PROBLEMS], *others))


def _map(report: tapestream.VerifyReport) -> Strip:
    # A backup of which not even the beginning could be read may have another size than it says.
    size = max([report.info.size, *(each.start + each.length for each in report.damage)])
    if not report.damage:
        return Strip(0, ())
    kinds = {
        missing: [(each.start, each.length) for each in report.damage if each.missing is missing]
        for missing in (True, False)
    }
    return Strip(
        size,
        (
            bad_layer(
                "missing", shares_of(kinds[True], size), mark="x", color="#d9822b", height=0.5
            ),
            bad_layer("damaged", shares_of(kinds[False], size), mark="!", color=BAD),
        ),
        "good, or zeros",
    )


def _list(report: tapestream.VerifyReport) -> Fold:
    rows = tuple(
        (
            f"{each.start:,}",
            f"{each.length:,}",
            "missing" if each.missing else "damaged",
            each.member,
        )
        for each in report.damage[:_ROWS]
    )
    table = Table((">start", ">length", "what", "member of the tar~"), rows, of=len(report.damage))
    summary = f"bad stretches: {len(report.damage):,}"
    in_text = [str(each) for each in report.damage[:_STRETCHES]]
    if len(report.damage) > _STRETCHES:
        in_text.append(f"and {len(report.damage) - _STRETCHES:,} more")
    return Fold(summary, (table,) if rows else (), (Notes(tuple(in_text)),))


def _about(report: tapestream.VerifyReport) -> Fold:
    return Fold("the backup", (facts_of(report.info),))
