"""The stream format as pure bytes: headers, member names, preamble, manifest, digests."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import tarfile
import zlib
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tapestream import BackupInfo
from tapestream.errors import (
    CorruptStreamError,
    DigestMismatchError,
    ForeignStreamError,
    NewerFormatError,
    StreamError,
    UsageError,
)
from tapestream.model.extents import Extent, Extents, Kind
from tapestream.tar.digests import ALGORITHMS, check_algorithm, digest_of
from tapestream.tar.fields import decode_object
from tapestream.tar.format import (
    BLOCK,
    EXTENTS,
    INFO,
    MANIFEST,
    MAX_ATTACHMENTS,
    MAX_EXTENTS,
    MAX_MEMBER,
    MAX_SEGMENT,
    Header,
    HeaderWriter,
    Member,
    count_segments,
    data_length,
    data_members,
    padded,
    padding,
    parse_header,
)
from tapestream.tar.manifest import Manifest, segments
from tapestream.tar.preamble import Preamble, attachment_member
from tests.strategies import extent_lists

MTIME = 1_800_000_000
LAST_MTIME = 8**11 - 1

sizes = st.integers(0, MAX_MEMBER)
names = st.one_of(
    st.sampled_from([INFO, EXTENTS, MANIFEST]),
    st.builds(Member, st.integers(1, 2**40), st.integers(0, 2**63), sizes).map(lambda m: m.name),
    st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/"), min_size=1)
    .map(lambda name: f"attachments/{name}")
    .filter(lambda name: len(name.encode()) <= 100),
)


# --- Headers ---


@given(name=names, size=sizes, mtime=st.integers(0, LAST_MTIME))
def test_headers_are_what_tarfile_reads(name: str, size: int, mtime: int) -> None:
    block = HeaderWriter(mtime).header(name, size)
    info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    assert (info.name, info.size, info.mtime, info.type) == (name, size, mtime, tarfile.REGTYPE)
    assert (info.mode, info.uid, info.gid, info.linkname) == (0o600, 0, 0, "")
    assert block[257:265] == b"ustar\x0000"
    assert parse_header(block) == Header(name, size)


@given(name=names, size=sizes)
def test_headers_that_tarfile_writes_are_read(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size = size
    assert parse_header(info.tobuf(tarfile.USTAR_FORMAT, "utf-8")) == Header(name, size)


@pytest.mark.parametrize(
    ("name", "size"), [(INFO, 0), ("extent-17@9876543210", MAX_MEMBER), ("a" * 100, 8**10)]
)
def test_a_flipped_bit_in_a_header_is_found_or_changes_nothing(name: str, size: int) -> None:
    block = HeaderWriter(MTIME).header(name, size)
    unnoticed = set()
    for bit in range(len(block) * 8):
        damaged = bytearray(block)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            assert parse_header(bytes(damaged)) == Header(name, size)
            unnoticed.add(bit // 8)
        except CorruptStreamError:
            pass
    # In the checksum, and only there, a leading zero may become a space, a NUL a space.
    assert unnoticed <= set(range(148, 156))


@pytest.mark.parametrize(
    ("offset", "field"),
    [
        (124, b"0000000000 9"),
        (124, b"           \0"),  # no digits at all
        (124, b"-0000000001\0"),
        (124, b"0o000000001\0"),
        (124, b"\x80\0\0\0\0\0\0\0\0\0\1\0"),  # GNU's base 256
        (124, b"1 000000000\0"),
        (124, "٣".encode().ljust(12, b"\0")),  # a digit, but not of ours
        (148, b"        "),
        (148, b"+012345\0"),
        (156, b"5"),  # a directory
        (156, b"2"),
        (156, b"L"),
        (156, b"x"),
        (345, b"prefix"),
        (0, b"\xff\xfe"),  # not UTF-8
    ],
)
def test_fields_of_a_header_that_are_not_ours(offset: int, field: bytes) -> None:
    block = bytearray(HeaderWriter(MTIME).header("name", 5))
    block[offset : offset + len(field)] = field
    if offset != 148:
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
    with pytest.raises(CorruptStreamError):
        parse_header(bytes(block))


@pytest.mark.parametrize(
    "field", [b"00000000012\0", b"00000000012 ", b"         12\0", b"12\0\0\0\0\0\0\0\0\0\0"]
)
def test_octal_numbers_as_other_tars_write_them(field: bytes) -> None:
    block = bytearray(HeaderWriter(MTIME).header("name", 5))
    block[124:136] = field
    block[148:156] = b" " * 8
    block[148:156] = b"%07o\0" % sum(block)  # as some write it
    assert parse_header(bytes(block)) == Header("name", 10)


def test_zeros_are_no_header() -> None:
    assert parse_header(bytes(BLOCK)) is None


@pytest.mark.parametrize(("name", "size"), [("a" * 101, 0), ("ä" * 51, 0), ("a", MAX_MEMBER + 1)])
def test_what_does_not_fit_into_a_header(name: str, size: int) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        HeaderWriter(MTIME).header(name, size)


@pytest.mark.parametrize("mtime", [LAST_MTIME + 1, -(8**10)])
def test_no_header_is_longer_than_a_block(mtime: int) -> None:
    try:
        block = HeaderWriter(mtime).header("name", 5)
    except ValueError:
        return
    assert parse_header(block) == Header("name", 5)
    assert len(block) == BLOCK


@pytest.mark.parametrize(("size", "pad"), [(0, 0), (1, 511), (511, 1), (512, 0), (513, 511)])
def test_padding(size: int, pad: int) -> None:
    assert padding(size) == pad


def test_padding_to_a_record() -> None:
    assert padding(10241, 10240) == 10239


# --- Data members ---


@given(extent_lists(), st.integers(1, 6000))
def test_data_members_cover_the_data(extents: list[Extent], part_size: int) -> None:
    members = list(data_members(Extents.of(extents), part_size))
    data = [extent for extent in extents if extent.kind is Kind.DATA]
    assert sorted({m.number for m in members}) == list(range(1, len(data) + 1))
    assert [m.start for m in members] == sorted({m.start for m in members})
    for number, extent in enumerate(data, 1):
        parts = [m for m in members if m.number == number]
        assert parts[0].start == extent.start
        for part, following in itertools.pairwise(parts):
            assert part.length == part_size
            assert part.start + part_size == following.start
        assert 1 <= parts[-1].length <= part_size
        assert parts[-1].start + parts[-1].length == extent.start + extent.length


@given(extent_lists(), st.sampled_from([512, 1024, 1536, 4096]))
def test_segments_cover_the_members(extents: list[Extent], part_size: int) -> None:
    preamble = PREAMBLE._replace(part_size=part_size)
    listed = Extents.of(extents)
    by_member: dict[Member, list[tuple[int, int]]] = {}
    for member, segment in segments(listed, preamble):
        by_member.setdefault(member, []).append(segment)
    assert list(by_member) == list(data_members(listed, part_size))
    for member, cut in by_member.items():
        assert [start for start, _ in cut] == list(
            range(member.start, member.start + member.length, preamble.segment_size)
        )
        assert sum(length for _, length in cut) == member.length


@given(extent_lists(), st.integers(1, 20).map(lambda n: n * 512), st.integers(0, 40_000))
def test_what_follows_from_the_extents_alone(
    extents: list[Extent], part_size: int, begin: int
) -> None:
    """Lengths and numbers that are computed, held against those that are counted."""
    listed = Extents.of(extents)
    members = list(data_members(listed, part_size))
    assert data_length(listed, part_size) == sum(512 + padded(m.length) for m in members)
    preamble = PREAMBLE._replace(part_size=part_size)
    assert count_segments(listed, part_size) == len(list(segments(listed, preamble)))
    behind = [m for m in members if m.start >= begin]
    assert list(data_members(listed, part_size, begin)) == behind


def test_names_of_data_members() -> None:
    extents = Extents.of([Extent(0, 10, zero=True), Extent(10, 25), Extent(35, 1)])
    assert [m.name for m in data_members(extents, 10)] == [
        "extent-1@10",
        "extent-1@20",
        "extent-1@30",
        "extent-2@35",
    ]


def test_a_member_of_the_largest_disk_has_a_header() -> None:
    name = Member(2**63 - 1, 2**63 - 1, 1).name
    assert parse_header(HeaderWriter(MTIME).header(name, 1)) == Header(name, 1)


# --- Attachments ---


@pytest.mark.parametrize("name", ["vm.ovf", "größer.xml", "a" * 88, "...", ".hidden", "a b", "-rf"])
def test_attachment_names(name: str) -> None:
    assert attachment_member(name) == f"attachments/{name}"


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "a/b", "/etc/passwd", "../x", "a\0b", "a\nb", "\x7f", "a" * 89, "ä" * 45),
        "\udc80",
    ],
)
def test_attachment_names_that_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="plain file name"):
        attachment_member(name)


# --- The preamble ---

INFO_OF_ALL = BackupInfo(
    vm_id="7f5c",
    vm_name="größer",
    disk_id="4a1e",
    disk_name="system",
    backup_id="b1",
    checkpoint_id="c2",
    parent_checkpoint_id="c1",
    created=datetime(2026, 11, 23, 15, 0, 1, tzinfo=timezone.utc),
    metadata={"tags": [1, None, {"a": True}]},
    size=2**40,
    context="dirty",
)
PREAMBLE = Preamble(INFO_OF_ALL, "sha256", 1024**3, 10240, volume=3, software="tapestream 0")
VALUES: dict[str, Any] = json.loads(PREAMBLE.encode())

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=3),
    max_leaves=5,
)
texts = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
infos = st.builds(
    BackupInfo,
    vm_id=texts,
    vm_name=texts,
    disk_id=texts,
    disk_name=texts,
    backup_id=texts,
    checkpoint_id=texts,
    parent_checkpoint_id=texts,
    created=st.none()
    | st.datetimes(
        datetime(1970, 1, 2), datetime(2242, 1, 1), timezones=st.timezones(), allow_imaginary=False
    ),
    metadata=st.dictionaries(
        st.text("abcü", max_size=5), st.none() | st.integers() | st.booleans()
    ),
    size=st.integers(0, 2**63 - 1),
    context=st.sampled_from(["zero", "dirty"]),
)


attachment_names = st.text('abc .ö"', min_size=1, max_size=20).map(lambda name: f"x{name}")
members = st.builds(
    lambda extents, attachments: (
        Header(EXTENTS, extents),
        *(Header(f"attachments/{name}", size) for name, size in attachments.items()),
    ),
    st.integers(0, MAX_EXTENTS),
    st.dictionaries(attachment_names, st.integers(0, MAX_ATTACHMENTS), max_size=4),
)


@given(
    st.builds(
        Preamble,
        infos,
        checksum=st.sampled_from([*ALGORITHMS, None]),
        part_size=st.integers(1, MAX_MEMBER // BLOCK).map(lambda n: n * BLOCK),
        record_size=st.integers(1, 2048).map(lambda n: n * BLOCK),
        set_id=st.none(),
        volume=st.integers(1, 2**31),
        volume_start=st.just(0),
        software=st.text("abc 1.2", max_size=20),
        members=st.none() | members,
        members_problem=st.none(),
    )
)
def test_preamble_round_trip(preamble: Preamble) -> None:
    assert Preamble.decode(preamble.encode()) == preamble


SOME = [{"name": "extents.json", "size": 5}, {"name": "attachments/a", "size": 0}]


@pytest.mark.parametrize("text", [{}, {"members": None}])
def test_members_of_older_software(text: dict[str, None]) -> None:
    preamble = Preamble.decode(json.dumps({**VALUES, **text}).encode())
    assert preamble.members is None
    assert (preamble.extents_size, preamble.attachments) == (None, {})


def test_members_may_say_more() -> None:
    listed = [{**member, "colour": "red"} for member in SOME]
    preamble = Preamble.decode(json.dumps({**VALUES, "members": listed}).encode())
    assert preamble.extents_size == 5
    assert preamble.attachments == {"attachments/a": 0}


@pytest.mark.parametrize(
    "listed",
    [
        [],
        {},
        "members",
        5,
        True,
        [5],
        [None],
        [[]],
        [{}],
        SOME[1:],
        SOME[::-1],
        [*SOME, SOME[0]],
        [*SOME, SOME[1]],
        [{"name": "extents.json"}],
        [{"size": 5}],
        [{"name": None, "size": 5}],
        [{"name": 5, "size": 5}],
        *(
            [{"name": "extents.json", "size": size}]
            for size in (-1, 1.0, "5", None, True, [5], MAX_EXTENTS + 1, 10**30)
        ),
        *(
            [SOME[0], {"name": "attachments/a", "size": size}]
            for size in (-1, MAX_ATTACHMENTS + 1, 2**63)
        ),
        *(
            [SOME[0], {"name": name, "size": 5}]
            for name in (
                "vm.ovf",
                "extent-1@0",
                "manifest.json",
                "attachments",
                "attachments/",
                "attachments/..",
                "attachments/a/b",
                "attachments/a\n",
                "attachments/\ud800",
                "attachments/" + "a" * 89,
            )
        ),
        [SOME[0], *({"name": f"attachments/{n}", "size": 0} for n in range(100_001))],
    ],
    ids=lambda listed: repr(listed)[:60],
)
def test_members_that_are_refused(listed: Any) -> None:
    """Whoever reads the members refuses them: the rest of the preamble is good."""
    preamble = Preamble.decode(json.dumps({**VALUES, "members": listed}).encode())
    problem = preamble.members_problem
    assert problem is not None
    assert problem.startswith("backup-info.json is damaged: ")
    assert preamble._replace(members_problem=None) == PREAMBLE


def test_unknown_keys_are_ignored() -> None:
    assert Preamble.decode(json.dumps({**VALUES, "colour": ["red"]}).encode()) == PREAMBLE


@pytest.mark.parametrize("part_size", [512, 1024**2, 1024**3, 7 * 1024**3, MAX_MEMBER - 511])
def test_segments_divide_parts(part_size: int) -> None:
    size = PREAMBLE._replace(part_size=part_size).segment_size
    assert size <= MAX_SEGMENT
    assert part_size % size == 0


@pytest.mark.parametrize("version", [2, 3, 10**30])
def test_newer_version(version: int) -> None:
    # It may lack anything that version 1 has.
    text = json.dumps({"format": "tapestream", "version": version}).encode()
    with pytest.raises(NewerFormatError, match=f"version {version}; .*Update"):
        Preamble.decode(text)


@pytest.mark.parametrize("format_", ["tar", "", None, 1, ["tapestream"], {"tapestream": 1}])
def test_another_format(format_: Any) -> None:
    with pytest.raises(ForeignStreamError):
        Preamble.decode(json.dumps({**VALUES, "format": format_}).encode())


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"1",
        b'"tapestream"',
        b"\xff\xff\xff",
        b"[" * 100_000,
        b"1" * 5000,
    ],
    ids=lambda text: text[:9],
)
def test_what_is_not_a_json_object(text: bytes) -> None:
    with pytest.raises(CorruptStreamError, match=f"^{INFO} is not "):
        decode_object(INFO, text)


REQUIRED = ("version", "volume", "volume_start", "segment_size", "part_size", "record_size")
REQUIRED_TOO = ("size", "context", "checksum")


@pytest.mark.parametrize(
    "key",
    [
        *REQUIRED,
        *(key for key in REQUIRED_TOO),
    ],
)
def test_a_missing_key(key: str) -> None:
    values = {k: v for k, v in VALUES.items() if k != key}
    with pytest.raises(CorruptStreamError, match=key):
        Preamble.decode(json.dumps(values).encode())


@pytest.mark.parametrize("key", sorted(VALUES.keys() - {*REQUIRED, *REQUIRED_TOO, "format"}))
def test_a_key_that_may_be_missing(key: str) -> None:
    values = {k: v for k, v in VALUES.items() if k != key}
    assert Preamble.decode(json.dumps(values).encode()).part_size == PREAMBLE.part_size


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", 0),
        ("version", True),
        ("version", "1"),
        ("version", 1.0),
        ("volume", 0),
        ("volume", True),
        ("volume", 1.5),
        ("checksum", "md5"),
        ("checksum", 5),
        ("checksum", ["sha256"]),
        ("part_size", 0),
        ("part_size", 511),
        ("part_size", MAX_MEMBER + 1),
        ("part_size", 1024.0**3),
        ("record_size", -512),
        ("record_size", 1024**4),
        ("segment_size", 512),
        ("segment_size", None),
        ("size", -1),
        ("size", "5"),
        ("size", 5.0),
        ("size", True),
        ("context", "full"),
        ("context", ["zero"]),
        ("vm_id", 5),
        ("created", 5),
        ("created", "yesterday"),
        ("created", "2026-11-23T15:00:01"),
        ("metadata", None),
        ("metadata", [1]),
        ("metadata", {"a": float("nan")}),
        ("created", "0001-01-01T00:00:00+0500"),
        ("record_size", 10241),
    ],
)
def test_an_impossible_value(key: str, value: Any) -> None:
    with pytest.raises(CorruptStreamError):
        Preamble.decode(json.dumps({**VALUES, key: value}).encode())


@given(st.sampled_from(sorted(VALUES)), json_values)
@example("version", 10**30)
@example("metadata", {"\ud800": "\ud800"})
def test_any_value_decodes_or_is_a_stream_error(key: str, value: Any) -> None:
    with contextlib.suppress(StreamError):
        Preamble.decode(json.dumps({**VALUES, key: value}).encode())


@given(st.binary(max_size=60) | json_values.map(lambda v: json.dumps(v).encode()))
def test_any_text_decodes_or_is_a_stream_error(text: bytes) -> None:
    with pytest.raises(StreamError):
        Preamble.decode(text)


# --- The manifest ---

LISTED = Extents.of([Extent(0, 1000), Extent(1000, 24, zero=True), Extent(1024, 3000)])
LAYOUT = PREAMBLE._replace(part_size=1024)  # and segments of as much: 1 and 3
FOUND = Manifest(
    checksum="sha256",
    data_extents=2,
    data_members=4,
    data_bytes=4000,
    members={INFO: "aa", EXTENTS: "bb"},
    segments=b"".join(digest_of("sha256", bytes([i])) for i in range(4)),
)


def text_of(manifest: Manifest) -> bytes:
    text = b"".join(manifest.encode())
    assert len(text) == manifest.length
    return text


def check(wanted: dict[str, Any], *, data_too: bool = True) -> None:
    text = json.dumps(wanted).encode()
    for error in FOUND.differences(text, LISTED, LAYOUT, data_too=data_too):
        raise error


def test_manifest_as_written() -> None:
    values = json.loads(text_of(FOUND))
    assert values["segments"] == [hashlib.sha256(bytes([i])).hexdigest() for i in range(4)]
    assert {k: v for k, v in values.items() if k != "segments"} == {
        "version": 1,
        "volume": 1,
        "continues": False,
        "data_extents": 2,
        "data_members": 4,
        "data_bytes": 4000,
        "checksum": "sha256",
        "members": {INFO: "aa", EXTENTS: "bb"},
        "start": 0,
        "set_id": None,
    }
    check(values)


@pytest.mark.parametrize("algorithm", ["sha256", "crc32"])
@pytest.mark.parametrize("count", [0, 1, 2, 9_999, 10_000, 10_001, 20_000, 25_000])
def test_a_manifest_of_any_length(algorithm: str, count: int) -> None:
    size = len(digest_of(algorithm, b""))
    digests = [i.to_bytes(size, "big") for i in range(count)]
    manifest = FOUND._replace(checksum=algorithm, segments=b"".join(digests))
    assert json.loads(text_of(manifest))["segments"] == [d.hex() for d in digests]


def test_manifest_without_checksum() -> None:
    manifest = FOUND._replace(checksum=None, members={}, segments=b"")
    assert json.loads(text_of(manifest))["segments"] == []
    assert not list(manifest.differences(text_of(manifest), LISTED, LAYOUT))


@pytest.mark.parametrize("key", json.loads(text_of(FOUND)))
@given(value=json_values)
def test_any_other_value_in_the_manifest_is_found(key: str, value: Any) -> None:
    wanted = json.loads(text_of(FOUND))
    # True is 1 and 1.0 is 1, in Python: nothing is hidden by that.
    if value != wanted[key]:
        with pytest.raises(CorruptStreamError):
            check({**wanted, key: value})


def test_differences_come_in_the_order_of_the_manifest() -> None:
    wanted = json.loads(text_of(FOUND))
    others = {key: "x" for key in wanted if key not in ("members", "segments")}
    found = FOUND.differences(json.dumps({**wanted, **others}).encode(), LISTED, LAYOUT)
    told = [str(error.args[0]).split()[2] for error in found]
    assert told == list(others)


@pytest.mark.parametrize("key", json.loads(text_of(FOUND)))
def test_a_key_too_few_in_the_manifest(key: str) -> None:
    wanted = json.loads(text_of(FOUND))
    del wanted[key]
    with pytest.raises(CorruptStreamError, match="keys"):
        check(wanted)


def test_a_key_too_many_in_the_manifest() -> None:
    with pytest.raises(CorruptStreamError, match="keys"):
        check({**json.loads(text_of(FOUND)), "more": 1})


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({INFO: "aa", EXTENTS: "cc"}, f"{EXTENTS} does not match"),
        ({INFO: "a", EXTENTS: "c"}, f"{INFO}, {EXTENTS} does not match"),
        ({INFO: "aa"}, "lists other members"),
        ({INFO: "aa", EXTENTS: "bb", "attachments/x": "cc"}, "lists other members"),
        ([], "lists other members"),
    ],
)
def test_digests_of_members(members: Any, message: str) -> None:
    with pytest.raises(CorruptStreamError, match=message):
        check({**json.loads(text_of(FOUND)), "members": members})


@pytest.mark.parametrize(
    ("index", "member", "start", "length"),
    [
        (0, "extent-1@0", 0, 1000),
        (1, "extent-2@1024", 1024, 1024),
        (2, "extent-2@2048", 2048, 1024),
        (3, "extent-2@3072", 3072, 952),
    ],
)
def test_a_digest_tells_where_the_damage_is(
    index: int, member: str, start: int, length: int
) -> None:
    wanted = json.loads(text_of(FOUND))
    wanted["segments"][index] = "00" * 32
    with pytest.raises(
        DigestMismatchError, match=f"{member}: the {length} bytes at disk offset {start} "
    ) as caught:
        check(wanted)
    assert (caught.value.start, caught.value.length) == (start, length)
    check(wanted, data_too=False)


@pytest.mark.parametrize(
    "wrong", [[], ["00"], [5, None, {}, []], ["00"] * 5, {"a": 1}, None, "0" * 256]
)
def test_segments_that_cannot_be(wrong: Any) -> None:
    with pytest.raises(CorruptStreamError):
        check({**json.loads(text_of(FOUND)), "segments": wrong})


# --- Digests ---


@pytest.mark.parametrize(
    ("algorithm", "data", "digest"),
    [
        ("sha256", b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ("sha256", b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        ("crc32", b"", "00000000"),
        ("crc32", b"123456789", "cbf43926"),
        # RFC 7693's function with a 32-byte digest, as `b2sum -l 256` prints it.
        ("blake2b", b"", "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8"),
        ("blake2b", b"abc", "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319"),
    ],
)
def test_known_digests(algorithm: str, data: bytes, digest: str) -> None:
    assert digest_of(algorithm, data).hex() == digest


REFERENCES = {
    "sha256": lambda data: hashlib.sha256(data).digest(),
    "blake2b": lambda data: hashlib.blake2b(data, digest_size=32).digest(),
    "crc32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@given(chunks=st.lists(st.binary(max_size=50)))
def test_digests_of_pieces(algorithm: str, chunks: list[bytes]) -> None:
    digest = ALGORITHMS[algorithm]()
    for chunk in chunks:
        digest.update(memoryview(chunk))
    assert digest.digest() == REFERENCES[algorithm](b"".join(chunks))


@pytest.mark.parametrize("name", ["md5", "SHA256", "", "none"])
def test_unknown_digests(name: str) -> None:
    with pytest.raises(UsageError, match="sha256, blake2b, crc32, or None"):
        check_algorithm(name)


@pytest.mark.parametrize("name", [*ALGORITHMS, None])
def test_known_names(name: str | None) -> None:
    check_algorithm(name)
