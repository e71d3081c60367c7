"""Whole tumours of volumes, pasted into kidneys: each neighbouring slice shows the section that it has there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import cc3d
import numpy as np

from kits.choices import TUMOUR
from kits.geometry import Spacing

from .paste import Section, continued, draw_pose, kidney_level, turned

SMALLEST_VOXELS, FEWEST_SLICES = 100, 3
"""Smaller tumours show no shape."""
WIDEST_PX = 110
"""Wider ones have no room in a kidney."""
RIM_PX = 2
NOTHING: Section = (np.zeros((1, 1)), np.zeros((1, 1)))
"""What a slice shows above and below a tumour."""


@dataclass(frozen=True, eq=False)
class WholeTumour:
    """A tumour and what lies around it.

    Args:
        hu: float32 (slices, rows, columns), continued beyond its border.
        mask: float32, as ``hu``: 1 in it, else 0; each slice shows some.
        kidney_hu: of the kidney that it is in.
    """

    hu: np.ndarray
    mask: np.ndarray
    kidney_hu: float

    def cut(
        self, slices: int, spacing: Spacing, rng: np.random.Generator
    ) -> tuple[np.ndarray, Callable[[float], list[Section]]]:
        """Neighbouring slices of it, any of them the middle one, in one pose and either way up: a ``paste.Cut``."""
        pose = draw_pose(rng)
        chosen, upwards = int(rng.integers(len(self.hu))), 1 if rng.random() < 0.5 else -1
        made = [
            turned(self.hu[at], self.mask[at], pose, 1.0) if 0 <= at < len(self.hu) else NOTHING
            for at in (chosen + upwards * (z - slices // 2) for z in range(slices))
        ]
        return made[slices // 2][1], lambda height: made


def whole_tumours(volumes: Iterable[tuple[np.ndarray, np.ndarray]]) -> Iterator[WholeTumour]:
    """The tumours of volumes, HU and labels (z, y, x), that have a shape and would fit into a kidney."""
    for hu, labels in volumes:
        kept: Any = cc3d.dust(np.ascontiguousarray(labels == TUMOUR), threshold=SMALLEST_VOXELS)
        numbered = cc3d.connected_components(kept)
        for number, (z, *plane) in enumerate(cc3d.statistics(numbered)["bounding_boxes"]):
            low = z.stop - z.start < FEWEST_SLICES
            if number == 0 or low or max(side.stop - side.start for side in plane) > WIDEST_PX:
                continue
            rows, columns = (slice(max(0, side.start - RIM_PX), side.stop + RIM_PX) for side in plane)
            mask, around = numbered[z, rows, columns] == number, hu[z]
            shown = np.stack([continued(*one) for one in zip(around[:, rows, columns], mask, strict=True)])
            yield WholeTumour(shown, mask.astype(np.float32), kidney_level(around, labels[z]))
