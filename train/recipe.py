"""A recipe, from labelled scans to a folder of weights with its scores and its card: what ``train all`` executes.

A network's training is a list of phases (``config.Phase``), each a run of its own, which starts from another's weights,
a file's, or random ones. Stopped, the recipe goes on in the phase where it was.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from kits.errors import InputError
from kits.runtime.weights import load_member, write_checksums

from . import workers
from .config import Data, Phase, Simulated
from .data.cache import prepare
from .fit import CONFIG, Fit, average, fit_network
from .loop import KEPT
from .presets import PRESETS
from .report.card import Training, write_card
from .report.evaluate import evaluate
from .report.table import Fold, Table
from .settings import data_in, data_of, phases_of, simulated_of
from .simulate.command import simulate
from .simulate.sources import find_sources

log = logging.getLogger(__name__)
RANDOM = "random"
WEIGHTS_ENDING = ".safetensors"
AVERAGED = f"averaged{WEIGHTS_ENDING}"


@dataclass(frozen=True)
class Step:
    """A phase in its place.

    Args:
        network, phase: what is trained, and how.
        start: the phase, as NETWORK/NAME, or the file that it goes on from; None for random weights.
        average_with: another phase, as NETWORK/NAME, or a file.
        locator: the phase whose weights cut its regions.
    """

    network: str
    phase: Phase
    start: str | Path | None
    average_with: str | Path | None
    locator: str | None

    @property
    def key(self) -> str:
        """NETWORK/NAME."""
        return f"{self.network}/{self.phase.name}"

    @property
    def needs(self) -> set[str]:
        """Phases that have to be done before."""
        return {key for key in (self.start, self.average_with, self.locator) if isinstance(key, str)}


@dataclass(frozen=True)
class Recipe:
    """All that ``train all`` does.

    Args:
        data: the sources; the first one of KiTS's layout that holds validation cases is what Table 2 is measured on.
        phases: network -> its phases, in order.
        simulated: scans to make before all else.
        mode: of the cascade that Table 2 is measured in.
    """

    data: Data
    phases: Mapping[str, Sequence[Phase]]
    simulated: tuple[Simulated, ...] = ()
    mode: str = "native"


def recipe_of(preset: str, settings: dict[str, Any], data: Data | None = None) -> Recipe:
    """The recipe that some settings tell: of the networks that have phases there, or else of all of the preset.

    Args:
        preset: what the settings change. The paper's networks are scored in its own mode.
        settings: from ``read_settings``.
        data: in place of the settings' own.
    """
    named = [network for network in PRESETS[preset] if "phases" in settings.get(network, {})]
    phases = {network: phases_of(network, preset, settings) for network in named or PRESETS[preset]}
    mode = "paper" if preset == "paper" else "native"
    return Recipe(data or data_of(settings), phases, simulated_of(settings), mode)


def steps_of(phases: Mapping[str, Sequence[Phase]]) -> list[Step]:
    """All phases in an order in which each comes after those that it needs.

    Raises:
        InputError: they wait for each other, or one names what is no phase.
    """
    keys = {f"{network}/{phase.name}" for network, own in phases.items() for phase in own}
    finders = [network for network, own in phases.items() if own[-1].config.role == "locate"]
    steps = {}
    for network, own in phases.items():
        before: str | None = None
        for phase in own:
            locator = None
            if phase.config.regions == "located":
                if not finders:
                    raise InputError(f"{network} learns in regions that stage 1 finds, but no stage 1 is trained.")
                locator = f"{finders[0]}/{phases[finders[0]][-1].name}"
            start: str | Path | None = before
            if phase.start and phase.start != RANDOM:
                start = key_of(phase.start, network, keys) or Path(phase.start)
            elif phase.start:
                start = None
            mate: str | Path | None = key_of(phase.average_with, network, keys)
            if phase.average_with and mate is None:
                mate = Path(phase.average_with)
                if mate.suffix != WEIGHTS_ENDING:
                    key = f"{network}/{phase.name}"
                    raise InputError(f"{key} is averaged with {mate}, which is no phase and no {WEIGHTS_ENDING} file.")
            step = Step(network, phase, start, mate, locator)
            steps[step.key] = step
            before = step.key
    waiting = TopologicalSorter({key: sorted(step.needs) for key, step in steps.items()})
    try:
        return [steps[key] for key in waiting.static_order()]
    except CycleError as error:
        raise InputError(f"Phases wait for each other: {', '.join(error.args[1])}.") from error


def key_of(name: str, network: str, keys: set[str]) -> str | None:
    """A phase's NETWORK/NAME by its name, which may go without its network; None if there is none."""
    return next((key for key in (f"{network}/{name}", name) if key in keys), None)


