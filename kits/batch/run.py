"""Many cases: read ahead and write behind, keep failures apart, keep the manifest, show progress."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from kits.batch.outputs import LabelMap, Output
from kits.batch.report import CaseReport, Outputs, summary, volumetry, write_report
from kits.batch.watch import Stopped, Watch
from kits.cascade.cascade import Cascade, Prediction
from kits.choices import Status
from kits.errors import KitsError, printable, sentence
from kits.io.cases import Case
from kits.io.images import read_volume
from kits.io.volume import Volume
from kits.runtime.memory import check_memory, return_memory

log = logging.getLogger(__name__)


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
        reports += [
            CaseReport(one.name, str(one.source), one.output_name, Status.NOT_REACHED, stopped) for one in waiting
        ]
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
    report.status = Status.FAILED
    log.error("%s: failed. %s", case.name, report.error)


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
        report.status = Status.SKIPPED
        return None
    volume, read_seconds = coming.result()
    report.size, report.spacing_mm = volume.home.size_xyz, volume.home.spacing_xyz
    with tqdm(total=100, desc=case.name, unit="%", leave=False, disable=None) as bar:

        def progress(done: float) -> None:
            bar.update(round(100 * done) - bar.n)
            if done < 1:  # what is finished is worth writing
                watch.check()

        result = cascade.predict(volume, any(extra.probabilities for extra in outputs.extras), progress)
    result.seconds = {"read": read_seconds} | result.seconds
    return volume, result


def write_case(case: Case, volume: Volume, result: Prediction, outputs: Outputs, report: CaseReport) -> None:
    """Write what is asked for and fill in the case's report; the label map last."""
    with result.timed("write"):
        for extra in outputs.extras:
            write_extra(extra, case, volume, result, report)
        LabelMap("", outputs.folder).write(case, volume, result)
    report.warnings = result.warnings
    report.seconds = {name: round(seconds, 3) for name, seconds in result.seconds.items()}
    report.right, report.left = volumetry(volume, result.labels)
    report.status = Status.DONE


def write_extra(extra: Output, case: Case, volume: Volume, result: Prediction, report: CaseReport) -> None:
    """Write something that is not the result itself: whatever goes wrong is told, and costs no more."""
    try:
        extra.write(case, volume, result)
    except Exception as error:
        log.debug("%s", case.name, exc_info=True)
        report.missing.append(f"{case.name}: no {extra.name}: {sentence(error)}")
        log.warning("%s", printable(report.missing[-1]))
