"""Connected components: what is too small, a tumour outside any kidney, or a third kidney goes (paper section 2.4).

And, our own: what was called tumour and looks like water is a cyst, and a cyst counts as kidney (KiTS19).
"""

from __future__ import annotations

import math

import cc3d
import numpy as np
from scipy import ndimage

from kits.preprocess import working_shape
from kits.volume import Volume

SMALLEST_VOXELS = 5000
"""Components with fewer voxels go (section 2.4), counted on the networks' grid: native in-plane, 3 mm slices."""
SMALLEST_TUMOUR_ML = 1.0
"""What is called tumour and is smaller is none, but in the mode ``paper``; docs/decisions.md says why."""
KIDNEYS = 2
"""How many there are at most."""
KIDNEY_MM = 100.0
"""A kidney's usual height. A scan that shows less cannot hold whole kidneys: the limit shrinks with it."""

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


def smallest_component(
    grid: tuple[float, ...],
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    to_the_letter: bool,
) -> float:
    """How many voxels of a grid make as much volume as the paper's 5000.

    Args:
        grid: (z, y, x) size of the grid on which voxels will be counted; it covers the whole volume.
        shape, spacing: size (z, y, x) and spacing (mm) of the volume.
        to_the_letter: keep the paper's limit even for a scan that is too thin to hold a kidney.
    """
    share = 1.0 if to_the_letter else share_in_view(shape, spacing)
    working = working_shape(shape, spacing, to_the_letter=to_the_letter)
    return SMALLEST_VOXELS * share * float(np.prod(grid)) / float(np.prod(working))


def smallest_tumour(shape: tuple[int, int, int], spacing: tuple[float, float, float], to_the_letter: bool) -> float:
    """How many voxels of a volume make ``SMALLEST_TUMOUR_ML``, or its share of a scan too thin for a kidney.

    Args:
        shape, spacing: size (z, y, x) and spacing (mm) of the volume.
        to_the_letter: no limit, as in the paper.
    """
    if to_the_letter:
        return 0.0
    return SMALLEST_TUMOUR_ML * 1000 / float(np.prod(spacing)) * share_in_view(shape, spacing)


def share_in_view(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> float:
    """How much of a kidney's height a scan holds, at most 1."""
    return min(1.0, shape[0] * spacing[0] / KIDNEY_MM)


def components(mask: np.ndarray, smallest: float) -> tuple[np.ndarray, list[tuple[slice, slice, slice]]]:
    """Connected components (26 neighbours) with at least ``smallest`` voxels.

    Returns:
        The components' labels (z, y, x), 1 the largest, and their bounding boxes in that order.
    """
    ranked = np.zeros(mask.shape, np.uint32)
    inside = bounding_box(mask)
    if inside is None:
        return ranked, []
    labels = cc3d.connected_components(mask[inside])
    statistics = cc3d.statistics(labels)
    counts = statistics["voxel_counts"].astype(np.int64)
    counts[0] = 0
    order = [index for index in np.argsort(-counts, kind="stable") if counts[index] >= max(smallest, 1)]
    ranks = np.zeros(len(counts), np.uint32)
    ranks[order] = np.arange(1, len(order) + 1)
    ranked[inside] = ranks[labels]
    return ranked, [moved(statistics["bounding_boxes"][index], inside) for index in order]


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


def moved(box: tuple[slice, slice, slice], outer: tuple[slice, slice, slice]) -> tuple[slice, slice, slice]:
    """A box that was counted from another one's corner, on the whole grid."""
    z, y, x = (slice(s.start + at.start, s.stop + at.start) for s, at in zip(box, outer, strict=True))
    return z, y, x


def bounding_box(mask: np.ndarray) -> tuple[slice, slice, slice] | None:
    """The smallest box that holds all of a 3-D mask, or None for an empty one."""
    box = []
    for axis in range(3):
        hits = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        if not len(hits):
            return None
        box.append(slice(int(hits[0]), int(hits[-1]) + 1))
    return box[0], box[1], box[2]
