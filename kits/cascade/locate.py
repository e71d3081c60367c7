"""Stage 1: where the kidneys are (paper sections 2.3 and 2.4, figure 1 left)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch.nn import functional

from kits.cascade.components import components
from kits.cascade.likeness import candidates, most_alike
from kits.cascade.segment import to_native_slices
from kits.cascade.stage import Stage
from kits.geometry import CHUNK, KIDNEY_MM, Box, Grids, Region, covering
from kits.io.volume import Volume
from kits.runtime.arriving import arriving, check_finite, finite

THIN = 0.25
"""Share of its largest slice's area under which a component is thin: its poles, and what merely links it to others."""


def locate(
    volume: Volume, grids: Grids, stage: Stage, progress: Callable[[float], None] = lambda done: None
) -> list[Region]:
    """Find the kidneys on 3 mm slices of half the in-plane resolution.

    Kidney and tumour merge into one class; components too small go; of those that remain the kidneys are the largest,
    or, if the plan says so, those that look most like kidneys. Of a scan too thin for a whole kidney that shows none,
    stage 2 is to judge the places where kidneys usually are.

    Args:
        volume: the CT.
        grids: its grids.
        stage: Res-UNet1 or Wide-UNet1, or several to average.
        progress: told how much is done, from 0 to 1.

    Returns:
        No, one or two regions, the larger component first; or the usual places.
    """
    plan, depth = grids.plan, grids.halved.shape[0]
    smallest = grids.smallest_component(grids.halved.shape)
    every = min(plan.look_every, depth)
    looks = 0

    def look(centres: Sequence[int]) -> np.ndarray:
        """Probability of background in these slices, float32 (slices, rows, columns)."""
        nonlocal looks
        found = np.empty((len(centres), *grids.halved.shape[1:]), np.float32)
        chunks = predict_halved(slices_ZYX, centres, grids, stage)
        for first, (is_finite, some) in arriving((at, [finite(chunk), chunk[:, 0]]) for at, chunk in chunks):
            check_finite(is_finite)
            found[first : first + len(some)] = some
            looks += len(some)
            progress(looks / depth)
        return found

    # Each slice looked at stands for its group of neighbours, except where that might matter.
    slices_ZYX = stage.input(stage.slices(volume.hu, grids.halved.shape))
    seen = range(every // 2, depth, every)
    seen_ZYX = look(seen)
    background_ZYX = seen_ZYX[np.minimum(np.arange(depth) // every, len(seen_ZYX) - 1)]
    labels_ZYX, boxes = components(background_ZYX < 0.5, smallest)
    kept = chosen(labels_ZYX, boxes, background_ZYX, volume, grids)
    if unseen := sorted(doubtful(labels_ZYX, kept, every) - set(seen)):
        background_ZYX[unseen] = look(unseen)
        labels_ZYX, boxes = components(background_ZYX < 0.5, smallest)
        kept = chosen(labels_ZYX, boxes, background_ZYX, volume, grids)
    progress(1.0)
    if not boxes and plan.second_look and grids.height_mm < KIDNEY_MM:
        return grids.usual_regions()
    return [grids.region(box) for box in kept.values()]


def chosen(
    labels_ZYX: np.ndarray, boxes: Sequence[Box], background_ZYX: np.ndarray, volume: Volume, grids: Grids
) -> dict[int, Box]:
    """The components that become regions, by rank: the largest, or those that look most like kidneys.

    Args:
        labels_ZYX: components by rank, from 1, on the halved grid.
        boxes: of the components.
        background_ZYX: probability of background there.
        volume: the CT.
        grids: its grids.
    """
    by_rank, most = dict(enumerate(boxes, start=1)), grids.plan.kidneys
    if grids.plan.likeness:
        measured = candidates(labels_ZYX, by_rank, volume, background_ZYX=background_ZYX)
        return {rank: by_rank[rank] for rank in most_alike(measured, most, grids.kidney_in_view)}
    return {rank: box for rank, box in by_rank.items() if rank <= most}


def doubtful(labels_ZYX: np.ndarray, boxes: Mapping[int, Box], every: int) -> set[int]:
    """Slices in which a neighbour's answer may not do: where a component ends or is thin.

    Args:
        labels_ZYX: components by rank, from 1.
        boxes: of those components that matter, by rank.
        every: how far slices lie apart that were looked at.
    """
    found: set[int] = set()
    for rank, (z, rows, columns) in boxes.items():
        area = (labels_ZYX[:, rows, columns] == rank).sum((1, 2))
        reach = range(max(0, z.start - every + every // 2 + 1), min(z.stop + every // 2, len(labels_ZYX)))
        found |= {index for index in reach if area[index] < THIN * area.max() or not z.start < index < z.stop - 1}
    return found


def predict_halved(
    slices_ZYX: torch.Tensor, centres: Sequence[int], grids: Grids, stage: Stage
) -> Iterator[tuple[int, torch.Tensor]]:
    """Probabilities of slices of the halved grid, ``CHUNK`` at a time, with the place of each first one in ``centres``.

    They are float32 (slices, 3, rows, columns), without the padding.
    """
    _, rows, columns = grids.halved.shape
    windows = covering(rows, columns)
    for first in range(0, len(centres), CHUNK):
        chunk = stage.predict(slices_ZYX, centres[first : first + CHUNK], windows)
        yield first, chunk[..., :rows, :columns]


def segment_coarsely(volume: Volume, grids: Grids, stage: Stage) -> Iterator[tuple[Box, torch.Tensor]]:
    """Stage 1's own three classes, interpolated from halved 3 mm slices to the native grid.

    Args:
        volume, grids, stage: of ``locate``.

    Yields:
        (box on the native grid, float32 (slices, 3, rows, columns)), in the slices' order; together all of the volume.
    """
    depth, rows, columns = grids.native.shape
    slices_ZYX = stage.input(stage.slices(volume.hu, grids.halved.shape))
    chunks = predict_halved(slices_ZYX, range(grids.halved.shape[0]), grids, stage)
    for first, found in to_native_slices(chunks, grids.halved.shape[0], depth):
        native_ZCYX = functional.interpolate(found, size=(rows, columns), mode="bilinear")
        yield (slice(first, first + len(found)), slice(0, rows), slice(0, columns)), native_ZCYX
