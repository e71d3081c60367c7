"""How much what was found looks like a kidney: where it lies in the body, how large and how bright it is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

import cc3d
import numpy as np
from scipy import ndimage

from kits.geometry import Box
from kits.io.volume import Volume

BODY_MM = 4.0
"""Spacing at which the body is outlined; its outline needs no more."""
BODY_HU, LUNG_HU, BONE_HU = -300, -400, 300
"""Above the first lies the body, below the second what it holds of air, above the third bone."""
FAT_HU, ABOVE_FLOOR_HU = -120, 10
"""In a scan whose HU are cut off, but below the first, the lowest is air; the body begins so far above it."""
MOST_LUNG, MOST_BONE, LEAST_MIDDLE = 0.3, 0.12, 0.3
"""Shares of a slice of the trunk below the heart: air at most, bone at most, and body in the middle at least."""
SPINE_HU, SPINE_PX = 250, 8
"""Vertebrae are brighter, even where HU are cut off; so many pixels of ``BODY_MM`` of one tell where it lies."""
TISSUE_HU = (-200.0, 500.0)
"""The middle HU of kidneys, of fatty tumours and of contrast medium in the pelvis lie between; lung and bone do not."""
KIDNEY_ML = (60.0, 350.0)
"""A kidney without a mass, small or large."""
LEAST_HU = 60.0
"""Where nothing is brighter, without contrast medium, nothing is too dark beside it."""
SIDE = (0.15, 0.75)
"""How far from the middle line kidneys' centres lie, as shares of half the body's width."""
DEPTH = 0.5
"""Kidneys' centres lie no further in front, as a share of the body from front to back."""
FAR = 0.3
"""The factor that what is out of place keeps: a large tumour pushes its kidney far."""
APART_MM = (60.0, 150.0)
"""How far above each other two kidneys' centres lie: usually at most, and hardly ever."""
MOST_BONY = 0.25
"""Share of a component's voxels as bright as bone: of kidneys it is less."""
LUNGS = (0.15, 0.3)
"""Air's share of the body in slices with lungs: from their base up at least the first, somewhere the second."""
UNDER_LUNGS_MM = (-30.0, 20.0, 180.0, 260.0)
"""How far under the lungs' base kidneys' centres lie: never, usually from and to, never; hips lie 350 mm under it."""
MOST_POINTS = 50_000
"""Voxels of a component that are looked at: enough for its middle and its HU."""
MOST_CANDIDATES = 8
"""Components among which a pair is sought."""


