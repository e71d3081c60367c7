"""Whether every engine of this machine gives the label maps that torch gives in single precision.

    python -m bench.engines SCAN ... [--weights DIR] [--mode native|paper] [--out bench/results]

The goals: the same label in more than 99.95 % of the voxels that either calls foreground, and Dice within 0.001 of one.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from bench.common import ROOT, machine, save, table
from kits.cascade.cascade import Cascade
from kits.choices import Mode
from kits.io.cases import find_cases
from kits.io.images import read_volume
from kits.runtime.precision import bf16_pays
from kits.runtime.runtime import Runtime
from kits.score.metrics import dice

AGREEMENT, DICE = 0.9995, 0.999


def runtimes(mode: str) -> Iterator[Runtime]:
    """All that this machine has, the reference first; the precision ``auto`` is what it chooses by itself."""
    names = ["torch", "openvino"] if importlib.util.find_spec("openvino") else ["torch"]
    for precision in ["fp32", "auto", "bf16"] if bf16_pays() else ["fp32"]:
        for name in names:
            yield Runtime.of("cpu", mode, name, precision)
    if torch.cuda.is_available():
        yield Runtime.of("cuda", mode, "torch", "fp16")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.engines", description=__doc__.split("\n")[0])
    parser.add_argument("scans", type=Path, nargs="+", help="CT volumes")
    parser.add_argument("--weights", type=Path, default=ROOT / "weights")
    parser.add_argument("--mode", choices=tuple(Mode), default="native")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    arguments = parser.parse_args()
    volumes = [read_volume(case) for scan in arguments.scans for case in find_cases(scan)]
    reference: list[np.ndarray] = []
    rows, figures = [], []
    for runtime in runtimes(arguments.mode):
        cascade = Cascade.load(arguments.weights, runtime)
        results = [cascade.predict(volume) for volume in volumes]
        reference = reference or [result.labels for result in results]
        for volume, result, expected in zip(volumes, results, reference, strict=True):
            inside = (result.labels > 0) | (expected > 0)
            agreement = float((result.labels == expected)[inside].mean())
            overlap = [
                dice(result.labels >= label, expected >= label) if (expected >= label).any() else 1.0
                for label in (1, 2)
            ]
            good = agreement > AGREEMENT and min(overlap) > DICE
            seconds = sum(result.seconds.values())
            what = f"{runtime.runner} on {runtime.device}, {runtime.precision}"
            place = f"{volume.hu.shape[0]} x {volume.hu.shape[1]} x {volume.hu.shape[2]}"
            figures.append({"engine": what, "size": place, "agreement": agreement, "dice": overlap, "seconds": seconds})
            rows.append([what, place, f"{agreement:.4%}", *(f"{one:.5f}" for one in overlap)])
            rows[-1] += [f"{seconds:.1f}", "yes" if good else "**no**"]
    where = machine("cpu") + (f"; {machine('cuda')}" if torch.cuda.is_available() else "")
    head = ["engine", "scan", "same label", "Dice, kidney+tumour", "Dice, tumour", "seconds", "goals reached"]
    text = f"# Engines against torch in single precision\n\n{where}; `{arguments.mode}` mode\n\n" + table(head, rows)
    save("engines", arguments.out, text, {"machine": where, "rows": figures})


if __name__ == "__main__":
    main()
