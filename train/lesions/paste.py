"""Real tumours of one slice pasted into the kidneys of another: after TumorCP (Yang et al., MICCAI 2021).

TumorCP pastes anywhere in a kidney; here the tumour is laid where one could grow (``lesions.choose_centre``), follows
the contrast phase of its new kidney, and leaves enough of it.
"""

from __future__ import annotations

import math
from typing import Any

import cc3d
import numpy as np
from scipy import ndimage

from kits.geometry import Spacing

from .grow import KEPT_KIDNEY, MOST_INVADED, choose_centre, is_hard, is_organ

SMALLEST_TUMOUR = 30
"""Fewer pixels than this show no texture worth pasting."""
SCALE = (0.4, 1.3)
TRIES = 4
NOISE_PX = 1.5
"""What a Gaussian filter of this width takes away is noise; it is made as strong as in the kidneys of the new slice."""
MOST_NOISE = 1.5  # times as strong as in the tumour's own slice


def paste_tumour(
    hu: np.ndarray,
    labels: np.ndarray,
    spacing: Spacing,
    donor_hu: np.ndarray,
    donor_labels: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """A lone slice with a tumour of another one in its kidney.

    Args:
        hu: (1, rows, columns); not changed.
        labels: uint8, as ``hu``: 1 kidney, 2 tumour; not changed.
        spacing: mm (z, y, x).
        donor_hu, donor_labels: a slice with a tumour, (1, rows, columns) of any size.

    Returns:
        New ``hu`` (same dtype) and ``labels``: copies, where there is no kidney, no tumour, or no room for it.
    """
    kidney = np.argwhere(labels == 1)
    tumour = tumour_of(donor_hu, donor_labels, rng)
    new_hu, new_labels = hu.copy(), labels.copy()
    if tumour is None or not len(kidney):
        return new_hu, new_labels
    calm = ndimage.gaussian_filter(hu[0].astype(np.float32), 1)
    barred = (is_hard(calm) | is_organ(calm)) & (labels[0] == 0)
    for _ in range(TRIES):
        values, cover = turned(*tumour, float(np.exp(rng.uniform(*np.log(SCALE)))), rng)
        radius_mm = math.sqrt(max(float(cover.sum()), 1.0) / math.pi * spacing[1] * spacing[2])
        _, row, column = np.rint(choose_centre(hu, labels, kidney, spacing, radius_mm, rng)).astype(int)
        there, here = overlap(hu.shape[1:], cover.shape, row, column)
        weight = cover[here]
        inside = weight > 0.5
        left = np.count_nonzero(labels[0] == 1) - np.count_nonzero(labels[0][there][inside] == 1)
        if (
            np.count_nonzero(inside) < SMALLEST_TUMOUR
            or left < KEPT_KIDNEY * len(kidney)
            or barred[there][inside].mean() > MOST_INVADED
        ):
            continue
        follow = (kidney_level(hu, labels) / kidney_level(donor_hu, donor_labels)) ** rng.uniform(0, 1)
        smooth = ndimage.gaussian_filter(values, NOISE_PX)
        noise = values - smooth
        noise *= min(noise_level(hu[0], labels[0] == 1) / max(spread(noise[cover > 0.5]), 1.0), MOST_NOISE)
        middle = float(smooth[cover > 0.5].mean())
        varied = middle * np.clip(follow, 0.4, 1.6) + ((smooth - middle) * rng.uniform(0.8, 1.2) + noise)[here]
        blended = hu[0][there] + weight * (varied + rng.uniform(-10, 10) - hu[0][there])
        new_hu[0][there] = np.rint(blended) if hu.dtype.kind == "i" else blended
        new_labels[0][there][inside] = 2
        return new_hu, new_labels
    return new_hu, new_labels


def tumour_of(hu: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
    """One tumour of a slice: its HU in a box, continued beyond its border, and where it lies; None if there is none."""
    parts: Any = cc3d.dust(np.ascontiguousarray(labels[0] == 2), threshold=SMALLEST_TUMOUR)
    numbered = cc3d.connected_components(parts)
    if not numbered.any():
        return None
    mask = np.pad(numbered == rng.integers(1, numbered.max() + 1), 2)
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    box = tuple(slice(side.start - 2, side.stop + 2) for side in box)
    mask = mask[box]
    core: Any = ndimage.binary_erosion(mask) if mask.sum() > 2 * SMALLEST_TUMOUR else mask  # its rim is half fat
    core = core if core.any() else mask
    nearest = ndimage.distance_transform_edt(~core, return_distances=False, return_indices=True)
    return np.pad(hu[0], 2)[box].astype(np.float32)[tuple(nearest)], mask.astype(np.float32)


def turned(
    values: np.ndarray, mask: np.ndarray, scale: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A tumour turned by any angle, perhaps mirrored, scaled; its border softened by about a pixel."""
    angle = rng.uniform(0, 2 * math.pi)
    flip = -1.0 if rng.random() < 0.5 else 1.0
    inverse = np.array([[math.cos(angle), -math.sin(angle) * flip], [math.sin(angle), math.cos(angle) * flip]]) / scale
    side = math.ceil(math.hypot(*mask.shape) * scale) + 6
    offset = (np.array(mask.shape) - 1) / 2 - inverse @ np.full(2, (side - 1) / 2)
    image = ndimage.affine_transform(values, inverse, offset, (side, side), order=1, mode="nearest")
    cover = ndimage.affine_transform(mask, inverse, offset, (side, side), order=1)
    return image, ndimage.gaussian_filter(cover, rng.uniform(0.5, 1.0))


def overlap(
    shape: tuple[int, ...], box: tuple[int, ...], row: int, column: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where a box with its middle at a pixel meets a slice: on the slice, and on the box."""
    lows = [at - size // 2 for at, size in zip((row, column), box, strict=True)]
    starts = [max(low, 0) for low in lows]
    stops = [max(start, min(low + size, n)) for start, low, size, n in zip(starts, lows, box, shape, strict=True)]
    there = slice(starts[0], stops[0]), slice(starts[1], stops[1])
    here = slice(starts[0] - lows[0], stops[0] - lows[0]), slice(starts[1] - lows[1], stops[1] - lows[1])
    return there, here


def noise_level(hu: np.ndarray, where: np.ndarray) -> float:
    """Spread of a slice's noise in a mask, HU."""
    rows, columns = ndimage.find_objects(where.astype(np.uint8))[0]
    box, within = hu[rows, columns].astype(np.float32), where[rows, columns]
    core = ndimage.binary_erosion(within, iterations=2)  # the rim is an edge, not noise
    return spread((box - ndimage.gaussian_filter(box, NOISE_PX))[core if core.any() else within])


def spread(values: np.ndarray) -> float:
    """Standard deviation as the median distance from zero tells it, which edges and vessels hardly raise."""
    return 1.48 * float(np.median(np.abs(values)))


def kidney_level(hu: np.ndarray, labels: np.ndarray) -> float:
    """HU of a slice's kidneys, at least 20; a typical 110 where none are left of the tumour."""
    kidney = hu[labels == 1]
    return max(float(np.median(kidney)), 20.0) if len(kidney) else 110.0
