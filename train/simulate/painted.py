"""Kidneys, tumours and cysts of a KiTS label map in place of a real scan's own kidneys."""

from __future__ import annotations

from dataclasses import dataclass

import cc3d
import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional

from kits.choices import CYST, TUMOUR
from kits.geometry import Spacing

from ..lesions.fields import ramp, smooth_field
from ..lesions.grow import AIR_HU, BONE_HU
from ..lesions.noise import noise_like, surroundings
from ..lesions.shapes import coverage, distance
from ..lesions.tissue import CYSTS, TUMOURS, draw_kind, lesion_hu
from .grown import grow_lesions
from .hosts import Simulation, finish, host, move
from .kidneys import fit_pose, place, shape_of, sides
from .phases import Phase, draw_phase, phase_of
from .sources import Source, read_kidneys

COARSE_MM = 3.0  # of the grid on which surroundings are moved
MOST_MM = 18.0  # that surroundings are moved
REACH_MM = 25.0  # from the new kidney's surface, over which that fades
LEAST_RADIUS_MM = 1.0
FAT_HU = (-140, -50)
USUAL_FAT_HU = -100.0

Box = tuple[slice, slice, slice]


@dataclass(eq=False)
class Placed:
    """A new kidney on the scan's grid: its box, and depths below surfaces (see ``kidneys.Kidney``), in mm."""

    box: Box
    whole: np.ndarray
    tumour: np.ndarray
    cyst: np.ndarray
    hull: np.ndarray


def paint_scan(background: Source, kidneys: Source, rng: np.random.Generator) -> Simulation:
    """A background with one or both of its kidneys replaced; at times with another lesion grown."""
    made = host(background, rng)
    phase = phase_of(made.hu, made.labels > 0, rng) if rng.random() < 0.5 else draw_phase(rng)
    paint_kidneys(made, *read_kidneys(kidneys), phase, rng)
    made.about["label_map"] = kidneys.patient
    if rng.random() < 0.25 or not (made.labels == 2).any():
        grow_lesions(made, 1, rng)
    return finish(made, rng)


def paint_kidneys(
    made: Simulation, labels: np.ndarray, spacing: Spacing, phase: Phase, rng: np.random.Generator
) -> None:
    """Replace the kidneys of a scan by those that a label map has on the same side, in place.

    Args:
        labels, spacing: the map, uint8 (z, y, x), 1 kidney, 2 tumour, 3 cyst.
        phase: how bright the new kidneys are.
    """
    new_sides = sides(labels, spacing)
    noted = made.about.setdefault("lesions", [])
    painted = []
    for side, mask in sides(made.labels, made.spacing).items():
        if side not in new_sides:
            continue
        kidney = shape_of(np.where(new_sides[side], labels, 0), spacing, rng)
        box, depths = place(kidney, fit_pose(kidney, mask, made.spacing, rng), mask.shape, made.spacing, rng)
        new = Placed(box, *depths)
        if (new.whole > 0).any():
            fill_with_fat(made, make_room(made, mask, new), rng)
            noted += paint(made, new, phase, rng)
            painted.append(side)
    made.about |= {"phase": phase.name, "painted": painted}


def make_room(made: Simulation, old: np.ndarray, new: Placed) -> np.ndarray:
    """Move what surrounds a kidney, within slices, so that its surface comes to lie where the new one's will.

    Tissue is pushed where the new kidney is larger and follows where it is smaller; bone stays.

    Args:
        old: bool (z, y, x), the kidney that goes; its labels are erased.

    Returns:
        bool (z, y, x): where the old kidney still shows after that.
    """
    box = _box_of(old, new.box, made.spacing, 2 * REACH_MM)
    steps = [max(1, round(COARSE_MM / mm)) for mm in made.spacing]
    coarse = tuple(slice(s.start, s.stop, step) for s, step in zip(box, steps, strict=True))
    spacing = [mm * step for mm, step in zip(made.spacing, steps, strict=True)]
    target = np.zeros(made.hu.shape, bool)
    target[new.box] = new.hull > 0
    was, will = (_distance_outside(mask[coarse], spacing) for mask in (old, target))
    outwards = np.gradient(ndimage.gaussian_filter(was, 1.0), *spacing[1:], axis=(1, 2))
    length = np.maximum(np.hypot(*outwards), 0.3)
    far = np.clip(was - will, -MOST_MM, MOST_MM) * np.clip(1 - will / REACH_MM, 0, 1)
    stiff = (made.hu[coarse] > BONE_HU) & ~old[coarse]
    if stiff.any():
        far *= np.clip(distance(~stiff, spacing) / 10 - 0.3, 0, 1)
    moves = [ndimage.gaussian_filter(-far * part / length, [4 / mm for mm in spacing]) for part in outwards]
    fine = functional.interpolate(
        torch.from_numpy(np.stack(moves)[None].astype(np.float32)),
        size=(box[0].stop - box[0].start, *moves[0].shape[1:]),
        mode="trilinear",
        align_corners=False,
    )[0].numpy()
    kept = np.where(old[box], 0, made.labels[box])
    still = old[box].astype(np.uint8)
    move(made.hu[box], fine, made.spacing, "bicubic")
    for array in (kept, still):
        move(array, fine, made.spacing, "nearest")
    made.labels[box] = kept
    remains = np.zeros(made.hu.shape, bool)
    remains[box] = still > 0
    return remains


