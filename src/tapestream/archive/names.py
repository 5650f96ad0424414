"""Names for the files of backups, made from what is known about a backup."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from itertools import count

from .._readable import kind_text
from ..errors import UsageError
from ..model.info import BackupInfo

# A name has up to 255 bytes on most file systems; a file that is not complete yet has a longer one.
_MAX_NAME = 230
# Bytes of one value, so that all of them together fit. An id of oVirt has 36.
_MAX_VALUE = 48

_VALUES: dict[str, Callable[[BackupInfo], str | None]] = {
    "vm": lambda info: info.vm_name or info.vm_id,
    "vm_id": lambda info: info.vm_id,
    "disk": lambda info: info.disk_name or info.disk_id,
    "disk_id": lambda info: info.disk_id,
    "time": lambda info: f"{info.created:%Y%m%dT%H%M%SZ}" if info.created else None,
    "kind": lambda info: kind_text(info.context),
    "backup": lambda info: info.backup_id,
    "checkpoint": lambda info: info.checkpoint_id,
}


def file_name(
    info: BackupInfo,
    template: str = "{vm}_{disk}_{time}_{kind}",
    *,
    suffix: str = ".tar",
    taken: Iterable[str] = (),
) -> str:
    """Make a name for the file of a backup: one that is safe on any file system, and in a shell.

    Args:
        info: What is known about the backup: the `info` of its source, after `extents()`, which may
            show that an incremental backup became a full one.
        template: The name, with these fields: `{vm}` and `{disk}` (the name, or the id), `{vm_id}`,
            `{disk_id}`, `{time}` (in UTC, such as 20261118T223000Z, so that names sort by time),
            `{kind}` ("full" or "incremental"), `{backup}`, `{checkpoint}`. In their values,
            anything but letters, digits, ".", "-" and "_" becomes "_", and the middle of a long
            value is left out.
        suffix: What the name ends with.
        taken: Names that are in use, such as `os.listdir(folder)`. If the name is one of them, or
            differs from one only in case, it gets a number: "name-2.tar".

    Returns:
        The name, without a folder.

    Raises:
        UsageError: The template has another field, or one that `info` does not have; or the name
            would be too long, or have a "/".
    """
    if not isinstance(info, BackupInfo):
        raise UsageError(f"a name is made from a BackupInfo, not from {info!r}")
    if not isinstance(template, str) or not isinstance(suffix, str):
        raise UsageError("template and suffix must be texts")
    stem = re.sub(r"\{([^{}]*)\}", lambda match: _value(info, match[1]), template)
    if stem.startswith((".", "-")):  # it would be hidden, or be taken for an option
        stem = f"_{stem[1:]}"
    if not stem or set("{}/\0") & set(stem + suffix):
        raise UsageError(
            f"no file can have the name {stem + suffix!r}",
            hint="A template is the name of a file, without a folder, with fields in braces.",
        )
    used = {name.casefold() for name in taken}
    for number in count(1):
        name = f"{stem}{f'-{number}' if number > 1 else ''}{suffix}"
        if len(name.encode(errors="surrogatepass")) > _MAX_NAME:
            raise UsageError(
                f"the name {name!r} is too long for a file",
                hint="Use fewer fields in the template.",
            )
        if name.casefold() not in used:
            break
    return name


def _value(info: BackupInfo, field: str) -> str:
    if field not in _VALUES:
        raise UsageError(
            f"a template has no field {{{field}}}",
            hint=f"It can have {', '.join(f'{{{name}}}' for name in _VALUES)}.",
        )
    value = _VALUES[field](info)
    if not value:
        raise UsageError(
            f"the backup does not say its {field}, which the template needs",
            hint="Give it in the BackupInfo, or use another template.",
        )
    value = unicodedata.normalize("NFC", value)
    return _cut("".join(c if c.isalnum() or c in "._-" else "_" for c in value))


def _cut(value: str) -> str:
    """Leave out the middle of a long value: names often differ only at their ends."""
    if len(value.encode()) <= _MAX_VALUE:
        return value
    half = _MAX_VALUE // 2
    first = value.encode()[:half].decode(errors="ignore")
    return f"{first}_{value.encode()[1 - half :].decode(errors='ignore')}"
