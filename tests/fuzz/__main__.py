"""Look for bytes that break a target: `python -m tests.fuzz TARGET SECONDS [DIRECTORY]`.

With atheris (`pip install atheris`) the search is guided by what the code does; without it, by
chance. What breaks the target is kept in the directory, and shown.
"""

from __future__ import annotations

import hashlib
import importlib
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Target = Callable[[bytes], None]

# A single input must not take longer.
LONGEST = 20.0


def main() -> int:
    if len(sys.argv) < 3:
        print(__doc__, file=sys.stderr)
        return 2
    name, seconds = sys.argv[1], float(sys.argv[2])
    directory = Path(sys.argv[3]) if sys.argv[3:] else Path(tempfile.mkdtemp(prefix="fuzz-"))
    directory.mkdir(parents=True, exist_ok=True)
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        targets = importlib.import_module("tests.fuzz.targets")
        return _by_chance(targets.TARGETS[name], targets.examples(name), seconds, directory)
    with atheris.instrument_imports(include=["tapestream"]):
        targets = importlib.import_module("tests.fuzz.targets")
    _guided(atheris, targets.TARGETS[name], targets.examples(name), seconds, directory)
    return 0


def _by_chance(target: Target, known: list[bytes], seconds: float, directory: Path) -> int:
    """Change good inputs at random."""
    chance = random.Random()
    until, tried, broken = time.monotonic() + seconds, 0, 0
    while time.monotonic() < until:
        data = mutated(chance, known)
        tried += 1
        try:
            began = time.monotonic()
            target(data)
            if time.monotonic() - began > LONGEST:
                raise TimeoutError(f"it took {time.monotonic() - began:.0f} s")
        except Exception as e:  # noqa: BLE001 - this is what we look for
            broken += 1
            path = directory / hashlib.sha256(data).hexdigest()[:16]
            path.write_bytes(data)
            print(f"{type(e).__name__}: {str(e)[:200]}: {path}", flush=True)
    print(f"{tried} inputs, {broken} broke it")
    return 1 if broken else 0


def mutated(chance: random.Random, known: list[bytes]) -> bytes:
    """One of the inputs, changed in some places."""
    data = bytearray(chance.choice(known))
    for _ in range(chance.choice([1, 1, 1, 2, 3, 8])):
        at = chance.randrange(len(data) + 1)
        length = chance.choice([1, 1, 2, 4, 8, 64, 512, 513, 5000])
        match chance.randrange(7):
            case 0:
                data[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del data[at : at + length]
            case 2:
                data[at:at] = data[at : at + length]
            case 3:
                data[at : at + length] = chance.randbytes(length)
            case 4:
                data[at:at] = chance.choice(DICTIONARY)
            case 5:
                data[at : at + length] = bytes(length)
            case 6:
                other = chance.choice(known)
                data[at:] = other[chance.randrange(len(other) + 1) :]
    return bytes(data)


DICTIONARY = [
    *(b"-1 0 1e9 1.5 null true [] {} 9223372036854775807 18446744073709551616 NaN".split()),
    b"9" * 5000,
    b"[" * 5000,
    b'{"a":' * 3000,
    b'"\\ud800"',
    b"\xff\xfe",
    b"\0" * 512,
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 99999999999\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\n",
    b"77777777777\0",
    b"manifest.json",
    b"extent-9@0",
    b"\n~~~\n",
]


def _guided(
    atheris: Any, target: Target, known: list[bytes], seconds: float, directory: Path
) -> None:
    """Let libFuzzer look for inputs that reach other code; it ends the process."""
    corpus = directory / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, data in enumerate(known):
        (corpus / f"example-{number}").write_bytes(data)
    arguments = [sys.argv[0], str(corpus), f"-max_total_time={seconds:.0f}"]
    arguments += [f"-artifact_prefix={directory}/", f"-timeout={LONGEST:.0f}", "-max_len=100000"]
    atheris.Setup(arguments, target)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
