"""The plans, that each of their fields does something by itself, and that a file which makes no sense is refused."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kits.cascade.cascade import Cascade, members_of
from kits.cascade.clean import clean
from kits.cascade.locate import locate
from kits.choices import Mode, Precision, Runner
from kits.errors import InputError
from kits.geometry import Grids, Region
from kits.io.volume import Volume
from kits.plan import NATIVE, PAPER, Plan, improvements
from kits.runtime.runtime import Runtime
from test.helpers.threshold import Threshold, member, phantom_volume, stage, threshold_cascade

SPACING = (3.0, 0.8, 0.8)
KIDNEY = np.s_[10:30, 2:22, 2:22]  # 8000 voxels
BESIDE = np.s_[10:30, 2:22, 40:60]
BELOW = np.s_[10:29, 40:60, 2:22]
INSIDE = np.s_[15:25, 6:16, 6:16]
NECK = np.s_[19:21, 22:40, 10:14]
SPECK = np.s_[15:17, 6:8, 6:8]


def cleaned(plan: Plan, *boxes: tuple[int, tuple[slice, ...]], depth: int = 40, bone: bool = False) -> list[int]:
    """How many voxels of each label stay; what is called tumour is as dark as water, all else as kidney, or bone."""
    labels = np.zeros((depth, 64, 64), np.uint8)
    for label, box in boxes:
        labels[box] = label
    hu = np.where(labels == 2, 5, 900 if bone else 150).astype(np.int16)
    hu[:, -1] = -1000
    volume = Volume.from_array(hu, SPACING)
    return np.bincount(clean(labels, volume, Grids.of(volume, plan)).ravel(), minlength=3).tolist()


def located(plan: Plan, depth: int = 40, confidence: float = 20.0) -> tuple[object, int]:
    """The regions of a phantom, and how many slices were looked at; without confidence all is background."""
    volume, _ = phantom_volume(shape=(depth, 128, 160))

    class Blind(Threshold):
        def forward(self, x_BCYX: torch.Tensor) -> torch.Tensor:
            logits = super().forward(x_BCYX)
            return logits if confidence else torch.tensor([20.0, 0, 0])[:, None, None].expand_as(logits)

    network = Blind()
    return locate(volume, Grids.of(volume, plan), stage(network)), network.seen


def networks(plan: Plan) -> list[str]:
    every = [replace(member("segment"), name=mode) for mode in (*Mode, *Mode)]
    every = [replace(one, info=replace(one.info, modes=(Mode(one.name),))) for one in every]
    return [one.name for one in members_of(plan.mode, 2, every, plan.members)]


def seen(plan: Plan) -> int:
    """How many slices stage 2's network is shown."""
    network = Threshold()
    cascade = Cascade(
        [member("locate")], [member("segment", network)], Runtime("cpu", Runner.TORCH, Precision.FP32, plan)
    )
    cascade.predict(phantom_volume(shape=(12, 64, 64))[0])
    return network.seen


def followed(plan: Plan) -> list[Region]:
    """Where stage 2 looked in the end, if stage 1 had seen three slices only."""
    cascade = threshold_cascade().with_plan(plan)
    return cascade.predict(phantom_volume()[0], regions=[Region(18, 21, ((0, 0),))]).regions


def shapes(spacing: tuple[float, float, float]) -> Callable[[Plan], tuple[int, int, int]]:
    return lambda plan: Grids.from_shape((40, 300, 300), spacing, plan).working.shape


