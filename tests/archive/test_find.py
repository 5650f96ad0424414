"""Which chain is found for which time, and what is said if there is none: without any file."""

from __future__ import annotations

import pickle
import time as clock
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapestream.archive import Archive, Chain, Skipped
from tapestream.errors import ChainError, NoRestorePointError, UsageError
from tapestream.model.checkpoints import order_by_checkpoint

from .histories import START, Stored, backup, chains_to, histories, newest_as_of

NIGHT = timedelta(days=1)
NO_END = "it has no end"


def places(chain: Chain) -> list[str]:
    return [one.place for one in chain.backups]


def week(*, without: str = "", broken: str = "") -> list[Stored]:
    """A full backup and four incremental ones."""
    names = ["sun", "mon", "tue", "wed", "thu"]
    made = [
        backup(name, names[night - 1] if night else None, night=night)
        for night, name in enumerate(names)
    ]
    kept = [one for one in made if one.info.checkpoint_id != without]
    return [
        replace(one, problem=NO_END) if one.info.checkpoint_id == broken else one for one in kept
    ]


def test_an_archive_for_each_disk() -> None:
    """A disk stays the same when it is moved; without an id, its name is only that of one VM."""
    sun, moved = backup("sun"), backup("mon", "sun", night=1, vm_id="other", vm_name="web")
    unnamed = [backup(f"{vm}", disk_id=None, vm_id=vm) for vm in ("a", "b")]
    archive = Archive([unnamed[0], sun, unnamed[1], moved], unreadable=[Skipped("x", "y")])
    disks = archive.disks()
    assert [disk.backups for disk in disks] == [(unnamed[0],), (sun, moved), (unnamed[1],)]
    assert not disks[0].unreadable
    assert len(disks[1].restore_points()) == 2


# Against the model


@settings(max_examples=40)
@given(disks=histories(), data=st.data())
def test_every_point_in_time_is_answered_as_by_the_model(
    disks: dict[str, list[Stored]], data: st.DataObject
) -> None:
    everything = data.draw(st.permutations([one for made in disks.values() for one in made]))
    archive = Archive(everything)
    for name, made in disks.items():
        if not made:
            continue
        ids = {"vm": name[0], "disk": f"Disk{name[1]}"}
        for hours in range(-12, 8 * 24, 12):
            at = START + timedelta(hours=hours)
            last, chains = newest_as_of(made, at)
            if chains:
                found = archive.find(at=at, **ids)
                assert tuple(places(found)) in chains
                assert len(found.backups) == min(map(len, chains))
                infos = [one.info for one in found.backups]
                assert order_by_checkpoint(infos) == list(range(len(infos)))
                continue
            with pytest.raises(NoRestorePointError) as caught:
                archive.find(at=at, **ids)
            known = [one for one in made if one.info.created and one.info.created <= at]
            whole = [one.info.created for one in known if chains_to(made, one)]
            assert caught.value.newest == max(filter(None, whole), default=None)
            assert (last is None) == ("from 2026" in caught.value.message)
            if caught.value.newest:
                assert archive.find(at=caught.value.newest, **ids).backups


@settings(max_examples=40)
@given(disks=histories(), data=st.data())
def test_without_what_is_superseded_every_answer_is_the_same(
    disks: dict[str, list[Stored]], data: st.DataObject
) -> None:
    archive = Archive(data.draw(st.permutations([b for made in disks.values() for b in made])))
    gone = archive.superseded()
    less = Archive(one for one in archive.backups if one not in gone)
    for name, made in disks.items():
        if made:
            ids = {"vm": f"{name[0]}-id", "disk": f"{name}-id"}
            before, after = archive.restore_points(**ids), less.restore_points(**ids)
            assert [(p.time, p.chain) for p in before] == [(p.time, p.chain) for p in after]
            for point in before:
                if point.chain is None:  # all of it is kept: what it lacks may come back
                    same = [b for b in made if b.info.checkpoint_id == point.checkpoint_id]
                    assert not set(map(id, same)) & set(map(id, gone))
            good = archive.good_checkpoints(**ids)
            assert good == less.good_checkpoints(**ids)
            assert set(good) == {p.checkpoint_id for p in before if p.chain is not None}
            assert all((p.problem is None) == (p.chain is not None) for p in before)
    for one in gone:
        others = [b for b in archive.backups if b.info.checkpoint_id == one.info.checkpoint_id]
        assert len(others) > 1


