"""The paper's Table 2 and figure 4: each network alone and the ensemble, over cases that they never saw.

    python -m train evaluate --data KITS_DIR --weights DIR --out DIR [--cases NAME ...] [--mode native|paper]

Stage 1's own answer, and the cascade with each member of stage 2 by itself and with all of them, are scored as
``kits.score`` scores label maps, by KiTS19's convention. In cross-validation each fold brings its own weights, and the
table is over the cases of all folds.

What is written is whole at any moment, and grows case by case: ``table2.md``, ``table2.json``, ``per_case.csv``, the
ensemble's label maps in ``predictions/`` (for ``python -m kits.score``) and at the end ``figure4.png``.
"""

from __future__ import annotations

import argparse
import logging
import math
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from kits.cascade.cascade import Cascade
from kits.choices import TUMOUR, Mode
from kits.errors import InputError, KitsError
from kits.io.cases import Case, find_cases
from kits.io.images import read_volume, write_image
from kits.io.volume import Volume
from kits.runtime.memory import check_memory
from kits.runtime.runtime import Runtime
from kits.runtime.weights import Member, load_members
from kits.score.metrics import score_case

from ..data.cases import kits19_labels, labels_of
from .figure4 import write_figure4
from .table import ENSEMBLE, Fold, Score, Table, prediction_path, reference_path

FOLD_SUFFIX = re.compile(r"-fold\d+$")
log = logging.getLogger(__name__)


def evaluate(folds: Sequence[Fold], data: Path, out: Path, mode: str = "native") -> Table:
    """Score each network alone and the ensemble on every fold's cases, as the paper's Table 2 does.

    One case is held at a time. A case that fails is told, and costs no other its scores.

    Args:
        folds: weights folders, each with the cases that its networks never saw.
        data: folder of KiTS19's form: ``case_00003/imaging.nii.gz`` with ``segmentation.nii.gz``.
        out: folder for the table, the scores a case, the ensemble's label maps and the picture.
        mode: ``native`` or ``paper``, see ``Cascade``.

    Returns:
        The table; ``table.failed`` has the cases that failed.

    Raises:
        InputError: a fold names a case that is not there, two name the same one, or there is none.
        WeightsError: a fold's weights are not whole or do not fit.
        OutputError: a result cannot be written.
    """
    found = {case.name: case for case in find_cases(data)}
    names = Counter(name for fold in folds for name in fold.cases)
    if not names:
        raise InputError("There is no case to evaluate on; name at least one a fold.")
    if absent := sorted(set(names) - set(found)):
        raise InputError(f"{data} holds no {', '.join(absent)}; name cases that lie there as case_NNNNN.")
    if twice := sorted(name for name, count in names.items() if count > 1):
        raise InputError(f"{', '.join(twice)} would be scored twice; give each case to one fold.")
    members = [load_members(fold.weights) for fold in folds]
    table = Table(mode, tuple(folds))
    table.write(out)  # what cannot be written is better known before the work than after
    with logging_redirect_tqdm(), tqdm(total=len(names), unit="case", disable=None) as bar:
        for index, (fold, (locators, segmenters)) in enumerate(zip(folds, members, strict=True)):
            cascade = Cascade(locators, segmenters, Runtime.of(mode=mode))
            for name in fold.cases:
                bar.set_postfix_str(name)
                evaluate_case(found[name], index, cascade, row_names(cascade.members), table, out)
                table.write(out)
                bar.update()
    write_figure4(table, found, out)
    return table


def evaluate_case(case: Case, fold: int, cascade: Cascade, names: Sequence[str], table: Table, out: Path) -> None:
    """Add a case's scores to the table, all of them or, if anything fails, the reason."""
    try:
        check_memory(case)
        volume = read_volume(case)
        truth = kits19_labels(labels_of(volume, reference_path(case)))
        scores = []
        for network, labels, seconds in label_maps(volume, cascade, names):
            scores.append(Score(case.name, fold, network, *score(labels, truth, volume), seconds))
        write_image(volume.to_home(labels), prediction_path(out, case))  # the ensemble's, which comes last
    except KitsError as error:
        table.failed[case.name] = str(error)
    except MemoryError:
        table.failed[case.name] = f"{case.source}: memory ran out; give more memory, or leave the case out."
    except Exception as error:
        table.failed[case.name] = f"{case.source}: unexpected {type(error).__name__}: {error}."
        log.debug("%s", case.name, exc_info=True)
    if case.name in table.failed:
        log.error("%s: failed. %s", case.name, table.failed[case.name])
        return
    table.scores += scores
    log.info("%s: %s, kidney %.3f, tumour %.3f.", case.name, ENSEMBLE, scores[-1].kidney, scores[-1].tumour)