def fill_with_fat(made: Simulation, gone: np.ndarray, rng: np.random.Generator) -> None:
    """Overwrite what is left of an old kidney with perirenal fat: uneven, with fine strands, and the scan's noise."""
    if not gone.any():
        return
    box = _box_of(gone, None, made.spacing, 8.0)
    hu = made.hu[box].astype(np.float32)
    mask = gone[box]
    fat = hu[(hu > FAT_HU[0]) & (hu < FAT_HU[1])]
    level = float(np.median(fat)) if len(fat) > 500 else USUAL_FAT_HU
    strands = np.exp(-((smooth_field(hu.shape, made.spacing, 7.0, rng) / 0.09) ** 2))
    strands *= ramp(smooth_field(hu.shape, made.spacing, 15.0, rng), 1.5)
    filling = level + 5 * smooth_field(hu.shape, made.spacing, 9.0, rng) + rng.uniform(10, 70) * strands
    wide = ndimage.binary_dilation(mask, np.ones((1, 3, 3), bool), iterations=2)  # with the kidney's blurred rim
    weight = ndimage.gaussian_filter(wide.astype(np.float32), (0, 1, 1))
    noise = noise_like(surroundings(hu, [n / 2 for n in hu.shape]), hu.shape, rng)
    hu += weight * (filling - hu) + noise * np.sqrt(1 - (1 - weight) ** 2)
    made.hu[box] = np.rint(hu)


def paint(made: Simulation, new: Placed, phase: Phase, rng: np.random.Generator) -> list[dict[str, object]]:
    """Draw a kidney with its lesions into a scan and its labels; returns what lesions were drawn."""
    hu, spacing = made.hu[new.box].astype(np.float32), made.spacing
    calm = ndimage.gaussian_filter(hu, (0, 1, 1))
    hard = ((calm > BONE_HU) & (new.whole < 6)) | (calm < AIR_HU)
    whole = new.whole
    if hard.any():
        whole = np.minimum(whole, distance(~hard, spacing) - 1)
    inside = parenchyma(new, phase, spacing, rng)
    softness = rng.uniform(1.2, 2.4)
    noted = []
    for depth, kinds in ((new.cyst, CYSTS), (new.tumour, TUMOURS)):
        parts = cc3d.connected_components(depth > 0, connectivity=6)
        for number, found in enumerate(ndimage.find_objects(parts), 1):
            own = np.where(parts[found] == number, depth[found], 0)
            radius = float(own.max())
            if radius < LEAST_RADIUS_MM:  # a ripple of the surface
                continue
            box = tuple(slice(max(0, s.start - 3), s.stop + 3) for s in found)
            kind = draw_kind(kinds, rng)
            kidney_hu = 0.5 * (phase.cortex + phase.medulla)
            tissue = lesion_hu(kind, depth[box], spacing, max(radius, 2.0), kidney_hu, rng)
            weight = coverage(depth[box], spacing, softness, max(radius, 5.0), rng)
            inside[box] += weight * (tissue - inside[box])
            noted.append({"kind": kind, "diameter_mm": round(2 * radius, 1), "kidney_hu": round(kidney_hu, 1)})
    inside = ndimage.gaussian_filter(inside, (0, 0.7, 0.7))
    weight = coverage(whole, spacing, softness, 15.0, rng)
    noise = noise_like(surroundings(made.hu[new.box], [n / 2 for n in hu.shape]), hu.shape, rng)
    hu += weight * (inside - hu) + noise * np.sqrt(1 - (1 - weight) ** 2)
    made.hu[new.box] = np.rint(hu)
    made.labels[new.box][whole > 0] = 1
    for depth, label in ((new.cyst, CYST), (new.tumour, TUMOUR)):
        made.labels[new.box][(whole > 0) & (depth > 0)] = label
    return noted


def parenchyma(new: Placed, phase: Phase, spacing: Spacing, rng: np.random.Generator) -> np.ndarray:
    """HU of a kidney without lesions and noise: cortex with its columns, medulla, and the tissue of the hilum."""
    shape = new.whole.shape
    thickness = rng.uniform(4, 8) * np.exp(0.2 * smooth_field(shape, spacing, 15.0, rng))
    cortex = 1 - ramp(new.hull - thickness, 2.5)
    columns = ramp(smooth_field(shape, spacing, rng.uniform(5, 8), rng) - rng.uniform(-0.1, 0.5), 0.7)
    cortex = np.maximum(cortex, columns * (1 - ramp(new.hull - 22, 8)))
    hu = phase.medulla + (phase.cortex - phase.medulla) * cortex
    # Deep inside the label lie calyces, pelvis and vessels, as KiTS counts the non-fat tissue of the hilum.
    central = ramp(new.hull - rng.uniform(15, 21), 4.0)
    kinds = smooth_field(shape, spacing, 5.0, rng)
    hu += central * ramp(kinds - 0.5, 0.5) * (phase.urine - hu)
    hu += central * ramp(-kinds - 0.7, 0.5) * (phase.vein - hu)
    return (hu + rng.uniform(1, 5) * smooth_field(shape, spacing, 8.0, rng)).astype(np.float32)


def _distance_outside(mask: np.ndarray, spacing: list[float]) -> np.ndarray:
    """Distance outside a mask in mm, negative inside; far away where it is empty."""
    if not mask.any():
        return np.full(mask.shape, 2 * REACH_MM)
    return distance(~mask, spacing) - distance(mask, spacing)


def _box_of(mask: np.ndarray, other: Box | None, spacing: Spacing, margin_mm: float) -> Box:
    """The box of a mask, and of another box, with a margin within slices."""
    ends = []
    for axis, (n, mm) in enumerate(zip(mask.shape, spacing, strict=True)):
        shown = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        low, high = int(shown[0]), int(shown[-1]) + 1
        if other:
            low, high = min(low, other[axis].start), max(high, other[axis].stop)
        margin = int(margin_mm / mm)
        ends.append(slice(max(0, low - margin), min(n, high + margin)))
    return (ends[0], ends[1], ends[2])
