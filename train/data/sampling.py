"""Which slice comes next: groups balanced as in the paper (section 3.1), regions cut as inference cuts them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cc3d
import numpy as np

from kits.choices import CYST
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
        weight: how often it is drawn, relative to others of its group and source.
    """

    scan: int
    slice: int
    centre: tuple[float, float]
    region: str | None = None
    weight: float = 1.0


@dataclass(frozen=True)
class Emphasis:
    """What is drawn more often than all else: see ``Config``, whose fields these are."""

    thin: int = 1
    by_tumour: float = 0.0
    cysts: float = 1.0
    far: float = 0.0


ALIKE = Emphasis()
Sites = dict[tuple[str, int], list[Site]]
"""By group and source."""


def find_sites(
    scans: Sequence[Scan],
    role: str,
    located: Mapping[str, Sequence[Box]] | None = None,
    emphasis: Emphasis = ALIKE,
) -> Sites:
    """All places to learn from.

    Stage 1 looks at the middle of every slice; stage 2 at the box of each kidney, within the kidney's z range and
    a margin, and, in scans without kidneys, at the places where kidneys usually are. Further away it looks if the
    emphasis says so. Interpolated slices are no places.

    Args:
        scans: as the stage sees them.
        role: ``locate`` or ``segment``.
        located: boxes that stage 1 found, by scan name, to cut stage 2's regions from instead of the true kidneys'.
        emphasis: what is drawn more often; a place with less than ``THIN_MM2`` of kidney and tumour is thin.
    """
    thin, far = emphasis.thin, emphasis.far
    found: Sites = {(group, scan.source): [] for scan in scans for group in GROUPS}
    for number, scan in enumerate(scans):
        slices, rows, columns = scan.hu.shape
        usable = [z for z in range(slices) if z not in scan.interpolated]
        if role == "locate":
            weights = weights_of(scan.labels, emphasis)
            for z in usable:
                times = thin if is_thin(scan.labels[z], scan.spacing) else 1
                site = Site(number, z, (rows / 2, columns / 2), weight=weights[z])
                found[scan.groups[z], scan.source] += [site] * times
            continue
        boxes = scan.kidneys if located is None else located.get(scan.name, ())
        for low, high in boxes:
            centre = ((low[1] + high[1]) / 2, (low[2] + high[2]) / 2)
            # What the other kidney holds does not make this region one with kidney or tumour.
            region = scan.labels[:, low[1] : high[1], low[2] : high[2]]
            weights = weights_of(region, emphasis)
            for z in usable:
                if low[0] - Z_MARGIN <= z < high[0] + Z_MARGIN:
                    group, times = group_of(region[z]), thin if is_thin(region[z], scan.spacing) else 1
                    found[group, scan.source] += [Site(number, z, centre, group, weights[z])] * times
                elif far and not scan.lone:
                    found["B", scan.source].append(Site(number, z, centre, "B", far))
        if not boxes:
            middles = [(rows * y, columns * x) for y, x in USUAL_PLACES]
            shown = usable if far and not scan.lone and not scan.labels.any() else [slices // 2]
            weight = far if len(shown) > 1 else 1.0
            found[group_of(scan.labels[slices // 2]), scan.source] += [
                Site(number, z, middle, weight=weight) for z in shown for middle in middles
            ]
    return found


def weights_of(labels: np.ndarray, emphasis: Emphasis) -> list[float]:
    """How often each slice of a scan is to be drawn, relative to others of its group.

    With ``by_tumour`` at 0 each slice counts as much as any other, so a tumour of 40 slices comes forty times as often
    as one of a single slice. At 1 each tumour counts as much as any other: where several are in view, the shortest one
    decides.

    Args:
        labels: (z, y, x), 2 is tumour, 3 cyst.
        emphasis: how far a slice's weight falls with the number of slices that show its tumour, and how many times as
            much a slice with a cyst counts.
    """
    by_tumour, cysts = emphasis.by_tumour, emphasis.cysts
    weights = np.zeros(len(labels))
    if by_tumour and (labels == 2).any():
        numbered = cc3d.connected_components(np.ascontiguousarray(labels == 2))
        for z, _, _ in cc3d.statistics(numbered)["bounding_boxes"][1:]:
            weights[z] = np.maximum(weights[z], (z.stop - z.start) ** -by_tumour)
    weights[weights == 0] = 1.0
    if cysts != 1:
        weights[(labels == CYST).any((1, 2))] *= cysts
    return weights.tolist()


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
    marks = np.cumsum([site.weight for site in chosen])
    if marks[-1] == len(chosen) * chosen[0].weight:  # all alike
        return chosen[rng.integers(len(chosen))]
    return chosen[int(np.searchsorted(marks[:-1], rng.random() * marks[-1], side="right"))]
