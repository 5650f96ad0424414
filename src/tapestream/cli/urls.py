"""Where a transfer URL comes from. It is a secret: it is shown nowhere.

Arguments of a process can be seen by every user of the machine (`ps`), so there are three other
ways to pass the URL.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

import tapestream

from .conditions import refuse
from .parsing import Parser

if TYPE_CHECKING:
    from .context import Context


class ServerOptions(TypedDict):
    """How a server is reached."""

    cafile: str | None
    secure: bool
    proxy_url: str | None
    cancel: tapestream.Cancel


# A URL is much shorter. This bounds what is read if the path is that of an image by mistake.
_MOST = 64 * 1024


def add_url_options(parser: Parser) -> None:
    """Add the options that say where the URL comes from, and how the server is reached."""
    group = parser.add_argument_group(
        "transfer",
        "The transfer URL is a secret, and arguments can be seen by other users of this machine. "
        "Pass it in one of these ways instead.",
    )
    where = group.add_mutually_exclusive_group()
    where.add_argument("--url-file", metavar="FILE", help="read the transfer URL from a file")
    where.add_argument(
        "--url-fd",
        metavar="N",
        type=int,
        help="read it from an open file descriptor; 0 is standard input",
    )
    where.add_argument("--url-env", metavar="NAME", help="take it from an environment variable")
    group.add_argument(
        "--proxy-url-file",
        metavar="FILE",
        help="read the URL of the engine's proxy from a file: it is used if the host cannot be "
        "reached",
    )
    group.add_argument(
        "--cafile",
        metavar="FILE",
        help="the CA that signed the host's certificate: the engine's internal CA (default: those "
        "of the system)",
    )
    group.add_argument(
        "--insecure", action="store_true", help="accept any certificate, and a URL without TLS"
    )


def refuse_server_options(args: argparse.Namespace, *, is_used: bool) -> None:
    """Make sure that the options about the server have an effect.

    Args:
        args: The arguments.
        is_used: Whether there is a URL.

    Raises:
        UsageError: One has none.
    """
    if not is_used:
        refuse(
            args,
            *("--cafile", "--insecure", "--proxy-url-file"),
            why="is for a transfer, but no transfer URL was passed",
            hint="Leave it out, or pass the URL, such as with --url-file.",
        )
    elif args.insecure:
        refuse(
            args,
            "--cafile",
            why="is not used with --insecure, which accepts any certificate",
            hint="Leave out one of the two.",
        )


def server_options(args: argparse.Namespace, context: Context) -> ServerOptions:
    """How the server is reached: arguments of `ImageioHTTPSource` and `ImageioUploadSink`."""
    return {
        "cafile": args.cafile,
        "secure": not args.insecure,
        "proxy_url": None
        if args.proxy_url_file is None
        else _read_file(args.proxy_url_file, context),
        "cancel": context.cancel,
    }


def is_url(text: str) -> bool:
    """True if an argument is a URL, not a path."""
    return re.match(r"[a-z]+://", text, re.IGNORECASE) is not None


def url_of_options(
    args: argparse.Namespace, context: Context, *, sources: Sequence[str] = ()
) -> str | None:
    """The transfer URL that the options name; None if they name none.

    Args:
        args: The arguments.
        context: Of the command.
        sources: What is read besides, in which "-" is standard input.

    Raises:
        UsageError: There is no URL in the place that they name, or only a backup.
    """
    if args.url_fd == 0 and "-" in sources:
        raise tapestream.errors.UsageError(
            "standard input cannot be both the backup and the transfer URL",
            hint="Pass the URL with --url-file, or through another descriptor.",
        )
    if args.url_file is not None:
        return _read_file(args.url_file, context)
    if args.url_fd is not None:
        return _read(args.url_fd, f"descriptor {args.url_fd}", context)
    if args.url_env is not None:
        name = f"the environment variable {args.url_env}"
        return _checked(os.environ.get(args.url_env, ""), name)
    return None


def _read_file(path: str, context: Context) -> str:
    with context.interruptible():  # it may be a fifo
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as e:
            raise tapestream.errors.LocalIOError(f"cannot open {path}", e) from e
        try:
            return _read(fd, path, context)
        finally:
            os.close(fd)


def _read(fd: int, name: str, context: Context) -> str:
    found = b""
    with context.interruptible():
        try:
            while len(found) < _MOST and (data := os.read(fd, _MOST)):
                found += data
        except OSError as e:
            raise tapestream.errors.LocalIOError(
                f"cannot read {name}", e, hint="In a shell, '3< FILE' opens descriptor 3."
            ) from e
    return _checked(found.decode(errors="replace"), name)


def _checked(text: str, place: str) -> str:
    """Make sure that a text is one URL. An error does not show it."""
    if len(text.split()) != 1 or not is_url(text.strip()):
        what = "is empty" if not text.strip() else "does not contain one URL, and nothing else"
        raise tapestream.errors.UsageError(
            f"{place} {what}", hint="It must contain the transfer_url of a transfer."
        )
    return text.strip()
