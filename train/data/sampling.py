"""Which slice comes next: groups balanced as in the paper (section 3.1), regions cut as inference cuts them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kits.geometry import USUAL_PLACES

from ..config import GROUPS, Config
from .cache import Scan, group_of

Z_MARGIN = 5
"""Slices beyond the kidneys' ends that stage 2 sees too, as its regions have a margin of 15 mm."""
THIN_MM2 = 700.0
"""A slice that shows less kidney and tumour than this is thin: a kidney's pole; of KiTS's lone slices 8 %."""
FEW = 50
"""A source with fewer slices of a group is drawn less, so that the same few are not shown again and again."""

Box = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Site:
    """A slice of a scan to learn from, and where to look.

    Args:
        scan, slice: numbers of it.
        centre: (row, column), px.
        region: group of the region that stage 2 sees there; None where whole slices are looked at.
    """

    scan: int
    slice: int
    centre: tuple[float, float]
    region: str | None = None


Sites = dict[tuple[str, int], list[Site]]
"""By group and source."""


def find_sites(
    scans: Sequence[Scan], role: str, located: Mapping[str, Sequence[Box]] | None = None, thin: int = 1
) -> Sites:
    """All places to learn from.

    Stage 1 looks at the middle of every slice; stage 2 at the box of each kidney, within the kidney's z range and
    a margin, and, in scans without kidneys, at the places where kidneys usually are.

    Args:
        scans: as the stage sees them.
        role: ``locate`` or ``segment``.
        located: boxes that stage 1 found, by scan name, to cut stage 2's regions from instead of the true kidneys'.
        thin: how many times a place with less than ``THIN_MM2`` of kidney and tumour counts.
    """
    found: Sites = {(group, scan.source): [] for scan in scans for group in GROUPS}
    for number, scan in enumerate(scans):
        slices, rows, columns = scan.hu.shape
        if role == "locate":
            for z, group in enumerate(scan.groups):
                times = thin if is_thin(scan.labels[z], scan.spacing) else 1
                found[group, scan.source] += [Site(number, z, (rows / 2, columns / 2))] * times
            continue
        boxes = scan.kidneys if located is None else located.get(scan.name, ())
        for low, high in boxes:
            centre = ((low[1] + high[1]) / 2, (low[2] + high[2]) / 2)
            for z in range(max(0, low[0] - Z_MARGIN), min(slices, high[0] + Z_MARGIN)):
                # What the other kidney holds does not make this region one with kidney or tumour.
                inside = scan.labels[z, low[1] : high[1], low[2] : high[2]]
                group, times = group_of(inside), thin if is_thin(inside, scan.spacing) else 1
                found[group, scan.source] += [Site(number, z, centre, group)] * times
        if not boxes:
            middles = [(rows * y, columns * x) for y, x in USUAL_PLACES]
            found[group_of(scan.labels[slices // 2]), scan.source] += [Site(number, slices // 2, m) for m in middles]
    return found


def is_thin(labels: np.ndarray, spacing: tuple[float, float, float]) -> bool:
    """Whether a slice shows kidney or tumour, but little."""
    return 0 < np.count_nonzero(labels) * spacing[1] * spacing[2] < THIN_MM2


def draw_batch(sites: Sites, source_shares: Sequence[float], config: Config, rng: np.random.Generator) -> list[Site]:
    """One batch: groups exactly by their shares (to within one slice), then sources by theirs, then any of these.

    A group that no source with a share holds is left to the others.
    """
    shares = np.array([s if any(share and sites.get((g, n)) for n, share in enumerate(source_shares)) else 0.0
                       for g, s in zip(GROUPS, config.shares, strict=True)])  # fmt: skip
    limits = np.cumsum(shares / shares.sum())
    # Evenly spaced marks with one random start: each group gets its share of them, rounded up or down.
    marks = (np.arange(config.schedule.batch) + rng.random()) / config.schedule.batch
    return [draw(sites, GROUPS[np.searchsorted(limits[:-1], mark, side="right")], source_shares, rng) for mark in marks]


def draw(sites: Sites, group: str, source_shares: Sequence[float], rng: np.random.Generator) -> Site:
    """One site of a group."""
    counts = [len(sites.get((group, number), ())) for number in range(len(source_shares))]
    weights = np.array([share * min(1.0, n / FEW) for share, n in zip(source_shares, counts, strict=True)])
    chosen = sites[group, int(rng.choice(len(weights), p=weights / weights.sum()))]
    return chosen[rng.integers(len(chosen))]
