"""NRRD: ``.nrrd``, and ``.nhdr`` with its data file beside it.

Fields and their meaning: https://teem.sourceforge.net/nrrd/format.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np

from kits.errors import InputError
from kits.io.formats.metaimage import as_text, unplaced
from kits.io.remark import Remark
from kits.io.stored import BLOCK, Damaged, Header, Stored, beside, gunzipped, plain
from kits.io.volume import Grid

ENDINGS = (".nrrd", ".nhdr")
PARTS = (".raw", ".raw.gz")
MOST_LINES = 500
TYPES = {
    "i1": "signed char, int8, int8_t",
    "u1": "uchar, unsigned char, uint8, uint8_t",
    "i2": "short, short int, signed short, signed short int, int16, int16_t",
    "u2": "ushort, unsigned short, unsigned short int, uint16, uint16_t",
    "i4": "int, signed int, int32, int32_t",
    "u4": "uint, unsigned int, uint32, uint32_t",
    "i8": "longlong, long long, long long int, signed long long, signed long long int, int64, int64_t",
    "u8": "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t",
    "f4": "float",
    "f8": "double",
}
SPACES = {
    "right-anterior-superior": (-1, -1, 1),
    "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
    "las": (1, -1, 1),
    "left-posterior-superior": (1, 1, 1),
    "lps": (1, 1, 1),
}
"""Signs that turn a space into left, posterior, superior."""


def header(path: Path, name: str) -> Header:
    """What a file says of its voxels."""
    with path.open("rb") as file:
        return _understood(_fields(file, name), name)


def read(path: Path, name: str) -> Stored:
    """A file's voxels."""
    with path.open("rb") as file:
        fields = _fields(file, name)
        found = _understood(fields, name)
        data = fields.get("data file", fields.get("datafile"))
        if data is None:
            return Stored.of(found, _blocks(file, fields, found, name), path.stat().st_size, name)
    voxels = beside(path, data, name)
    with voxels.open("rb") as file:
        return Stored.of(found, _blocks(file, fields, found, name), voxels.stat().st_size, name)


def _fields(file: BinaryIO, name: str) -> dict[str, str]:
    """The header's fields, names in lower case; the file is left where its voxels begin."""
    if not re.fullmatch(rb"NRRD000[1-6]\r?\n", file.readline(20)):
        raise Damaged("no NRRD header")
    fields: dict[str, str] = {}
    for _ in range(MOST_LINES):
        line = file.readline(BLOCK).decode("latin-1")
        if not line.endswith("\n"):
            break
        if not line.strip():
            return fields
        if line.startswith("#") or ":=" in line:  # a comment, or somebody's own key
            continue
        key, colon, value = line.partition(":")
        key = key.strip().lower()
        if not colon or key in fields:
            raise InputError(f"{name}: its header has a line that means nothing or comes twice: {line.strip()!r}.")
        fields[key] = value.strip()
    if fields and ("data file" in fields or "datafile" in fields):
        return fields  # a header of its own may end without an empty line
    raise Damaged("the header does not end")


def _understood(fields: dict[str, str], name: str) -> Header:
    try:
        axes = int(fields["dimension"])
        size = tuple(int(text) for text in fields["sizes"].split())
        kind = next((code for code, names in TYPES.items() if fields["type"].lower() in names.split(", ")), None)
    except (KeyError, ValueError) as error:
        raise Damaged("the header lacks dimension, sizes or type") from error
    if not 1 <= axes <= 8 or len(size) != axes:
        raise Damaged("its sizes are not one an axis")
    if kind is None:
        raise InputError(f"{name}: its voxels are {fields['type']}, not one HU value each; export it as greyscale CT.")
    order = fields.get("endian", "little").lower()
    if order not in ("little", "big") or ("endian" not in fields and kind[1] != "1" and _binary(fields)):
        raise Damaged("it does not say which byte comes first")
    vectors = _directions(fields, axes)
    kept = [axis for axis in range(axes) if vectors is None or vectors[axis] is not None]
    if kept[:3] != list(range(kept[0], kept[0] + 3)[: len(kept)]) or any(
        size[a] != 1 for a in range(axes) if a not in kept
    ):
        raise InputError(f"{name}: has more than one value a voxel (sizes {size}); export it as greyscale CT.")
    spatial = tuple(size[axis] for axis in kept)
    grid, remarks = _placement(fields, vectors, kept, (*spatial, 1, 1, 1)[:3], name)
    return Header(spatial, np.dtype(f"{'>' if order == 'big' else '<'}{kind}"), grid, remarks=remarks)


