"""One training patch: rotate, scale, shift, flip, vary the intensities, clip and standardise.

Table 1 augments tumour slices only, by rotation, flip and central zoom; here every slice is augmented, and
intensities vary too, since few patients must stand for many scanners and contrast phases.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional

from kits.preprocess import Normalisation
from kits.stacks import stack_slices
from train.cases import Scan
from train.config import Config
from train.sampling import Site

ROTATION_DEGREES = 30.0  # Table 1
SCALE = 1.25
SHIFT_PX = 32.0
FLOOR_HU = -200.0  # what lies outside a slice


def patch(
    scan: Scan, site: Site, config: Config, norm: Normalisation, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """A random variation of a site: standardised (5, patch, patch) float32, and its labels, int64."""
    low = max(0, site.slice - 2)
    slices = torch.from_numpy(scan.hu[low : site.slice + 3]).float().clamp(FLOOR_HU, 600)
    hu = stack_slices(slices, torch.tensor([site.slice - low]))[0]
    if len(scan.hu) > 1 and rng.random() < 0.5:
        hu = hu.flip(0)
    grid = sampling_grid(site, hu.shape[1:], config, rng, lone=len(scan.hu) == 1)
    hu = functional.grid_sample(hu[:, None] - FLOOR_HU, grid, align_corners=False)[:, 0] + FLOOR_HU
    labels = torch.from_numpy(scan.labels[site.slice]).float()[None, None]
    labels = functional.grid_sample(labels, grid[2:3], mode="nearest", align_corners=False)[0, 0].long()
    hu = vary_intensity(hu, rng)
    return (hu.clamp(*norm.window) - norm.mean) / norm.std, labels


def sampling_grid(
    site: Site, shape: tuple[int, ...], config: Config, rng: np.random.Generator, lone: bool
) -> torch.Tensor:
    """Where the patch's pixels lie in the slice, for ``grid_sample``: (5, patch, patch, 2).

    The five channels of a lone slice move a little against each other, since neighbours never are equal.
    """
    angle = math.radians(rng.uniform(-ROTATION_DEGREES, ROTATION_DEGREES)) * rng.random()
    scale = np.exp(rng.uniform(-1, 1, 2) * 0.05 + rng.uniform(-1, 1) * math.log(SCALE))
    flip = -1.0 if rng.random() < config.flip else 1.0
    shift = rng.uniform(-SHIFT_PX, SHIFT_PX, 2)
    pixels = torch.arange(config.patch) - (config.patch - 1) / 2
    y, x = torch.meshgrid(pixels, pixels, indexing="ij")
    grids = []
    for channel in range(5):
        drift = rng.normal(0, 0.7, 3) * (channel - 2) if lone else np.zeros(3)
        grow = 1 + 0.01 * drift[2]
        rows = (math.cos(angle) * y + math.sin(angle) * x) * scale[0] * grow + site.centre[0] + shift[0] + drift[0]
        columns = (math.cos(angle) * x - math.sin(angle) * y) * scale[1] * grow * flip
        columns = columns + site.centre[1] + shift[1] + drift[1]
        grids.append(torch.stack([columns * 2 / shape[1] - 1, rows * 2 / shape[0] - 1], dim=-1))
    return torch.stack(grids).float()


def vary_intensity(hu: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Another scanner: gain, offset, softness and correlated noise, (5, rows, columns) in HU."""
    hu = (hu - 40) * float(np.exp(rng.uniform(-0.2, 0.2))) + 40 + float(rng.uniform(-20, 20))
    if rng.random() < 0.2:
        half = functional.interpolate(hu[None], scale_factor=float(rng.uniform(0.5, 0.9)), mode="bilinear")
        hu = functional.interpolate(half, size=hu.shape[1:], mode="bilinear")[0]
    if rng.random() < 0.4:
        noise = torch.from_numpy(rng.standard_normal(hu.shape, dtype=np.float32))
        if rng.random() < 0.5:
            noise = functional.avg_pool2d(noise[None], 3, 1, 1)[0] * 2
        hu = hu + noise * float(rng.uniform(0, 25))
    return hu