# Chains


def test_the_chain_leads_to_the_newest_backup_before() -> None:
    archive = Archive(reversed(week()))
    assert places(archive.find()) == ["sun.tar", "mon.tar", "tue.tar", "wed.tar", "thu.tar"]
    assert places(archive.find(at=START + 2.5 * NIGHT)) == ["sun.tar", "mon.tar", "tue.tar"]
    assert places(archive.find(at=START)) == ["sun.tar"]
    assert archive.find(at=START).info.checkpoint_id == "sun"


def test_a_later_full_backup_begins_a_new_chain() -> None:
    new = [backup("new", night=3), backup("next", "new", night=4)]
    archive = Archive([*week()[:3], *new])
    assert places(archive.find()) == ["new.tar", "next.tar"]
    assert places(archive.find(at=START + 2 * NIGHT)) == ["sun.tar", "mon.tar", "tue.tar"]


def test_a_fallback_needs_nothing_before_it() -> None:
    fell_back = backup("tue", "mon", night=2, full=True)
    archive = Archive([fell_back, backup("wed", "tue", night=3)])
    assert places(archive.find()) == ["tue.tar", "wed.tar"]


def test_branches() -> None:
    """Two lines from Monday: each has its own chain."""
    branch = [backup("tue2", "mon", night=4), backup("wed2", "tue2", night=5)]
    archive = Archive([*week()[:4], *branch])
    assert places(archive.find()) == ["sun.tar", "mon.tar", "tue2.tar", "wed2.tar"]
    at = START + 3 * NIGHT
    assert places(archive.find(at=at)) == ["sun.tar", "mon.tar", "tue.tar", "wed.tar"]


def test_of_copies_the_first_complete_one_counts() -> None:
    full, monday, *_ = week()
    copies = [
        replace(monday, place="cut.tar", problem=NO_END),
        replace(monday, place="a.tar"),
        replace(monday, place="b.tar"),
    ]
    archive = Archive([full, *copies])
    assert places(archive.find()) == ["sun.tar", "a.tar"]
    assert [one.place for one in archive.superseded()] == ["cut.tar", "b.tar"]


def test_a_synthetic_full_backup_replaces_its_chain() -> None:
    full, monday, tuesday, *_ = week()
    merged = replace(
        monday,
        info=replace(monday.info, context="zero", parent_checkpoint_id=None),
        place="mon-full.tar",
    )
    archive = Archive([full, monday, tuesday, merged])
    assert places(archive.find()) == ["mon-full.tar", "tue.tar"]
    # Sunday can still be restored, so its backup stays.
    assert [one.place for one in archive.superseded()] == ["mon.tar"]


def test_a_backup_without_a_checkpoint_can_be_the_last() -> None:
    last = backup(None, "sun", night=1, place="last.tar")
    archive = Archive([week()[0], last, backup(None, night=-1, place="first.tar")])
    assert places(archive.find()) == ["sun.tar", "last.tar"]
    assert places(archive.find(at=START - NIGHT)) == ["first.tar"]
    assert archive.good_checkpoints("mail", "mail_Disk1") == ["sun"]


def test_the_same_file_counts_once() -> None:
    """Otherwise one name of a file would supersede the other, and both would be removed."""
    archive = Archive(week()) + Archive(week())
    assert len(archive.backups) == 5
    assert archive.superseded() == []
    assert archive.ignored == ()


