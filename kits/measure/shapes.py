"""Sizes of binary masks: diameters, convex hulls, gaps, surfaces.

Masks are bool (z, y, x), spacings and points mm (z, y, x), a point being a voxel's index times the spacing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull, cKDTree
from scipy.spatial.distance import pdist, squareform

from kits.geometry import Spacing, bounding_box

SMOOTH_MM = 1.0
"""Standard deviation of the smoothing before surfaces are measured, where voxels are not larger."""


@dataclass(frozen=True)
class Diameters:
    """How long a mask is, measured on the outlines of its slices.

    An outline runs through the midpoints of the pixels' outer edges: a row of n pixels is n spacings long.

    Args:
        axial_mm: the longest distance within one axial slice (RECIST 1.1; Eisenhauer et al., Eur J Cancer 2009).
        axial_ends: its two ends, in voxels (z, y, x); 0 is the centre of the first voxel.
        perpendicular_mm: the width at right angles to it, in the same slice.
        longest_mm: the longest distance between any two points of the outlines (maximum Feret diameter).
    """

    axial_mm: float
    axial_ends: tuple[tuple[float, float, float], tuple[float, float, float]]
    perpendicular_mm: float
    longest_mm: float


def diameters(mask: np.ndarray, spacing: Spacing) -> Diameters:
    """The diameters of a mask that is not empty."""
    planes = {int(z): outline(mask[z], spacing[1:]) for z in np.flatnonzero(mask.any(axis=(1, 2)))}
    lengths = {z: float(pdist(points).max()) for z, points in planes.items()}
    z = max(lengths, key=lengths.__getitem__)
    points = planes[z]
    first, second = np.unravel_index(squareform(pdist(points)).argmax(), (len(points),) * 2)
    along = (points[second] - points[first]) / lengths[z]
    ends = tuple((float(z), *(points[i] / spacing[1:]).tolist()) for i in (first, second))
    every = np.concatenate([np.column_stack([np.full(len(p), k * spacing[0]), p]) for k, p in planes.items()])
    if len(planes) > 1:
        every = every[ConvexHull(every).vertices]
    return Diameters(
        axial_mm=lengths[z],
        axial_ends=ends,  # type: ignore[arg-type]  # two of three each
        perpendicular_mm=float(np.ptp(points @ np.array([-along[1], along[0]]))),
        longest_mm=float(pdist(every).max()),
    )


def outline(plane: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
    """The corners (n, 2) in mm of the convex hull of a slice's outline."""
    points = face_midpoints(np.argwhere(candidates(plane)) * spacing, spacing)
    return points[ConvexHull(points).vertices]


class Hull:
    """The convex hull of a mask, through the midpoints of its voxels' outer faces.

    Args:
        mask: bool (z, y, x), not empty.
        spacing: mm (z, y, x).
    """

    def __init__(self, mask: np.ndarray, spacing: Spacing) -> None:
        hull = ConvexHull(face_midpoints(np.argwhere(candidates(mask)) * spacing, spacing))
        self._planes = hull.equations

    def outside(self, points: np.ndarray) -> np.ndarray:
        """How far points (n, 3) in mm lie outside, mm; negative inside."""
        depth = np.full(len(points), -np.inf)
        for *normal, offset in self._planes:  # one at a time: all at once would need gigabytes for a large tumour
            np.maximum(depth, points @ np.array(normal) + offset, out=depth)
        return depth


def candidates(mask: np.ndarray) -> np.ndarray:
    """The voxels that can be corners of a mask's convex hull: the ends of their lines along every axis."""
    kept = mask.copy()
    for axis in range(mask.ndim):
        ends = np.zeros_like(mask)
        first = np.expand_dims(mask.argmax(axis), axis)
        last = mask.shape[axis] - 1 - np.expand_dims(np.flip(mask, axis).argmax(axis), axis)
        np.put_along_axis(ends, first, True, axis)
        np.put_along_axis(ends, last, True, axis)
        kept &= ends
    return kept


def face_midpoints(points: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """The midpoints of the faces of the voxels round points (n, d)."""
    half = np.diag(spacing) / 2
    return (points[:, None, :] + np.concatenate([half, -half])).reshape(-1, points.shape[1])


def edge(mask: np.ndarray) -> np.ndarray:
    """The voxels of a mask that have a face at its outside; the array's border counts as outside."""
    return mask & ~ndimage.binary_erosion(mask)


def gap(first: np.ndarray, second: np.ndarray, spacing: Spacing) -> float | None:
    """The width of the gap between two masks on one grid, mm: 0 where they touch; None where one is empty.

    It is the gap between the boxes of those two voxels whose centres are nearest.
    """
    points = [np.argwhere(edge(mask)) * spacing for mask in (first, second)]
    if not all(map(len, points)):
        return None
    distances, nearest = (np.asarray(found) for found in cKDTree(points[1]).query(points[0]))
    closest = distances.argmin()
    apart = np.abs(points[0][closest] - points[1][nearest[closest]])
    return float(np.linalg.norm(np.maximum(apart - spacing, 0)))


def surface_mm2(mask: np.ndarray, neighbour: np.ndarray, spacing: Spacing) -> tuple[float, float]:
    """The area of a mask's surface, and of the part of it that a neighbour lies against, mm2.

    By the coarea formula the integral of the gradient of a smoothed mask is the mean area of its level sets, in any
    orientation and with any voxels; counting voxel faces would give up to 1.7 times as much. Each piece of the surface
    belongs to the neighbour by its share of what lies around it outside the mask. Smoothing (``SMOOTH_MM``, or one
    voxel) rounds a closed surface off by about 4 pi sigma squared.

    Args:
        mask, neighbour: on one grid, apart from each other.
        spacing: mm (z, y, x).
    """
    box = bounding_box(mask)
    if box is None:
        return 0.0, 0.0
    blocks = blocks_of(spacing, SMOOTH_MM)  # finer voxels than the smoothing only cost time
    step_mm = np.array(spacing) * blocks
    sigma = np.maximum(SMOOTH_MM / step_mm, 1.0)
    margins = [int(n) for n in np.ceil(4 * sigma) * blocks]
    room = tuple(slice(max(0, s.start - m), s.stop + m) for s, m in zip(box, margins, strict=True))
    inside, beside = (
        ndimage.gaussian_filter(coarse(np.pad(m[room], [(m, m) for m in margins]), blocks), sigma)
        for m in (mask, neighbour)
    )
    slope = np.sqrt(sum(g**2 for g in np.gradient(inside, *step_mm)))
    share = np.clip(beside / np.maximum(1 - inside, 1e-3), 0, 1)
    voxel = float(np.prod(step_mm))
    return float(slope.sum()) * voxel, float((slope * share).sum()) * voxel


def blocks_of(spacing: Spacing, mm: float) -> list[int]:
    """How many voxels (z, y, x) make a block of about so many mm, at least one each."""
    return [max(1, round(mm / step)) for step in spacing]


def coarse(mask: np.ndarray, blocks: list[int]) -> np.ndarray:
    """The mean over blocks of voxels, float32; what fills no block at an end is left out."""
    lengths = [n // block for n, block in zip(mask.shape, blocks, strict=True)]
    cut = mask[tuple(slice(n * block) for n, block in zip(lengths, blocks, strict=True))]
    paired = [n for pair in zip(lengths, blocks, strict=True) for n in pair]
    return cut.reshape(paired).mean(axis=(1, 3, 5), dtype=np.float32)
