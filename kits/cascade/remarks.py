"""What a person should know before trusting a label map, each with a code for programs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kits.cascade.clean import ENHANCED_HU, Labelled
from kits.cascade.components import components
from kits.cascade.likeness import UNDER_LUNGS_MM, Candidate, candidates
from kits.choices import KIDNEY, TUMOUR
from kits.geometry import KIDNEY_MM, Box, Grids, Region, translated
from kits.io.remark import Remark
from kits.io.volume import Volume
from kits.plan import WINDOW_PX

LARGE_ML = 500.0
"""Larger, a kidney has a mass, or is none."""
LEAST_PLACE = 0.6
"""``Candidate.place`` of what lies where few kidneys do."""
FAR_APART_MM = 100.0
"""How far one kidney's centre hardly ever lies above the other's."""
SPINE_DEPTH = 0.45
"""How far behind the body's front, of the way to its back, the spine lies at least: in 27 scans 0.58 to 0.79."""
USUAL_HU = (0.0, 350.0)
"""The middle HU of kidneys."""


@dataclass(frozen=True, eq=False)
class Kidney:
    """A labelled component.

    Args:
        box: on the native grid.
        measured: as a candidate for a kidney, with its tumour.
        kidney_hu: median HU of what is called kidney in it; NaN where nothing is.
        tumour_ml: volume of what is called tumour in it.
    """

    box: Box
    measured: Candidate
    kidney_hu: float
    tumour_ml: float

    @property
    def name(self) -> str:
        """What sentences call it: side, volume and slices."""
        side = "kidney" if math.isnan(self.measured.side) else f"{'right' if self.measured.side < 0 else 'left'} kidney"
        return f"{side} ({self.measured.ml:.0f} ml, {slices(self.box[0].start, self.box[0].stop)})"


def slices(first: int, last: int) -> str:
    """Slices [first, last) in words."""
    return f"slices {first + 1} to {last} from the feet"


def remarks(labels: np.ndarray, regions: Sequence[Region], volume: Volume, grids: Grids) -> list[Remark]:
    """Sentences on results that a person should look at twice.

    Args:
        labels: uint8 (z, y, x), cleaned: 0 background, 1 kidney, 2 tumour.
        regions: where stage 2 looked.
        volume: the CT.
        grids: its grids.
    """
    shown = Labelled.of(labels, volume, grids)
    kidneys = kidneys_of(shown) if shown else []
    found = []
    if shown is None:
        text = "No kidney was found: the label map is empty. Is this an abdominal CT in Hounsfield units?"
        found.append(Remark("no-kidney", text))
    else:
        if len(regions) == 1:
            found.append(Remark("one-kidney", "Only one kidney, or two that are fused, was found."))
        if shown.box[0].start == 0 or shown.box[0].stop == len(labels):
            text = "A kidney is cut by the first or the last slice of the scan: its volume is incomplete."
            found.append(Remark("cut-kidney", text))
        found += [*_on_contrast(shown.kidney_hu, kidneys), *_on_kidneys(kidneys), *_on_pairs(kidneys)]
        found += _on_orientation(kidneys)
    return [*found, *_on_stages(kidneys, regions, grids)]


def kidneys_of(shown: Labelled) -> list[Kidney]:
    """The labelled components, the largest first."""
    merged, boxes = components(shown.labels > 0, 1)
    by_rank: Mapping[int, Box] = dict(enumerate(boxes, start=1))
    found = []
    for rank, measured in candidates(merged, by_rank, shown.volume, shown.box).items():
        box = by_rank[rank]
        part = np.where(merged[box] == rank, shown.labels[box], 0)
        kidney = shown.hu[box][part == KIDNEY]
        kidney_hu = float(np.median(kidney)) if kidney.size else math.nan
        tumour_ml = float((part == TUMOUR).sum() * shown.volume.voxel_ml)
        found.append(Kidney(translated(box, shown.box), measured, kidney_hu, tumour_ml))
    return found


