"""Real tumours of one slice pasted into the kidneys of another: after TumorCP (Yang et al., MICCAI 2021).

TumorCP pastes anywhere in a kidney; here the tumour is laid where one could grow (``lesions.choose_centre``), follows
the contrast phase of its new kidney, and leaves enough of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import cc3d
import numpy as np
from scipy import ndimage

from kits.geometry import Spacing

from .grow import KEPT_KIDNEY, MOST_INVADED, choose_centre, is_hard, is_organ

SMALLEST_TUMOUR = 30
"""Fewer pixels than this show no texture worth pasting."""
SCALE = (0.4, 1.3)
TRIES = 4
NOISE_PX = 1.5
"""What a Gaussian filter of this width takes away is noise; it is made as strong as in the kidneys of the new slice."""
MOST_NOISE = 1.5  # times as strong as in the tumour's own slice


def paste_tumour(
    hu: np.ndarray,
    labels: np.ndarray,
    spacing: Spacing,
    donor_hu: np.ndarray,
    donor_labels: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """A lone slice, or neighbouring ones, with a tumour of another lone slice in the kidney.

    Through neighbouring slices the tumour goes on as a ball would: its section is as large as the donor's where the
    ball is thickest, somewhere near the middle slice, and the same, turned and scaled, in each.

    Args:
        hu: (slices, rows, columns), an odd number of slices; not changed.
        labels: uint8, as ``hu``: 1 kidney, 2 tumour; not changed.
        spacing: mm (z, y, x).
        donor_hu, donor_labels: a slice with a tumour, (1, rows, columns) of any size.

    Returns:
        New ``hu`` (same dtype) and ``labels``: copies, where there is no kidney, no tumour, or no room for it.
    """
    middle = len(hu) // 2
    alone = slice(middle, middle + 1)
    kidney = np.argwhere(labels[alone] == 1)
    tumour = tumour_of(donor_hu, donor_labels, rng)
    new_hu, new_labels = hu.copy(), labels.copy()
    if tumour is None or not len(kidney):
        return new_hu, new_labels
    barred = barred_to_tumours(hu[middle], labels[middle])
    for _ in range(TRIES):
        section = cache(partial(turned, *tumour, draw_pose(rng)))  # of its radius' share: HU and cover
        radius_mm = math.sqrt(max(float(section(1.0)[1].sum()), 1.0) / math.pi * spacing[1] * spacing[2])
        height, *place = choose_centre(hu[alone], labels[alone], kidney, spacing, radius_mm, rng)
        row, column = map(round, place)
        shares = sections(len(hu), height * spacing[0], spacing[0], radius_mm)
        cover = section(shares[middle])[1]
        there, here = overlap(hu.shape[1:], cover.shape, row, column)
        inside = cover[here] > 0.5
        left = len(kidney) - np.count_nonzero(labels[middle][there][inside] == 1)
        if (
            np.count_nonzero(inside) < SMALLEST_TUMOUR
            or left < KEPT_KIDNEY * len(kidney)
            or barred[there][inside].mean() > MOST_INVADED
        ):
            continue
        levels = kidney_level(hu[alone], labels[alone]), kidney_level(donor_hu, donor_labels)
        look = draw_look(*levels, noise_level(hu[middle], labels[middle] == 1), rng)
        for z, share in enumerate(shares):
            values, cover = section(share)
            there, here = overlap(hu.shape[1:], cover.shape, row, column)
            inside = cover[here] > 0.5
            if inside.any():
                shown = varied(values, cover, look, rng if len(hu) > 1 else None)[here]
                blended = hu[z][there] + cover[here] * (shown - hu[z][there])
                new_hu[z][there] = np.rint(blended) if hu.dtype.kind == "i" else blended
                new_labels[z][there][inside] = 2
        return new_hu, new_labels
    return new_hu, new_labels


def barred_to_tumours(hu: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Where in a slice (rows, columns) no kidney's tumour grows: in bone, and in other organs."""
    calm = ndimage.gaussian_filter(hu.astype(np.float32), 1)
    return (is_hard(calm) | is_organ(calm)) & (labels == 0)


@dataclass(frozen=True)
class Pose:
    """How a pasted tumour lies: scale, angle (radians), ``flip`` -1 if mirrored, and its border's softness (px)."""

    scale: float
    angle: float
    flip: float
    softness: float


def draw_pose(rng: np.random.Generator) -> Pose:
    """A tumour turned by any angle, perhaps mirrored, scaled; its border softened by about a pixel."""
    scale = float(np.exp(rng.uniform(*np.log(SCALE))))
    return Pose(scale, rng.uniform(0, 2 * math.pi), -1.0 if rng.random() < 0.5 else 1.0, rng.uniform(0.5, 1.0))


