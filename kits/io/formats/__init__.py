"""Kinds of files that a volume is read from: a module a kind, found by what it is called by.

A module of this folder is a format if it has

- ``ENDINGS``: the names it goes by, in lower case, e.g. ``(".nii", ".nii.gz")``;
- ``header(path, name) -> Header``: what the file says of its voxels, from its first bytes alone;
- ``read(path, name) -> Stored``: the voxels too; ``name`` is what messages call the file;
- ``PARTS`` (optional): endings of files that belong to such a file and are no volumes themselves.

To add a format, add a module. Nothing else lists them.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType

MODULES = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
ENDINGS: dict[str, ModuleType] = {ending: module for module in MODULES for ending in module.ENDINGS}
"""Ending in lower case -> the module that reads it."""
PARTS: frozenset[str] = frozenset(part for module in MODULES for part in getattr(module, "PARTS", ()))


def ending_of(path: Path) -> str:
    """The ending of ``path`` in lower case if a volume can be read from it, else an empty string."""
    name = path.name.lower()
    return max((ending for ending in ENDINGS if name.endswith(ending)), key=len, default="")
