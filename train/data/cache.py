"""``python -m train prepare``: every case through inference's own preprocessing, once, into memory-mapped arrays.

CACHE/index.json           what there is: scans, their slices by group, the split, mean and standard deviation
CACHE/NAME/scan.json       one scan's entry of the index, written last: a folder that has it is whole
CACHE/NAME/{hu,labels}.npy         int16 HU and uint8 labels, (z, y, x): 3 mm slices, in-plane as stage 2 sees them
CACHE/NAME/{hu,labels}-half.npy    the same halved in-plane, as stage 1 sees them
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cc3d
import numpy as np
import torch
from tqdm import tqdm

from kits.cascade.preprocess import Slices
from kits.errors import InputError, KitsError
from kits.geometry import Grids, Shape
from kits.io.atomic import write_text
from kits.normalisation import Normalisation
from kits.plan import HU_WINDOW, PAPER

from ..config import Data
from .cases import FAULTY, LabelledCase, find_labelled

FORMAT = 2
CPU = torch.device("cpu")
WIDE = Normalisation(0.0, 1.0, (-1000.0, 1000.0))
"""Keeps HU as they are: training clips to the window only after it has varied the intensities."""
SMALLEST_KIDNEY = 30
"""Components with fewer voxels are no kidney that a region could be cut around."""
log = logging.getLogger(__name__)


class CasesFailed(InputError):
    """Some cases could not be used; all others are prepared."""

    status = 1


@dataclass(frozen=True)
class Scan:
    """A labelled scan on the grid of the networks.

    Args:
        name, patient: see ``LabelledCase``.
        source: number of the source it came from.
        lone: whether it is a single slice that stands for its own neighbours.
        groups: the paper's group of each slice, see ``group_of``.
        kidneys: bounding boxes, (low, high) in (z, y, x) with high exclusive, at full in-plane resolution.
        moments: count, sum and sum of squares of the clipped voxels (HU).
        spacing: mm (z, y, x).
        hu: int16 HU, (z, y, x), memory-mapped.
        labels: uint8, as ``hu``: 0 background, 1 kidney, 2 tumour, 3 cyst.
        made_of: see ``LabelledCase``.
        origin: files that it was made of, with their sizes and times, to see whether they have changed.
        interpolated: slices that are context for their neighbours, and nothing to learn from, see ``LabelledCase``.
    """

    name: str
    patient: str
    source: int
    groups: tuple[str, ...]
    kidneys: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    moments: tuple[float, float, float]
    spacing: tuple[float, float, float]
    hu: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    made_of: tuple[str, ...] = ()
    origin: tuple[tuple[str, int, float], ...] = ()
    interpolated: tuple[int, ...] = ()

    @property
    def lone(self) -> bool:
        """Whether this is a single slice, which stands for its own neighbours."""
        return len(self.hu) == 1


def scan_of(
    name: str,
    patient: str,
    hu: np.ndarray,
    labels: np.ndarray,
    spacing: tuple[float, float, float],
    **about: Any,
) -> Scan:
    """A scan of arrays that are on the networks' grid already; ``about`` is what else ``Scan`` has and is known."""
    clipped = np.clip(hu, *HU_WINDOW).astype(np.float64)
    moments = (float(clipped.size), float(clipped.sum()), float(np.square(clipped).sum()))
    groups = tuple(group_of(one) for one in labels)
    about = {"source": 0} | about
    return Scan(
        name=name, patient=patient, groups=groups, kidneys=kidney_boxes(labels), moments=moments, spacing=spacing,
        hu=hu, labels=labels, **about,
    )  # fmt: skip


def group_of(labels: np.ndarray) -> str:
    """The paper's image group (section 3.1): B neither kidney nor tumour, K kidney only, KT tumour in it."""
    return "KT" if (labels == 2).any() else "K" if labels.any() else "B"


