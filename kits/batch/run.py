"""Many cases: read ahead and write behind, keep failures apart, keep the manifest, show progress."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from kits.batch.place import Place, Temporary, scratch
from kits.batch.report import CaseReport, Manifest, Outputs, not_reached, summary
from kits.batch.watch import Stopped, Watch
from kits.batch.work import Work, fail, look, predict, write
from kits.cascade.cascade import Cascade
from kits.errors import KitsError, out_of_memory, printable, sentence
from kits.io.cases import Case
from kits.io.reader import Reader
from kits.runtime.devices import DeviceLost
from kits.runtime.memory import memory_limit, return_memory

BAR = "{l_bar}{bar}| {n:.1f} of {total_fmt} cases, {remaining} left{postfix}"
log = logging.getLogger(__name__)


def run(
    cases: Sequence[Case],
    cascade: Cascade,
    outputs: Outputs,
    watch: Watch | None = None,
    manifest: Manifest | None = None,
) -> list[CaseReport]:
    """Segment every case; one that fails costs no other its result.

    While a case is segmented the next is read and the last is written, each by a thread of its own; more than these
    three are never held.

    Args:
        cases: from ``find_cases``.
        cascade: with its weights loaded.
        outputs: where to write.
        watch: asked between steps whether to go on; the case at hand and those after it are then not reached.
        manifest: brought up to date after each case, so that it is true even if the run is interrupted.
    """
    watch, manifest = watch or Watch(), manifest or Manifest(None)
    reports: list[CaseReport] = []
    stopped = ""

    def finish(work: Work) -> None:
        with kept_apart(work):
            if work.report.error:  # it failed on its way here
                return_memory()
            else:
                write(work)
        work.place.release()
        reports.append(work.report)
        log.log(*summary(work.report, len(reports), len(cases)))
        manifest.write(reports)
        return_memory()

    places = places_of(cases, outputs)
    with places as place, logging_redirect_tqdm(), tqdm(total=len(cases), bar_format=BAR, disable=None) as bar:
        writing: Future[None] | None = None
        with ThreadPoolExecutor(1) as writer:
            for index, (work, coming) in enumerate(read_ahead(cases, place)):
                bar.set_postfix_str(printable(work.case.name))
                progress = progress_of(index, bar, watch)
                try:
                    with kept_apart(work):
                        watch.check()
                        watch.wait(coming)
                        predict(work, cascade, progress)
                        progress(1.0)
                except (Stopped, DeviceLost) as stop:  # after either, no case would fare better
                    stopped = str(stop)
                    break
                if writing:
                    writing.result()
                writing = writer.submit(finish, work)
        if writing:
            writing.result()
    if stopped:
        reports += not_reached(cases[len(reports) :], stopped)
        manifest.write(reports)
    return reports


@contextmanager
def kept_apart(work: Work) -> Iterator[None]:
    """Turn what goes wrong inside into the case's own failure.

    Raises:
        Stopped, DeviceLost: the run is to end.
    """
    try:
        yield
    except (Stopped, DeviceLost):
        raise
    except Exception as error:
        log.debug("%s", work.case.name, exc_info=True)
        named = isinstance(error, KitsError) and not out_of_memory(error)
        fail(work, sentence(error) if named else f"{work.case.place}: {sentence(error)}")


@contextmanager
def places_of(cases: Sequence[Case], outputs: Outputs) -> Iterator[Callable[[Case], Place]]:
    """Gives each case a place: a temporary folder of its own, if its scan or its results lie on a store."""
    if not outputs.store and not any(case.origin for case in cases):
        yield lambda case: Place(outputs)
        return
    with scratch() as folder:
        number = itertools.count()
        yield lambda case: (
            Temporary(outputs, folder / str(next(number))) if outputs.store or case.origin else Place(outputs)
        )


def read_ahead(cases: Sequence[Case], place: Callable[[Case], Place]) -> Iterator[tuple[Work, Future[None]]]:
    """Each case, and the end of its reading to wait for; one ahead."""
    with ThreadPoolExecutor(1) as thread, Reader(memory_limit) as reader:  # which ends first: no reading is waited for

        def start(case: Case) -> tuple[Work, Future[None]]:
            work = Work.on(case, place(case))
            return work, thread.submit(look, work, reader)

        upcoming = start(cases[0])
        for case in cases[1:]:
            current, upcoming = upcoming, start(case)
            yield current
        yield upcoming


def progress_of(index: int, bar: tqdm, watch: Watch) -> Callable[[float], None]:
    """What a case tells of its progress: moves the run's bar on, and asks the watch whether to go on."""

    def progress(done: float) -> None:
        bar.update(index + done - bar.n)
        if done < 1:  # what is finished is worth writing
            watch.check()

    return progress
