"""Volumes and label maps: how they are read, and how results are written.

Nothing here trusts a header: the readers of ``formats`` and ``dicom`` check what it promises against what the file
holds. ITK writes only; it reports success when the disk is full, so what it wrote is looked at.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from kits.errors import InputError
from kits.io import dicom, formats
from kits.io.atomic import UNREADABLE, aside
from kits.io.cases import Case
from kits.io.formats import ending_of
from kits.io.stored import Stored
from kits.io.volume import Allocate, Grid, Volume

DAMAGED = "it is damaged, cut short or of another kind than its name says; copy or export it again"
LABEL_ROUNDING = 1e-3
"""What a slope and an intercept in the header may leave of a whole number."""


def count_voxels(case: Case) -> int:
    """How many voxels a case has by its header, for a look before reading; 0 where it has none to be read."""
    try:
        if case.is_dicom:
            return dicom.count(case.source)
        check_openable(case.source)
        return prod(formats.ENDINGS[ending_of(case.source)].header(case.source, str(case.source)).size)
    except (InputError, OSError, KeyError, EOFError, RuntimeError):  # what is wrong with it is for read_volume to say
        return 0


def read_volume(case: Case, empty: Allocate = np.empty) -> Volume:
    """Read the CT volume of a case, in canonical orientation.

    Args:
        case: from ``find_cases``.
        empty: makes the array for the HU.

    Raises:
        InputError: It cannot be read, or is not a CT volume.
    """
    return replace(Volume.from_stored(read_stored(case.source), str(case.source), empty), name=case.name)


def read_labels(path: Path, empty: Allocate = np.empty) -> tuple[np.ndarray, Grid]:
    """A label map as it is stored: uint8 (z, y, x) in the file's axis order, and its grid.

    Raises:
        InputError: It cannot be read, or holds anything but whole numbers of 0 to 255 (up to 0.001).
    """
    stored = read_stored(path)
    labels = empty(stored.voxels.shape, np.uint8)
    for source, target in zip(stored.voxels, labels, strict=True):
        exact = source if (stored.slope, stored.intercept) == (1, 0) else source * stored.slope + stored.intercept
        rounded = np.rint(exact)
        with np.errstate(invalid="ignore"):  # what cannot be converted is caught by the comparison
            target[...] = rounded.astype(np.uint8)
            if not (np.array_equal(target, rounded) and np.abs(exact - rounded).max() <= LABEL_ROUNDING):
                raise InputError(f"{path}: is not a label map (whole numbers of 0 to 255); give one.")
    return labels, stored.grid


def read_image(path: Path) -> sitk.Image:
    """Read a file whole as an ITK image, with its integrity checked; rescaled voxels are float32.

    Raises:
        InputError: It is missing, unreadable, damaged, or in another format.
    """
    stored = read_stored(path)
    voxels = stored.voxels
    if (stored.slope, stored.intercept) != (1, 0):
        voxels = (voxels * np.float64(stored.slope) + np.float64(stored.intercept)).astype(np.float32)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(stored.grid.spacing_xyz)
    image.SetOrigin(stored.grid.origin)
    image.SetDirection(stored.grid.direction)
    return image


def read_stored(path: Path) -> Stored:
    """Read a file, or a folder of DICOM slices, as it is stored.

    Raises:
        InputError: It is missing, unreadable, damaged, or in another format.
    """
    ending = ending_of(path)
    try:
        if path.is_dir() or (path.exists() and not ending):
            with warnings.catch_warnings():  # pydicom's, on values that break the standard's rules of form
                warnings.simplefilter("ignore")
                return dicom.read(path)
        if not ending:
            raise InputError(f"{path}: unknown kind of file; give {', '.join(formats.ENDINGS)} or DICOM.")
        check_openable(path)
        return formats.ENDINGS[ending].read(path, str(path))
    except UNREADABLE as error:
        raise InputError(f"{path}: cannot be read as {ending or 'DICOM'}: {DAMAGED} ({error}).") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror}); check path and permissions.") from error


def check_openable(path: Path) -> None:
    """Refuse what a program would wait for forever, such as a pipe.

    Raises:
        InputError: it is there, but no file.
        OSError: it is not there.
    """
    path.stat()
    if not path.is_file():
        raise InputError(f"{path}: is no regular file (a pipe, a socket or a device); give a file.")


def write_image(image: sitk.Image, path: Path) -> None:
    """Write an image, compressed: either whole under its name or, if anything fails, not at all.

    Raises:
        OutputError: It cannot be written.
    """
    with aside(path) as partial:
        sitk.WriteImage(image, str(partial), useCompression=True)
        formats.ENDINGS[ending_of(path)].read(partial, str(path))  # ITK reports no error when the disk is full
