"""What a training is told, as dataclasses: data, augmentation, loss, schedule, and a network's phases.

``presets`` has two sets of values, ``settings`` reads TOML files that change them.
"""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

STRICT = ConfigDict(extra="forbid")
Group = Literal["B", "K", "KT"]
GROUPS: tuple[Group, ...] = ("B", "K", "KT")
"""The paper's groups of slices (section 3.1): neither kidney nor tumour, kidney only, kidney and tumour."""


@dataclass(frozen=True, config=STRICT)
class Source:
    """A folder of labelled cases.

    Args:
        kind: ``kits`` (``case_NNNNN/{imaging,segmentation}.nii.gz``), ``volumes`` (``NAME/{ct,label}.nii.gz``) or
            ``slices`` (pictures listed in ``slices.json``, each of which stands for its own neighbours).
        path: the folder.
        name: what the patients' names begin with. Scans of one patient must have one name, whatever their source.
        share: how often a slice comes from here, relative to the other sources.
        grey_hu: HU of grey 0 and of grey 255, for ``slices``.
        black_hu: HU that grey 0 is taken for instead, where it stands for all that is darker, mostly fat.
    """

    kind: Literal["kits", "volumes", "slices"]
    path: Path
    name: str = "kits"
    share: float = 1.0
    grey_hu: tuple[float, float] = (-80.0, 320.0)
    black_hu: float | None = None


@dataclass(frozen=True, config=STRICT)
class Data:
    """Where the cases are, and who is kept for validation.

    Args:
        sources: folders of cases.
        valid: patients to validate on; empty: as many as ``valid_count``, drawn by ``seed``.
        valid_count: validation patients to draw (section 3.1: 20 of 210).
        seed: of the draw, and of the folds.
        parts: the patients that each fold validates on, beside ``valid``, in place of such as are drawn.
        folds: ``all`` trains networks for each of so many parts of the patients; 0 or 1 trains each network once.
        faulty: whether cases whose published labels are known to be wrong are used.
        trained_on: the data in a sentence, for the weight files.
        licence: under which weights that learned from these data may be used.
    """

    sources: tuple[Source, ...] = ()
    valid: tuple[str, ...] = ()
    valid_count: int = 20
    seed: int = 0
    parts: tuple[tuple[str, ...], ...] = ()
    folds: int = 0
    faulty: bool = True
    trained_on: str = "unstated"
    licence: str = "unstated"


@dataclass(frozen=True, config=STRICT)
class Augmentation:
    """How a slice is varied; the geometry runs in DALI.

    Args:
        groups: groups of slices that are varied at all.
        rotation_degrees: greatest rotation to either side, drawn evenly.
        flip: how often a slice is mirrored, right to left.
        reverse: how often a volume's neighbouring slices change places, up with down.
        zoom_chance: how often the slice is scaled.
        zoom: greatest magnification.
        shrink: by how much a slice may be made smaller instead.
        stretch: how much more, as a share, rows may be scaled than columns are, or less.
        shift_px: greatest shift of a patch's centre, rows and columns.
        intensity: vary gain, offset, sharpness and noise, as other scanners and contrast phases would.
        alone: how often a volume's slice is taken for a lone one, which stands for its own neighbours.
        drift: how often the channels of a lone slice move a little against each other, as real neighbours differ.
        lesions: how often a lesion is grown into a kidney of a lone slice: a tumour or cyst, beside a tumour a cyst.
        pasted: how often a real tumour of another lone slice is pasted into a kidney of one.
        pasted_among: the same for a volume's slice and its neighbours, through which the tumour shrinks as a ball does.
        whole: how often what is pasted there is a whole tumour of another volume, its sections as they are.
        grown_among: how often, instead, a lesion is grown through a volume's slice and its neighbours.
        washout: how often contrast medium is taken out, as in a scan without; half as often where a tumour shows.
        enhancement: how often, instead, organs and vessels take up more or less of it.
        masses: how often a mass that is no kidney's is painted in, away from the kidneys.
        bowel: how often bowel full of contrast medium, food or water is painted in, away from the kidneys.
        bowel_px: half of its width, from and to; stage 1's pixels are twice as large.
        codec: how often a slice goes through a picture's or a video's coding, and is left with fewer grey steps.
    """

    groups: tuple[Group, ...] = ("KT",)
    rotation_degrees: float = 30.0
    flip: float = 0.0
    reverse: float = 0.0
    zoom_chance: float = 0.0
    zoom: float = 1.25
    shrink: float = 1.0
    stretch: float = 0.0
    shift_px: float = 0.0
    intensity: bool = False
    alone: float = 0.0
    drift: float = 0.0
    lesions: float = 0.0
    pasted: float = 0.0
    pasted_among: float = 0.0
    whole: float = 0.0
    grown_among: float = 0.0
    washout: float = 0.0
    enhancement: float = 0.0
    masses: float = 0.0
    bowel: float = 0.0
    bowel_px: tuple[float, float] = (8.0, 42.0)
    codec: float = 0.0


@dataclass(frozen=True, config=STRICT)
class Loss:
    """What is minimised.

    Args:
        class_weights: of background, kidney and tumour in the cross-entropy (Table 1); a cyst counts as kidney does,
            unless a fourth says otherwise.
        terms: of ``losses.TERMS``, each by how much it counts; what the preset has and is not wanted gets 0.
        each: how much of the Dice term is the mean of each slice's own Dice instead of that of all the batch's pixels,
            where one large tumour outweighs many small ones.
        empty: how much a slice without the region counts in that mean, beside one that shows it.
        smooth_px: added to both sides of the own Dice of a slice that shows a region; more lets small tumours go.
        l2: times the sum of squares of all convolution kernels, as Keras means it (section 3.1: 0.1).
        options: numbers that other terms take by name.
    """

    class_weights: tuple[float, float, float] | tuple[float, float, float, float]
    terms: dict[str, float] = field(default_factory=lambda: {"cross-entropy": 1.0})
    each: float = 0.0
    empty: float = 0.5
    smooth_px: float = 10.0
    l2: float = 0.1
    options: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, config=STRICT)
