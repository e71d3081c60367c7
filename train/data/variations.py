"""What a patch may look like otherwise: contrast medium, masses that are no kidney's, pictures' and videos' coding.

All work on a patch in HU, float32 (5, rows, columns), and on the labels of its middle slice, so that they need no masks
of other organs. They change no label. What NumPy draws goes to the patch's device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from ..config import Augmentation

KIDNEY_HU, TISSUE_HU = 32.0, 45.0
"""What kidneys and other soft tissue measure without contrast medium."""
BONE_HU = 250.0
BONE_GAP_PX = 31
"""Marrow is darker than that; it lies between walls that are at most so far apart."""
SOFT_HU, BODY_GAP_PX = -40.0, 41
"""Muscles and organs are brighter; fat and bowel's gas between them reach at most so far, air around it further."""
MIDDLE = 2
"""Which of the five slices the labels are of."""
NEAR_PX = 5
SMALLEST_MASS, LARGEST_MASS = 0.06, 0.32
"""Semi-axes of a mass, as shares of the patch."""
MASS_GAP_PX = 12
"""A mass stays that far away from kidneys: nearer it could be a tumour of theirs."""
MOST_LOOPS, LONGEST_TUBE = 8, 6
"""How many pieces of bowel a patch shows at most, and of how many discs each is."""
BOWEL_GAP_PX = (1, 4)
"""Bowel may touch a kidney, but for the kidney's blurred rim."""
OTHER_CONTENT, GAS, GAS_HU = 0.3, 0.3, -900.0
"""How often a piece holds something else than the one before, and how often there is gas in it."""
SLANT_PX = 1.5
"""Standard deviation of what a piece moves from slice to slice."""
BLOCK = 8
"""Pixels a side of what pictures and videos code together."""


def vary_content(hu: torch.Tensor, labels: torch.Tensor, how: Augmentation, rng: np.random.Generator) -> torch.Tensor:
    """What a patch shows, varied as ``how`` says.

    Args:
        hu: float32 (5, rows, columns), HU.
        labels: (rows, columns) of the middle slice, 1 kidney, 2 tumour.
        how: how often what happens: ``masses``, ``bowel``, ``washout``, ``enhancement`` and ``codec``.
        rng: draws.
    """

    def happens(chance: float) -> bool:  # what never happens draws nothing, so that the rest stays as it was without it
        return chance > 0 and rng.random() < chance

    tumour = bool((labels == 2).any())
    if happens(how.masses) and not tumour:
        hu = paint_mass(hu, labels, rng)
    if happens(how.bowel):
        hu = paint_bowel(hu, labels, how.bowel_px, rng)
    if happens(how.washout * (0.5 if tumour else 1.0)):
        hu = change_contrast(hu, labels, float(rng.uniform(-0.05, 0.2)), float(rng.uniform(0.0, 0.25)))
    elif happens(how.enhancement):
        together = rng.normal(0, 0.2)
        kidneys, others = np.exp(together + rng.normal(0, 0.15, 2))
        hu = change_contrast(hu, labels, float(kidneys), float(others))
    if happens(how.codec):
        hu = recode(hu, rng)
    return hu


