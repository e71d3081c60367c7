"""Score label maps against references as the organisers of KiTS19 and of KiTS23 do.

    python -m kits.score PREDICTIONS REFERENCES [--convention kits19|kits23] [--json FILE]

**kits19**: Dice of kidney+tumour (labels > 0) and of tumour (labels > 1); where both sides are empty the
formula is 0 / 0, so the case has NaN there and the mean is taken over the cases that have a number.
**kits23**: Dice and surface Dice of three nested classes; 1 if both sides are empty, 0 if one is.
Either way arrays are compared voxel by voxel: shapes must agree, origin and direction are never looked at,
and a missing prediction counts as all background.

Sources: ``starter_code/evaluation.py`` of neheller/kits19; ``kits23/evaluation/metrics.py`` and
``kits23/configuration/labels.py`` of neheller/kits23; surface Dice by its authors' library
``surface-distance`` (Nikolov et al., arXiv 1809.04430).
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from surface_distance import compute_surface_dice_at_tolerance, compute_surface_distances

from kits.errors import InputError
from kits.geometry import Spacing
from kits.io.cases import READERS
from kits.io.images import read_labels


class Kits23Class(NamedTuple):
    """One of KiTS23's nested classes: the labels it joins, and its surface Dice's tolerance in mm."""

    labels: tuple[int, ...]
    tolerance: float


KITS23_CLASSES = {
    "kidney+masses": Kits23Class((1, 2, 3), 1.0330772532390826),
    "masses": Kits23Class((2, 3), 1.1328796488598762),
    "tumour": Kits23Class((2,), 1.1498198361434828),
}
CONVENTIONS = ("kits19", "kits23")
SURFACE = "surface "  # a surface Dice's column is its class's name after this

_KITS_NAME = re.compile(r"(?:case|segmentation|prediction)_(\d+)")


@dataclass
class Scores:
    """What was scored, and what could not be.

    Attributes:
        convention: ``kits19`` or ``kits23``.
        cases: case -> measure -> score in [0, 1], or NaN where KiTS19's formula has none.
        missing: cases without a prediction, scored as all background.
        failed: case -> why it could not be scored; these are in no mean.
        warnings: sentences for a person.
    """

    convention: str
    cases: dict[str, dict[str, float]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def measures(self) -> list[str]:
        """Names of the measures, in the table's order."""
        return list(next(iter(self.cases.values()), {}))

    @property
    def defined(self) -> dict[str, int]:
        """Measure -> number of cases where it is a number."""
        return {m: sum(not math.isnan(row[m]) for row in self.cases.values()) for m in self.measures}

    @property
    def means(self) -> dict[str, float]:
        """Measure -> mean over the cases where it is a number; NaN if there is none."""
        columns = {m: [r[m] for r in self.cases.values() if not math.isnan(r[m])] for m in self.measures}
        return {m: float(np.mean(column)) if column else math.nan for m, column in columns.items()}

    @property
    def composite(self) -> dict[str, float]:
        """What the organisers rank by: the mean of the mean Dice, and for KiTS23 of the mean surface Dice."""
        groups: dict[str, list[float]] = {}
        for measure, mean in self.means.items():
            groups.setdefault("surface" if measure.startswith(SURFACE) else "dice", []).append(mean)
        return {name: float(np.mean(group)) for name, group in groups.items()}

    def to_json(self) -> str:
        """The scores as strict JSON, with null for NaN."""
        return json.dumps(
            {
                "convention": self.convention,
                "cases": {case: _nulls(row) for case, row in self.cases.items()},
                "means": _nulls(self.means),
                "defined": self.defined,
                "composite": _nulls(self.composite),
                "missing": self.missing,
                "failed": self.failed,
                "warnings": self.warnings,
            },
            indent=2,
            allow_nan=False,
        )

    def table(self) -> str:
        """The scores as an aligned table: a line a case, then the means and the composite."""
        rows = [["case", *self.measures]]
        rows += [
            [case + (" (missing)" if case in self.missing else ""), *map(_four_digits, row.values())]
            for case, row in self.cases.items()
        ]
        rows.append(["mean", *map(_four_digits, self.means.values())])
        undefined = any(count < len(self.cases) for count in self.defined.values())
        if undefined:
            rows.append(["cases in the mean", *map(str, self.defined.values())])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join([row[0].ljust(widths[0]), *_right(row[1:], widths[1:])]) for row in rows]
        lines.insert(1, "-" * len(lines[0]))
        lines.insert(len(self.cases) + 2, lines[1])
        lines += [f"composite {name} {_four_digits(value)}" for name, value in self.composite.items()]
        if undefined:
            lines.append("nan: neither side has such a voxel, so the case is in no mean.")
        return "\n".join(lines)


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
    distances = compute_surface_distances(truth, prediction, spacing)
    return float(compute_surface_dice_at_tolerance(distances, tolerance))


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