class Schedule:
    """How long, how fast.

    Args:
        optimiser: ``adam`` or ``adamw``.
        learning_rate: the constant one, or the highest of the cycle.
        one_cycle: one-cycle schedule (Smith, 2018) instead of a constant rate.
        weight_decay: of ``adamw``.
        clip: gradients longer than this are shortened; 0 leaves them.
        average: decay of the running average of the weights that is judged and kept; 0 keeps the weights themselves.
        batch: slices a step, over all processes (section 3.1: 32).
        epochs: at most (section 3.1: 250); in a recipe, 0 leaves a phase's network as it starts.
        epoch_steps: steps between two judgements; 0 is all training slices once.
        keep: the weights of the ``best`` validation score or of the ``last`` one: a cycle is only good at its end.
        patience: epochs without a better validation score after which the run ends; 0 never ends it early.
    """

    learning_rate: float
    optimiser: Literal["adam", "adamw"] = "adam"
    one_cycle: bool = False
    weight_decay: float = 0.0
    clip: float = 0.0
    average: float = 0.0
    batch: int = 32
    epochs: int = 250
    epoch_steps: int = 0
    keep: Literal["best", "last"] = "best"
    patience: int = 0


@dataclass(frozen=True, config=STRICT)
class Config:
    """One network's training.

    Args:
        architecture: a key of ``kits.networks.ARCHITECTURES``.
        role: ``locate`` (halved slices) or ``segment`` (regions at full resolution).
        shares: how much of each batch belongs to each of ``GROUPS``.
        loss, schedule, augmentation: see there.
        initial: ``truncated-normal`` (standard deviation 0.1), ``he-uniform``, or PyTorch's ``default``.
        regions: where stage 2 looks: at the ``true`` kidneys or at those that a given stage 1 has ``located``.
        dropout: whether dropout is on. With 32 dropouts and few steps Res-Net comes to rely on their noise.
        thin: how many times as often as others slices are drawn that show little of a kidney, such as its poles.
        by_tumour: 0 draws every slice with a tumour alike, 1 every tumour, however few slices show it.
        cysts: how many times as often as others slices are drawn that show a cyst: they are few.
        far: how often, beside other slices without kidney, stage 2 is shown a volume's slices far above and below its
            kidneys, at their place or, in volumes without any, at the usual ones; 0 is never.
        patch: rows and columns of a training patch, px; less costs less but teaches nothing of a window's rim.
        seed: of everything random.
        modes: of the cascade that are to run it.
        classes: 3, or 4 to tell cysts from kidney.
        only: what the names of those weights begin with that learn, such as ``cysts``; all others stay.
    """

    architecture: str
    role: Literal["locate", "segment"]
    shares: tuple[float, float, float]
    loss: Loss
    schedule: Schedule
    augmentation: Augmentation = Augmentation()
    initial: Literal["truncated-normal", "he-uniform", "default"] = "truncated-normal"
    regions: Literal["true", "located"] = "true"
    dropout: bool = True
    thin: int = 1
    by_tumour: float = 0.0
    cysts: float = 1.0
    far: float = 0.0
    patch: int = 256
    seed: int = 0
    modes: tuple[str, ...] = ("native", "paper")
    classes: Literal[3, 4] = 3
    only: str = ""


@dataclass(frozen=True, config=STRICT)
class Phase:
    """A part of a network's training, a table ``[[NETWORK.phases]]`` of a recipe.

    All else that the table says changes ``Config``, as ``[NETWORK]`` does for all of a network's phases.

    Args:
        config: what to train and how.
        name: one of its own among the network's phases.
        start: the weights that it goes on from: a phase's name (another network's as ``NETWORK/NAME``), a weight file,
            ``random``, or by default the phase before, of which the first one has none and is random.
        average_with: a phase, or a weight file, whose weights and this one's are averaged in the end.
        average_share: how much of that mean is this phase's own.
        average_logits: what is added to the mean's logits of background, kidney and tumour, see ``fit.average``.
        source_shares: the shares of some sources, by their folders' names, in place of their own.
        valid: patients to validate on, in place of the data's own.
    """

    config: Config
    name: str
    start: str = ""
    average_with: str = ""
    average_share: float = 0.5
    average_logits: tuple[float, float, float] = (0.0, 0.0, 0.0)
    source_shares: dict[str, float] = field(default_factory=dict)
    valid: tuple[str, ...] | None = None


@dataclass(frozen=True, config=STRICT)
class Simulated:
    """Scans that a recipe makes before all else, a table ``[[simulate]]``: the options of ``python -m train simulate``.

    Args:
        out: folder for the cases, one of the sources.
        count, seed, kinds: of the scans.
        labels, backgrounds: what they are made from. Nothing is made of the data's ``valid`` patients.
        leave_out: whom else they are not made of.
    """

    out: Path
    count: int
    seed: int = 0
    kinds: tuple[str, ...] = ("lesions", "painted")
    labels: tuple[Path, ...] = ()
    backgrounds: Path | None = None
    leave_out: tuple[str, ...] = ()
