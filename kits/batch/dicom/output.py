"""``--dicom``: what is written of a case whose scan came as DICOM."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk

from kits import __version__
from kits.batch.dicom.report import make_report
from kits.batch.dicom.rtstruct import make_rtstruct
from kits.batch.dicom.segmentation import make_segmentation
from kits.batch.dicom.source import require_libraries, source_of
from kits.batch.parts import parts_of
from kits.errors import OutputError
from kits.io.atomic import aside
from kits.io.volume import Volume
from kits.measure.results import Measurements

if TYPE_CHECKING:
    from pydicom import Dataset

KINDS = ("seg", "rtstruct", "sr")


def write_dicom(
    files: dict[str, Path], scan: Path, volume: Volume, labels: np.ndarray, measured: Measurements
) -> list[Path]:
    """Write DICOM objects of a label map.

    Args:
        files: which kinds (seg, rtstruct, sr) go to which files; a report refers to a segmentation, so that sr asks
            for seg, too.
        scan: the DICOM folder or file that the volume was read from.
        volume: as it was read.
        labels: uint8 (z, y, x) on its canonical grid.
        measured: what was measured of both.

    Returns:
        What was written.

    Raises:
        InputError: the scan is no DICOM series, or its headers lack what each derived object must carry.
        OutputError: nothing is labelled, a library is missing, or a file cannot be written.
    """
    require_libraries()
    source = source_of(scan, volume.home)
    numbers, parts = parts_of(labels, volume.hu, measured)
    if not parts:
        raise OutputError(f"{volume.name}: nothing was found, so there is no DICOM object to write.")
    stored = sitk.GetArrayFromImage(volume.to_home(numbers))
    made: list[tuple[str, Dataset]] = []
    if "seg" in files:
        segmentation = make_segmentation(source, stored, parts, __version__)
        made.append(("seg", segmentation))
        if "sr" in files:
            made.append(("sr", make_report(source, segmentation, parts, measured, __version__)))
    if "rtstruct" in files:
        made.append(("rtstruct", make_rtstruct(source, stored, parts, __version__)))
    return list(_written(files, made))


def _written(files: dict[str, Path], made: list[tuple[str, Dataset]]) -> Iterable[Path]:
    for kind, dataset in made:
        with aside(files[kind]) as partial:
            dataset.save_as(partial, enforce_file_format=True)
        yield files[kind]
