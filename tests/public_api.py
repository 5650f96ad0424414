"""Everything that users' programs and scripts depend on, as text: `python -m tests.public_api`.

The text is kept in public_api.txt, and `test_public_api.py` shows what a change does to it. A class
is shown with all that it inherits from us, so a member may move to a base class unnoticed.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import enum
import inspect
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import tapestream
import tapestream.archive
import tapestream.backend
import tapestream.display
import tapestream.errors
import tapestream.fleet
import tapestream.ovirt
import tapestream.tape
import tapestream.testing
from tapestream.cli.main import make_parser

KEPT = Path(__file__).with_suffix(".txt")
PACKAGES = (
    tapestream,
    tapestream.archive,
    tapestream.backend,
    tapestream.display,
    tapestream.errors,
    tapestream.fleet,
    tapestream.ovirt,
    tapestream.tape,
    tapestream.testing,
)
OPERATORS = {
    *("__bool__", "__call__", "__contains__", "__enter__", "__eq__", "__exit__", "__getitem__"),
    *("__hash__", "__iter__", "__len__", "__lt__", "__next__"),
}


def lines() -> Iterator[str]:
    for package in PACKAGES:
        for name in sorted(names_of(package)):
            yield from described(f"{package.__name__}.{name}", getattr(package, name))
    yield from commands("tapestream", make_parser())


def names_of(package: ModuleType) -> list[str]:
    if package is not tapestream.errors:
        return list(package.__all__)
    return [
        name
        for name, each in vars(package).items()
        if getattr(each, "__module__", "") == package.__name__ and not name.startswith("_")
    ]


def described(name: str, each: object) -> Iterator[str]:
    if inspect.isclass(each):
        bases = [base.__name__ for base in each.__mro__[1:-1] if is_public(base)]
        yield f"class {name}({', '.join(bases)})"
        yield from (f"    {line}" for line in sorted(set(members(each))))
    elif inspect.isfunction(each):
        yield f"{name}{signature(each)}"
    else:
        yield f"{name}: {each!r}"


def is_public(base: type) -> bool:
    named = any(getattr(package, base.__name__, None) is base for package in PACKAGES)
    return named or base.__module__ in ("builtins", "collections.abc")


def members(cls: type) -> Iterator[str]:
    """What an object of it has: its own members hide those of its bases."""
    if issubclass(cls, enum.Enum):
        yield from (f"{member.name} = {member.value!r}" for member in cls)
    else:
        yield f"(){signature(cls.__init__)}"
    seen = set(dir(enum.Enum)) if issubclass(cls, enum.Enum) else set()
    for base in cls.__mro__:
        if not base.__module__.startswith("tapestream"):
            continue
        annotations = inspect.get_annotations(base)
        found = {**dict.fromkeys(annotations), **attributes(base), **vars(base)}
        for name, each in found.items():
            if name in seen or (name.startswith("_") and name not in OPERATORS):
                continue
            seen.add(name)
            yield member(name, each, annotations.get(name))


def attributes(cls: type) -> dict[str, None]:
    """Those that its constructor sets."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(vars(cls)["__init__"])))
    except (KeyError, OSError, TypeError):  # made by dataclass, for example
        return {}
    return {
        node.attr: None
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


def member(name: str, each: object, annotation: str | None) -> str:
    kind = ""
    if isinstance(each, (classmethod, staticmethod)):
        kind = f"{type(each).__name__} "
        each = each.__func__
    if inspect.isfunction(each):
        return f"{kind}{name}{signature(each)}"
    if isinstance(each, property):
        returns = inspect.signature(each.fget).return_annotation if each.fget else "?"
        return f"{name}: {returns}"
    return f"{name}: {annotation}" if annotation else name


def signature(function: object) -> str:
    """As it is written, in any version of Python."""
    try:
        parsed = inspect.signature(function)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return "(...)"
    words: list[str] = []
    before = None
    for parameter in parsed.parameters.values():
        if parameter.name == "self" and not words:
            before = parameter.kind
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and before not in (
            parameter.KEYWORD_ONLY,
            parameter.VAR_POSITIONAL,
        ):
            words.append("*")
        before = parameter.kind
        stars = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}.get(parameter.kind.name, "")
        annotation = "" if parameter.annotation is parameter.empty else f": {parameter.annotation}"
        default = "" if parameter.default is parameter.empty else f" = {shown(parameter.default)}"
        words.append(f"{stars}{parameter.name}{annotation}{default}")
    returns = parsed.return_annotation
    return f"({', '.join(words)})" + ("" if returns is parsed.empty else f" -> {returns}")


def shown(default: object) -> str:
    text = getattr(default, "__qualname__", None) or repr(default)
    return "..." if " at 0x" in text or text.startswith("<factory") else text


def commands(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    """The commands with their arguments, as a script writes them."""
    yield f"$ {name}"
    inner = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            inner = action.choices
        else:
            words = ", ".join(action.option_strings) or action.dest
            takes = "" if action.nargs == 0 else f" {action.metavar or action.dest}"
            more = "".join(
                f" {label}={value}"
                for label, value in (
                    ("nargs", action.nargs if action.nargs != 0 else None),
                    ("choices", action.choices and sorted(map(str, action.choices))),
                    ("required", True if action.required and action.option_strings else None),
                )
                if value is not None
            )
            yield f"    {words}{takes if action.option_strings else ''}{more}"
    for word, each in sorted(inner.items()):
        yield from commands(f"{name} {word}", each)


def difference() -> str:
    """What has changed, as a unified diff; empty if nothing has."""
    now = [f"{line}\n" for line in lines()]
    before = KEPT.read_text().splitlines(keepends=True)
    return "".join(difflib.unified_diff(before, now, "before", "now", n=1))


if __name__ == "__main__":
    sys.stdout.write(difference() if KEPT.exists() else "")
    KEPT.write_text("".join(f"{line}\n" for line in lines()))
