"""What all commands have in common that copy something."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .amounts import duration_text, rate, rate_text, size_text
from .parsing import Parser

if TYPE_CHECKING:
    import tapestream


def add_rate_option(parser: Parser) -> None:
    """Add --max-rate."""
    parser.add_argument(
        "--max-rate",
        metavar="RATE",
        type=rate,
        help="bytes per second at most, such as 100M (k, M, G: 1000s; Ki, Mi, Gi: 1024s)",
    )


def add_checksum_option(parser: Parser) -> None:
    """Add --checksum."""
    parser.add_argument(
        "--checksum",
        choices=("sha256", "blake2b", "crc32", "none"),
        default="sha256",
        help="digest of the data in the tar (default: sha256)",
    )


def checksum_of(args: argparse.Namespace) -> str | None:
    """The `checksum` of a `TarStreamSink`."""
    return None if args.checksum == "none" else str(args.checksum)


def copied(result: tapestream.CopyResult, **values: object) -> tuple[Mapping[str, object], str]:
    """The result of a copy, for programs and for people."""
    found = {
        **values,
        "size": result.size,
        "context": result.context,
        "data_bytes": result.data_bytes,
        "seconds": round(result.seconds, 3),
        "rate": round(result.rate),
        "stalled": round(result.stalled, 3),
        "checksum": result.checksum,
        "verified": result.verified,
    }
    text = (
        f"{size_text(result.data_bytes)} of data, of a disk of {size_text(result.size)}, "
        f"in {duration_text(result.seconds)} ({rate_text(result.rate)})"
    )
    if result.receipt is not None:
        places = result.receipt.places
        found["tapes"] = [{"label": place.label, "file": place.file} for place in places]
        text += f", on {', '.join(map(_tape_text, places))}"
    return found, text


def _tape_text(place: tapestream.tape.TapePlace) -> str:
    return f"tape {place.label or 'without a label'}, file {place.file}"
