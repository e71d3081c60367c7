"""Whole scans from label maps of bodies: bent, filled with tissue, given kidneys with lesions, and scanned."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation
from torch.nn import functional

from train.lesions.fields import ramp, smooth_field
from train.lesions.shapes import distance
from train.simulate.grown import grow_lesions
from train.simulate.hosts import IN_PLANE_MM, MARGIN_MM, Simulation
from train.simulate.organs import AIR, NUMBER, TISSUES, Look, draw_looks, tissues_of
from train.simulate.painted import paint_kidneys
from train.simulate.phases import Phase, draw_phase
from train.simulate.scanner import add_noise, add_streaks, add_table, draw_slice_mm, thicken, uneven
from train.simulate.sources import Source, Spacing, read_body, read_kidneys

COARSE_MM = 2.0  # of the grid on which bodies are bent
MOST_SLICES = 160  # that are computed; thinner ones become as thick as it takes
THICKEST_MM = 2.5  # that is computed; thicker slices are means of such
WALL = 0.93
"""Blurred by ``EDGE``, a mask has fallen to this share about 2 mm below its surface: walls of bowel, cortex of bone."""
EDGE = 0.7  # coarse voxels


def body_scan(body: Source, kidneys: Source | None, matrix: int, rng: np.random.Generator) -> Simulation:
    """A scan of a made-up body.

    Args:
        body: the map of a whole body.
        kidneys: a KiTS label map whose kidneys it gets, mostly; else it keeps its own, and lesions are grown.
        matrix: rows and columns.
    """
    phase = draw_phase(rng)
    slice_mm = draw_slice_mm(rng)
    tissues, spacing = bent_body(body, rng)
    field_mm = max(tissues.shape[1] * spacing[1], tissues.shape[2] * spacing[2]) * rng.uniform(0.97, 1.12)
    least, most = (mm * 512 / matrix for mm in IN_PLANE_MM)
    pixel_mm = min(max(field_mm / matrix, least), most)
    depth_mm = len(tissues) * spacing[0]
    fine_mm = max(slice_mm / max(1, round(slice_mm / THICKEST_MM)), depth_mm / MOST_SLICES)
    fine = (fine_mm, pixel_mm, pixel_mm)
    shape = (max(2, int(depth_mm / fine_mm)), matrix, matrix)
    hu, labels = render(tissues, spacing, shape, fine, draw_looks(phase, rng), phase, rng)
    made = Simulation(hu, labels, fine, {"label_map": None, "background": body.patient, "phase": phase.name})
    theirs, their_spacing = labels.copy(), fine
    if kidneys and rng.random() < 0.75:
        theirs, their_spacing = read_kidneys(kidneys)
        made.about["label_map"] = kidneys.patient
    paint_kidneys(made, theirs, their_spacing, phase, rng)
    if not (made.labels == 2).any() or rng.random() < 0.3:
        grow_lesions(made, 1 + int(rng.poisson(0.7)), rng)
    return scan(made, slice_mm, rng)


def bent_body(source: Source, rng: np.random.Generator) -> tuple[np.ndarray, Spacing]:
    """A body's tissues about its kidneys, turned, stretched and bent; uint8 on a grid of ``COARSE_MM``."""
    body = read_body(source)
    tissues = tissues_of(body, arms=rng.random() < 0.15)
    whole = not any(name.startswith("vertebrae_") for name in body.names.values())  # as TotalSegmentator says
    kidneys = np.argwhere(tissues == NUMBER["kidney"]) * body.spacing
    margins = [rng.uniform(*MARGIN_MM) for _ in range(2)]
    low, high = kidneys[:, 0].min() - margins[0], kidneys[:, 0].max() + margins[1]
    low, high = max(low, 0.0), min(high, (len(tissues) - 1) * body.spacing[0])
    stretch = np.exp(rng.normal(0, 0.08, 3))
    turn = Rotation.from_euler("xyz", rng.normal(0, 4, 3), degrees=True).as_matrix() / stretch
    size_mm = np.array([high - low, *(n * mm for n, mm in zip(tissues.shape[1:], body.spacing[1:], strict=True))])
    size = np.maximum(1, size_mm * stretch / COARSE_MM).astype(int)
    middle = np.array([(low + high) / 2, size_mm[1] / 2, size_mm[2] / 2])
    axes = [(np.arange(n) - (n - 1) / 2) * COARSE_MM for n in size]
    at = np.tensordot(turn, np.stack(np.meshgrid(*axes, indexing="ij")), 1).astype(np.float32)
    grid = (COARSE_MM,) * 3
    for axis in range(3):
        at[axis] += rng.uniform(3, 8) * smooth_field(size, grid, 70.0, rng) + 1.5 * smooth_field(size, grid, 25.0, rng)
        at[axis] = (at[axis] + middle[axis]) / body.spacing[axis]
    bent = ndimage.map_coordinates(tissues, at, order=0, mode="constant")
    return trimmed(bent if whole else clothe(bent, grid, rng)), grid