@dataclass(frozen=True)
class Look:
    """What a pasted tumour measures.

    Args:
        level: times its own mean HU.
        contrast: times as far from the mean its parts lie.
        shift: HU more.
        noise: spread that it is to have, HU.
    """

    level: float
    contrast: float
    shift: float
    noise: float


def draw_look(kidney: float, donor_kidney: float, noise: float, rng: np.random.Generator) -> Look:
    """A tumour that follows its new kidney's contrast phase more or less, from HU of both kidneys and the new noise."""
    level = np.clip((kidney / donor_kidney) ** rng.uniform(0, 1), 0.4, 1.6)
    return Look(level, rng.uniform(0.8, 1.2), rng.uniform(-10, 10), noise)


def varied(values: np.ndarray, cover: np.ndarray, look: Look, rng: np.random.Generator | None) -> np.ndarray:
    """A section's HU by a look; neighbouring sections, which do not share their noise, have it moved by ``rng``."""
    smooth = ndimage.gaussian_filter(values, NOISE_PX)
    noise = values - smooth
    noise *= min(look.noise / max(spread(noise[cover > 0.5]), 1.0), MOST_NOISE)
    if rng is not None:
        noise = np.roll(noise, tuple(rng.integers(0, noise.shape)), (0, 1))
    mean = float(smooth[cover > 0.5].mean())
    return mean * look.level + ((smooth - mean) * look.contrast + noise) + look.shift


