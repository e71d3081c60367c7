"""Tumours and cysts grown in the kidneys of a scan, or of a lone slice."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cc3d
import numpy as np
from scipy import ndimage

from kits.choices import CYST, TUMOUR
from kits.geometry import Spacing

from .fields import smooth_field
from .noise import noise_like, surroundings
from .shapes import Form, coverage, distance, lump, offsets_mm, push
from .tissue import CYSTS, TUMOURS, draw_kind, lesion_hu

TUMOUR_MM = (6.0, 100.0)
CYST_MM = (4.0, 110.0)
CYST_SHARE = 0.4
"""KiTS23: tumours' largest sections measure 12 to 100 mm (5-95 %), cysts' 9 to 64; small tumours
are missed most, large cysts are taken for tumours."""
BONE_HU, AIR_HU = 230, -250
FAT_HU = -20  # fat is below, other tissue above
CANDIDATES = 10
SKIN_MM = 25.0  # nothing grows nearer to the skin: there lies the wall of the body, and fat that no kidney touches
MOST_INVADED = 0.25  # the share of a lesion that may lie in other organs or the wall of the body
KEPT_KIDNEY = 0.3
"""A lesion leaves at least this share of the kidney in its surroundings, so that one can tell where it grew."""


@dataclass(frozen=True)
class Lesion:
    """What was grown: ``kind`` of ``tissue``, diameter in mm, centre (z, y, x) in voxels, HU of the kidney around."""

    kind: str
    diameter_mm: float
    centre: tuple[float, float, float]
    kidney_hu: float

    @property
    def label(self) -> int:
        """What label maps call it."""
        return CYST if self.kind in CYSTS else TUMOUR


@dataclass(frozen=True, eq=False)
class Seed:
    """What is to grow: ``kind`` of ``tissue``, diameter in mm, centre (z, y, x) in voxels."""

    kind: str
    diameter: float
    centre: tuple[float, ...]

    @property
    def radius(self) -> float:
        """mm."""
        return self.diameter / 2


def grow_lesion(
    hu: np.ndarray, labels: np.ndarray, spacing: Spacing, rng: np.random.Generator, kind: str | None = None
) -> tuple[np.ndarray, np.ndarray, Lesion | None]:
    """Grow one tumour or cyst in, on or out of a kidney.

    Works on a lone slice, too, as a section through a lesion in three dimensions. Only a box around the lesion is
    computed, so the cost follows the lesion's size.

    Args:
        hu: (z, y, x), int16 or float; not changed.
        labels: uint8 (z, y, x): 1 kidney, 2 tumour, 3 cyst; not changed.
        spacing: mm (z, y, x); of a lone slice, its thickness comes first.
        kind: one of ``tissue.TUMOURS`` or ``tissue.CYSTS``; by default drawn.

    Returns:
        New ``hu`` (same dtype), new ``labels``, and what was grown: None, with both unchanged, where there is no
        kidney or no room in it.
    """
    kidney = np.argwhere(labels == 1)
    if not len(kidney):
        return hu.copy(), labels.copy(), None
    if kind is None:
        kind = draw_kind(CYSTS if rng.random() < CYST_SHARE else TUMOURS, rng)
    low, high = CYST_MM if kind in CYSTS else TUMOUR_MM
    diameter = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    for _ in range(5):
        centre = choose_centre(hu, labels, kidney, spacing, diameter / 2, rng)
        grown = _grow(hu, labels, spacing, Seed(kind, diameter, tuple(centre)), rng)
        if grown is not None:
            return grown
        diameter *= 0.7
    return hu.copy(), labels.copy(), None


def is_hard(hu: np.ndarray) -> np.ndarray:
    """Where there is bone, bowel gas or air."""
    return (hu > BONE_HU) | (hu < AIR_HU)


def is_organ(hu: np.ndarray) -> np.ndarray:
    """Where there is anything denser than fat."""
    return hu > FAT_HU


def choose_centre(
    hu: np.ndarray,
    labels: np.ndarray,
    kidney: np.ndarray,
    spacing: Spacing,
    radius_mm: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """A centre (z, y, x) near a kidney's surface, most likely where the lesion would grow into kidney and fat.

    Of some random candidates, one that would displace much bone, bowel gas, other organs or another tumour is unlikely
    to be taken.
    """
    ball = rng.standard_normal((120, 3))
    ball *= (rng.random((120, 1)) ** (1 / 3)) * radius_mm / np.linalg.norm(ball, axis=1, keepdims=True)
    centres, odds = [], []
    for start in kidney[rng.integers(len(kidney), size=CANDIDATES)]:
        surface, outwards = _way_out(labels, start, spacing)
        inwards = min(radius_mm, 20.0)  # the parenchyma of a kidney is 15 to 25 mm thick
        centre = surface + outwards * rng.uniform(-inwards, 0.4 * radius_mm) / spacing
        if len(hu) == 1:
            centre[0] = rng.uniform(-0.75, 0.75) * radius_mm / spacing[0]
        at = np.rint(centre + ball / spacing).astype(int)
        at = at[((at >= 0) & (at < hu.shape))[:, 1:].all(axis=1)]
        at[:, 0] = at[:, 0].clip(0, len(hu) - 1)
        if not len(at):
            continue
        there, what = hu[tuple(at.T)], labels[tuple(at.T)]
        hard = is_hard(there) & (what == 0)
        organ = is_organ(there) & (what == 0)
        cost = 3 * hard.mean() + organ.mean() + 3 * (what == 2).mean() - 0.3 * (what == 1).mean()
        centres.append(centre)
        odds.append(np.exp(-5 * cost))
    return centres[rng.choice(len(centres), p=np.array(odds) / sum(odds))]


def _way_out(labels: np.ndarray, start: np.ndarray, spacing: Spacing) -> tuple[np.ndarray, np.ndarray]:
    """From a voxel of a kidney straight to the surface: the point there (voxels), and the direction (unit, mm)."""
    reach = np.ceil(15.0 / np.array(spacing)).astype(int)
    low = np.maximum(start - reach, 0)
    box = labels[tuple(slice(a, b) for a, b in zip(low, start + reach + 1, strict=True))] > 0
    middle = np.array([np.dot(np.arange(n), box.sum(axis=axes)) for n, axes in _profiles(box.shape)]) / box.sum()
    direction = (start - low - middle) * spacing
    direction /= max(float(np.linalg.norm(direction)), 1e-6)
    steps = start + np.arange(0, 30.0)[:, None] * direction / spacing
    at = np.rint(steps).astype(int).clip(0, np.array(labels.shape) - 1)
    inside = labels[tuple(at.T)] > 0
    return steps[int(np.argmin(inside)) if not inside.all() else -1], direction


def _profiles(shape: tuple[int, ...]) -> list[tuple[int, tuple[int, int]]]:
    """Length and the two other axes, for each axis."""
    return [(shape[0], (1, 2)), (shape[1], (0, 2)), (shape[2], (0, 1))]


def _grow(
    hu: np.ndarray, labels: np.ndarray, spacing: Spacing, seed: Seed, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, Lesion] | None:
    """The lesion at a place; None where it would leave too little kidney, or nothing of itself."""
    reach = np.ceil((2.3 * seed.radius + 12) / np.array(spacing)).astype(int)
    centre = np.array(seed.centre)
    low = np.maximum(np.floor(centre).astype(int) - reach, 0)
    high = np.minimum(np.ceil(centre).astype(int) + reach + 1, hu.shape)
    if (high <= low).any():  # beyond the first or last slice of a thin scan
        return None
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    host, before = hu[box].astype(np.float32), labels[box]
    inner = replace(seed, centre=tuple(float(c) for c in centre - low))
    kidney_hu = _kidney_level(host, before, spacing, inner)
    host, after, calm = _pressed(host, before, spacing, inner, rng)
    organ = (is_organ(calm) & (after == 0)).astype(np.float32)
    depth = _depth(calm, after, organ, spacing, inner, rng)
    if not (depth > 0).any():
        return None
    weight = coverage(depth, spacing, rng.uniform(1.0, 3.0), 0.8 * seed.radius, rng)
    weight[cc3d.largest_k(weight > 0, k=1) == 0] = 0
    grown = weight > 0.5
    kidneys = (before == 1).sum()
    if grown.sum() < 8 or (after[~grown] == 1).sum() < KEPT_KIDNEY * kidneys:
        return None
    if organ[grown].mean() > MOST_INVADED:
        return None

    z, y, x = (round(float(c), 1) for c in seed.centre)
    lesion = Lesion(seed.kind, round(seed.diameter, 1), (z, y, x), round(kidney_hu, 1))
    core = ndimage.find_objects((weight > 0).astype(np.uint8))[0]  # only here does anything else change
    depth, weight, grown = depth[core], weight[core], grown[core]
    inside = lesion_hu(seed.kind, depth, spacing, seed.radius, kidney_hu, rng)
    inside = ndimage.gaussian_filter(inside, (0, *[rng.uniform(0.5, 1.0)] * 2))  # the scanner's blur
    noise = noise_like(surroundings(hu[box], inner.centre), weight.shape, rng)
    # The mean of two independent noises is weaker than either: the second is raised so that their sum is not.
    host[core] += weight * (inside - host[core]) + noise * np.sqrt(1 - (1 - weight) ** 2)
    after = after.copy()
    after[core][grown & ((after[core] != 2) | (lesion.label == 2))] = lesion.label
    new_hu, new_labels = hu.copy(), labels.copy()
    new_hu[box] = np.rint(host) if hu.dtype.kind == "i" else host
    new_labels[box] = after
    return new_hu, new_labels, lesion


def _pressed(
    host: np.ndarray, labels: np.ndarray, spacing: Spacing, seed: Seed, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A box's HU and labels, mostly pushed aside by what grows in it, and its HU without noise."""
    calm = ndimage.gaussian_filter(host, (0, 1, 1))
    pressed = rng.uniform(0.2, 0.95) if rng.random() < 0.7 else 0.0
    if pressed and seed.radius > 4:
        hard = _unyielding(calm, labels, seed.kind).astype(np.float32)
        stiff = np.clip(3 * ndimage.gaussian_filter(hard, _sigma(3, spacing, host)), 0, 1)
        host, labels = push((host, labels), (3, 0), spacing, seed.centre, pressed * seed.radius, stiff)
        calm = ndimage.gaussian_filter(host, (0, 1, 1))
    return host, labels, calm