def score_folders(predictions: Path, references: Path, convention: str = "kits19") -> Scores:
    """Scores of every reference, paired with predictions by name.

    Args:
        predictions: a folder of ``prediction_00210.nii.gz``, ``case_00210.nii.gz`` or ``NAME.nii.gz`` (also
            .nii, .mha, .nrrd), or one file.
        references: a folder of the same, of ``segmentation_00210.nii.gz``, or of folders ``case_00210`` or
            ``NAME`` that hold a ``segmentation`` or ``label`` file; or one file.

    Returns:
        Scores, where a case that could not be scored is in ``failed``.

    Raises:
        InputError: a path does not exist, there is no reference, two files mean one case, or a file is
            paired with a folder.
    """
    if convention not in CONVENTIONS:
        raise InputError(f"There is no convention {convention!r}; use one of {', '.join(CONVENTIONS)}.")
    ours, theirs = _pair(Path(predictions), Path(references))
    scores = Scores(convention)
    for case, path in theirs.items():
        try:
            reference, spacing = read_labels(path)
            if case in ours:
                prediction, _ = read_labels(ours[case])
            else:
                prediction = np.zeros_like(reference)
                scores.missing.append(case)
            if convention == "kits19" and reference.max(initial=0) > 2:
                scores.warnings.append(
                    f"{path} has label {reference.max()}, which KiTS19's formula counts as tumour; "
                    "if it is KiTS23's cyst (3), use --convention kits23."
                )
            if prediction.shape != reference.shape:
                raise InputError(
                    f"{ours[case]} has shape {prediction.shape} but {path} has {reference.shape} (z, y, x); "
                    "bring the prediction to the reference's grid."
                )
            scores.cases[case] = score_case(prediction, reference, spacing, convention)
        except InputError as error:
            scores.failed[case] = str(error)
    scores.warnings += [
        f"{path} has no reference under {references} and was left out."
        for case, path in ours.items()
        if case not in theirs
    ]
    return scores


def _pair(predictions: Path, references: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Case -> prediction file, and case -> reference file."""
    for path in (predictions, references):
        if not path.exists():
            raise InputError(f"{path} does not exist; give a folder of label maps or one file.")
    if predictions.is_file() != references.is_file():
        file, folder = sorted((predictions, references), key=Path.is_dir)
        raise InputError(f"{file} is a file but {folder} is a folder; give two folders or two files.")
    if predictions.is_file():
        case = _case_of(predictions)
        return {case: predictions}, {case: references}
    theirs = _label_maps(references)
    if not theirs:
        raise InputError(
            f"There is no reference under {references}; it should hold case_00210/segmentation.nii.gz, "
            "NAME/label.nii.gz, segmentation_00210.nii.gz or NAME.nii.gz."
        )
    return _label_maps(predictions), theirs


def _label_maps(folder: Path) -> dict[str, Path]:
    """Case -> label map: a folder's files, and each folder's ``segmentation`` or ``label`` file."""
    found: dict[str, Path] = {}
    for entry in sorted(folder.iterdir()):
        inside = [entry / f"{stem}{ending}" for stem in ("segmentation", "label") for ending in READERS]
        files = [file for file in inside if file.is_file()] if entry.is_dir() else [entry]
        for file in files:
            if _stem(file) is None or file.name.startswith(("imaging", ".")):
                continue
            case = _case_of(entry)
            if case in found:
                raise InputError(f"{found[case]} and {file} both mean case {case}; remove one of them.")
            found[case] = file
    return found


def _case_of(path: Path) -> str:
    """The case that a file or a folder is named after: the number of a KiTS name, or the whole name."""
    stem = _stem(path) or path.name
    kits = _KITS_NAME.fullmatch(stem)
    return kits[1] if kits else stem


def _stem(path: Path) -> str | None:
    """File name without its ending, or None if it is not a volume's."""
    return next((path.name[: -len(e)] for e in READERS if path.name.lower().endswith(e)), None)


def _nulls(scores: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(score) else score for name, score in scores.items()}


def _four_digits(score: float) -> str:
    return f"{score:.4f}"


def _right(cells: list[str], widths: list[int]) -> list[str]:
    return [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
