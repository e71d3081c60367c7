"""The paper's Table 2, filled in: scores of each network on each case, their means, and how they are written."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, field, fields
from pathlib import Path

import numpy as np

from kits.io.atomic import write_text
from kits.io.cases import Case

ENSEMBLE = "ensemble"
PAPER = {
    "res-unet1": ((0.96, 0.02), (0.52, 0.32)),
    "res-unet2": ((0.97, 0.02), (0.70, 0.28)),
    "res-net": ((0.97, 0.02), (0.72, 0.26)),
    ENSEMBLE: ((0.98, 0.01), (0.73, 0.25)),
}
"""Table 2 of the paper: mean and standard deviation of kidney and of tumour Dice."""
TITLES = {"res-unet1": "Res-UNet1", "res-unet2": "Res-UNet2", "res-net": "Res-Net", ENSEMBLE: "Ensemble"}


@dataclass(frozen=True)
class Fold:
    """Networks, and the cases that they are judged on.

    Args:
        weights: folder of weight files for both stages.
        cases: names such as ``case_00003`` of cases that none of these networks saw in training.
    """

    weights: Path
    cases: tuple[str, ...]


@dataclass(frozen=True)
class Score:
    """One network on one case: a line of ``per_case.csv``.

    Args:
        case: its name.
        fold: index of the fold.
        network: the weight file's name without its fold, or ``ensemble``.
        kidney: Dice of kidney with tumour.
        tumour: Dice of tumour; NaN where neither the reference nor the network has any.
        false_tumour_ml: millilitres of tumour in a case whose reference has none; NaN where it has some.
        seconds: that the answer took, with stage 1, without reading.
    """

    case: str
    fold: int
    network: str
    kidney: float
    tumour: float
    false_tumour_ml: float
    seconds: float


@dataclass(frozen=True)
class Figure:
    """Mean and standard deviation (NumPy's, over n) of a measure over the cases that have it; NaN if none has."""

    mean: float
    std: float
    cases: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        numbers = [value for value in values if not math.isnan(value)]
        return cls(float(np.mean(numbers)), float(np.std(numbers)), len(numbers)) if numbers else NONE

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.std:.3f} ({self.cases})" if self.cases else "none"


NONE = Figure(math.nan, math.nan, 0)


@dataclass
class Table:
    """The scores of every network on every case, and what stands over them in the paper's Table 2.

    Args:
        mode: the cascade's, ``native`` or ``paper``.
        folds: what was to be judged.
        scores: in the order in which they came.
        failed: case -> why it has no scores; it is in no mean.
    """

    mode: str
    folds: tuple[Fold, ...]
    scores: list[Score] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def networks(self) -> list[str]:
        """Names of the rows: in the paper's order, networks that it does not have next, the ensemble last."""
        names = dict.fromkeys(score.network for score in self.scores)
        known = [name for name in PAPER if name in names and name != ENSEMBLE]
        others = [name for name in names if name not in PAPER]
        return known + others + [name for name in names if name == ENSEMBLE]

    def figures(self, network: str) -> dict[str, Figure]:
        """Measure -> its figure for one network: ``kidney``, ``tumour``, ``false_tumour_ml`` and ``seconds``.

        The tumour's is over the cases whose reference has a tumour. ``kits.score``, as the organisers' formula, also
        counts a tumour found where there is none, as 0; here that is what ``false_tumour_ml`` tells.
        """
        scores = [score for score in self.scores if score.network == network]
        return {
            "kidney": Figure.of([score.kidney for score in scores]),
            "tumour": Figure.of([score.tumour for score in scores if math.isnan(score.false_tumour_ml)]),
            "false_tumour_ml": Figure.of([score.false_tumour_ml for score in scores]),
            "seconds": Figure.of([score.seconds for score in scores]),
        }

    def rows(self) -> str:
        """The table itself, in Markdown, with the paper's figures beside ours."""
        lines = [
            "| network | kidney with tumour | tumour | false tumour, ml | paper: kidney | paper: tumour |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for network in self.networks:
            ours = self.figures(network)
            paper = [f"{mean:.2f} ± {std:.2f}" for mean, std in PAPER.get(network, ())] or ["", ""]
            false = ours["false_tumour_ml"]
            cells = [
                TITLES.get(network, network),
                str(ours["kidney"]),
                str(ours["tumour"]),
                f"{false.mean:.1f} ({false.cases})" if false.cases else "none",
                *paper,
            ]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)

    def markdown(self) -> str:
        """The table with what a reader has to know of it."""
        cases = len({score.case for score in self.scores})
        text = f"""Dice by KiTS19's convention: mean ± standard deviation over cases, in brackets how many.
Cases: {cases}, folds: {len(self.folds)}, mode: `{self.mode}`.
The tumour's mean is over the cases that have one; what was taken for tumour in the others stands beside it, as a mean
too. Cases that a network learned from would flatter it.

{self.rows()}

Res-UNet1 is stage 1 by itself, on halved 3 mm slices; Res-UNet2 and Res-Net are the cascade with that network alone in
stage 2. Cysts count as kidney, as in KiTS19's references. The paper's figures (Santini et al., arXiv 1909.00735,
Table 2) are of its own 20 validation cases of KiTS19, not of these cases.
"""
        if len(self.folds) > 1:
            text += "\nEach case is scored by the networks of its own fold, which never saw it.\n"
        if self.failed:
            text += f"\n**Failed, and in no mean:** {', '.join(self.failed)}.\n"
        return text

    def to_json(self) -> str:
        """The figures as strict JSON, with null for what no case has."""
        paper = {
            network: {
                measure: dict(zip(("mean", "std"), figure, strict=True))
                for measure, figure in zip(("kidney", "tumour"), row, strict=True)
            }
            for network, row in PAPER.items()
        }
        document = {
            "convention": "kits19",
            "mode": self.mode,
            "networks": {
                network: {measure: _nulls(asdict(figure)) for measure, figure in self.figures(network).items()}
                for network in self.networks
            },
            "paper": paper | {"on": "the paper's 20 validation cases of KiTS19"},
            "folds": [{"weights": str(fold.weights), "cases": fold.cases} for fold in self.folds],
            "failed": self.failed,
        }
        return json.dumps(document, indent=2, allow_nan=False) + "\n"

    def to_csv(self) -> str:
        """A line a case and network; a cell is empty where there is no number."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([column.name for column in fields(Score)])
        for score in self.scores:
            writer.writerow(_rounded(value) for value in astuple(score))
        return text.getvalue()

    def write(self, out: Path) -> None:
        """Write ``table2.md``, ``table2.json`` and ``per_case.csv``.

        Raises:
            OutputError: a file cannot be written.
        """
        write_text(f"# Table 2\n\n{self.markdown()}", out / "table2.md")
        write_text(self.to_json(), out / "table2.json")
        write_text(self.to_csv(), out / "per_case.csv")


def _nulls(figure: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else round(value, 6) for name, value in figure.items()}


def _rounded(value: object) -> object:
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else round(value, 6)


def reference_path(case: Case) -> Path:
    """Where the label map of a case lies: beside its volume."""
    return case.source.with_name("segmentation.nii.gz")


def prediction_path(out: Path, case: Case) -> Path:
    """Where the ensemble's label map of a case is written."""
    return out / "predictions" / case.output_name
