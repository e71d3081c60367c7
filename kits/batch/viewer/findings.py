"""What a page tells in numbers and sentences; every number is counted on the scan's own grid."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cc3d
import numpy as np
from scipy import ndimage

from kits.batch.viewer.picture import canonical_affine, nifti_affine
from kits.io.volume import Volume

Row = dict[str, Any]
"""A line of a table. A key's ending names the unit: ``volume_ml``, ``diameter_mm``, ``mean_hu``, ``outside_percent``."""

NAMES = {1: "kidney", 2: "tumour", 3: "cyst"}
SMALL_ML = 2.0
WATER_HU = 25.0
"""Below, what is called tumour looks like water: it may be a cyst."""


@dataclass(frozen=True)
class Findings:
    """What was found in a case.

    Args:
        sides: a row for the right and the left: ``side`` and any measurements.
        lesions: a row a lesion: ``name``, ``kind`` (tumour or cyst), ``side``, ``place_mm`` (a point inside it, in
            NIfTI's space), and any measurements.
        warnings: sentences.
        first: what to look at first: rows of ``text`` and, where it has a place, ``lesion`` (its name).
        confidence: expected Dice, 0 to 1, where it is known.
    """

    sides: list[Row]
    lesions: list[Row]
    warnings: list[str] = field(default_factory=list)
    first: list[Row] = field(default_factory=list)
    confidence: float | None = None


def findings_of(volume: Volume, labels: np.ndarray, sides: list[Row], warnings: list[str]) -> Findings:
    """The lesions of a label map, component by component, and which of them to doubt.

    Args:
        volume: the CT.
        labels: uint8 (z, y, x) on its canonical grid.
        sides: volumes a side, right first.
        warnings: what the cascade remarked.
    """
    to_mm = nifti_affine(canonical_affine(volume))
    lesions = []
    for label in (2, 3):
        components = cc3d.connected_components(labels == label)
        for index, box in enumerate(cc3d.statistics(components)["bounding_boxes"][1:], start=1):
            lesions.append(_lesion(volume, components, index, box, label, to_mm))
    lesions.sort(key=lambda row: (row["kind"] != "tumour", -row["volume_ml"]))
    counts = {"tumour": 0, "cyst": 0}
    for row in lesions:
        counts[row["kind"]] += 1
        row["name"] = f"{row['kind'].capitalize()} {counts[row['kind']]}"
    return Findings(sides, lesions, list(warnings), doubts(lesions))


def _lesion(
    volume: Volume, components: np.ndarray, index: int, box: tuple[slice, slice, slice], label: int, to_mm: np.ndarray
) -> Row:
    """One component's row."""
    mask = components[box] == index
    depth = ndimage.distance_transform_edt(np.pad(mask, 1), volume.spacing)[1:-1, 1:-1, 1:-1]
    deepest = np.unravel_index(depth.argmax(), mask.shape)
    voxel = [int(at.start + i) for at, i in zip(box, deepest, strict=True)]
    place = to_mm @ [*voxel[::-1], 1]
    hu = volume.hu[box][mask]
    return {
        "name": "",
        "kind": NAMES[label],
        "slice": voxel[0] + 1,
        "volume_ml": round(int(mask.sum()) * volume.voxel_ml, 2),
        "mean_hu": round(float(hu.mean())),
        "spread_hu": round(float(hu.std())),
        "place_mm": [round(float(mm), 2) for mm in place[:3]],
    }


def doubts(lesions: list[Row]) -> list[Row]:
    """Where to look first, and why: what looks like a cyst, what is small, what is largest."""
    first = []
    for row in lesions:
        if row["kind"] == "tumour" and row.get("mean_hu", WATER_HU) < WATER_HU:
            text = f"{row['name']} measures {row['mean_hu']} HU on average, like water: a cyst?"
        elif row["volume_ml"] < SMALL_ML:
            text = f"{row['name']} has only {row['volume_ml']} ml: real, or a vessel or the collecting system?"
        else:
            continue
        first.append({"text": text, "lesion": row["name"]})
    if lesions and not any(row["lesion"] == lesions[0]["name"] for row in first):
        first.append({"text": f"{lesions[0]['name']} is the largest, {lesions[0]['volume_ml']} ml.",
                      "lesion": lesions[0]["name"]})  # fmt: skip
    return first
