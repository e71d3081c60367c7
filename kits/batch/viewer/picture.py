"""What a page shows of a scan: the kidneys' surroundings in 8 bits, small enough to open at once."""

from __future__ import annotations

import gzip
import io
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from PIL import Image

from kits.batch.colours import COLOURS, CYST, KIDNEY, TUMOUR
from kits.batch.meshes import canonical_to_lps
from kits.geometry import bounding_box
from kits.io.volume import Volume

MARGIN_MM = 25.0
"""Shown around the labels."""
STEP_HU, LOWEST_HU = 3, -250
"""8 bits hold every third HU from here to 515: fat, soft tissue with contrast medium, calcifications; bone clips."""
MOST_VOXELS = 6_000_000
"""More are shown coarser: a page stays under 15 MB and opens at once."""
THUMBNAIL_PX = 176
WINDOW_HU = (-160, 240)


@dataclass(frozen=True)
class Shown:
    """The part of a scan that a page shows, on the page's own grid.

    Args:
        grey: uint8 (z, y, x), canonical; ``LOWEST_HU + STEP_HU * grey`` is HU.
        labels: uint8 of the same shape.
        affine: 4 x 4, voxel (x, y, z) to mm in NIfTI's space (right, anterior, superior).
        spacing: mm (z, y, x).
    """

    grey: np.ndarray
    labels: np.ndarray
    affine: np.ndarray
    spacing: tuple[float, float, float]


def nifti_affine(lps: np.ndarray) -> np.ndarray:
    """The affine to NIfTI's space of one to LPS: its x and y point the other way."""
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps


def show(volume: Volume, labels: np.ndarray) -> Shown:
    """Crop a scan to its kidneys, or not at all where none was found, and make it as coarse as it must be.

    Args:
        volume: the CT.
        labels: uint8 (z, y, x) on its canonical grid.
    """
    box = bounding_box(labels > 0) or tuple(slice(0, n) for n in labels.shape)
    margins = [round(MARGIN_MM / step) for step in volume.spacing]
    box = tuple(
        slice(max(0, at.start - margin), min(n, at.stop + margin))
        for at, margin, n in zip(box, margins, labels.shape, strict=True)
    )
    affine = canonical_to_lps(volume.home)
    affine[:3, 3] += affine[:3, :3] @ [at.start for at in reversed(box)]
    hu, inside = volume.hu[box], labels[box]
    spacing = _shown_spacing(hu.shape, volume.spacing)
    if spacing != volume.spacing:
        old = np.array(volume.spacing)
        size = tuple(max(1, int(n * a / b)) for n, a, b in zip(hu.shape, old, spacing, strict=True))
        hu = _resample(_smoothed(hu, old, spacing), size, old, spacing, sitk.sitkLinear)
        inside = _resample(sitk.GetImageFromArray(inside), size, old, spacing, sitk.sitkNearestNeighbor)
        # Both grids begin at the same corner, not at the same voxel's centre.
        ratio = np.array(spacing[::-1]) / old[::-1]
        affine[:3, 3] += affine[:3, :3] @ ((ratio - 1) / 2)
        affine[:3, :3] *= ratio
    grey = np.rint((hu.astype(np.float32) - LOWEST_HU) / STEP_HU).clip(0, 255).astype(np.uint8)
    return Shown(grey, np.ascontiguousarray(inside, np.uint8), nifti_affine(affine), spacing)


def _shown_spacing(shape: tuple[int, ...], spacing: tuple[float, float, float]) -> tuple[float, float, float]:
    """The finest spacing, never finer than the scan's own, at which a crop of this shape has few enough voxels."""
    extent = np.multiply(shape, spacing)
    low, high = min(spacing), float(extent.max())

    def voxels(step: float) -> float:
        return float(np.prod(extent / np.maximum(spacing, step)))

    if voxels(low) <= MOST_VOXELS:
        return spacing
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if voxels(middle) > MOST_VOXELS else (low, middle)
    z, y, x = (max(float(step), high) for step in spacing)
    return z, y, x


