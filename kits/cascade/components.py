"""Connected components (paper section 2.4)."""

from __future__ import annotations

import math

import cc3d
import numpy as np
from scipy import ndimage

from kits.geometry import Box, Spacing, bounding_box, translated

LATTICE_MM = 2.0
"""Necks are looked for in voxels of about this size."""
CORE_ML = 0.5
"""What is left of a piece without its necks; less is a bump."""


def components(mask: np.ndarray, smallest: float) -> tuple[np.ndarray, list[Box]]:
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
    return ranked, [translated(statistics["bounding_boxes"][index], inside) for index in order]


def pieces(mask: np.ndarray, spacing: Spacing, neck_mm: float) -> tuple[np.ndarray, list[Box]]:
    """What a component falls into where its necks are cut, each voxel with the core that is nearest to it.

    Args:
        mask: bool (z, y, x), the component.
        spacing: mm (z, y, x).
        neck_mm: what is no thicker is a neck.

    Returns:
        The pieces' labels (z, y, x), from 1, and their bounding boxes; of a component without necks just one, or none.
    """
    steps = [max(1, int(LATTICE_MM / mm)) for mm in spacing]
    coarse = [mm * step for mm, step in zip(spacing, steps, strict=True)]
    thinned = mask[tuple(slice(None, None, step) for step in steps)]
    depth: np.ndarray = np.asarray(ndimage.distance_transform_edt(np.pad(thinned, 1), coarse))
    cores, found = components(depth[1:-1, 1:-1, 1:-1] > neck_mm / 2, CORE_ML * 1000 / math.prod(coarse))
    if len(found) < 2:
        return mask.astype(np.uint32), found
    nearest = ndimage.distance_transform_edt(cores == 0, coarse, return_distances=False, return_indices=True)
    fine = [np.minimum(np.arange(size) // step, cores.shape[axis] - 1)
            for axis, (size, step) in enumerate(zip(mask.shape, steps, strict=True))]  # fmt: skip
    labels = np.where(mask, cores[tuple(nearest)][np.ix_(*fine)], 0)
    return labels, [(z, y, x) for z, y, x in filter(None, ndimage.find_objects(labels))]
