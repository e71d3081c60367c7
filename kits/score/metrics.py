"""Scores of one label map against another, as the organisers of KiTS19 and of KiTS23 compute them.

**kits19**: Dice of kidney+tumour (labels > 0) and of tumour (labels > 1); where both sides are empty the
formula is 0 / 0, so the case has NaN there and the mean is taken over the cases that have a number.
**kits23**: Dice and surface Dice of three nested classes; 1 if both sides are empty, 0 if one is.
Either way arrays are compared voxel by voxel, so their shapes must agree.

Sources: ``starter_code/evaluation.py`` of neheller/kits19; ``kits23/evaluation/metrics.py`` and
``kits23/configuration/labels.py`` of neheller/kits23; surface Dice by its authors' library
``surface-distance`` (Nikolov et al., arXiv 1809.04430).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kits.errors import InputError
from kits.geometry import Spacing
from kits.score import CONVENTIONS


class Kits23Class(NamedTuple):
    """One of KiTS23's nested classes: the labels it joins, and its surface Dice's tolerance in mm."""

    labels: tuple[int, ...]
    tolerance: float


KITS23_CLASSES = {
    "kidney+masses": Kits23Class((1, 2, 3), 1.0330772532390826),
    "masses": Kits23Class((2, 3), 1.1328796488598762),
    "tumour": Kits23Class((2,), 1.1498198361434828),
}
SURFACE = "surface "  # a surface Dice's column is its class's name after this


def dice(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Dice coefficient 2 |A and B| / (|A| + |B|) of two masks of one shape.

    Returns:
        A number in [0, 1], or NaN if both masks are empty.

    >>> dice(np.array([True, True, False]), np.array([True, False, False]))
    0.6666666666666666
    """
    total = np.count_nonzero(prediction) + np.count_nonzero(truth)
    return 2 * np.count_nonzero(prediction & truth) / total if total else math.nan


def surface_dice(prediction: NDArray[np.bool_], truth: NDArray[np.bool_], spacing: Spacing, tolerance: float) -> float:
    """Share of both masks' surfaces that lies within ``tolerance`` mm of the other (Nikolov et al. 2018).

    Args:
        prediction, truth: masks (z, y, x), neither of them empty.
        spacing: mm (z, y, x).
        tolerance: mm.
    """
    import surface_distance  # a second, which KiTS19's convention need not wait for

    distances = surface_distance.compute_surface_distances(truth, prediction, spacing)
    return float(surface_distance.compute_surface_dice_at_tolerance(distances, tolerance))


def score_case(
    prediction: NDArray[np.integer], reference: NDArray[np.integer], spacing: Spacing, convention: str
) -> dict[str, float]:
    """Scores of one case.

    Args:
        prediction, reference: label maps (z, y, x) of one shape: 1 kidney, 2 tumour, 3 cyst (KiTS23 only).
        spacing: the reference's, mm (z, y, x); only surface Dice looks at it.
        convention: ``kits19`` or ``kits23``.

    Returns:
        Measure -> score.

    Raises:
        InputError: the shapes differ, or there is no such convention.
    """
    if prediction.shape != reference.shape:
        raise InputError(
            f"the prediction has shape {prediction.shape}, the reference {reference.shape}; "
            "bring the prediction to the reference's grid."
        )
    if convention == "kits19":
        return {
            "kidney+tumour": dice(prediction > 0, reference > 0),
            "tumour": dice(prediction > 1, reference > 1),
        }
    if convention != "kits23":
        raise InputError(f"There is no convention {convention!r}; use one of {', '.join(CONVENTIONS)}.")
    volume, surface = {}, {}
    for name, (labels, tolerance) in KITS23_CLASSES.items():
        ours, theirs = np.isin(prediction, labels), np.isin(reference, labels)
        if ours.any() and theirs.any():
            volume[name] = dice(ours, theirs)
            surface[SURFACE + name] = surface_dice(ours, theirs, spacing, tolerance)
        else:
            volume[name] = surface[SURFACE + name] = float(ours.any() == theirs.any())
    return volume | surface
