"""The scan's own DICOM instances, which results refer to, and where each lies on the label map's grid."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kits.errors import InputError, OutputError
from kits.io.volume import Grid

if TYPE_CHECKING:
    from pydicom import Dataset

REMEDY = "install what --dicom needs: pip install 'kits-cascade[report]'"
NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
MAY_BE_EMPTY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
"""What every DICOM object has, but may leave empty (type 2); scanners and anonymisers leave it out altogether."""
IN_PLANE_DEGREES_COSINE = 0.9999
ON_SLICE = 0.2
"""An image belongs to a slice that lies nearer to it than this share of the slice spacing."""


@dataclass(frozen=True)
class Plane:
    """An image of the scan: a file's header, and which of its frames (from 1 on; None in a file of one image)."""

    header: Dataset
    frame: int | None


@dataclass(frozen=True)
class Source:
    """The images that a label map was made from.

    Args:
        grid: of the scan as it was read, and of the label map.
        planes: for each slice of the grid the image that shows it; None where the scan has none (interpolated).
    """

    grid: Grid
    planes: tuple[Plane | None, ...]

    @cached_property
    def headers(self) -> list[Dataset]:
        """The files' headers, each once, in the slices' order."""
        found = {plane.header.SOPInstanceUID: plane.header for plane in self.planes if plane}
        return list(found.values())

    @property
    def first(self) -> Dataset:
        """A header that tells patient, study and frame of reference."""
        return self.headers[0]


def require_libraries() -> None:
    """Make sure that the optional libraries are there.

    Raises:
        OutputError: they are not; the message tells the remedy.
    """
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise OutputError(f"--dicom cannot be written ({error}); {REMEDY}") from error


def source_of(path: Path, grid: Grid) -> Source:
    """The DICOM images behind a volume, found by their position.

    Args:
        path: the folder of slices, or one of its files.
        grid: of the volume as it was read.

    Raises:
        InputError: there are none, or their headers lack what every derived object must carry.
    """
    best: dict[str, dict[int, Plane]] = {}
    for header in _headers(path):
        for slice_, frame in _slices(header, grid):
            best.setdefault(str(header.get("SeriesInstanceUID", "")), {}).setdefault(slice_, Plane(header, frame))
    if not best:
        raise InputError(f"{path}: is no DICOM series, which --dicom needs to refer to; give the scan as DICOM.")
    planes = max(best.values(), key=len)
    for plane in planes.values():
        _complete(plane.header, path)
    if len({plane.header.FrameOfReferenceUID for plane in planes.values()}) > 1:
        raise InputError(f"{path}: its slices have several FrameOfReferenceUIDs, so that no common space is known.")
    return Source(grid, tuple(planes.get(index) for index in range(grid.size_xyz[2])))


def _headers(path: Path) -> list[Dataset]:
    """The headers of a folder's CT images; what is something else or damaged was told of when the scan was read."""
    import pydicom

    found = []
    for file in sorted((path if path.is_dir() else path.parent).iterdir()):
        if not file.is_file() or file.name.startswith("."):
            continue
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True, force=True)
            if "Rows" in header and "Columns" in header and header.get("Modality", "CT") == "CT":
                header.decode()
                found.append(header)
        except Exception:  # pydicom raises what it likes at damage
            continue
    return sorted(found, key=lambda header: int(header.get("InstanceNumber") or 0))


def _slices(header: Dataset, grid: Grid) -> list[tuple[int, int | None]]:
    """Which slices of the grid a file's images are, and their frame numbers."""
    direction = np.reshape(grid.direction, (3, 3))
    found: list[tuple[int, int | None]] = []
    try:
        for frame, (orientation, position) in enumerate(_places(header), start=1):
            axes = np.reshape(np.asarray(orientation, float), (2, 3))
            if min(axes[0] @ direction[:, 0], axes[1] @ direction[:, 1]) < IN_PLANE_DEGREES_COSINE:
                continue
            along = (np.asarray(position, float) - grid.origin) @ direction[:, 2] / grid.spacing_xyz[2]
            index = round(float(along))
            if abs(along - index) < ON_SLICE and 0 <= index < grid.size_xyz[2]:
                found.append((index, frame if "NumberOfFrames" in header else None))
    except (AttributeError, TypeError, ValueError, IndexError):  # a header without a place is no slice
        return []
    return found


def _places(header: Dataset) -> list[tuple[list[float], list[float]]]:
    """Orientation and position of each of a file's images."""
    if "PerFrameFunctionalGroupsSequence" not in header:
        return [(header.ImageOrientationPatient, header.ImagePositionPatient)]
    shared = header.SharedFunctionalGroupsSequence[0]
    places = []
    for own in header.PerFrameFunctionalGroupsSequence:
        groups = own if "PlaneOrientationSequence" in own else shared
        orientation = groups.PlaneOrientationSequence[0].ImageOrientationPatient
        places.append((orientation, own.PlanePositionSequence[0].ImagePositionPatient))
    return places


def _complete(header: Dataset, path: Path) -> None:
    """Refuse a header without what derived objects cannot do without; leave empty what may be empty."""
    for keyword in NEEDED:
        if not header.get(keyword):
            raise InputError(
                f"{path}: its slices have no {keyword}, without which no DICOM object can refer to them; "
                "export the series again, or take the label map instead."
            )
    for keyword in MAY_BE_EMPTY:
        if keyword not in header:
            setattr(header, keyword, "")
