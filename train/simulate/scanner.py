"""What a CT scanner adds: slice thickness, and noise of its kernel."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy import fft

from kits.geometry import Spacing

SLICE_MM = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 5.0)
SLICE_SHARES = (0.02, 0.04, 0.16, 0.1, 0.1, 0.12, 0.14, 0.2, 0.12)
"""KiTS: 0.5 to 5 mm, mostly 1 to 3."""
WATER_PER_MM = 0.0195  # attenuation at 120 kVp (NIST, about 70 keV)


def thicken(
    hu: np.ndarray, labels: np.ndarray, spacing: Spacing, slice_mm: float
) -> tuple[np.ndarray, np.ndarray, Spacing]:
    """Thicker slices: each the mean of what it covers, with the label that fills most of it.

    Args:
        hu, labels: (z, y, x); labels 0, 1, 2.
        slice_mm: at least that of ``spacing``.

    Returns:
        int16 HU, uint8 labels and the new spacing.
    """
    count = max(1, int(len(hu) * spacing[0] / slice_mm))
    step = slice_mm / spacing[0]
    edges = np.arange(count + 1) * step
    new_hu = np.empty((count, *hu.shape[1:]), np.int16)
    new_labels = np.empty(new_hu.shape, np.uint8)
    for index, (low, high) in enumerate(pairwise(edges)):
        first, last = int(low), min(int(np.ceil(high - 1e-6)), len(hu))
        shares = np.minimum(np.arange(first, last) + 1, high) - np.maximum(np.arange(first, last), low)
        shares = (shares / shares.sum()).astype(np.float32)
        new_hu[index] = np.rint(np.tensordot(shares, hu[first:last].astype(np.float32), 1))
        tumour, kidney = (np.tensordot(shares, (labels[first:last] == n).astype(np.float32), 1) for n in (2, 1))
        new_labels[index] = np.where(tumour + kidney < 0.5, 0, np.where(tumour >= kidney, 2, 1))
    return new_hu, new_labels, (slice_mm, *spacing[1:])


def draw_slice_mm(rng: np.random.Generator, least: float = 0.0) -> float:
    """A slice thickness in mm, at least ``least``; that itself where no usual one is larger."""
    usable = [(mm, share) for mm, share in zip(SLICE_MM, SLICE_SHARES, strict=True) if mm >= least]
    if not usable:
        return least
    sizes, shares = (np.array(column) for column in zip(*usable, strict=True))
    return float(rng.choice(sizes, p=shares / shares.sum()))


def add_noise(hu: np.ndarray, spacing: Spacing, noise_hu: float, sharpness: float, rng: np.random.Generator) -> None:
    """Add quantum noise to float32 ``hu``, in place.

    Its power rises with frequency, as filtered back-projection makes it, up to where the kernel cuts it off
    (Riederer et al., Phys Med Biol 23, 1978); it is stronger where rays pass through more of the body.

    Args:
        noise_hu: standard deviation, over the body on average.
        sharpness: line pairs per mm at which the kernel has fallen to 1/e: 0.25 soft to 0.7 sharp.
    """
    shape = hu.shape[1:]
    fy, fx = np.meshgrid(fft.fftfreq(shape[0], spacing[1]), fft.rfftfreq(shape[1], spacing[2]), indexing="ij")
    frequency = np.hypot(fy, fx)
    gain = (np.sqrt(frequency + 0.02) * np.exp(-((frequency / sharpness) ** 2))).astype(np.float32)
    gain /= np.sqrt(np.mean(gain[:, :] ** 2))  # to a variance of 1
    before = np.zeros(shape, np.float32)
    shared = np.exp(-spacing[0])  # thin slices overlap: their noise is alike
    for plane in hu:
        white = rng.standard_normal(shape, dtype=np.float32)
        noise = fft.irfft2(fft.rfft2(white) * gain, s=shape).astype(np.float32)
        before = shared * before + np.sqrt(1 - shared**2) * noise
        plane += before * noise_hu * _noise_map(plane, spacing)


def _noise_map(plane: np.ndarray, spacing: Spacing) -> np.ndarray:
    """Noise of each pixel relative to the body's mean, from the rays along its row and column."""
    water = np.clip(plane / 1000 + 1, 0, 2.5) * WATER_PER_MM
    across, along = water.sum(axis=1) * spacing[2], water.sum(axis=0) * spacing[1]
    # Half of the rays, those that pass nearly along x or y, are taken for all; scanners modulate the tube current.
    variance = np.sqrt(np.exp(np.minimum(across, 9)))[:, None] + np.sqrt(np.exp(np.minimum(along, 9)))[None, :]
    body = plane > -300
    level = np.sqrt(variance)
    return np.clip(level / level[body].mean() if body.any() else np.ones_like(level), 0.4, 2.0).astype(np.float32)
