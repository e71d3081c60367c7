"""A noisy made-up abdomen, for what grows lesions and simulates scans."""

import numpy as np
from scipy import ndimage

AIR, FAT, MUSCLE, BONE, KIDNEY = -1000, -100, 55, 700, 140
NOISE_HU = 12.0
SPACING = (3.0, 1.4, 1.4)
SHAPE = (48, 160, 224)
FAST = (4.0, 1.9, 1.9)
FAST_SHAPE = (40, 110, 160)


def ball(shape, spacing, centre_mm, radii_mm):
    """Where an ellipsoid is, by mm from the volume's middle (z, y, x)."""
    axes = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing, strict=True)]
    grids = np.meshgrid(*axes, indexing="ij", sparse=True)
    return sum(((g - c) / r) ** 2 for g, c, r in zip(grids, centre_mm, radii_mm, strict=True)) < 1


def abdomen(shape=SHAPE, spacing=SPACING, noise_hu=NOISE_HU, seed=0):
    """A noisy made-up abdomen: fat in a wall of muscle, a spine, a larger right and a smaller left kidney."""
    rng = np.random.default_rng(seed)
    hu = np.full(shape, AIR, np.float32)
    hu[ball(shape, spacing, (0, 0, 0), (1e6, 95, 140))] = MUSCLE
    hu[ball(shape, spacing, (0, 0, 0), (1e6, 82, 127))] = FAT
    hu[ball(shape, spacing, (0, 55, 0), (1e6, 22, 24))] = BONE
    labels = np.zeros(shape, np.uint8)
    labels[ball(shape, spacing, (0, 25, -60), (52, 27, 29))] = 1
    labels[ball(shape, spacing, (0, 25, 60), (48, 25, 25))] = 1
    hu[labels > 0] = KIDNEY
    hu = ndimage.gaussian_filter(hu, (0, 0.5, 0.5))
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), (0, 0.6, 0.6))
    return np.rint(hu + noise * (noise_hu / noise.std())).astype(np.int16), labels


def grain(hu, mask):
    """Standard deviation of what varies from pixel to pixel."""
    return float((hu - ndimage.gaussian_filter(hu.astype(float), (0, 1.5, 1.5)))[mask].std())
