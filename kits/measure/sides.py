"""Which kidney is the right one and which the left."""

from __future__ import annotations

import cc3d
import numpy as np

from kits.geometry import Box, bounding_box

BODY_HU = -300
"""Air is below, fat and tissue above."""


def body_middle(hu: np.ndarray, slices: slice) -> float:
    """The column in the middle of the body: half of its voxels lie on either side.

    Args:
        hu: int16 (z, y, x).
        slices: those to look at.
    """
    columns = np.nonzero(hu[slices][::8, ::4] > BODY_HU)[2]
    return float(np.median(columns)) if len(columns) else (hu.shape[2] - 1) / 2


def left_side(labels: np.ndarray, hu: np.ndarray | None = None) -> tuple[Box, np.ndarray] | None:
    """The box that holds all labels, and which of its voxels belong to the patient's left kidney.

    A component of kidney and masses belongs, whole, to the side of the body's middle on which its centroid lies; so a
    fused kidney counts for one side. Without a CT the middle of the grid stands for the body's.

    Args:
        labels: uint8 (z, y, x), canonical; 0 is background.
        hu: the CT, int16 (z, y, x).

    Returns:
        None where nothing is labelled.
    """
    box = bounding_box(labels > 0)
    if box is None:
        return None
    middle = (labels.shape[2] - 1) / 2 if hu is None else body_middle(hu, box[0])
    components = cc3d.connected_components(labels[box] > 0)
    centroids = box[2].start + cc3d.statistics(components)["centroids"][:, 2]
    is_left = centroids > middle
    is_left[0] = False
    return box, is_left[components]
