"""Where a scan lies by other readers than ours: nibabel, pydicom, and a few lines for headers that are text."""

from __future__ import annotations

import gzip
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom

from kits.io.volume import Grid


@dataclass(frozen=True, eq=False)
class Place:
    """A volume's size (x, y, z) and its affine of voxel indices to mm in LPS space."""

    size: tuple[int, ...]
    affine: np.ndarray

    @classmethod
    def of(cls, size: Any, spacing: Any, origin: Any, direction: Any = None) -> Place:
        """From size, spacing, origin and direction (columns are axes)."""
        affine = np.eye(4)
        affine[:3, :3] = (np.eye(3) if direction is None else np.reshape(direction, (3, 3))) * np.asarray(spacing)
        affine[:3, 3] = origin
        return cls(tuple(int(n) for n in size), affine)

    @classmethod
    def of_grid(cls, grid: Grid) -> Place:
        """From our grid."""
        return cls.of(grid.size_xyz, grid.spacing_xyz, grid.origin, grid.direction)

    def near(self, other: Place) -> bool:
        """Whether every corner lies within a tenth of a voxel, or a thousandth of its distance, of the other's."""
        if self.size != other.size:
            return False
        corners = np.array(
            [[x, y, z, 1] for x in (0, self.size[0]) for y in (0, self.size[1]) for z in (0, self.size[2])]
        )
        ours, theirs = corners @ self.affine[:3].T, corners @ other.affine[:3].T
        voxel = np.linalg.norm(self.affine[:3, :3], axis=0).min()
        return bool((np.abs(ours - theirs) <= 0.1 * voxel + 1e-3 * np.abs(theirs)).all())


def place_of(oracle: str, path: Path) -> Place:
    """Where a scan lies by one of the other readers.

    Raises:
        Exception: it could not read it.
    """
    return {"nifti": _nifti, "meta": _meta, "nrrd": _nrrd, "dicom": _dicom}[oracle](path)


def _nifti(path: Path) -> Place:
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    kind = nib.Nifti2Header if data[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c") else nib.Nifti1Header
    header = kind(data[: kind.sizeof_hdr], check=False)
    sform = header.get_sform(coded=True)
    affine = header.get_qform() if sform[0] is None or sform[1] > 2 else sform[0]
    return Place((*header.get_data_shape(), 1, 1)[:3], np.diag([-1, -1, 1, 1]) @ affine)


def _meta(path: Path) -> Place:
    text = path.read_bytes().decode("latin-1")
    fields = dict(re.findall(r"^\s*(\w+)\s*=\s*(.*?)\s*$", text[: text.index("LOCAL")], re.MULTILINE))
    matrix = np.array(fields["TransformMatrix"].split(), float)
    axes = int(np.sqrt(matrix.size))
    numbers = {key: fields[key].split()[:3] for key in ("DimSize", "ElementSpacing", "Offset")}
    direction = matrix.reshape(axes, axes).T[:3, :3]
    return Place.of(numbers["DimSize"], *(np.array(numbers[k], float) for k in ("ElementSpacing", "Offset")), direction)


def _nrrd(path: Path) -> Place:
    text = re.split(r"\r?\n\r?\n", path.read_bytes().decode("latin-1"))[0]
    fields = {
        key.lower().strip(): value for key, value in re.findall(r"^([^#:\n]+):(?!=)\s*(.*?)\s*$", text, re.MULTILINE)
    }
    vectors = np.array([vector.split(",") for vector in re.findall(r"\(([^)]*)\)", fields["space directions"])], float)
    origin = np.array(fields["space origin"].strip("()").split(","), float)
    signs = (
        {"left": 1, "right": -1}[fields["space"].split("-")[0]],
        {"posterior": 1, "anterior": -1}[fields["space"].split("-")[1]],
    )
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = vectors.T, origin
    return Place(tuple(map(int, fields["sizes"].split()))[:3], np.diag([*signs, 1, 1]) @ affine)


def _dicom(folder: Path) -> Place:
    """By the attributes that all slices share; the files must agree, as those of a whole series do."""
    positions: list[Any] = []
    for file in sorted(folder.iterdir()):
        header: Any = pydicom.dcmread(file, force=True, stop_before_pixels=True)
        shared = header.get("SharedFunctionalGroupsSequence")
        frames = header.get("PerFrameFunctionalGroupsSequence") or [header]
        measures = shared[0].PixelMeasuresSequence[0] if shared else header
        plane = shared[0].PlaneOrientationSequence[0] if shared else header
        positions += [(f.PlanePositionSequence[0] if shared else f).ImagePositionPatient for f in frames]
    row, column = np.reshape(np.array(plane.ImageOrientationPatient, float), (2, 3))
    normal = np.cross(row, column)
    along = np.array(positions, float) @ normal
    order = np.argsort(along)
    between_rows, between_columns = map(float, measures.PixelSpacing)
    spacing = (between_columns, between_rows, (along.max() - along.min()) / (len(along) - 1))
    size = (header.Columns, header.Rows, len(along))
    return Place.of(size, spacing, np.array(positions, float)[order[0]], np.column_stack([row, column, normal]))
