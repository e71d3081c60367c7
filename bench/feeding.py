"""How many cases a minute this machine's cores feed to a network that takes no time, as a fast GPU nearly does.

    python -m bench.feeding [--slices 108] [--cases 12] [--processes 1 2] [--out bench/results]

The networks compute once and then give the same answers again; so does preprocessing in a second run, as it runs on the
GPU, too. What is left is the cores' work: to read, to find components, to write. Its seconds are those of the cores,
which other programs on the machine do not lengthen; cases a minute by the clock are those of ``kits.batch.run``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import torch

from bench.common import ROOT, machine, save, table, write_scan
from kits.batch.report import Outputs
from kits.batch.run import run
from kits.cascade.cascade import Cascade
from kits.cascade.stage import PREPROCESSING
from kits.io.cases import Case, find_cases
from kits.io.images import read_volume, write_image
from kits.runtime.runtime import Runtime


class Replayed:
    """Computes until it is rewound, then gives the same answers in the same order, over and over."""

    def __init__(self, function: Callable[..., torch.Tensor]) -> None:
        self.function = function
        self.answers: list[torch.Tensor] = []
        self.calls = -1

    def __call__(self, *arguments: Any) -> torch.Tensor:
        if self.calls < 0:
            self.answers.append(self.function(*arguments).clone())
            return self.answers[-1]
        self.calls += 1
        return self.answers[(self.calls - 1) % len(self.answers)]


def replaying(case: Case, preprocessing_too: bool) -> Cascade:
    """A cascade that has seen a case, and from now on takes every case for it, without computing."""
    replayed: list[Replayed] = []

    def wrap(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        if name == PREPROCESSING and not preprocessing_too:
            return function
        replayed.append(Replayed(function))
        return replayed[-1]

    cascade = Cascade.load(ROOT / "weights", Runtime.of("cpu")).wrapped(lambda stage: wrap)
    cascade.predict(read_volume(case))
    for one in replayed:
        one.calls = 0
    return cascade


def cost(case: Case, preprocessing_too: bool, folder: Path, repeats: int) -> dict[str, float]:
    """Seconds of the cores that a case takes, by part: the least of a few."""
    torch.set_num_threads(1)  # two that wait for each other on a busy machine count as work
    cascade = replaying(case, preprocessing_too)
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


def feed(cases: list[Case], out: Path, barrier: Barrier, seconds: Any, index: int) -> None:
    """In a process of its own: a run over some cases, once all such processes are ready."""
    cascade = replaying(cases[0], True)
    barrier.wait()
    started = time.perf_counter()
    run(cases, cascade, Outputs(out))
    seconds[index] = time.perf_counter() - started


def cases_a_minute(cases: list[Case], processes: int, folder: Path) -> float:
    """By the clock, with the cases dealt to some processes."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes)
    seconds: Any = context.Array("d", processes)
    children = [
        context.Process(target=feed, args=(cases[i::processes], folder / f"{processes}_{i}", barrier, seconds, i))
        for i in range(processes)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
    if any(child.exitcode for child in children):
        raise RuntimeError("a run failed")
    return 60 * len(cases) / max(list(seconds))


def in_all(parts: dict[str, float]) -> list[float]:
    """The seconds of each part, and of all."""
    return [*parts.values(), sum(parts.values())]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.feeding", description=__doc__.split("\n")[0])
    parser.add_argument("--slices", type=int, default=108)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--cases", type=int, default=12)
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2])
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
        clock = {str(count): cases_a_minute(cases, count, folder) for count in arguments.processes}
    names = {"networks": "networks take no time", "both": "nor does preprocessing"}
    size = f"{arguments.slices} x {arguments.rows} x {arguments.rows}"
    text = f"# What the cores feed\n\n{machine('cpu')}; scans of {size}\n\n"
    text += table(
        ["", *costs["both"], "seconds of a core a case", f"cases a minute that {cores} cores feed at most"],
        [[names[what], *(f"{seconds:.2f}" for seconds in in_all(parts)), f"{60 * cores / sum(parts.values()):.0f}"]
         for what, parts in costs.items()],
    )  # fmt: skip
    if clock:
        text += "\n" + table(
            ["processes, each with a run of its own", "cases a minute by the clock"],
            [[count, f"{pace:.0f}"] for count, pace in clock.items()],
        )
    save("feeding", arguments.out, text, {"machine": machine("cpu"), "costs": costs, "cases_a_minute": clock})


if __name__ == "__main__":
    main()