def _on_contrast(kidney_hu: float, kidneys: Sequence[Kidney]) -> Iterator[Remark]:
    """What to know of a scan without contrast medium."""
    if not kidney_hu < ENHANCED_HU:
        return
    yield Remark(
        "no-contrast",
        f"The kidneys measure {kidney_hu:.0f} HU, as without contrast medium: the labels, tumours above all, are "
        "not to be trusted in such scans.",
    )
    for one in kidneys:
        if one.tumour_ml:
            text = (
                f"{one.tumour_ml:.1f} ml were called tumour in a scan without contrast medium: look at the {one.name}."
            )
            yield Remark("tumour-without-contrast", text)


def _on_kidneys(kidneys: Sequence[Kidney]) -> Iterator[Remark]:
    """What is odd about a kidney by itself."""
    for one in kidneys:
        if one.measured.ml > LARGE_ML and not one.tumour_ml:
            text = f"Large for a kidney without tumour: the {one.name}. Is there a mass that was called kidney?"
            yield Remark("large-kidney", text)
        if one.measured.place < LEAST_PLACE:
            yield Remark("far-kidney", f"Far from where kidneys usually lie: the {one.name}. Is it a kidney?")
        if not math.isnan(one.kidney_hu) and not USUAL_HU[0] <= one.kidney_hu <= USUAL_HU[1]:
            yield Remark("odd-hu", f"{one.kidney_hu:.0f} HU do not fit a kidney: look at the {one.name}.")


def _on_pairs(kidneys: Sequence[Kidney]) -> Iterator[Remark]:
    """What does not fit in two kidneys beside each other."""
    for one, other in itertools.combinations(kidneys, 2):
        dark, bright = sorted((one, other), key=lambda kidney: kidney.kidney_hu)
        if bright.kidney_hu >= ENHANCED_HU and dark.kidney_hu < bright.kidney_hu / 2:
            text = f"{dark.kidney_hu:.0f} and {bright.kidney_hu:.0f} HU do not fit each other: look at the {dark.name}."
            yield Remark("odd-hu", text)
        if abs(one.measured.height_mm - other.measured.height_mm) > FAR_APART_MM:
            yield Remark("far-kidney", f"One kidney lies far above the other: look at the {one.name} and {other.name}.")
        elif one.measured.side * other.measured.side > 0:
            yield Remark("far-kidney", f"Two kidneys on one side: look at the {one.name} and {other.name}.")


def _on_orientation(kidneys: Sequence[Kidney]) -> Iterator[Remark]:
    """Where the scan seems to lie otherwise than its header says."""
    remedy = "If its header is wrong, the labels are not to be trusted: mend it, and run the scan again."
    if any(one.measured.spine < SPINE_DEPTH for one in kidneys):
        yield Remark("front-to-back", f"The spine seems to lie in front, as if front and back were exchanged. {remedy}")
    if any(one.measured.under_lungs_mm < UNDER_LUNGS_MM[0] for one in kidneys):
        text = f"A kidney seems to lie above the lungs, as if head and feet were exchanged. {remedy}"
        yield Remark("head-to-feet", text)


def _on_stages(kidneys: Sequence[Kidney], regions: Sequence[Region], grids: Grids) -> Iterator[Remark]:
    """Where one stage saw a kidney and the other did not; each kidney belongs to the region that is nearest to it."""
    if not regions or (grids.height_mm < KIDNEY_MM and list(regions) == grids.usual_regions()):
        return
    scale = np.array(grids.native.spacing) * (1, *np.divide(grids.native.shape[1:], grids.working.shape[1:]))
    middles = [
        np.array([(one.first + one.last) / 2, *(np.mean(one.windows, 0) + WINDOW_PX / 2)]) * scale for one in regions
    ]
    seen: set[int] = set()
    for one in kidneys:
        middle = np.array([(part.start + part.stop) / 2 for part in one.box]) * grids.native.spacing
        nearest = int(np.argmin([np.linalg.norm(middle - other) for other in middles]))
        if nearest in seen:
            yield Remark(
                "stages-disagree", f"Stage 2 labelled what stage 1 took for no kidney: look at the {one.name}."
            )
        seen.add(nearest)
    for index, region in enumerate(regions):
        if index not in seen:
            where = slices(region.first, region.last)
            text = f"Stage 1 saw a kidney of its own in {where}, stage 2 did not: is one missing, or are two fused?"
            yield Remark("stages-disagree", text)