def _depth(
    calm: np.ndarray, labels: np.ndarray, organ: np.ndarray, spacing: Spacing, seed: Seed, rng: np.random.Generator
) -> np.ndarray:
    """Depth in the lesion, mm, less where organs resist it, and none in bone, gas and skin.

    Args:
        calm, labels: of the box, HU without noise and labels.
        organ: 1 where other organs are.
    """
    depth = _free_depth(calm.shape, spacing, seed, rng)
    if not (depth > 0).any():
        return depth
    resistance = rng.uniform(0.1, 0.7) * seed.radius
    depth -= resistance * ndimage.gaussian_filter(organ, _sigma(2, spacing, calm))
    hard = _unyielding(calm, labels, seed.kind)
    if hard.any():
        np.minimum(depth, distance(~hard, spacing) - 1.5, out=depth)
    outside = _outside(calm)
    if outside.any():
        np.minimum(depth, distance(~outside, spacing) - SKIN_MM, out=depth)
    return depth


def _unyielding(hu: np.ndarray, labels: np.ndarray, kind: str) -> np.ndarray:
    """What a lesion grows around: bone, gas, and, if it is a cyst, a tumour."""
    hard = is_hard(hu) & (labels == 0)
    return hard | (labels == 2) if kind in CYSTS else hard


