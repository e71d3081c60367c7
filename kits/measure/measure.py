"""A case measured: its kidneys and its lesions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cc3d
import numpy as np
from scipy.spatial import cKDTree

from kits.choices import CYST, KIDNEY, TUMOUR
from kits.geometry import Box, Spacing, bounding_box, translated
from kits.measure.kidney import DEPTH_MM, Kidney
from kits.measure.nephrometry import padua, renal
from kits.measure.results import PURPOSE, KidneyFigures, Lesion, Measurements
from kits.measure.shapes import diameters, edge, gap, surface_mm2
from kits.measure.sides import left_side

SPECK_ML = 0.05
"""Smaller pieces of tumour or cyst count in the volumes, but are no lesions of their own."""
SAMPLES = 20_000
"""Voxels of a lesion, evenly spread, that tell how much of it lies outside the kidney."""
ON_ONE_FACE = 2 / 3
"""A lesion is anterior or posterior if at least this share of it is."""
KINDS = {TUMOUR: "tumour", CYST: "cyst"}


def measure(
    labels: np.ndarray, hu: np.ndarray | None, spacing: Spacing, probabilities: np.ndarray | None = None
) -> Measurements:
    """Measure the kidneys and lesions of one case.

    Args:
        labels: uint8 (z, y, x), canonical (x to the patient's left, y to posterior, z to superior): 0 background,
            1 kidney, 2 tumour, 3 cyst.
        hu: the CT on the same grid; without it there are no HU, and sides follow the grid's middle.
        spacing: mm (z, y, x).
        probabilities: percent of kidney with masses and of tumour, (2, z, y, x), for the confidences.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> labels = np.zeros((20, 40, 60), np.uint8)
        >>> labels[5:15, 10:30, 40:55] = 1
        >>> measure(labels, None, (3.0, 1.0, 1.0)).left.parenchyma_ml
        9.0
    """
    for other in (hu, None if probabilities is None else probabilities[0]):
        if other is not None and other.shape != labels.shape:
            raise ValueError(f"the label map has shape {labels.shape}, what it belongs to {other.shape}")
    found = left_side(labels, hu)
    kidneys: dict[str, KidneyFigures | None] = {"right": None, "left": None}
    lesions: list[Lesion] = []
    if found:
        outer, is_left = found
        given = Given(spacing, labels.shape[0], hu, probabilities)
        for side in kidneys:
            own = np.where(is_left == (side == "left"), labels[outer], 0)
            if inner := bounding_box(own > 0):
                one = Side(side, own[inner], translated(inner, outer), given)
                kidneys[side] = one.figures()
                lesions += one.lesions()
    return Measurements(PURPOSE, kidneys["right"], kidneys["left"], tuple(named(lesions)))


def named(lesions: list[Lesion]) -> list[Lesion]:
    """Tumours before cysts, the largest first, each with its number; tumours with their scores."""
    ordered = sorted(lesions, key=lambda one: (one.kind != "tumour", -one.volume_ml))
    result = []
    for kind in KINDS.values():
        for number, one in enumerate((one for one in ordered if one.kind == kind), start=1):
            one = replace(one, name=f"{kind} {number}")
            result.append(replace(one, renal=renal(one), padua=padua(one)) if kind == "tumour" else one)
    return result


@dataclass(frozen=True)
class Given:
    """What belongs to the whole volume: see ``measure``; ``slices`` is how many it has."""

    spacing: Spacing
    slices: int
    hu: np.ndarray | None
    probabilities: np.ndarray | None


class Side:
    """The labels of one side, cut out, with all that is measured on them.

    Args:
        side: right or left.
        labels: uint8 (z, y, x), this side's only, no larger than need be.
        box: where they lie in the volume.
        given: the volume's own.
    """

    def __init__(self, side: str, labels: np.ndarray, box: Box, given: Given) -> None:
        self.side, self.spacing, self.slices = side, given.spacing, given.slices
        self.labels = np.pad(labels, 1)  # so that nothing touches a border
        self.start = np.array([s.start - 1 for s in box])
        self.hu = None if given.hu is None else given.hu[box]
        self.probabilities = None if given.probabilities is None else given.probabilities[(slice(None), *box)]
        self.kidney = Kidney(self.labels, self.spacing, 1 if side == "right" else -1)
        self.has_parenchyma = bool(self.kidney.parenchyma.any())
        self.sinus = self.kidney.sinus if self.has_parenchyma else None

    def millilitres(self, mask: np.ndarray) -> float:
        """The volume of a mask."""
        return round(float(np.count_nonzero(mask) * np.prod(self.spacing) / 1000), 3)

    def statistics(self, mask: np.ndarray) -> tuple[float | None, float | None]:
        """Mean and standard deviation of a mask's HU."""
        inside = self.hu[mask[1:-1, 1:-1, 1:-1]] if self.hu is not None else np.empty(0)
        return (round(float(inside.mean()), 1), round(float(inside.std()), 1)) if len(inside) else (None, None)

    def confidence(self, mask: np.ndarray, channel: int) -> float | None:
        """The mean probability over a mask."""
        if self.probabilities is None:
            return None
        return round(float(self.probabilities[channel][mask[1:-1, 1:-1, 1:-1]].mean()) / 100, 3)

    def cut(self, mask: np.ndarray) -> bool:
        """Whether a mask reaches the scan's first or last slice."""
        return any(
            0 <= z - self.start[0] < len(mask) and bool(mask[z - self.start[0]].any()) for z in (0, self.slices - 1)
        )

    def figures(self) -> KidneyFigures:
        """The kidney as a whole."""
        parenchyma = self.labels == KIDNEY
        hu_mean, hu_sd = self.statistics(parenchyma)
        return KidneyFigures(
            side=self.side,
            kidney_with_masses_ml=self.millilitres(self.labels > 0),
            parenchyma_ml=self.millilitres(parenchyma),
            tumour_ml=self.millilitres(self.labels == TUMOUR),
            cyst_ml=self.millilitres(self.labels == CYST),
            length_mm=(
                round(diameters(self.kidney.parenchyma, self.spacing).longest_mm, 1) if self.has_parenchyma else None
            ),
            hu_mean=hu_mean,
            hu_sd=hu_sd,
            sinus_ml=self.millilitres(self.sinus.mask) if self.sinus else None,
            polar_lines=self.lines and (self.lines[0] + int(self.start[0]), self.lines[1] + int(self.start[0])),
            cut=self.cut(self.labels > 0),
            confidence=self.confidence(self.labels > 0, 0),
        )

    @property
    def lines(self) -> tuple[int, int] | None:
        """The polar lines on this grid; None where the scan may end before the sinus does."""
        if self.sinus is None:
            return None
        near = DEPTH_MM / self.spacing[0] + 1  # no sinus is seen so near to where the scan cuts a kidney
        low, high = (line + self.start[0] for line in self.sinus.lines)
        if self.cut(self.labels > 0) and (low <= near or high >= self.slices - 1 - near):
            return None
        return self.sinus.lines

    def lesions(self) -> list[Lesion]:
        """Its tumours and cysts."""
        found = []
        for label, kind in KINDS.items():
            pieces = cc3d.connected_components(self.labels == label)
            for _, mask in cc3d.each(pieces, binary=True, in_place=True):
                if self.millilitres(mask) >= SPECK_ML:
                    found.append(self.lesion(np.asarray(mask, bool), kind))
        return found

    def lesion(self, mask: np.ndarray, kind: str) -> Lesion:
        """One lesion measured, not yet numbered."""
        voxels = np.argwhere(mask)
        centre = voxels.mean(axis=0)
        longest = diameters(mask, self.spacing)
        hu_mean, hu_sd = self.statistics(mask)
        surface, contact = surface_mm2(mask, self.labels == KIDNEY, self.spacing)
        return Lesion(
            name="",
            kind=kind,
            side=self.side,
            volume_ml=self.millilitres(mask),
            axial_mm=round(longest.axial_mm, 1),
            perpendicular_mm=round(longest.perpendicular_mm, 1),
            longest_mm=round(longest.longest_mm, 1),
            axial_ends=tuple(self._place(end) for end in longest.axial_ends),
            centre=self._place(centre),
            middle=tuple((most_central(voxels, centre) + self.start).tolist()),
            hu_mean=hu_mean,
            hu_sd=hu_sd,
            surface_mm2=round(surface),
            contact_mm2=round(contact),
            cut=self.cut(mask),
            confidence=self.confidence(mask, 1) if kind == "tumour" else None,
            **self.place(voxels, centre),
            **self.nearness(mask),
        )

    def _place(self, voxel: np.ndarray | tuple[float, ...]) -> tuple[float, ...]:
        return tuple(np.round(voxel + self.start, 1).tolist())

    def place(self, voxels: np.ndarray, centre: np.ndarray) -> dict[str, Any]:
        """Where in the kidney a lesion lies."""
        if not self.has_parenchyma:
            return dict.fromkeys(("pole", "face", "rim", "outside_share", "between_lines", "crosses_middle"))
        _, anterior = self.kidney.around_axis(voxels)
        front = float((anterior > 0).mean())
        medial = float(self.kidney.around_axis(centre[None])[0][0])
        sample = voxels[:: -(-len(voxels) // SAMPLES)]
        pole = between = crosses = None
        if self.lines:
            low, high = self.lines
            z = voxels[:, 0]
            shares = {
                "lower": (z < low).mean(),
                "middle": ((low <= z) & (z <= high)).mean(),
                "upper": (z > high).mean(),
            }
            pole, between = max(shares, key=lambda name: shares[name]), round(float(shares["middle"]), 3)
            crosses = bool(z.min() <= (low + high) / 2 <= z.max())
        return {
            "pole": pole,
            "face": "anterior" if front >= ON_ONE_FACE else "posterior" if front <= 1 - ON_ONE_FACE else "neither",
            "rim": "medial" if medial > 0 else "lateral",
            "outside_share": round(float((self.kidney.hull.outside(sample * self.spacing) > 0).mean()), 3),
            "between_lines": between,
            "crosses_middle": crosses,
        }

    def nearness(self, mask: np.ndarray) -> dict[str, Any]:
        """How near to the sinus a lesion comes."""
        if self.sinus is None:
            return {"to_sinus_mm": None, "to_sinus_centre_mm": None}
        apart = gap(mask, self.sinus.mask, self.spacing)
        reach = cKDTree(np.argwhere(edge(mask)) * self.spacing).query(self.sinus.centre * self.spacing)[0]
        return {"to_sinus_mm": apart and round(apart, 1), "to_sinus_centre_mm": round(float(reach), 1)}


def most_central(voxels: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """The voxel nearest to the centre, on the slice nearest to it: a crescent does not hold its own centre."""
    apart = np.abs(voxels - centre)
    return voxels[np.lexsort((np.hypot(apart[:, 1], apart[:, 2]), apart[:, 0]))[0]]