def _binary(fields: dict[str, str]) -> bool:
    return fields.get("encoding", "raw").lower() not in ("txt", "text", "ascii")


def _directions(fields: dict[str, str], axes: int) -> list[np.ndarray | None] | None:
    """A vector in mm for each axis, None for one that is not in space; None altogether where there are none."""
    if "space directions" not in fields:
        return None
    texts = re.findall(r"none|\([^()]*\)", fields["space directions"].lower())
    try:
        vectors = [None if text == "none" else _vector(text) for text in texts]
    except ValueError as error:
        raise Damaged("its space directions are no vectors") from error
    if len(vectors) != axes:
        raise Damaged("its space directions are not one an axis")
    return vectors


def _vector(text: str) -> np.ndarray:
    """Three finite numbers in brackets."""
    numbers = np.array([float(part) for part in text.strip("()").split(",")])
    if numbers.shape != (3,) or not np.isfinite(numbers).all():
        raise ValueError(text)
    return numbers


def _placement(
    fields: dict[str, str], vectors: list[np.ndarray | None] | None, kept: list[int], size: tuple[int, ...], name: str
) -> tuple[Grid, tuple[Remark, ...]]:
    units = set(re.findall(r'"([^"]*)"', fields.get("space units", ""))) - {"mm", "", "millimeter", "millimeters"}
    if units:
        raise InputError(f"{name}: gives its lengths in {', '.join(sorted(units))}; export it with lengths in mm.")
    signs = np.array(SPACES.get(fields.get("space", "").lower().removesuffix("-time"), (1, 1, 1)), np.float64)
    known = bool(fields.get("space", "").lower().removesuffix("-time") in SPACES)
    try:
        origin = _vector(fields["space origin"]) * signs if "space origin" in fields else None
        spacings = [float(text) for text in fields.get("spacings", "").split()]
    except ValueError as error:
        raise Damaged("its space origin or spacings are no numbers") from error
    bare = True
    spacing: np.ndarray = np.ones(3)
    direction: np.ndarray = np.eye(3)
    if vectors is not None and len(kept) >= 3:
        matrix = np.column_stack([vectors[axis] for axis in kept[:3]])  # type: ignore[misc]  # kept ones are there
        spacing, bare = np.linalg.norm(matrix, axis=0), False
        if not spacing.all():
            raise InputError(f"{name}: its spacing is 0 mm along an axis; correct its space directions.")
        direction = matrix / spacing * signs[:, None] + 0.0
    elif len(spacings) >= len(kept) >= 3:
        spacing, bare = np.array([spacings[axis] for axis in kept[:3]]), False
        if np.isnan(spacing).any():
            spacing, bare = np.ones(3), True
    remarks = unplaced(bare, vectors is None or not known, origin is None)
    x, y, z = spacing.tolist()
    at = np.zeros(3) if origin is None else origin + 0.0
    grid = Grid(
        (size[0], size[1], size[2]), (x, y, z), (at[0].item(), at[1].item(), at[2].item()), tuple(direction.ravel())
    )
    return grid, remarks


def _blocks(file: BinaryIO, fields: dict[str, str], found: Header, name: str) -> Iterable[bytes]:
    encoding = fields.get("encoding", "raw").lower()
    try:
        lines = int(fields.get("line skip", fields.get("lineskip", "0")))
        skip = int(fields.get("byte skip", fields.get("byteskip", "0")))
    except ValueError as error:
        raise Damaged("what it skips is no number") from error
    for _ in range(min(lines, MOST_LINES)):
        file.readline(BLOCK)
    if encoding in ("gzip", "gz") and skip == 0:
        return gunzipped(file)
    if encoding in ("txt", "text", "ascii") and skip == 0:
        return as_text(file, found.dtype)
    if encoding != "raw":
        raise InputError(f"{name}: its voxels are encoded as {encoding}; save it as raw or gzip.")
    if skip == -1:  # the voxels end the file
        skip = max(Path(file.name).stat().st_size - file.tell() - prod(found.size) * found.dtype.itemsize, 0)
    if skip < 0:
        raise Damaged("it skips fewer than no bytes")
    file.seek(skip, 1)
    return plain(file)
