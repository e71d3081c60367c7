"""``kits overlay SCAN LABELS OUT.png``: the picture of a label map that exists."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from kits.batch.meshes import canonical_to_lps
from kits.batch.overlay import Heading, write_overlay
from kits.errors import InputError
from kits.io.cases import find_cases
from kits.io.images import read_image, read_volume
from kits.io.volume import Grid, Volume, single_frame

OFF_GRID = 0.1
"""How many voxels a label map's corners may lie off the scan's: headers are rounded."""


def main(arguments: Sequence[str] | None = None, prog: str = "kits overlay") -> int:
    """Draw the picture; returns 0.

    Raises:
        KitsError: a file cannot be read or written, or the label map is not on the scan's grid.
    """
    parser = argparse.ArgumentParser(prog=prog, description="Draw a scan with the contours of a label map.")
    parser.add_argument("scan", type=Path, metavar="SCAN", help="volume, or folder with a DICOM series or one case")
    parser.add_argument("labels", type=Path, metavar="LABELS", help="its label map: 1 kidney, 2 tumour, 3 cyst")
    parser.add_argument("out", type=Path, metavar="OUT.png", help="the picture")
    parser.add_argument("--reference", type=Path, metavar="LABELS", help="a label map to compare with, in thin lines")
    options = parser.parse_args(arguments)
    draw(options.scan, options.labels, options.out, options.reference)
    return 0


def draw(scan: Path, labels: Path, out: Path, reference: Path | None = None) -> None:
    """Draw a scan with the contours of its label map, and of another one.

    Raises:
        KitsError: a file cannot be read or written, or a label map is not on the scan's grid.
    """
    cases = find_cases(scan)
    if len(cases) != 1:
        raise InputError(f"{scan}: holds {len(cases)} scans; give one.")
    volume = read_volume(cases[0])
    drawn = labels_on(volume, labels)
    other = labels_on(volume, reference) if reference else None
    write_overlay(out, volume.hu, volume.spacing, drawn, other, Heading(volume.name, volume.warnings))


def labels_on(volume: Volume, path: Path) -> np.ndarray:
    """A label map on a volume's canonical grid, uint8 (z, y, x), however its file stores the axes.

    Raises:
        InputError: it cannot be read, is no label map, or lies elsewhere than the volume.
    """
    image = single_frame(read_image(path), str(path))
    home = Grid.of(image)
    order, flips = home.canonical_axes()
    stored = sitk.GetArrayViewFromImage(image).transpose(order)[flips]
    if stored.shape != volume.hu.shape:
        raise InputError(
            f"{path}: has {stored.shape} voxels (z, y, x), the scan {volume.hu.shape}; give the label map of this scan."
        )
    to_voxels = np.linalg.inv(canonical_to_lps(volume.home)) @ canonical_to_lps(home)
    z, y, x = volume.hu.shape
    corners = np.array([[i * (x - 1), j * (y - 1), k * (z - 1), 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    if np.abs(corners @ to_voxels.T - corners).max() > OFF_GRID:
        raise InputError(f"{path}: lies elsewhere in the patient than the scan; give the label map of this scan.")
    with np.errstate(invalid="ignore"):  # what cannot be converted is caught by the comparison
        labels = stored.astype(np.uint8)
    if not np.array_equal(labels, stored) or labels.max() > 3:
        raise InputError(f"{path}: is not a label map of kidneys (0 background, 1 kidney, 2 tumour, 3 cyst); give one.")
    return labels
