"""`tapestream verify`, `compare`, `merge`, `salvage` and `extents`, and what their statuses say."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from tapestream import Extent, Extents, TarStreamSource
from tapestream.cli.extents import strip_of
from tapestream.testing import Cartridge, FakeDrive

from .conftest import MIB, Disk, Week, write_sparse
from .program import PROGRAM, call, environment, run, start


def damage(path: Path) -> None:
    """Change a byte of the data."""
    with path.open("r+b") as file:
        file.seek(100_000)
        byte = file.read(1)
        file.seek(100_000)
        file.write(bytes([byte[0] ^ 1]))


def test_a_good_backup_has_status_0(shared_week: Week) -> None:
    ended = call("verify", shared_week.folder)
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.splitlines()[-1] == "2 good, 0 bad, 0 not backups"
    ended = run("verify", "-", stdin=shared_week.full.read_bytes())
    assert ended.status == 0
    assert len(ended.out.splitlines()) == 1


def test_a_damaged_one_has_status_1(week: Week) -> None:
    damage(week.full)
    ended = call("verify", week.full, week.incremental, "--json")
    assert ended.status == 1
    bad, good = (row for row in ended.objects if row["event"] == "verified")
    assert [bad["ok"], bad["complete"], good["ok"]] == [False, True, True]
    assert bad["damage"][0]["start"] == 0
    os.truncate(week.incremental, 100_000)
    assert call("verify", week.incremental).status == 1


def test_what_is_not_a_backup_has_status_2(week: Week) -> None:
    other = week.folder / "other.raw"
    other.write_bytes(week.sunday)
    ended = call("verify", other)
    assert ended.status == 2
    assert len(ended.err.splitlines()) == 2
    assert call("verify", other, week.full).status == 2
    damage(week.full)
    assert call("verify", other, week.full).status == 1


def test_what_is_not_there_has_status_1_and_the_others_are_verified(shared_week: Week) -> None:
    ended = call("verify", "/nowhere.tar", shared_week.full)
    assert ended.status == 1
    assert "1 good, 1 bad" in ended.out
    assert "/nowhere.tar" in ended.err


def test_a_folder_without_backups_is_not_good(tmp_path: Path) -> None:
    ended = call("verify", tmp_path)
    assert ended.status == 2
    assert "has no backups" in ended.err


def test_disks_are_compared(shared_week: Week, disk: Disk, tmp_path: Path) -> None:
    image = tmp_path / "a.raw"
    write_sparse(image, shared_week.sunday)
    assert call("compare", shared_week.full, image).status == 0
    server = ["--url-file", disk.url_file, "--cafile", disk.cafile]
    assert call("compare", image, *server, "--quiet") == (0, "", "")
    ended = call("compare", shared_week.folder, image, "--json")
    assert ended.status == 1
    found = [(row["start"], row["length"]) for row in ended.objects if "length" in row]
    assert found == [(0, MIB), (3 * MIB, MIB)]
    assert ended.result["differing"] == 2 * MIB
    assert call("compare", image).status == 64


def test_a_chain_is_merged(shared_week: Week, tmp_path: Path) -> None:
    merged = tmp_path / "full.tar"
    assert call("merge", shared_week.folder, "-o", merged, "--checksum=none").status == 0
    with TarStreamSource(merged) as source:
        assert (source.info.checkpoint_id, source.info.context) == ("monday", "zero")
        assert source.attachments == {"vm.ovf": b"<vm/>"}
        assert source.digest_name is None
    assert call("compare", merged, shared_week.folder).status == 0
    assert call("merge", shared_week.folder, "-o", merged).status == 64


def test_a_chain_is_merged_to_a_tape(shared_week: Week, tmp_path: Path) -> None:
    catalog, drives = tmp_path / "tapes.db", {"/dev/nst0": FakeDrive(Cartridge())}
    merge = ["merge", shared_week.folder, "-o", "/dev/nst0"]
    unlabelled = call(*merge, "--catalog", catalog, drives=drives)
    assert (unlabelled.status, "no label" in unlabelled.err) == (1, True)
    assert call("tape", "label", "/dev/nst0", "VM1", drives=drives).status == 0
    other = call(*merge, "--label", "VM2", drives=drives)
    assert (other.status, "has the label VM1, not VM2" in other.err) == (1, True)
    merged = call(*merge, "--label", "VM1", "--catalog", catalog, drives=drives)
    assert merged.status == 0, merged.err
    known = call("tape", "catalog", catalog, "--json").objects
    tapes = [(row["label"], row["backups"]) for row in known if row["event"] == "tape"]
    assert tapes == [("VM1", 1)]


def test_programs_can_be_joined_by_pipes(shared_week: Week, tmp_path: Path) -> None:
    program = shlex.join(PROGRAM)
    command = f"{program} merge {shared_week.folder} -o - | {program} restore - a.raw"
    assert (
        os.spawnvpe(
            os.P_WAIT, "sh", ["sh", "-c", f"cd {tmp_path} && {command} 2>&1"], environment()
        )
        == 0
    )
    assert (tmp_path / "a.raw").read_bytes() == shared_week.monday


def test_what_is_left_is_salvaged(week: Week, tmp_path: Path) -> None:
    assert call("salvage", week.full, tmp_path / "good.raw").status == 0
    assert (tmp_path / "good.raw").read_bytes() == week.sunday
    os.truncate(week.full, 2 * MIB)
    image = tmp_path / "a.raw"
    assert call("restore", week.full, image).status == 1
    assert not image.exists()
    ended = call("salvage", week.full, image)
    assert ended.status == 1
    assert f"{MIB} bytes at disk offset {6 * MIB} are missing" in ended.out
    assert image.read_bytes()[:MIB] == week.sunday[:MIB]
    assert image.stat().st_size == len(week.sunday)


def test_extents_of_a_transfer_a_backup_and_an_image(
    shared_week: Week, disk: Disk, tmp_path: Path
) -> None:
    image = tmp_path / "a.raw"
    write_sparse(image, shared_week.sunday)
    places: list[list[object]] = [
        ["--url-file", disk.url_file, "--cafile", disk.cafile],
        [shared_week.full],
        [image],
        [shared_week.folder, "--at", "2026-11-15 23:00 UTC"],
    ]
    for place in places:
        ended = call("extents", *place, "--json")
        data = [
            (row["start"], row["length"])
            for row in ended.objects
            if row["event"] == "extent" and not row["zero"]
        ]
        starts = {start // MIB + i for start, length in data for i in range(length // MIB)}
        assert starts == {0, 1, 6}
        assert ended.result["data_bytes"] == 3 * MIB


def test_extents_as_a_table_and_as_a_strip(shared_week: Week) -> None:
    ended = call("extents", shared_week.full)
    assert ended.out.splitlines()[0].split() == ["START", "LENGTH", "KIND"]
    assert ended.out.splitlines()[-1].startswith("3.0 MiB of 8.0 MiB are data (37.5 %)")
    strip, _ = call("extents", shared_week.full, "--strip").out.splitlines()
    assert len(strip) == 80
    assert strip[1:20] == "@" * 19
    assert strip[21:58].isspace()
    assert strip[60:68] == "@" * 8
    ended = call("extents", shared_week.incremental)
    assert "clean" in ended.out


def test_a_part_of_the_disk_is_darker_the_more_of_it_is_data() -> None:
    used = [Extent(0, 4), Extent(4, 6, zero=True), Extent(10, 2), Extent(12, 4, zero=True)]
    assert strip_of(Extents.of(used), 4) == "@ + "
    assert strip_of(Extents.of([Extent(0, 1), Extent(1, 999, zero=True)]), 2) == ". "


def test_a_program_that_stops_reading_ends_it_without_a_word(shared_week: Week) -> None:
    for arguments in ["list", "--json"], ["list"]:
        process = start(*arguments, *[shared_week.folder] * 40)
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        process.stderr.close()
        assert process.wait(timeout=60) == 141


@pytest.mark.parametrize("redirect", [">/dev/full", ">&-"])
@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_output_that_cannot_be_written_is_an_error(
    shared_week: Week, redirect: str, arguments: list[str]
) -> None:
    shell = ["sh", "-c", f'exec "$@" {redirect}', "sh"]
    process = start("list", shared_week.folder, *arguments, prefix=shell)
    _, stderr = process.communicate()
    assert process.returncode == 1
    assert stderr.startswith(b"tapestream: cannot write to standard output")
    assert b"Traceback" not in stderr
