"""Names for the files of backups."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestream import BackupInfo, TarStreamSink, copy
from tapestream.archive import file_name, read_folder
from tapestream.errors import UsageError
from tapestream.testing.memory import MemorySource

CREATED = datetime(2026, 11, 18, 22, 30, tzinfo=timezone.utc)
TRICKY = "aZ0 ./\\-_{}%$\0\n\x9b\u00e9\u0308\u202e\u5b57\U0001f600"
INFO = BackupInfo(
    vm_id="v-1",
    vm_name="mail",
    disk_id="d-1",
    disk_name="mail_Disk1",
    backup_id="b-1",
    checkpoint_id="c-1",
    created=CREATED,
)


@pytest.mark.parametrize(
    ("info", "template", "name"),
    [
        ({}, "{vm}_{disk}_{time}_{kind}", "mail_mail_Disk1_20261118T223000Z_full.tar"),
        ({"context": "dirty"}, "{kind}", "incremental.tar"),
        ({"vm_name": None, "disk_name": None}, "{vm}-{disk}", "v-1-d-1.tar"),
        ({}, "{vm_id}.{disk_id}.{backup}.{checkpoint}", "v-1.d-1.b-1.c-1.tar"),
        ({"vm_name": "../../etc/passwd"}, "{vm}", "_._.._etc_passwd.tar"),
        ({"vm_name": "a b;rm -rf $HOME\n`x`"}, "{vm}", "a_b_rm_-rf__HOME__x_.tar"),
        ({"vm_name": "-rf"}, "{vm}", "_rf.tar"),
        ({"vm_name": "Gro\u0308\u00dfe\u202e.rat"}, "{vm}", "Gr\u00f6\u00dfe_.rat.tar"),
        ({"vm_name": "{disk}"}, "{vm}", "_disk_.tar"),
        ({"vm_name": "v" * 60 + "_Disk2"}, "{vm}", "v" * 24 + "_" + "v" * 17 + "_Disk2.tar"),
    ],
)
def test_names(info: dict[str, Any], template: str, name: str) -> None:
    given_info = BackupInfo(**{**vars(INFO), **info})
    assert file_name(given_info, template) == name


def test_the_suffix_is_that_of_the_backend() -> None:
    assert file_name(INFO, "{vm}", suffix=".tar.age") == "mail.tar.age"
    assert file_name(INFO, "{vm}", suffix="") == "mail"


def test_a_name_that_is_taken_gets_a_number() -> None:
    taken = ["MAIL.tar", "mail-2.tar", "other"]
    assert file_name(INFO, "{vm}", taken=taken) == "mail-3.tar"
    assert file_name(INFO, "{vm}", suffix=".raw", taken=taken) == "mail.raw"


@given(*[st.text(list(TRICKY), min_size=1, max_size=80)] * 2)
def test_every_name_is_safe(vm: str, disk: str) -> None:
    name = file_name(BackupInfo(vm_name=vm, disk_name=disk, created=CREATED))
    assert len(name.encode()) <= 230
    assert not name.startswith((".", "-"))
    assert all(c.isalnum() or c in "._-" for c in name)


def test_two_disks_of_one_name_get_two_files(tmp_path: Path) -> None:
    for disk_id in "ab":
        info = BackupInfo(vm_name="vm/1", disk_id=disk_id, disk_name="Disk1", created=CREATED)
        with MemorySource(bytes(4096), info=info) as source:
            name = file_name(source.info, taken=os.listdir(tmp_path))
            with TarStreamSink(tmp_path / name) as sink:
                copy(source, sink)
    archive = read_folder(tmp_path)
    assert {one.info.disk_id for one in archive.backups} == {"a", "b"}


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{host}", r"no field \{host\}. It can have \{vm\}, "),
        ("{vm.__class__}", r"no field \{vm.__class__\}"),
        ("{}", r"no field \{\}"),
        ("{vm!r}", r"no field \{vm!r\}"),
        ("{vm", "no file can have the name '{vm.tar'"),
        ("backups/{vm}", "no file can have the name 'backups/mail.tar'"),
        ("", "no file can have the name '.tar'"),
        ("{vm}" * 10 + "x" * 200, "is too long for a file"),
        (7, "must be texts"),
    ],
)
def test_templates_that_cannot_work(template: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        file_name(INFO, template)


def test_what_the_backup_does_not_say() -> None:
    with pytest.raises(UsageError, match="the backup does not say its time"):
        file_name(BackupInfo(vm_name="a", disk_name="b"))
    with pytest.raises(UsageError, match="from a BackupInfo, not from 'mail'"):
        file_name("mail")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no file can have the name 'mail/x'"):
        file_name(INFO, "{vm}", suffix="/x")
