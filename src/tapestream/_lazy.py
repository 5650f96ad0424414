"""Loads the public names of a package when they are first used (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module


def lazy(
    package: str, modules: Mapping[str, str]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Make the `__getattr__` and `__dir__` of a package whose names are defined in other modules.

    Several threads may load the same name at the same time: Python imports a module only once, and
    each thread gets the same object.

    Args:
        package: The name of the package.
        modules: For each module, relative to the package, its public names, separated by spaces.
            A module that lies in the package itself is available by its own name, too.
    """
    module_of = {name: module for module, names in modules.items() for name in names.split()}
    members = vars(sys.modules[package])

    def __getattr__(name: str) -> object:  # noqa: N807
        if f".{name}" in modules:
            return import_module(f".{name}", package)  # it becomes an attribute of the package
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        members[name] = found = getattr(import_module(module_of[name], package), name)
        leave_logging_to_the_program()
        return found

    def __dir__() -> list[str]:  # noqa: N807
        return sorted({*members, *module_of})

    return __getattr__, __dir__


def leave_logging_to_the_program() -> None:
    """Print no warning for a program that has not set up logging, as is usual for a library.

    Nothing is done before logging is imported: that takes longer than all of this package.
    """
    if "logging" in sys.modules:
        import logging  # noqa: PLC0415 - and waits if another thread has only begun to import it

        logger = logging.getLogger("tapestream")
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())
