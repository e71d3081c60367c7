"""How many cases a minute this machine's cores feed to networks that take them no time, as a GPU's do.

    python -m bench.feeding [--slices 108] [--cases 12] [--in-flight 1 3] [--waits 0 0.5] [--out bench/results]

The networks compute once and then give the same answers again; so does preprocessing in a second run, as it runs on the
GPU, too. What is left is the cores' work: to read, to find components, to write. Its seconds are those of the cores,
which other programs on the machine do not lengthen. Cases a minute are those of ``kits.batch.run`` by the clock, where
the networks let a case wait for so long, one case at a time, as for a GPU, while the cores are free for others.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.common import ROOT, machine, save, table, write_scan
from kits.batch.report import Outputs
from kits.batch.run import run
from kits.cascade.cascade import Cascade
from kits.cascade.stage import PREPROCESSING
from kits.choices import Status
from kits.io.cases import Case, find_cases
from kits.io.images import read_volume, write_image
from kits.runtime.runtime import Runtime


class Replayed:
    """Computes until it is rewound, then gives the same answers in the same order, over and over, to each thread."""

    def __init__(self, function: Callable[..., torch.Tensor]) -> None:
        self.function = function
        self.answers: list[torch.Tensor] = []
        self.rewound = False
        self.wait = 0.0
        self.thread = threading.local()

    def __call__(self, *arguments: Any) -> torch.Tensor:
        if not self.rewound:
            self.answers.append(self.function(*arguments).clone())
            return self.answers[-1]
        calls = getattr(self.thread, "calls", 0)
        self.thread.calls = (calls + 1) % len(self.answers)
        time.sleep(self.wait)
        return self.answers[calls]


def replaying(case: Case, preprocessing_too: bool) -> tuple[Cascade, list[Replayed]]:
    """A cascade that has seen a case, and from now on takes every case for it, without computing; and its networks."""
    replayed: list[Replayed] = []
    networks: list[Replayed] = []

    def wrap(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        if name == PREPROCESSING and not preprocessing_too:
            return function
        replayed.append(Replayed(function))
        if name != PREPROCESSING:
            networks.append(replayed[-1])
        return replayed[-1]

    cascade = Cascade.load(ROOT / "weights", Runtime.of("cpu")).wrapped(lambda stage: wrap)
    cascade.predict(read_volume(case))
    for one in replayed:
        one.rewound = True
    return cascade, networks


def cost(case: Case, preprocessing_too: bool, folder: Path, repeats: int) -> dict[str, float]:
    """Seconds of the cores that a case takes, by part: the least of a few."""
    torch.set_num_threads(1)  # two that wait for each other on a busy machine count as work
    cascade, _ = replaying(case, preprocessing_too)
    best: dict[str, float] = {}
    for _ in range(repeats):
        started = time.process_time()
        volume = read_volume(case)
        read = time.process_time()
        labels = cascade.predict(volume).labels
        predicted = time.process_time()
        write_image(volume.to_home(labels), folder / "labels.nii.gz")
        parts = {"read": read - started, "all else": predicted - read, "write": time.process_time() - predicted}
        best = {name: min(seconds, best.get(name, seconds)) for name, seconds in parts.items()}
    return best


def cases_a_minute(
    cases: list[Case], in_flight: list[int], waits: list[float], repeats: int, folder: Path
) -> dict[str, dict[str, float]]:
    """By the clock, the best of a few runs: wait a case -> cases in flight -> pace.

    The numbers of cases in flight take turns, so that what else the machine does meets each.
    """
    torch.set_num_threads(1)
    cascade, networks = replaying(cases[0], True)
    calls = sum(len(one.answers) for one in networks)
    best: dict[str, dict[str, float]] = {}
    for wait in waits:
        for one in networks:
            one.wait = wait / calls
        paces = best.setdefault(f"{wait:g}", {})
        for _ in range(repeats):
            for number in in_flight:
                started = time.perf_counter()
                reports = run(cases, cascade, Outputs(folder / "out"), in_flight=number)
                pace = 60 * len(cases) / (time.perf_counter() - started)
                if any(report.status != Status.DONE for report in reports):
                    raise RuntimeError("a case failed")
                paces[str(number)] = max(pace, paces.get(str(number), 0.0))
    return best


def in_all(parts: dict[str, float]) -> list[float]:
    """The seconds of each part, and of all."""
    return [*parts.values(), sum(parts.values())]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.feeding", description=__doc__.split("\n")[0])
    parser.add_argument("--slices", type=int, default=108)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--cases", type=int, default=12)
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--waits", type=float, nargs="*", default=[0.0, 0.5], help="for the networks, seconds a case")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = folder / "scans"
        write_scan(source / "scan_000.nii.gz", arguments.slices, 3.0, arguments.rows)
        for index in range(1, arguments.cases):
            (source / f"scan_{index:03d}.nii.gz").symlink_to(source / "scan_000.nii.gz")
        cases = find_cases(source)
        costs = {what: cost(cases[0], too, folder, 4) for what, too in (("networks", False), ("both", True))}
        clock = cases_a_minute(cases, arguments.in_flight, arguments.waits, arguments.repeats, folder)
    names = {"networks": "networks take no time", "both": "nor does preprocessing"}
    size = f"{arguments.slices} x {arguments.rows} x {arguments.rows}"
    text = f"# What the cores feed\n\n{machine('cpu')}; scans of {size}\n\n"
    text += table(
        ["", *costs["both"], "seconds of a core a case", f"cases a minute that {cores} cores feed at most"],
        [[names[what], *(f"{seconds:.2f}" for seconds in in_all(parts)), f"{60 * cores / sum(parts.values()):.0f}"]
         for what, parts in costs.items()],
    )  # fmt: skip
    if clock:
        first, last = str(arguments.in_flight[0]), str(arguments.in_flight[-1])
        text += "\n" + table(
            ["the networks take, s a case", *(f"{number} in flight" for number in arguments.in_flight),
             "the last as a multiple of the first"],
            [[wait, *(f"{pace:.1f}" for pace in paces.values()), f"{paces[last] / paces[first]:.2f}"]
             for wait, paces in clock.items()],
        )  # fmt: skip
        text += "\nCases a minute by the clock.\n"
    save("feeding", arguments.out, text, {"machine": machine("cpu"), "costs": costs, "cases_a_minute": clock})


if __name__ == "__main__":
    main()