def test_two_archives_become_one() -> None:
    one = Archive(week()[:2], unreadable=[Skipped("x", "y")], ignored=[Skipped("a", "b")])
    two = Archive(week()[2:], unfinished=[backup("fri", "thu", night=5)])
    both = one + two
    assert len(both.find().backups) == 5
    assert both.unreadable == one.unreadable
    assert both.ignored == one.ignored
    assert both.unfinished == two.unfinished


def test_a_chain_of_years() -> None:
    nights = [backup("0"), *(backup(str(n), str(n - 1), night=n) for n in range(1, 1500))]
    assert len(Archive(reversed(nights)).find().backups) == 1500
    with pytest.raises(NoRestorePointError, match=r"no backup of that checkpoint"):
        Archive(nights[1:]).find()


# Clocks


def test_links_and_not_clocks_say_what_comes_after_what() -> None:
    """The clock of the host was back in 2000 when Tuesday's backup was made."""
    back = datetime(2000, 1, 1, tzinfo=timezone.utc)
    full, monday, tuesday, wednesday, _ = week()
    tuesday = replace(tuesday, info=replace(tuesday.info, created=back))
    archive = Archive([full, monday, tuesday])
    assert places(archive.find()) == ["sun.tar", "mon.tar", "tue.tar"]
    assert places(archive.find(at=START)) == ["sun.tar"]
    with pytest.raises(NoRestorePointError, match=r"from 2010.* or before: the oldest is of 2026"):
        archive.find(at="2010-01-01 00:00")
    archive = Archive([full, monday, tuesday, wednesday])
    assert places(archive.find(at=START + 3 * NIGHT))[-1] == "wed.tar"


def test_no_backup_of_a_chain_is_later_than_what_was_asked_for() -> None:
    """The clock of the host was far ahead when Monday's backup was made."""
    full, monday, tuesday, *_ = week()
    monday = replace(monday, info=replace(monday.info, created=START + 1000 * NIGHT))
    archive = Archive([full, monday, tuesday])
    assert places(archive.find(at=START + 2 * NIGHT)) == ["sun.tar"]
    assert places(archive.find()) == ["sun.tar", "mon.tar", "tue.tar"]


def test_two_backups_of_one_moment() -> None:
    """Of two unrelated ones, one that can be restored is taken."""
    names = ["lost", "x", "y", "z"]
    broken = [backup(names[n], names[n - 1], night=1) for n in (1, 2, 3)]
    archive = Archive([*broken, *week()[:2]])
    assert places(archive.find()) == ["sun.tar", "mon.tar"]


def test_a_broken_backup_is_not_hidden_by_a_wrong_clock() -> None:
    """It follows Monday's, although its own time says that it is older."""
    full, monday, tuesday, *_ = week(broken="tue")
    tuesday = replace(tuesday, info=replace(tuesday.info, created=START))
    archive = Archive([full, monday, tuesday])
    with pytest.raises(NoRestorePointError, match=r"tue.tar\) is not complete"):
        archive.find()
    assert [p.checkpoint_id for p in archive.restore_points()] == ["tue", "mon", "sun"]


def test_a_backup_without_a_time_is_the_oldest() -> None:
    full, *_ = week()
    undated = replace(full, info=replace(full.info, created=None))
    assert places(Archive([undated]).find()) == ["sun.tar"]
    assert Archive([undated]).restore_points()[0].time is None
    assert places(Archive([undated, backup("mon", "sun", night=1)]).find()) == [
        "sun.tar",
        "mon.tar",
    ]


@pytest.fixture
def in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    clock.tzset()
    yield
    monkeypatch.undo()
    clock.tzset()


@pytest.mark.usefixtures("in_berlin")
@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("2026-11-02 23:00", "mon.tar"),  # the whole minute, in local time
        ("2026-11-02 22:59", "sun.tar"),
        ("2026-11-02 23:00:00", "mon.tar"),
        ("2026-11-02 22:59:59", "sun.tar"),
        ("2026-11-02T22:00Z", "mon.tar"),
        ("2026-11-02 22:00 UTC", "mon.tar"),
        ("2026-11-02 21:59 UTC", "sun.tar"),
        (" 2026-11-02 20:00-02:00", "mon.tar"),
        ("2026-11-02 23:00:00 CET", "mon.tar"),
    ],
)
def test_times_as_people_write_them(text: str, found: str) -> None:
    assert places(Archive(week()).find(at=text))[-1] == found


