"""The paper's figure 4: truth above, the ensemble's answer below, in three cases."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from PIL import Image

from kits.batch.overlay import (
    BACKGROUND,
    MARGIN_MM,
    PANEL_WIDTH,
    View,
    draw_legend,
    draw_panel,
    draw_sheet,
    find_contours,
)
from kits.cascade.cascade import TUMOUR
from kits.geometry import bounding_box
from kits.io.atomic import aside
from kits.io.cases import Case
from kits.io.images import read_volume

from ..data.cases import kits19_labels, labels_of
from .table import ENSEMBLE, Score, Table, prediction_path, reference_path


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
    truth = kits19_labels(labels_of(volume, reference_path(case)))
    labels = labels_of(volume, prediction_path(out, case))
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