def kidney_boxes(labels: np.ndarray) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
    """Bounding boxes, (low, high) in (z, y, x) with high exclusive, of the two largest merged components."""
    components = cc3d.dust(np.ascontiguousarray(labels > 0), threshold=SMALLEST_KIDNEY)
    statistics = cc3d.statistics(cc3d.connected_components(components))
    order = np.argsort(statistics["voxel_counts"][1:])[::-1][: PAPER.kidneys] + 1
    boxes = [statistics["bounding_boxes"][index] for index in order]
    return tuple((tuple(int(s.start) for s in box), tuple(int(s.stop) for s in box)) for box in boxes)


def prepare(data: Data, cache: Path) -> dict[str, Any]:
    """Fill a cache with the cases of all sources; what is there already, and unchanged, is left alone.

    A case that cannot be used is told and left out, and costs no other its place.

    Returns:
        The index, as written.

    Raises:
        CasesFailed: at the end, if cases could not be used; the index of the others is written nevertheless.
        InputError: none could, or two have one name.
    """
    entries: list[dict[str, Any]] = []
    failures: list[str] = []
    found = [find_labelled(source) for source in data.sources]
    names = Counter(case.name for cases in found for case in cases)
    if twice := [name for name, count in names.items() if count > 1]:
        raise InputError(
            f"{', '.join(twice[:5])}: several cases have one name; give their sources a name each in [data]."
        )
    for number, (source, cases) in enumerate(zip(data.sources, found, strict=True)):
        for case in tqdm(cases, desc=str(source.path), disable=None):
            if case.patient in FAULTY and source.kind == "kits" and not case.made_of:
                fate = "used" if data.faulty else "left out"
                log.warning("%s: its labels were wrong in early releases (%s).", case.name, fate)
                if not data.faulty:
                    continue
            try:
                entries.append(prepare_case(case, number, cache))
            except KitsError as error:
                log.error("%s", error)
                failures.append(case.name)
    if not entries:
        raise InputError(f"No case could be used{': ' if failures else '.'}{', '.join(failures)}")
    index = {"format": FORMAT, "sources": [str(source.path) for source in data.sources], "scans": entries}
    train, valid = split(index, data)
    norm = normalisation([entry["moments"] for entry in entries if may_train(entry, train, valid)])
    index |= {"split": {"train": train, "valid": valid}, "mean": norm.mean, "std": norm.std}
    write_text(json.dumps(index, indent=1) + "\n", cache / "index.json")
    if failures:
        count = len(failures) + len(entries)
        raise CasesFailed(f"{len(failures)} of {count} cases could not be used: {', '.join(failures)}.")
    return index


def prepare_case(case: LabelledCase, source: int, cache: Path) -> dict[str, Any]:
    """Preprocess one case unless the cache holds it; returns its entry of the index."""
    folder = cache / case.name
    origin = tuple((str(path), path.stat().st_size, path.stat().st_mtime) for path in case.files)
    done = folder / "scan.json"
    if done.exists():
        entry = json.loads(done.read_text(encoding="utf-8"))
        if entry["origin"] == [list(file) for file in origin]:
            return entry | {"source": source}
    hu, labels, spacing = case.read()
    slices, rows, columns = hu.shape
    grids = Grids.from_shape((slices, rows, columns), spacing, PAPER)  # whose fine pixels are variety here
    arrays = on_grid(hu, labels, grids.working.shape)
    about: dict[str, Any] = {"source": source, "made_of": case.made_of, "origin": origin}
    about["interpolated"] = resliced(case.interpolated(), slices, grids.working.shape[0])
    scan = scan_of(case.name, case.patient, *arrays, grids.working.spacing, **about)
    partial = cache / f".partial-{case.name}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for suffix, arrays in (("", (scan.hu, scan.labels)), ("-half", on_grid(hu, labels, grids.halved.shape))):
        for name, array in zip(("hu", "labels"), arrays, strict=True):
            np.save(partial / f"{name}{suffix}.npy", array)
    entry = {key: value for key, value in asdict(scan).items() if key not in ("hu", "labels")}
    (partial / "scan.json").write_text(json.dumps(entry))
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return json.loads(json.dumps(entry))


