"""Surfaces for the 3-D view, in the form that the page's library reads fastest (MZ3)."""

from __future__ import annotations

import gzip

import numpy as np
from scipy import ndimage

from kits.batch.viewer.picture import Shown
from kits.geometry import bounding_box

GRID_MM = 2.0
"""The surfaces' own grid: finer ones cost megabytes and show the slices' steps."""
SMOOTH_MM, SMOOTH_STEPS = 1.3, 0.8
"""How far surfaces are smoothed: so many mm, but at least so many steps from slice to slice."""
PAD = 4


def surface(shown: Shown, label: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Vertices in mm (NIfTI's space) and triangles of one label's surface, or None where there is none of it."""
    from skimage.measure import marching_cubes

    box = bounding_box(shown.labels == label)
    if box is None:
        return None
    crop = np.pad(shown.labels[box] == label, PAD).astype(np.float32)
    steps = np.array(shown.spacing)
    soft = ndimage.gaussian_filter(crop, np.maximum(SMOOTH_MM / steps, SMOOTH_STEPS))
    coarse = ndimage.zoom(soft, steps / GRID_MM, order=1, grid_mode=True, mode="nearest")
    if coarse.max() <= 0.5 or coarse.min() >= 0.5:  # a few voxels that smoothing took away: as they are
        coarse = crop
    vertices, faces, _, _ = marching_cubes(coarse, 0.5)
    ratio = np.array(crop.shape) / coarse.shape
    zyx = (vertices + 0.5) * ratio - 0.5 - PAD + [at.start for at in box]
    mm = zyx[:, ::-1] @ shown.affine[:3, :3].T + shown.affine[:3, 3]
    return mm.astype(np.float32), faces.astype(np.int32)


def mz3_bytes(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    """A gzipped MZ3 file: float32 vertices (n, 3) and int32 triangles (m, 3)."""
    magic, has_faces_and_vertices = 0x5A4D, 3
    head = np.array([magic, has_faces_and_vertices], "<u2").tobytes()
    counts = np.array([len(faces), len(vertices), 0], "<u4").tobytes()
    return gzip.compress(head + counts + faces.astype("<i4").tobytes() + vertices.astype("<f4").tobytes(), 6, mtime=0)