@dataclass(frozen=True, eq=False)
class Body:
    """The body's outline, slice by slice, as shares of the scan's extent; NaN where there is no body.

    Args:
        middle, half: the middle line and half of the width, along x.
        front, back: along y.
        trunk: 1 where it looks like a slice of the trunk below the heart, 0 in head, chest and legs.
        air: air's share of the body.
        spine: how far from front (0) to back (1) what is bright near the middle line lies; NaN where nothing is.
    """

    middle: np.ndarray
    half: np.ndarray
    front: np.ndarray
    back: np.ndarray
    trunk: np.ndarray
    air: np.ndarray
    spine: np.ndarray

    @classmethod
    def of(cls, volume: Volume) -> Body:
        """The outline of the body that a CT shows."""
        steps = [max(1, round(BODY_MM / mm)) for mm in volume.spacing]
        hu = volume.hu[:: steps[0], steps[1] // 2 :: steps[1], steps[2] // 2 :: steps[2]]
        levels = air_levels(hu)
        return cls(*np.transpose([_outline(one, *levels) for one in hu]))

    def at(self, name: str, shares: np.ndarray) -> float:
        """One of the outline's figures in the slices at these shares of the scan's height; NaN without a body."""
        values = getattr(self, name)[(shares * len(self.trunk)).astype(int)]
        values = values[~np.isnan(values)]
        return float(values.mean()) if values.size else math.nan

    @property
    def lungs_base(self) -> float:
        """The lowest slice with lungs, as a share of the scan's height; NaN where none are in view."""
        runs = np.flatnonzero(np.diff(self.air >= LUNGS[0], prepend=False, append=False)).reshape(-1, 2).tolist()
        lungs = [(first, last) for first, last in runs if self.air[first:last].max() >= LUNGS[1]]
        return max(lungs, key=lambda run: run[1] - run[0])[0] / len(self.air) if lungs else math.nan


def air_levels(hu: np.ndarray) -> tuple[float, float]:
    """HU above which the body lies, and up to which what it holds is air, of a CT that may be cut off at some HU."""
    lowest = float(hu.min())
    cut_off = LUNG_HU < lowest < FAT_HU
    return (max(BODY_HU, lowest + ABOVE_FLOOR_HU), lowest) if cut_off else (BODY_HU, LUNG_HU)


def _outline(hu: np.ndarray, body_hu: float, air_hu: float) -> tuple[float, ...]:
    """Middle, half width, front, back, trunk (0 or 1) and air of a slice (y, x): see ``Body``."""
    filled = ndimage.binary_fill_holes(hu > body_hu)
    opened = ndimage.binary_opening(filled, np.ones((3, 3), bool))  # without couch and clothes
    parts = cc3d.connected_components(opened, connectivity=4)
    sizes = np.bincount(parts.ravel())[1:]
    if not sizes.size:
        return (math.nan,) * len(fields(Body))
    body = np.isin(parts, 1 + np.flatnonzero(sizes >= sizes.max() / 4))
    rows, columns = np.nonzero(body)
    left, right = np.quantile(columns, (0.01, 0.99)).tolist()
    front, back = np.quantile(rows, (0.01, 0.99)).tolist()
    middle, half = (left + right) / 2, max((right - left) / 2, 1.0)
    near = np.abs(np.arange(body.shape[1]) - middle) <= max(half / 10, 1.0)
    central, inside = body[round(front) : round(back) + 1, near], hu[body]
    air, bone = float(np.mean(inside <= air_hu)), np.mean(inside > BONE_HU)
    trunk = air <= MOST_LUNG and bone <= MOST_BONE and central.mean() >= LEAST_MIDDLE
    height, width = body.shape
    extent = (middle + 0.5) / width, half / width, (front + 0.5) / height, (back + 0.5) / height
    return *extent, float(trunk), air, _spine(hu, rows, columns, middle, half)


def _spine(hu: np.ndarray, rows: np.ndarray, columns: np.ndarray, middle: float, half: float) -> float:
    """How far behind the front lies what is bright near the middle line, of the body's pixels (rows, columns)."""
    bright = rows[(hu[rows, columns] > SPINE_HU) & (np.abs(columns - middle) <= half / 3)]
    front, back = np.quantile(rows, (0.01, 0.99)).tolist()
    return float((bright.mean() - front) / max(back - front, 1)) if bright.size >= SPINE_PX else math.nan


@dataclass(frozen=True)
class Candidate:
    """What was measured of a component that may be a kidney, with its tumour.

    Args:
        ml: its volume.
        height_mm: of its centre above the scan's lower end.
        side: of its centre: -1 at the body's right flank, 0 in the middle, 1 at the left flank. NaN without a body.
        depth: of its centre: 0 at the body's front, 1 at its back. NaN without a body.
        trunk: share of its slices that look like the trunk below the heart. NaN without a body.
        hu: the middle of its HU.
        bright: nine tenths of its HU are lower: what it holds of kidney, if a dark mass is the most of it.
        bony: share of its voxels that are as bright as bone.
        under_lungs_mm: how far its centre lies under the lungs' base; NaN where no lungs are in view.
        probability: mean probability of kidney or tumour; 1 where nobody told.
        spine: where the spine lies in its slices, as its own depth; NaN where none is seen.
    """

    ml: float
    height_mm: float
    side: float
    depth: float
    trunk: float
    hu: float
    bright: float
    bony: float = 0.0
    under_lungs_mm: float = math.nan
    probability: float = 1.0
    spine: float = math.nan

    @property
    def possible(self) -> bool:
        """Whether it is of soft tissue and in the trunk: neither skull, nor lung, nor leg."""
        return not self.trunk < 0.5 and TISSUE_HU[0] < self.hu < TISSUE_HU[1]

    @property
    def level(self) -> float:
        """How usual its height is, from ``FAR`` to 1; 1 where no lungs are in view."""
        if math.isnan(self.under_lungs_mm):
            return 1.0
        return float(np.interp(self.under_lungs_mm, UNDER_LUNGS_MM, (FAR, 1, 1, FAR)))

    @property
    def place(self) -> float:
        """How usual its place in the slice is, from ``FAR`` squared to 1; 1 without a body."""
        if math.isnan(self.side):
            return 1.0
        side = np.interp(abs(self.side), (0, *SIDE, 1), (FAR, 1, 1, FAR))
        depth = np.interp(self.depth, (DEPTH / 2, DEPTH), (FAR, 1))
        return float(side * depth)

    def likeness(self, in_view: float, brightest: float) -> float:
        """How much it looks like a kidney, above 0 and at most 1.

        Args:
            in_view: share of a kidney's height that the scan shows.
            brightest: HU of the brightest candidate that is no bone.
        """
        # A mass can make a kidney ten times as large, so a large one is only a little less likely.
        size = min(1.0, self.ml / (KIDNEY_ML[0] * in_view), math.sqrt(KIDNEY_ML[1] / max(self.ml, 1e-6)))
        hu = np.clip(self.bright / max(brightest, LEAST_HU), 0.2, 1.0)
        return float(size * hu * self.place * self.level * (1 - self.bony) ** 2 * self.probability)


def candidates(
    ranked: np.ndarray,
    boxes: Mapping[int, Box],
    volume: Volume,
    whole: Box | None = None,
    background_ZYX: np.ndarray | None = None,
) -> dict[int, Candidate]:
    """Measure components, by rank.

    Args:
        ranked: components by rank, from 1: (z, y, x) on any lattice over the whole scan.
        boxes: of the components to be measured, by rank.
        volume: the CT.
        whole: where ``ranked`` lies if it is a part of the scan's own voxels.
        background_ZYX: probability of background, like ``ranked``.
    """
    body, native = Body.of(volume), np.array(volume.hu.shape)
    corner, lattice = (0, 0, 0), np.array(ranked.shape)
    if whole is not None:
        corner, lattice = tuple(one.start for one in whole), native
    voxel_ml = volume.voxel_ml * native.prod() / lattice.prod()
    found = {}
    for rank, box in boxes.items():
        inside = np.flatnonzero(ranked[box] == rank)
        ml = float(len(inside) * voxel_ml)
        inside = inside[:: max(1, len(inside) // MOST_POINTS)]
        points = np.stack(np.unravel_index(inside, ranked[box].shape), 1) + [one.start for one in box]
        sure = 1.0 if background_ZYX is None else 1.0 - float(background_ZYX[tuple(points.T)].mean())
        found[rank] = _measured(ml, (points + corner + 0.5) / lattice, volume, body, sure)
    return found


def _measured(ml: float, shares: np.ndarray, volume: Volume, body: Body, probability: float) -> Candidate:
    """A candidate whose voxels lie at these shares of the scan's extent, (n, 3)."""
    hu = volume.hu[tuple((shares * volume.hu.shape).astype(int).T)]
    z, y, x = shares.mean(0).tolist()
    middle, half, front, back, trunk, _, spine = (body.at(one.name, shares[:, 0]) for one in fields(Body))
    height_mm = volume.hu.shape[0] * volume.spacing[0]
    return Candidate(
        ml=ml,
        height_mm=z * height_mm,
        side=(x - middle) / half,
        depth=(y - front) / max(back - front, 1e-6),
        trunk=trunk,
        hu=float(np.median(hu)),
        bright=float(np.quantile(hu, 0.9)),
        bony=float(np.mean(hu > BONE_HU)),
        under_lungs_mm=(body.lungs_base - z) * height_mm,
        probability=probability,
        spine=spine,
    )


def most_alike(found: Mapping[int, Candidate], most: int, in_view: float = 1.0) -> list[int]:
    """The ranks of those candidates that are taken for kidneys, in order.

    What is impossible goes. Of more than there can be those stay that together look most like kidneys: a partner on
    the other side, at a similar height, counts.

    Args:
        found: candidates by rank.
        most: how many kidneys there are at most.
        in_view: share of a kidney's height that the scan shows.
    """
    possible = sorted(rank for rank, one in found.items() if one.possible)
    if len(possible) <= most:
        return possible
    soft = [rank for rank in possible if found[rank].bony < MOST_BONY and found[rank].level > 0.5] or possible
    brightest = max(found[rank].hu for rank in soft)
    alike = {rank: found[rank].likeness(in_view, brightest) for rank in possible}
    best = sorted(sorted(possible, key=lambda rank: -alike[rank])[: max(most, MOST_CANDIDATES)])

    def together(ranks: Iterable[int]) -> float:
        ranks = list(ranks)
        pairs = itertools.combinations([found[rank] for rank in ranks], 2)
        return math.prod(alike[rank] for rank in ranks) * math.prod(partners(*pair) for pair in pairs)

    return list(max(itertools.combinations(best, most), key=together))


def partners(one: Candidate, other: Candidate) -> float:
    """How well two kidneys go together, from ``FAR`` squared to 1: on different sides, at a similar height."""
    same_side = one.side * other.side > 0
    apart = np.interp(abs(one.height_mm - other.height_mm), APART_MM, (1, FAR))
    return float((FAR if same_side else 1.0) * apart)
