"""Connected components, and how small the smallest that counts is (paper section 2.4)."""

from __future__ import annotations

import cc3d
import numpy as np

from kits.cascade.preprocess import working_shape
from kits.geometry import bounding_box, moved

SMALLEST_VOXELS = 5000
"""Components with fewer voxels go (section 2.4), counted on the networks' grid: native in-plane, 3 mm slices."""

SMALLEST_TUMOUR_ML = 1.0
"""What is called tumour and is smaller is none, but in the mode ``paper``; docs/decisions.md says why."""

KIDNEYS = 2
"""How many there are at most."""

KIDNEY_MM = 100.0
"""A kidney's usual height. A scan that shows less cannot hold whole kidneys: the limit shrinks with it."""


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
