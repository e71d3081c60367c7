"""The paper's Table 2 and figure 4: each network alone and the ensemble, over cases that they never saw.

    python -m train evaluate --data KITS_DIR --weights DIR --out DIR [--cases NAME ...] [--mode native|paper]

Stage 1's own answer, and the cascade with each member of stage 2 by itself and with all of them, are scored as
``kits.score`` scores label maps, by KiTS19's convention. In cross-validation each fold brings its own weights, and the
table is over the cases of all folds.

What is written is whole at any moment, and grows case by case: ``table2.md``, ``table2.json``, ``per_case.csv``, the
ensemble's label maps in ``predictions/`` (for ``python -m kits.score``) and at the end ``figure4.png``.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import logging
import math
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from kits.cascade import MODES, TUMOUR, Cascade, most_probable
from kits.engine import Engine, Network, cover
from kits.errors import InputError, KitsError
from kits.files import READERS, Case, aside, find_cases, read_labels, read_volume, write_image, write_text
from kits.limits import check_memory
from kits.locate import locate, pad_to_window
from kits.overlay import BACKGROUND, MARGIN_MM, PANEL_WIDTH, View, draw_legend, draw_panel, draw_sheet, find_contours
from kits.postprocess import bounding_box, postprocess, smallest_component
from kits.preprocess import Normalisation, preprocess, working_shape
from kits.score import score_case
from kits.segment import segment
from kits.volume import Volume
from kits.weights import Member, load_members

ENSEMBLE = "ensemble"
PAPER = {
    "res-unet1": ((0.96, 0.02), (0.52, 0.32)),
    "res-unet2": ((0.97, 0.02), (0.70, 0.28)),
    "res-net": ((0.97, 0.02), (0.72, 0.26)),
    ENSEMBLE: ((0.98, 0.01), (0.73, 0.25)),
}
"""Table 2 of the paper: mean and standard deviation of kidney and of tumour Dice."""
TITLES = {"res-unet1": "Res-UNet1", "res-unet2": "Res-UNet2", "res-net": "Res-Net", ENSEMBLE: "Ensemble"}
CYST = 3
FOLD_SUFFIX = re.compile(r"-fold\d+$")
CHUNK = 32
"""Slices whose probabilities are held on the native grid at a time."""
log = logging.getLogger(__name__)


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
        with_cysts: cases whose reference has cysts (label 3), which count as kidney, as in KiTS19's references.
    """

    mode: str
    folds: tuple[Fold, ...]
    scores: list[Score] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    with_cysts: list[str] = field(default_factory=list)

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
stage 2. The paper's figures (Santini et al., arXiv 1909.00735, Table 2) are of its own 20 validation cases of KiTS19,
not of these cases.
"""
        if len(self.folds) > 1:
            text += "\nEach case is scored by the networks of its own fold, which never saw it.\n"
        if self.with_cysts:
            text += f"\nCysts count as kidney, as in KiTS19's references: {', '.join(self.with_cysts)}.\n"
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
            "with_cysts": self.with_cysts,
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


def evaluate(folds: Sequence[Fold], data: Path, out: Path, mode: str = "native") -> Table:
    """Score each network alone and the ensemble on every fold's cases, as the paper's Table 2 does.

    One case is held at a time. A case that fails is told, and costs no other its scores.

    Args:
        folds: weights folders, each with the cases that its networks never saw.
        data: folder of KiTS19's form: ``case_00003/imaging.nii.gz`` with ``segmentation.nii.gz``.
        out: folder for the table, the scores a case, the ensemble's label maps and the picture.
        mode: ``native`` or ``paper``, see ``Cascade``.

    Returns:
        The table; ``table.failed`` has the cases that failed.

    Raises:
        InputError: a fold names a case that is not there, two name the same one, or there is none.
        WeightsError: a fold's weights are not whole or do not fit.
        OutputError: a result cannot be written.
    """
    found = {case.name: case for case in find_cases(data)}
    names = Counter(name for fold in folds for name in fold.cases)
    if not names:
        raise InputError("There is no case to evaluate on; name at least one a fold.")
    if absent := sorted(set(names) - set(found)):
        raise InputError(f"{data} holds no {', '.join(absent)}; name cases that lie there as case_NNNNN.")
    if twice := sorted(name for name, count in names.items() if count > 1):
        raise InputError(f"{', '.join(twice)} would be scored twice; give each case to one fold.")
    members = [load_members(fold.weights) for fold in folds]
    table = Table(mode, tuple(folds))
    table.write(out)  # what cannot be written is better known before the work than after
    with logging_redirect_tqdm(), tqdm(total=len(names), unit="case", disable=None) as bar:
        for index, (fold, (locators, segmenters)) in enumerate(zip(folds, members, strict=True)):
            cascade = Cascade(locators, segmenters, mode=mode)
            for name in fold.cases:
                bar.set_postfix_str(name)
                attempt(found[name], index, cascade, row_names([*locators, *segmenters]), table, out)
                table.write(out)
                bar.update()
    write_figure4(table, found, out)
    return table


def attempt(case: Case, fold: int, cascade: Cascade, names: Sequence[str], table: Table, out: Path) -> None:
    """Add a case's scores to the table, all of them or, if anything fails, the reason."""
    try:
        check_memory(case)
        volume = read_volume(case)
        truth, cysts = read_truth(case, volume)
        scores = []
        for network, labels, seconds in answers(volume, cascade, names):
            scores.append(score(case.name, fold, network, labels, truth, volume, seconds))
        write_image(volume.to_home(labels), prediction_path(out, case))  # the ensemble's, which comes last
    except KitsError as error:
        table.failed[case.name] = str(error)
    except MemoryError:
        table.failed[case.name] = f"{case.source}: memory ran out; give more memory, or leave the case out."
    except Exception as error:
        table.failed[case.name] = f"{case.source}: unexpected {type(error).__name__}: {error}."
        log.debug("%s", case.name, exc_info=True)
    if case.name in table.failed:
        log.error("%s: failed. %s", case.name, table.failed[case.name])
        return
    table.scores += scores
    if cysts:
        table.with_cysts.append(case.name)
    log.info("%s: %s, kidney %.3f, tumour %.3f.", case.name, ENSEMBLE, scores[-1].kidney, scores[-1].tumour)


