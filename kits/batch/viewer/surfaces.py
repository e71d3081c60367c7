"""Surfaces for the 3-D view, in the form that the page's library reads fastest (MZ3)."""

from __future__ import annotations

import gzip
from collections.abc import Iterator

import numpy as np

from kits.batch.meshes import canonical_to_lps, surface
from kits.batch.parts import Part, parts_of
from kits.batch.viewer.picture import nifti_affine
from kits.io.volume import Volume
from kits.measure.results import Measurements

FINEST_MM = 1.6
"""Finer surfaces cost megabytes and seconds, and look no better at a page's size."""


def surfaces(volume: Volume, labels: np.ndarray, measured: Measurements) -> Iterator[tuple[Part, bytes]]:
    """Each part of a label map with its surface, a gzipped MZ3 file in NIfTI's space.

    Raises:
        OutputError: scikit-image or trimesh is not installed.
    """
    matrix = nifti_affine(canonical_to_lps(volume.home))
    numbers, parts = parts_of(labels, volume.hu, measured)
    for part in parts:
        mesh = surface(numbers == part.number, volume.spacing, matrix, FINEST_MM)
        yield part, mz3_bytes(mesh.vertices, mesh.faces)


def mz3_bytes(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    """A gzipped MZ3 file: float32 vertices (n, 3) and int32 triangles (m, 3)."""
    magic, has_faces_and_vertices = 0x5A4D, 3
    head = np.array([magic, has_faces_and_vertices], "<u2").tobytes()
    counts = np.array([len(faces), len(vertices), 0], "<u4").tobytes()
    return gzip.compress(head + counts + faces.astype("<i4").tobytes() + vertices.astype("<f4").tobytes(), 6, mtime=0)