def _smoothed(hu: np.ndarray, old: np.ndarray, new: tuple[float, float, float]) -> sitk.Image:
    """Blurred as much as the coarser grid asks for: fine noise would turn into coarse noise."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(hu))
    image.SetSpacing(old[::-1].tolist())
    variance = [0.0 if b <= a else (0.35 * b) ** 2 for a, b in zip(old[::-1], new[::-1], strict=True)]
    return sitk.DiscreteGaussian(image, variance, 8, 0.05, True)


def _resample(
    image: sitk.Image, size: tuple[int, ...], old: np.ndarray, new: tuple[float, float, float], how: int
) -> np.ndarray:
    image.SetSpacing(old[::-1].tolist())
    image.SetOrigin((old[::-1] / 2).tolist())
    start = [step / 2 for step in reversed(new)]
    result = sitk.Resample(
        image,
        size[::-1],
        sitk.Transform(),
        how,
        start,
        new[::-1],
        [1, 0, 0, 0, 1, 0, 0, 0, 1],
        -1024.0 if how == sitk.sitkLinear else 0.0,
    )
    return sitk.GetArrayFromImage(result)


def start_mm(shown: Shown) -> list[float]:
    """Where a page without lesions begins (NIfTI's space): in a kidney, on the slice that shows most of them."""
    areas = (shown.labels > 0).sum((1, 2))
    z = int(areas.argmax())
    inside = np.argwhere(shown.labels[z] > 0)
    y, x = inside[len(inside) // 2] if len(inside) else np.array(shown.labels.shape[1:]) // 2
    return (shown.affine @ [x, y, z, 1])[:3].round(2).tolist()


def nifti_bytes(array: np.ndarray, affine: np.ndarray, slope: float = 1.0, intercept: float = 0.0) -> bytes:
    """A gzipped NIfTI-1 file of a uint8 (z, y, x) array, to be kept inside another file.

    Args:
        affine: voxel (x, y, z) to mm in NIfTI's space.
        slope, intercept: what a stored value means.
    """
    header = np.zeros(1, _HEADER)[0]
    header["sizeof_hdr"], header["datatype"], header["bitpix"] = 348, 2, 8
    header["dim"] = (3, *array.shape[::-1], 1, 1, 1, 1)
    header["pixdim"] = (1, *np.linalg.norm(affine[:3, :3], axis=0), 0, 0, 0, 0)
    header["vox_offset"], header["scl_slope"], header["scl_inter"] = 352, slope, intercept
    header["xyzt_units"], header["sform_code"], header["srow"] = 2, 1, affine[:3]
    header["magic"] = b"n+1"
    return gzip.compress(header.tobytes() + bytes(4) + np.ascontiguousarray(array).tobytes(), 6, mtime=0)


_HEADER = np.dtype(
    {
        "names": ["sizeof_hdr", "dim", "datatype", "bitpix", "pixdim", "vox_offset", "scl_slope", "scl_inter",
                  "xyzt_units", "sform_code", "srow", "magic"],
        "formats": ["<i4", "<8i2", "<i2", "<i2", "<8f4", "<f4", "<f4", "<f4", "u1", "<i2", "<(3,4)f4", "S4"],
        "offsets": [0, 40, 70, 72, 76, 108, 112, 116, 123, 254, 280, 344],
        "itemsize": 348,
    }
)  # fmt: skip
"""The fields of NIfTI-1's header that say something here, where the standard puts them."""


def thumbnail(shown: Shown) -> bytes:
    """A small PNG for the index: the axial slice with most tumour (or cyst, or kidney), its labels tinted."""
    for label in (TUMOUR, CYST, KIDNEY):
        area = (shown.labels == label).sum((1, 2))
        if area.any():
            break
    z = int(area.argmax()) if area.any() else len(shown.grey) // 2
    low, high = ((hu - LOWEST_HU) / STEP_HU for hu in WINDOW_HU)
    grey = ((shown.grey[z].astype(np.float32) - low) / (high - low)).clip(0, 1) * 255
    picture = np.repeat(grey[..., None], 3, axis=2)
    for label, colour in COLOURS.items():
        where = shown.labels[z] == label
        picture[where] = 0.55 * picture[where] + 0.45 * np.array(colour)
    height, width = (n * step for n, step in zip(grey.shape, shown.spacing[1:], strict=True))
    scale = THUMBNAIL_PX / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    file = io.BytesIO()
    Image.fromarray(picture.astype(np.uint8)).resize(size, Image.Resampling.LANCZOS).save(file, "PNG", optimize=True)
    return file.getvalue()
