"""What each improvement over the paper is worth by itself, in Dice and in seconds (``kits.plan``).

    python -m bench.improvements FOLDER ... [--weights DIR] [--slab-mm 15] [--device cpu|cuda] [--out bench/results]

A FOLDER holds labelled volumes, ``case_00003/imaging.nii.gz`` with ``segmentation.nii.gz`` or ``NAME/ct.nii.gz`` with
``label.nii.gz``. Two ways, since improvements lean on one another: the mode ``paper`` with one of them switched on, and
``native`` with one switched off. Of every volume a slab through the middle of its kidneys is scored too, since some
improvements concern thin scans alone. Plans that differ in post-processing alone share what comes before it, and its
seconds.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from bench.common import ROOT, machine, save, table
from kits.cascade.cascade import Cascade, most_probable
from kits.cascade.clean import clean
from kits.choices import TUMOUR, Mode, Runner
from kits.errors import InputError
from kits.geometry import Grids
from kits.io.volume import Volume
from kits.plan import NATIVE, PAPER, Plan, improvements
from kits.runtime.runtime import Runtime
from kits.runtime.weights import load_members
from kits.score.metrics import score_case
from train.config import Source
from train.data.cases import KINDS

WITHOUT_RULES = {
    "at_most_kidneys": False,
    "tumour_needs_kidney": False,
    "smallest_tumour_ml": 0.0,
    "water_is_cyst": False,
}
"""Fields that only post-processing reads, switched off."""


@dataclass(frozen=True, eq=False)
class Case:
    """A volume with its labels, uint8 (z, y, x), and whether it is a slab or whole."""

    volume: Volume
    truth: np.ndarray
    slab: bool = False


@dataclass(frozen=True)
class Figures:
    """What a plan makes of a group of cases.

    Args:
        kidney, tumour: mean Dice of kidney with tumour, and of tumour over the cases that have one; NaN for none.
        false_ml: mean volume of tumour in the cases that have none; NaN for none.
        seconds: mean a case: by the clock on a GPU, of all cores on a CPU, which others may use at the same time.
    """

    kidney: float
    tumour: float
    false_ml: float
    seconds: float


def variants() -> Iterator[tuple[str, Plan, Plan]]:
    """Name, plan, and the plan to compare it with: both modes, and each improvement alone in either."""
    for base, other, word in ((PAPER, NATIVE, "with"), (NATIVE, PAPER, "without")):
        yield str(base.mode), base, base
        for name in improvements():
            what = "our networks" if name == "mode" else name
            yield f"{base.mode} {word} {what}", replace(base, **{name: getattr(other, name)}), base


def read_cases(folders: Sequence[Path], slab_mm: float) -> list[Case]:
    """All labelled volumes of some folders, each followed by its slab.

    Args:
        folders: of either form.
        slab_mm: height of the slabs; 0 for none.

    Raises:
        InputError: there are none, or one cannot be read.
    """
    cases = []
    for folder in folders:
        for kind in ("kits", "volumes"):
            for labelled in KINDS[kind](Source(kind, folder)):
                hu, truth, spacing = labelled.read()
                cases.append(Case(Volume.from_array(hu, spacing, labelled.name), truth))
                if slab_mm and truth.any():
                    cases.append(slab_of(cases[-1], slab_mm))
    if not cases:
        raise InputError(f"There is no labelled volume under {', '.join(map(str, folders))}.")
    return cases


def slab_of(case: Case, height_mm: float) -> Case:
    """The slices around the middle one of those that show kidney."""
    shown = np.flatnonzero(case.truth.any((1, 2)))
    count = max(1, round(height_mm / case.volume.spacing[0]))
    first = max(0, int(shown[len(shown) // 2]) - count // 2)
    part = slice(first, first + count)
    return Case(Volume.from_array(case.volume.hu[part], case.volume.spacing, case.volume.name), case.truth[part], True)


@dataclass(frozen=True, eq=False)
class Bench:
    """The cascades of both modes, and what they made of cases before post-processing.

    Args:
        cascades: by mode.
        known: by case and plan without rules: label map, uint8 (z, y, x), and seconds.
    """

    cascades: dict[Mode, Cascade]
    known: dict[tuple[Case, Plan], tuple[np.ndarray, float]] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where stage 2 runs."""
        return self.cascades[Mode.NATIVE].segmenter.engine.device

    def predict(self, case: Case, plan: Plan) -> tuple[np.ndarray, float]:
        """A case's label map by a plan, uint8 (z, y, x), and the seconds that it took."""
        clock = time.process_time if self.device.type == "cpu" else time.perf_counter
        key = case, replace(plan, **WITHOUT_RULES)  # type: ignore[arg-type]
        if key not in self.known:
            started = clock()
            cascade = self.cascades[plan.mode].with_plan(plan)
            labels = np.zeros(case.truth.shape, np.uint8)
            for box, chunk in cascade.segment(case.volume, cascade.locate(case.volume)):
                labels[box] = most_probable(chunk).cpu().numpy()
            self.known[key] = labels, clock() - started
        labels, before = self.known[key]
        started = clock()
        labels = clean(labels.copy(), case.volume, Grids.of(case.volume, plan))
        return labels, before + clock() - started

    def measure(self, cases: Sequence[Case], plan: Plan) -> Figures:
        """Predict and score some cases."""
        kidney, tumour, false_ml, seconds = [], [], [], []
        for case in cases:
            labels, took = self.predict(case, plan)
            dice = score_case(labels, case.truth, case.volume.spacing, "kits19")
            kidney.append(dice["kidney+tumour"])
            if (case.truth >= TUMOUR).any():
                tumour.append(dice["tumour"])
            else:
                false_ml.append(float((labels >= TUMOUR).sum() * case.volume.voxel_ml))
            seconds.append(took)
        means = (float(np.mean(values)) if values else math.nan for values in (kidney, tumour, false_ml, seconds))
        return Figures(*means)


