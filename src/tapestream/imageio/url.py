"""The URL of a transfer, whose last part is a secret."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import urlsplit

from ..errors import LocalIOError, UsageError


class TransferURL(NamedTuple):
    """The URL of a transfer. Its last part, the ticket, is a secret: `str` leaves it out."""

    scheme: str
    host: str  # as ASCII
    port: int
    path: str

    @classmethod
    def parse(cls, url: str, *, secure: bool) -> TransferURL:
        """Take a `transfer_url` or `proxy_url` apart.

        Raises:
            UsageError: It is not a transfer's URL, or `secure` is set and it is not https.
            LocalIOError: Python cannot load the codec that it needs for the host's name.
        """
        if not isinstance(url, str):
            raise UsageError(
                f"a transfer URL is a str, not a {type(url).__name__}",
                hint="oVirt gives it when the transfer is in phase 'transferring', not before.",
            )
        try:
            parts = urlsplit(url)
            host, port = _ascii(parts.hostname or ""), parts.port
        except ValueError:
            host = ""
        except (ImportError, LookupError, OSError) as e:
            # No file descriptor is left to load the codec.
            raise LocalIOError(
                "too many open files to load the codec for a host name that is not ASCII, or this "
                "Python has no such codec",
                hint="Close files that this program has open, or raise its limit ('ulimit -n').",
            ) from e
        # No error repeats the URL: a malformed one may hold the ticket, too.
        if not re.fullmatch(_HOST, host) or parts.scheme not in ("http", "https"):
            raise UsageError("the transfer URL is not of the form https://HOST:PORT/images/TICKET")
        if not re.fullmatch(r"/[!-~]*[!-.0-~]", parts.path) or parts.query or parts.fragment:
            raise UsageError("the transfer URL must end in /images/TICKET and nothing else")
        if parts.scheme == "http" and secure:
            raise UsageError(
                "the transfer URL is not https: the ticket and the disk would travel in clear text",
                hint="Pass secure=False if that is what you want.",
            )
        default = 443 if parts.scheme == "https" else 80
        return cls(parts.scheme, host, port or default, parts.path)

    @property
    def authority(self) -> str:
        """Host and port, as in the "Host" header."""
        # The zone of an IPv6 address has a meaning on this host only.
        host = f"[{self.host.partition('%')[0]}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def redact(self, text: str) -> str:
        """Replace the ticket, and any part of it of 8 characters or more, in a text."""
        ticket = self.path.rpartition("/")[2]
        parts = {re.escape(ticket[i : i + 8]) for i in range(max(1, len(ticket) - 7))}
        around = r"[^()\[\]\"'\s]*"
        return re.sub(f"{around}(?:{'|'.join(parts)}){around}", "TICKET", text, flags=re.IGNORECASE)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"

    def __repr__(self) -> str:
        return f"<TransferURL {self}>"


# Labels of 1 to 63 characters, between dots.
_HOST = r"([!-,/-~-]{1,63}\.)*[!-,/-~-]{1,63}\.?"


def _ascii(host: str) -> str:
    # Loading the codec takes 2 ms and a file descriptor, so only names that need it load it.
    return host if host.isascii() else host.encode("idna").decode()
