"""NIfTI: what ITK does not check, and the voxels of most CT in half of its time."""

from __future__ import annotations

import struct
from math import prod
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from isal import igzip

from kits.errors import InputError

MOST_COMPRESSED = 1032
"""DEFLATE makes nothing smaller than by this factor."""


def placed(voxels: np.ndarray, path: Path, image_io: str) -> sitk.Image | None:
    """A file's voxels as an image, placed as ITK reads its header; None where ITK would change them."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO(image_io)
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    if reader.GetSize() != voxels.shape[::-1] or reader.GetPixelID() != sitk.sitkInt16:  # such as voxels to rescale
        return None
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(reader.GetSpacing())
    image.SetOrigin(reader.GetOrigin())
    image.SetDirection(reader.GetDirection())
    return image


def check_nifti(path: Path) -> np.ndarray | None:
    """Check a NIfTI-1 file's header, voxels, length and gzip checksum in one pass.

    Fields and offsets: https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h

    Returns:
        The voxels as they are stored, (z, y, x), if they are int16 of three axes, as most CT is: ISA-L has them in half
        of ITK's time. None for any other kind; its voxels are not kept.

    Raises:
        InputError: The header is impossible, or voxels are NaN or infinite.
        EOFError, OSError, IsalError: The file is damaged.
    """
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    with igzip.open(path) if zipped else path.open("rb") as stream:
        header = stream.read(348)
        order = {struct.pack("<i", 348): "<", struct.pack(">i", 348): ">"}.get(header[:4])
        if order is None or len(header) < 348:
            raise EOFError("no NIfTI-1 header")
        axes, *size = struct.unpack_from(f"{order}8h", header, 40)
        kind, bits = struct.unpack_from(f"{order}2h", header, 70)
        spacing = struct.unpack_from(f"{order}3f", header, 80)
        (offset,) = struct.unpack_from(f"{order}f", header, 108)
        if not 0 <= offset < 1 << 30:  # NaN is refused, too
            raise EOFError("voxels that start nowhere")
        if not 1 <= axes <= 7 or min(size[:axes]) < 1:
            raise InputError(f"{path}: holds no voxels (size {tuple(size[:axes])}); export it again.")
        if not all(0 < mm < float("inf") for mm in spacing[:axes]):
            raise InputError(f"{path}: its spacing is {spacing} mm; correct the spacing (pixdim) in its header.")
        missing = prod(size[:axes]) * bits // 8
        floats = {16: np.dtype(f"{order}f4"), 64: np.dtype(f"{order}f8")}.get(kind)
        if missing > path.stat().st_size * MOST_COMPRESSED:
            raise EOFError("far fewer voxels than the header promises")
        plain = kind == 4 and axes == 3 and order == "<"
        voxels = np.empty(size[2::-1], np.int16) if plain else None
        room = np.empty(0, np.uint8) if voxels is None else voxels.reshape(-1).view(np.uint8)
        stream.read(max(int(offset) - 348, 0))
        while block := stream.read(1 << 20):
            missing -= len(block)
            room[: len(block)] = np.frombuffer(block, np.uint8)[: len(room)]
            room = room[len(block) :]
            if floats and not np.isfinite(np.frombuffer(block, floats, len(block) // floats.itemsize)).all():
                raise InputError(f"{path}: has NaN or infinite voxels; export it again as integers.")
    if missing > 0:
        raise EOFError("fewer voxels than the header promises")
    return voxels
