"""Values show what they are: as HTML that is small, escaped and needs no style, and as text."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from tapestream import (
    BackupInfo,
    CompareReport,
    CopyResult,
    CopySample,
    Damage,
    DiscardSink,
    Extent,
    Extents,
    Findings,
    RawImageSource,
    TarStreamSink,
    TarStreamSource,
    VerifyReport,
    compare,
    copy,
    verify,
)
from tapestream._readable import columns_of
from tapestream.archive import Archive, FileBackup, Skipped, read_folder
from tapestream.display import html, text
from tapestream.display.card import Card, Facts, Notes, Page
from tapestream.errors import UsageError
from tapestream.tape import (
    Catalog,
    CatalogBackup,
    CatalogContents,
    CatalogVolume,
    TapeContents,
    TapeDrive,
    TapeEntry,
    TapeLabel,
    TapePlace,
    TapeReport,
)
from tapestream.testing import Cartridge, FakeDrive, MemorySource

MIB, GIB, TIB = 1024**2, 1024**3, 1024**4
# What would end an element or an attribute, an entity, a control character, and a new line.
EVIL = "<b>\"'&amp;</td>\x1b[2J\n\x00ü"
WHEN = datetime(2026, 11, 15, 22, 30, tzinfo=timezone.utc)
INFO = BackupInfo(
    vm_id="vm-1",
    vm_name=EVIL,
    disk_name=EVIL * 30,
    backup_id=EVIL,
    checkpoint_id="monday",
    parent_checkpoint_id=EVIL,
    created=WHEN,
    context="dirty",
    metadata={EVIL: EVIL * 100, **{f"key {i}": i for i in range(1000)}},
    size=20 * GIB,
)
VOLUME = CatalogVolume("A1", 1, 1, True, False)
DAMAGE = tuple(Damage(i * MIB, 4096, EVIL, missing=i % 2 == 0) for i in range(20_000))
REPORT = TapeReport(
    INFO, EVIL, tuple(TapePlace("/dev/nst0", EVIL, i, i + 1) for i in range(500)), 5, 5 * MIB, 1.0
)


def result(samples: Sequence[CopySample] = (), receipt: object = None) -> CopyResult:
    return CopyResult(
        size=GIB,
        context="zero",
        extents=3,
        data_extents=2,
        data_bytes=512 * MIB,
        zero_bytes=512 * MIB,
        read_bytes=513 * MIB,
        requests=2,
        seconds=4.0,
        checksum=EVIL,
        verified="sha256",
        underruns=2,
        stalled=1.0,
        samples=tuple(samples),
        receipt=receipt,
    )


def stored(
    disk: int, day: int, *, problem: str | None = None, parent: int | None = None
) -> FileBackup:
    info = BackupInfo(
        vm_name=EVIL,
        disk_name=f"Disk{disk}",
        disk_id=f"disk-{disk}",
        checkpoint_id=f"{disk}-{day}",
        parent_checkpoint_id=None if parent is None else f"{disk}-{parent}",
        context="zero" if parent is None else "dirty",
        created=WHEN + timedelta(days=day),
        size=GIB,
    )
    return FileBackup(f"{EVIL}-{disk}-{day}", info, MIB, problem, (disk, day))


def weeks(disks: int, days: int) -> list[FileBackup]:
    return [
        stored(disk, day, parent=day - 1 if day % 7 else None)
        for disk in range(disks)
        for day in range(days)
    ]


def alternating(count: int) -> Extents:
    """Data and zeros in turn, in extents of one block and of several."""
    starts, flags, at = array("q"), bytearray(), 0
    for i in range(count):
        starts.append(at)
        flags.append(i % 2)  # the flag of zeros
        at += 4096 * (1 + i * 7 % 97)
    return Extents(starts, bytes(flags), at, None)


def entries(count: int) -> tuple[TapeEntry, ...]:
    label = TapeEntry(0, tape_label=TapeLabel(EVIL), complete=True)
    states = [(True, False), (False, False), (True, True)]
    files = (
        TapeEntry(i, INFO, complete, continues=goes_on, length=i * MIB)
        for i in range(1, count)
        for complete, goes_on in [states[i % 3]]
    )
    return (label, *files, TapeEntry(count, problem=EVIL, is_unknown=True))


def known_to_a_catalog(backups: Iterable[FileBackup]) -> CatalogContents:
    volumes = [CatalogVolume(f"A{i % 90:05}", i, 1, True, False, i * MIB) for i in range(100_000)]
    return CatalogContents(
        tuple(f"A{i:05}" for i in range(90)),
        tuple(
            CatalogBackup(backup.info, f"set {i}", (volumes[i],), True)
            for i, backup in enumerate(backups)
        ),
    )


LARGE: dict[str, object] = {
    "extents": alternating(1_000_000),
    "info": INFO,
    "copy": result(
        [CopySample(i * 0.2, i * i % 977 * MIB + i * GIB, i / 9) for i in range(512)], REPORT
    ),
    "verify": VerifyReport(INFO, False, DAMAGE, (EVIL * 100,) * 100, 5, None),
    "compare": CompareReport(tuple((i * 2 * MIB, MIB) for i in range(50_000)), 100 * GIB),
    "tape": TapeContents(entries(2_000)),
    "report": REPORT,
    "archive": Archive(weeks(100, 70), unreadable=[Skipped(EVIL, EVIL)] * 99),
    "chain": Archive([stored(0, i, parent=i - 1 if i else None) for i in range(500)]).find(),
    "catalog": known_to_a_catalog(weeks(100, 70)),
}
EMPTY: list[object] = [
    Extents.of([]),
    BackupInfo(),
    replace(result(), seconds=0.0, data_bytes=0),
    VerifyReport(BackupInfo(), False, (), (), 0, None),
    CompareReport((), 0),
    TapeContents(()),
    Archive([]),
    CatalogContents((), ()),
]


def with_names(name: str) -> dict[str, object]:
    """Values of one kind each, whose names, places and texts are all the same."""
    info = BackupInfo(
        vm_id=name,
        vm_name=name,
        disk_name=name,
        disk_id=name,
        backup_id=name,
        checkpoint_id=name,
        parent_checkpoint_id=name,
        created=WHEN,
        context="dirty",
        metadata={name + str(i): name for i in range(50)},
        size=20 * GIB,
    )
    # Two chains in turn on each disk: every point has a curve to its parent, and a cross.
    backups = [
        FileBackup(name, replace(each.info, vm_name=name), MIB, each.problem, each.file_id)
        for disk in range(12)
        for i in range(30)
        for each in [stored(disk, i, parent=i - 2 if i > 1 else None, problem="x" if i < 2 else "")]
    ]
    places = tuple(TapePlace(name, name, i, i + 1) for i in range(50))
    skipped = [Skipped(name, name)] * 50
    volume = CatalogVolume(name, 1, 1, True, False)
    return {
        "info": info,
        "copy": result(receipt=TapeReport(info, name, places, 5, 5 * MIB, 1.0)),
        "verify": VerifyReport(info, False, (Damage(0, 4096, name, True),), (name,) * 9, 5, None),
        "tape": TapeContents((TapeEntry(0, tape_label=TapeLabel(name)), TapeEntry(1, info)) * 50),
        "report": TapeReport(info, name, places, 5, 5 * MIB, 1.0),
        "archive": Archive(backups, unreadable=skipped, ignored=skipped, unfinished=backups[:9]),
        "chain": Archive([FileBackup(name, replace(info, context="zero"), 1, None, (0, 0))]).find(),
        "catalog": CatalogContents(
            (name,) * 50,
            tuple(CatalogBackup(each.info, each.place, (volume,), False) for each in backups),
        ),
    }


# What takes the most bytes as XML, as text, and of a terminal; and long names of plain letters.
WIDE = {
    f"{value} with {what}": shown
    for what, name in [
        ("quotes", '"' * 1000),
        ("escapes", "\U000e0001" * 1000),
        ("wide characters", "語" * 1000),
        ("letters", "x" * 20_000),
    ]
    for value, shown in with_names(name).items()
}


@pytest.mark.parametrize("value", WIDE.values(), ids=WIDE)
def test_long_names_are_cut(value: object) -> None:
    """The HTML stays small, whatever the names have; so does each line of the text."""
    made = html(value)
    assert len(made.encode()) < 20_000
    assert ET.fromstring(made).tag == "div"
    first, *lines = text(value, width=40).split("\n")
    assert len(first) < 500
    for line in lines:
        assert columns_of(line) <= 40


def test_a_card_says_if_not_all_of_it_is_shown() -> None:
    notes = Notes(('"' * 200,) * 5)
    assert "There is more than is shown here." in Card("Much", "too much", (notes,) * 9).html()
    assert "There is more than" not in html(LARGE["catalog"])
    assert re.search(r"and (3[1-9]|4\d) more$", words(WIDE["info with quotes"]))
    assert "and more" not in words(LARGE["info"])
    assert words(LARGE["info"]).endswith("and 981 more")
    facts = Facts((("key", "value"),), left=1000)
    assert facts.text(Page(40, ascii_only=True)) == ["  key  value", "  and 1,000 more"]


def test_damage_of_a_disk_without_a_size_is_shown() -> None:
    """Verified without its extents, all of it counts as missing: no bytes."""
    report = VerifyReport(BackupInfo(), True, (Damage(0, 0, "extents.json", True),), (), 0, None)
    assert "extents.json" in words(report)
    assert text(report).startswith("Verified: data missing")


def words(value: object) -> str:
    """All text in the HTML of a value."""
    return " ".join(" ".join(ET.fromstring(html(value)).itertext()).split())


@pytest.mark.parametrize("value", LARGE.values(), ids=LARGE)
def test_the_html_of_a_large_value_is_small_escaped_and_needs_no_style(value: object) -> None:
    made = html(value)
    assert len(made.encode()) < 20_000
    parsed = ET.fromstring(made)  # it would fail if anything was not escaped
    tags = {element.tag.rpartition("}")[2] for element in parsed.iter()}
    assert not tags & {"script", "style", "link", "img", "iframe"}
    names = {name for element in parsed.iter() for name in element.attrib}
    assert not {name for name in names if name in {"class", "id", "href"} or name.startswith("on")}
    # A picture becomes narrower on a phone, and some viewers remove it: its words are elsewhere.
    for picture in parsed.findall(".//{*}svg"):
        assert not "".join(picture.itertext())
        assert picture.attrib["aria-label"]
        assert f"height:{picture.attrib['height']}px" in picture.attrib["style"]
        assert picture.attrib["preserveAspectRatio"] == "none"
    assert made == value._repr_html_()  # type: ignore[attr-defined]


@pytest.mark.parametrize("value", [*LARGE.values(), *EMPTY])
@pytest.mark.parametrize("width", [40, 80])
def test_the_text_fits_into_the_terminal(value: object, width: int) -> None:
    lines = text(value, width=width, ascii_only=True).split("\n")
    assert len(lines) < 60
    for line in lines[1:]:  # the first one is a sentence, which may break
        assert len(line) <= width
        assert line.isprintable()


@pytest.mark.parametrize("value", EMPTY, ids=lambda value: type(value).__name__)
def test_an_empty_value_is_shown(value: object) -> None:
    assert ET.fromstring(html(value)).tag == "div"
    assert len(repr(value)) <= 100


def test_a_repr_is_one_short_line() -> None:
    found = Findings(list(DAMAGE))
    more = [found, stored(1, 1, problem=EVIL), CatalogBackup(INFO, "s", (), False), *entries(3)]
    for value in [*LARGE.values(), *more]:
        line = repr(value)
        assert len(line) <= 100
        assert line.isprintable()
        assert line.startswith(f"<{type(value).__name__}: ")


def test_the_totals_of_extents() -> None:
    extents = Extents.of(
        [
            Extent(0, 3 * MIB, dirty=True),
            Extent(3 * MIB, MIB, zero=True, dirty=True),
            Extent(4 * MIB, 12 * MIB, dirty=False),
        ]
    )
    assert repr(extents) == "<Extents: 3.0 MiB of 16.0 MiB are data, in 1 of 3 extents>"
    assert text(extents, width=40, ascii_only=True).splitlines()[:4] == [
        "Extents: 3.0 MiB of 16.0 MiB are data (18.8 %), in 1 of 3 extents",
        " |#######  ...........................|",
        f"  0{'16.0 MiB':>35}",
        "  # data   . unchanged   blank: zeros",
    ]
    shown = words(extents)
    assert "zeros 1.0 MiB in 1 extent" in shown
    assert "2.0 MiB and more 1" in shown  # the histogram


@pytest.mark.parametrize("ascii_only", [False, True])
def test_little_data_is_seen(ascii_only: bool) -> None:
    extents = Extents.of([Extent(0, 900 * GIB, zero=True), Extent(900 * GIB, 4096)])
    assert text(extents, ascii_only=ascii_only).splitlines()[1][-2] in "░:"
    path = ET.fromstring(html(extents)).find(".//{*}path")
    assert path is not None
    assert path.attrib["d"] == "M0 40H638V38H640V40z"


def paths(value: object) -> list[dict[str, str]]:
    """The attributes of all paths in the HTML of a value."""
    return [path.attrib for path in ET.fromstring(html(value)).findall(".//{*}path")]


def test_arrows_point_at_what_is_rare() -> None:
    """On a phone, two pixels of a large disk could be overlooked."""
    extents = [Extent(0, 11 * TIB, zero=True), Extent(11 * TIB, 4096)]
    extents.append(Extent(11 * TIB + 4096, 5 * TIB - 4096, zero=True))
    assert paths(Extents.of(extents))[-1]["d"] == "M441 41l4 7h-8z"
    byte = Damage(9 * TIB, 1, "extent-1@0", missing=False)
    report = VerifyReport(replace(INFO, size=16 * TIB), True, (byte,), (), 16 * TIB, "sha256")
    bar, arrow = paths(report)
    assert bar["d"] == "M360 40V0h2V40z"
    assert bar["stroke"] == arrow["fill"]  # it is never thinner than this line
    assert arrow["d"] == "M361 41l4 7h-8z"
    assert len(paths(alternating(1000))) == 1  # nothing is rare


def test_missing_and_damaged_differ_in_more_than_the_color() -> None:
    damage = (Damage(0, GIB, "a", missing=True), Damage(10 * GIB, GIB, "b", missing=False))
    shown = paths(VerifyReport(INFO, True, damage, (), 0, None))
    assert {path["d"].split("h")[0] for path in shown if "stroke" in path} == {
        "M0 40V20",
        "M320 40V0",
    }


def test_the_rate_over_time_and_the_waits() -> None:
    """Four seconds: 100 MB/s, nothing while it waits, and 100 MB/s again."""
    samples = [CopySample(0, 0, 0), CopySample(1, 10**8, 0), CopySample(2, 10**8, 1)]
    samples += [CopySample(3, 2 * 10**8, 1), CopySample(4, 3 * 10**8, 1)]
    rate, waited = text(result(samples), width=70, ascii_only=True).splitlines()[1:3]
    assert rate == f"  rate    {'@' * 10}{'_' * 10}{'@' * 20}  up to 100 MB/s"
    assert waited == f"  waited  {' ' * 10}{'x' * 10}"
    # Too short for a curve.
    assert "rate" not in text(result(samples[:3])).splitlines()[1]


def test_the_verdict_comes_first_and_the_map_shows_what_is_bad() -> None:
    damage = (Damage(0, 5 * GIB, "extent-1@0", True), Damage(10 * GIB, 4096, "extent-2@1", False))
    report = VerifyReport(INFO, True, damage, ("a bad header",), GIB, "sha256")
    lines = text(report, width=44, ascii_only=True).splitlines()
    assert lines[0] == "Verified: damaged, 1 other problem"
    assert lines[1] == f" |{'x' * 10}{' ' * 10}!{' ' * 19}|"
    assert "a bad header" in words(report)
    for line in (
        "  missing  5.0 GiB in 1 stretch",
        "  damaged  4.0 KiB in 1 stretch",
        "  5368709120 bytes at disk offset 0 are",
        "    missing (extent-1@0)",
    ):
        assert line in lines
    assert "extent-2@1" in words(report)
    good = replace(report, damage=(), problems=())
    assert text(good).splitlines()[0] == "Verified: complete and good"
    assert "svg" not in html(good)


def test_the_map_of_two_disks_shows_where_they_differ() -> None:
    with MemorySource(bytes(8 * MIB)) as a, MemorySource(bytes(7 * MIB) + b"x" * MIB) as b:
        report = compare(a, b)
    assert report.size == 8 * MIB
    lines = text(report, width=44, ascii_only=True).splitlines()
    assert lines[0] == "Compared: different: 1.0 MiB in 1 place"
    assert lines[1] == f" |{' ' * 35}xxxxx|"
    assert lines[-1] == f"  {MIB} bytes at {7 * MIB}"


def test_chains_are_lines() -> None:
    backups = [stored(1, day, parent=day - 1 if day else None) for day in range(4)]
    backups += [stored(1, 5, parent=1), stored(2, 0), stored(2, 1, parent=0, problem="cut")]
    archive = Archive([*backups, stored(2, 2, parent=1)])
    shown = text(archive, ascii_only=True).splitlines()
    assert shown[0].startswith("Backups: 8 backups of 2 disks; 2 points in time cannot be restored")
    # 5 starts from 1, not from 3.
    assert [line.split("  ")[-1] for line in shown[1:3]] == ["F-i-i-i~i", "F-x-x"]
    crosses = re.findall(r'stroke-width="2" [^>]* d="([^"]+)"', html(archive))
    assert [path.count("M") for path in crosses] == [2]
    catalog = text(known_to_a_catalog(backups[:4]), ascii_only=True)
    assert "F-i-i-i" in catalog
    assert "A00003      1  " in catalog


def test_what_cannot_be_read_is_said() -> None:
    reason = "the first member is no backup-info.json, " * 3
    unreadable = Archive([stored(1, 1)], unreadable=[Skipped("/backups/a.tar", reason)])
    lines = text(unreadable, width=60, ascii_only=True).splitlines()
    assert lines[0] == "Backups: 1 backup of 1 disk; all can be restored; 1 file cannot be read"
    assert (
        " ".join(" ".join(lines[3:]).split()) == f"cannot be read: /backups/a.tar: {reason}".strip()
    )
    assert '<b style="color:#d9483b">' in html(unreadable)
    tape = TapeContents(
        (TapeEntry(0, problem="no tar"), TapeEntry(1, problem=EVIL, is_unknown=True))
    )
    assert "  file 0: no tar" in text(tape).splitlines()
    assert text(Archive([], unreadable=[Skipped("a", "b")])).startswith("Backups: 0 backups")


def test_a_share_is_not_rounded_to_none_or_to_all() -> None:
    for length, percent in [(1, "less than 0.1 %"), (GIB - 1, "99.9 %"), (GIB, "100.0 %")]:
        rest = [Extent(length, GIB - length, zero=True)] if length < GIB else []
        assert f"are data ({percent})" in text(Extents.of([Extent(0, length), *rest]))


def test_a_tape_is_a_bar() -> None:
    contents = TapeContents(entries(4))
    shown = text(contents, width=44, ascii_only=True).splitlines()
    assert [part[0] for part in shown[1].strip().split("|")] == ["=", "x", "+", "#", "."]
    widths = [
        float(rect.attrib["width"])
        for rect in ET.fromstring(html(contents)).iter("{http://www.w3.org/2000/svg}rect")
        if rect.attrib["height"] == "34"
    ]
    assert len(widths) == 5
    assert widths[1] < widths[2] < widths[3]


def test_the_tapes_of_a_catalog_are_bars() -> None:
    """On one scale: of the longer tape, a part is of a backup that goes on on the other."""
    first, second, third = (stored(1, day) for day in range(3))
    full = CatalogVolume("A1", 1, 1, True, False, length=60 * GIB)
    # Its end was cut off by that of the tape: the volume after it has what it lacks.
    begin = CatalogVolume("A1", 2, 1, False, False, length=40 * GIB)
    end = CatalogVolume("A2", 1, 2, True, False, length=20 * GIB)
    aborted = CatalogVolume("A2", 2, 1, False, False, length=30 * GIB)
    contents = CatalogContents(
        ("A1", "A2", "A3"),
        (
            CatalogBackup(third.info, "c", (aborted,), complete=False),
            CatalogBackup(second.info, "b", (begin, end), complete=True),
            CatalogBackup(first.info, "a", (full,), complete=True),
        ),
    )
    lines = text(contents, width=44, ascii_only=True).splitlines()
    longest = lines.index(next(line for line in lines if line.startswith("  A1  ")))
    assert lines[longest : longest + 4] == [
        f"  A1  {'#' * 20}|{'+' * 13}",
        f"  A2  {'#' * 7}|{'x' * 10}",
        "  A3",
        "  # complete   + continues   x no end",
    ]
    assert "A1 2 100.0 GiB" in words(contents)
    shown = ET.fromstring(html(contents)).findall(".//{*}rect")
    assert [(rect.attrib["y"], round(float(rect.attrib["width"]) / 6.28)) for rect in shown] == [
        ("0", 61),
        ("0", 41),
        ("24", 21),
        ("24", 31),
    ]
    known = CatalogContents(("A1",), (CatalogBackup(first.info, "a", (VOLUME,), True),))
    assert "rect" not in html(known)  # no length is known


def test_many_tapes_are_not_all_drawn() -> None:
    volumes = [
        CatalogVolume(f"A{i:02}", n, 1, True, False, GIB) for i in range(50) for n in range(99)
    ]
    backups = [CatalogBackup(INFO, str(i), (each,), True) for i, each in enumerate(volumes)]
    contents = CatalogContents(tuple(f"A{i:02}" for i in range(50)), tuple(backups))
    shown = ET.fromstring(html(contents))
    assert len(shown.findall(".//{*}rect")) == 12
    assert "and 38 more tapes" in words(contents)
    assert "  and 38 more tapes" in text(contents).splitlines()


def test_ascii_where_the_output_can_show_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extents = Extents.of([Extent(0, MIB)])
    for encoding, mark in [("ascii", "#"), ("latin-1", "#"), ("UTF-8", "█")]:
        with open(tmp_path / "out", "w", encoding=encoding) as out:
            monkeypatch.setattr("sys.stdout", out)
            print(text(extents))
            monkeypatch.undo()
        assert mark * 70 in (tmp_path / "out").read_text(encoding)


def test_a_closed_file_is_shown_without_io(tmp_path: Path) -> None:
    """The folder is gone, too, before anything is shown."""
    info = BackupInfo(vm_name="mail", disk_name="Disk1", created=WHEN)
    folder = tmp_path / "backups"
    folder.mkdir()
    path = folder / "disk.tar"
    with MemorySource(b"x" * MIB, info=info) as src, TarStreamSink(path) as dst:
        values: list[object] = [src.info, Extents.of(src.extents()), copy(src, dst)]
    with TarStreamSource(path) as tar:
        values += [verify(tar), tar.info]
    image = folder / "disk.raw"
    image.write_bytes(bytes(4096))
    with RawImageSource(image) as raw, DiscardSink():
        pass
    catalog = Catalog(folder / "tapes.db")
    values += [read_folder(folder), catalog.contents(), catalog]
    catalog.close()
    for file in [path, image, folder / "tapes.db"]:
        file.unlink()
    folder.rmdir()
    for value in values:
        assert words(value)
        assert text(value)
    assert repr(tar).startswith("<TarStreamSource: mail, Disk1 of ")
    assert repr(tar)[:-1].endswith("disk.tar")
    # The middle of a long path is left out.
    assert repr(dst).startswith("<TarStreamSink: /")
    assert repr(dst).endswith("/backups/disk.tar>")
    assert repr(raw).startswith("<RawImageSource: /")
    assert repr(raw).endswith("/backups/disk.raw>")
    assert str(folder / "tapes.db") in text(catalog)


def test_what_is_on_a_tape_is_a_value_with_lengths() -> None:
    drive = TapeDrive("/dev/nst0", open_device=FakeDrive(Cartridge()).open)
    drive.write_label("A1")
    for size in (2, 5):
        info = BackupInfo(disk_name=f"disk of {size} MiB")
        with MemorySource(b"x" * size * MIB, info=info) as src, TarStreamSink(drive) as dst:
            copy(src, dst)
    contents = drive.contents()
    drive.close()
    assert (contents.label, len(contents.backups)) == ("A1", 2)
    # In whole records of 1 MiB: the data, and the members before and after it.
    assert [entry.length // MIB for entry in contents.entries] == [0, 3, 6]
    assert "disk of 5 MiB" in words(contents)
    assert repr(contents) == "<TapeContents: tape A1, 3 files, 2 backups>"


def test_what_has_no_picture() -> None:
    with pytest.raises(UsageError, match="there is no picture of a dict") as caught:
        html({})
    assert "CopyResult" in caught.value.hint
