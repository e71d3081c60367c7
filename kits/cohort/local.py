"""Several GPUs of one machine: a process each, with its share of the cases, without Ray."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kits.batch.report import CaseReport, not_reached
from kits.batch.shards import Shard
from kits.batch.watch import Stopped, Watch
from kits.choices import Status
from kits.errors import KitsError
from kits.io.cases import Case

if TYPE_CHECKING:
    from kits.batch.options import Options

POLL_SECONDS = 0.5
log = logging.getLogger(__name__)


def run_on_gpus(cases: Sequence[Case], options: Options, watch: Watch) -> list[CaseReport]:
    """Segment every case by ``options.gpus`` processes of which each sees one GPU.

    Returns:
        Reports in the order of the cases; a share whose process ended early has its other cases not reached.

    Raises:
        KitsError: no process could begin.
    """
    devices = visible_gpus(options.gpus, os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    with tempfile.TemporaryDirectory() as folder:
        reports = [Path(folder, f"{number}.json") for number in range(1, options.gpus + 1)]
        children = [
            start(options, options.shard.part(number, options.gpus), device, report)
            for number, (device, report) in enumerate(zip(devices, reports, strict=True), start=1)
        ]
        reason = wait(children, watch)
        found = {one.output: one for report in reports for one in read(report)}
    if not found:
        raise KitsError("None of the processes could begin; what they said is above.")
    return [found.get(case.output_name) or not_reached([case], reason)[0] for case in cases]


def visible_gpus(count: int, visible: str) -> list[str]:
    """A name for each of ``count`` GPUs: those that this process may see.

    Raises:
        KitsError: it may see fewer.
    """
    names = [name.strip() for name in visible.split(",") if name.strip()] or [str(number) for number in range(count)]
    if len(names) < count:
        raise KitsError(f"--gpus {count}, but CUDA_VISIBLE_DEVICES shows {len(names)}: {visible}.")
    return names[:count]


def start(options: Options, shard: Shard, device: str, report: Path) -> subprocess.Popen[bytes]:
    """The process of one share; what is made of all cases together is not for it to make."""
    own = [f"--shard={shard.number}/{shard.count}", f"--report={report}", "--gpus=0", "--zip=", "--measurements="]
    return subprocess.Popen(
        [sys.executable, "-m", "kits", "segment", *options.given, *own],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": device},
    )


def wait(children: Sequence[subprocess.Popen[bytes]], watch: Watch) -> str:
    """Wait for all to end, and tell them to if it is time; returns why their last cases may not be reached."""
    try:
        for child in children:
            while child.poll() is None:
                watch.check()
                try:
                    child.wait(POLL_SECONDS)
                except subprocess.TimeoutExpired:
                    continue
    except Stopped as stop:
        for child in children:
            child.terminate()
        for child in children:
            child.wait()
        return str(stop)
    return "The process that had this case ended early"


def read(path: Path) -> list[CaseReport]:
    """The reports of a share's manifest; none where it has none."""
    if not path.is_file():
        return []
    found = [CaseReport(**one) for one in json.loads(path.read_text(encoding="utf-8"))]
    for one in found:
        one.status = Status(one.status)
    return found