def on_grid(hu: np.ndarray, labels: np.ndarray, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """CT and labels resampled to ``shape``: int16 HU by inference's own graph, uint8 labels by nearest voxel."""
    resampled = torch.nn.functional.interpolate(
        torch.from_numpy(np.ascontiguousarray(labels))[None, None], size=shape, mode="nearest-exact"
    )[0, 0]
    return Slices(hu, shape, WIDE, CPU).slab().round().to(torch.int16).numpy(), resampled.numpy()


def resliced(native: Sequence[int], depth: int, slices: int) -> tuple[int, ...]:
    """Those of ``slices`` slices that cover a volume whose labels come from one of its ``depth`` slices ``native``."""
    nearest = (np.arange(slices) + 0.5) * depth // slices
    return tuple(np.flatnonzero(np.isin(nearest, native)).tolist())


def split(index: dict[str, Any], data: Data, fold: tuple[int, int] | None = None) -> tuple[list[str], list[str]]:
    """Training and validation patients.

    A simulated scan belongs to those whom it was made of: they are drawn, it is not.

    Args:
        index: of the cache.
        data: names validation patients, or says how many to draw (section 3.1: 20 of 210).
        fold: (k, of how many) for cross-validation: every patient is in the validation part of one fold, or those whom
            the data name are in theirs.

    Raises:
        InputError: nobody would be left on one of the sides, or there are not as many parts as folds.
    """
    if fold and data.parts and len(data.parts) != fold[1]:
        raise InputError(f"[data] names the patients of {len(data.parts)} parts, but there are {fold[1]} folds.")
    patients = {entry["patient"] for entry in index["scans"]}
    real = sorted({name for entry in index["scans"] for name in entry["made_of"] or (entry["patient"],)})
    shuffled = [real[i] for i in np.random.default_rng(data.seed).permutation(len(real))]
    if fold and data.parts:
        valid = sorted(patients & {*data.valid, *data.parts[fold[0]]})
    elif fold:
        valid = shuffled[fold[0] :: fold[1]]
    elif data.valid:
        valid = sorted(patients & set(data.valid))
    else:
        valid = shuffled[: data.valid_count]
    train = sorted(patients - set(valid))
    if not valid or not train:
        raise InputError(
            f"{len(train)} patients are left to train on and {len(valid)} to validate on, of {len(patients)}; "
            f"change valid or valid_count in [data], or the number of folds."
        )
    return train, sorted(valid)


def may_train(entry: dict[str, Any], train: Sequence[str], valid: Sequence[str]) -> bool:
    """Whether a scan is a training patient's, and not made of a validation patient's."""
    return entry["patient"] in train and not set(entry["made_of"]) & set(valid)


def normalisation(moments: Sequence[Sequence[float]]) -> Normalisation:
    """Mean and standard deviation (HU) of the clipped voxels of all scans, from their moments."""
    count, total, squares = np.sum(moments, axis=0)
    mean = total / count
    return Normalisation(round(float(mean), 2), round(math.sqrt(squares / count - mean**2), 2))


def load(cache: Path, role: str) -> list[Scan]:
    """The scans of a cache as one stage sees them.

    Args:
        cache: folder that ``prepare`` filled.
        role: ``locate`` gives halved slices, ``segment`` full ones.

    Raises:
        InputError: the folder is no cache of this version.
    """
    index = read_index(cache)
    suffix, coarser = ("-half", 2) if role == "locate" else ("", 1)
    scans = []
    for entry in index["scans"]:
        hu, labels = (np.load(cache / entry["name"] / f"{n}{suffix}.npy", mmap_mode="r") for n in ("hu", "labels"))
        z, y, x = entry["spacing"]
        own = {"hu": hu, "labels": labels, "spacing": (z, y * coarser, x * coarser)}
        scans.append(Scan(**entry | own | {"interpolated": tuple(entry.get("interpolated", ()))}))
    return scans


def read_index(cache: Path) -> dict[str, Any]:
    """The index of a cache.

    Raises:
        InputError: there is none, or one of another version.
    """
    try:
        index = json.loads((cache / "index.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"{cache} is no prepared cache ({error}); run `python -m train prepare` first.") from error
    if index.get("format") != FORMAT:
        raise InputError(f"{cache} was prepared by another version; empty it and run `python -m train prepare` again.")
    return index
