"""Contrast phases: how bright cortex and medulla, vessels and urine are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage


@dataclass(frozen=True)
class Phase:
    """HU of what takes up contrast agent, at one time after its injection."""

    name: str
    cortex: float
    medulla: float
    vein: float
    urine: float


TABLE = {
    # share, then mean and standard deviation of the HU of: cortex, medulla, veins, urine
    "corticomedullary": (0.42, (185, 35), (85, 20), (130, 40), (8, 5)),
    "nephrographic": (0.38, (150, 30), (138, 30), (145, 25), (10, 8)),
    "excretory": (0.1, (120, 22), (118, 22), (115, 15), (420, 250)),
    "unenhanced": (0.1, (33, 5), (32, 5), (42, 4), (6, 4)),
}
"""Shares as KiTS19 describes its scans (late arterial or corticomedullary mostly); HU so that the kidneys' means over a
slice spread as measured in KiTS23's slices: 65 to 195 HU, median 118."""


def draw_phase(rng: np.random.Generator) -> Phase:
    """A phase as a patient and a protocol may happen to show it."""
    name = str(rng.choice(list(TABLE), p=[row[0] for row in TABLE.values()]))
    means, spreads = np.array(TABLE[name][1:], float).T
    together, apart = rng.normal(), rng.normal(size=len(means))  # circulation shifts all tissues alike
    values = means + spreads * (0.75 * together + 0.65 * apart)
    return Phase(name, *(float(v) for v in np.clip(values, 0, 1500)))


def phase_of(hu: np.ndarray, kidney: np.ndarray, rng: np.random.Generator) -> Phase:
    """The phase that a real kidney shows: a drawn one, but with cortex and medulla (nearly) as measured.

    Args:
        hu, kidney: (z, y, x), HU and mask of the kidney.
    """
    inner = ndimage.binary_erosion(kidney, np.ones((1, 3, 3), bool), iterations=2)
    values = ndimage.gaussian_filter(hu.astype(np.float32), (0, 1.5, 1.5))[inner if inner.any() else kidney]
    dark, bright = np.quantile(values, (0.2, 0.85))
    name = "unenhanced" if bright < 60 else "corticomedullary" if bright - dark > 45 else "nephrographic"
    row = [mean for mean, _ in TABLE[name][3:]]
    varied = rng.normal(1, 0.06)
    return Phase(name, float(bright) * varied, float(dark) * varied * rng.normal(1, 0.05), *row)
