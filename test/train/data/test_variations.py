"""What patches are varied by: contrast medium, masses, coding."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from test.helpers.waiting import OneDevice
from train.config import Augmentation
from train.data.augment import vary_intensity
from train.data.variations import (
    KIDNEY_HU,
    MASS_GAP_PX,
    TISSUE_HU,
    change_contrast,
    closed,
    cosine_transform,
    grown,
    paint_bowel,
    paint_mass,
    recode,
    vary_content,
)


def abdomen(tumour: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """A patch (5, 128, 128), HU: fat, muscle, a kidney, a liver, a vertebra with its marrow; the kidney's label."""
    hu = torch.full((5, 128, 128), -500.0)
    hu[:, 8:120, 8:120] = -100.0
    hu[:, 96:118, 10:118] = 58.0
    hu[:, 30:70, 20:50] = 150.0
    hu[:, 20:80, 80:110] = 110.0
    hu[:, 90:114, 54:74] = 600.0
    hu[:, 94:110, 58:70] = 180.0
    labels = torch.zeros(128, 128, dtype=torch.uint8)
    labels[30:70, 20:50] = 1
    if tumour:
        labels[30:40, 20:30] = 2
    return hu, labels


def test_without_contrast_medium_organs_darken_and_bone_fat_and_noise_stay() -> None:
    hu, labels = abdomen()
    noise = torch.from_numpy(np.random.default_rng(0).normal(0, 12, hu.shape)).float()
    plain = change_contrast(hu + noise, labels, 0.0, 0.0)
    kidney, liver = plain[:, 34:66, 24:46], plain[:, 24:76, 84:106]
    assert kidney.mean() == pytest.approx(KIDNEY_HU, abs=2)
    assert liver.mean() == pytest.approx(TISSUE_HU, abs=2)
    assert kidney.std() == pytest.approx(12, abs=3)
    marrow = slice(None), slice(97, 107), slice(61, 67)
    assert torch.equal(plain[marrow], (hu + noise)[marrow])
    fat = (hu == -100) & (hu + noise < 0)
    assert torch.equal(plain[fat], (hu + noise)[fat])


def test_more_contrast_medium_brightens_kidneys_and_others_apart() -> None:
    hu, labels = abdomen()
    more = change_contrast(hu, labels, 1.5, 0.5)
    assert more[2, 50, 35] == pytest.approx(KIDNEY_HU + 1.5 * (150 - KIDNEY_HU), abs=1)
    assert more[2, 50, 95] == pytest.approx(TISSUE_HU + 0.5 * (110 - TISSUE_HU), abs=1)
    assert torch.equal(change_contrast(hu, labels, 1.0, 1.0), hu)


def test_contrast_medium_is_taken_out_half_as_often_where_a_tumour_shows() -> None:
    shares = []
    for tumour in (False, True):
        hu, labels = abdomen(tumour)
        varied = [vary_content(hu, labels, Augmentation(washout=0.6), np.random.default_rng(n)) for n in range(80)]
        shares.append(np.mean([bool(one[2, 50, 35] < 60) for one in varied]))
    assert shares == [pytest.approx(0.6, abs=0.15), pytest.approx(0.3, abs=0.12)]
    assert torch.equal(vary_content(hu, labels, Augmentation(), np.random.default_rng(0)), hu)


def test_a_mass_lies_in_the_body_and_away_from_kidneys() -> None:
    hu, labels = abdomen()
    changed = torch.zeros(hu.shape[1:])
    for n in range(60):
        painted = paint_mass(hu, labels, np.random.default_rng(n)) != hu
        changed += painted.any(0)
        assert not painted[hu > 500].any()
    assert changed.sum() > 0
    assert not changed[:5].any()
    assert not changed[:, :5].any()
    assert not changed[30 - MASS_GAP_PX + 1 : 70 + MASS_GAP_PX - 1, 20 - MASS_GAP_PX + 1 : 50 + MASS_GAP_PX - 1].any()
    _, with_tumour = abdomen(tumour=True)
    assert all(
        torch.equal(vary_content(hu, with_tumour, Augmentation(masses=1.0), np.random.default_rng(n)), hu)
        for n in range(5)
    ), "beside a tumour a mass could be another one"


def test_bowel_lies_in_the_body_beside_kidneys_and_is_bright_dark_or_full_of_gas() -> None:
    hu, labels = abdomen()
    changed, held = torch.zeros(hu.shape[1:]), []
    for n in range(60):
        painted = paint_bowel(hu, labels, (6.0, 20.0), np.random.default_rng(n))
        new = painted != hu
        changed += new.any(0)
        held += [painted[new].mean().item()] * bool(new.any())
        assert not new[:, labels > 0].any()
        assert not new[hu > 500].any()
    assert not changed[:4].any()
    assert not changed[:, :4].any()
    near = changed[24:76, 14:56].clone()
    assert near.sum() > 0, "bowel may touch a kidney, unlike a mass"
    assert max(held) > 200
    assert min(held) < 30
    varied = [
        vary_content(hu, labels, Augmentation(bowel=0.3, bowel_px=(6.0, 20.0)), np.random.default_rng(n))
        for n in range(60)
    ]
    assert np.mean([not torch.equal(one, hu) for one in varied]) == pytest.approx(0.28, abs=0.14)


def test_coding_changes_little_and_leaves_few_steps() -> None:
    hu, _ = abdomen()
    for n in range(12):
        coded = recode(hu, np.random.default_rng(n))
        assert len(coded.unique()) < 500
        inside = (hu > -80) & (hu < 300)
        assert (coded - hu)[inside].abs().mean() < 40
    assert recode(hu[:, :127], np.random.default_rng(0)).shape == (5, 127, 128)
    transform = cosine_transform()
    assert np.allclose(transform @ transform.T, np.eye(8))


def test_masks_grow_and_close() -> None:
    mask = torch.zeros(20, 20)
    mask[5, 5] = mask[5, 9] = 1
    assert grown(mask, 3).sum() == 18
    assert closed(mask, 5)[5].tolist() == [0] * 5 + [1] * 5 + [0] * 10
    assert closed(mask, 3).sum() == 2


@pytest.mark.parametrize(
    "vary",
    [
        lambda hu, labels, rng: change_contrast(hu, labels, 0.5, 1.5),
        paint_mass,
        lambda hu, labels, rng: paint_bowel(hu, labels, (8.0, 42.0), rng),
        lambda hu, labels, rng: recode(hu, rng),
        lambda hu, labels, rng: vary_intensity(hu, True, rng),
    ],
    ids=["contrast", "mass", "bowel", "coding", "intensity"],
)
def test_a_patch_on_a_gpu_is_varied_there(vary: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda tensor: True)  # none has a value
    hu = torch.zeros(5, 128, 128, device="meta")
    labels = torch.zeros(128, 128, dtype=torch.uint8, device="meta")
    for seed in range(8):  # together they do all that may be drawn
        with OneDevice():
            got = vary(hu, labels, np.random.default_rng(seed))
        assert (got.device.type, got.shape) == ("meta", hu.shape)


def test_a_patch_on_a_gpu_that_met_one_of_the_cpu_would_be_noticed() -> None:
    with OneDevice(), pytest.raises(AssertionError, match="add"):
        torch.zeros(2, 2, device="meta") + torch.zeros(2, 2)
