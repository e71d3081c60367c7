"""Many cases: read ahead and write behind, keep failures apart, keep the manifest, show progress."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import cc3d
import numpy as np
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from kits.cascade import KIDNEY, TUMOUR, Cascade, Prediction
from kits.errors import KitsError
from kits.files import Case, read_volume, write_image, write_text
from kits.limits import Stopped, Watch, check_memory, return_memory
from kits.overlay import write_overlay
from kits.postprocess import bounding_box
from kits.volume import Volume

BODY_HU = -300
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outputs:
    """Where results go and which there are.

    Args:
        folder: label maps, and ``probabilities/`` if asked for.
        skip_existing: leave cases alone whose label map is there.
        probabilities: also write percent maps of kidney with tumour and of tumour.
        overlays: folder for pictures with contours, one a case.
        report: JSON manifest.
    """

    folder: Path
    skip_existing: bool = False
    probabilities: bool = False
    overlays: Path | None = None
    report: Path | None = None


@dataclass
class CaseReport:
    """A case's line in the manifest: ``status`` is done, skipped, failed or not reached (``error`` says why).

    Millilitres and voxels are those of the label map, a side; a fused kidney counts for the side of its centroid.
    """

    name: str
    source: str
    output: str
    status: str = "failed"
    error: str = ""
    size: tuple[int, ...] = ()
    spacing_mm: tuple[float, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    right: dict[str, float] = field(default_factory=dict)
    left: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def run(cases: Sequence[Case], cascade: Cascade, outputs: Outputs, watch: Watch | None = None) -> list[CaseReport]:
    """Segment every case; one that fails costs no other its result.

    While a case is segmented the next is read and the last is written, each by a thread of its own; more than these
    three are never held. The manifest is rewritten after each case, so that it is true even if the run is interrupted.

    Args:
        cases: from ``find_cases``.
        cascade: with its weights loaded.
        outputs: where to write.
        watch: asked between steps whether to go on; the case at hand and those after it are then not reached.
    """
    watch = watch or Watch()
    reports: list[CaseReport] = []
    write_report(reports, outputs)  # what cannot be written is better known before the work than after
    with logging_redirect_tqdm(), tqdm(total=len(cases), unit="case", disable=None) as bar:

        def finish(case: Case, report: CaseReport, found: tuple[Volume, Prediction] | None) -> None:
            with kept_apart(case, report):
                if found:
                    write_case(case, *found, outputs, report)
                if not report.error:
                    log.info("%s: %s", case.name, summary(report))
            reports.append(report)
            bar.update()
            write_report(reports, outputs)
            return_memory()

        writing: Future[None] | None = None
        stopped = ""
        with ThreadPoolExecutor(1) as writer:
            for case, coming in read_ahead(cases, outputs):
                bar.set_postfix_str(case.name)
                report = CaseReport(case.name, str(case.source), case.output_name)
                found = None
                try:
                    with kept_apart(case, report):
                        watch.check()
                        found = segment_case(case, coming, cascade, outputs, report, watch)
                except Stopped as stop:
                    stopped = str(stop)
                    break
                if writing:
                    writing.result()
                writing = writer.submit(finish, case, report, found)
        if writing:
            writing.result()
    if stopped:
        waiting = cases[len(reports) :]
        reports += [CaseReport(one.name, str(one.source), one.output_name, "not reached", stopped) for one in waiting]
        write_report(reports, outputs)
    return reports


@contextmanager
def kept_apart(case: Case, report: CaseReport) -> Iterator[None]:
    """Turn what goes wrong inside into the case's own failure.

    Raises:
        Stopped: the run is to end.
    """
    try:
        yield
    except Stopped:
        raise
    except KitsError as error:
        report.error = str(error)
    except MemoryError:
        report.error = f"{case.source}: memory ran out; give more memory, or split the scan."
    except Exception as error:
        report.error = f"{case.source}: unexpected {type(error).__name__}: {error}."
        log.debug("%s", case.name, exc_info=True)
    else:
        return
    report.status = "failed"
    log.error("%s: failed. %s", case.name, report.error)


def write_report(reports: Sequence[CaseReport], outputs: Outputs) -> None:
    """Write the manifest of the cases so far, if one is asked for."""
    if outputs.report:
        write_text(json.dumps([asdict(one) for one in reports], indent=2) + "\n", outputs.report)


def read_ahead(cases: Sequence[Case], outputs: Outputs) -> Iterator[tuple[Case, Future[tuple[Volume, float]] | None]]:
    """Each case with its volume, and the seconds to read it, to come; one volume ahead; None for a case to skip."""
    with ThreadPoolExecutor(1) as reader:

        def start(case: Case) -> Future[tuple[Volume, float]] | None:
            skip = outputs.skip_existing and (outputs.folder / case.output_name).exists()
            return None if skip else reader.submit(read_timed, case)

        upcoming = start(cases[0])
        for index, case in enumerate(cases):
            current = upcoming
            upcoming = start(cases[index + 1]) if index + 1 < len(cases) else None
            yield case, current


def read_timed(case: Case) -> tuple[Volume, float]:
    """A case's volume, and how many seconds it took to read."""
    started = time.perf_counter()
    check_memory(case)
    return read_volume(case), time.perf_counter() - started


def segment_case(
    case: Case,
    coming: Future[tuple[Volume, float]] | None,
    cascade: Cascade,
    outputs: Outputs,
    report: CaseReport,
    watch: Watch,
) -> tuple[Volume, Prediction] | None:
    """A case's volume and what was found in it, None if it is to be skipped; notes in its report what is known."""
    if coming is None:
        report.status = "skipped"
        return None
    volume, read_seconds = coming.result()
    report.size, report.spacing_mm = volume.home.size_xyz, volume.home.spacing_xyz
    with tqdm(total=100, desc=case.name, unit="%", leave=False, disable=None) as bar:

        def progress(done: float) -> None:
            bar.update(round(100 * done) - bar.n)
            if done < 1:  # what is finished is worth writing
                watch.check()

        result = cascade.predict(volume, outputs.probabilities, progress)
    result.seconds = {"read": read_seconds} | result.seconds
    return volume, result


def write_case(case: Case, volume: Volume, result: Prediction, outputs: Outputs, report: CaseReport) -> None:
    """Write what is asked for and fill in the case's report."""
    with result.timed("write"):
        write_results(case, volume, result, outputs)
    report.warnings = result.warnings
    report.seconds = {name: round(seconds, 3) for name, seconds in result.seconds.items()}
    report.right, report.left = volumetry(volume, result.labels)
    report.status = "done"


def write_results(case: Case, volume: Volume, result: Prediction, outputs: Outputs) -> None:
    """Write the label map last: where it is, all that belongs to the case is."""
    if outputs.overlays:
        write_overlay(outputs.overlays / f"{case.stem}.png", volume.hu, volume.spacing, result.labels)
    if result.probabilities is not None:
        for name, percent in zip(("kidney", "tumour"), result.probabilities, strict=True):
            path = outputs.folder / "probabilities" / f"{case.stem}_{name}_percent.nii.gz"
            write_image(volume.to_home(percent), path)
    write_image(volume.to_home(result.labels), outputs.folder / case.output_name)


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
    if report.status == "skipped":
        return f"{report.output} is there already; skipped."
    kidney, tumour = (sum(side[f"{name}_ml"] for side in (report.right, report.left)) for name in ("kidney", "tumour"))
    text = f"kidney {kidney:.0f} ml, tumour {tumour:.1f} ml, {sum(report.seconds.values()):.1f} s."
    return " ".join([text, *report.warnings])
