"""NIfTI-1 and NIfTI-2, in one file or in two, gzipped or not.

nibabel reads the header; the voxels come straight from the (ISA-L decompressed) stream. What a NIfTI says of its
place it may say three times: sform, qform and pixdim. Where they disagree a remark says which was believed.

Source: https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from isal import igzip

from kits.errors import InputError
from kits.io.remark import Remark
from kits.io.stored import MOST_COMPRESSED, Damaged, Header, Stored, beside, plain
from kits.io.volume import RIGHT_ANGLE, Grid, off_right_angles

ENDINGS = (".nii", ".nii.gz", ".hdr")
PARTS = (".img", ".img.gz")
SIZES = {348: "Nifti1Header", 540: "Nifti2Header"}
UNITS = {"meter": 1000.0, "micron": 0.001}
"""Lengths other than mm, in mm."""
MOST_OFFSET = 1 << 30
TEMPLATE_CODE = 3
"""From here on a transform leads to a template's space (Talairach, MNI), not to the patient's."""


class Placed(NamedTuple):
    """An affine of voxel indices to mm, in NIfTI's space (right, anterior, superior)."""

    affine: np.ndarray
    code: int


def header(path: Path, name: str) -> Header:
    """What a file says of its voxels."""
    with _opened(path) as stream:
        return _understood(_raw(stream, name), name)


def read(path: Path, name: str) -> Stored:
    """A file's voxels; slope and intercept are not applied yet."""
    with _opened(path) as stream:
        raw = _raw(stream, name)
        found = _understood(raw, name)
        pair = raw["magic"].item().startswith(b"ni")
        if not pair:
            return Stored.of(found, _voxels(stream, raw, found), _bytes_of(path), name)
    data = path.with_name(f"{path.name[: -len('.hdr')]}.img")
    if not data.exists() and data.with_name(f"{data.name}.gz").exists():
        data = data.with_name(f"{data.name}.gz")
    data = beside(path, data.name, name)
    with _opened(data) as stream:
        skip = _offset(raw)
        if len(stream.read(skip)) < skip:
            raise Damaged("the voxels' file is too short")
        return Stored.of(found, plain(stream), _bytes_of(data), name)


def _opened(path: Path) -> BinaryIO | igzip.IGzipFile:
    """A file to read, decompressed if it begins as gzip does, whatever it is called."""
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return igzip.open(path) if zipped else path.open("rb")


def _bytes_of(path: Path) -> int:
    return path.stat().st_size


def _raw(stream: BinaryIO | igzip.IGzipFile, name: str) -> Any:
    """nibabel's header of what a stream begins with."""
    import nibabel as nib  # a third of a second, which what reads no NIfTI need not wait for

    start = stream.read(4)
    for length, kind in SIZES.items():
        for order in "<>":
            if start == struct.pack(f"{order}i", length):
                block = start + stream.read(length - 4)
                if len(block) < length:
                    raise Damaged("the header is cut short")
                found = getattr(nib, kind)(block, endianness=order, check=False)
                if found["magic"].item()[:3] not in (b"n+1", b"ni1", b"n+2", b"ni2"):
                    raise InputError(f"{name}: is no NIfTI (perhaps an Analyze image); convert it to NIfTI.")
                return found
    raise Damaged("no NIfTI header")


def _understood(raw: Any, name: str) -> Header:
    axes = int(raw["dim"][0])
    if not 1 <= axes <= 7:
        raise InputError(f"{name}: holds no voxels (size {raw['dim'].tolist()}); export it again.")
    size = tuple(int(n) for n in raw["dim"][1 : axes + 1])
    try:
        dtype = np.dtype(raw.get_data_dtype())
    except Exception as error:
        raise Damaged("its voxels are of an unknown type") from error
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise InputError(f"{name}: its voxels are {dtype}, not one HU value each; export it as greyscale CT.")
    if dtype.itemsize * 8 != raw["bitpix"]:
        raise Damaged("its bits a voxel are not those of its type")
    grid, remarks = _placement(raw, (*size, 1, 1)[:3], name)
    slope, intercept = float(raw["scl_slope"]), float(raw["scl_inter"])
    if not np.isfinite(slope) or slope == 0:
        slope, intercept = 1.0, 0.0
    if not np.isfinite(intercept):
        raise InputError(f"{name}: its intercept (scl_inter) is {intercept}; correct the header.")
    return Header(size, dtype, grid, slope, intercept, remarks)


def _offset(raw: Any) -> int:
    offset = float(raw["vox_offset"])
    if not 0 <= offset < MOST_OFFSET:  # NaN is refused, too
        raise Damaged("voxels that start nowhere")
    return int(offset)


def _voxels(stream: BinaryIO | igzip.IGzipFile, raw: Any, found: Header) -> Iterator[bytes]:
    """What follows the header in a single file, from where the voxels start.

    They start at ``vox_offset``, 4 bytes after the header at the earliest. Where the field says less, as some
    programs write, the length tells whether those 4 bytes are there.
    """
    length, offset = int(raw["sizeof_hdr"]), _offset(raw)
    if offset >= length + 4:
        skip = offset - length
        while skip:
            block = stream.read(min(skip, 1 << 20))
            if not block:
                raise Damaged("the file ends before its voxels")
            skip -= len(block)
        yield from plain(stream)
        return
    missing = prod(found.size) * found.dtype.itemsize
    # One voxel more than promised is enough to know; nothing larger than the stream can hold is asked for.
    everything = stream.read(min(missing + 4, _most(stream)))
    yield everything[4:] if len(everything) == missing + 4 else everything
    yield from plain(stream)


