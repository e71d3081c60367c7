"""What a run says of its cases: the manifest, millilitres a side, a line for the screen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import cc3d
import numpy as np

from kits.batch.outputs import Output
from kits.cascade.cascade import KIDNEY, TUMOUR
from kits.choices import Status
from kits.geometry import bounding_box
from kits.io.atomic import write_text
from kits.io.cases import Case
from kits.io.volume import Volume

BODY_HU = -300


@dataclass(frozen=True)
class Outputs:
    """Where results go and which there are.

    Args:
        folder: label maps.
        extras: what else is written of each case.
        report: JSON manifest.
        skip_existing: leave alone the cases that are done.
    """

    folder: Path
    extras: tuple[Output, ...] = ()
    report: Path | None = None
    skip_existing: bool = False


@dataclass
class CaseReport:
    """A case's line in the manifest: what became of it (``error`` says why) and what was found.

    Millilitres and voxels are those of the label map, a side; a fused kidney counts for the side of its centroid.
    ``missing`` tells of what is extra and could not be written.
    """

    name: str
    source: str
    output: str
    status: Status = Status.FAILED
    error: str = ""
    size: tuple[int, ...] = ()
    spacing_mm: tuple[float, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    right: dict[str, float] = field(default_factory=dict)
    left: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def write_report(reports: Sequence[CaseReport], outputs: Outputs) -> None:
    """Write the manifest of the cases so far, if one is asked for."""
    if outputs.report:
        write_text(json.dumps([asdict(one) for one in reports], indent=2) + "\n", outputs.report)


def not_reached(cases: Sequence[Case], reason: str) -> list[CaseReport]:
    """What is to be said of cases that a run ended before."""
    return [CaseReport(case.name, str(case.source), case.output_name, Status.NOT_REACHED, reason) for case in cases]


def unfinished(reports: Sequence[CaseReport]) -> list[str]:
    """A sentence on each case that failed or lacks an extra, and one on those that were not reached."""
    sentences = [report.error for report in reports if report.status == Status.FAILED]
    sentences += [sentence for report in reports for sentence in report.missing]
    if waiting := [report for report in reports if report.status == Status.NOT_REACHED]:
        done = len(reports) - len(waiting)
        sentences.append(
            f"{waiting[0].error} after {done} of {len(reports)} cases; run again with --skip-existing for the others."
        )
    return sentences


def volumetry(volume: Volume, labels: np.ndarray) -> tuple[dict[str, float], dict[str, float]]:
    """Voxels and millilitres of kidney and tumour on the patient's right and left.

    A component of kidney and tumour belongs to the side of the body's middle on which its centroid lies.
    """
    names = (("kidney", KIDNEY), ("tumour", TUMOUR))
    counts = np.zeros((2, 2), np.int64)
    if box := bounding_box(labels > 0):
        crop = labels[box]
        components = cc3d.connected_components(crop > 0)
        centroids = box[2].start + cc3d.statistics(components)["centroids"][:, 2]
        middle = np.median(np.nonzero(volume.hu[box[0]][::8, ::4] > BODY_HU)[2])
        is_left = (centroids > middle)[components]
        for index, (_, label) in enumerate(names):
            counts[:, index] = np.bincount(is_left[crop == label], minlength=2)
    right, left = (
        {f"{name}_voxels": int(n) for (name, _), n in zip(names, side, strict=True)}
        | {f"{name}_ml": round(n * volume.voxel_ml, 2) for (name, _), n in zip(names, side, strict=True)}
        for side in counts.tolist()
    )
    return right, left


def summary(report: CaseReport) -> str:
    """One line on a finished case."""
    if report.status == Status.SKIPPED:
        return f"{report.output} is there already; skipped."
    kidney, tumour = (sum(side[f"{name}_ml"] for side in (report.right, report.left)) for name in ("kidney", "tumour"))
    text = f"kidney {kidney:.0f} ml, tumour {tumour:.1f} ml, {sum(report.seconds.values()):.1f} s."
    return " ".join([text, *report.warnings])