def run(recipe: Recipe, out: Path, device: str = "auto") -> int:
    """Simulate, prepare, train phase by phase, evaluate, write the card; returns the exit status.

    What is done already is not done again.

    Args:
        recipe: what to do.
        out: folder for everything.
        device: ``auto``, ``cuda`` or ``cpu``.

    Raises:
        InputError: ``torchrun`` started several processes, or something is missing.
    """
    if workers.launched():
        raise InputError("a recipe runs in one process; torchrun is for `python -m train fit`, a phase with --phase.")
    steps, data = steps_of(recipe.phases), recipe.data
    for scans in recipe.simulated:
        barred = [*data.valid, *scans.leave_out]
        simulate(find_sources(scans.labels, scans.backgrounds, barred), scans.out, scans.count, scans.seed, scans.kinds)
    index = prepare(data, out / "cache")
    folds = data.folds
    parts: list[tuple[int, int] | None] = [(k, folds) for k in range(folds)] if folds > 1 else [None]
    trainings: dict[str, Training] = {}
    unseen: dict[Path, set[str]] = {}
    weights = out / "weights"
    for part in parts:
        suffix = f"-fold{part[0]}" if part else ""
        own = out / "folds" / str(part[0]) if part else weights
        files = run_phases(steps, data, out, part, device)
        for network, phases in recipe.phases.items():
            trained = any(phase.config.schedule.epochs for phase in phases)
            name = f"{network}{suffix}" if trained else network  # one for all folds
            for folder in {own, weights}:
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copy(files[f"{network}/{phases[-1].name}"], folder / f"{name}.safetensors")
            trainings[name] = training_of(out / "runs" / f"{network}{suffix}", phases)
        unseen[own] = held_out(sorted(own.glob(f"*{WEIGHTS_ENDING}")))
    write_checksums(weights)
    table = table_2(recipe, index, unseen, out / "evaluation")
    write_card(weights, trainings, table)
    return 1 if table and table.failed else 0


def run_phases(
    steps: Sequence[Step], data: Data, out: Path, part: tuple[int, int] | None, device: str
) -> dict[str, Path]:
    """Train all phases of one fold, or of all patients; returns their weight files by NETWORK/NAME."""
    files: dict[str, Path] = {}
    for step in steps:
        folder = out / "runs" / f"{step.network}{f'-fold{part[0]}' if part else ''}" / step.phase.name
        start, mate = (files[of] if isinstance(of, str) else of for of in (step.start, step.average_with))
        for verb, path in (("starts from", start), ("is averaged with", mate)):
            if path and not path.exists():
                raise InputError(f"{step.key} {verb} {path}, which is neither a phase nor a file.")
        if not step.phase.config.schedule.epochs:
            if start is None:
                raise InputError(f"{step.key} has no epochs and no start: there is no network to leave as it is.")
            files[step.key] = start
            continue
        locator = files[step.locator] if step.locator else None
        changed = data_in(step.phase, data)
        fit = Fit(step.phase.config, changed, out / "cache", folder, device, start, locator, part)
        files[step.key] = fit_network(fit)
        if mate:
            phase = step.phase
            average(files[step.key], mate, folder / AVERAGED, phase.average_share, phase.average_logits)
            files[step.key] = folder / AVERAGED
    return files


def training_of(folder: Path, phases: Sequence[Phase]) -> Training:
    """What the card says of a network: its phases' configurations, steps and minutes, and the last one's scores."""
    phases = [phase for phase in phases if phase.config.schedule.epochs]
    if not phases:
        return Training("# not trained: its weights are those that it started from", 0, 0.0, {})
    kept = [json.loads((folder / phase.name / KEPT).read_text(encoding="utf-8")) for phase in phases]
    steps, minutes = (sum(one.pop(what) for one in kept) for what in ("step", "minutes"))
    told = [
        f"# {phase.name}, from {phase.start or 'the phase before'}\n"
        + (folder / phase.name / CONFIG).read_text(encoding="utf-8")
        for phase in phases
    ]
    scores = {} if phases[-1].average_with else kept[-1]  # nobody measured the mean's
    return Training("\n".join(told), steps, minutes, scores)


def held_out(files: Sequence[Path]) -> set[str]:
    """The patients whom none of some networks knew."""
    said = [load_member(file).info.held_out for file in files]
    return set.intersection(*(set(patients or ()) for patients in said))


def table_2(recipe: Recipe, index: dict[str, Any], unseen: Mapping[Path, set[str]], out: Path) -> Table | None:
    """The paper's Table 2 on the first source of KiTS's layout with cases that each fold's networks never saw.

    Args:
        recipe: what was done.
        index: of the cache.
        unseen: weights folder -> patients.
        out: folder for the scores.

    Returns:
        The table; None, and a warning, if there is no such source.
    """
    for number, source in enumerate(recipe.data.sources):
        if source.kind == "kits":
            folds = [Fold(weights, cases_of(index, number, patients)) for weights, patients in unseen.items()]
            if all(fold.cases for fold in folds):
                return evaluate(folds, source.path, out, recipe.mode)
    log.warning("No source of the kind 'kits' has cases that the networks never saw: Table 2 is not measured.")
    return None


def cases_of(index: dict[str, Any], source: int, patients: Collection[str]) -> tuple[str, ...]:
    """Names of some patients' whole cases in a source of KiTS's layout."""
    scans = [scan for scan in index["scans"] if scan["source"] == source and scan["patient"] in patients]
    return tuple(f"case_{scan['name'].rpartition('-')[2]}" for scan in scans)