def _most(stream: BinaryIO | igzip.IGzipFile) -> int:
    return MOST_COMPRESSED * _bytes_of(Path(stream.name))


def _placement(raw: Any, size: tuple[int, ...], name: str) -> tuple[Grid, tuple[Remark, ...]]:
    """Where the voxels lie, and what is odd about what the header says of it."""
    remarks: list[Remark] = []
    pixdim = np.asarray(raw["pixdim"][1:4], np.float64)
    sform, qform = _valid(raw, "sform"), _valid(raw, "qform")
    if sform and sform.code < TEMPLATE_CODE and off_right_angles(sform.affine[:3, :3]) <= RIGHT_ANGLE:
        used, word, other = sform, "sform", qform
    elif qform:
        used, word, other = qform, "qform", sform
    elif sform:
        used, word, other = sform, "sform", None
    else:
        _check_pixdim(pixdim, name)
        used, word, other = Placed(np.diag([*pixdim, 1.0]), 0), "pixdim", None
        remarks.append(
            Remark(
                "no-orientation",
                "The header does not say how the patient lies (neither sform nor qform); taken as NIfTI's own axes: "
                "right, anterior, superior. Sides may be swapped.",
            )
        )
    if other:
        remarks += _disagreement(used.affine, other.affine, size, word, "qform" if word == "sform" else "sform")
    for kind in ("sform", "qform"):
        if raw[f"{kind}_code"] > 0 and not {"sform": sform, "qform": qform}[kind]:
            remarks.append(Remark("bad-transform", f"The header's {kind} is impossible; took the {word}."))
    if used.code >= TEMPLATE_CODE:
        remarks.append(Remark("template-space", f"The {word} leads to a template's space, not to the patient's."))
    spacing = np.linalg.norm(used.affine[:3, :3], axis=0)
    if np.allclose(spacing, pixdim, rtol=1e-4):
        spacing = pixdim  # free of the rounding of nine cosines
    elif word == "sform":
        text = f"pixdim says {_mm(pixdim)} mm, the sform {_mm(spacing)} mm; took the sform's spacing."
        remarks.append(Remark("pixdim-disagrees", text))
    lps = used.affine[:3] * np.array([[-1.0], [-1.0], [1.0]]) + 0.0
    direction = lps[:, :3] / np.linalg.norm(lps[:, :3], axis=0)
    unit = UNITS.get(_unit(raw), 1.0)
    if unit != 1:
        remarks.append(Remark("units", f"The header's unit of length is the {_unit(raw)}; turned into mm."))
    grid = Grid(
        (size[0], size[1], size[2]),
        (spacing[0].item() * unit, spacing[1].item() * unit, spacing[2].item() * unit),
        (lps[0, 3].item() * unit, lps[1, 3].item() * unit, lps[2, 3].item() * unit),
        tuple(direction.ravel().tolist()),
    )
    return grid, tuple(remarks)


def _valid(raw: Any, kind: str) -> Placed | None:
    """The header's sform or qform, if it is set and possible."""
    try:
        affine, code = getattr(raw, f"get_{kind}")(coded=True)
    except Exception:  # such as a quaternion longer than 1
        return None
    if affine is None or not np.isfinite(affine).all():
        return None
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    pixdim = np.asarray(raw["pixdim"][1:4], np.float64)
    if kind == "qform" and not ((pixdim > 0) & np.isfinite(pixdim)).all():
        return None
    singular = not lengths.all() or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-3
    return None if singular else Placed(affine, int(code))


def _check_pixdim(pixdim: np.ndarray, name: str) -> None:
    if not ((pixdim > 0) & np.isfinite(pixdim)).all():
        raise InputError(f"{name}: its spacing is {_mm(pixdim)} mm; correct the spacing (pixdim) in its header.")


def _disagreement(used: np.ndarray, other: np.ndarray, size: tuple[int, ...], word: str, against: str) -> list[Remark]:
    """A remark if two transforms put a corner of the volume more than half a voxel apart, or mirror it."""
    corners = np.array([[x, y, z, 1] for x in (0, size[0] - 1) for y in (0, size[1] - 1) for z in (0, size[2] - 1)])
    apart = float(np.linalg.norm(((used - other) @ corners.T)[:3], axis=0).max())
    mirrored = np.linalg.det(used[:3, :3]) * np.linalg.det(other[:3, :3]) < 0
    if not mirrored and apart <= 0.5 * np.linalg.norm(used[:3, :3], axis=0).min():
        return []
    sides = " and mirror each other, so sides may be swapped" if mirrored else ""
    text = f"sform and qform disagree by up to {apart:.0f} mm{sides}; took the {word}, not the {against}."
    return [Remark("mirrored-transforms" if mirrored else "transforms-disagree", text)]


def _unit(raw: Any) -> str:
    try:
        return str(raw.get_xyzt_units()[0])
    except KeyError:
        return "unknown"


def _mm(lengths: np.ndarray) -> str:
    return " x ".join(f"{mm:.4g}" for mm in lengths)
