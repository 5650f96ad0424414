"""Whoever knows the ticket can read the disk: it must never get into an error or a log."""

from __future__ import annotations

import gc
import json
import logging
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trustme

from tapestream import ImageioHTTPSource, ImageioUploadSink, TapestreamError, TarStreamSink, copy
from tapestream.errors import UsageError
from tapestream.model.blockhash import BlockHash
from tapestream.testing import MemorySink, MemorySource
from tests.disks import noise
from tests.hostile import CloseBeforeReply, Cut, Fault, Garbage, HostileServer, Reset, Stall, Status
from tests.imageio.support import FOREVER, KIB, ChecksumServer, Say, Speak, TLSServer, always, on

TICKET = "0c8fe7ea-5d2b-4c1e-9f0a-77d3b8e1a9c4"
# What the daemon calls a transfer by: half the secret.
NAME = TICKET[:18]
URL = f"https://127.0.0.1:1/images/{TICKET}"
IMAGE = noise(200 * KIB)


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Everything that anybody logs, urllib3 included; looked through at the end of each test."""
    caplog.set_level(logging.DEBUG)
    for name in ("urllib3", "tapestream"):
        caplog.set_level(logging.DEBUG, logger=name)
    yield caplog
    check(caplog.text)
    for record in caplog.records:
        check(record.getMessage(), repr(record.args))


def check(*texts: str) -> None:
    for text in texts:
        assert NAME not in text


def check_error(error: BaseException) -> None:
    check(str(error), repr(error), repr(error.args), getattr(error, "hint", ""))
    check("".join(traceback.format_exception(error)))


def fail(work: Callable[[], object]) -> TapestreamError:
    with pytest.raises(TapestreamError) as caught:
        work()
    check_error(caught.value)
    return caught.value


def download(url: str, **options: Any) -> None:
    short = {"retries": 1, "read_timeout": 0.3, "extents_timeout": 0.3}
    options = {"secure": False, **short, **options}
    with ImageioHTTPSource(url, **options) as source:
        source.extents()
        with closing(source.open_reader()) as reader:
            check(repr(source), str(source), repr(reader), repr(source.info))
        copy(source, MemorySink())


def upload(url: str, **options: Any) -> None:
    with ImageioUploadSink(url, **{"secure": False, "read_timeout": 0.3, **options}) as sink:
        check(repr(sink), str(sink))
        copy(MemorySource(IMAGE), sink)


ECHOES = {
    "path": f"No handler for /images/{TICKET}",
    "quoted": f"No such ticket '{TICKET}'",
    "double quotes": f'{{"ticket": "{TICKET}"}}',
    "name": f"Transfer (ticket/{NAME}) forbids this",
    "end": TICKET,
    "lines": f"{TICKET}\r\n{TICKET}\n\n{TICKET}",
    "html": f'<a href="/images/{TICKET}">/images/{TICKET}</a>',
    "query": f"?ticket={TICKET}&close=y",
    "long": f"{'x' * 980} {TICKET}",
    "comma": f"{TICKET}, {TICKET}; {TICKET}.",
    "name and more": f"[{NAME}...]",
}
ODD_ECHOES = {
    "curly quotes": f"\u2018{TICKET}\u2019",
    "dash": f"{TICKET}\u2014gone",
    "NUL": f"{TICKET}\0",
    "escape": f"\x1b[1m{TICKET}\x1b[0m",
}
echoes = pytest.mark.parametrize(
    "echo",
    [
        *(pytest.param(text, id=name) for name, text in ECHOES.items()),
        *(pytest.param(text, id=name) for name, text in ODD_ECHOES.items()),
    ],
)
PLACES = ("on_options", "on_extents", "on_get", "on_put")
WHERE = pytest.mark.parametrize("where", PLACES)


def meet(fault: Fault, where: str) -> TapestreamError:
    """Fail with a server that has this fault in reply to one kind of request."""
    behaviour = {where: always(fault)}
    with HostileServer(IMAGE, ticket=TICKET, **behaviour) as server:
        return fail(lambda: (upload if where == "on_put" else download)(server.url))


@echoes
@WHERE
@pytest.mark.parametrize("code", [403, 404, 500])
def test_a_server_that_repeats_the_ticket(echo: str, where: str, code: int) -> None:
    assert str(code) in str(meet(Status(code, echo), where))


@WHERE
@pytest.mark.parametrize(
    "fault",
    [
        Stall(None, FOREVER),
        Garbage(),
        CloseBeforeReply(),
        Say(302, headers={"Location": f"/images/{TICKET}"}),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_a_server_that_breaks(fault: Fault, where: str) -> None:
    meet(fault, where)


@pytest.mark.parametrize("where", ["on_options", "on_extents", "on_get"])
@pytest.mark.parametrize("fault", [Cut(0), Reset(0)])
def test_a_server_that_breaks_its_body_off(fault: Fault, where: str) -> None:
    meet(fault, where)


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("on_options", {"max_readers": TICKET}),
        ("on_extents", [{"start": TICKET, "length": 5}]),
        ("on_extents", [{"start": 0, "length": 5, "zero": TICKET}]),
    ],
)
def test_a_server_that_has_the_ticket_where_something_else_belongs(where: str, text: Any) -> None:
    meet(Say(200, json.dumps(text).encode()), where)


CHECKSUMS = [
    *(Status(code, echo) for code in (403, 404, 500) for echo in ECHOES.values()),
    *(Say(200, body) for body in (TICKET.encode(), f'["{TICKET}"]'.encode())),
    *(Say(200, json.dumps({key: TICKET}).encode()) for key in ("algorithm", "checksum", "size")),
    Stall(None, FOREVER),
    Garbage(),
    CloseBeforeReply(),
    Cut(0),
    Speak(f"HTTP/1.1 {TICKET} Forbidden\r\n\r\n".encode()),
]


@pytest.mark.parametrize("fault", CHECKSUMS, ids=lambda fault: type(fault).__name__)
def test_a_server_that_fails_to_tell_the_block_hash(fault: Fault) -> None:
    options: dict[str, Any] = {"secure": False, "checksum_timeout": 0.3}
    with ChecksumServer(IMAGE, fault, ticket=TICKET) as server:
        fail(lambda: download(server.url, record_block_hash=True, checksum_timeout=0.3))
        with ImageioHTTPSource(server.url, **options) as source:
            fail(source.block_hash)
        with ImageioUploadSink(server.url, **options) as sink:
            fail(lambda: sink.check(BlockHash("00" * 32)))


REQUEST = f"GET /images/{TICKET} HTTP/1.1\r\n\r\n"
BAD_STATUS = f"HTTP/1.1 {TICKET} Forbidden\r\n\r\n"
CHUNK = f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{TICKET}\r\n"
REFUSED_CHUNK = CHUNK.replace("200 OK", "404 Not Found")


@pytest.mark.parametrize(
    ("text", "where"),
    [
        *((text, where) for text in (REQUEST, BAD_STATUS) for where in PLACES),
        (CHUNK, "on_options"),
        (CHUNK, "on_extents"),
        *((REFUSED_CHUNK, where) for where in PLACES),
    ],
)
def test_a_server_that_repeats_the_ticket_in_bad_http(text: str, where: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # It has a test of its own.
        meet(Speak(text.encode()), where)
        gc.collect()


def test_a_lie_with_the_ticket_in_it() -> None:
    headers = {"Content-Range": f"bytes {TICKET}", "X-Ticket": TICKET}
    meet(Say(206, IMAGE, headers), "on_get")
    meet(Say(200, TICKET.encode(), headers), "on_options")
    meet(Say(200, TICKET.encode(), headers), "on_extents")


@pytest.mark.parametrize("behaviour", [{"ticket_known": False}, {"ops": ()}, {"ops": ("read",)}])
def test_a_ticket_that_is_refused(behaviour: dict[str, Any]) -> None:
    with HostileServer(IMAGE, ticket=TICKET, **behaviour) as server:
        fail(lambda: upload(server.url))
        if "read" not in behaviour.get("ops", ()):
            fail(lambda: download(server.url))


def test_failures_that_are_tried_again(log: pytest.LogCaptureFixture) -> None:
    fault = Status(500, f"/images/{TICKET} is not in the mood")
    with HostileServer(
        IMAGE, ticket=TICKET, on_get=on(1, fault), on_extents=on(1, fault)
    ) as server:
        download(server.url)
    assert log.text.count("is not in the mood") == 2


def test_nobody_answers(log: pytest.LogCaptureFixture) -> None:
    for work in (download, upload):
        fail(lambda work=work: work(URL))  # type: ignore[misc]
        fail(lambda work=work: work(URL, proxy_url=URL))  # type: ignore[misc]
        fail(lambda work=work: work(f"https://nowhere.invalid/images/{TICKET}"))  # type: ignore[misc]
    assert "Using the proxy" in log.text


def test_a_unix_socket_that_does_not_answer(log: pytest.LogCaptureFixture) -> None:
    with HostileServer(IMAGE, ticket=TICKET, unix_socket="/nowhere") as server:
        download(server.url)
        upload(server.url)
    assert log.text.count("unix socket") == 2


def test_a_certificate_that_is_not_trusted(tmp_path: Path) -> None:
    cafile = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(cafile)
    with TLSServer(IMAGE, ticket=TICKET) as server:
        fail(lambda: download(server.url, secure=True, cafile=cafile))
        fail(lambda: upload(server.url, secure=True))


def test_a_server_without_tls() -> None:
    with HostileServer(IMAGE, ticket=TICKET) as server:
        fail(lambda: download(server.url.replace("http:", "https:")))
        fail(lambda: download(server.url, secure=True))


def test_tls_that_is_spoken_to_in_http() -> None:
    with TLSServer(IMAGE, ticket=TICKET) as server:
        fail(lambda: download(server.url.replace("https:", "http:")))


@pytest.mark.parametrize(
    "url",
    [
        TICKET,
        f"/images/{TICKET}",
        f"images/{TICKET}",
        f"https:///images/{TICKET}",
        f"https://{TICKET}",
        f"https://{TICKET}/",
        f"https://host:{TICKET}/images/{TICKET}",
        f"https://[{TICKET}/images/{TICKET}",
        f"https://a..b/images/{TICKET}",
        f"https://{'a' * 64}/images/{TICKET}",
        f"ftp://host/images/{TICKET}",
        f"http://host/images/{TICKET}",
        f"https://host/images/{TICKET}/",
        f"https://host/images/{TICKET}?close=y",
        f"https://host/images/ {TICKET}",
        f"{TICKET}://host/images",
        f"{URL} ",
        f"{URL}\u2026",
    ],
)
def test_a_malformed_url(url: str) -> None:
    for kind in (ImageioHTTPSource, ImageioUploadSink):
        for options in ({"url": url}, {"url": URL, "proxy_url": url}):
            error = fail(lambda kind=kind, options=options: kind(**options))  # type: ignore[misc]
            assert isinstance(error, UsageError)


@pytest.mark.parametrize(
    "ending",
    [
        " ",
        "\u2026",
    ],
)
def test_a_url_that_passes_as_one(ending: str) -> None:
    """Whatever becomes of a URL like that, where there is a server."""
    with HostileServer(IMAGE, ticket=TICKET) as server:
        fail(lambda: download(server.url + ending))


def test_a_copy_leaves_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "disk.tar"
    with (
        HostileServer(IMAGE, ticket=TICKET) as server,
        ImageioHTTPSource(server.url, secure=False) as source,
        TarStreamSink(path) as sink,
    ):
        check(repr(copy(source, sink)), repr(sink))
        upload(server.url)
    assert NAME.encode() not in path.read_bytes()
