"""Scores of a weights folder on cases with known labels: each network alone and the ensemble.

    python -m bench.accuracy --config train/recipes/shipped.toml [--simulated KITS_DIR ...] [--modes native paper]
    python -m bench.accuracy --config train/recipes/shipped.toml --weights FOLD0 FOLD1 FOLD2     cross-validated

The configuration is that of the training. Lone slices of patients that it held out are repeated into thin volumes, of
which the middle slice is scored. Whole volumes, and simulated ones, are all scored, but for their interpolated slices;
real ones also tumour by tumour. Those that are, or are made of, training patients are marked, since they flatter; of a
cross-validation they are left out. Who was held out the weight files say; of one that does not, the configuration does.
The rows are those of Table 2 (``train.report.evaluate.label_maps``). With ``--confidence`` the ensemble's probabilities
are judged, too: the Dice that they promise, beside the true one, and a table of calibration.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from bench.accuracy_tables import Overlap, Row, tables
from bench.lesions import expected_dice, lesions_of, reliability
from kits.batch.overlay import write_overlay
from kits.cascade.cascade import Cascade
from kits.cascade.stage import PREPROCESSING
from kits.choices import Mode
from kits.errors import InputError
from kits.io.atomic import write_text
from kits.io.cases import Case
from kits.io.images import read_volume, write_image
from kits.io.volume import Volume
from kits.networks import Network
from kits.runtime.runtime import Runtime
from kits.runtime.weights import Member, load_members
from train.config import Data, Source
from train.data.cases import LabelledCase, find_labelled, kits19_labels, labels_of
from train.report.evaluate import label_maps
from train.report.table import ENSEMBLE
from train.settings import data_of, read_settings

REPEATS = 15
"""3 mm slices of a thin volume: more than the two neighbours on each side that the networks see."""


class Memoised:
    """A network that computes no stack of slices twice.

    A thin volume's slices are all alike, and a network sees the same alone and in the ensemble.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.known: dict[bytes, torch.Tensor] = {}

    def __call__(self, stacks_BCYX: torch.Tensor) -> torch.Tensor:
        keys = [hashlib.blake2b(stack.cpu().numpy().tobytes()).digest() for stack in stacks_BCYX]
        new = {key: index for index, key in enumerate(keys) if key not in self.known}
        if new:
            # OpenVINO overwrites what it returned at its next call.
            logits = self.network(stacks_BCYX[list(new.values())]).clone()
            self.known |= dict(zip(new, logits, strict=True))
        return torch.stack([self.known[key] for key in keys])


def memoised(cascade: Cascade) -> Cascade:
    """The same cascade, its networks memoised: for one case, lest memory fill."""
    return cascade.wrapped(lambda _: lambda part, run: run if part == PREPROCESSING else Memoised(run))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.accuracy", description=__doc__.split("\n")[0])
    parser.add_argument("--weights", type=Path, nargs="+", default=[Path(__file__).parent.parent / "weights"],
                        help="weights folder, or those of a cross-validation's folds")  # fmt: skip
    parser.add_argument(
        "--config", type=Path, nargs="+", required=True, help="the training's: its [data] table is used"
    )
    parser.add_argument("--simulated", type=Path, nargs="+", metavar="KITS_DIR", default=[],
                        help="made by python -m train simulate")  # fmt: skip
    parser.add_argument("--modes", nargs="+", choices=tuple(Mode), default=[Mode.NATIVE])
    parser.add_argument("--confidence", action="store_true", help="judge the ensemble's probabilities, too")
    parser.add_argument("--out", type=Path, help="folder for the tables, and for label maps and pictures of patients")
    arguments = parser.parse_args()
    data = data_of(read_settings(*arguments.config))
    rows: list[Row] = []
    for folder in arguments.weights:
        members = load_members(folder)
        cascades = [Cascade(*members, Runtime.of(mode=mode)) for mode in arguments.modes]
        known = unseen_by(data, [one for each in cascades for one in each.members])
        cases = list(cases_of(known, arguments.simulated, only_unseen=len(arguments.weights) > 1))
        rows += [row for case in tqdm(cases, desc=str(folder), disable=None)
                 for row in score_networks(*case, cascades, arguments.out, arguments.confidence)]  # fmt: skip
    refuse_twice(rows)
    text = tables(rows)
    print(text)
    if arguments.out:
        write_text(text, arguments.out / "accuracy.md")
        write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", arguments.out / "accuracy.json")


