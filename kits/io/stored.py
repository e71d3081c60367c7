"""What a reader of any format hands over, and what all of them share: sizes, streams of voxels, what damage is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from isal import igzip, isal_zlib

from kits.errors import InputError
from kits.io.remark import Remark
from kits.io.volume import Grid, checked_size

BLOCK = 1 << 20
MOST_COMPRESSED = 1032
"""DEFLATE makes nothing smaller than by this factor."""
MOST_TRAILING = 1 << 24
"""Bytes after the voxels that are read, for the checksum's sake; more is left unread and told."""


class Damaged(EOFError):
    """A file that is not whole; the text says what is missing."""


class Header(NamedTuple):
    """What a file says of its voxels.

    Args:
        size: (x, y, z, ...), as it is stored.
        dtype: with the stored byte order.
        grid: of the first three axes.
        slope, intercept: of the stored values to HU.
        remarks: what looks odd.
    """

    size: tuple[int, ...]
    dtype: np.dtype
    grid: Grid
    slope: float = 1.0
    intercept: float = 0.0
    remarks: tuple[Remark, ...] = ()


@dataclass(frozen=True, eq=False)
class Stored:
    """A volume as its file holds it.

    Args:
        voxels: (z, y, x), of any real dtype.
        grid: where they lie.
        slope, intercept: HU = voxels * slope + intercept.
        remarks: what looks odd.
    """

    voxels: np.ndarray
    grid: Grid
    slope: float = 1.0
    intercept: float = 0.0
    remarks: tuple[Remark, ...] = ()

    @classmethod
    def of(cls, header: Header, blocks: Iterable[bytes], file_bytes: int | None, name: str) -> Stored:
        """Fill the header's volume with what a stream yields.

        Args:
            header: of a volume of three axes, or of more with a single frame.
            blocks: the voxels' bytes, and what follows them.
            file_bytes: the file's size, to refuse headers that promise more than it can hold; None if unknown.
            name: what messages call the file.

        Raises:
            InputError: it is no volume of one value a voxel.
            Damaged: there are fewer voxels than promised.
        """
        size = checked_size(header.size, name)
        if file_bytes is not None and prod(size) * header.dtype.itemsize > file_bytes * MOST_COMPRESSED:
            raise Damaged("far fewer voxels than the header promises")
        voxels = np.empty(size[::-1], header.dtype)
        extra = _fill(voxels, blocks)
        remarks = header.remarks
        if extra:
            most = "more than " if extra > MOST_TRAILING else ""
            remarks += (Remark("trailing-data", f"The file holds {most}{extra} bytes after its voxels; left unread."),)
        if not header.dtype.isnative:
            voxels = voxels.byteswap(inplace=True).view(header.dtype.newbyteorder("="))
        return cls(voxels, header.grid, header.slope, header.intercept, remarks)


def _fill(voxels: np.ndarray, blocks: Iterable[bytes]) -> int:
    """Copy blocks into an array; returns how many bytes follow, counted no further than ``MOST_TRAILING``."""
    room = memoryview(voxels.reshape(-1).view(np.uint8).data)
    done = extra = 0
    for block in blocks:
        fits = min(len(block), len(room) - done)
        room[done : done + fits] = memoryview(block)[:fits]
        done += fits
        extra += len(block) - fits
        if extra > MOST_TRAILING:
            break
    if done < len(room):
        raise Damaged("fewer voxels than the header promises")
    return extra


def plain(stream: BinaryIO | igzip.IGzipFile) -> Iterator[bytes]:
    """The rest of a stream, block by block."""
    while block := stream.read(BLOCK):
        yield block


def gunzipped(file: BinaryIO) -> Iterator[bytes]:
    """The rest of a file that gzip compressed; the checksum is looked at once all is read."""
    with igzip.IGzipFile(fileobj=file, mode="rb") as stream:
        yield from plain(stream)


def inflated(file: BinaryIO) -> Iterator[bytes]:
    """The rest of a file that is a zlib stream."""
    decompressor = isal_zlib.decompressobj()
    while not decompressor.eof:
        compressed = decompressor.unconsumed_tail or file.read(BLOCK)
        try:
            block = decompressor.decompress(compressed, BLOCK)
        except isal_zlib.error as error:  # type: ignore[misc]  # the stubs call it a value
            raise Damaged("the compressed voxels are damaged") from error
        if not compressed and not block:
            raise Damaged("the compressed voxels end too early")
        yield block
    if rest := decompressor.unused_data + file.read(BLOCK):
        yield rest


def beside(path: Path, named: str, name: str) -> Path:
    """The data file that a header names: a plain name in the header's own folder, nothing else.

    Raises:
        InputError: it names a path, a pattern or something that is not there.
    """
    data = path.parent / named
    if not named or {"/", "\\", "\0", "%"} & set(named) or named.startswith(".") or named.split() != [named]:
        raise InputError(
            f"{name}: its header takes the voxels from {named!r}; only a file beside it may be named. "
            "Save it as one file (.mha or .nrrd)."
        )
    if data.is_symlink() or not data.is_file():
        raise InputError(f"{name}: its voxels should lie beside it in {named}, which is not there; copy both files.")
    return data
