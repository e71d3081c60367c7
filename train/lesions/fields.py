"""Smooth random fields: what makes shapes irregular, tissue uneven and anatomy vary."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

KNOT_VARIANCE = 0.479
"""Mean over positions of the summed squares of cubic B-spline weights, along one axis."""


def smooth_field(
    shape: Sequence[int], spacing: Sequence[float], scale_mm: float | Sequence[float], rng: np.random.Generator
) -> np.ndarray:
    """Gaussian random field of mean 0 and variance 1 whose values change over about ``scale_mm``.

    White noise on the knots of a cubic B-spline. The spline is separable, so a field of any size costs three small
    matrix products.

    Args:
        shape: (z, y, x), voxels.
        spacing: (z, y, x), mm.
        scale_mm: distance of the knots; one value, or one for each axis.

    Returns:
        float32 of ``shape``.
    """
    scales = np.broadcast_to(np.asarray(scale_mm, float), (3,))
    weights = [_spline(n, mm / scale, rng.random()) for n, mm, scale in zip(shape, spacing, scales, strict=True)]
    field = rng.standard_normal([w.shape[1] for w in weights], dtype=np.float32) / np.float32(KNOT_VARIANCE**1.5)
    field = field @ weights[2].T
    field = np.matmul(weights[1], field)
    return (weights[0] @ field.reshape(len(field), -1)).reshape(tuple(shape))


def _spline(count: int, step: float, phase: float) -> np.ndarray:
    """Weights of the knots, (``count``, knots), at positions ``phase + step * index``."""
    position = phase + step * np.arange(count)
    first = np.floor(position).astype(int)
    t = position - first
    weights = np.zeros((count, first[-1] + 4), np.float32)
    basis = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    for offset, values in enumerate(basis):
        weights[np.arange(count), first + offset] = values / 6
    return weights


def ramp(values: np.ndarray, width: float | np.ndarray) -> np.ndarray:
    """From 0 to 1 as ``values`` go from ``-width/2`` to ``width/2``, with soft ends (smoothstep)."""
    t = np.clip(values / width + 0.5, 0, 1)
    return t * t * (3 - 2 * t)