@pytest.mark.usefixtures("in_berlin")
def test_a_time_without_seconds_is_the_whole_minute() -> None:
    """People write what a list shows them, and it shows no seconds."""
    archive = Archive([backup("sun", created=START + timedelta(seconds=37))])
    assert places(archive.find(at="2026-11-01 23:00")) == ["sun.tar"]
    assert places(archive.find(at="2026-11-01 23:00:37")) == ["sun.tar"]
    with pytest.raises(NoRestorePointError):
        archive.find(at="2026-11-01 23:00:36")


@pytest.mark.usefixtures("in_berlin")
@pytest.mark.parametrize(
    ("text", "hour"),
    [("02:30", 0), ("02:30 CEST", 0), ("02:30 CET", 1)],
)
def test_a_local_time_that_comes_twice(text: str, hour: int) -> None:
    """On the morning of 25 October, 02:30 is 00:30 and 01:30 in UTC."""
    early = datetime(2026, 10, 25, 0, 30, tzinfo=timezone.utc)
    made = [backup("a", created=early), backup("b", created=early + timedelta(hours=1))]
    assert places(Archive(made).find(at=f"2026-10-25 {text}")) == [f"{'ab'[hour]}.tar"]


@pytest.mark.usefixtures("in_berlin")
@pytest.mark.parametrize(
    "at",
    [
        "yesterday",
        "2026-11-02",
        "23:30",
        "2026-13-02 23:30",
        "2026-11-02 25:30",
        "2026-11-02 23:30 PST",
        "2026-11-02 23:30 CEST",
        datetime(2026, 11, 2, 23, 30),
        17,
    ],
)
def test_what_is_no_time(at: object) -> None:
    with pytest.raises(UsageError, match=r"at (is|has|must)"):
        Archive(week()).find(at=at)  # type: ignore[arg-type]


# Which VM, which disk


def two_vms() -> Archive:
    return Archive(
        [
            backup("a", vm_id="v1", disk_id="d1"),
            backup("b", vm_id="v2", disk_id="d2", vm_name="web", disk_name="mail_Disk1"),
            backup("b", vm_id="v2", disk_id="d3", vm_name="web", disk_name="web_Disk2", place="c"),
        ]
    )


