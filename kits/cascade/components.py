"""Connected components (paper section 2.4)."""

from __future__ import annotations

import cc3d
import numpy as np

from kits.geometry import Box, bounding_box, translated


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
