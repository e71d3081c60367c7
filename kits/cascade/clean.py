"""Post-processing: what is too small, a tumour outside any kidney, or a third kidney goes (paper section 2.4).

And, our own: what was called tumour and looks like water is a cyst, and a cyst counts as kidney (KiTS19).
"""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from kits.cascade.components import KIDNEYS, components, smallest_component, smallest_tumour
from kits.geometry import bounding_box
from kits.io.volume import Volume

WATER_HU = 18.0
"""A cyst's HU lie around 0 to 20; the middle one of what is taken for a cyst is at most this (docs/decisions.md)."""
BRIGHTEST_WATER_HU = 50.0
"""Nine tenths of a cyst, its noise smoothed away, are darker; a tumour that is dark has brighter walls or septa."""
ENHANCED_HU = 60.0
"""Kidneys that contrast medium has reached are brighter; in others a tumour can be nearly as dark as a cyst."""
RIM_MM = 1.5
"""Where a lesion's border is blurred with what lies around it."""


def clean(labels: np.ndarray, volume: Volume, to_the_letter: bool = False) -> np.ndarray:
    """All that is done to a volume's label map in the end, in place; returns it.

    Args:
        labels: uint8 (z, y, x) on the volume's canonical grid: 0 background, 1 kidney, 2 tumour.
        volume: the CT.
        to_the_letter: only what the paper does.
    """
    shape, spacing = volume.hu.shape, volume.spacing
    smallest = smallest_component(shape, shape, spacing, to_the_letter)
    postprocess(labels, smallest, to_the_letter, smallest_tumour(shape, spacing, to_the_letter))
    return labels if to_the_letter else cysts_to_kidney(labels, volume.hu, spacing)


def postprocess(
    labels: np.ndarray, smallest: float, to_the_letter: bool = False, tumour_smallest: float = 0.0
) -> np.ndarray:
    """Clean a label map in place and return it (paper section 2.4).

    Components of kidney and tumour merged that are too small go; so does tumour that touches no kidney, unless the
    scan's first or last slice cuts it, since its kidney may then lie out of view. Of the rest the largest stay, as
    many as there are kidneys. The tumour alone has a far lower limit, since 60 of KiTS19's 210 tumours are smaller than
    the paper's; below it what was called tumour is kidney, unless the scan's first or last slice cuts it.

    Args:
        labels: uint8 (z, y, x): 0 background, 1 kidney, 2 tumour.
        smallest: from ``smallest_component``, for this grid.
        to_the_letter: let any number of components stay, as the paper does.
        tumour_smallest: from ``smallest_tumour``.
    """
    inside = bounding_box(labels > 0)
    if inside is None:
        return labels
    crop = labels[inside]
    merged, boxes = components(crop > 0, smallest)
    kidney_voxels = np.bincount(merged[crop == 1], minlength=len(boxes) + 1)
    ends = (0 - inside[0].start, labels.shape[0] - inside[0].start)
    kept = [
        # Within one component every tumour reaches the kidney, if there is any.
        rank
        for rank, box in enumerate(boxes, start=1)
        if kidney_voxels[rank] > 0 or box[0].start == ends[0] or box[0].stop == ends[1]
    ]
    crop[~np.isin(merged, kept if to_the_letter else kept[:KIDNEYS])] = 0
    tumours, boxes = components(crop == 2, 1)
    counts = np.bincount(tumours.ravel(), minlength=len(boxes) + 1)
    small = [
        rank
        for rank, box in enumerate(boxes, start=1)
        if counts[rank] < tumour_smallest and box[0].start > ends[0] and box[0].stop < ends[1]
    ]
    crop[np.isin(tumours, small)] = 1
    return labels


def cysts_to_kidney(labels: np.ndarray, hu: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """What was called tumour and is as dark and as even as water, in enhanced kidneys, becomes kidney, in place.

    Args:
        labels: uint8 (z, y, x): 0 background, 1 kidney, 2 tumour.
        hu: the CT, int16 (z, y, x).
        spacing: mm (z, y, x).
    """
    inside = bounding_box(labels > 0)
    if inside is None or not (labels[inside] == 2).any():
        return labels
    crop, hu = labels[inside], hu[inside]
    if not kidney_hu(crop, hu) >= ENHANCED_HU:  # nor where there is no kidney
        return labels
    tumours, boxes = components(crop == 2, 1)
    for rank, box in enumerate(boxes, start=1):
        mask = tumours[box] == rank
        if is_water(hu[box], mask, spacing):
            crop[box][mask] = 1
    return labels


def kidney_hu(labels: np.ndarray, hu: np.ndarray) -> float:
    """Median HU of what is labelled kidney; NaN where nothing is.

    Args:
        labels: uint8 (z, y, x): 1 kidney.
        hu: the CT, int16 (z, y, x).
    """
    inside = bounding_box(labels == 1)
    return float(np.median(hu[inside][labels[inside] == 1])) if inside else math.nan


def is_water(hu: np.ndarray, mask: np.ndarray, spacing: tuple[float, float, float]) -> bool:
    """Whether a lesion without its rim is as dark and as even as water."""
    pixels = [RIM_MM / mm for mm in spacing[1:]]
    rim = np.ones((1, *(2 * max(1, round(n)) + 1 for n in pixels)), bool)
    core = ndimage.binary_erosion(mask, rim)
    core = core if core.any() else mask
    if np.median(hu[core]) > WATER_HU:
        return False
    smooth = ndimage.gaussian_filter(hu.astype(np.float32), (0, *pixels))
    return bool(np.quantile(smooth[core], 0.9) <= BRIGHTEST_WATER_HU)