@pytest.mark.parametrize(
    ("ids", "found"),
    [
        ({"vm": "mail"}, "a.tar"),
        ({"vm": "v1"}, "a.tar"),
        ({"vm": "mail", "disk": "mail_Disk1"}, "a.tar"),
        ({"vm": "web", "disk": "mail_Disk1"}, "b.tar"),
        ({"disk": "d2"}, "b.tar"),
        ({"disk": "web_Disk2"}, "c"),
    ],
)
def test_by_names_and_ids(ids: dict[str, str], found: str) -> None:
    assert places(two_vms().find(**ids)) == [found]


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ({}, r"a disk can be any of 3 disks: disk mail_Disk1 \(d1\) of VM mail \(v1\); disk mail_"),
        ({"vm": "web"}, r"a disk of VM web can be any of 2 disks: .*\(d2\).*; .*\(d3\) of VM web"),
        ({"disk": "mail_Disk1"}, r"disk mail_Disk1 can be any of 2 disks: .*\(v1\).*\(v2\)"),
        ({"vm": "nil"}, r"no backup of a disk of VM nil here.* There are backups of .*d1.*d2.*d3"),
        ({"vm": "mail", "disk": "d2"}, r"no backup of disk d2 of VM mail here"),
        ({"disk": 7}, r"disk must be a name, an id or None, not 7"),
    ],
)
def test_what_is_not_clear(ids: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        two_vms().find(**ids)
    with pytest.raises(UsageError, match=said):
        two_vms().restore_points(**ids)


def test_two_vms_of_one_name() -> None:
    archive = Archive([backup("a", vm_id="v1"), backup("b", vm_id="v2", disk_id="d2")])
    with pytest.raises(UsageError, match=r"mail is the name of 2 VMs: VM mail \(v1\); .*\(v2\)"):
        archive.find(vm="mail")
    with pytest.raises(UsageError, match=r"mail is the name of 2 VMs"):
        archive.good_checkpoints("mail", "mail_Disk1")
    assert places(archive.find(vm="v2")) == ["b.tar"]


def test_many_candidates_are_not_all_listed() -> None:
    archive = Archive(backup(str(n), disk_id=str(n)) for n in range(100))
    with pytest.raises(UsageError, match=r"of 100 disks: .* and 80 more"):
        archive.find()


def test_nothing_at_all() -> None:
    with pytest.raises(UsageError, match=r"no backup of a disk here. There are no backups here"):
        Archive([]).find()
    assert Archive([]).good_checkpoints("vm", "disk") == []
    assert Archive([]).superseded() == []


def test_a_vm_with_a_new_name() -> None:
    monday = backup("mon", "sun", night=1, vm_name="old-mail")
    archive = Archive([week()[0], monday])
    assert places(archive.find(vm="mail")) == places(archive.find(vm="old-mail"))


def test_a_disk_that_was_moved_to_another_vm() -> None:
    archive = Archive([*week()[:2], backup("x", night=5, vm_id="v2", vm_name="web")])
    assert places(archive.find(vm="mail")) == ["sun.tar", "mon.tar"]
    assert places(archive.find(vm="web")) == ["x.tar"]
    assert places(archive.find(disk="disk-id")) == ["x.tar"]


def test_backups_that_do_not_say_of_which_vm_they_are() -> None:
    silent = backup("sun", vm_id=None, vm_name=None)
    archive = Archive([silent, backup("mon", "sun", night=1)])
    assert places(archive.find(vm="mail")) == ["sun.tar", "mon.tar"]
    assert places(archive.find(vm="mail", at=START)) == ["sun.tar"]
    named = backup("old", vm_id=None, night=-1)
    assert places((archive + Archive([named])).find(vm="mail", at=START - NIGHT)) == ["old.tar"]


def test_disks_without_ids_are_told_apart_by_their_vms() -> None:
    made = [
        backup(name, vm_id=None, vm_name=name, disk_id=None, disk_name="Disk1") for name in "ab"
    ]
    assert places(Archive(made).find(vm="b", disk="Disk1")) == ["b.tar"]
    unknown = backup("u", vm_id=None, vm_name=None, disk_id=None, disk_name=None)
    with pytest.raises(UsageError, match="an unknown disk of an unknown VM"):
        Archive([*made, unknown]).find()


def test_disks_that_share_a_checkpoint() -> None:
    """A checkpoint is of the VM: the backup of one disk is no link for the other."""
    other = {"disk_id": "d2", "disk_name": "mail_Disk2"}
    second = [
        backup("sun", place="2sun", **other),  # type: ignore[arg-type]
        backup("tue", "mon", night=2, place="2tue", **other),  # type: ignore[arg-type]
    ]
    archive = Archive([*week()[:3], *second])
    assert archive.good_checkpoints("mail", "mail_Disk1") == ["tue", "mon", "sun"]
    assert archive.good_checkpoints("mail", "d2") == ["sun"]
    assert archive.good_checkpoints("mail", "d3") == []
    points = archive.restore_points(vm="mail", disk="d2")
    assert [(p.checkpoint_id, p.problem is None) for p in points] == [("tue", False), ("sun", True)]
    assert "starts from checkpoint mon, and no backup of that checkpoint is here" in str(
        points[0].problem
    )


# What is said


@pytest.mark.usefixtures("in_berlin")
def test_a_missing_link() -> None:
    with pytest.raises(NoRestorePointError) as caught:
        Archive(week(without="tue")).find(vm="mail", at=START + 3 * NIGHT)
    error = caught.value
    assert error.message == (
        "disk mail_Disk1 (disk-id) of VM mail (vm-id) cannot be restored as of 2026-11-04 23:00:00 "
        "CET: the incremental backup wed of disk mail_Disk1 of 2026-11-04 23:00 CET (wed.tar) "
        "starts from checkpoint tue, and no backup of that checkpoint is here; the newest point "
        "that can be restored is 2026-11-02 23:00:00 CET"
    )
    assert (error.checkpoint, error.places, error.newest) == ("tue", (), START + NIGHT)
    assert isinstance(error, ChainError)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.newest) == (str(error), error.newest)
    text = error.message.rpartition(" is ")[2]
    assert places(Archive(week(without="tue")).find(at=text)) == ["sun.tar", "mon.tar"]


