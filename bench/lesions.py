"""Tumours one by one, false ones, and what the networks' probabilities are worth."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import cc3d
import numpy as np

SIZES_ML = (0.0, 2.0, 5.0, 10.0, 50.0, float("inf"))
"""Borders of the classes of size."""
DETECTED = 0.1
"""A tumour is found if at least this share of it is called tumour."""
SPECK_ML = 0.1
"""Components of a reference that are smaller are slips of the pen."""
BINS = 10
RESAMPLES = 2000

Lesion = tuple[float, float]
"""A true tumour: its ml, and the share of it that was called tumour."""


def lesions_of(
    predicted: np.ndarray, truth: np.ndarray, voxel_ml: float
) -> tuple[tuple[Lesion, ...], tuple[float, ...]]:
    """The true tumours of a case, and ml of each false one: a component that touches no true tumour.

    Args:
        predicted, truth: bool (z, y, x), what is called tumour and what is.
        voxel_ml: volume of a voxel.
    """
    true, sizes = numbered(truth)
    caught = np.bincount(true[predicted], minlength=len(sizes))
    found = [(round(n * voxel_ml, 2), round(c / n, 3)) for n, c in zip(sizes[1:], caught[1:], strict=True)]
    called, sizes = numbered(predicted)
    touched = np.bincount(called[truth], minlength=len(sizes))
    false = [round(n * voxel_ml, 2) for n, t in zip(sizes[1:], touched[1:], strict=True) if not t]
    return tuple(one for one in found if one[0] >= SPECK_ML), tuple(false)


def numbered(mask: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Components of a mask, numbered from 1, and how many voxels each number has, 0 first."""
    labels: Any = cc3d.connected_components(np.ascontiguousarray(mask))
    return labels, np.bincount(labels.ravel()).tolist()


def size_class(ml: float) -> str:
    """The class of a tumour's size, such as ``2-5 ml``."""
    low, high = next((low, high) for low, high in itertools.pairwise(SIZES_ML) if ml < high)
    return f"< {high:g} ml" if low == 0 else f"> {low:g} ml" if high == SIZES_ML[-1] else f"{low:g}-{high:g} ml"


def by_size(lesions: Sequence[Lesion]) -> list[tuple[str, str, str]]:
    """A row a class of size that occurs: the class, how many of its tumours were found, and the mean share found."""
    rows = []
    for low in SIZES_ML[:-1]:
        name = size_class(low)
        shares = [share for ml, share in lesions if size_class(ml) == name]
        if shares:
            hits = sum(share >= DETECTED for share in shares)
            rows.append((name, f"{hits} of {len(shares)}", f"{np.mean(shares):.2f}"))
    return rows


def interval(values: Sequence[float]) -> str:
    """95 % of the means of as many values drawn with replacement: ``0.91-0.94``; nothing of fewer than three."""
    if len(values) < 3:
        return "-"
    drawn = np.random.default_rng(0).choice(np.asarray(values, float), (RESAMPLES, len(values)))
    low, high = np.quantile(drawn.mean(1), (0.025, 0.975))
    return f"{low:.3f}-{high:.3f}"


def expected_dice(percent: np.ndarray, called: np.ndarray) -> float:
    """The Dice coefficient that probabilities promise a mask: what is called counts as much as it is probable.

    Args:
        percent: probability of the structure, 0 to 100.
        called: bool, of the same shape.

    Returns:
        From 0 to 1; NaN where nothing is called.
    """
    if not called.any():
        return float("nan")
    both = float(percent[called].sum(dtype=np.float64)) / 100
    return 2 * both / (int(called.sum()) + float(percent.sum(dtype=np.float64)) / 100)


def reliability(percent: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Counts (``BINS``, 3) by probability: voxels, the sum of their probabilities, and those that are the structure."""
    index = np.minimum(percent.astype(int) * BINS // 100, BINS - 1).ravel()
    weights = (None, percent.ravel() / 100, truth.ravel())
    return np.stack([np.bincount(index, weight, BINS) for weight in weights], 1)


def calibration(counts: np.ndarray) -> list[tuple[str, str, str]]:
    """A row a bin of probability but the lowest: which, its mean probability, and the true share."""
    return [
        (f"{bin * 100 // BINS}-{(bin + 1) * 100 // BINS} %", f"{promised / voxels:.2f}", f"{true / voxels:.2f}")
        for bin, (voxels, promised, true) in enumerate(counts)
        if bin and voxels
    ]
