"""What a person should know before trusting a label map."""

from __future__ import annotations

import numpy as np

from kits.cascade.clean import ENHANCED_HU, Labelled
from kits.geometry import Grids, Region
from kits.io.volume import Volume


def remarks(labels: np.ndarray, regions: list[Region], volume: Volume, grids: Grids) -> list[str]:
    """Sentences on results that a person should look at twice.

    Args:
        labels: uint8 (z, y, x), cleaned: 0 background, 1 kidney, 2 tumour.
        regions: where stage 2 looked.
        volume: the CT.
        grids: its grids.
    """
    shown = Labelled.of(labels, volume, grids)
    if shown is None:
        return ["No kidney was found: the label map is empty. Is this an abdominal CT in Hounsfield units?"]
    found = []
    if len(regions) == 1:
        found.append("Only one kidney, or two that are fused, was found.")
    slices = shown.box[0]
    if slices.start == 0 or slices.stop == len(labels):
        found.append("A kidney is cut by the first or the last slice of the scan: its volume is incomplete.")
    if (kidney_hu := shown.kidney_hu) < ENHANCED_HU:
        found.append(
            f"The kidneys measure {kidney_hu:.0f} HU, as without contrast medium: the labels, tumours above all, are "
            "not to be trusted in such scans."
        )
    return found
