"""Real scans made ready to be changed: cut about the kidneys, bent a little, seen as another scanner would."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from kits.geometry import Spacing

from ..lesions.fields import smooth_field
from .scanner import add_noise, draw_slice_mm, thicken
from .sources import Source, read_background

MARGIN_MM = (20.0, 80.0)  # shown beyond the kidneys
IN_PLANE_MM = (0.55, 0.98)  # KiTS19
BEND_STEP = 8  # pixels of the displacements' grid


@dataclass(eq=False)
class Simulation:
    """A simulated scan.

    Args:
        hu: (z, y, x), canonical; int16 when finished.
        labels: uint8, 0 background, 1 kidney with its cysts, 2 tumour.
        spacing: mm (z, y, x).
        about: what goes into ``simulation.json``: sources, phase, lesions.
    """

    hu: np.ndarray
    labels: np.ndarray
    spacing: Spacing
    about: dict[str, Any]


def host(source: Source, rng: np.random.Generator) -> Simulation:
    """A real scan, varied: scaled by 7 %, mostly bent by some millimetres, cut to the kidneys and a margin."""
    hu, labels, spacing = read_background(source)
    window = kidney_range(labels, spacing[0], rng)
    scale = float(np.clip(rng.uniform(0.93, 1.07) * spacing[1], *IN_PLANE_MM)) / spacing[1]
    if spacing[1] > IN_PLANE_MM[1]:  # a scan of half the resolution, left as it is
        scale = 1.0
    spacing = (spacing[0] * rng.uniform(0.9, 1.12), spacing[1] * scale, spacing[2] * scale)
    hu, labels = hu[window].copy(), labels[window].copy()
    if rng.random() < 0.7:
        bend(hu, labels, spacing, rng.uniform(1, 4), rng)
    return Simulation(hu, labels, spacing, {"background": source.patient})


def kidney_range(labels: np.ndarray, slice_mm: float, rng: np.random.Generator) -> slice:
    """The slices that show kidneys, and a random margin at both ends."""
    shown = np.flatnonzero(labels.any(axis=(1, 2)))
    below, above = (int(rng.uniform(*MARGIN_MM) / slice_mm) for _ in range(2))
    return slice(max(0, int(shown[0]) - below), int(shown[-1]) + 1 + above)


def bend(hu: np.ndarray, labels: np.ndarray, spacing: Spacing, amplitude_mm: float, rng: np.random.Generator) -> None:
    """Move all within each slice by smooth random displacements of ``amplitude_mm`` (standard deviation), in place."""
    coarse = (len(hu), -(-hu.shape[1] // BEND_STEP), -(-hu.shape[2] // BEND_STEP))
    steps = (spacing[0], spacing[1] * BEND_STEP, spacing[2] * BEND_STEP)
    moves = np.stack([smooth_field(coarse, steps, 60.0, rng) * np.float32(amplitude_mm) for _ in range(2)])
    move(hu, moves, spacing, "bicubic")
    move(labels, moves, spacing, "nearest")


def move(array: np.ndarray, moves_mm: np.ndarray, spacing: Spacing, mode: str) -> None:
    """Show in each pixel what lies a displacement further, within slices, in place.

    Args:
        array: (z, y, x), of an integer type.
        moves_mm: float32 (2, z, y', x'): displacements along y and x, on the array's grid or a coarser one.
        mode: ``bicubic`` or ``nearest``.
    """
    rows, columns = array.shape[1:]
    still = [(torch.arange(n) * 2 + 1) / n - 1 for n in (rows, columns)]
    moves = torch.from_numpy(np.ascontiguousarray(moves_mm.transpose(1, 0, 2, 3)))
    low, high = int(array.min()), int(array.max())
    for z, plane in enumerate(array):
        y, x = functional.interpolate(moves[z : z + 1], size=(rows, columns), mode="bilinear", align_corners=False)[0]
        x = still[1][None, :] + x * (2 / columns / spacing[2])
        y = still[0][:, None] + y * (2 / rows / spacing[1])
        source = torch.from_numpy(plane.astype(np.float32) - low)[None, None]
        moved = functional.grid_sample(source, torch.stack([x, y], -1)[None], mode=mode, align_corners=False)[0, 0]
        array[z] = (moved.round_() + low).clamp_(low, high).numpy()


def finish(made: Simulation, rng: np.random.Generator) -> Simulation:
    """The scan as another protocol would show it: at times thicker slices, at times more noise."""
    hu, labels, spacing = made.hu, made.labels, made.spacing
    if rng.random() < 0.3:
        louder = hu.astype(np.float32)
        add_noise(louder, spacing, rng.uniform(3, 15), rng.uniform(0.3, 0.6), rng)
        hu = louder
    slice_mm = draw_slice_mm(rng, spacing[0])
    if slice_mm > 1.25 * spacing[0]:
        hu, labels, spacing = thicken(hu, labels, spacing, slice_mm)
    return Simulation(np.rint(hu).clip(-1024, 3071).astype(np.int16), labels, spacing, made.about)