def trimmed(tissues: np.ndarray) -> np.ndarray:
    """A body without the air around it."""
    rows, columns = (np.flatnonzero(tissues.any(axis=axes)) for axes in ((0, 2), (0, 1)))
    return tissues[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def clothe(tissues: np.ndarray, spacing: Spacing, rng: np.random.Generator) -> np.ndarray:
    """Organs and bones with what is missing about them: fat between, the wall's muscles, fat and skin around."""
    every = (1, 2, 2)
    coarse = (tissues > 0)[:: every[0], :: every[1], :: every[2]]
    steps = [mm * step for mm, step in zip(spacing, every, strict=True)]
    reach, muscle, fat, skin = 70.0, rng.uniform(5, 13), rng.uniform(5, 32), 2.5
    pad = int((reach + muscle + fat) / steps[1]) + 2
    padded = np.pad(coarse, ((0, 0), (pad, pad), (pad, pad)))
    flat = (1e3, *steps[1:])  # slice by slice: distances along z never are the shortest
    near = distance(~padded, flat) <= reach
    hull = distance(near, flat) > reach
    hull |= padded
    away = ndimage.gaussian_filter(distance(~hull, flat), (2 / spacing[0], 1, 1))
    size = (len(tissues), tissues.shape[1] + 4 * pad, tissues.shape[2] + 4 * pad)
    wide = functional.interpolate(torch.from_numpy(away)[None, None], size=size, mode="trilinear")[0, 0]
    outside = wide.numpy() * np.exp(0.25 * smooth_field(size, spacing, 70.0, rng))
    grown = np.zeros(size, np.uint8)
    grown[outside < muscle + fat + skin] = NUMBER["skin"]
    grown[outside < muscle + fat] = NUMBER["fat"]
    grown[outside < muscle] = NUMBER["muscle"]
    grown[outside < 0.5] = NUMBER["fat"]
    inner = grown[:, 2 * pad : 2 * pad + tissues.shape[1], 2 * pad : 2 * pad + tissues.shape[2]]
    np.copyto(inner, tissues, where=tissues > 0)
    return grown


def render(
    tissues: np.ndarray,
    spacing: Spacing,
    shape: tuple[int, int, int],
    fine: Spacing,
    looks: dict[str, Look],
    phase: Phase,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """A body's HU without noise, and the mask of its kidneys, on a scan's grid, slice by slice.

    Edges between tissues are where the blurred masks of two are equal, so they are smooth at any resolution.

    Args:
        tissues, spacing: of the coarse grid.
        shape, fine: voxels and mm of the scan; the body lies in its middle.
    """
    present = [int(n) for n in np.unique(tissues)]
    if AIR not in present:
        present.insert(0, AIR)
    soft = np.stack([ndimage.gaussian_filter((tissues == n).astype(np.float32), EDGE) for n in present])
    means, patches, textures = (
        np.array([getattr(looks[TISSUES[n]], name) for n in present], np.float32)
        for name in ("hu", "patches", "texture")
    )
    number = {TISSUES[n]: index for index, n in enumerate(present)}
    rows, columns = ((n * mm / COARSE_MM) for n, mm in zip(shape[1:], fine[1:], strict=True))
    y = ((torch.arange(shape[1]) + 0.5) / shape[1] - 0.5) * rows * 2 / tissues.shape[1]
    x = ((torch.arange(shape[2]) + 0.5) / shape[2] - 0.5) * columns * 2 / tissues.shape[2]
    grid = torch.stack([x[None, :].expand(shape[1], -1), y[:, None].expand(-1, shape[2])], -1)[None].float()
    wide, narrow = smooth_field(shape, fine, 10.0, rng), smooth_field(shape, fine, 2.5, rng)
    contents = {name: draw_contents(name, rng) for name in ("stomach", "bowel", "colon")}
    hu = np.empty(shape, np.float32)
    labels = np.zeros(shape, np.uint8)
    for z in range(shape[0]):
        at = min(max((z + 0.5) * fine[0] / spacing[0] - 0.5, 0), len(tissues) - 1)
        low, part = int(at), at - int(at)
        plane = soft[:, low] * (1 - part) + soft[:, min(low + 1, len(tissues) - 1)] * part
        plane[number["air"]] += 1e-3  # outside of the coarse grid
        shown = functional.grid_sample(torch.from_numpy(plane)[None].float(), grid, align_corners=False)[0]
        most, which = shown.max(0)
        share, tissue = most.numpy(), which.numpy()
        w, n = wide[z], narrow[z]
        values = means[tissue] + patches[tissue] * w + textures[tissue] * n
        for name, (kind, level) in contents.items():
            inner = (tissue == number.get(name, -1)) & (share > WALL)
            values[inner] = filling(kind, level, w, n)[inner]
        if "bone" in number:
            values += np.where((tissue == number["bone"]) & (share < WALL), 420 + 60 * w, 0)
        for name, hidden, width in (("liver", phase.portal, 0.06), ("fat", phase.vein, 0.035)):
            vessel = np.exp(-((w / width) ** 2)) * ramp(n, 2.0) * (tissue == number.get(name, -1))
            values += vessel * (hidden - values)
        hu[z] = ndimage.gaussian_filter(values, 0.6 / fine[1])
        labels[z] = tissue == number.get("kidney", -1)
    return hu, labels


def draw_contents(name: str, rng: np.random.Generator) -> tuple[str, float]:
    """What a hollow organ holds, and its HU."""
    shares = {"stomach": (0.5, 0.3, 0.2, 0.0), "bowel": (0.7, 0.05, 0.25, 0.0), "colon": (0.1, 0.2, 0.2, 0.5)}
    kind = str(rng.choice(["fluid", "gas", "contrast", "faeces"], p=shares[name]))
    level = {"fluid": (5, 40), "gas": (-980, -900), "contrast": (120, 600), "faeces": (10, 60)}[kind]
    return kind, float(rng.uniform(*level))


def filling(kind: str, level: float, wide: np.ndarray, narrow: np.ndarray) -> np.ndarray:
    """HU of a hollow organ's contents; bubbles of gas come with most."""
    if kind == "faeces":
        return np.where(narrow + 0.5 * wide > 1.0, -700, level - 60 * ramp(narrow, 2.0)) + 15 * wide
    if kind == "gas":
        return np.where(wide < 0.8, level, 20)
    return np.where(wide > 1.6, -950, level + 4 * narrow)


def scan(made: Simulation, slice_mm: float, rng: np.random.Generator) -> Simulation:
    """The scanner's part: shading, streaks, table, slice thickness, noise."""
    hu = made.hu
    hu += uneven(hu.shape, made.spacing, rng)
    labels, spacing = made.labels, made.spacing
    if slice_mm > 1.25 * spacing[0]:
        thick, labels, spacing = thicken(hu, labels, spacing, slice_mm)
        hu = thick.astype(np.float32)
    if rng.random() < 0.35:
        add_streaks(hu, rng.uniform(2, 9), rng)
    if rng.random() < 0.85:
        add_table(hu, spacing, rng)
    add_noise(hu, spacing, rng.uniform(8, 22) * (3 / max(spacing[0], 1)) ** 0.3, rng.uniform(0.25, 0.6), rng)
    return Simulation(np.rint(hu).clip(-1024, 3071).astype(np.int16), labels, spacing, made.about)
