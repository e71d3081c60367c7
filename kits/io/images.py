"""Volumes and label maps: how they are read, and how results are written.

Nothing here trusts ITK to notice damage: it fills a truncated NIfTI with zeros, reads NaN as 0 and an
impossible spacing as 1 mm, and reports success when the disk is full, all of it silently.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from kits.errors import InputError
from kits.io.atomic import UNREADABLE, aside
from kits.io.cases import READERS, Case, ending_of
from kits.io.dicom import read_dicom
from kits.io.nifti import check_nifti, placed
from kits.io.volume import Volume, single_frame

DAMAGED = "it is damaged, cut short or of another kind than its name says; copy or export it again"

sitk.ProcessObject.SetGlobalWarningDisplay(False)  # ITK's C++ warnings would tear the progress bar


def count_voxels(case: Case) -> int:
    """How many voxels a case has by its header, for a look before reading; 0 where it has none to be read."""
    reader = sitk.ImageFileReader()
    try:
        files = sorted(path for path in case.source.iterdir() if path.is_file()) if case.source.is_dir() else []
        reader.SetFileName(str(files[len(files) // 2] if files else case.source))
        reader.ReadImageInformation()
    except (RuntimeError, OSError):  # what is wrong with it is for read_volume to say
        return 0
    return prod(reader.GetSize()) * max(len(files), 1)


def read_volume(case: Case) -> Volume:
    """Read the CT volume of a case, in canonical orientation.

    Raises:
        InputError: It cannot be read, or is not a CT volume.
    """
    if case.source.is_dir():
        image, notes = read_dicom(case.source)
    else:
        image, notes = read_image(case.source), ()
    volume = Volume.from_image(image, str(case.source))
    return replace(volume, name=case.name, warnings=notes + volume.warnings)


def read_labels(path: Path) -> tuple[np.ndarray, tuple[float, float, float]]:
    """A label map as it is stored: uint8 (z, y, x) in ITK's axis order, and its spacing in mm (z, y, x).

    Raises:
        InputError: It cannot be read, or holds anything but whole numbers of 0 to 255.
    """
    image = single_frame(read_image(path), str(path))
    stored = sitk.GetArrayViewFromImage(image)
    with np.errstate(invalid="ignore"):  # what cannot be converted is caught by the comparison
        labels = stored.astype(np.uint8)
    if not np.array_equal(labels, stored):
        raise InputError(f"{path}: is not a label map (whole numbers of 0 to 255); give one.")
    x, y, z = image.GetSpacing()
    return labels, (z, y, x)


def read_image(path: Path) -> sitk.Image:
    """Read a NIfTI, MHA or NRRD file whole, with its integrity checked.

    Raises:
        InputError: It is missing, unreadable, damaged, or in another format.
    """
    ending = ending_of(path)
    if not ending:
        raise InputError(f"{path}: unknown kind of file; give {', '.join(READERS)}.")
    try:
        voxels = check_nifti(path) if ending.startswith(".nii") else None
        with path.open("rb"):  # the system's own reason, where ITK would only say that it failed
            image = None if voxels is None else placed(voxels, path, READERS[ending])
            return sitk.ReadImage(str(path), imageIO=READERS[ending]) if image is None else image
    except UNREADABLE as error:
        raise InputError(f"{path}: cannot be read as {ending}: {DAMAGED}.") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror}); check path and permissions.") from error


def write_image(image: sitk.Image, path: Path) -> None:
    """Write an image, compressed: either whole under its name or, if anything fails, not at all.

    Raises:
        OutputError: It cannot be written.
    """
    with aside(path) as partial:
        sitk.WriteImage(image, str(partial), useCompression=True)
        if ending_of(path).startswith(".nii"):
            check_nifti(partial)  # ITK reports no error when the disk is full