def sections(slices: int, height_mm: float, slice_mm: float, radius_mm: float) -> list[float]:
    """Radius of a ball's section in each slice, as a share of the ball's; at least 0.05, in which no pixel remains.

    Args:
        slices: how many there are; a lone one shows the donor's section as it is.
        height_mm: of the ball's middle above the middle slice.
        slice_mm: from one slice to the next.
        radius_mm: of the ball.
    """
    if slices == 1:
        return [1.0]
    heights = (np.arange(slices) - slices // 2) * slice_mm - height_mm
    return np.sqrt(np.clip(1 - (heights / max(radius_mm, 1.0)) ** 2, 0.05**2, 1)).tolist()


def tumour_of(hu: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
    """One tumour of a slice: its HU in a box, continued beyond its border, and where it lies; None if there is none."""
    parts: Any = cc3d.dust(np.ascontiguousarray(labels[0] == 2), threshold=SMALLEST_TUMOUR)
    numbered = cc3d.connected_components(parts)
    if not numbered.any():
        return None
    mask = np.pad(numbered == rng.integers(1, numbered.max() + 1), 2)
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    box = tuple(slice(side.start - 2, side.stop + 2) for side in box)
    mask = mask[box]
    core: Any = ndimage.binary_erosion(mask) if mask.sum() > 2 * SMALLEST_TUMOUR else mask  # its rim is half fat
    core = core if core.any() else mask
    nearest = ndimage.distance_transform_edt(~core, return_distances=False, return_indices=True)
    return np.pad(hu[0], 2)[box].astype(np.float32)[tuple(nearest)], mask.astype(np.float32)


def turned(values: np.ndarray, mask: np.ndarray, pose: Pose, share: float) -> tuple[np.ndarray, np.ndarray]:
    """A tumour's HU and cover, from 0 to 1, in a pose, with a share of its radius: square arrays of one size."""
    angle, flip, scale = pose.angle, pose.flip, pose.scale * share
    inverse = np.array([[math.cos(angle), -math.sin(angle) * flip], [math.sin(angle), math.cos(angle) * flip]]) / scale
    side = math.ceil(math.hypot(*mask.shape) * scale) + 6
    offset = (np.array(mask.shape) - 1) / 2 - inverse @ np.full(2, (side - 1) / 2)
    image = ndimage.affine_transform(values, inverse, offset, (side, side), order=1, mode="nearest")
    cover = ndimage.affine_transform(mask, inverse, offset, (side, side), order=1)
    return image, ndimage.gaussian_filter(cover, pose.softness)


def overlap(
    shape: tuple[int, ...], box: tuple[int, ...], row: int, column: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where a box with its middle at a pixel meets a slice: on the slice, and on the box."""
    lows = [at - size // 2 for at, size in zip((row, column), box, strict=True)]
    starts = [max(low, 0) for low in lows]
    stops = [max(start, min(low + size, n)) for start, low, size, n in zip(starts, lows, box, shape, strict=True)]
    there = slice(starts[0], stops[0]), slice(starts[1], stops[1])
    here = slice(starts[0] - lows[0], stops[0] - lows[0]), slice(starts[1] - lows[1], stops[1] - lows[1])
    return there, here


def noise_level(hu: np.ndarray, where: np.ndarray) -> float:
    """Spread of a slice's noise in a mask, HU."""
    rows, columns = ndimage.find_objects(where.astype(np.uint8))[0]
    box, within = hu[rows, columns].astype(np.float32), where[rows, columns]
    core = ndimage.binary_erosion(within, iterations=2)  # the rim is an edge, not noise
    return spread((box - ndimage.gaussian_filter(box, NOISE_PX))[core if core.any() else within])


def spread(values: np.ndarray) -> float:
    """Standard deviation as the median distance from zero tells it, which edges and vessels hardly raise."""
    return 1.48 * float(np.median(np.abs(values)))


def kidney_level(hu: np.ndarray, labels: np.ndarray) -> float:
    """HU of a slice's kidneys, at least 20; a typical 110 where none are left of the tumour."""
    kidney = hu[labels == 1]
    return max(float(np.median(kidney)), 20.0) if len(kidney) else 110.0


Solid = tuple[np.ndarray, np.ndarray, float]
"""A whole tumour: HU (z, y, x), continued beyond its border; where it lies, 0 or 1; HU of its kidney."""


def solid_tumours(scans: Any) -> list[Solid]:
    """All tumours of volumes that show at least three of their slices and are no larger than a kidney."""
    found = []
    for scan in scans:
        labels = np.ascontiguousarray(np.asarray(scan.labels) == 2)
        if scan.lone or not labels.any():
            continue
        numbered = cc3d.connected_components(cc3d.dust(labels, threshold=100))
        for n, box in enumerate(cc3d.statistics(numbered)["bounding_boxes"]):
            if n == 0 or box[0].stop - box[0].start < 3 or max(s.stop - s.start for s in box[1:]) > 110:
                continue
            sides = [slice(max(0, s.start - 2), s.stop + 2) for s in box[1:]]
            mask = numbered[box[0], *sides] == n
            core = np.stack([ndimage.binary_erosion(m) if m.sum() > 2 * SMALLEST_TUMOUR else m for m in mask])
            core = np.where(core.any((1, 2), keepdims=True), core, mask)
            hu = np.asarray(scan.hu[box[0]], np.float32)[:, *sides]
            filled = np.empty_like(hu)
            for z in range(len(hu)):
                nearest = ndimage.distance_transform_edt(~core[z], return_distances=False, return_indices=True)
                filled[z] = hu[z][tuple(nearest)]
            found.append((filled, mask.astype(np.float32), kidney_level(np.asarray(scan.hu)[box[0]], np.asarray(scan.labels)[box[0]])))
    return found


def paste_solid(
    hu: np.ndarray, labels: np.ndarray, spacing: Spacing, donor_hu: np.ndarray, donor_mask: np.ndarray,
    donor_kidney: float, rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """As ``paste_tumour``, slice by slice of a whole tumour, any of whose slices becomes the middle one."""
    middle = len(hu) // 2
    alone = slice(middle, middle + 1)
    kidney = np.argwhere(labels[alone] == 1)
    new_hu, new_labels = hu.copy(), labels.copy()
    if not len(kidney):
        return new_hu, new_labels
    barred = barred_to_tumours(hu[middle], labels[middle])
    for _ in range(TRIES):
        pose = draw_pose(rng)
        chosen, upright = int(rng.integers(len(donor_hu))), 1 if rng.random() < 0.5 else -1
        made = {}
        for z in range(len(hu)):
            at = chosen + upright * (z - middle)
            if 0 <= at < len(donor_hu) and donor_mask[at].any():
                made[z] = turned(donor_hu[at], donor_mask[at], pose, 1.0)
        if middle not in made:
            continue
        cover = made[middle][1]
        radius_mm = math.sqrt(max(float(cover.sum()), 1.0) / math.pi * spacing[1] * spacing[2])
        _, *place = choose_centre(hu[alone], labels[alone], kidney, spacing, radius_mm, rng)
        row, column = map(round, place)
        there, here = overlap(hu.shape[1:], cover.shape, row, column)
        inside = cover[here] > 0.5
        left = len(kidney) - np.count_nonzero(labels[middle][there][inside] == 1)
        if (
            np.count_nonzero(inside) < SMALLEST_TUMOUR
            or left < KEPT_KIDNEY * len(kidney)
            or barred[there][inside].mean() > MOST_INVADED
        ):
            continue
        look = draw_look(
            kidney_level(hu[alone], labels[alone]), donor_kidney, noise_level(hu[middle], labels[middle] == 1), rng
        )
        for z, (values, cover) in made.items():
            inside = cover[here] > 0.5
            if inside.any():
                shown = varied(values, cover, look, rng)[here]
                blended = hu[z][there] + cover[here] * (shown - hu[z][there])
                new_hu[z][there] = np.rint(blended) if hu.dtype.kind == "i" else blended
                new_labels[z][there][inside] = 2
        return new_hu, new_labels
    return new_hu, new_labels
