"""Scores of the shipped weights on real data, through the whole cascade.

    python -m bench.accuracy --config train/mixture.toml [--out DIR] [--mode native|paper] [--only NAME ...]

The configuration is that of the training: its lone slices of validation patients are repeated into thin volumes, and
the middle slice of the result is scored; all of its whole volumes are scored, and those of validation patients
marked, since the others flatter.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kits.cascade import Cascade
from kits.files import Case, read_volume, write_image, write_text
from kits.overlay import write_overlay
from kits.score import dice
from kits.volume import Volume
from kits.weights import load_members
from train.cases import LabelledCase, find_labelled
from train.config import Data, data_of, read_settings

REPEATS = 15
"""3 mm slices of a thin volume: more than the two neighbours on each side that the networks see."""


@dataclass
class Tally:
    """Overlap counts of one structure: pooled over all pixels, and per patient."""

    by_patient: dict[str, np.ndarray] = field(default_factory=lambda: defaultdict(lambda: np.zeros(2)))

    def add(self, patient: str, prediction: np.ndarray, truth: np.ndarray) -> None:
        self.by_patient[patient] += (2 * (prediction & truth).sum(), prediction.sum() + truth.sum())

    def figures(self, patients: set[str]) -> dict[str, float]:
        """Pooled Dice over everything, and the mean over the patients named."""
        rows = np.array(list(self.by_patient.values()))
        each = [value[0] / value[1] for patient, value in self.by_patient.items() if patient in patients]
        return {"pooled": rows[:, 0].sum() / rows[:, 1].sum(), "mean": float(np.mean(each)), "patients": len(each)}


def cases_of(data: Data, kind: str) -> Iterator[LabelledCase]:
    """The cases of all sources of a kind."""
    return (case for source in data.sources if source.kind == kind for case in find_labelled(source))


def judge_slices(cascade: Cascade, data: Data) -> dict[str, object]:
    """Kidney+tumour and tumour Dice of held-out patients' slices, and how often tumour is seen where there is none."""
    kidney, tumour = Tally(), Tally()
    with_kidney, with_tumour = set(), set()
    healthy = false_tumours = 0
    for case in cases_of(data, "slices"):
        if case.patient not in data.valid:
            continue
        hu, labels, spacing = case.read()
        volume = Volume.from_array(np.repeat(hu, REPEATS, axis=0), spacing, case.name)
        predicted = cascade.predict(volume).labels[REPEATS // 2]
        truth = labels[0]
        kidney.add(case.patient, predicted > 0, truth > 0)
        tumour.add(case.patient, predicted > 1, truth > 1)
        with_kidney |= {case.patient} if truth.any() else set()
        with_tumour |= {case.patient} if (truth > 1).any() else set()
        if not (truth > 1).any():
            healthy += 1
            false_tumours += bool((predicted > 1).any())
    return {
        "kidney": kidney.figures(with_kidney),
        "tumour": tumour.figures(with_tumour),
        "slices without tumour": healthy,
        "of these with a false one": false_tumours,
    }


def judge_volumes(cascade: Cascade, data: Data, out: Path | None) -> dict[str, dict[str, object]]:
    """Dice of every volume, its seconds a stage, and the peak memory so far."""
    rows: dict[str, dict[str, object]] = {}
    for case in cases_of(data, "volumes"):
        name = case.name
        started = time.perf_counter()
        volume = read_volume(Case(name, case.files[0], f"{name}.nii.gz"))
        read = time.perf_counter() - started
        result = cascade.predict(volume)
        truth = case.read()[1]
        rows[name] = {
            "kidney": dice(result.labels > 0, truth > 0),
            "tumour": dice(result.labels > 1, truth > 1) if (truth > 1).any() else None,
            "false tumour ml": None if (truth > 1).any() else float((result.labels > 1).sum() * volume.voxel_ml),
            "seen in training": case.patient not in data.valid,
            "seconds": {"read": round(read, 1)} | {k: round(v, 1) for k, v in result.seconds.items()},
            "peak GB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        }
        print(name, rows[name], flush=True)
        if out:
            write_overlay(out / f"{name}.png", volume.hu, volume.spacing, result.labels, truth)
            write_image(volume.to_home(result.labels), out / f"{name}.nii.gz")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.accuracy", description=__doc__.split("\n")[0])
    parser.add_argument("--weights", type=Path, default=Path(__file__).parent.parent / "weights")
    parser.add_argument("--config", type=Path, required=True, help="the training's: its [data] table is used")
    parser.add_argument("--mode", default="native")
    parser.add_argument("--out", type=Path, help="folder for label maps, pictures and accuracy.json (third-party data)")
    parser.add_argument("--only", nargs="*", help="names of stage 2's networks to use; all by default")
    arguments = parser.parse_args()
    locators, segmenters = load_members(arguments.weights)
    segmenters = [member for member in segmenters if not arguments.only or member.name in arguments.only]
    cascade = Cascade(locators, segmenters, mode=arguments.mode)
    data = data_of(read_settings(arguments.config))
    figures: dict[str, object] = {"slices": judge_slices(cascade, data)}
    print(json.dumps(figures["slices"], indent=2), flush=True)
    figures["volumes"] = judge_volumes(cascade, data, arguments.out)
    if arguments.out:
        write_text(json.dumps(figures, indent=2) + "\n", arguments.out / "accuracy.json")


if __name__ == "__main__":
    main()
