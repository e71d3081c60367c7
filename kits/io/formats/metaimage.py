"""MetaImage: ``.mha``, and ``.mhd`` with its data file beside it.

The header is read here because ITK's own reader trusts it: a data file's name goes to printf, and a number of
dimensions past its arrays. Fields: https://docs.itk.org/en/latest/learn/metaio.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np

from kits.errors import InputError
from kits.io.remark import Remark
from kits.io.stored import BLOCK, Damaged, Header, Stored, beside, gunzipped, inflated, plain
from kits.io.volume import Grid

ENDINGS = (".mha", ".mhd")
PARTS = (".raw", ".zraw", ".raw.gz")
MOST_LINES = 200
MOST = 1 << 62
"""No number in a header is larger; NaN is not smaller."""
TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}


def header(path: Path, name: str) -> Header:
    """What a file says of its voxels."""
    with path.open("rb") as file:
        return _understood(_fields(file, name), name)


def read(path: Path, name: str) -> Stored:
    """A file's voxels."""
    with path.open("rb") as file:
        fields = _fields(file, name)
        found = _understood(fields, name)
        data = fields["ElementDataFile"]
        if data.upper() == "LOCAL":
            return Stored.of(found, _blocks(file, fields, found), path.stat().st_size, name)
    voxels = beside(path, data, name)
    with voxels.open("rb") as file:
        skip = _number(fields, "HeaderSize", int, 0)
        if skip < 0:  # all that comes before the voxels, which end the file
            skip = voxels.stat().st_size - prod(found.size) * found.dtype.itemsize
        if skip < 0 or skip > voxels.stat().st_size:
            raise Damaged("fewer voxels than the header promises")
        file.seek(skip)
        return Stored.of(found, _blocks(file, fields, found), voxels.stat().st_size, name)


def _fields(file: BinaryIO, name: str) -> dict[str, str]:
    """The header's lines; the file is left where they end."""
    fields: dict[str, str] = {}
    for _ in range(MOST_LINES):
        line = file.readline(BLOCK >> 6)
        key, equals, value = (part.strip() for part in line.decode("latin-1").partition("="))
        if not line.endswith(b"\n") or not equals:
            break
        if key in fields:
            raise InputError(f"{name}: its header gives {key} twice; export it again.")
        fields[key] = value
        if key == "ElementDataFile":
            return fields
    raise Damaged("no MetaImage header")


def _understood(fields: dict[str, str], name: str) -> Header:
    axes = _number(fields, "NDims", int, 0)
    if not 1 <= axes <= 7:
        raise InputError(f"{name}: its header gives {axes} dimensions; export it again.")
    size = _numbers(fields, "DimSize", axes, int)
    if size is None:
        raise Damaged("the header gives no size")
    kind = fields.get("ElementType", "")
    channels = _number(fields, "ElementNumberOfChannels", int, 1)
    if kind not in TYPES or channels != 1:
        raise InputError(
            f"{name}: its voxels are {kind or 'of no type'} of {channels} components, not one HU value each; "
            "export it as greyscale CT."
        )
    big = _flag(fields, "BinaryDataByteOrderMSB") or _flag(fields, "ElementByteOrderMSB")
    grid, remarks = _placement(fields, axes, (*size, 1, 1)[:3])
    return Header(size, np.dtype(f"{'>' if big else '<'}{TYPES[kind]}"), grid, remarks=remarks)


def _placement(fields: dict[str, str], axes: int, size: tuple[int, ...]) -> tuple[Grid, tuple[Remark, ...]]:
    spacing = _numbers(fields, "ElementSpacing", axes) or _numbers(fields, "ElementSize", axes)
    names = ("TransformMatrix", "Rotation", "Orientation")
    matrix = next((found for key in names if (found := _numbers(fields, key, axes * axes))), None)
    offset = next((found for key in ("Offset", "Position", "Origin") if (found := _numbers(fields, key, axes))), None)
    remarks = unplaced(spacing is None, matrix is None, offset is None)
    # A line of the matrix is where one axis points to; a column of ITK's direction is.
    direction = np.eye(3)
    direction[: min(axes, 3), : min(axes, 3)] = np.reshape(matrix or np.eye(axes), (axes, axes)).T[:3, :3]
    x, y, z = (*(spacing or ()), 1.0, 1.0, 1.0)[:3]
    origin = (*(offset or ()), 0.0, 0.0, 0.0)[:3]
    return Grid((size[0], size[1], size[2]), (x, y, z), origin, tuple(direction.ravel().tolist())), remarks


def unplaced(no_spacing: bool, no_orientation: bool, no_origin: bool = False) -> tuple[Remark, ...]:
    """Remarks on what a header leaves out."""
    said = {
        "no-spacing": (no_spacing, "The header has no spacing; taken as 1 mm, so volumes in ml are likely wrong."),
        "no-orientation": (
            no_orientation,
            "The header does not say how the patient lies; taken as left, posterior, superior. Sides may be swapped.",
        ),
        "no-origin": (no_origin, "The header does not say where the volume lies; its first voxel is taken as 0, 0, 0."),
    }
    return tuple(Remark(code, text) for code, (missing, text) in said.items() if missing)


def _blocks(file: BinaryIO, fields: dict[str, str], found: Header) -> Iterable[bytes]:
    compressed, binary = _flag(fields, "CompressedData"), _flag(fields, "BinaryData", True)
    if compressed:
        start = file.tell()
        zipped = file.read(2) == b"\x1f\x8b"
        file.seek(start)
        return gunzipped(file) if zipped else inflated(file)
    if not binary:
        return as_text(file, found.dtype)
    return plain(file)


def as_text(file: BinaryIO, dtype: np.dtype) -> Iterable[bytes]:
    """Voxels that are written as decimal numbers."""
    try:
        yield np.array(file.read().split(), np.float64).astype(dtype).tobytes()
    except ValueError as error:
        raise Damaged("its voxels are no numbers") from error


def _numbers(fields: dict[str, str], key: str, count: int, kind: Callable[[str], float] = float) -> tuple | None:
    if key not in fields:
        return None
    try:
        numbers = tuple(kind(text) for text in fields[key].split())
    except ValueError as error:
        raise Damaged(f"{key} holds no numbers") from error
    if len(numbers) != count or not all(-MOST < number < MOST for number in numbers):
        raise Damaged(f"{key} should hold {count} numbers")
    return numbers


def _number(fields: dict[str, str], key: str, kind: Callable[[str], int], default: int) -> int:
    found = _numbers(fields, key, 1, kind)
    return default if found is None else int(found[0])


def _flag(fields: dict[str, str], key: str, default: bool = False) -> bool:
    value = fields.get(key, str(default)).lower()
    if value not in ("true", "false", "t", "f", "1", "0"):
        raise Damaged(f"{key} is neither true nor false")
    return value in ("true", "t", "1")
