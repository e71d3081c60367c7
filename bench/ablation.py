"""What each improvement over the paper's training is worth, or each source of data.

    python -m bench.ablation --config FILE --cache DIR --out DIR [--vary preset|sources] [--network res-unet2]
                             [--steps 400] [--batch 8] [--patch 256] [--only NAME ...]

``preset``: ``paper`` as it is; without its L2 term; that with one improvement of ``best`` at a time; ``best``.
``sources``: ``best`` on all sources, and without each of them.

All runs have as many steps. The score is that of the last weights on whole validation cases
(``train.validation.validate``).
A run that is in OUT already is not repeated.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench.common import table
from kits.errors import KitsError
from kits.io.atomic import write_text
from kits.normalisation import Normalisation
from kits.runtime.weights import load_member
from train.config import GROUPS, Data
from train.data.cache import load, read_index
from train.loop import Material, Trainer
from train.presets import BEST, PAPER
from train.settings import config_of, data_of, read_settings
from train.validation import validate


def switches(network: str) -> dict[str, dict[str, Any]]:
    """Name -> what it changes in the ``paper`` preset; the values are those of ``best``."""
    best = asdict(BEST[network])
    schedule, augmentation = best["schedule"], best["augmentation"]
    geometry = ("rotation_degrees", "flip", "reverse", "zoom_chance", "zoom", "shrink", "stretch", "shift_px")
    cycle = ("optimiser", "one_cycle", "learning_rate", "weight_decay", "clip")
    return {
        "paper": {},
        "without L2": {"loss": {"l2": 0.0}},
        "Dice and cross-entropy": {
            "loss": {"l2": 0.0} | {name: best["loss"][name] for name in ("terms", "class_weights")}
        },
        "the same, in part each slice's": {"loss": best["loss"]},
        "AdamW and one cycle": {"schedule": {name: schedule[name] for name in cycle}, "loss": {"l2": 0.0}},
        "running average": {"schedule": {"average": schedule["average"]}, "loss": {"l2": 0.0}},
        "all slices varied": {"augmentation": {"groups": GROUPS}, "loss": {"l2": 0.0}},
        "more geometry": {"augmentation": {name: augmentation[name] for name in geometry}, "loss": {"l2": 0.0}},
        "intensities varied": {"augmentation": {"intensity": True}, "loss": {"l2": 0.0}},
        "lesions grown": {"augmentation": {"lesions": augmentation["lesions"], "groups": GROUPS}, "loss": {"l2": 0.0}},
        "tumours pasted": {"augmentation": {"pasted": augmentation["pasted"], "groups": GROUPS}, "loss": {"l2": 0.0}},
        "regions without kidney": {"shares": best["shares"], "loss": {"l2": 0.0}},
        "PyTorch's initial weights": {"initial": "default", "loss": {"l2": 0.0}},
        "without dropout": {"dropout": False, "loss": {"l2": 0.0}},
        "best": best,
    }


def without_each(data: Data) -> dict[str, Data]:
    """The data as they are, without each source, and without all sources of KiTS's layout (simulated ones, say)."""
    variants = {"all sources": data}
    for left_out in data.sources:
        kept = tuple(replace(s, share=0.0) if s is left_out else s for s in data.sources)
        variants[f"without {left_out.path.name}"] = replace(data, sources=kept)
    whole = tuple(replace(s, share=0.0) if s.kind == "kits" else s for s in data.sources)
    return variants | {"without any of kind kits": replace(data, sources=whole)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.ablation", description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=Path, nargs="+", required=True, help="its [data] table is used")
    parser.add_argument("--cache", type=Path, required=True, help="folder that python -m train prepare filled")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs and ablation.md")
    parser.add_argument("--vary", choices=("preset", "sources"), default="preset")
    parser.add_argument("--network", choices=sorted(PAPER), default="res-unet2")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--patch", type=int, default=256)
    parser.add_argument("--only", nargs="*", help="names of switches; all by default")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    data = data_of(read_settings(*arguments.config))
    index = read_index(arguments.cache)
    norm = Normalisation(index["mean"], index["std"])
    scans = load(arguments.cache, PAPER[arguments.network].role)
    train, valid = ([s for s in scans if s.patient in index["split"][part]] for part in ("train", "valid"))
    budget = {"epochs": 1, "epoch_steps": arguments.steps, "batch": arguments.batch, "patience": 0}
    variants = (
        [(name, changes, data) for name, changes in switches(arguments.network).items()]
        if arguments.vary == "preset"
        else [(name, asdict(BEST[arguments.network]), varied) for name, varied in without_each(data).items()]
    )
    rows = []
    for name, changes, varied in variants:
        if arguments.only and name not in arguments.only:
            continue
        changes = changes | {"patch": arguments.patch, "schedule": changes.get("schedule", {}) | budget}
        config = config_of(arguments.network, "paper", {"training": changes})
        folder = arguments.out / name.replace(" ", "-")
        done = folder / "scores.json"
        if not done.exists():
            folder.mkdir(parents=True, exist_ok=True)
            trainer = Trainer(config, Material(varied, train, valid, norm), folder, arguments.device)
            scores: dict[str, Any]
            try:
                trained = load_member(trainer.fit()).network.to(trainer.engine.device)
                scores = validate(trained, valid, config.role, norm, trainer.engine) | {"loss": trainer.progress.loss}
            except KitsError as error:  # a diverged run is a result, too
                scores = {"failed": str(error)}
            write_text(json.dumps(scores), done)
        scores = json.loads(done.read_text(encoding="utf-8"))
        rows.append((name, *(scores.get(measure, "-") for measure in ("kidney", "tumour", "loss"))))
        print(*rows[-1], flush=True)
        write_text(table(("variant", "kidney", "tumour", "loss"), rows), arguments.out / "ablation.md")


if __name__ == "__main__":
    main()
