"""Which slice comes next: groups balanced as in the paper (section 3.1), regions centred as inference cuts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cc3d
import numpy as np

from train.cases import Scan
from train.config import Config

GROUPS = ("B", "K", "KT")
Z_MARGIN = 5
"""Slices beyond the kidneys' ends that stage 2 sees too, as its regions have a margin in z."""
FEW = 50
"""A group with fewer slices than this is drawn less, so that the same few are not shown again and again."""
TYPICAL_KIDNEYS = ((0.58, 0.34), (0.58, 0.66))
"""Where kidneys lie in a slice, as fractions of rows and columns: centres for regions without any."""


@dataclass(frozen=True)
class Site:
    """A slice of a scan to learn from, and where to look: ``centre`` is (row, column), px."""

    scan: int
    slice: int
    centre: tuple[float, float]


def sites(scans: Sequence[Scan], role: str) -> dict[tuple[str, bool], list[Site]]:
    """All sites by (group, from a whole volume).

    Stage 1 looks at the middle of every slice; stage 2 at the box of each kidney, within the kidney's z range and
    a margin, and, in slices of scans without kidneys, at the places where kidneys usually are.
    """
    found: dict[tuple[str, bool], list[Site]] = {(g, v): [] for g in GROUPS for v in (False, True)}
    for number, scan in enumerate(scans):
        _, rows, columns = scan.labels.shape
        volume = len(scan.labels) > 1
        if role == "locate":
            for z, labels in enumerate(scan.labels):
                found[group_of(labels), volume].append(Site(number, z, (rows / 2, columns / 2)))
            continue
        for low, high in kidney_boxes(scan.labels):
            centre = ((low[1] + high[1]) / 2, (low[2] + high[2]) / 2)
            for z in range(max(0, low[0] - Z_MARGIN), min(len(scan.labels), high[0] + Z_MARGIN)):
                box = scan.labels[z, low[1] : high[1], low[2] : high[2]]
                found[group_of(box), volume].append(Site(number, z, centre))
        if not scan.labels.any():
            found["B", volume] += [Site(number, 0, (rows * y, columns * x)) for y, x in TYPICAL_KIDNEYS]
    return found


def group_of(labels: np.ndarray) -> str:
    """The paper's image group: B neither kidney nor tumour, K kidney only, KT tumour in it."""
    return "KT" if (labels == 2).any() else "K" if labels.any() else "B"


def kidney_boxes(labels: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Bounding boxes, (low, high) in (z, y, x) with high exclusive, of the two largest merged components."""
    components = cc3d.dust(cc3d.connected_components(labels > 0), threshold=30)
    statistics = cc3d.statistics(cc3d.connected_components(components > 0))
    order = np.argsort(statistics["voxel_counts"][1:])[::-1][:2] + 1
    boxes = [statistics["bounding_boxes"][index] for index in order]
    return [(np.array([s.start for s in box]), np.array([s.stop for s in box])) for box in boxes]


def draw(sites_by_group: dict[tuple[str, bool], list[Site]], config: Config, rng: np.random.Generator) -> Site:
    """One site: the group by its share, then lone slice or volume by theirs, then any of these."""
    group = rng.choice(GROUPS, p=np.array(config.shares) / sum(config.shares))
    from_volume = bool(rng.random() < config.volume_share)
    choices, others = sites_by_group[group, from_volume], sites_by_group[group, not from_volume]
    if others and rng.random() > len(choices) / FEW:
        choices = others
    return choices[rng.integers(len(choices))]
