"""The kinds of scans that are damaged: how each is written, and where it lies while it is whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib

from test.fuzz.oracle import Place
from test.helpers.scans import (
    ORIGIN,
    SPACING_XYZ,
    ct,
    enhanced,
    save_dicom,
    write_meta,
    write_nifti,
    write_nrrd,
    write_series,
)

WHOLE = Place.of(ct().shape[::-1], SPACING_XYZ, ORIGIN)


@dataclass(frozen=True)
class Kind:
    """A way to store the one scan.

    Args:
        name: for messages.
        write: writes it into a folder and returns what to read.
        oracle: which other reader says where it lies.
        header_bytes: about so many bytes come before the voxels.
        is_text: whether they are text.
        place: where it lies.
    """

    name: str
    write: Callable[[Path], Path]
    oracle: str
    header_bytes: int
    is_text: bool = False
    place: Place = WHOLE


def _series(folder: Path) -> Path:
    write_series(folder)
    return folder


def _enhanced(folder: Path) -> Path:
    hu = ct()
    save_dicom(enhanced(hu, range(len(hu))), folder / "a.dcm")
    return folder


KINDS = [
    Kind("NIfTI", lambda folder: write_nifti(folder / "a.nii"), "nifti", 352),
    Kind("NIfTI-2", lambda folder: write_nifti(folder / "a.nii", kind=nib.Nifti2Image), "nifti", 544),
    Kind("gzipped NIfTI", lambda folder: write_nifti(folder / "a.nii.gz"), "nifti", 400),
    Kind("MetaImage", lambda folder: write_meta(folder / "a.mha"), "meta", 270, True),
    Kind("compressed MetaImage", lambda folder: write_meta(folder / "a.mha", CompressedData="True"), "meta", 270, True),
    Kind("NRRD", lambda folder: write_nrrd(folder / "a.nrrd"), "nrrd", 240, True),
    Kind("gzipped NRRD", lambda folder: write_nrrd(folder / "a.nrrd", encoding="gzip"), "nrrd", 240, True),
    Kind("DICOM series", _series, "dicom", 1100),
    Kind("multi-frame DICOM", _enhanced, "dicom", 2500),
]
