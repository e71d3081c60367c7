"""Many cases: several under way at once, read ahead and written behind; failures kept apart, the manifest kept true."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from queue import SimpleQueue

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from kits.batch.place import Place, Temporary, scratch
from kits.batch.report import CaseReport, Manifest, Outputs, not_reached, summary
from kits.batch.room import Room
from kits.batch.watch import Stopped, Watch, waited_for
from kits.batch.work import Work, fail, look, predict, write
from kits.cascade.cascade import Cascade
from kits.errors import KitsError, out_of_memory, printable, sentence
from kits.io.cases import Case
from kits.io.reader import Reader
from kits.runtime.devices import DeviceLost
from kits.runtime.memory import case_bytes, memory_limit, return_memory

BAR = "{l_bar}{bar}| {n:.1f} of {total_fmt} cases, {remaining} left{postfix}"
log = logging.getLogger(__name__)


def run(
    cases: Sequence[Case],
    cascade: Cascade,
    outputs: Outputs,
    watch: Watch | None = None,
    manifest: Manifest | None = None,
    in_flight: int = 1,
) -> list[CaseReport]:
    """Segment every case, see ``Run``; returns the reports in the order of the cases."""
    return Run(cases, cascade, outputs, watch, manifest, in_flight).do()


class Run:
    """Segments every case; one that fails costs no other its result.

    Each case under way has a thread: it waits for the scan, takes turns with the others at the networks, cleans, and
    writes. The next case is read meanwhile. So with one in flight no more than three are held, and with ``n`` no more
    than ``n`` + 2, fewer where memory is short (``Room``). Label maps do not depend on ``n``.

    Args:
        cases: from ``find_cases``.
        cascade: with its weights loaded.
        outputs: where to write.
        watch: asked between steps whether to go on; the cases at hand and those after them are then not reached.
        manifest: brought up to date after each case, so that it is true even if the run is interrupted.
        in_flight: cases that take turns at the networks.

    Attributes:
        lost: whether a GPU that refuses all further work ended the run, and why.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        cascade: Cascade,
        outputs: Outputs,
        watch: Watch | None = None,
        manifest: Manifest | None = None,
        in_flight: int = 1,
    ) -> None:
        self.cases, self.cascade, self.outputs = cases, cascade, outputs
        self.watch, self.manifest = watch or Watch(), manifest or Manifest(None)
        self.room = Room(in_flight, outputs.base_bytes)
        self.writing = threading.Semaphore(in_flight)
        self.telling = threading.Lock()
        self.settled: dict[int, CaseReport] = {}
        self.told: list[CaseReport] = []
        self.stopped = self.lost = ""

    def do(self) -> list[CaseReport]:
        """Segment the cases; returns their reports, in their order."""
        most = self.room.most
        with (
            logging_redirect_tqdm(),
            tqdm(total=len(self.cases), bar_format=BAR, disable=None) as self.bar,
            places_of(self.cases, self.outputs) as place,
            closing(read_ahead(self.cases, place, (most + 1) // 2)) as coming,
        ):
            self.shares = [0.0] * len(self.cases)
            with ThreadPoolExecutor(most + 1) as threads:  # they end before reading does
                under_way: list[Future[None]] = []
                try:
                    for number, case in enumerate(self.cases):
                        self.room.enter(number, case_bytes(case) if most > 1 else 0, self.check)
                        self.bar.set_postfix_str(printable(case.name))
                        under_way.append(threads.submit(self.take, number, *next(coming)))
                except Stopped as stop:
                    self.stopped = self.stopped or str(stop)
                for one in under_way:
                    waited_for(one, lambda: None)  # looking up now and then, so that signals are heard
        if self.stopped:
            for number in range(len(self.told), len(self.cases)):
                if number not in self.settled:
                    self.told += not_reached(self.cases[number : number + 1], self.stopped)
                self.tell()
            self.manifest.write(self.told)
        return self.told

    def check(self) -> None:
        """Go on, or not.

        Raises:
            Stopped: the run is to end.
        """
        if self.stopped:
            raise Stopped(self.stopped)
        self.watch.check()

    def take(self, number: int, work: Work, coming: Future[None]) -> None:
        """See a case through, from its reading, which has begun, to its report."""
        try:
            with kept_apart(work):
                self.check()
                waited_for(coming, self.check)
                self.predict(number, work)
            self.room.predicted(number)
            with self.writing, kept_apart(work):
                if work.report.error:  # it failed on its way here
                    return_memory()
                else:
                    write(work)
            with self.telling:
                self.settled[number] = work.report
                self.tell()
                self.manifest.write(self.told)
        except (Stopped, DeviceLost) as stop:  # after either, no case would fare better
            self.lost = self.lost or (str(stop) if isinstance(stop, DeviceLost) else "")
            self.stopped = self.stopped or str(stop)
        except BaseException:
            self.stopped = self.stopped or "The run was ended by a fault of its own"
            raise
        finally:
            work.volume = work.prediction = None
            work.place.release()
            self.room.leave(number)
            return_memory()

    def predict(self, number: int, work: Work) -> None:
        """Segment a case; if memory runs out while others take turns with it, once more without them."""
        try:
            predict(work, self.cascade, lambda done: self.progress(number, done))
        except Exception as error:
            if not (out_of_memory(error) and self.room.has_company()):
                raise
            log.debug("%s", work.case.name, exc_info=True)
        else:
            self.progress(number, 1.0)
            return
        self.room.wait_alone(number, self.check)
        return_memory()
        predict(work, self.cascade, lambda done: self.progress(number, done))
        self.progress(number, 1.0)

    def progress(self, number: int, done: float) -> None:
        """Move the run's bar on with a case, and ask whether to go on."""
        with self.telling:
            self.shares[number] = done
            self.bar.update(sum(self.shares) - self.bar.n)
        if done < 1:  # what is finished is worth writing
            self.check()

    def tell(self) -> None:
        """Tell of each case that is settled, as soon as all before it are."""
        while report := self.settled.get(len(self.told)):
            self.told.append(report)
            log.log(*summary(report, len(self.told), len(self.cases)))


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


def read_ahead(
    cases: Sequence[Case], place: Callable[[Case], Place], readers: int = 1
) -> Generator[tuple[Work, Future[None]], None, None]:
    """Each case, and the end of its reading to wait for; one ahead.

    Args:
        cases: some, at least one.
        place: where a case's files lie.
        readers: how many read at once.
    """
    with ThreadPoolExecutor(readers) as threads, ExitStack() as ends_first:  # so that no reading is waited for
        idle: SimpleQueue[Reader] = SimpleQueue()
        for _ in range(min(readers, len(cases))):
            idle.put(ends_first.enter_context(Reader(memory_limit)))

        def read(work: Work) -> None:
            reader = idle.get()
            try:
                look(work, reader)
            finally:
                idle.put(reader)

        def start(case: Case) -> tuple[Work, Future[None]]:
            work = Work.on(case, place(case))
            return work, threads.submit(read, work)

        upcoming = start(cases[0])
        for case in cases[1:]:
            current, upcoming = upcoming, start(case)
            yield current
        yield upcoming