def row_names(members: Sequence[Member]) -> list[str]:
    """What the table calls networks: their files' names without ``-fold3`` and the like, if that tells them apart."""
    short = [FOLD_SUFFIX.sub("", member.name) for member in members]
    return [name if short.count(name) == 1 else member.name for name, member in zip(short, members, strict=True)]


def answers(volume: Volume, cascade: Cascade, names: Sequence[str]) -> Iterator[tuple[str, np.ndarray, float]]:
    """Every network's own label map of a volume, then the ensemble's.

    The regions are located once for all members of stage 2. The ensemble is run by itself, so that its label map is
    the one that ``process.py`` writes.

    Args:
        volume: the CT.
        cascade: with the networks of a weights folder.
        names: of stage 1's networks and then of stage 2's.

    Yields:
        (row of the table, uint8 (z, y, x) label map, seconds that it took).
    """
    to_the_letter = cascade.mode == "paper"
    smallest = smallest_component(volume.hu.shape, volume.hu.shape, volume.spacing, to_the_letter)
    for name, network in zip(names, cascade.locators, strict=False):
        started = time.perf_counter()
        labels = stage1_labels(volume, network, cascade.locate_norm, cascade.engine)
        yield name, postprocess(labels, smallest), time.perf_counter() - started
    started = time.perf_counter()
    regions = locate(volume, cascade.locators, cascade.locate_norm, cascade.engine, to_the_letter)
    locating = time.perf_counter() - started
    rows = [(name, [network]) for name, network in zip(names[len(cascade.locators) :], cascade.segmenters, strict=True)]
    for name, networks in [*rows, (ENSEMBLE, cascade.segmenters)]:
        started = time.perf_counter()
        labels = np.zeros(volume.hu.shape, np.uint8)
        for box, chunk in segment(volume, regions, networks, cascade.segment_norm, cascade.engine, cascade.mode):
            labels[box] = most_probable(chunk).cpu().numpy()
        yield name, postprocess(labels, smallest), locating + time.perf_counter() - started


