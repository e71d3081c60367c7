"""Shapes of lesions, and what they do to their surroundings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from .fields import ramp, smooth_field


@dataclass(frozen=True)
class Form:
    """A lobulated ellipsoid.

    Args:
        radius_mm: of the sphere of the same volume.
        roughness: amplitude of the lobes, as a share of the radius; 0 for an ellipsoid.
        elongation: axes differ by a factor of up to ``1 + elongation``.
    """

    radius_mm: float
    roughness: float
    elongation: float


def lump(
    shape: Sequence[int],
    spacing: Sequence[float],
    centre: Sequence[float],
    form: Form,
    rng: np.random.Generator,
) -> np.ndarray:
    """How deep each voxel lies in a lobulated ellipsoid, in mm: positive inside, about 0 on its surface.

    Args:
        shape, spacing: of the grid, (z, y, x).
        centre: (z, y, x), in voxels, not necessarily whole ones.
        form: its size and how round it is.
    """
    radius_mm, roughness = form.radius_mm, form.roughness
    axes = np.exp(rng.uniform(-0.5, 0.5, 3) * np.log1p(form.elongation))
    axes /= np.prod(axes) ** (1 / 3)
    turn = Rotation.random(rng=rng).as_matrix() / axes[:, None]
    z, y, x = offsets_mm(shape, spacing, centre)
    squares = [(row[0] * z + row[1] * y + row[2] * x) ** 2 for row in turn.astype(np.float32)]
    depth = radius_mm - np.sqrt(squares[0] + squares[1] + squares[2])
    if roughness:
        depth += roughness * radius_mm * smooth_field(shape, spacing, 0.9 * radius_mm, rng)
        depth += 0.35 * roughness * radius_mm * smooth_field(shape, spacing, 0.4 * radius_mm, rng)
    return depth


def push(
    arrays: Sequence[np.ndarray],
    orders: Sequence[Literal[0, 3]],
    spacing: Sequence[float],
    centre: Sequence[float],
    radius_mm: float,
    stiff: np.ndarray,
) -> list[np.ndarray]:
    """Surroundings pushed aside by a ball that grew at ``centre``.

    Tissue keeps its volume: what lay at distance d now lies at (d^3 + r^3)^(1/3), and less and less so towards twice
    the radius, where all is at rest. Slices are moved within themselves.

    Args:
        arrays: of one shape (z, y, x); a lone slice may be one of them.
        orders: spline order for each array.
        radius_mm: of the ball.
        stiff: float in [0, 1], where nothing moves (bone).
    """
    z, y, x = offsets_mm(stiff.shape, spacing, centre)
    distance = np.sqrt(z * z + y * y + x * x)
    rest = np.clip(2.2 - distance / radius_mm, 0, 1)
    source = np.cbrt(np.maximum(distance**3 - radius_mm**3, 0))
    stay = 1 - (1 - source / np.maximum(distance, 1e-3)) * rest * (1 - stiff)
    rows, columns = centre[1] + y / spacing[1] * stay, centre[2] + x / spacing[2] * stay
    moved = [np.empty_like(array) for array in arrays]
    for array, order, target in zip(arrays, orders, moved, strict=True):
        for index, at in enumerate(zip(rows, columns, strict=True)):
            target[index] = ndimage.map_coordinates(array[index], at, order=order, mode="mirror")
    return moved


def distance(mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """How far each voxel of a mask is from the nearest one outside it, mm, float32; 0 outside."""
    found: Any = ndimage.distance_transform_edt(mask, sampling=spacing)
    return np.asarray(found, np.float32)


def offsets_mm(
    shape: Sequence[int], spacing: Sequence[float], centre: Sequence[float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distances from ``centre`` (voxels) along z, y and x, mm, float32, as arrays that broadcast to ``shape``."""
    z, y, x = (((np.arange(n) - c) * mm).astype(np.float32) for n, mm, c in zip(shape, spacing, centre, strict=True))
    return z[:, None, None], y[None, :, None], x[None, None, :]


def coverage(
    depth: np.ndarray, spacing: Sequence[float], softness: float, scale_mm: float, rng: np.random.Generator
) -> np.ndarray:
    """The share of each voxel that a shape fills: partial volume, by the surface's slope through the voxel.

    Args:
        depth: mm below the shape's surface, (z, y, x); outside, negative.
        softness: the scanner's blur, voxels; it varies by a factor round the shape, as margins do.
        scale_mm: over which it varies.
    """
    slopes = np.gradient(depth, axis=(1, 2))
    squares = sum(s * s for s in slopes)
    if len(depth) > 1:
        squares += np.gradient(depth, axis=0) ** 2
    else:  # a distance has a slope of 1 mm per mm: what the slice itself does not show goes through it
        seen = sum((s / mm) ** 2 for s, mm in zip(slopes, spacing[1:], strict=True))
        squares += (spacing[0] * spacing[0]) * np.clip(1 - seen, 0, 1)
    varied = softness * np.exp(0.35 * smooth_field(depth.shape, spacing, scale_mm, rng))
    return ramp(depth, np.sqrt(np.maximum(squares, (0.3 * spacing[1]) ** 2)) * varied)
