"""DICOM: which series of a folder is the CT, and where its slices lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from kits.errors import InputError


def read_dicom(folder: Path) -> tuple[sitk.Image, tuple[str, ...]]:
    """The largest axial series of a folder, rescaled to HU by GDCM, and notes on what else was found."""
    try:
        found = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
        series = [sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid) for uid in found]
        axial = {files: _is_axial(files[0]) for files in series if files}
        if not axial:
            raise InputError(f"{folder}: holds no DICOM image series; give a folder of CT slices.")
        files = max(axial, key=lambda files: (axial[files], len(files)))
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(files)
        reader.MetaDataDictionaryArrayUpdateOn()  # keeps each slice's position
        image = reader.Execute()
    except RuntimeError as error:
        raise InputError(
            f"{folder}: cannot be read as a DICOM series; give a folder with the slices of one CT series."
        ) from error
    notes = []
    if len(axial) > 1:
        notes.append(f"The folder holds {len(axial)} DICOM series; took the one of {len(files)} slices.")
    if not axial[files]:
        notes.append("The DICOM series is not axial.")
    steps = _slice_steps(reader, len(files), image.GetDirection()[2::3])
    if steps.size and steps.min() < 1e-3:
        raise InputError(f"{folder}: several slices lie at the same position; give the slices of one phase only.")
    if steps.size and np.ptp(steps) > 0.1 * np.median(steps):
        notes.append(
            f"Gaps in z: slices are {np.median(steps):g} mm apart, but up to {steps.max():g} mm in places; "
            f"read as if evenly {image.GetSpacing()[2]:g} mm apart."
        )
    return image, tuple(notes)


def _is_axial(file: str) -> bool:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(file)
    reader.ReadImageInformation()
    normal = np.abs(reader.GetDirection()[2::3])
    return bool(normal.argmax() == 2)


def _slice_steps(reader: sitk.ImageSeriesReader, count: int, normal: tuple[float, ...]) -> np.ndarray:
    """Distances in mm between neighbouring slices along the normal; empty where positions are not given."""
    position = "0020|0032"
    if not all(reader.HasMetaDataKey(index, position) for index in range(count)):
        return np.empty(0)
    points = [[float(mm) for mm in reader.GetMetaData(i, position).split("\\")] for i in range(count)]
    return np.abs(np.diff(np.asarray(points) @ np.asarray(normal)))
