"""A kidney of a label map as something that can be turned, bent and put elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import cc3d
import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from kits.choices import CYST, TUMOUR
from kits.geometry import Spacing

from ..lesions.fields import smooth_field
from ..lesions.shapes import distance

LEAST_ML = 15.0  # less is no kidney
STEP_MM = 1.0  # of the grid that shapes are kept on
PAD_MM = 6.0
HOLLOW_MM = 10.0  # the renal sinus is as wide as twice this, at most


@dataclass(frozen=True, eq=False)
class Kidney:
    """A kidney with its lesions, as depths below surfaces.

    Args:
        depths: float32 (4, z, y, x), mm, positive inside: of all that is labelled, of tumour, of cysts, and of the
            hull, which holds the renal sinus too.
        spacing: mm (z, y, x).
        centre: of parenchyma and cysts, voxels.
        points: (n, 3) random places in parenchyma and cysts, mm from the centre.
        volume_ml: of parenchyma and cysts.
    """

    depths: np.ndarray
    spacing: Spacing
    centre: np.ndarray
    points: np.ndarray
    volume_ml: float


@dataclass(frozen=True, eq=False)
class Pose:
    """Where a kidney goes: ``place = centre + scale * turn @ offset``, in mm (z, y, x)."""

    turn: np.ndarray
    scale: float
    centre: np.ndarray


def sides(labels: np.ndarray, spacing: Spacing) -> dict[str, np.ndarray]:
    """Masks of the patient's ``right`` and ``left`` kidney with their lesions; a side without one is missing."""
    parts = cc3d.connected_components(labels > 0)
    statistics = cc3d.statistics(parts)
    volumes = statistics["voxel_counts"].astype(float) * np.prod(spacing) / 1000
    volumes[0] = 0
    across = statistics["centroids"][:, 2]
    large = [n for n in np.argsort(volumes)[::-1][:2] if volumes[n] >= LEAST_ML]
    middle = labels.shape[2] / 2
    if len(large) == 2 and abs(across[large[0]] - across[large[1]]) * spacing[2] > 50:
        middle = across[large].mean()
    elif len(large) == 1:  # fused kidneys are parted in the middle; a single one lies to one side of it
        of_it = parts == large[0]
        share = np.count_nonzero(of_it[..., : int(middle)]) / np.count_nonzero(of_it)
        if 0.3 < share < 0.7:
            right = np.arange(labels.shape[2]) < middle
            return {"right": (labels > 0) & right, "left": (labels > 0) & ~right}
    found = {}
    for side, numbers in (("right", across < middle), ("left", across >= middle)):
        numbers[0] = False
        if volumes[numbers].sum() >= LEAST_ML:
            found[side] = numbers[parts]
    return found


def shape_of(labels: np.ndarray, spacing: Spacing, rng: np.random.Generator) -> Kidney:
    """The shape of one kidney.

    Args:
        labels: uint8 (z, y, x), 1 kidney, 2 tumour, 3 cyst, only this kidney's.
    """
    box = ndimage.find_objects((labels > 0).astype(np.uint8))[0]
    steps = (max(STEP_MM, spacing[0]), STEP_MM, STEP_MM)
    cut = labels[box]
    for axis, (mm, step) in enumerate(zip(spacing, steps, strict=True)):
        count = max(1, round(cut.shape[axis] * mm / step))
        cut = cut.take(((np.arange(count) + 0.5) * cut.shape[axis] / count).astype(int), axis)
    cut = np.pad(cut, [(int(np.ceil(PAD_MM / step)),) * 2 for step in steps])
    whole = cut > 0
    own = (cut == 1) | (cut == CYST)
    if own.sum() < 0.3 * whole.sum():  # little is left beside the tumour: place all of it
        own = whole
    depths = [signed_depth(mask, steps) for mask in (whole, cut == TUMOUR, cut == CYST, _hull(whole, steps))]
    places = np.argwhere(own)
    centre = places.mean(axis=0)
    some = places[rng.integers(len(places), size=1200)]
    volume = float(own.sum() * np.prod(steps) / 1000)
    return Kidney(np.stack(depths), steps, centre, (some - centre) * steps, volume)


def signed_depth(mask: np.ndarray, spacing: Spacing) -> np.ndarray:
    """Distance to a mask's surface in mm, positive inside, float32, smoothed by less than a voxel."""
    if not mask.any():
        return np.full(mask.shape, -PAD_MM, np.float32)
    half = spacing[1] / 2  # distances are from voxel centre to voxel centre; the surface lies half-way
    depth = np.where(mask, distance(mask, spacing) - half, half - distance(~mask, spacing)).astype(np.float32)
    return np.asarray(ndimage.gaussian_filter(depth, (0.4, 0.8, 0.8)))