def test_an_aborted_link() -> None:
    archive = Archive([*week(broken="tue"), backup("later", night=9)])
    with pytest.raises(
        NoRestorePointError,
        match=r"wed.tar\) starts from checkpoint tue, and the incremental backup tue .*\(tue.tar\) "
        r"is not complete: it has no end; the newest",
    ) as caught:
        archive.find(at=START + 3 * NIGHT)
    assert (caught.value.checkpoint, caught.value.places) == ("tue", ("tue.tar",))
    with pytest.raises(
        NoRestorePointError, match=r": the incremental backup tue .* is not complete"
    ):
        archive.find(at=START + 2 * NIGHT)
    assert places(archive.find(at=caught.value.newest)) == ["sun.tar", "mon.tar"]


def test_the_newest_is_broken() -> None:
    with pytest.raises(NoRestorePointError, match="cannot be restored as of the newest backup: "):
        Archive(week(broken="thu")).find()


def test_all_copies_are_aborted() -> None:
    copies = [backup("sun", place=name, problem=NO_END) for name in ("a", "b")]
    with pytest.raises(NoRestorePointError, match=r"\(a\) is not .*; the full backup .*\(b\)") as e:
        Archive(copies).find()
    assert e.value.places == ("a", "b")
    assert "no earlier point can be restored, either" in e.value.message
    assert e.value.newest is None


def test_the_missing_link_may_be_a_file_that_cannot_be_read() -> None:
    bad = [Skipped(f"{n}.tar", "damaged") for n in range(7)]
    with pytest.raises(NoRestorePointError, match=r"may be one .*\(0.tar: damaged; .* and 2 more"):
        Archive(week(without="tue"), unreadable=bad).find()


def test_the_missing_link_is_not_finished() -> None:
    unfinished = [backup("tue", place=".tue.tar.12.partial")]
    archive = Archive(week(without="tue"), unfinished=unfinished)
    with pytest.raises(
        NoRestorePointError, match=r"\.tue\.tar\.12\.partial is a backup of it that"
    ):
        archive.find()
    # What is being written now keeps nobody from a restore.
    assert Archive(week()[:2], unfinished=unfinished).find().info.checkpoint_id == "mon"


def test_links_that_lead_nowhere() -> None:
    with pytest.raises(NoRestorePointError, match=r"does not say from which checkpoint it starts"):
        Archive([backup("mon", full=False)]).find()
    circle = [backup("a", "b", night=1), backup("b", "a", night=2)]
    with pytest.raises(NoRestorePointError, match=r"start from one another in a circle: .* from"):
        Archive(circle).find()
    with pytest.raises(NoRestorePointError, match=r"in a circle"):
        Archive([backup("a", "a")]).find()


def test_the_only_good_one_has_no_time() -> None:
    undated = backup("sun", created=None)
    with pytest.raises(NoRestorePointError, match=r"only one .* does not say its time") as caught:
        Archive([undated, backup("tue", "mon", night=2)]).find()
    assert caught.value.newest is None


def test_before_the_first_one() -> None:
    with pytest.raises(
        NoRestorePointError, match=r"of VM mail .* or before: the oldest is of 2026"
    ):
        Archive(week()).find(at=START - NIGHT)
