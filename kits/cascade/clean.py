"""Post-processing: the rules that a label map goes through in the end (paper section 2.4, and our own).

A rule is a function that changes the labelled part of a case in place, if the plan wants it. ``RULES`` has them in
their order; a new one needs nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from kits.cascade.components import components, pieces
from kits.cascade.likeness import candidates, most_alike
from kits.choices import CYST, KIDNEY, TUMOUR
from kits.geometry import Box, Grids, Spacing, bounding_box, translated
from kits.io.volume import Volume

WATER_HU = 18.0
"""A cyst's HU lie around 0 to 20; the middle one of what is taken for a cyst is at most this (docs/decisions.md)."""
BRIGHTEST_WATER_HU = 50.0
"""Nine tenths of a cyst, its noise smoothed away, are darker; a tumour that is dark has brighter walls or septa."""
ENHANCED_HU = 60.0
"""Kidneys that contrast medium has reached are brighter; in others a tumour can be nearly as dark as a cyst."""
CUT = 0.25
"""Part of a tumour that has to be in view where the scan ends in it."""
PIECE_ML = 3.0
"""Smaller pieces stay: a kidney has bumps."""
RIM_MM = 1.5
"""Where a lesion's border is blurred with what lies around it."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """The part of a case that is labelled: what rules work on.

    Args:
        labels: uint8 (z, y, x), a view of the label map: 0 background, 1 kidney, 2 tumour, 3 cyst.
        volume: the whole CT.
        box: where this part lies.
        grids: of the case.
    """

    labels: np.ndarray
    volume: Volume
    box: Box
    grids: Grids

    @classmethod
    def of(cls, labels: np.ndarray, volume: Volume, grids: Grids) -> Labelled | None:
        """The smallest box with all labels; None where there are none."""
        box = bounding_box(labels > 0)
        return cls(labels[box], volume, box, grids) if box else None

    @property
    def hu(self) -> np.ndarray:
        """The CT there, int16 (z, y, x)."""
        return self.volume.hu[self.box]

    def is_cut(self, box: Box) -> bool:
        """Whether the scan's first or last slice cuts what lies in a box of this part."""
        start = self.box[0].start
        return start + box[0].start == 0 or start + box[0].stop == self.grids.native.shape[0]

    @property
    def kidney_hu(self) -> float:
        """Median HU of what is labelled kidney; NaN where nothing is."""
        kidney = self.hu[self.labels == KIDNEY]
        return float(np.median(kidney)) if kidney.size else math.nan


Rule = Callable[[Labelled], None]


def clean(labels: np.ndarray, volume: Volume, grids: Grids) -> np.ndarray:
    """Apply all rules to a volume's label map, in place; returns it.

    Args:
        labels: uint8 (z, y, x) on the volume's canonical grid: 0 background, 1 kidney, 2 tumour, 3 cyst.
        volume: the CT.
        grids: its grids, whose plan says what each rule does.
    """
    if found := Labelled.of(labels, volume, grids):
        for rule in RULES:
            rule(found)
    return labels


def cut_necks(found: Labelled) -> None:
    """What hangs on a kidney by a neck is bowel or spleen, and goes, unless most of it is tumour.

    Of a component's pieces the one that looks most like a kidney stays, and what lies on the body's other side, as in a
    horseshoe kidney.
    """
    plan, spacing = found.grids.plan, found.grids.native.spacing
    if not plan.neck_mm:
        return
    least = PIECE_ML * 1000 / math.prod(spacing)
    merged, boxes = components(found.labels > 0, 2 * least)
    for rank, box in enumerate(boxes, start=1):
        numbered, own = pieces(merged[box] == rank, spacing, plan.neck_mm)
        if len(own) < 2:
            continue
        labels = found.labels[box]
        healthy = {
            piece: part
            for piece, part in enumerate(own, start=1)
            if 2 * np.count_nonzero(labels[part][numbered[part] == piece] == KIDNEY) > (numbered[part] == piece).sum()
        }
        measured = candidates(numbered, healthy, found.volume, translated(box, found.box))
        for kidney in most_alike(measured, 1, found.grids.kidney_in_view):
            for piece, one in measured.items():
                if piece != kidney and one.ml >= PIECE_ML and not one.side * measured[kidney].side < 0:
                    labels[numbered == piece] = 0


