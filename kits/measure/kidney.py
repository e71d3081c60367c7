"""A kidney's landmarks, from its mask alone: sinus, polar lines, axes, natural outline."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cc3d
import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from kits.choices import KIDNEY, TUMOUR
from kits.geometry import Spacing
from kits.measure.shapes import Hull, outline

FRAGMENT = 0.05
"""Pieces of parenchyma smaller than this share of the largest do not shape the kidney."""
DEPTH_MM = 5.0
"""What is not labelled is sinus only where it lies deeper than this below the natural outline."""
LINK_MM = 5.0
"""Pieces of sinus fat not farther apart than twice this belong together, and so does what lies between them."""
SINUS_ML = 0.1
"""Sinus fat of less than this is no sinus."""
SMALL_SINUS = 0.2
"""A group of sinus fat smaller than this share of the largest is left out."""
ROUND = 1.1
"""A kidney whose axial section is less elongated than this has no axis of its own in it."""


@dataclass(frozen=True)
class Sinus:
    """The fat that the kidney lies round, and what lies between its pieces: vessels and collecting system.

    Args:
        mask: bool (z, y, x) on the kidney's grid.
        lines: its first and its last slice; the polar lines of R.E.N.A.L. and the sinus lines of PADUA.
        centre: its centre of gravity, in voxels.
    """

    mask: np.ndarray
    lines: tuple[int, int]
    centre: np.ndarray


class Kidney:
    """One side's masks, and the landmarks that follow from them.

    Args:
        labels: uint8 (z, y, x), of this side only: 1 parenchyma, 2 tumour, 3 cyst.
        spacing: mm (z, y, x).
        medial: 1 where x grows towards the body's middle (the right kidney), else -1.
    """

    def __init__(self, labels: np.ndarray, spacing: Spacing, medial: int) -> None:
        self.labels, self.spacing, self.medial = labels, spacing, medial

    @cached_property
    def parenchyma(self) -> np.ndarray:
        """The kidney's tissue without masses and stray pieces, bool."""
        pieces, count = cc3d.connected_components(self.labels == KIDNEY, return_N=True)
        if count < 2:
            return pieces > 0
        sizes = cc3d.statistics(pieces)["voxel_counts"]
        sizes[0] = 0
        return (sizes >= FRAGMENT * sizes.max())[pieces] & (pieces > 0)

    @cached_property
    def hull(self) -> Hull:
        """The natural outline: the convex hull of the parenchyma."""
        return Hull(self.parenchyma, self.spacing)

    @cached_property
    def filled(self) -> np.ndarray:
        """The parenchyma's convex hull slice by slice, bool."""
        filled = np.zeros_like(self.parenchyma)
        for plane, hull in zip(self.parenchyma, filled, strict=True):
            if plane.any():
                hull[...] = fill_hull(plane)
        return filled

    @cached_property
    def long_axis(self) -> tuple[np.ndarray, np.ndarray]:
        """(y, x) in mm at slice 0, and its change a slice: a line through the slices' centres, by least squares."""
        slices = np.flatnonzero(self.filled.any(axis=(1, 2)))
        areas = self.filled[slices].sum(axis=(1, 2))
        centres = np.array([ndimage.center_of_mass(self.filled[z]) for z in slices]) * self.spacing[1:]
        if len(slices) < 3:
            return np.average(centres, axis=0, weights=areas), np.zeros(2)
        slope, start = np.polyfit(slices, centres, 1, w=np.sqrt(areas))
        return start, slope

    @cached_property
    def towards_hilum(self) -> np.ndarray:
        """The unit vector (y, x) along which axial sections are longest, pointing medially.

        A kidney is turned about its long axis: its hilum looks to medial and anterior. Where sections are round it is
        the patient's own medial direction.
        """
        voxels = np.argwhere(self.filled)
        offsets = self._from_axis(voxels)
        spread, directions = np.linalg.eigh(np.cov(offsets.T)) if len(voxels) > 2 else (np.ones(2), np.eye(2))
        y, x = directions[:, 1] * np.sign(directions[1, 1] * self.medial or 1)
        turned_too_far = abs(y) > abs(x) * 2
        if spread[1] < ROUND**2 * spread[0] or turned_too_far:
            return np.array([0.0, float(self.medial)])
        return np.array([y, x])

    def _from_axis(self, voxels: np.ndarray) -> np.ndarray:
        start, slope = self.long_axis
        return voxels[:, 1:] * self.spacing[1:] - (start + voxels[:, :1] * slope)

    def around_axis(self, voxels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How far voxels (n, 3) lie medial and anterior of the kidney's long axis, mm, in its own turned frame."""
        offsets = self._from_axis(voxels)
        y, x = self.towards_hilum
        anterior = np.array([-x, y]) * self.medial  # at right angles; y falls to anterior
        return offsets @ np.array([y, x]), offsets @ anterior

    @cached_property
    def sinus(self) -> Sinus | None:
        """The sinus, if the mask shows one: what is not labelled, deep below the outline, medial or central."""
        voxels = np.argwhere(self.filled & (self.labels == 0))
        voxels = voxels[-self.hull.outside(voxels * self.spacing) > DEPTH_MM]
        fat = np.zeros_like(self.parenchyma)
        fat[tuple(voxels.T)] = True
        if not len(voxels):
            return None
        linked = widened(fat, self.spacing, LINK_MM)
        groups = cc3d.connected_components(linked)
        sizes = np.bincount(groups[fat], minlength=int(groups.max()) + 1)
        medial = [np.median(self.around_axis(voxels[groups[fat] == g])[0]) if n else -1 for g, n in enumerate(sizes)]
        sizes[np.array(medial) < -DEPTH_MM] = 0
        if sizes.max() * np.prod(self.spacing) / 1000 < SINUS_ML:
            return None
        mask = (sizes >= max(1, SMALL_SINUS * sizes.max()))[groups] & linked
        mask = fat & mask | mask & narrowed(mask, self.spacing, LINK_MM)
        mask &= self.labels != TUMOUR
        slices = np.flatnonzero((mask & fat).any(axis=(1, 2)))
        return Sinus(mask, (int(slices[0]), int(slices[-1])), np.argwhere(mask).mean(axis=0))


def fill_hull(plane: np.ndarray) -> np.ndarray:
    """The pixels within the convex hull of a slice's mask, bool (y, x)."""
    corners = outline(plane, (1.0, 1.0))
    picture = Image.new("1", plane.shape[::-1])
    ImageDraw.Draw(picture).polygon([(x, y) for y, x in corners.tolist()], fill=1)
    return np.asarray(picture) | plane


def widened(mask: np.ndarray, spacing: Spacing, mm: float) -> np.ndarray:
    """A mask and all that is within so many mm of it, slice by slice."""
    result = np.zeros_like(mask)
    for plane, wide in zip(mask, result, strict=True):
        if plane.any():
            distances: Any = ndimage.distance_transform_edt(~plane, spacing[1:])
            wide[...] = distances <= mm
    return result


def narrowed(mask: np.ndarray, spacing: Spacing, mm: float) -> np.ndarray:
    """What of a mask is farther than so many mm from its outside, slice by slice."""
    return ~widened(~mask, spacing, mm)