def _outside(hu: np.ndarray) -> np.ndarray:
    """Air around the body: all that reaches an edge of its slice."""
    rim = np.ones(hu.shape, bool)
    rim[:, 1:-1, 1:-1] = False
    air = hu < AIR_HU
    return ndimage.binary_propagation(rim & air, mask=air)


def _sigma(mm: float, spacing: Spacing, array: np.ndarray) -> tuple[float, float, float]:
    """A blur of ``mm`` in voxels, none across a lone slice."""
    z, y, x = (mm / s for s in spacing)
    return (z if len(array) > 1 else 0.0, y, x)


def _kidney_level(host: np.ndarray, labels: np.ndarray, spacing: Spacing, seed: Seed) -> float:
    """HU of the kidney around a lesion."""
    z, y, x = offsets_mm(host.shape, spacing, seed.centre)
    near = (labels == 1) & (z * z + y * y + x * x < (seed.radius + 15) ** 2)
    near = near if near.any() else labels == 1
    return float(np.quantile(host[near], 0.6)) if near.any() else 120.0  # above the middle: cysts may lie in it


def _free_depth(shape: tuple[int, ...], spacing: Spacing, seed: Seed, rng: np.random.Generator) -> np.ndarray:
    """Depth in a lesion that nothing hinders, mm; cysts are round and smooth, tumours lobulated, some frayed."""
    if seed.kind in CYSTS:
        form = Form(seed.radius, rng.uniform(0, 0.05), rng.uniform(0, 0.3))
        return lump(shape, spacing, seed.centre, form, rng)
    form = Form(seed.radius, rng.uniform(0.02, 0.2), rng.uniform(0, 0.6))
    depth = lump(shape, spacing, seed.centre, form, rng)
    frayed = rng.uniform(0, 0.1) * min(seed.radius, 10.0)
    return depth + frayed * smooth_field(shape, spacing, 3.0, rng)
