"""What a run says of its cases: the manifest, millilitres a side, a line for the screen."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from kits.batch.outputs import Output
from kits.choices import Status
from kits.errors import KitsError, OutputError, disk_is_full, printable
from kits.io.atomic import is_stream, write_text
from kits.io.cases import Case
from kits.io.stores.url import Url
from kits.io.volume import Volume
from kits.measure.sides import left_side
from kits.runtime.memory import LEAST_BASE_BYTES

log = logging.getLogger(__name__)

BRIEF_SECONDS, TELLING_TIMES = 0.2, 20.0
"""A manifest that takes longer to write is written once in so many times as long, at the run's end besides."""


@dataclass(frozen=True)
class Outputs:
    """Where results go, which there are, and what is left alone.

    Args:
        folder: label maps.
        extras: what else is written of each case.
        skip_existing: leave alone the cases that are done, of the same input and in the same way.
        recipe: what decides the labels: version, mode, checksums of the weights, options.
        base_bytes: memory that the smallest scan takes, for a look before reading.
        store: URL that all this goes to in the end; ``folder`` then only stands for it.
    """

    folder: Path
    extras: tuple[Output, ...] = ()
    skip_existing: bool = False
    recipe: Mapping[str, object] = field(default_factory=dict)
    base_bytes: int = LEAST_BASE_BYTES
    store: Url | None = None

    def at(self, folder: Path) -> Outputs:
        """The same in another folder."""
        return replace(self, folder=folder, extras=tuple(extra.at(folder) for extra in self.extras))


@dataclass
class CaseReport:
    """A case's line in the manifest: what became of it (``error`` says why) and what was found.

    Millilitres and voxels are those of the label map, a side; a fused kidney counts for the side of its centroid.
    ``measurements`` are those of ``kits.measure`` (docs/measurements.md). ``codes`` are those of the warnings that have
    one, ``missing`` tells of what is extra and could not be written, ``sha256`` is the label map's file's. ``seconds``
    are each stage's by the clock: with several cases in flight they include waiting for the others' turns, so their sum
    over cases is more than the run took. A skipped case has the figures of the run that made its label map.
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
    measurements: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    sha256: str = ""


class Manifest:
    """The JSON file that tells what became of each case of a run.

    It lists the cases of its own run; of two runs that write to one file the later writer's stays, whole.

    Args:
        path: None for a run that keeps none; a device or pipe, such as ``/dev/stdout``, gets it once, at the end.
        every: seconds between two tellings at least; the first one waits so long, too.
    """

    def __init__(self, path: Path | None, every: float = 0.0) -> None:
        self.path, self.every = path, every
        self.complaint = ""
        self.due = time.monotonic() + every

    def begin(self) -> None:
        """Try the place before hours of work depend on it.

        Raises:
            OutputError: it cannot be written to, for another reason than a full disk, which costs no run.
        """
        if self.path and not is_stream(self.path):
            try:
                write_text("[]\n", self.path)
            except OutputError as error:
                if not disk_is_full(error):
                    raise
                self.complain(error)

    def write(self, reports: Sequence[CaseReport]) -> None:
        """Tell of the cases so far; a disk that is full is complained of once.

        Of thousands of cases that takes seconds: then not after each, so that it costs a twentieth of the time at most.
        """
        began = time.monotonic()
        if self.path and not is_stream(self.path) and began >= self.due:
            self.end(reports)
            took = time.monotonic() - began
            self.due = began + max(self.every, TELLING_TIMES * took if took > BRIEF_SECONDS else 0.0)

    def end(self, reports: Sequence[CaseReport]) -> None:
        """Tell of all cases."""
        if not self.path:
            return
        try:
            lines = ",\n".join(json.dumps(asdict(one), indent=1) for one in reports)  # one by one: there may be many
            write_text(f"[\n{lines}\n]\n", self.path)
            self.complaint = ""
        except OutputError as error:
            self.complain(error)

    def complain(self, error: KitsError) -> None:
        if not self.complaint:
            log.warning("%s", error)
        self.complaint = str(error)


def not_reached(cases: Sequence[Case], reason: str) -> list[CaseReport]:
    """What is to be said of cases that a run ended before."""
    return [CaseReport(case.name, case.place, case.output_name, Status.NOT_REACHED, reason) for case in cases]


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
    """Voxels and millilitres on the patient's right and left: kidney with masses, parenchyma (label kidney), tumour.

    What counts for which side: see ``kits.measure.sides.left_side``.
    """
    found = left_side(labels, volume.hu)
    sides: list[dict[str, float]] = []
    for is_left in (False, True):
        voxels = dict.fromkeys(("kidney_with_masses", "parenchyma", "tumour"), 0)
        if found:
            box, left = found
            _, parenchyma, tumour, *more = np.bincount(labels[box][left == is_left], minlength=3).tolist()
            voxels = {
                "kidney_with_masses": parenchyma + tumour + sum(more),
                "parenchyma": parenchyma,
                "tumour": tumour,
            }
        sides.append(
            {f"{name}_voxels": n for name, n in voxels.items()}
            | {f"{name}_ml": round(n * volume.voxel_ml, 2) for name, n in voxels.items()}
        )
    return sides[0], sides[1]


def summary(report: CaseReport, number: int, of: int) -> tuple[int, str]:
    """One line on a case that is through, and how loud it is to be said; the end tells why those that failed did."""
    name = printable(report.name)
    begin = f"{name}: " if of == 1 else f"{number}/{of} {name}: "
    if report.status == Status.FAILED:
        return logging.ERROR, f"{begin}failed."
    columns = ("kidney_with_masses", "tumour")
    kidney, tumour = (sum(side[f"{column}_ml"] for side in (report.right, report.left)) for column in columns)
    text = f"kidney with masses {kidney:.0f} ml, tumour {tumour:.1f} ml, "
    text += "done by an earlier run." if report.status == Status.SKIPPED else f"{sum(report.seconds.values()):.1f} s."
    return logging.INFO, begin + " ".join([text, *report.warnings])