def change_contrast(hu: torch.Tensor, labels: torch.Tensor, kidneys: float, others: float) -> torch.Tensor:
    """Other amounts of contrast medium: what lies above unenhanced tissue's HU is multiplied; noise and bone stay.

    Args:
        hu: float32 (5, rows, columns), HU.
        labels: (rows, columns) of the middle slice.
        kidneys, others: times as much enhancement, of kidneys with tumours and of all else.
    """
    solid = (hu > 0).float()
    # Tissue's mean around each pixel, to which fat beside it does not count: what is left of the pixel is noise.
    share = functional.avg_pool2d(solid[None], NEAR_PX, 1, NEAR_PX // 2)[0]
    around = functional.avg_pool2d((hu * solid)[None], NEAR_PX, 1, NEAR_PX // 2)[0] / share.clamp_min(1e-3)
    kidney = grown((labels > 0).float(), NEAR_PX)
    bone = closed(((around[MIDDLE] > BONE_HU) & (kidney == 0)).float(), BONE_GAP_PX) * (1 - kidney)
    level = torch.where(kidney > 0, KIDNEY_HU, TISSUE_HU)
    times = torch.where(kidney > 0, kidneys, others)
    enhancement = (around - level).clamp_min(0)
    return hu + enhancement * (times - 1) * solid * (1 - bone)


def grown(mask: torch.Tensor, width: int) -> torch.Tensor:
    """A mask, float (..., rows, columns), whose every pixel becomes a square of ``width`` (odd) pixels."""
    planes = mask.reshape(1, -1, *mask.shape[-2:])
    planes = functional.max_pool2d(planes, (width, 1), 1, (width // 2, 0))
    return functional.max_pool2d(planes, (1, width), 1, (0, width // 2)).reshape(mask.shape)


def closed(mask: torch.Tensor, width: int) -> torch.Tensor:
    """A mask (rows, columns) without gaps narrower than ``width`` (odd) pixels; beyond its edges there is nothing."""
    reach = width // 2
    padded = functional.pad(mask, (reach, reach, reach, reach))
    return 1 - grown(1 - grown(padded, width), width)[reach:-reach, reach:-reach]


def paint_mass(hu: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """A large mass of another organ, or fluid, anywhere in the body but at the kidneys.

    Args:
        hu: float32 (5, rows, columns), HU.
        labels: (rows, columns) of the middle slice.
        rng: draws place, size, shape, HU and texture.
    """
    rows, columns = hu.shape[1:]
    centre = rng.uniform(0.15, 0.85, 2) * (rows, columns)
    # Some pictures do not tell fat from air.
    inside_body = closed((hu[MIDDLE] > SOFT_HU).float(), BODY_GAP_PX)
    if not inside_body[int(centre[0]), int(centre[1])]:
        return hu
    low, high = math.log(SMALLEST_MASS), math.log(LARGEST_MASS)
    axes = np.exp(rng.uniform(low, high) + rng.uniform(-0.3, 0.3, 2)) * rows
    angle = rng.uniform(0, math.pi)
    y = torch.arange(rows, device=hu.device)[:, None] - float(centre[0])
    x = torch.arange(columns, device=hu.device) - float(centre[1])
    u = (math.cos(angle) * x + math.sin(angle) * y) / float(axes[0])
    v = (math.cos(angle) * y - math.sin(angle) * x) / float(axes[1])
    radius = (u * u + v * v).sqrt() + float(rng.uniform(0, 0.12)) * coarse_field(rows, columns, 6, rng).to(hu)
    slices = torch.arange(len(hu), device=hu.device)[:, None, None]
    swelling = 1 + float(rng.uniform(-0.03, 0.03)) * (slices - MIDDLE)
    depth = (swelling - radius) * float(min(axes))  # px
    weight = (depth / 2 + 0.5).clamp(0, 1)
    barred = torch.maximum(1 - inside_body, (hu > BONE_HU).float())
    barred = torch.maximum(barred, grown((labels > 0).float(), 2 * MASS_GAP_PX + 1))
    texture = float(rng.gamma(2, 5)) * coarse_field(rows, columns, int(rng.integers(4, 24)), rng).to(hu)
    if rng.random() < 0.4:  # a brighter wall
        texture = texture + float(rng.uniform(10, 60)) * torch.exp(-((depth - 2) / 2).square())
    noise = torch.from_numpy(rng.standard_normal(tuple(hu.shape), dtype=np.float32)).to(hu)
    noise = functional.avg_pool2d(noise[None], 3, 1, 1)[0] * (3 * float(rng.uniform(3, 18)))
    inside = float(rng.uniform(0, 110)) + texture + noise
    return hu + weight * (1 - barred) * (inside - hu)


@dataclass(frozen=True)
class Content:
    """What bowel holds: its mean HU, how much they vary from place to place, and how large the places are, in knots."""

    mean: float
    texture: float
    knots: int

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Content:
        """Contrast medium, or some mixed with stool or food, or food, or water."""
        kind, knots = rng.random(), int(rng.integers(8, 60))
        if kind < 0.45:
            return cls(float(rng.uniform(150, 700)), float(rng.gamma(2, 10)), knots)
        if kind < 0.7:
            return cls(float(rng.uniform(80, 300)), float(rng.uniform(40, 160)), knots)
        if kind < 0.9:
            return cls(float(rng.uniform(20, 110)), float(rng.uniform(5, 60)), knots)
        return cls(float(rng.uniform(-5, 30)), 3.0, knots)


def paint_bowel(
    hu: torch.Tensor, labels: torch.Tensor, widths_px: tuple[float, float], rng: np.random.Generator
) -> torch.Tensor:
    """Loops of bowel, or a stomach, full of contrast medium, stool, food or water, anywhere in the body but in kidneys.

    Where they lie does not matter: what they teach is that nothing of their look is kidney or tumour.

    Args:
        hu: float32 (5, rows, columns), HU.
        labels: (rows, columns) of the middle slice.
        widths_px: half of a loop's width, from and to.
        rng: draws places, courses, widths and what they hold.
    """
    rows, columns = hu.shape[1:]
    free = closed((hu[MIDDLE] > SOFT_HU).float(), BODY_GAP_PX) * (1 - grown((hu[MIDDLE] > BONE_HU).float(), NEAR_PX))
    free = free * (1 - grown((labels > 0).float(), 2 * int(rng.integers(*BOWEL_GAP_PX, endpoint=True)) + 1))
    holds = Content.draw(rng)
    for _ in range(int(rng.integers(1, MOST_LOOPS, endpoint=True))):
        centre, radius = rng.uniform(0.05, 0.95, 2) * (rows, columns), float(np.exp(rng.uniform(*np.log(widths_px))))
        if not free[int(centre[0]), int(centre[1])]:
            continue
        if rng.random() < OTHER_CONTENT:
            holds = Content.draw(rng)
        depth = tube_depth(hu, centre, radius, rng)
        texture = coarse_field(rows, columns, holds.knots, rng).to(hu)
        lumen = (holds.mean + holds.texture * texture).expand_as(hu)
        if rng.random() < GAS:  # lies in front
            level = float(centre[0]) + radius * float(rng.uniform(-0.6, 0.4))
            lumen = torch.where(torch.arange(rows, device=hu.device)[:, None] < level, GAS_HU, lumen)
        noise = torch.from_numpy(rng.standard_normal(tuple(hu.shape), dtype=np.float32)).to(hu)
        noise = functional.avg_pool2d(noise[None], 3, 1, 1)[0] * (3 * float(rng.uniform(3, 15)))
        wall = torch.full_like(hu, float(rng.uniform(20, 110)))
        for reach, what in ((float(rng.uniform(1.5, 4.0)), wall), (0.0, lumen)):
            hu = hu + (depth + reach + 0.5).clamp(0, 1) * free * (what + noise - hu)
    return hu


def tube_depth(like: torch.Tensor, centre: np.ndarray, radius: float, rng: np.random.Generator) -> torch.Tensor:
    """How deep each pixel lies in a winding tube, px, negative outside; as ``like``, (5, rows, columns).

    Args:
        like: of that shape and device.
        centre: (row, column) where the tube begins.
        radius: half its width, px.
        rng: draws its course, and how it slants through the slices.
    """
    rows, columns = like.shape[1:]
    y = torch.arange(rows, device=like.device)[:, None].float()
    x = torch.arange(columns, device=like.device).float()
    slices = torch.arange(len(like), device=like.device)[:, None, None].float() - MIDDLE
    angle, slant, depth = rng.uniform(0, 2 * math.pi), rng.normal(0, SLANT_PX, 2), torch.full_like(like, -rows)
    for _ in range(int(rng.integers(1, LONGEST_TUBE, endpoint=True))):  # a chain of discs
        down, right = y - float(centre[0]) - slices * float(slant[0]), x - float(centre[1]) - slices * float(slant[1])
        depth = torch.maximum(depth, radius * float(rng.uniform(0.8, 1.2)) - (down.square() + right.square()).sqrt())
        angle += rng.normal(0, 0.5)
        centre = centre + radius * 0.8 * np.array([math.sin(angle), math.cos(angle)])
    return depth + float(rng.uniform(0, 0.15)) * radius * coarse_field(rows, columns, 12, rng).to(like)


def coarse_field(rows: int, columns: int, knots: int, rng: np.random.Generator) -> torch.Tensor:
    """A smooth random field (rows, columns) of mean 0 and deviation about 1, with ``knots`` values a side."""
    values = torch.from_numpy(rng.standard_normal((1, 1, knots, knots), dtype=np.float32))
    return functional.interpolate(values, size=(rows, columns), mode="bicubic", align_corners=True)[0, 0]


def recode(hu: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """A patch as a picture or video gave it back: clipped to a window, blocks of 8 px coded, few grey steps.

    Args:
        hu: float32 (5, rows, columns), HU; rows and columns are multiples of 8, or no block is coded.
        rng: draws the window, the coding's coarseness and the steps.
    """
    low = float(rng.choice([-1000.0, -500.0, -200.0, -80.0]))
    high = float(rng.choice([300.0, 500.0, 1000.0]))
    hu = hu.clamp(low, high)
    if rng.random() < 0.7 and not any(n % BLOCK for n in hu.shape[1:]):
        step = torch.from_numpy(coding_steps(float(rng.uniform(1, 5)) * (high - low) / 255 * 2)).to(hu)
        cosines = torch.from_numpy(cosine_transform()).to(hu)
        blocks = hu.unflatten(2, (-1, BLOCK)).unflatten(1, (-1, BLOCK)).transpose(2, 3)  # (5, n, m, 8, 8)
        coded = torch.round(cosines @ blocks @ cosines.T / step) * step
        hu = (cosines.T @ coded @ cosines).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    grey = float(rng.uniform(2, 14))
    return torch.round(hu / grey) * grey


def cosine_transform() -> np.ndarray:
    """The orthonormal discrete cosine transform of 8 values, (8, 8)."""
    k, n = np.mgrid[:BLOCK, :BLOCK]
    matrix = np.cos(math.pi * (2 * n + 1) * k / (2 * BLOCK)) * math.sqrt(2 / BLOCK)
    matrix[0] /= math.sqrt(2)
    return matrix


def coding_steps(coarseness: float) -> np.ndarray:
    """Steps, HU, to which an 8 x 8 block's frequencies are rounded: higher ones more coarsely, as JPEG does."""
    return coarseness * (1 + 0.7 * np.add.outer(np.arange(BLOCK), np.arange(BLOCK)))
