"""A label map's parts, each with its name: the kidney of either side, and every lesion."""

from __future__ import annotations

from dataclasses import dataclass

import cc3d
import numpy as np

from kits.batch.colours import CYST, KIDNEY, NAMES, TUMOUR
from kits.measure.results import Measurements
from kits.measure.sides import left_side


@dataclass(frozen=True)
class Part:
    """One part of a label map.

    Args:
        number: its voxels' value, from 1 on.
        name: such as ``right kidney`` or ``tumour 1``, as the measurements name it.
        label: of its voxels in the label map.
        side: right or left; empty for what is too small to be a lesion of its own.
    """

    number: int
    name: str
    label: int
    side: str

    @property
    def kind(self) -> str:
        """kidney, tumour or cyst."""
        return NAMES[self.label]


def parts_of(labels: np.ndarray, hu: np.ndarray, measured: Measurements) -> tuple[np.ndarray, list[Part]]:
    """Tell a label map's parts apart.

    Args:
        labels: uint8 (z, y, x), canonical: 1 kidney, 2 tumour, 3 cyst.
        hu: the CT on the same grid.
        measured: what was measured of both.

    Returns:
        uint16 of the same shape with each part's number, 0 for background; and the parts. Every labelled voxel is in
        one of them: what is too small to be measured as a lesion is a part of its own, a kind.
    """
    numbers = np.zeros(labels.shape, np.uint16)
    parts: list[Part] = []

    def add(name: str, label: int, side: str) -> int:
        parts.append(Part(len(parts) + 1, name, label, side))
        return len(parts)

    if (found := left_side(labels, hu)) is None:
        return numbers, parts
    box, is_left = found
    inside, own = labels[box], numbers[box]
    for side in ("right", "left"):
        mask = (inside == KIDNEY) & (is_left == (side == "left"))
        if mask.any():
            own[mask] = add(f"{side} kidney", KIDNEY, side)
    for label in (TUMOUR, CYST):
        kind = NAMES[label]
        pieces = cc3d.connected_components(inside == label)
        for lesion in (one for one in measured.lesions if one.kind == kind):
            at = tuple(int(i) - axis.start for i, axis in zip(lesion.middle, box, strict=True))
            own[pieces == pieces[at]] = add(lesion.name, label, lesion.side)
        specks = (pieces > 0) & (own == 0)
        if specks.any():
            own[specks] = add(f"{kind}, specks", label, "")
    return numbers, parts