def keep_kidneys(found: Labelled) -> None:
    """Components of kidney and tumour merged that are too small go, and what cannot be a kidney (section 2.4).

    So does tumour that touches no kidney, unless the scan's first or last slice cuts it, since its kidney may then lie
    out of view. Of the rest the largest stay, as many as there are kidneys; or, if the plan says so, those that look
    most like kidneys, and none that cannot be one by its place and its HU.
    """
    labels, plan = found.labels, found.grids.plan
    merged, boxes = components(labels > 0, found.grids.smallest_component(found.grids.native.shape))
    kept = [*range(1, len(boxes) + 1)]
    if plan.tumour_needs_kidney:
        # Within one component every tumour reaches the kidney, if there is any.
        kidney_voxels = np.bincount(merged[labels == KIDNEY], minlength=len(boxes) + 1)
        kept = [rank for rank in kept if kidney_voxels[rank] > 0 or found.is_cut(boxes[rank - 1])]
    most = plan.kidneys if plan.at_most_kidneys else len(kept)
    if plan.likeness:
        measured = candidates(merged, {rank: boxes[rank - 1] for rank in kept}, found.volume, found.box)
        kept = most_alike(measured, most, found.grids.kidney_in_view)
    kept = kept[:most]
    labels[~np.isin(merged, kept)] = 0


def masses_of_one_kind(found: Labelled) -> None:
    """A mass is tumour or cyst, whichever most of it was called: a tumour's dead core looks like a cyst."""
    masses, boxes = components(found.labels >= TUMOUR, 1)
    for rank, box in enumerate(boxes, start=1):
        mask, labels = masses[box] == rank, found.labels[box]
        cysts = np.count_nonzero(labels[mask] == CYST)
        labels[mask] = CYST if 2 * cysts > np.count_nonzero(mask) else TUMOUR


def small_tumours_to_kidney(found: Labelled) -> None:
    """Tumour below its own limit is kidney; of what the scan's first or last slice cuts a part is enough.

    The limit is far lower than a kidney's: 60 of KiTS19's 210 tumours are smaller than the paper's 5000 voxels.
    """
    if not found.grids.smallest_tumour:
        return
    tumours, boxes = components(found.labels == TUMOUR, 1)
    counts = np.bincount(tumours.ravel(), minlength=len(boxes) + 1)
    small = [
        rank
        for rank, box in enumerate(boxes, start=1)
        if counts[rank] < found.grids.smallest_tumour * (CUT if found.is_cut(box) else 1.0)
    ]
    found.labels[np.isin(tumours, small)] = KIDNEY


def water_to_cyst(found: Labelled) -> None:
    """What was called tumour and is as dark and as even as water, in enhanced kidneys, is a cyst."""
    if not found.grids.plan.water_is_cyst or not found.kidney_hu >= ENHANCED_HU:  # nor where there is no kidney
        return
    tumours, boxes = components(found.labels == TUMOUR, 1)
    for rank, box in enumerate(boxes, start=1):
        mask = tumours[box] == rank
        if is_water(found.hu[box], mask, found.grids.native.spacing):
            found.labels[box][mask] = CYST


def cysts_to_kidney(found: Labelled) -> None:
    """Cysts are kidney, as KiTS19 has them, unless the plan tells them apart, as KiTS21 and KiTS23 do."""
    if not found.grids.plan.cysts_apart:
        found.labels[found.labels == CYST] = KIDNEY


RULES: tuple[Rule, ...] = (
    cut_necks,
    keep_kidneys,
    small_tumours_to_kidney,  # before a cyst beside one makes it larger
    masses_of_one_kind,
    water_to_cyst,
    cysts_to_kidney,
)


def is_water(hu: np.ndarray, mask: np.ndarray, spacing: Spacing) -> bool:
    """Whether a lesion without its rim is as dark and as even as water.

    Args:
        hu: int16 (z, y, x) of the lesion's box.
        mask: bool (z, y, x), the lesion in it.
        spacing: mm (z, y, x).
    """
    pixels = [RIM_MM / mm for mm in spacing[1:]]
    rim = np.ones((1, *(2 * max(1, round(n)) + 1 for n in pixels)), bool)
    core = ndimage.binary_erosion(mask, rim)
    core = core if core.any() else mask
    if np.median(hu[core]) > WATER_HU:
        return False
    smooth = ndimage.gaussian_filter(hu.astype(np.float32), (0, *pixels))
    return bool(np.quantile(smooth[core], 0.9) <= BRIGHTEST_WATER_HU)