def row_names(members: Sequence[Member]) -> list[str]:
    """What the table calls networks: their files' names without ``-fold3`` and the like, if that tells them apart."""
    short = [FOLD_SUFFIX.sub("", member.name) for member in members]
    return [name if short.count(name) == 1 else member.name for name, member in zip(short, members, strict=True)]


def label_maps(volume: Volume, cascade: Cascade, names: Sequence[str]) -> Iterator[tuple[str, np.ndarray, float]]:
    """Every network's own label map of a volume, then the ensemble's.

    The regions are located once for all members of stage 2. The ensemble is run by itself, so that its label map is
    the one that ``process.py`` writes.

    Args:
        volume: the CT.
        cascade: with the networks of a weights folder.
        names: of stage 1's networks and then of stage 2's.

    Yields:
        (row of the table, uint8 (z, y, x) label map, seconds that it took).
    """
    locators, segmenters = cascade.locator.members, cascade.segmenter.members
    for name, member in zip(names, locators, strict=False):
        started = time.perf_counter()
        labels = cascade.label(volume, cascade.segment_coarsely(volume, [member]))
        yield name, labels, time.perf_counter() - started
    started = time.perf_counter()
    regions = cascade.locate(volume)
    locating = time.perf_counter() - started
    rows = [(name, [member]) for name, member in zip(names[len(locators) :], segmenters, strict=True)]
    for name, members in [*rows, (ENSEMBLE, None)]:
        started = time.perf_counter()
        labels = cascade.predict(volume, regions=regions, members=members).labels
        yield name, labels, locating + time.perf_counter() - started


def score(labels: np.ndarray, truth: np.ndarray, volume: Volume) -> tuple[float, float, float]:
    """Dice of kidney with tumour and of tumour, and false tumour in ml (see ``Score``), of a map and its reference.

    Args:
        labels, truth: uint8 (z, y, x) on the volume's grid.
    """
    dice = score_case(labels, truth, volume.spacing, "kits19")
    false_ml = math.nan if (truth >= TUMOUR).any() else float((labels >= TUMOUR).sum() * volume.voxel_ml)
    return dice["kidney+tumour"], dice["tumour"], false_ml


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``python -m train evaluate``."""
    parser.add_argument("--data", type=Path, required=True, metavar="KITS_DIR", help="folder of case_NNNNN folders")
    parser.add_argument(
        "--weights", type=Path, nargs="+", required=True, metavar="DIR", help="weights folder, or one a fold"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the table and the picture")
    parser.add_argument(
        "--cases",
        nargs="+",
        action="append",
        metavar="NAME",
        help="cases that the networks never saw, case_00003 and so on; once a weights folder, in its order "
        "(default, for one folder: every case that has a reference)",
    )
    parser.add_argument("--mode", choices=tuple(Mode), default="native")


def main(arguments: argparse.Namespace) -> int:
    """Run ``python -m train evaluate``; returns 0, or 1 if a case failed."""
    table = evaluate(folds_of(arguments), arguments.data, arguments.out, arguments.mode)
    print(table.markdown())
    return 1 if table.failed else 0


def folds_of(arguments: argparse.Namespace) -> list[Fold]:
    """Weights folders paired with their cases.

    Raises:
        InputError: it is not clear which folder's networks are to be scored on which cases.
    """
    lists = arguments.cases
    if lists is None and len(arguments.weights) == 1:
        lists = [[case.name for case in find_cases(arguments.data) if reference_path(case).exists()]]
    if lists is None or len(lists) != len(arguments.weights):
        raise InputError(
            f"There are {len(arguments.weights)} weights folders but {len(lists or ())} lists of cases, and each "
            "fold's networks must be scored on cases that they never saw. Give --cases once a folder, in the same "
            "order, or let `python -m train all --folds K` do it, whose recipe knows the folds' cases."
        )
    return [Fold(weights, tuple(cases)) for weights, cases in zip(arguments.weights, lists, strict=True)]
