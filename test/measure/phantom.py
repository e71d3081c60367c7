"""A kidney whose every measure is known: an ellipsoid with a box-shaped sinus that opens to medial."""

import numpy as np

SHAPE = (140, 90, 180)
CENTRE = (70, 45, 45)
"""Of the right kidney, in mm (z, y, x); the grid's middle is at x = 90."""
SEMI_AXES = (55, 25, 30)
SINUS = (20, 8)
"""Half its height and half its depth in mm; it begins in the kidney's middle."""


def grid(spacing=(1.0, 1.0, 1.0)):
    """Coordinates in mm of the voxels of a grid that covers ``SHAPE`` mm."""
    return np.meshgrid(*(np.arange(round(mm / s)) * s for mm, s in zip(SHAPE, spacing, strict=True)), indexing="ij")


def ball(centre, radius, spacing=(1.0, 1.0, 1.0)):
    """A ball (bool), centre (z, y, x) and radius in mm."""
    return sum((axis - at) ** 2 for axis, at in zip(grid(spacing), centre, strict=True)) <= radius**2


def kidney(spacing=(1.0, 1.0, 1.0)):
    """The label map of a right kidney without masses."""
    z, y, x = (axis - at for axis, at in zip(grid(spacing), CENTRE, strict=True))
    labels = (sum((axis / semi) ** 2 for axis, semi in zip((z, y, x), SEMI_AXES, strict=True)) <= 1).astype(np.uint8)
    labels[(abs(z) <= SINUS[0]) & (abs(y) <= SINUS[1]) & (x >= 0)] = 0
    return labels


def with_tumour(centre, radius, spacing=(1.0, 1.0, 1.0)):
    """The kidney with a ball of tumour; centre as offset (z, y, x) in mm from the kidney's."""
    labels = kidney(spacing)
    labels[ball([at + offset for at, offset in zip(CENTRE, centre, strict=True)], radius, spacing)] = 2
    return labels
