"""Train the cascade's networks, from labelled scans to a folder of weight files that ``process.py`` loads.

    python -m train prepare  --data KITS_DIR --cache DIR          preprocess once
    python -m train fit      NETWORK --cache DIR --run DIR        train one network; again: go on
    python -m train evaluate --data KITS_DIR --weights DIR ...    the paper's Table 2
    python -m train all      --data KITS_DIR --out DIR            all of it, with a model card in the end
    python -m train average  A B --out FILE                       the plain mean of two networks' weights
    python -m train simulate --labels DIR --backgrounds DIR ...   make scans to learn from

Several GPUs: ``torchrun --nproc-per-node 4 -m train fit ...``.
"""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kits.errors import KitsError

from . import recipe
from .config import NETWORKS, PRESETS, Data, Source, config_of, data_of, read_settings
from .data.cache import prepare
from .report import evaluate
from .simulate import command as simulate
from .workers import workers


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    arguments = parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        return arguments.run_command(arguments) or 0
    except KitsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m train", description=__doc__.split("\n")[0])
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run_command=run)
        return added

    one = command("prepare", run_prepare, "preprocess all cases once, into a cache")
    add_data(one)
    one.add_argument("--cache", type=Path, required=True, help="folder to fill; a second run does nothing")

    one = command("fit", run_fit, "train one network, or go on with it")
    one.add_argument("network", choices=NETWORKS)
    add_data(one)
    add_training(one)
    one.add_argument("--cache", type=Path, required=True, help="folder that prepare filled")
    one.add_argument("--run", type=Path, required=True, help="folder of the run: checkpoint, log, best weights")
    one.add_argument("--fold", type=fold, metavar="K/N", help="validate on the k-th of n parts of the patients, from 0")
    one.add_argument("--start", type=Path, help="weight file to go on from instead of from random weights")
    one.add_argument("--beside", type=Path, help="weight file that it will share a stage with: takes its normalisation")
    one.add_argument("--locator", type=Path, help="weight file of stage 1, to cut stage 2's regions with")

    one = command("all", run_all, "the whole recipe: prepare, fit every network, evaluate, write the model card")
    add_data(one)
    add_training(one)
    one.add_argument("--out", type=Path, required=True, help="folder for the cache, the runs, the weights, the scores")
    one.add_argument("--folds", type=int, default=0, help="cross-validate: networks for each of so many folds")

    one = command("average", run_average, "the plain mean of two networks' weights, one trained on from the other")
    one.add_argument("files", type=Path, nargs=2, metavar="WEIGHTS")
    one.add_argument("--out", type=Path, required=True, help="weight file to write")

    evaluate.add_arguments(command("evaluate", evaluate.main, "score weights as in the paper's Table 2"))
    simulate.add_arguments(command("simulate", simulate.main, "make KiTS-shaped scans from label maps"))
    return top


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
    """The ``[data]`` table, with ``--data`` as the only source where it is given."""
    data = data_of(settings)
    return replace(data, sources=(Source("kits", arguments.data),)) if arguments.data else data


def run_prepare(arguments: argparse.Namespace) -> None:
    index = prepare(data_from(arguments, read_settings(*arguments.config)), arguments.cache)
    train, valid = (len(index["split"][part]) for part in ("train", "valid"))
    print(f"{len(index['scans'])} scans of {train} training and {valid} validation patients in {arguments.cache}")


def run_fit(arguments: argparse.Namespace) -> None:
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    settings = read_settings(*arguments.config)
    with workers():
        path = recipe.fit_network(
            config_of(arguments.network, arguments.preset, settings),
            data_from(arguments, settings),
            arguments.cache,
            arguments.run,
            arguments.device,
            arguments.start,
            arguments.locator,
            arguments.fold,
            arguments.beside,
        )
    print(path)


def run_average(arguments: argparse.Namespace) -> None:
    first, second = arguments.files
    recipe.average(first, second, arguments.out)
    print(arguments.out)


def run_all(arguments: argparse.Namespace) -> int:
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    settings = read_settings(*arguments.config)
    configs = {network: config_of(network, arguments.preset, settings) for network in PRESETS[arguments.preset]}
    data = data_from(arguments, settings)
    return recipe.run(configs, data, arguments.out, arguments.folds, arguments.device)


if __name__ == "__main__":
    sys.exit(main())
