"""The model card of a weights folder that the recipe made: its ``README.md``, filled in from what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kits.io.atomic import write_text
from kits.networks import ARCHITECTURES
from kits.runtime.weights import CHECKSUMS, Member, load_members

from .table import Table

ROLES = {"locate": "stage 1: where the kidneys are", "segment": "stage 2: kidney and tumour, a member of the ensemble"}
KITS19_LIMITS = (
    "KiTS19's patients come from one centre in the United States, before surgery for a kidney tumour (2010 to 2018). "
    "Kidneys without a tumour are seen beside others that have one, never in healthy people.",
    "Their CT is contrast-enhanced, of the late arterial phase. Scans without contrast or of other phases, of "
    "children, of transplanted kidneys or after nephrectomy are not, or hardly, represented; nor are all scanners and "
    "peoples.",
    "A cyst counts as kidney in their references, and is easily taken for tumour.",
    "At most two regions with kidneys are looked for; anything but CT in Hounsfield units gives nonsense.",
)
"""Whom and what the data of KiTS19 do not represent (Heller et al., arXiv 1904.00445)."""


@dataclass(frozen=True)
class Training:
    """How one network of the folder came about.

    Args:
        configuration: the run's, as TOML.
        steps: optimiser steps up to the checkpoint that was kept.
        minutes: that they took.
        validation: measure -> score of that checkpoint, such as ``{"kidney": 0.95, "tumour": 0.7}``.
    """

    configuration: str
    steps: int
    minutes: float
    validation: Mapping[str, float]


def write_card(
    folder: Path,
    trainings: Mapping[str, Training],
    table: Table | None = None,
    limits: Sequence[str] = KITS19_LIMITS,
) -> Path:
    """Write a weights folder's model card.

    Args:
        folder: holds the weight files, whose own metadata say what they are.
        trainings: weight file's name without its ending -> how it was trained.
        table: the scores on cases that the networks never saw.
        limits: sentences on whom and what the data do not represent.

    Returns:
        The card, ``README.md`` in the folder.

    Raises:
        WeightsError: the folder does not hold whole, fitting weight files for both stages.
        ValueError: a training belongs to no weight file there.
        OutputError: it cannot be written.
    """
    locators, segmenters = load_members(folder)
    members = [*locators, *segmenters]
    if strangers := sorted(set(trainings) - {member.name for member in members}):
        raise ValueError(f"{folder} holds no weights of {', '.join(strangers)}, which a training is given for")
    card = folder / "README.md"
    write_text(card_text(folder.absolute().name, members, trainings, table, limits), card)
    return card


def card_text(
    name: str, members: Sequence[Member], trainings: Mapping[str, Training], table: Table | None, limits: Sequence[str]
) -> str:
    """The card of the folder ``name``; all else as in ``write_card``."""
    files = "\n".join(file_row(member) for member in members)
    data = bullets(origins(members))
    training = training_section(members, trainings)
    scores = table.markdown().strip() if table else "Not evaluated on cases that the networks never saw."
    return f"""# Model card

Weights of KiTS Cascade, which finds kidneys and kidney tumours in abdominal CT: an implementation of the multi-stage
2.5D cascade of Santini, Moreau and Rubeaux for KiTS19 ([arXiv:1909.00735](https://arxiv.org/abs/1909.00735)).

**Not for diagnosis, nor for planning any treatment.** This is not a medical device.

## Files

| file | network | role | parameters | input: HU window, mean, standard deviation |
| --- | --- | --- | --- | --- |
{files}

`{CHECKSUMS}`, where it lies beside them, lists what the files must be. Each says of itself what stands in this table.

## Data and licence

{data}

## Training

{training}

## Scores

{scores}

## Use

    python process.py --input SCANS --output RESULTS --weights {name}

In the container, mounted at `/opt/ml/model`, they go before those in the image:

    docker run --rm --network none -v "$PWD/SCANS:/input:ro" -v "$PWD/RESULTS:/output" \\
        -v "$PWD/{name}:/opt/ml/model:ro" kits-cascade

## Limits

{bullets(limits)}
"""


def file_row(member: Member) -> str:
    """A weight file's line in the card's first table."""
    info = member.info
    millions = sum(parameter.numel() for parameter in member.network.parameters()) / 1e6
    low, high = info.norm.window
    cells = (
        f"`{member.name}.safetensors`",
        ARCHITECTURES[info.architecture].title,
        ROLES[info.role],
        f"{millions:.2f} M",
        f"{low:g} to {high:g}, {info.norm.mean:g}, {info.norm.std:g}",
    )
    return f"| {' | '.join(cells)} |"


def origins(members: Sequence[Member]) -> list[str]:
    """What the networks learned from and under which licence they are, those that share both in one sentence."""
    names: dict[tuple[str, str], list[str]] = {}
    for member in members:
        names.setdefault((member.info.trained_on, member.info.licence), []).append(f"`{member.name}`")
    return [
        f"{', '.join(group)} learned from: {trained_on}. Licence of the weights: **{licence}**."
        for (trained_on, licence), group in names.items()
    ]


def training_section(members: Sequence[Member], trainings: Mapping[str, Training]) -> str:
    """Each network's steps, minutes and validation scores, and then their configurations."""
    table = [
        "| network | steps to the checkpoint that was kept | minutes | its validation scores |",
        "| --- " * 4 + "|",
    ]
    configurations = []
    for member in members:
        training = trainings.get(member.name)
        if training is None:
            table.append(f"| `{member.name}` | not stated | | |")
            continue
        scores = ", ".join(f"{measure} {score:.3f}" for measure, score in training.validation.items())
        table.append(f"| `{member.name}` | {training.steps} | {training.minutes:.0f} | {scores or 'not measured'} |")
        configurations.append(f"`{member.name}`:\n\n```toml\n{training.configuration.strip()}\n```")
    return "\n\n".join(["\n".join(table), *configurations])


def bullets(sentences: Sequence[str]) -> str:
    """Sentences as a Markdown list."""
    return "\n".join(f"- {sentence}" for sentence in sentences)
