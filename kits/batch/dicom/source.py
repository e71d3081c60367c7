"""The scan's own DICOM instances, which results refer to, and where each lies on the label map's grid."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kits.errors import InputError, OutputError
from kits.io.dicom.files import find_frames, looks_like_dicom
from kits.io.dicom.series import choose
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
    """Make sure that the optional libraries are there, and quiet.

    Raises:
        OutputError: they are not; the message tells the remedy.
    """
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise OutputError(f"--dicom cannot be written ({error}); {REMEDY}") from error
    logging.getLogger("highdicom").setLevel(logging.WARNING)  # it tells each group of attributes that it copies


def source_of(path: Path, grid: Grid) -> Source:
    """The DICOM images behind a volume: those that the reader chose, each found by its position.

    Args:
        path: the folder of slices, or one of its files.
        grid: of the volume as it was read.

    Raises:
        InputError: there are none, or their headers lack what every derived object must carry.
    """
    if path.is_file() and not looks_like_dicom(path):
        raise InputError(f"{path}: is no DICOM series, which --dicom needs to refer to; give the scan as DICOM.")
    frames, _ = choose(find_frames(path), path)
    headers = {file: _header(file, path) for file in dict.fromkeys(frame.file for frame in frames)}
    if len({header.FrameOfReferenceUID for header in headers.values()}) > 1:
        raise InputError(f"{path}: its slices have several FrameOfReferenceUIDs, so that no common space is known.")
    planes: dict[int, Plane] = {}
    normal = np.reshape(grid.direction, (3, 3))[:, 2]
    for frame in frames:
        along = float((frame.position - grid.origin) @ normal) / grid.spacing_xyz[2]
        if abs(along - round(along)) < ON_SLICE:
            header = headers[frame.file]
            planes[round(along)] = Plane(header, frame.index + 1 if "NumberOfFrames" in header else None)
    return Source(grid, tuple(planes.get(index) for index in range(grid.size_xyz[2])))


def _header(file: Path, path: Path) -> Dataset:
    import pydicom

    header = pydicom.dcmread(file, stop_before_pixels=True, force=True)
    header.decode()
    _complete(header, path)
    return header


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
