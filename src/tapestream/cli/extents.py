"""`tapestream extents`: what of a disk is used."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import tapestream

from .amounts import size_text
from .parsing import Commands, add_command
from .places import add_source_options, check_source_options, opened_disk
from .status import Status
from .tables import terminal_width
from .urls import add_url_options, is_url, refuse_server_options, url_of_options

if TYPE_CHECKING:
    from .context import Context

_DETAILS = """\
PLACE is the transfer_url of a download transfer, a backup, a folder with backups (the chain for a
point in time), a raw image, or a disk of this machine. Only the list of extents is read, no data.
"""
# From nothing to all of a character's part of the disk.
_SHADES = " .:-=+*#%@"


def add_commands(commands: Commands) -> None:
    """Add `extents`."""
    parser = add_command(
        commands,
        "extents",
        run_extents,
        "show what of a disk is used, or has changed",
        details=_DETAILS,
        usage="[PLACE] [OPTIONS]",
    )
    parser.add_argument("places", nargs="*", metavar="PLACE")
    parser.add_argument(
        "--strip",
        action="store_true",
        help="draw the disk as one line, as wide as the terminal, instead of a table",
    )
    add_source_options(parser)
    add_url_options(parser)


def run_extents(args: argparse.Namespace, context: Context) -> Status:
    """Show the extents of a disk."""
    url = url_of_options(args, context, sources=args.places)
    places = [*args.places, *([] if url is None else [url])]
    if len(places) != 1:
        raise tapestream.errors.UsageError(
            "extents needs one PLACE",
            hint="For example: tapestream extents --url-file FILE --cafile ca.pem",
        )
    refuse_server_options(args, is_used=is_url(places[0]))
    check_source_options(places, args, context, "PLACE")
    with opened_disk(places[0], args, context) as source:
        extents = tapestream.Extents.of(source.extents())
    if args.strip:
        strip = strip_of(extents, terminal_width() - 2)
        context.out.show("strip", {"strip": strip}, f"|{strip}|")
    else:
        rows = [(extent.to_dict(), _cells(extent)) for extent in extents]
        context.out.table("extent", (">START", ">LENGTH", "KIND"), rows)
    data = extents.tally(tapestream.Kind.DATA)
    values = {"size": extents.size, "extents": len(extents), "data_bytes": data.bytes}
    percent = 100 * data.bytes / extents.size if extents.size else 0
    context.out.result(
        values,
        f"{size_text(data.bytes)} of {size_text(extents.size)} are data ({percent:.1f} %), in "
        f"{data.extents} of {len(extents)} extents",
    )
    return Status.GOOD


def strip_of(extents: tapestream.Extents, width: int) -> str:
    """Draw a disk as a line: the darker a character, the more of its part is data."""
    used = [0.0] * width
    for extent in extents:
        if extent.kind is tapestream.Kind.DATA:
            first = extent.start * width / extents.size
            end = (extent.start + extent.length) * width / extents.size
            for i in range(int(first), min(width, int(end) + 1)):
                used[i] += min(end, i + 1) - max(first, i)
    # Little data is shown, too: only a part without any is blank.
    return "".join(
        _SHADES[min(len(_SHADES) - 1, 1 + int(share * (len(_SHADES) - 2)))] if share > 0 else " "
        for share in used
    )


def _cells(extent: tapestream.Extent) -> tuple[str, ...]:
    return str(extent.start), str(extent.length), extent.kind.name.lower()
