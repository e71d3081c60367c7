"""``python -m train plan``: what a recipe takes, by its configuration, the cases' headers and a few measured steps."""

from __future__ import annotations

import logging
import math
import resource
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from kits.geometry import Grids
from kits.io.volume import Grid
from kits.normalisation import Normalisation
from kits.plan import PAPER

from .config import Config, Data, Source
from .data.cache import scan_of
from .data.cases import LabelledCase, find_labelled
from .loop import Material, Trainer
from .recipe import Recipe, steps_of

STEPS = 3
"""Measured after one that warms up."""
BYTES = 3 * 1.25
"""Of a voxel in the cache: HU and label, at full and at half resolution in-plane."""
SLICES = 40
"""Of the made-up scan that steps are measured on."""
log = logging.getLogger(__name__)


def plan(recipe: Recipe, device: str = "auto") -> str:
    """What a recipe takes, as a text for people.

    Args:
        recipe: what ``all`` would do; scans that it simulates and are not there yet are not counted.
        device: ``auto``, ``cuda`` or ``cpu``: where steps are measured.
    """
    grids = [grid_of(case) for source in recipe.data.sources for case in cases_of(source)]
    disk, slices = sum(map(math.prod, grids)) * BYTES, sum(grid[0] for grid in grids)
    parts = max(1, recipe.data.folds)
    rows = ["| phase | steps | batch, patch | seconds a step | hours | memory, at most |", "| --- " * 6 + "|"]
    measured: dict[str, tuple[float, float]] = {}
    total = 0.0
    for step in steps_of(recipe.phases):
        config = step.phase.config
        how = config.schedule
        same = str(replace(config, seed=0, schedule=replace(how, learning_rate=0.0, epochs=0, epoch_steps=0)))
        if same not in measured:
            measured[same] = measure(config, recipe.data, device)
        seconds, memory = measured[same]
        steps = how.epochs * (how.epoch_steps or math.ceil(slices / how.batch))
        hours = seconds * steps / 3600
        total += hours * parts
        size = f"{how.batch}, {config.patch} px"
        rows.append(f"| {step.key} | {steps} | {size} | {seconds:.2f} | {hours:.1f} | {memory / 1e9:.1f} GB |")
    table = "\n".join(rows)
    return f"""{len(grids)} cases of {slices} slices; their cache takes {disk / 1e9:.1f} GB on disk.

{table}

{total:.1f} hours of steps{f" in {parts} folds" if parts > 1 else ""}; preparing, validating and evaluating come on top.
Memory is the process' own, on a GPU the GPU's. The cache is mapped from the disk, and uses what is free besides.
"""


def cases_of(source: Source) -> Iterable[LabelledCase]:
    """A source's cases; none where its folder is still to be made."""
    return find_labelled(source) if source.path.is_dir() and any(source.path.iterdir()) else []


def grid_of(case: LabelledCase) -> tuple[int, int, int]:
    """Slices, rows and columns of a case in the cache, by its header."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(case.files[0]))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        log.warning("%s cannot be read, and is not counted.", case.files[0])
        return (0, 0, 0)
    if reader.GetDimension() < 3:
        return (1, reader.GetSize()[1], reader.GetSize()[0])
    grid = Grid(reader.GetSize(), reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection())
    order, _ = grid.canonical_axes()
    z, y, x = (reader.GetSize()[2 - axis] for axis in order)
    sz, sy, sx = (reader.GetSpacing()[2 - axis] for axis in order)
    return Grids.from_shape((z, y, x), (sz, sy, sx), PAPER).working.shape


def measure(config: Config, data: Data, device: str) -> tuple[float, float]:
    """Seconds of a training step, and the peak of memory in bytes, on a made-up scan."""
    hu = np.random.default_rng(0).integers(-100, 200, (SLICES, 512, 512), np.int16)
    labels = np.zeros(hu.shape, np.uint8)
    labels[5:-5, 200:300, 100:180], labels[5:-5, 200:300, 330:410], labels[10:15, 220:260, 120:160] = 1, 1, 2
    scan = scan_of("made-up", "made-up", hu, labels, (3.0, 0.78, 0.78))
    norm, sources = Normalisation(0.0, 100.0), (Source("kits", Path("made-up")),)
    material = Material(replace(data, sources=sources), [scan], [], norm)
    with tempfile.TemporaryDirectory() as folder:
        schedule = replace(config.schedule, epochs=1, epoch_steps=STEPS + 2)
        run = Trainer(replace(config, schedule=schedule), material, Path(folder), device)
        run.take_step(*run.batch(0), 0)
        started = time.monotonic()
        for number in range(1, STEPS + 1):
            run.take_step(*run.batch(number), number)
        if run.engine.device.type == "cuda":
            torch.cuda.synchronize(run.engine.device)
            return (time.monotonic() - started) / STEPS, float(torch.cuda.max_memory_allocated(run.engine.device))
        return (time.monotonic() - started) / STEPS, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
