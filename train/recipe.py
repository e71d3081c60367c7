"""The whole recipe: a prepared cache, every network trained, Table 2, and a weights folder with its model card.

    OUT/cache/            what ``prepare`` made
    OUT/runs/NAME/        a folder for each network and fold
    OUT/weights/          what ``process.py`` loads: every network of the recipe, all folds' together
    OUT/folds/K/          the weights of one fold alone, where there are folds
    OUT/evaluation/       Table 2

A second call goes on where the first was stopped.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from kits.errors import InputError
from kits.io.atomic import write_text
from kits.normalisation import Normalisation
from kits.runtime.engine import Engine
from kits.runtime.weights import load_member, save_weights, write_checksums

from .config import Config, Data, to_toml
from .data.cache import load, may_train, prepare, read_index, split
from .loop import KEPT, Trainer
from .report.card import Training, write_card
from .report.evaluate import evaluate
from .report.table import Fold
from .validation import locate_kidneys

log = logging.getLogger(__name__)


def fit_network(
    config: Config,
    data: Data,
    cache: Path,
    folder: Path,
    device: str = "auto",
    start: Path | None = None,
    locator: Path | None = None,
    fold: tuple[int, int] | None = None,
    beside: Path | None = None,
) -> Path:
    """Train one network on a cache's scans; returns its weight file.

    Args:
        config: what to train and how.
        data: as the cache was prepared from; decides the split.
        cache: folder that ``prepare`` filled.
        folder: of the run.
        device: ``auto``, ``cuda`` or ``cpu``.
        start: a weight file to go on from.
        locator: weight file of stage 1, which ``config.regions == "located"`` needs.
        fold: (k, of how many) for cross-validation instead of the data's own split.
        beside: a weight file whose mean and standard deviation are taken, since one stage's networks share an input.
    """
    index = read_index(cache)
    if len(index["sources"]) != len(data.sources):
        raise InputError(f"{cache} was prepared from {index['sources']}; give the same --data or --config.")
    training, validation = split(index, data, fold)
    # One for all folds, whose networks share an ensemble's input.
    norm = load_member(beside).info.norm if beside else Normalisation(index["mean"], index["std"])
    scans = load(cache, config.role)
    located = None
    if config.regions == "located":
        if locator is None:
            raise InputError("regions = 'located' needs --locator, a weight file of stage 1.")
        located = locate_kidneys(load_member(locator), load(cache, "locate"), Engine(device))
    train = [s for s, e in zip(scans, index["scans"], strict=True) if may_train(e, training, validation)]
    valid = [scan for scan in scans if scan.patient in validation]
    log.info("%s: %d scans to train on, %d to validate on.", folder, len(train), len(valid))
    folder.mkdir(parents=True, exist_ok=True)
    write_text(to_toml({"data": asdict(data), "training": asdict(config)}), folder / "config.toml")
    # Patients without a scan of their own here can be in simulated scans.
    data = replace(data, valid=tuple(validation if fold else sorted({*validation, *data.valid})))
    return Trainer(config, data, train, valid, norm, folder, device, start, located).fit()


def average(first: Path, second: Path, out: Path) -> None:
    """Write the plain mean of two networks' weights, which only makes sense of one and what it was trained on to.

    Whom one of them learned from the mean knows, too; all else that it says of itself is the first one's.

    Raises:
        InputError: they differ in architecture, role or normalisation.
    """
    one, other = load_member(first), load_member(second)
    for what in ("architecture", "role", "norm"):
        if getattr(one.info, what) != getattr(other.info, what):
            raise InputError(f"{first} and {second} differ in their {what}: a mean of their weights is no network.")
    theirs = other.network.state_dict()
    mean = {name: (ours + theirs[name]) / 2 if ours.is_floating_point() else ours
            for name, ours in one.network.state_dict().items()}  # fmt: skip
    one.network.load_state_dict(mean)
    held_out = None
    if one.info.held_out is not None and other.info.held_out is not None:
        held_out = tuple(patient for patient in one.info.held_out if patient in other.info.held_out)
    save_weights(out, one.network, replace(one.info, held_out=held_out))


def run(configs: Mapping[str, Config], data: Data, out: Path, folds: int = 0, device: str = "auto") -> int:
    """Prepare, train every network, evaluate, write the card; returns the exit status.

    Args:
        configs: network -> its training.
        data: the sources; the first of KiTS's layout is what Table 2 is measured on.
        out: folder for everything.
        folds: networks for each of so many parts of the patients; 0 or 1 trains each network once.
        device: ``auto``, ``cuda`` or ``cpu``.
    """
    cache, weights = out / "cache", out / "weights"
    judged_on = next((source for source in data.sources if source.kind == "kits"), None)
    if judged_on is None:
        raise InputError("Table 2 is measured on whole cases: give --data, or a source of the kind 'kits' in [data].")
    index = prepare(data, cache)
    parts: list[tuple[int, int] | None] = [(k, folds) for k in range(folds)] if folds > 1 else [None]
    trainings: dict[str, Training] = {}
    judged: list[Fold] = []
    for part in parts:
        suffix = f"-fold{part[0]}" if part else ""
        own = out / "folds" / str(part[0]) if part else weights
        for network, config in configs.items():
            run_folder = out / "runs" / f"{network}{suffix}"
            locator = own / f"res-unet1{suffix}.safetensors"
            file = fit_network(config, data, cache, run_folder, device, locator=locator, fold=part)
            for folder in {own, weights}:
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, folder / f"{network}{suffix}.safetensors")
            best = json.loads((run_folder / KEPT).read_text(encoding="utf-8"))
            trainings[f"{network}{suffix}"] = Training(
                (run_folder / "config.toml").read_text(encoding="utf-8"), best.pop("step"), best.pop("minutes"), best
            )
        valid = split(index, data, part)[1]
        judged.append(Fold(own, tuple(
            f"case_{scan['name'].rpartition('-')[2]}" for scan in index["scans"]
            if scan["patient"] in valid and data.sources[scan["source"]] == judged_on
        )))  # fmt: skip
    write_checksums(weights)
    table = evaluate(judged, judged_on.path, out / "evaluation")
    write_card(weights, trainings, table)
    return 1 if table.failed else 0
