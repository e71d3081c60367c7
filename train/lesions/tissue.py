"""What a lesion looks like inside: HU, drawn against the kidney that it grows in.

The spread was set to that of 138 tumours and 47 cysts in labelled KiTS23 slices (5, 50 and 95 % over slices):
kidney 65, 118, 195 HU; tumour 16, 78, 143; kidney minus tumour -14, 41, 144; slow variation within a tumour (standard
deviation after a blur of 2.5 px) 8, 21, 43; cyst 0, 18, 64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .fields import ramp, smooth_field

UNENHANCED_HU = 30.0  # kidney and tumour without contrast agent
TUMOURS = {"solid": 0.4, "clear cell": 0.25, "papillary": 0.13, "necrotic": 0.13, "cystic": 0.09}
"""Kinds of tumour, and how often each is drawn; renal cell carcinomas are mostly clear cell, solid in part."""
CYSTS = {"cyst": 0.93, "hyperdense cyst": 0.07}


def draw_kind(kinds: Mapping[str, float], rng: np.random.Generator) -> str:
    """One of ``TUMOURS`` or of ``CYSTS``, as often as these say."""
    return str(rng.choice(list(kinds), p=list(kinds.values())))


def enhanced(share: float, kidney_hu: float) -> float:
    """HU of a tissue that takes up ``share`` of the contrast agent that the kidney does."""
    return UNENHANCED_HU + share * (kidney_hu - UNENHANCED_HU)


def lesion_hu(
    kind: str, depth: np.ndarray, spacing: Sequence[float], radius_mm: float, kidney_hu: float, rng: np.random.Generator
) -> np.ndarray:
    """HU inside a lesion, without noise.

    Args:
        kind: one of ``TUMOURS`` or ``CYSTS``.
        depth: mm below the lesion's surface, (z, y, x); outside, negative.
        kidney_hu: of the kidney around.

    Returns:
        float32 of the shape of ``depth``; outside the lesion it goes on smoothly.
    """
    shape = depth.shape

    def field(scale_mm: float) -> np.ndarray:
        return smooth_field(shape, spacing, max(scale_mm, 1.0), rng)

    if kind in CYSTS:
        level = rng.normal(11, 8) if kind == "cyst" else rng.uniform(40, 85)
        return np.full(shape, max(level, -8), np.float32) + np.float32(rng.uniform(0, 3)) * field(radius_mm)
    patchy = rng.gamma(2, 6) * field(rng.uniform(0.25, 0.6) * radius_mm) + rng.uniform(0, 5) * field(2.5)
    offset = rng.normal(0, 6)
    if kind == "papillary":
        hu = enhanced(rng.uniform(0.05, 0.4), kidney_hu) + 0.5 * patchy
    elif kind == "solid":
        hu = enhanced(rng.normal(0.6, 0.28), kidney_hu) + patchy
    elif kind == "clear cell":
        bright, dark = rng.uniform(0.5, 1.1), rng.uniform(0.0, 0.45)
        islands = field(rng.uniform(0.18, 0.6) * radius_mm) + 0.5 * field(rng.uniform(2, 5))
        mixture = ramp(islands - rng.normal(0.5, 0.6), rng.uniform(0.6, 2.5))
        hu = enhanced(bright, kidney_hu) * (1 - mixture) + enhanced(dark, kidney_hu) * mixture + patchy
        if rng.random() < 0.4:  # vessels and septa: where a field is about zero
            strands = np.exp(-((field(rng.uniform(3, 9)) / 0.12) ** 2)) * ramp(field(8), 1.0)
            hu = hu + strands * rng.uniform(-25, 50)
    else:
        wall = enhanced(rng.uniform(0.35, 1.1), kidney_hu) + patchy
        if kind == "necrotic":
            edge = rng.uniform(0.15, 0.6) * radius_mm + 0.25 * radius_mm * field(0.5 * radius_mm) + field(2)
            inside, softness = rng.uniform(10, 40) + 0.7 * patchy, rng.uniform(1.5, 6)
        else:
            edge = rng.uniform(1, max(2.0, 0.3 * radius_mm)) * np.exp(0.5 * field(0.6 * radius_mm))
            inside, softness = rng.uniform(2, 28) + 0.2 * patchy, 1.5
        core = ramp(depth - edge, softness)
        if kind == "cystic" and rng.random() < 0.5:
            core *= 1 - 0.8 * np.exp(-((field(0.7 * radius_mm) / 0.08) ** 2))
        hu = wall * (1 - core) + inside * core
    if rng.random() < 0.2:  # pseudo-capsule: a rim of compressed parenchyma and fibrous tissue
        hu = hu + rng.uniform(-40, 25) * np.exp(-(((depth - 1) / rng.uniform(0.7, 1.5)) ** 2))
    return np.clip(hu + offset, -10, max(kidney_hu, 60) * 1.2).astype(np.float32)
