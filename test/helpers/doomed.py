"""The command, with workers or a driver that die: ``python -m test.helpers.doomed WHO OPTION ...``.

Args:
    WHO: ``workers``; ``held`` for workers that come to no end with the case ``kills``; or after how many reports the
        driver dies.
    OPTION: of ``kits segment``, with ``--ray``.

What becomes of a case on workers that die is in its name. ``diesN`` ends its first worker by SIGKILL at the N-th of
four moments, counted from 0: its label map is half-written; it has its name, but there is no record; the record is
aside; the record has its name, but nobody knows. ``kills`` ends every worker, half-way through its label map. Beside
the output folder, ``notes`` gets a file for each case begun and ended.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from kits.batch import command
from kits.batch.report import CaseReport
from kits.cohort import cluster
from kits.cohort.cluster import CaseWorker
from kits.io import atomic
from kits.io.cases import Case


class Doomed(CaseWorker):
    """A worker that does as the cases' names say."""

    def run(self, case: Case) -> CaseReport:
        notes = Path(self.options.output).parent / "notes"
        notes.mkdir(exist_ok=True)
        first = not list(notes.glob(f"{case.name}.begun.*"))
        (notes / f"{case.name}.begun.{time.time_ns()}").touch()
        if case.name == "kills" or (case.name.startswith("dies") and first):
            die_at(int(case.name[-1]) if case.name != "kills" else 0)
        report = super().run(case)
        (notes / f"{case.name}.ended.{time.time_ns()}").touch()
        return report


class Held(CaseWorker):
    """A worker that comes to no end with one case, so that a run of which that is one does not either."""

    def run(self, case: Case) -> CaseReport:
        while case.name == "kills":
            time.sleep(1)
        return super().run(case)


def die_at(moment: int) -> None:
    """End this process as it asks for the ``moment``-th time, from 0 on, that something be on the disk."""
    asked, to_disk = itertools.count(), atomic.to_disk

    def die(path: Path) -> None:
        if next(asked) == moment:
            if path.is_file():
                os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        to_disk(path)

    atomic.to_disk = die


def die_after(reports: int) -> None:
    """End this process, the driver, as it tells of so many cases."""
    told, summary = itertools.count(1), cluster.summary

    def die(*arguments: Any) -> tuple[int, str]:
        if next(told) == reports:
            os.kill(os.getpid(), signal.SIGKILL)
        return summary(*arguments)

    cluster.summary = die


if __name__ == "__main__":
    if sys.argv[1] in ("workers", "held"):
        cluster.CaseWorker = {"workers": Doomed, "held": Held}[sys.argv[1]]  # type: ignore[misc]
    else:
        die_after(int(sys.argv[1]))
    sys.exit(command.main(sys.argv[2:]))
