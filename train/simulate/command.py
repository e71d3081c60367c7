"""``python -m train simulate``: folders of simulated scans in the form of KiTS, with what they were made from."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from kits.errors import InputError, OutputError
from kits.io.atomic import write_text
from kits.io.images import write_image
from kits.io.volume import Grid, Volume

from .grown import grow_scan
from .hosts import Simulation
from .painted import paint_scan
from .sources import Source, Sources, find_sources

KITS_DIRECTION = (0.0, 0.0, 1.0, 0.0, 1.0, 0.0, -1.0, 0.0, 0.0)
"""KiTS stores slices first, from head to feet: axes to inferior, posterior, left."""

Recipe = Callable[[Sources, np.random.Generator], Simulation]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``simulate``."""
    parser.add_argument(
        "--labels", type=Path, nargs="+", default=[], metavar="DIR", help="KiTS label maps: case_NNNNN.nii.gz"
    )
    parser.add_argument("--backgrounds", type=Path, metavar="DIR", help="real scans: NAME/{ct,label}.nii.gz")
    parser.add_argument("--out", type=Path, required=True, metavar="KITS_DIR", help="folder for case_NNNNN folders")
    parser.add_argument("--count", type=int, required=True, metavar="N", help="how many scans; those there count")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--kinds", nargs="+", choices=sorted(RECIPES), default=sorted(RECIPES), help="taken in turn")
    parser.add_argument("--leave-out", nargs="+", default=[], metavar="NAME", help="patients not to use, such as "
                        "kits-00166 or a background's folder")  # fmt: skip


def main(arguments: argparse.Namespace) -> None:
    """Run ``simulate``; raises ``KitsError`` where something is missing or cannot be written."""
    sources = find_sources(arguments.labels, arguments.backgrounds, arguments.leave_out)
    simulate(sources, arguments.out, arguments.count, arguments.seed, arguments.kinds)


def simulate(sources: Sources, out: Path, count: int, seed: int, kinds: Sequence[str]) -> None:
    """Make the cases ``out/case_00000`` to ``count - 1``, but for those that are there already.

    Each depends on ``seed`` and its number alone, so that an interrupted run goes on as if it had not been.

    Raises:
        InputError: there is nothing to make a kind from, or a case is there that another seed made.
        OutputError: a case cannot be written.
    """
    for kind in kinds:
        for name in NEEDS[kind]:
            if not getattr(sources, name):
                raise InputError(f"{kind} scans need {WANTED[name]}, and none is left; give some, or other --kinds.")
    for index in tqdm(range(count), desc="simulate", unit="scan", disable=None):
        folder = out / f"case_{index:05d}"
        kind = kinds[index % len(kinds)]
        if folder.is_dir():
            _check_same(folder / "simulation.json", kind, seed)
            continue
        made = RECIPES[kind](sources, np.random.default_rng((seed, index)))
        patients = sorted({made.about[name] for name in ("label_map", "background") if made.about.get(name)})
        write_case(made, folder, {"kind": kind, "seed": seed, "patients": patients})


def write_case(made: Simulation, folder: Path, about: dict[str, object]) -> None:
    """Write a scan in KiTS's form, whole or not at all: ``imaging``, ``segmentation`` and ``simulation.json``.

    Raises:
        OutputError: it cannot be written.
    """
    z, y, x = made.hu.shape
    sz, sy, sx = made.spacing
    home = Grid((z, y, x), (sz, sy, sx), (0.0, 0.0, 0.0), KITS_DIRECTION)
    volume = Volume(folder.name, made.hu, made.spacing, home)
    aside = folder.with_name(f".partial-{folder.name}")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        write_image(volume.to_home(made.hu), aside / "imaging.nii.gz")
        write_image(volume.to_home(made.labels), aside / "segmentation.nii.gz")
        write_text(json.dumps(about | made.about, indent=1) + "\n", aside / "simulation.json")
        aside.replace(folder)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror}); check permissions and space.") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _check_same(path: Path, kind: str, seed: int) -> None:
    try:
        made = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path.parent}: is no simulated case; give another folder to --out.") from error
    if (made.get("kind"), made.get("seed")) != (kind, seed):
        raise InputError(
            f"{path.parent}: was made as {made.get('kind')} with seed {made.get('seed')}, not as {kind} with seed "
            f"{seed}; give the same --kinds and --seed to go on, or another --out."
        )


def _pick(sources: Sequence[Source], rng: np.random.Generator) -> Source:
    return sources[int(rng.integers(len(sources)))]


def _lesions(sources: Sources, rng: np.random.Generator) -> Simulation:
    return grow_scan(_pick(sources.backgrounds, rng), rng)


def _painted(sources: Sources, rng: np.random.Generator) -> Simulation:
    return paint_scan(_pick(sources.backgrounds, rng), _pick(sources.kidneys, rng), rng)


RECIPES: dict[str, Recipe] = {"lesions": _lesions, "painted": _painted}
NEEDS = {"lesions": ("backgrounds",), "painted": ("backgrounds", "kidneys")}
WANTED = {
    "backgrounds": "real scans (--backgrounds)",
    "kidneys": "KiTS label maps (--labels)",
}
