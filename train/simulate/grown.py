"""Scans of the kind ``lesions``: a real scan with tumours and cysts grown in its own kidneys."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from ..lesions.grow import grow_lesion
from ..lesions.tissue import TUMOURS, draw_kind
from .hosts import Simulation, finish, host
from .sources import Source

MOST_LESIONS = 5


def grow_scan(background: Source, rng: np.random.Generator) -> Simulation:
    """A background with one to five lesions, the first of them mostly a tumour."""
    made = host(background, rng)
    grow_lesions(made, 1 + min(int(rng.poisson(0.9)), MOST_LESIONS - 1), rng)
    return finish(made, rng)


def grow_lesions(made: Simulation, count: int, rng: np.random.Generator) -> None:
    """Grow lesions into a scan, in place, and note them."""
    noted = made.about.setdefault("lesions", [])
    for number in range(count):
        kind = draw_kind(TUMOURS, rng) if number == 0 and rng.random() < 0.8 else None
        made.hu, made.labels, lesion = grow_lesion(made.hu, made.labels, made.spacing, rng, kind)
        if lesion:
            noted.append({name: value for name, value in asdict(lesion).items() if name != "centre"})
