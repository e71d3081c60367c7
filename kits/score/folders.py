"""Score folders of label maps: which file belongs to which reference, what is odd about them, tables of the scores.

A missing prediction counts as all background. Origin and direction change no score, as in the organisers' code; where a
prediction's differ from the reference's, a warning says so.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kits.errors import InputError, printable
from kits.io.formats import ENDINGS, ending_of
from kits.io.forms import IMAGES
from kits.io.reader import Reader
from kits.io.volume import Grid
from kits.score import CONVENTIONS
from kits.score.metrics import SURFACE, score_case

LABELS = {"kits19": 2, "kits23": 3}
"""The highest label of each convention."""
_KITS_NAME = re.compile(r"(?:case|segmentation|prediction|aggregated)_(\d+)(?:_segmentation)?")
_IN_A_FOLDER = ("segmentation", "label", "aggregated_MAJ_seg", "aggregated_AND_seg", "aggregated_OR_seg")
"""What a case's folder may call its label map: KiTS19 and KiTS23's name, ours, and KiTS21's, majority vote first."""


@dataclass
class Scores:
    """What was scored, and what could not be.

    Attributes:
        convention: ``kits19`` or ``kits23``.
        cases: case -> measure -> score in [0, 1], or NaN where KiTS19's formula has none.
        missing: cases without a prediction, scored as all background.
        failed: case -> why it could not be scored; these are in no mean.
        out_of_range: sentences on files with labels that no convention has; they are scored by the formula.
        warnings: sentences for a person.
    """

    convention: str
    cases: dict[str, dict[str, float]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    out_of_range: list[str] = field(default_factory=list)
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
                "out_of_range": self.out_of_range,
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


def score_folders(predictions: Path, references: Path, convention: str = "kits19") -> Scores:
    """Scores of every reference, paired with predictions by name.

    Args:
        predictions: a folder of ``prediction_00210.nii.gz``, ``case_00210.nii.gz`` or ``NAME.nii.gz`` (also
            .nii, .mha, .nrrd), or one file.
        references: a folder of the same, of ``segmentation_00210.nii.gz``, or of folders ``case_00210`` or
            ``NAME`` that hold a ``segmentation``, ``label`` or ``aggregated_MAJ_seg`` file; or one file.

    Returns:
        Scores, where a case that could not be scored is in ``failed``.

    Raises:
        InputError: a path does not exist, there is no reference or no prediction, two files mean one case, or a file
            is paired with a folder.
    """
    if convention not in CONVENTIONS:
        raise InputError(f"There is no convention {convention!r}; use one of {', '.join(CONVENTIONS)}.")
    ours, theirs = _pair(Path(predictions), Path(references))
    scores = Scores(convention)
    with Reader() as reader:
        for case, path in theirs.items():
            try:
                scores.cases[case] = _score_files(reader, ours.get(case), path, scores)
            except InputError as error:
                scores.failed[case] = str(error)
            if case not in ours:
                scores.missing.append(case)
    scores.warnings += [
        f"{path} has no reference under {references} and was left out."
        for case, path in ours.items()
        if case not in theirs
    ]
    return scores


def _score_files(reader: Reader, ours: Path | None, path: Path, scores: Scores) -> dict[str, float]:
    """Scores of a prediction, or of none, against a reference; what is odd about them goes into ``scores.warnings``."""
    reference, grid = reader.read_labels(path)
    x, y, z = grid.spacing_xyz
    if ours is None:
        return score_case(np.zeros_like(reference), reference, (z, y, x), scores.convention)
    prediction, our_grid = reader.read_labels(ours)
    if prediction.shape != reference.shape:
        raise InputError(
            f"{ours} has shape {prediction.shape} but {path} has {reference.shape} (z, y, x); "
            "bring the prediction to the reference's grid."
        )
    for file, labels in ((ours, prediction), (path, reference)):
        _check_values(file, labels, scores)
    scores.warnings += _elsewhere(ours, our_grid, path, grid)
    return score_case(prediction, reference, (z, y, x), scores.convention)


def _check_values(file: Path, labels: NDArray[np.integer], scores: Scores) -> None:
    """Tell of labels that no convention has, and of KiTS23's cyst under KiTS19's."""
    highest, most = int(labels.max(initial=0)), LABELS[scores.convention]
    if highest > max(LABELS.values()):
        text = f"{file} has label {highest}; give 0 background, 1 kidney, 2 tumour and, for KiTS23, 3 cyst."
        scores.out_of_range.append(printable(text))
    elif highest > most:
        scores.warnings.append(
            f"{file} has label {highest}, which KiTS19's formula counts as tumour; "
            "if it is KiTS23's cyst (3), use --convention kits23."
        )


def _elsewhere(ours: Path, grid: Grid, path: Path, reference: Grid) -> list[str]:
    """A warning if a prediction's header puts its voxels elsewhere than the reference's does."""
    if not np.allclose(grid.direction, reference.direction, atol=1e-2):
        what = "its axes run in other directions than"
    elif not np.allclose(grid.spacing_xyz, reference.spacing_xyz, rtol=1e-2):
        what = "its spacing differs from"
    elif np.abs(np.subtract(grid.origin, reference.origin)).max() > 0.5 * min(reference.spacing_xyz):
        what = "its origin differs from"
    else:
        return []
    return [
        f"{ours}: {what} {path}'s; arrays are compared as they are stored, as the organisers do. "
        "If the score is unexpected, write the label map on the reference's grid (same direction, spacing and origin)."
    ]


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
    ours = _label_maps(predictions)
    if not ours:
        raise InputError(
            f"There is no prediction under {predictions}; it should hold prediction_00210.nii.gz, case_00210.nii.gz or "
            "NAME.nii.gz."
        )
    return ours, theirs


def _label_maps(folder: Path) -> dict[str, Path]:
    """Case -> label map: a folder's files, and the label map in each of its folders."""
    found: dict[str, Path] = {}
    of_a_job = [path for path in (folder / IMAGES).glob("*") if path.is_dir()]
    if len(of_a_job) == 1:  # the form of grand-challenge.org and KiTS21, images/SOCKET/NAME.mha
        folder = of_a_job[0]
    for entry in sorted(folder.iterdir()):
        file = _in_folder(entry) if entry.is_dir() else entry
        if file is None or not ending_of(file) or file.name.startswith(("imaging", ".")):
            continue
        case = _case_of(entry)
        if case in found:
            raise InputError(f"{found[case]} and {file} both mean case {case}; remove one of them.")
        found[case] = file
    return found


def _in_folder(folder: Path) -> Path | None:
    """The label map of a case's own folder, if it holds one."""
    names = (folder / f"{stem}{ending}" for stem in _IN_A_FOLDER for ending in ENDINGS)
    return next((path for path in names if path.is_file()), None)


def _case_of(path: Path) -> str:
    """The case that a file or a folder is named after: the number of a KiTS name, or the whole name."""
    ending = "" if path.is_dir() else ending_of(path)
    stem = path.name[: len(path.name) - len(ending)]
    kits = _KITS_NAME.fullmatch(stem)
    return kits[1] if kits else stem


def _nulls(scores: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(score) else score for name, score in scores.items()}


def _four_digits(score: float) -> str:
    return f"{score:.4f}"


def _right(cells: list[str], widths: list[int]) -> list[str]:
    return [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
