"""What a training run is told: dataclasses with a TOML face, and the two presets.

``paper`` is Table 1 and section 3.1 to the letter. ``best`` is what the field has learned since; each of its
improvements is a setting of its own, so that ``bench/ablation.py`` can measure each alone.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from kits.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

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
        faulty: whether cases whose published labels are known to be wrong are used.
        trained_on: the data in a sentence, for the weight files.
        licence: under which weights that learned from these data may be used.
    """

    sources: tuple[Source, ...] = ()
    valid: tuple[str, ...] = ()
    valid_count: int = 20
    seed: int = 0
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


@dataclass(frozen=True, config=STRICT)
class Loss:
    """What is minimised.

    Args:
        class_weights: of background, kidney and tumour in the cross-entropy (Table 1).
        dice: add one minus the soft Dice of the scored regions.
        each: how much of that is the mean of each slice's own Dice instead of that of all the batch's pixels, where
            one large tumour outweighs many small ones.
        empty: how much a slice without the region counts in that mean, beside one that shows it.
        l2: times the sum of squares of all convolution kernels, as Keras means it (section 3.1: 0.1).
    """

    class_weights: tuple[float, float, float]
    dice: bool = False
    each: float = 0.0
    empty: float = 0.5
    l2: float = 0.1


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
        epochs: at most (section 3.1: 250).
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
    patience: int = 60


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
        patch: rows and columns of a training patch, px; less costs less but teaches nothing of a window's rim.
        seed: of everything random.
        modes: of the cascade that are to run it.
    """

    architecture: Literal["res-unet", "res-net", "wide-unet"]
    role: Literal["locate", "segment"]
    shares: tuple[float, float, float]
    loss: Loss
    schedule: Schedule
    augmentation: Augmentation = Augmentation()
    initial: Literal["truncated-normal", "he-uniform", "default"] = "truncated-normal"
    regions: Literal["true", "located"] = "true"
    dropout: bool = True
    thin: int = 1
    patch: int = 256
    seed: int = 0
    modes: tuple[str, ...] = ("native", "paper")


STAGE_1 = (1 / 3, 1 / 3, 1 / 3)  # section 3.1: stage 1 balances all three groups,
STAGE_2 = (0.0, 0.5, 0.5)  # stage 2 the two with kidney
PAPER = {
    "res-unet1": Config("res-unet", "locate", STAGE_1, Loss((0.3, 1.0, 3.0)), Schedule(1e-4)),
    "res-unet2": Config("res-unet", "segment", STAGE_2, Loss((0.3, 1.0, 3.0)), Schedule(1e-4), Augmentation(flip=0.5)),
    "res-net": Config(
        "res-net",
        "segment",
        STAGE_2,
        Loss((0.2, 0.25, 0.55)),
        Schedule(1e-3),
        Augmentation(flip=0.5, zoom_chance=0.66),
        "he-uniform",
    ),
}

# The paper's class weights raise tumour threefold; with a Dice term beside the cross-entropy, less is enough. Stage 2
# also sees regions without kidney, since stage 1 is wrong at times.
BEST_LOSS = Loss((0.5, 1.0, 1.5), dice=True, each=0.5, l2=0.0)
BEST_SCHEDULE = Schedule(
    learning_rate=2.5e-3,
    optimiser="adamw",
    one_cycle=True,
    weight_decay=1e-4,
    clip=5.0,
    average=0.99,
    batch=8,
    epochs=20,
    epoch_steps=100,
    keep="last",
    patience=0,
)
BEST_AUGMENTATION = Augmentation(
    groups=GROUPS,
    flip=0.5,
    reverse=0.5,
    zoom_chance=1.0,
    zoom=1.5,  # KiTS19's pixels measure 0.44 to 1.04 mm, typically 0.78
    shrink=1.25,
    stretch=0.1,
    shift_px=32.0,
    intensity=True,
    alone=0.3,
    drift=0.5,
    lesions=0.3,
    pasted=0.4,
)
BEST = {
    "res-unet1": Config(
        "res-unet", "locate", STAGE_1, BEST_LOSS, BEST_SCHEDULE,
        replace(BEST_AUGMENTATION, flip=0.0), "default",
    ),
    "res-unet2": Config(
        "res-unet", "segment", (0.1, 0.4, 0.5), BEST_LOSS, BEST_SCHEDULE, BEST_AUGMENTATION, "default"
    ),
    "res-net": Config(
        "res-net", "segment", (0.1, 0.4, 0.5), BEST_LOSS, replace(BEST_SCHEDULE, learning_rate=1.5e-3),
        BEST_AUGMENTATION, "default", dropout=False,
    ),
}  # fmt: skip
BEST |= {
    "wide-unet1": replace(BEST["res-unet1"], architecture="wide-unet"),
    "wide-unet2": replace(BEST["res-unet2"], architecture="wide-unet"),
}
BEST = {
    name: replace(config, thin=3, modes=("native",) if config.architecture == "wide-unet" else ("paper",))
    for name, config in BEST.items()
}
PRESETS = {"paper": PAPER, "best": BEST}
NETWORKS = tuple(BEST)


def read_settings(*paths: Path) -> dict[str, Any]:
    """Configuration files' tables, of which later ones change what earlier ones say; none is an empty one.

    ``[data]`` says where the cases are, ``[training]`` changes every network's preset, ``[res-unet1]`` and so on one's.

    Raises:
        InputError: no such file, no TOML, or a table of another name.
    """
    together: dict[str, Any] = {}
    known = ("data", "training", *NETWORKS)
    for path in paths:
        try:
            settings = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise InputError(f"{path} is not a readable TOML file: {error}.") from error
        for name in settings:
            if name not in known:
                raise InputError(f"{path} has a table [{name}]; known are {', '.join(known)}.")
        together = _merge(together, settings)
    return together


def data_of(settings: dict[str, Any]) -> Data:
    """The ``[data]`` table of some settings."""
    return _checked(Data, settings.get("data", {}), "data")


def config_of(network: str, preset: str, settings: dict[str, Any]) -> Config:
    """One network's training: the preset with what the settings change.

    Raises:
        InputError: the preset has no such network.
    """
    if network not in PRESETS[preset]:
        raise InputError(f"The preset {preset} has no {network}; its networks are {', '.join(PRESETS[preset])}.")
    merged = asdict(PRESETS[preset][network])
    for table in ("training", network):
        merged = _merge(merged, settings.get(table, {}))
    return _checked(Config, merged, network)


def to_toml(settings: dict[str, Any]) -> str:
    """Settings as a configuration file; what is None is left out."""
    return tomli_w.dumps(_plain(settings))


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` laid over it, table by table."""
    nested = {
        k: _merge(base[k], v) for k, v in changes.items() if isinstance(v, dict) and isinstance(base.get(k), dict)
    }
    return base | changes | nested


def _plain(value: Any) -> Any:
    """Only what TOML knows: no None, no paths, no tuples."""
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items() if v is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def _checked(kind: type[Any], values: dict[str, Any], table: str) -> Any:
    """Build a dataclass, telling a person which setting is wrong."""
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        reasons = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
        raise InputError(f"The configuration of {table} is wrong: {reasons}.") from error
