"""Train the cascade's networks, from labelled scans to a folder of weight files that ``process.py`` loads.

    python -m train plan     --data KITS_DIR                      what it takes: time, disk, memory
    python -m train all      --data KITS_DIR --out DIR            all of it, with a model card in the end
    python -m train prepare  --data KITS_DIR --cache DIR          preprocess once
    python -m train fit      NETWORK --cache DIR --folder DIR     train one network; again: go on
    python -m train evaluate --data KITS_DIR --weights DIR ...    the paper's Table 2
    python -m train average  A B --out FILE                       the mean of two networks' weights
    python -m train simulate --labels DIR --backgrounds DIR ...   make scans to learn from
    python -m train pictures FOLDER --out DIR                     label pictures that have no masks

Several GPUs: ``torchrun --nproc-per-node 4 -m train fit ...``. No option of ``fit`` may begin one of ``torchrun``'s,
which takes it for that.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kits.errors import InputError, exit_status

from . import pictures, recipe
from .config import Data, Source
from .data.cache import prepare
from .fit import Fit, average, fit_network
from .plan import plan
from .presets import NETWORKS, PRESETS
from .report import evaluate
from .settings import config_of, data_in, data_of, phase_of, read_settings
from .simulate import command as simulate
from .workers import workers


def main(argv: Sequence[str] | None = None, prog: str = "python -m train") -> int:
    """Run one command.

    Args:
        argv: by default the process'.
        prog: what the program is called in help and messages.

    Returns:
        The exit status: 0, 1 if some cases failed, 2 if the command could not do what it was asked to.
    """
    arguments = parser(prog).parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return exit_status(prog, lambda: arguments.run_command(arguments) or 0, arguments.verbose)


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog=prog, description=(__doc__ or "").split("\n")[0])
    top.add_argument("--verbose", action="store_true", help="show where an error came from")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run_command=run)
        return added

    one = command("plan", run_plan, "say what a training takes, before hours are spent: time, disk and memory")
    add_data(one)
    add_training(one)
    one.add_argument("--folds", type=int, help="as for all")

    one = command("all", run_all, "the whole recipe: prepare, train every phase, evaluate, write the model card")
    add_data(one)
    add_training(one)
    one.add_argument("--out", type=Path, required=True, help="folder for the cache, the runs, the weights, the scores")
    one.add_argument("--folds", type=int, help="cross-validate: networks for each of so many folds")

    one = command("prepare", run_prepare, "preprocess all cases once, into a cache")
    add_data(one)
    one.add_argument("--cache", type=Path, required=True, help="folder to fill; a second run does nothing")

    add_fit(command("fit", run_fit, "train one network, or go on with it"))

    one = command("average", run_average, "the mean of two networks' weights, one trained on from the other")
    one.add_argument("files", type=Path, nargs=2, metavar="WEIGHTS")
    one.add_argument("--share", type=float, default=0.5, help="how much of the mean is the first one's (0.5)")
    one.add_argument("--logits", type=float, nargs=3, default=(0.0, 0.0, 0.0), metavar=("B", "K", "T"),
                     help="add to the logits of background, kidney and tumour")  # fmt: skip
    one.add_argument("--out", type=Path, required=True, help="weight file to write")

    evaluate.add_arguments(command("evaluate", evaluate.main, "score weights as in the paper's Table 2"))
    simulate.add_arguments(command("simulate", simulate.main, "make KiTS-shaped scans from label maps"))
    pictures.add_arguments(
        command("pictures", pictures.main, "label pictures without masks, by the weights that there are")
    )
    return top


def add_fit(one: argparse.ArgumentParser) -> None:
    """The options of ``fit``."""
    one.add_argument("network", choices=NETWORKS)
    add_data(one)
    add_training(one)
    one.add_argument("--cache", type=Path, required=True, help="folder that prepare filled")
    one.add_argument("--folder", type=Path, required=True, help="of the run: checkpoint, log, weights")
    text = "the phase of --config's that is trained, instead of what it says of all"
    one.add_argument("--phase", default="", metavar="NAME", help=text)
    one.add_argument("--fold", type=fold, metavar="K/N", help="validate on the k-th of n parts of the patients, from 0")
    text = "weight file to go on from instead of from random weights"
    one.add_argument("--start-from", type=Path, metavar="FILE", help=text)
    text = "weight file whose mean and standard deviation are taken, since one stage's networks share an input"
    one.add_argument("--normalisation-of", type=Path, metavar="FILE", help=text)
    text = "weight file of stage 1, to cut stage 2's regions with"
    one.add_argument("--locator", type=Path, metavar="FILE", help=text)


def fold(text: str) -> tuple[int, int]:
    """``2/5`` as (2, 5).

    Raises:
        ValueError: it is none.
    """
    k, n = map(int, text.split("/"))
    if not 0 <= k < n:
        raise ValueError(text)
    return k, n


def add_data(one: argparse.ArgumentParser) -> None:
    """Where the cases are."""
    one.add_argument("--data", type=Path, help="KiTS19's data folder: the only source, instead of --config's")
    text = "[data], [training], [res-unet1], ...; a later file changes what an earlier one says"
    one.add_argument("--config", type=Path, nargs="+", default=[], metavar="TOML", help=text)


def add_training(one: argparse.ArgumentParser) -> None:
    """How to train."""
    one.add_argument("--preset", choices=sorted(PRESETS), default="best")
    one.add_argument("--device", default="auto", help="auto, cuda or cpu")
    one.add_argument("--threads", type=int, help="CPU threads")


def data_from(arguments: argparse.Namespace, settings: dict[str, Any]) -> Data:
    """The ``[data]`` table, with ``--data`` as the only source where it is given, and ``--folds``.

    Raises:
        InputError: there is no source at all.
    """
    data = data_of(settings)
    if arguments.data:
        data = replace(data, sources=(Source("kits", arguments.data),))
    if not data.sources:
        raise InputError("There is nothing to learn from: give --data, or sources in [data] of a --config.")
    folds = getattr(arguments, "folds", None)
    return data if folds is None else replace(data, folds=folds)


def run_prepare(arguments: argparse.Namespace) -> None:
    index = prepare(data_from(arguments, read_settings(*arguments.config)), arguments.cache)
    train, valid = (len(index["split"][part]) for part in ("train", "valid"))
    print(f"{len(index['scans'])} scans of {train} training and {valid} validation patients in {arguments.cache}")


def run_fit(arguments: argparse.Namespace) -> None:
    settings = read_settings(*arguments.config)
    network, preset, name = arguments.network, arguments.preset, arguments.phase
    config = config_of(network, preset, settings, name)
    data = data_from(arguments, settings)
    if name:
        data = data_in(phase_of(network, preset, settings, name), data)
    set_threads(arguments)
    with workers(arguments.device):
        path = fit_network(
            Fit(
                config,
                data,
                arguments.cache,
                arguments.folder,
                arguments.device,
                arguments.start_from,
                arguments.locator,
                arguments.fold,
                arguments.normalisation_of,
            )
        )
    print(path)


def run_average(arguments: argparse.Namespace) -> None:
    first, second = arguments.files
    average(first, second, arguments.out, arguments.share, tuple(arguments.logits))
    print(arguments.out)


def run_all(arguments: argparse.Namespace) -> int:
    set_threads(arguments)
    return recipe.run(recipe_from(arguments), arguments.out, arguments.device)


def run_plan(arguments: argparse.Namespace) -> None:
    set_threads(arguments)
    print(plan(recipe_from(arguments), arguments.device))


def recipe_from(arguments: argparse.Namespace) -> recipe.Recipe:
    """What ``all`` and ``plan`` are asked for."""
    settings = read_settings(*arguments.config)
    return recipe.recipe_of(arguments.preset, settings, data_from(arguments, settings))


def set_threads(arguments: argparse.Namespace) -> None:
    """As many CPU threads as were asked for."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)


if __name__ == "__main__":
    sys.exit(main())