def unseen_by(data: Data, members: Iterable[Member]) -> Data:
    """The data with those patients to validate on from whom no network learned."""
    said = [data.valid if member.info.held_out is None else member.info.held_out for member in members]
    return replace(data, valid=tuple(sorted(set.intersection(*map(set, said)))))


def cases_of(
    data: Data, simulated: Iterable[Path] = (), only_unseen: bool = False
) -> Iterator[tuple[str, LabelledCase, bool]]:
    """Cases to score: their group, and whether they are unseen.

    Args:
        data: whom no network learned from is in ``valid``.
        simulated: folders of simulated scans.
        only_unseen: leave out the whole volumes and simulated scans that were learned from.
    """
    for source in data.sources:
        for case in find_labelled(source):
            unseen = case.patient in data.valid
            if not case.made_of and (unseen or (source.kind != "slices" and not only_unseen)):
                yield source.kind, case, unseen
    for folder in simulated:
        for case in find_labelled(Source("kits", folder, folder.name)):
            about = json.loads((case.files[0].parent / "simulation.json").read_text(encoding="utf-8"))
            unseen = set(case.made_of) <= set(data.valid)
            if unseen or not only_unseen:
                yield f"simulated {about['kind']}", case, unseen


def refuse_twice(rows: Iterable[Row]) -> None:
    """Folds of one cross-validation score each case once.

    Raises:
        InputError: a case was scored by several weights folders.
    """
    most = Counter((row.network, row.case) for row in rows).most_common(1)
    if most and most[0][1] > 1:
        (_, case), times = most[0]
        raise InputError(f"{case} was scored {times} times: the weights folders are not folds of one cross-validation.")


def score_networks(
    group: str,
    case: LabelledCase,
    unseen: bool,
    cascades: Sequence[Cascade],
    out: Path | None,
    confidence: bool = False,
) -> Iterator[Row]:
    """Each network's result on a case; the ensemble's label maps and pictures of whole volumes go to ``out``.

    Args:
        group, case, unseen: from ``cases_of``.
        cascades: of one weights folder, one a mode.
        out: a folder, or None.
        confidence: judge the ensemble's probabilities, too.
    """
    scored: np.ndarray | slice  # slices
    if group == "slices":
        hu, truth, spacing = case.read()
        volume = Volume.from_array(np.repeat(hu, REPEATS, axis=0), spacing, case.name)
        truth = truth.repeat(REPEATS, axis=0)
        scored = slice(REPEATS // 2, REPEATS // 2 + 1)
    else:
        volume = read_volume(Case(case.name, case.files[0], case.files[0].name))
        truth = labels_of(volume, case.files[1])
        scored = np.delete(np.arange(len(truth)), case.interpolated())
    true = kits19_labels(truth[scored])
    for cascade in map(memoised, cascades):
        mode = str(cascade.plan.mode)
        for name, labels, _ in label_maps(volume, cascade, [member.name for member in cascade.members]):
            predicted = labels[scored]
            row = Row(
                f"{name}, {mode}", group, case.name, case.patient, unseen,
                overlap(predicted > 0, true > 0), overlap(predicted > 1, true > 1),
                bool(true.any()), bool((true > 1).any()),
                round(float((predicted > 1).sum() * volume.voxel_ml), 2),
            )  # fmt: skip
            if group != "slices":
                lesions, false = lesions_of(labels > 1, truth > 1, volume.voxel_ml)
                row = replace(row, lesions=lesions, false_ml=false)
            if confidence and name == ENSEMBLE:
                percent = probabilities_of(cascade, volume)[:, scored]
                promised = [expected_dice(percent[n], predicted > n) for n in (0, 1)]
                bins = reliability(percent[1], true > 1).tolist()
                row = replace(row, promised=(promised[0], promised[1]), bins=bins)
            yield row
            if out and group != "slices" and name == ENSEMBLE:
                write_overlay(out / mode / f"{case.name}.png", volume.hu, volume.spacing, labels, truth)
                write_image(volume.to_home(labels), out / mode / f"{case.name}.nii.gz")


def probabilities_of(cascade: Cascade, volume: Volume) -> np.ndarray:
    """Percent of kidney with tumour, and of tumour, uint8 (2, z, y, x)."""
    percent = cascade.predict(volume, keep_probabilities=True).probabilities
    assert percent is not None
    return percent


def overlap(predicted: np.ndarray, truth: np.ndarray) -> Overlap:
    """How far two masks agree."""
    return 2 * int((predicted & truth).sum()), int(predicted.sum()) + int(truth.sum())


if __name__ == "__main__":
    main()