def _hull(mask: np.ndarray, spacing: Spacing) -> np.ndarray:
    """A mask with hollows up to ``2 * HOLLOW_MM`` wide filled (closing by distances)."""
    pads = [(int(np.ceil((HOLLOW_MM + 1) / mm)),) * 2 for mm in spacing]
    padded = np.pad(mask, pads)
    near = distance(~padded, spacing) <= HOLLOW_MM
    closed = distance(near, spacing) > HOLLOW_MM
    inner = tuple(slice(low, low + n) for (low, _), n in zip(pads, mask.shape, strict=True))
    return closed[inner] | mask


def fit_pose(kidney: Kidney, target: np.ndarray, spacing: Spacing, rng: np.random.Generator) -> Pose:
    """Turn and shift a kidney to overlap best with another's mask.

    Volumes often end inside a kidney: what would lie beyond the first or last slice does not count, and the ends
    that are in view are brought together first.

    Args:
        target: bool (z, y, x), the kidney to replace.
    """
    places = np.argwhere(target) * spacing
    centre = places.mean(axis=0)
    low, high = places[:, 0].min(), places[:, 0].max()
    cut_below, cut_above = low < spacing[0], high > (len(target) - 1.5) * spacing[0]
    scale = rng.uniform(0.93, 1.07)
    if not (cut_below or cut_above):
        volume = len(places) * np.prod(spacing) / 1000
        scale *= float(np.clip((volume / kidney.volume_ml) ** (1 / 3), 0.85, 1.15))
    elif not (cut_below and cut_above):
        centre[0] = high - scale * kidney.points[:, 0].max() if cut_below else low - scale * kidney.points[:, 0].min()
    tilt = Rotation.from_euler("xyz", rng.normal(0, 4, 3), degrees=True).as_matrix()
    shifts = np.stack(np.meshgrid(*(np.arange(-12, 13, 6.0),) * 3, indexing="ij"), -1).reshape(-1, 3)
    best, chosen = -1.0, Pose(tilt, scale, centre)
    voxel_ml = np.prod(spacing) / 1000
    for degrees in np.arange(-36, 37, 12) + rng.uniform(-4, 4):
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        turn = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ tilt
        moved = centre + scale * kidney.points[::4] @ turn.T
        at = np.rint((moved[None] + shifts[:, None]) / spacing).astype(int)  # (shifts, points, 3)
        seen = ((at >= 0) & (at < target.shape)).all(axis=-1)
        hits = target[tuple(np.moveaxis(at.clip(0, np.array(target.shape) - 1), -1, 0))] & seen
        share = scale**3 * kidney.volume_ml / at.shape[1]
        overlap = 2 * hits.sum(1) * share / (seen.sum(1) * share + len(places) * voxel_ml)
        overlap -= 0.0005 * np.abs(degrees)
        if overlap.max() > best:
            best, at_best = float(overlap.max()), int(overlap.argmax())
            chosen = Pose(turn, scale, centre + shifts[at_best] + rng.normal(0, 1.5, 3))
    return chosen


def place(
    kidney: Kidney, pose: Pose, shape: tuple[int, ...], spacing: Spacing, rng: np.random.Generator
) -> tuple[tuple[slice, slice, slice], np.ndarray]:
    """A kidney's depths on a scan's grid, elastically bent.

    Returns:
        the box (z, y, x) of the scan that it fills with a small margin, and float32 (4, *box) in mm.
    """
    corners = np.array(np.meshgrid(*((-0.5, n - 0.5) for n in kidney.depths.shape[1:]))).reshape(3, -1).T
    ends = (pose.centre + pose.scale * ((corners - kidney.centre) * kidney.spacing) @ pose.turn.T) / spacing
    low = np.floor(ends.min(axis=0)).astype(int).clip(0, np.array(shape))
    high = np.ceil(ends.max(axis=0)).astype(int).clip(0, np.array(shape))
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    size = tuple(int(n) for n in high - low)
    axes = [(np.arange(a, b) * mm - c) for a, b, mm, c in zip(low, high, spacing, pose.centre, strict=True)]
    offsets = np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)
    amplitude = rng.uniform(0.3, 2.2)
    for axis in range(3):
        offsets[axis] += amplitude * smooth_field(size, spacing, 30.0, rng)
    back = (pose.turn.T / pose.scale).astype(np.float32)
    at = np.tensordot(back, offsets, 1)
    for axis in range(3):
        at[axis] = at[axis] / kidney.spacing[axis] + kidney.centre[axis]
    sampled = [ndimage.map_coordinates(depth, at, order=1, mode="nearest") for depth in kidney.depths]
    return (box[0], box[1], box[2]), np.stack(sampled).astype(np.float32) * np.float32(pose.scale)