def line(figures: Figures, base: Figures) -> list[str]:
    """A group's cells, each with how far it is from the plan that it is compared with."""
    cells = []
    for name, digits in (("kidney", 4), ("tumour", 4), ("false_ml", 1), ("seconds", 1)):
        value, before = getattr(figures, name), getattr(base, name)
        change = "" if figures is base or np.isnan(value) else f" ({value - before:+.{digits}f})"
        cells.append("-" if np.isnan(value) else f"{value:.{digits}f}{change}")
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.improvements", description=__doc__.split("\n")[0])
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="labelled volumes")
    parser.add_argument("--weights", type=Path, default=ROOT / "weights")
    parser.add_argument("--slab-mm", type=float, default=15.0, help="0: whole volumes alone")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--engine", choices=tuple(Runner), default="auto")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    arguments = parser.parse_args()
    cases = read_cases(arguments.folders, arguments.slab_mm)
    groups = [[case for case in cases if case.slab == slab] for slab in (False, True)]
    members = load_members(arguments.weights)
    runtime = Runtime.of(arguments.device, runner=arguments.engine)
    bench = Bench({mode: Cascade(*members, replace(runtime, plan=Plan.of(mode))) for mode in Mode})
    found: dict[Plan, list[Figures]] = {}
    rows = []
    for name, plan, base in tqdm([*variants()], desc="plans", disable=None):
        found[plan] = [bench.measure(group, plan) for group in groups if group]
        cells = [line(figures, before) for figures, before in zip(found[plan], found[base], strict=True)]
        rows.append([name, *(cell for group in cells for cell in group)])
        print(*rows[-1], sep=" | ", flush=True)
    where, on_cpu = machine(str(bench.device)), bench.device.type == "cpu"
    names = ", ".join(case.volume.name for case in groups[0])
    titles = [f"whole ({len(groups[0])})", f"slabs ({len(groups[1])}) of {arguments.slab_mm:g} mm"]
    measures = ("kidney Dice", "tumour Dice", "false tumour, ml", "CPU seconds" if on_cpu else "seconds")
    columns = [f"{what}, {title}" for title, group in zip(titles, groups, strict=True) if group for what in measures]
    text = (
        f"# What each improvement is worth\n\n{where}; {names}\n\nMean over cases: Dice of kidney with tumour, Dice of "
        "tumour where there is one, millilitres of it where there is none. In brackets what the switch changes: no "
        "Dice where nothing in these scans is of the kind that it is for. Seconds vary by about a tenth.\n\n"
        + table(["plan", *columns], rows)
    )
    save("improvements", arguments.out, text, {"machine": where, "columns": columns, "rows": rows})


if __name__ == "__main__":
    main()
