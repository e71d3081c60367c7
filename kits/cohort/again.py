"""What a GPU that gave up has left to do, by a fresh process: CUDA refuses all that the old one asks, for good.

On the same GPU once; if it gives up again, or cannot be had, on the CPU where that was left to us (``--device auto``).
"""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from kits.batch.report import CaseReport, Manifest
from kits.batch.watch import Stopped, Watch
from kits.choices import Status
from kits.cohort.local import read, wait
from kits.errors import exit_status
from kits.io.cases import Case

if TYPE_CHECKING:
    from kits.batch.command import Lost
    from kits.batch.options import Options

GAVE_UP = 75
"""The exit status of a fresh process whose GPU gave up, too."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Left:
    """What the fresh process is told.

    Args:
        cases: those that are left.
        options: of the run; the device is where to go on.
        spent: seconds of the time limit that are over.
        manifest: where its reports are wanted.
    """

    cases: Sequence[Case]
    options: Options
    spent: float
    manifest: Path


def do_again(
    reports: Sequence[CaseReport], lost: Lost, cases: Sequence[Case], options: Options, watch: Watch
) -> list[CaseReport]:
    """Go on where a GPU gave up.

    Args:
        reports: of all cases, as far as they came.
        lost: which GPU, and what it said.
        cases: all of the run.
        options: of the run.
        watch: whether to go on; a fresh process is told to end, too.

    Returns:
        Reports of all cases, in their order; those that no process reached say why.
    """
    found = {case.output_name: report for case, report in zip(cases, reports, strict=True)}
    reason = lost.reason
    for device in [lost.device, *(["cpu"] if options.device == "auto" else [])]:
        left = [case for case in cases if found[case.output_name].status == Status.NOT_REACHED]
        log.warning("%s: a fresh process does the %d cases left, on %s.", reason, len(left), device)
        with tempfile.TemporaryDirectory() as folder:
            manifest = Path(folder, "report.json")
            status = in_a_fresh_process(Left(left, replace(options, device=device), watch.spent(), manifest), watch)
            found |= {one.output: one for one in read(manifest)}
        if not status:
            break
        reason = "The GPU gave up again" if status == GAVE_UP else "The GPU gave up, and could not be had again"
    return [found[case.output_name] for case in cases]


def in_a_fresh_process(left: Left, watch: Watch) -> int | None:
    """Let another process do what is left, and wait for it; returns its exit status, None if it was told to end."""
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    child = subprocess.Popen(
        [sys.executable, "-m", "kits.cohort.again"],
        stdin=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )
    assert child.stdin is not None
    with child.stdin as end:
        pickle.dump(left, end)
    wait([child], watch)
    try:
        watch.check()
    except Stopped:
        return None
    return child.returncode


def main() -> int:
    """The fresh process: what is left comes by stdin; returns its exit status."""
    left: Left = pickle.load(sys.stdin.buffer)
    from kits.batch.command import begin_log

    begin_log(left.options)
    watch = Watch(left.options.time_limit, left.spent)
    with watch.listening():
        return exit_status("kits segment", lambda: do_left(left, watch), left.options.verbose)


def do_left(left: Left, watch: Watch) -> int:
    """Do what is left; returns the exit status.

    Raises:
        KitsError: the device cannot be had.
    """
    from kits.batch.command import do_here

    manifest = Manifest(left.manifest)
    _, lost = do_here(left.cases, left.options, watch, manifest)
    return GAVE_UP if lost else 0


if __name__ == "__main__":
    sys.exit(main())