def stage1_labels(volume: Volume, network: Network, norm: Normalisation, engine: Engine) -> np.ndarray:
    """Stage 1's own three classes: probabilities of halved 3 mm slices, interpolated to the native grid.

    Args:
        volume: the CT.
        network: Res-UNet1, from the engine's ``place``.
        norm: how its input is standardised.
        engine: where it runs.

    Returns:
        uint8 (z, y, x): 0 background, 1 kidney, 2 tumour.
    """
    working = working_shape(volume.hu.shape, volume.spacing)
    halved = (working[0], -(-working[1] // 2), -(-working[2] // 2))
    slices_ZYX = pad_to_window(preprocess(volume.hu, halved, norm, engine.device), norm.air)
    windows = [(y, x) for y in cover(0, halved[1], halved[1]) for x in cover(0, halved[2], halved[2])]
    halved_ZCYX = engine.predict([network], slices_ZYX, range(halved[0]), windows)[..., : halved[1], : halved[2]]
    depth, *plane = volume.hu.shape
    centres = ((torch.arange(depth) + 0.5) * (halved[0] / depth) - 0.5).clamp(0, halved[0] - 1)
    labels = np.empty(volume.hu.shape, np.uint8)
    for first in range(0, depth, CHUNK):
        positions = centres[first : first + CHUNK].to(halved_ZCYX)
        below = positions.long()
        above = (below + 1).clamp_max(halved[0] - 1)
        weight = (positions - below)[:, None, None, None]
        native_ZCYX = torch.lerp(halved_ZCYX[below], halved_ZCYX[above], weight)
        native_ZCYX = functional.interpolate(native_ZCYX, size=plane, mode="bilinear")
        labels[first : first + CHUNK] = most_probable(native_ZCYX).cpu().numpy()
    return labels


def read_truth(case: Case, volume: Volume) -> tuple[np.ndarray, bool]:
    """A case's reference on its volume's canonical grid, uint8 (z, y, x), and whether it had cysts.

    Cysts become kidney. As in ``kits.score``, sizes must agree, and the reference's origin and direction are never
    looked at: it is taken to be stored as its volume is.

    Raises:
        InputError: there is no reference beside the volume, it cannot be read, or its size is another.
    """
    path = reference_path(case)
    if path is None:
        raise InputError(f"{case.source.parent}: has no segmentation.nii.gz beside its volume; leave the case out.")
    stored, _ = read_labels(path)
    if stored.shape != volume.home.size_xyz[::-1]:
        raise InputError(
            f"{path} has shape {stored.shape} but {case.source} has {volume.home.size_xyz[::-1]} (z, y, x); "
            "give the reference of this volume."
        )
    cysts = stored == CYST
    stored[cysts] = 1
    return canonical(stored, volume), bool(cysts.any())


def canonical(stored: np.ndarray, volume: Volume) -> np.ndarray:
    """A (z, y, x) array as it is stored on a volume's home grid, turned into canonical orientation."""
    order, flips = volume.home.canonical_axes()
    return stored.transpose(order)[flips]


def reference_path(case: Case) -> Path | None:
    """The label map beside a case's volume, or None."""
    paths = (case.source.with_name(f"segmentation{ending}") for ending in READERS)
    return next((path for path in paths if path.is_file()), None)


def prediction_path(out: Path, case: Case) -> Path:
    """Where the ensemble's label map of a case is written."""
    return out / "predictions" / case.output_name


def score(
    case: str, fold: int, network: str, labels: np.ndarray, truth: np.ndarray, volume: Volume, seconds: float
) -> Score:
    """Score one label map against its reference; both uint8 (z, y, x) on the volume's grid."""
    dice = score_case(labels, truth, volume.spacing, "kits19")
    false_ml = math.nan if (truth >= TUMOUR).any() else float((labels >= TUMOUR).sum() * volume.voxel_ml)
    return Score(case, fold, network, dice["kidney+tumour"], dice["tumour"], false_ml, seconds)


def write_figure4(table: Table, cases: dict[str, Case], out: Path) -> None:
    """Draw the paper's figure 4: truth above, the ensemble's answer below, in the best, median and worst case.

    Cases go by their tumour's Dice or, where fewer than three have a tumour, by the kidneys'. Nothing is drawn if none
    was scored.

    Raises:
        OutputError: it cannot be written.
    """
    chosen = examples(table)
    if not chosen:
        return
    columns = [example_panels(title, cases[score.case], score, out) for title, score in chosen.items()]
    blank = Image.new("RGB", (PANEL_WIDTH, 1), BACKGROUND)
    columns += [[blank] * 3] * (3 - len(columns))
    sheet = draw_sheet([panel for row in zip(*columns, strict=True) for panel in row])
    with aside(out / "figure4.png") as partial:
        sheet.save(partial, format="PNG", optimize=True)


def examples(table: Table) -> dict[str, Score]:
    """The ensemble's best, median and worst case, or as many of them as there are."""
    scores = [score for score in table.scores if score.network == ENSEMBLE]
    ranked = sorted((one for one in scores if math.isnan(one.false_tumour_ml)), key=lambda one: one.tumour)
    if len(ranked) < 3:
        ranked = sorted((one for one in scores if not math.isnan(one.kidney)), key=lambda one: one.kidney)
    if len(ranked) < 3:
        return dict(zip(("best", "worst"), reversed(ranked), strict=False))
    return {"best": ranked[-1], "median": ranked[len(ranked) // 2], "worst": ranked[0]}


def example_panels(title: str, case: Case, score: Score, out: Path) -> list[Image.Image]:
    """Three panels of one case: the truth, the ensemble's answer, and what its contours mean.

    Shown is the axial slice with the most tumour (or kidney, in a case without) in the reference.
    """
    volume = read_volume(case)
    truth, _ = read_truth(case, volume)
    labels = canonical(read_labels(prediction_path(out, case))[0], volume)
    shown = truth >= TUMOUR if (truth >= TUMOUR).any() else truth > 0
    index = int(shown.sum(axis=(1, 2)).argmax())
    box = bounding_box((truth > 0) | (labels > 0))
    window = [slice(0, length) for length in volume.hu.shape[1:]]
    if box:
        margins = [round(MARGIN_MM / mm) for mm in volume.spacing[1:]]
        window = [
            slice(max(0, side.start - margin), min(length, side.stop + margin))
            for side, margin, length in zip(box[1:], margins, volume.hu.shape[1:], strict=True)
        ]
    sides_mm = [(side.stop - side.start) * mm for side, mm in zip(window, volume.spacing[1:], strict=True)]
    healthy = not math.isnan(score.false_tumour_ml)
    tumour = f"no tumour, {score.false_tumour_ml:.1f} ml found" if healthy else f"tumour {score.tumour:.3f}"
    captions = (
        f"{case.name}, {title}\ntruth\naxial {index + 1} of {len(truth)}",
        f"{case.name}, {title}\nkidney {score.kidney:.3f}\n{tumour}",
    )
    panels = [
        draw_panel(
            View((index, window[0], window[1]), caption, ("R", "L", "A", "P")),
            volume.hu,
            volume.spacing,
            find_contours(array, None),
            PANEL_WIDTH / max(sides_mm),
        )
        for caption, array in zip(captions, (truth, labels), strict=True)
    ]
    found = [replace(contour, name=f"{contour.name}, found") for contour in find_contours(labels, None)]
    return [*panels, draw_legend(found, volume.spacing)]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``python -m train evaluate``."""
    parser.add_argument("--data", type=Path, required=True, metavar="KITS_DIR", help="folder of case_NNNNN folders")
    parser.add_argument(
        "--weights", type=Path, nargs="+", required=True, metavar="DIR", help="weights folder, or one a fold"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the table and the picture")
    parser.add_argument(
        "--cases",
        nargs="+",
        action="append",
        metavar="NAME",
        help="cases that the networks never saw, case_00003 and so on; once a weights folder, in its order "
        "(default, for one folder: every case that has a reference)",
    )
    parser.add_argument("--mode", choices=MODES, default="native")


def main(arguments: argparse.Namespace) -> int:
    """Run ``python -m train evaluate``; returns 0, 1 if a case failed, or 2 if the call was wrong."""
    try:
        table = evaluate(folds_of(arguments), arguments.data, arguments.out, arguments.mode)
    except KitsError as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    print(table.markdown())
    return 1 if table.failed else 0


def folds_of(arguments: argparse.Namespace) -> list[Fold]:
    """Weights folders paired with their cases.

    Raises:
        InputError: it is not clear which folder's networks are to be judged on which cases.
    """
    lists = arguments.cases
    if lists is None and len(arguments.weights) == 1:
        lists = [[case.name for case in find_cases(arguments.data) if reference_path(case)]]
    if lists is None or len(lists) != len(arguments.weights):
        raise InputError(
            f"There are {len(arguments.weights)} weights folders but {len(lists or ())} lists of cases, and each "
            "fold's networks must be judged on cases that they never saw. Give --cases once a folder, in the same "
            "order, or let `python -m train all --folds K` do it, whose recipe knows the folds' cases."
        )
    return [Fold(weights, tuple(cases)) for weights, cases in zip(arguments.weights, lists, strict=True)]


def _nulls(figure: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else round(value, 6) for name, value in figure.items()}


def _rounded(value: object) -> object:
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else round(value, 6)
