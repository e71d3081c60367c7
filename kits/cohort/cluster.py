"""A run's cases over the machines of a Ray cluster: what ``kits.batch.run`` does here, done there."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from kits.batch.place import Temporary
from kits.batch.report import CaseReport, Manifest, Outputs, not_reached, summary
from kits.batch.room import IN_FLIGHT
from kits.batch.watch import Stopped, Watch
from kits.cohort.scatter import GaveUp, Lost, Share, scatter
from kits.errors import KitsError
from kits.io.cases import Case
from kits.io.stores.url import Url

if TYPE_CHECKING:
    from kits.batch.options import Options

MANIFEST_SECONDS = 5.0
"""Between two writings of the manifest: it lists all cases, and there may be many."""
log = logging.getLogger(__name__)


class CaseWorker:
    """Segments one case after another in a process of its own, with a cascade that is loaded once.

    To keep a GPU busy several workers share it, rather than one having several cases in flight: so a case that ends its
    process, or what the GPU does for it, costs no other its result.

    Args:
        options: of the run; files are named as every machine of the cluster sees them.
        cores: that its networks may use.
    """

    def __init__(self, options: Options, cores: int) -> None:
        import torch

        from kits.runtime.memory import share_memory

        share_memory()
        torch.set_num_threads(cores)
        self.options = options
        self.loaded: tuple | None = None

    def run(self, case: Case) -> CaseReport:
        """The case's report, once its label map and its record are written, or its failure.

        Raises:
            KitsError: the cascade cannot be loaded, so that no case could be done.
            GaveUp: the GPU refuses all further work of this process.
        """
        from kits.batch.command import load
        from kits.batch.run import Run

        self.loaded = self.loaded or load(self.options)
        at_work = Run([case], *self.loaded)
        (report,) = at_work.do()
        if at_work.lost:
            raise GaveUp(at_work.lost)
        return report


def run_on_cluster(cases: Sequence[Case], options: Options, watch: Watch, manifest: Manifest) -> list[CaseReport]:
    """Segment every case on a Ray cluster; one that fails, or kills its worker, costs no other its result.

    Args:
        cases: from ``find_cases``; their files and the output folder are seen by all machines.
        options: of the run; ``options.ray`` is the cluster's address, or ``local`` for one of this machine alone.
        watch: asked once a second whether to go on.
        manifest: brought up to date as reports come.

    Returns:
        Reports in the order of the cases. If the cascade cannot be loaded again in the course of a run, as where a GPU
        that was asked for is gone, the cases left are not reached.

    Raises:
        KitsError: Ray is not installed, the cluster cannot be reached, or the cascade cannot be loaded there at all.
    """
    share = connect(options)
    worker = (options, max(1, int(share.cpus)))
    reports: dict[int, CaseReport] = {}
    written, reason = time.monotonic(), ""
    with logging_redirect_tqdm(), tqdm(total=len(cases), unit="case", disable=None) as bar:
        try:
            for number, result in scatter(cases, CaseWorker, worker, share, watch.check):
                report = set_aside(cases[number], result, options.output) if isinstance(result, Lost) else result
                reports[number] = report
                log.log(*summary(report, len(reports), len(cases)))
                bar.update()
                if time.monotonic() - written > MANIFEST_SECONDS:
                    manifest.write(in_order(reports))
                    written = time.monotonic()
        except KitsError as error:
            if not (reports or isinstance(error, Stopped)):
                raise
            reason = str(error).rstrip(".")
    for number in set(range(len(cases))) - set(reports):
        (reports[number],) = not_reached([cases[number]], reason)
    manifest.write(in_order(reports))
    return in_order(reports)


def in_order(reports: dict[int, CaseReport]) -> list[CaseReport]:
    """Reports in the order of their cases."""
    return [reports[number] for number in sorted(reports)]


def set_aside(case: Case, lost: Lost, output: Path | Url) -> CaseReport:
    """The report of a case that ended each of its workers; a label map of another run does not stay under its name."""
    from kits.batch.work import Work, fail  # with torch, which the driver is seldom in need of

    if lost.gave_up:
        error = f"{case.place}: {lost.reason}, in each of {lost.tries} processes."
    else:
        error = (
            f"{case.place}: its process ended {lost.tries} times ({lost.reason}); it may need more memory than a "
            "worker has. Give it a machine of its own, or crop the scan to the abdomen."
        )
    outputs = Outputs(Path(output), store=output if isinstance(output, Url) else None)
    work = Work.on(case, Temporary(outputs, Path("never made")))
    fail(work, error)
    return work.report


def connect(options: Options) -> Share:
    """Connect to the cluster; returns what a worker takes of it: a part of a GPU where it has some, else cores.

    Raises:
        KitsError: Ray is not installed, or there is no cluster at the address.
    """
    try:
        import ray
    except ImportError as error:
        raise KitsError("--ray needs Ray; run `pip install 'kits-cascade[cohort]'`.") from error
    try:
        if not ray.is_initialized():
            ray.init(address=options.ray, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise KitsError(
            f"No Ray cluster answers at {options.ray} ({' '.join(str(error).split())[:200]}); start one with "
            "`ray start --head`, or leave the address out to use this machine alone."
        ) from error
    gpus = 0 if options.device == "cpu" else 1 / (options.in_flight or IN_FLIGHT["cuda"])
    return Share.of(ray.nodes(), options.worker_cores, gpus)
