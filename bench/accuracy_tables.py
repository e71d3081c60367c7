"""What ``bench.accuracy`` found, as tables: a row a network and case, summed up by group, tumour and probability."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.common import table
from bench.lesions import BINS, Lesion, by_size, calibration, interval

WHOLE = ("volumes", "kits")
"""Groups of real whole volumes."""

Overlap = tuple[int, int]
"""Twice the common voxels, and the sum of both masks' voxels: their ratio is the Dice coefficient."""


@dataclass(frozen=True)
class Row:
    """What one network, or the ensemble, made of one case.

    Args:
        network: its name and the mode.
        group: ``slices``, ``volumes``, ``kits`` (whole volumes with real tumours) or ``simulated`` with the kind.
        case, patient: of the training's configuration.
        unseen: whether no patient in it is one of those trained on.
        kidney, tumour: overlap of kidney with tumour, and of tumour.
        has_kidney, has_tumour: whether the truth shows any.
        tumour_ml: volume that was taken for tumour.
        lesions: of whole volumes, each true tumour, see ``lesions_of``.
        false_ml: of whole volumes, each component that was taken for tumour and touches none, ml.
        promised: Dice of kidney with tumour and of tumour that the probabilities promise, NaN where nothing is called.
        bins: of the tumour's probabilities, see ``reliability``.
    """

    network: str
    group: str
    case: str
    patient: str
    unseen: bool
    kidney: Overlap
    tumour: Overlap
    has_kidney: bool
    has_tumour: bool
    tumour_ml: float
    lesions: tuple[Lesion, ...] = ()
    false_ml: tuple[float, ...] = ()
    promised: tuple[float, float] | None = None
    bins: list[list[float]] | None = None


def pooled(rows: Sequence[Row], structure: str) -> str:
    """Dice of all voxels together."""
    both, each = np.sum([getattr(row, structure) for row in rows], axis=0)
    return f"{both / each:.3f}" if each else "-"


def mean(rows: Sequence[Row], structure: str) -> str:
    """Mean Dice over the patients that have the structure, all cases of a patient taken together; and how many."""
    values = by_patient(rows, structure)
    return f"{np.mean(values):.3f} ({len(values)})" if values else "-"


def by_patient(rows: Sequence[Row], structure: str) -> list[float]:
    """Dice of each patient that has the structure, all cases of a patient taken together."""
    patients: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(2))
    for row in rows:
        patients[row.patient] += getattr(row, structure)
    having = sorted({row.patient for row in rows if getattr(row, f"has_{structure}")})
    return [float(np.divide(*patients[patient])) for patient in having]


def false_tumours(rows: Sequence[Row]) -> str:
    """In how many of the cases without a tumour one was seen, and how much of it there was on average."""
    healthy = [row for row in rows if not row.has_tumour]
    if not healthy:
        return "-"
    wrong, ml = sum(row.tumour_ml > 0 for row in healthy), np.mean([row.tumour_ml for row in healthy])
    return f"{wrong} of {len(healthy)}" + (f", {ml:.1f} ml" if healthy[0].group != "slices" else "")


SUMMARY: dict[str, Callable[[Sequence[Row]], str]] = {
    "kidney + tumour, mean": lambda rows: mean(rows, "kidney"),
    "95 %": lambda rows: interval(by_patient(rows, "kidney")),
    "pooled": lambda rows: pooled(rows, "kidney"),
    "tumour, mean": lambda rows: mean(rows, "tumour"),
    "95 % ": lambda rows: interval(by_patient(rows, "tumour")),
    "pooled ": lambda rows: pooled(rows, "tumour"),
    "false tumours": false_tumours,
}
"""Column -> its figure, of the cases of one group as one network saw them."""


def tables(rows: Sequence[Row]) -> str:
    """Markdown: a summary of unseen cases, the single volumes, their tumours by size, and the probabilities' worth."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row.unseen:
            groups[row.group, row.network].append(row)
            if row.group.startswith("simulated "):
                groups["simulated, all", row.network].append(row)
    summary = [(group, network, *(f(found) for f in SUMMARY.values())) for (group, network), found in groups.items()]
    single = [
        (row.case, "" if row.unseen else "seen", row.network, f"{np.divide(*row.kidney):.4f}",
         f"{np.divide(*row.tumour):.4f}" if row.has_tumour else "", found_lesions(row), f"{sum(row.false_ml):.1f}")
        for row in rows if row.group in WHOLE
    ]  # fmt: skip
    return (
        "Dice; in brackets over how many patients.\n\n"
        + table(("unseen cases", "network, mode", *SUMMARY), sorted(summary))
        + "\n"
        + table(
            ("volume", "", "network, mode", "kidney + tumour", "tumour", "tumours, ml (found)", "false, ml"), single
        )
        + "\n"
        + lesion_tables(rows)
        + confidence_tables(rows)
    )


def found_lesions(row: Row) -> str:
    """Each true tumour's ml, and the share that was found of it."""
    return ", ".join(f"{ml:.1f} ({share:.0%})" for ml, share in sorted(row.lesions, reverse=True))


def lesion_tables(rows: Sequence[Row]) -> str:
    """Real tumours of whole volumes by size, unseen and seen apart."""
    groups: dict[tuple[str, str], list[Lesion]] = defaultdict(list)
    for row in rows:
        if row.group in WHOLE:
            groups["unseen" if row.unseen else "seen", row.network] += row.lesions
    lines = [(*key, *line) for key, lesions in sorted(groups.items()) for line in by_size(lesions)]
    return table(("whole volumes", "network, mode", "size", "found", "mean share found"), lines) if lines else ""


def confidence_tables(rows: Sequence[Row]) -> str:
    """What the probabilities of tumour promise, and what is true: by probability, and by case."""
    judged = [row for row in rows if row.bins is not None and row.promised is not None]
    if not judged:
        return ""
    lines, text = [], ""
    for network in sorted({row.network for row in judged}):
        counts = np.zeros((BINS, 3))
        mine = [row for row in judged if row.network == network]
        for row in mine:
            counts += np.array(row.bins)
        lines += [(network, *line) for line in calibration(counts)]
        for number, structure in enumerate(("kidney", "tumour")):
            pairs = np.array(
                [(row.promised[number], np.divide(*getattr(row, structure))) for row in mine
                 if row.promised and np.isfinite(row.promised[number])]
            )  # fmt: skip
            if len(pairs) > 2 and pairs.std(0).all():
                text += (
                    f"{network}, {structure}: promised Dice {pairs[:, 0].mean():.3f}, true {pairs[:, 1].mean():.3f}, "
                    f"correlation {np.corrcoef(pairs.T)[0, 1]:.2f} over {len(pairs)} cases.\n"
                )
    return "\n" + table(("network, mode", "probability of tumour", "mean", "true share"), lines) + "\n" + text