EFFECTS: dict[str, tuple[object, Callable[[Plan], object]]] = {
    "mode": (Mode.NATIVE, networks),
    "every_slice": (True, shapes((1.5, 0.8, 0.8))),
    "finest_mm": (0.62, shapes((3.0, 0.5, 0.5))),
    "coarsest_mm": (1.5, shapes((3.0, 1.3, 1.3))),
    "typical_mm": (0.9, shapes((3.0, 0.3, 0.3))),
    "look_every": (3, lambda plan: located(plan)[1]),
    "margin_mm": (25.0, lambda plan: located(plan)[0]),
    "follow": (4, followed),
    "second_look": (True, lambda plan: located(plan, depth=10, confidence=0)[0]),
    "kidneys": (1, lambda plan: located(plan)[0]),
    "smallest_voxels": (9000, lambda plan: cleaned(plan, (1, KIDNEY))),
    "scale_thin_scans": (True, lambda plan: cleaned(plan, (1, np.s_[:, 2:22, 2:22]), depth=5)),
    "likeness": (True, lambda plan: cleaned(plan, (1, KIDNEY), bone=True)),
    "at_most_kidneys": (True, lambda plan: cleaned(plan, (1, KIDNEY), (1, BESIDE), (1, BELOW))),
    "neck_mm": (10.0, lambda plan: cleaned(plan, (1, KIDNEY), (1, NECK), (1, BELOW))),
    "tumour_needs_kidney": (False, lambda plan: cleaned(plan, (1, KIDNEY), (2, BESIDE))),
    "smallest_tumour_ml": (1.0, lambda plan: cleaned(replace(plan, water_is_cyst=False), (1, KIDNEY), (2, SPECK))),
    "water_is_cyst": (True, lambda plan: cleaned(plan, (1, KIDNEY), (2, INSIDE))),
    "cysts_apart": (True, lambda plan: cleaned(plan, (1, KIDNEY), (3, INSIDE))),
    "mirror": (True, lambda plan: seen(plan)),
    "members": (1, networks),
}
"""Field -> another value than the paper's, and what that changes."""


@pytest.mark.parametrize("name", [field.name for field in fields(Plan)])
def test_every_field_changes_something_by_itself(name: str) -> None:
    value, outcome = EFFECTS[name]
    assert outcome(replace(PAPER, **{name: value})) != outcome(PAPER)


@pytest.mark.parametrize("name", improvements())
def test_every_improvement_can_be_switched_off_alone(name: str) -> None:
    value, outcome = EFFECTS[name]
    assert value == getattr(NATIVE, name), "what is tried is the improvement itself"
    assert outcome(replace(NATIVE, **{name: getattr(PAPER, name)})) != outcome(NATIVE)


def test_the_paper_has_its_own_values() -> None:
    assert (PAPER.mode, PAPER.smallest_voxels, PAPER.kidneys, PAPER.look_every) == (Mode.PAPER, 5000, 2, 1)
    assert not any((PAPER.every_slice, PAPER.second_look, PAPER.water_is_cyst, PAPER.smallest_tumour_ml))


def test_each_mode_has_its_plan_and_no_other_mode_has_one() -> None:
    assert (Plan.of("paper"), Plan.of(Mode.NATIVE)) == (PAPER, NATIVE)
    with pytest.raises(ValueError, match="'quick'"):
        Plan.of("quick")


def test_a_file_overrides_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text('look_every = 2\nmargin_mm = 20\nmode = "paper"\nwater_is_cyst = false\n')
    changes = {"look_every": 2, "margin_mm": 20.0, "mode": Mode.PAPER, "water_is_cyst": False}
    assert Plan.from_toml(path) == replace(NATIVE, **changes)
    assert isinstance(Plan.from_toml(path).margin_mm, float)
    assert Plan.from_toml(path, PAPER) == replace(PAPER, **changes)
    path.write_text("")
    assert Plan.from_toml(path, PAPER) == PAPER


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("look_evry = 2", "no field 'look_evry'; did you mean look_every?"),
        ("tta = true", "no field 'tta'; there are mode, every_slice"),
        ("look_every = 2.5", "look_every must be a whole number, got 2.5"),
        ("look_every = true", "look_every must be a whole number, got True"),
        ('margin_mm = "20"', "margin_mm must be a number, got '20'"),
        ("every_slice = 1", "every_slice must be true or false, got 1"),
        ('mode = "quick"', "mode must be one of native, paper, got 'quick'"),
        ("mode = []", "mode must be one of native, paper"),
        ("look_every = 0", "look_every must be at least 1, got 0"),
        ("kidneys = 0", "kidneys must be at least 1, got 0"),
        ("margin_mm = -1", "margin_mm must be 0 or more, got -1"),
        ("smallest_tumour_ml = nan", "smallest_tumour_ml must be 0 or more, got nan"),
        ("finest_mm = 0.9", "finest_mm, typical_mm and coarsest_mm must be above 0 and in this order, got 0.9, 0.78"),
        ("coarsest_mm = inf", "in this order"),
        ("look_every", "is no TOML file"),
        ("\udcff", "is no TOML file"),
    ],
)
def test_what_is_no_plan_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "plan.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError) as refusal:
        Plan.from_toml(path)
    assert str(path) in str(refusal.value)
    assert said in str(refusal.value)


def test_a_plan_that_is_not_there_is_told_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.toml cannot be read .*give --plan a TOML file"):
        Plan.from_toml(tmp_path / "absent.toml")
