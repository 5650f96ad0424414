"""What the examples of docs/servers.md find at their URLs: doubles of the servers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.cloudstack import ImageServer
from tests.servers.double import authority
from tests.servers.kubevirt import TOKEN, ExportServer
from tests.servers.onebex import OneBEX, nbd_blocks
from tests.servers.support import SUNDAY


@contextmanager
def names_of_other_servers() -> Iterator[dict[str, object]]:
    """The names that the examples expect; the certificates go into the current directory."""
    for name in ("cloudstack-ca.pem", "kubevirt-ca.pem"):
        authority.cert_pem.write_to_path(name)
    with (
        OneBEX(SUNDAY, nbd_blocks((len(SUNDAY), "data"))) as onebex,
        ImageServer(SUNDAY, read_only=True, tls=True) as cloudstack,
        ImageServer(bytes(len(SUNDAY)), tls=True) as upload,
        ExportServer(SUNDAY, [(len(SUNDAY), "data")]) as kubevirt,
    ):
        yield {
            "onebex_url": onebex.transfer_url,
            "cloudstack_url": cloudstack.transfer_url,
            "cloudstack_restore_url": upload.transfer_url,
            "map_url": kubevirt.map_url,
            "data_url": kubevirt.data_url,
            "token": TOKEN,
        }
    assert Path("disk.raw").read_bytes() == upload.durable == SUNDAY
    assert Path("rootdisk.tar").stat().st_size > len(SUNDAY)
