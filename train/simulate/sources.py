"""What simulations are made from: real scans with kidney masks, and KiTS label maps."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from kits.errors import InputError
from kits.geometry import Spacing
from kits.io.images import read_image
from kits.io.volume import Grid

from ..data.cases import patient_of, read_pair

COARSEST_MM = 2.0
"""A scan with larger pixels is no background: what is painted into it would be sharper than it is."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A file to simulate from.

    Args:
        patient: who it shows, as training names patients (KiTS ones ``kits-00166``), so that those who validate can
            be kept out.
        path: the CT volume (a mask lies beside it) or the label map.
    """

    patient: str
    path: Path


@dataclass(frozen=True)
class Sources:
    """All that a run simulates from."""

    backgrounds: tuple[Source, ...]
    kidneys: tuple[Source, ...]


def find_sources(labels: Sequence[Path], backgrounds: Path | None, leave_out: Collection[str] = ()) -> Sources:
    """Everything usable below some folders.

    Args:
        labels: folders of KiTS label maps, ``case_NNNNN.nii.gz`` or ``case_NNNNN/segmentation.nii.gz``.
        backgrounds: folder of ``NAME/ct.nii.gz`` with ``NAME/label.nii.gz``.
        leave_out: patients that must not be used.

    Raises:
        InputError: a folder is missing or holds nothing of the kind.
    """
    kidneys, scans = [], []
    for folder in labels:
        found = list(_kidneys_in(folder))
        kidneys += found
        if not found:
            raise InputError(f"{folder}: no label map found; give folders of case_NNNNN.nii.gz.")
    if backgrounds:
        scans = [Source(patient_of(p.parent.name), p) for p in sorted(backgrounds.glob("*/ct.nii.gz"))]
        if not scans:
            raise InputError(f"{backgrounds}: no scan found; give a folder of NAME/ct.nii.gz with NAME/label.nii.gz.")
    barred = {patient_of(name) for name in leave_out}
    scans, kidneys = ([s for s in sources if s.patient not in barred] for sources in (scans, kidneys))
    return Sources(tuple(s for s in scans if _fine_enough(s.path)), tuple(kidneys))


def _kidneys_in(folder: Path) -> Iterator[Source]:
    for path in sorted([*folder.glob("case_*.nii.gz"), *folder.glob("case_*/segmentation.nii.gz")]):
        name = path.parent.name if path.name == "segmentation.nii.gz" else path.name.removesuffix(".nii.gz")
        yield Source(patient_of(name), path)


def _fine_enough(path: Path) -> bool:
    reader = sitk.ImageFileReader()
    try:
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        direction = np.abs(np.reshape(reader.GetDirection(), (3, 3)))
        in_plane = max(s for s, axis in zip(reader.GetSpacing(), direction.T, strict=True) if axis[2] < 0.5)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{path}: cannot be read; copy or export it again.") from error
    if in_plane > COARSEST_MM:
        log.info("%s is left out: its pixels of %.1f mm are too coarse for a background.", path, in_plane)
    return in_plane <= COARSEST_MM


@lru_cache(maxsize=6)
def read_background(source: Source) -> tuple[np.ndarray, np.ndarray, Spacing]:
    """HU (int16), labels (0, 1 kidney, 2 tumour) and spacing; canonical (z, y, x), read-only."""
    hu, labels, spacing = read_pair(source.path, source.path.with_name("label.nii.gz"))
    if not labels.any():
        raise InputError(f"{source.path}: its mask shows no kidney; take it out of the backgrounds.")
    hu = np.maximum(hu, -1024)  # padding outside the field of view
    hu.setflags(write=False)
    return hu, labels, spacing


def read_kidneys(source: Source) -> tuple[np.ndarray, Spacing]:
    """A KiTS label map (1 kidney, 2 tumour, 3 cyst), uint8 canonical (z, y, x), and its spacing.

    Slices and rows that show nothing are cut off; columns are kept, as the middle one tells right from left.

    Raises:
        InputError: it cannot be read, shows no kidney, or holds other labels.
    """
    labels, spacing = _read_canonical(source.path)
    if not (labels == 1).any() or labels.max() > 3:
        raise InputError(f"{source.path}: is no label map of kidneys (1 kidney, 2 tumour, 3 cyst).")
    slices, rows = (np.flatnonzero(labels.any(axis=axes)) for axes in ((1, 2), (0, 2)))
    return labels[slices[0] : slices[-1] + 1, rows[0] : rows[-1] + 1].copy(), spacing


def _read_canonical(path: Path) -> tuple[np.ndarray, Spacing]:
    image = read_image(path)
    order, flips = Grid.of(image).canonical_axes()
    stored = sitk.GetArrayViewFromImage(image)
    z, y, x = (image.GetSpacing()[2 - axis] for axis in order)
    return np.ascontiguousarray(stored.transpose(order)[flips]).astype(np.uint8), (z, y, x)
