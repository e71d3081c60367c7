"""One network, from a prepared cache to a weight file; and the mean of two."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn

from kits.errors import InputError, KitsError
from kits.io.atomic import write_text
from kits.normalisation import Normalisation
from kits.runtime.engine import Engine
from kits.runtime.weights import load_member, save_weights

from . import workers
from .config import Config, Data
from .data.cache import load, may_train, read_index, split
from .loop import CHECKPOINT, Material, Trainer
from .optimise import CYSTS
from .settings import to_toml
from .validation import locate_kidneys

log = logging.getLogger(__name__)
CONFIG = "config.toml"


@dataclass(frozen=True)
class Fit:
    """One run of one network.

    Args:
        config: what to train and how.
        data: as the cache was prepared from; decides the split.
        cache: folder that ``prepare`` filled.
        folder: of the run.
        device: ``auto``, ``cuda`` or ``cpu``.
        start: a weight file to go on from.
        locator: weight file of stage 1, which ``config.regions == "located"`` needs.
        fold: (k, of how many) for cross-validation instead of the data's own split.
        normalisation_of: a weight file whose mean and standard deviation are taken, since one stage's networks share
            an input.
    """

    config: Config
    data: Data
    cache: Path
    folder: Path
    device: str = "auto"
    start: Path | None = None
    locator: Path | None = None
    fold: tuple[int, int] | None = None
    normalisation_of: Path | None = None


def fit_network(fit: Fit) -> Path:
    """Train one network on a cache's scans, or go on with it; returns its weight file.

    Raises:
        InputError: the cache is another data's, or a file is missing that the configuration needs.
    """
    config, data = fit.config, fit.data
    index = read_index(fit.cache)
    if len(index["sources"]) != len(data.sources):
        raise InputError(f"{fit.cache} was prepared from {index['sources']}; give the same --data or --config.")
    training, validation = split(index, data, fit.fold)
    # One for all folds, whose networks share an ensemble's input.
    given = fit.normalisation_of
    norm = load_member(given).info.norm if given else Normalisation(index["mean"], index["std"])
    scans = load(fit.cache, config.role)
    located = None
    if config.regions == "located":
        if fit.locator is None:
            raise InputError("regions = 'located' needs --locator, a weight file of stage 1.")
        engine = Engine(workers.device(fit.device))
        located = locate_kidneys(load_member(fit.locator), load(fit.cache, "locate"), engine)
    train = [s for s, e in zip(scans, index["scans"], strict=True) if may_train(e, training, validation)]
    valid = [scan for scan in scans if scan.patient in validation]
    log.info("%s: %d scans to train on, %d to validate on.", fit.folder, len(train), len(valid))
    # Patients without a scan of their own here can be in simulated scans.
    told = replace(data, valid=tuple(validation if fit.fold else sorted({*validation, *data.valid})))
    if workers.rank() == 0:
        write_config(fit)
    try:
        return Trainer(config, Material(told, train, valid, norm, located), fit.folder, fit.device, fit.start).fit()
    except torch.cuda.OutOfMemoryError as error:
        raise KitsError(
            f"The GPU's memory ran out with batches of {config.schedule.batch} patches of {config.patch} px: give "
            "the configuration a smaller batch or patch, or share the batch among more GPUs, and start again; the "
            "run goes on from its checkpoint."
        ) from error


def write_config(fit: Fit) -> None:
    """Write down what a run was told; warn where it began with something else."""
    path, text = fit.folder / CONFIG, to_toml({"data": asdict(fit.data), "training": asdict(fit.config)})
    if (fit.folder / CHECKPOINT).exists() and path.exists() and path.read_text(encoding="utf-8") != text:
        log.warning("%s was begun with another configuration, and goes on from its checkpoint with this.", fit.folder)
    fit.folder.mkdir(parents=True, exist_ok=True)
    write_text(text, path)


def average(
    first: Path, second: Path, out: Path, share: float = 0.5, logits: tuple[float, float, float] = (0.0, 0.0, 0.0)
) -> None:
    """Write the mean of two networks' weights, which only makes sense of one and what it was trained on to.

    Whom one of them learned from the mean knows, too; all else that it says of itself is the first one's. So is what
    tells cysts, which the second may never have learned.

    Args:
        first, second: weight files.
        out: weight file to write.
        share: how much of the mean is the first one's.
        logits: added to those of background, kidney and tumour: training weighs the classes, so borders lie a little
            too far out.

    Raises:
        InputError: they differ in architecture, role or normalisation.
    """
    one, other = load_member(first), load_member(second)
    for what in ("architecture", "role", "norm"):
        if getattr(one.info, what) != getattr(other.info, what):
            raise InputError(f"{first} and {second} differ in their {what}: a mean of their weights is no network.")
    theirs = other.network.state_dict()
    mean = {
        name: share * ours + (1 - share) * theirs[name]
        if ours.is_floating_point() and not name.startswith(CYSTS)
        else ours
        for name, ours in one.network.state_dict().items()
    }
    one.network.load_state_dict(mean)
    last = [
        module
        for name, module in one.network.named_modules()
        if isinstance(module, nn.Conv2d) and module.bias is not None and not name.startswith(CYSTS)
    ][-1]
    assert last.bias is not None
    with torch.no_grad():  # a Wide-UNet's last convolution gives each class four channels
        last.bias += torch.tensor(logits).repeat_interleave(len(last.bias) // len(logits))
    held_out = None
    if one.info.held_out is not None and other.info.held_out is not None:
        held_out = tuple(patient for patient in one.info.held_out if patient in other.info.held_out)
    save_weights(out, one.network, replace(one.info, held_out=held_out))
