"""What a page tells in numbers and sentences; every number is measured on the scan's own grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kits.batch.meshes import canonical_to_lps
from kits.batch.viewer.picture import nifti_affine
from kits.io.volume import Volume
from kits.measure.results import KidneyFigures, Lesion, Measurements

Row = dict[str, Any]
"""A line of a table. A key's ending names the unit: ``volume_ml``, ``longest_mm``, ``mean_hu``."""

SMALL_ML = 2.0
WATER_HU = 25.0
"""Below, what is called tumour looks like water: it may be a cyst."""
UNSURE = 0.75
"""Below, the networks' mean probability over a lesion is low."""


@dataclass(frozen=True)
class Findings:
    """What was found in a case.

    Args:
        sides: a row for the right and the left: ``side`` and any measurements.
        lesions: a row a lesion: ``name``, ``kind`` (tumour or cyst), ``side``, ``volume_ml``, ``place_mm`` (a point
            inside it, in NIfTI's space), and any measurements.
        warnings: sentences.
        first: what to look at first: rows of ``text`` and ``lesion`` (its name).
        confidence: 0 to 1, of what the networks were least sure of, where it is known.
    """

    sides: list[Row]
    lesions: list[Row]
    warnings: list[str] = field(default_factory=list)
    first: list[Row] = field(default_factory=list)
    confidence: float | None = None


def findings_of(volume: Volume, measured: Measurements, warnings: Sequence[str]) -> Findings:
    """A page's tables and lists.

    Args:
        volume: the CT, for its place in space.
        measured: what was measured of its label map.
        warnings: what reader and cascade remarked.
    """
    kidneys = [one for one in (measured.right, measured.left) if one]
    confidences = [one.confidence for one in kidneys] + [one.confidence for one in measured.lesions]
    sure = [one for one in confidences if one is not None]
    return Findings(
        sides=[_side(one) for one in kidneys],
        lesions=[_lesion(one, nifti_affine(canonical_to_lps(volume.home))) for one in measured.lesions],
        warnings=[str(one) for one in warnings],
        first=[{"text": text, "lesion": one.name} for one, text in doubts(measured.lesions)],
        confidence=min(sure, default=None),
    )


def _side(kidney: KidneyFigures) -> Row:
    return {
        "side": kidney.side,
        "kidney_ml": kidney.parenchyma_ml,
        "tumour_ml": kidney.tumour_ml,
        "cyst_ml": kidney.cyst_ml,
        "all_together_ml": kidney.kidney_with_masses_ml,
        "length_mm": kidney.length_mm,
        "mean_hu": kidney.hu_mean,
        "spread_hu": kidney.hu_sd,
        "confidence": kidney.confidence,
    }


def _lesion(lesion: Lesion, to_mm: np.ndarray) -> Row:
    row: Row = {
        "name": lesion.name,
        "kind": lesion.kind,
        "side": lesion.side,
        "volume_ml": lesion.volume_ml,
        "place_mm": (to_mm @ [*lesion.middle[::-1], 1])[:3].round(2).tolist(),
        "axial_diameter_mm": lesion.axial_mm,
        "across_mm": lesion.perpendicular_mm,
        "longest_mm": lesion.longest_mm,
        "mean_hu": lesion.hu_mean,
        "spread_hu": lesion.hu_sd,
        "pole": lesion.pole,
        "face": lesion.face,
        "rim": lesion.rim,
        "outside_kidney_percent": None if lesion.outside_share is None else round(100 * lesion.outside_share),
        "to_sinus_mm": lesion.to_sinus_mm,
        "contact_mm2": lesion.contact_mm2,
        "confidence": lesion.confidence,
    }
    if lesion.renal:
        row["R.E.N.A.L."] = lesion.renal.text
    if lesion.padua and lesion.padua.total_range:
        row["PADUA"] = " or ".join(str(total) for total in lesion.padua.total_range)
    return row


def doubts(lesions: Sequence[Lesion]) -> list[tuple[Lesion, str]]:
    """Where to look first, and why: what was cut, is unsure, looks like a cyst or is small; then the largest tumour."""
    found = []
    for one in lesions:
        if reasons := _reasons(one):
            found.append((one, f"{one.name.capitalize()}, {one.side}: {'; '.join(reasons)}"))
    if lesions and all(one is not lesions[0] for one, _ in found):
        largest = lesions[0]
        found.append((largest, f"{largest.name.capitalize()}, {largest.side}: the largest, {largest.volume_ml:.1f} ml"))
    return found


def _reasons(lesion: Lesion) -> list[str]:
    reasons = []
    if lesion.cut:
        reasons.append("cut by the scan's first or last slice")
    if lesion.confidence is not None and lesion.confidence < UNSURE:
        reasons.append(f"the networks are not sure (confidence {lesion.confidence})")
    if lesion.kind == "tumour" and lesion.hu_mean is not None and lesion.hu_mean < WATER_HU:
        reasons.append(f"{lesion.hu_mean:.0f} HU on average, like water: a cyst?")
    if lesion.kind == "tumour" and lesion.volume_ml < SMALL_ML:
        reasons.append(f"only {lesion.volume_ml:.1f} ml: real, or a vessel or the collecting system?")
    return reasons
