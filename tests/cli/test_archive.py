"""`tapestream list` and `find`, and a restore that finds its chain."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from .conftest import Week
from .program import call, run


def test_a_folder_is_listed_in_the_order_of_time(shared_week: Week) -> None:
    ended = call("list", shared_week.folder)
    assert ended.status == 0
    assert ended.out.splitlines() == [
        "VM    DISK        WHEN                 KIND            SIZE  OK   PLACE",
        "mail  mail_Disk1  2026-11-15 23:30:00  full         3.0 MiB  yes  sunday.tar",
        "mail  mail_Disk1  2026-11-16 23:30:00  incremental  1.0 MiB  yes  monday.tar",
        "2 backups",
    ]


def test_the_places_in_several_folders_name_the_folder(week: Week, tmp_path: Path) -> None:
    second = tmp_path / "second"
    second.mkdir()
    week.incremental.rename(second / "monday.tar")
    ended = call("list", week.folder, second, "--json")
    assert [row["place"] for row in ended.objects[:2]] == [
        str(week.full),
        str(second / "monday.tar"),
    ]


def test_what_is_not_good_is_said_after_the_table(week: Week) -> None:
    os.truncate(week.incremental, 100_000)
    (week.folder / "zipped.tar").write_bytes(b"\x1f\x8b\x08" + bytes(1000))
    (week.folder / ".c.tar.0123.partial").write_bytes(week.full.read_bytes()[:20_000])
    ended = call("list", week.folder)
    assert "NO   monday.tar" in ended.out
    assert "2 backups, 1 of them not complete" in ended.out
    assert "monday.tar: it has no end" in ended.out
    assert "zipped.tar cannot be read" in ended.err
    assert ".partial: is being written" in ended.err
    ended = call("list", week.incremental, week.full, "--json")
    assert [row.get("complete") for row in ended.objects] == [True, False, None]
    assert ended.result["incomplete"] == 1


def test_what_cannot_be_listed_is_reported_and_the_others_are_listed(week: Week) -> None:
    other = week.folder / "other.raw"
    other.write_bytes(week.sunday)
    ended = call("list", other, week.full, "--json")
    assert ended.status == 2
    assert [row["event"] for row in ended.objects] == ["error", "backup", "result"]


def test_the_end_of_a_pipe_is_not_known(shared_week: Week) -> None:
    ended = run("list", "-", "--json", stdin=shared_week.full.read_bytes())
    assert ended.objects[0]["complete"] is None


def test_superseded_backups_are_listed(week: Week) -> None:
    (week.folder / "copy.tar").write_bytes(week.full.read_bytes())
    ended = call("list", "--superseded", week.folder, "--json")
    assert [Path(row["place"]).name for row in ended.objects[:-1]] == ["sunday.tar"]


def test_a_chain_is_found_for_a_point_in_time(shared_week: Week, tmp_path: Path) -> None:
    about = ["--vm", "mail", "--disk", "mail_Disk1", "--at"]
    for at, places, disk in [
        ("2026-11-15 23:30", ["sunday.tar"], shared_week.sunday),
        ("2026-11-16 22:30 UTC", ["sunday.tar", "monday.tar"], shared_week.monday),
    ]:
        ended = call("find", shared_week.folder, *about, at, "--json")
        assert [Path(row["place"]).name for row in ended.objects[:-1]] == places
        image = tmp_path / at
        assert call("restore", shared_week.folder, *about, at, image).status == 0
        assert image.read_bytes() == disk


def test_all_points_in_time_are_shown(week: Week) -> None:
    os.truncate(week.incremental, 100_000)
    ended = call("find", week.folder, "--all")
    assert ended.status == 0
    heading, monday, sunday, note, count = ended.out.splitlines()
    assert heading.endswith("CAN BE RESTORED")
    assert monday.split() == ["2026-11-16", "23:30:00", "incremental", "-", "NO"]
    assert sunday.split() == ["2026-11-15", "23:30:00", "full", "1", "yes"]
    assert "has no end" in note
    assert count == "2 points in time"


def test_the_chain_of_an_incremental_backup_is_found(week: Week, tmp_path: Path) -> None:
    image = tmp_path / "a.raw"
    assert call("restore", week.incremental, image).status == 0
    assert image.read_bytes() == week.monday
    week.full.unlink()
    ended = call("restore", week.incremental, tmp_path / "b.raw")
    assert ended.status == 1
    assert "starts from checkpoint sunday" in ended.err
    assert "tapestream find --all" in ended.err
    assert not (tmp_path / "b.raw").exists()


def test_a_chain_may_be_listed_in_any_order(shared_week: Week, tmp_path: Path) -> None:
    image = tmp_path / "a.raw"
    ended = call("restore", shared_week.incremental, shared_week.full, image, "--verify-first")
    assert ended.status == 0
    assert image.read_bytes() == shared_week.monday


def test_nothing_that_exists_is_overwritten(shared_week: Week, tmp_path: Path) -> None:
    image = tmp_path / "a.raw"
    image.write_bytes(b"precious" * 1000)
    ended = call("restore", shared_week.folder, image)
    assert ended.status == 64
    assert ended.err.splitlines() == [
        f"tapestream: {image} exists, with 7.8 KiB: what it holds would be lost",
        "Pass --overwrite if that is what you want; nothing was touched.",
    ]
    assert image.read_bytes() == b"precious" * 1000
    assert call("restore", shared_week.folder, image, "--overwrite").status == 0
    assert image.read_bytes() == shared_week.monday


@pytest.mark.parametrize("looks", range(1, 6))
def test_a_file_that_vanishes_is_not_overwritten(
    shared_week: Week, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looks: int
) -> None:
    """However often it was looked at before: it is refused, or it is as if it had never been."""
    image = tmp_path / "a.raw"
    image.write_bytes(b"x")
    look, left = os.stat, iter(range(looks))

    def look_and_remove(path: int | str | os.PathLike[str], **options: bool) -> os.stat_result:
        found = look(path, **options)
        if str(path) == str(image) and next(left, None) == looks - 1:
            image.unlink()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", look_and_remove)
        ended = call("restore", shared_week.folder, image)
    if ended.status == 64:
        assert f"{image} exists, with 1 B" in ended.err
    else:
        assert ended.status == 0, ended.err
        assert image.read_bytes() == shared_week.monday


def test_a_disk_of_this_machine_is_never_overwritten_by_mistake(
    shared_week: Week, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    try:
        os.mknod(disk, stat.S_IFBLK | 0o600, os.makedev(240, 4095))  # for which there is no driver
    except PermissionError:
        pytest.skip("only root makes devices")
    ended = call("restore", shared_week.folder, disk)
    assert ended.status == 64
    assert f"{disk} is a disk of this machine" in ended.err
    assert "cannot open" in call("restore", shared_week.folder, disk, "--overwrite").err


def test_quiet_shows_only_what_was_asked_for(shared_week: Week, tmp_path: Path) -> None:
    assert call("restore", shared_week.folder, tmp_path / "a", "-q") == (0, "", "")
    ended = call("restore", shared_week.folder, tmp_path / "b", "-q", "--json")
    assert [row["event"] for row in ended.objects] == ["result"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["{full}"], "needs a SOURCE and a TARGET"),
        (["{folder}", "{full}", "new.raw"], "both folders and backups"),
        (["{full}", "new.raw", "--at", "2026-11-15 23:30"], "no SOURCE is one"),
        (["{folder}", "new.raw", "--at", "last week"], "--at is no point in time: 'last week'"),
        (
            ["{folder}", "new.raw", "--at", "2026-11-18"],
            "For the end of that day: '2026-11-18 23:59'",
        ),
        (["{folder}", "new.raw", "--vm", "nobody"], "no backup of"),
        (["{full}", "new.raw", "--url-file", "{url}"], "there is no new.raw to restore from"),
        (["{full}", "-"], "standard output"),
        (["{full}", "new.raw", "--check"], "not a URL"),
        (["https://host/images/7a3f", "new.raw"], "not a URL"),
    ],
)
def test_arguments_that_cannot_work(
    shared_week: Week,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    text: str,
) -> None:
    url = tmp_path.with_name(f"{tmp_path.name}-url")
    url.write_text("https://host/images/7a3f")
    known = {"full": shared_week.full, "folder": shared_week.folder, "url": url}
    given = [a.format_map(known) for a in arguments]
    monkeypatch.chdir(tmp_path)
    ended = call("restore", *given)
    assert (ended.status, ended.out) == (64, "")
    assert text in ended.err
    assert len(ended.err.splitlines()) <= 2
    assert "7a3f" not in ended.err
    assert list(tmp_path.iterdir()) == []


def test_salvage_reads_no_folder(shared_week: Week, tmp_path: Path) -> None:
    ended = call("salvage", shared_week.folder, tmp_path / "new.raw")
    assert ended.status == 64
    assert f"{shared_week.folder} is a folder" in ended.err
