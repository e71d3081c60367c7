"""What is taken for a kidney: what looks like one, where there is more to choose from than size."""

from dataclasses import replace

import numpy as np
import pytest

from kits.cascade.clean import clean
from kits.cascade.likeness import Body, Candidate, most_alike
from kits.geometry import Grids
from kits.io.volume import Volume
from kits.plan import NATIVE, PAPER
from test.helpers.threshold import AIR, BODY, FAT, KIDNEY, TUMOUR, dice, threshold_cascade

SHAPE, SPACING = (100, 96, 160), (3.0, 2.0, 2.0)
"""300 x 192 x 320 mm."""
RIGHT, LEFT = (220.0, 115.0, 100.0), (225.0, 115.0, 220.0)
"""Where the kidneys are, mm (z, y, x)."""
PELVIS = (70.0, 80.0, 160.0)
BONE, LUNG = 900, -850


def ball(centre: tuple[float, float, float], radius_mm: float, tall: float = 1.0) -> np.ndarray:
    """An ellipsoid, ``tall`` times as high as it is wide, as a mask."""
    z, y, x = (np.arange(n) * mm for n, mm in zip(SHAPE, SPACING, strict=True))
    distance = ((z - centre[0]) / tall)[:, None, None] ** 2 + (y - centre[1])[:, None] ** 2 + (x - centre[2]) ** 2
    return distance < radius_mm**2


def tube(y_mm: float, x_mm: float, ry: float, rx: float) -> np.ndarray:
    """An ellipse in every slice."""
    y, x = (np.arange(n) * mm for n, mm in zip(SHAPE[1:], SPACING[1:], strict=True))
    return np.broadcast_to(((y - y_mm) / ry)[:, None] ** 2 + ((x - x_mm) / rx) ** 2 < 1, SHAPE)


def trunk(*parts: tuple[np.ndarray, int]) -> Volume:
    """A body of soft tissue below fat, with parts of some HU in it."""
    return scan((tube(96, 160, 90, 150), FAT), (tube(96, 160, 80, 140), BODY), *parts)


def scan(*parts: tuple[np.ndarray, int]) -> Volume:
    hu = np.full(SHAPE, AIR, np.int16)
    for mask, value in parts:
        hu[mask] = value
    return Volume.from_array(hu, SPACING)


KIDNEYS = ball(RIGHT, 25, 2.0) | ball(LEFT, 25, 2.0)
"""Two of 131 ml."""


def test_a_big_bright_ball_in_the_pelvis_takes_no_kidneys_place_but_in_the_paper() -> None:
    volume = trunk((KIDNEYS, KIDNEY), (ball(PELVIS, 60), KIDNEY))
    assert dice(threshold_cascade().predict(volume).labels > 0, KIDNEYS) == 1.0
    assert dice(threshold_cascade("paper").predict(volume).labels > 0, KIDNEYS) < 0.7


def test_a_large_kidney_with_its_tumour_stays_beside_what_has_a_kidneys_size() -> None:
    tumour = ball((200.0, 100.0, 90.0), 65)  # 1.1 l
    others = ball(PELVIS, 30) | ball((120, 60, 240), 30)
    volume = trunk((KIDNEYS, KIDNEY), (tumour, TUMOUR), (others, KIDNEY), (ball((200, 155, 160), 9), BONE))
    labels = threshold_cascade().predict(volume).labels
    assert dice(labels > 0, KIDNEYS | tumour) == 1.0
    assert dice(labels == 2, tumour) > 0.97


def test_a_dark_tumour_does_not_cost_its_kidney() -> None:
    tumour = ball((200.0, 100.0, 90.0), 60)
    labels = np.where(tumour, 2, KIDNEYS) + ball((120, 60, 240), 25).astype(int)
    volume = trunk((labels > 0, KIDNEY), (tumour, 25))
    kept = clean(labels.astype(np.uint8), volume, Grids.of(volume, NATIVE))
    assert dice(kept > 0, KIDNEYS | tumour) == 1.0


def test_a_kidney_in_two_pieces_does_not_cost_the_other_kidney() -> None:
    upper, lower, other = ball((250.0, 115.0, 100.0), 33), ball((170.0, 115.0, 100.0), 34), ball(LEFT, 20, 2.0)
    volume = trunk((upper | lower | other, KIDNEY))
    labels = clean((upper | lower | other).astype(np.uint8), volume, Grids.of(volume, NATIVE))
    assert labels[other].all()
    assert labels[lower].any() != labels[upper].any()


@pytest.mark.parametrize("kept", [KIDNEYS, ball(RIGHT, 25, 2.0), ball((200, 110, 160), 40)], ids=["2", "1", "fused"])
def test_what_has_no_rival_stays(kept: np.ndarray) -> None:
    volume = trunk((kept, KIDNEY))
    assert np.array_equal(threshold_cascade().predict(volume).labels > 0, kept)


def head() -> Volume:
    skull, brain = tube(96, 160, 90, 70), tube(96, 160, 82, 62)
    return scan(
        (skull, BONE), (brain, BODY), (ball(RIGHT, 20) | ball(LEFT, 20), KIDNEY), (ball((200, 96, 160), 25), 290)
    )


def thorax() -> Volume:
    lungs = tube(96, 90, 65, 60) | tube(96, 230, 65, 60)
    heart, aneurysm = ball((150, 80, 180), 45, 1.5), ball((150, 70, 200), 20)
    return trunk((lungs, LUNG), (heart, KIDNEY), (aneurysm, TUMOUR))


def legs() -> Volume:
    muscles, bones = (tube(96, 80, 60, 60) | tube(96, 240, 60, 60), tube(96, 80, 12, 12) | tube(96, 240, 12, 12))
    vessels = ball((200, 110, 100), 22, 2.0) | ball((200, 110, 220), 22, 2.0)
    return scan((muscles, BODY), (vessels, KIDNEY), (ball((200, 90, 100), 12), TUMOUR), (bones, BONE))


@pytest.mark.parametrize("volume", [head(), thorax(), legs()], ids=["head", "thorax", "legs"])
def test_where_no_kidney_can_be_none_is_found_and_a_sentence_says_so(volume: Volume) -> None:
    result = threshold_cascade().predict(volume)
    assert not result.labels.any()
    assert "no-kidney" in [warning.code for warning in result.warnings]
    assert any("No kidney was found" in warning for warning in result.warnings)
    assert threshold_cascade("paper").predict(volume).labels.any(), "the networks did see something"


@pytest.mark.parametrize("window", [(-1000, 900), (-125, 275)], ids=["whole", "cut off"])
@pytest.mark.parametrize("kidney_hu", [30, 190])
def test_hips_are_no_kidneys_even_where_contrast_medium_is_missing_and_hu_are_cut_off(
    window: tuple[int, int], kidney_hu: int
) -> None:
    hips = ball((30, 100, 60), 25) | ball((30, 100, 260), 25)
    marrow = ball((30, 100, 60), 20) | ball((30, 100, 260), 20)
    lungs = tube(96, 90, 65, 60) | tube(96, 230, 65, 60)
    lungs[:96] = False
    volume = trunk((KIDNEYS, kidney_hu), (hips, 450), (marrow, 210), (lungs, LUNG))
    seen = replace(volume, hu=np.clip(volume.hu, *window))
    kept = clean((KIDNEYS | hips).astype(np.uint8), seen, Grids.of(seen, NATIVE))
    assert np.array_equal(kept > 0, KIDNEYS)


def test_where_bone_is_seen_hips_are_no_kidneys_without_lungs_either() -> None:
    hips, marrow = (ball((30, 100, 60), r) | ball((30, 100, 260), r) for r in (25, 20))
    volume = trunk((KIDNEYS, 30), (hips, 450), (marrow, 210))
    kept = clean((KIDNEYS | hips).astype(np.uint8), volume, Grids.of(volume, NATIVE))
    assert np.array_equal(kept > 0, KIDNEYS)


def test_the_lungs_base_is_told_where_lungs_are_and_nowhere_else() -> None:
    lungs = tube(96, 90, 65, 60) | tube(96, 230, 65, 60)
    lungs[:70] = False
    gas = ball((60, 70, 160), 60) & (np.arange(SHAPE[0]) < 30)[:, None, None]
    assert Body.of(trunk((lungs, LUNG), (gas, LUNG))).lungs_base == pytest.approx(0.7, abs=0.02)
    assert np.isnan(Body.of(trunk((gas, LUNG))).lungs_base)


def test_the_chest_is_known_by_its_lungs_even_where_hu_are_cut_off() -> None:
    chest = thorax()
    cut = replace(chest, hu=np.clip(chest.hu, -125, 275))
    for volume in (chest, cut):
        assert Body.of(volume).trunk.mean() < 0.2


def test_the_rules_of_labels_know_it_by_themselves() -> None:
    volume = legs()
    labels = (volume.hu > 120).astype(np.uint8)
    assert not clean(labels.copy(), volume, Grids.of(volume, replace(PAPER, likeness=True))).any()
    assert clean(labels.copy(), volume, Grids.of(volume, PAPER)).any()


def test_the_body_is_outlined_without_its_couch() -> None:
    couch = np.zeros(SHAPE, bool)
    couch[:, 94:95] = True
    body = Body.of(trunk((couch, 100)))
    assert body.middle == pytest.approx(0.5, abs=0.02)
    assert body.half == pytest.approx(150 / 320, abs=0.05)
    assert body.back == pytest.approx(186 / 192, abs=0.05)
    assert body.trunk.all()


def test_without_a_body_place_says_nothing() -> None:
    body = Body.of(scan((ball(PELVIS, 3), BODY)))  # a crumb
    assert np.isnan(body.trunk).all()
    nowhere = Candidate(150.0, 100.0, *[float("nan")] * 3, hu=150.0, bright=180.0)
    assert nowhere.possible
    assert nowhere.place == 1.0
    assert most_alike({1: nowhere, 2: nowhere, 3: replace(nowhere, ml=5.0)}, 2) == [1, 2]


KNOWN = Candidate(ml=150.0, height_mm=200.0, side=-0.4, depth=0.65, trunk=1.0, hu=150.0, bright=190.0)


@pytest.mark.parametrize(
    "odd",
    [{"ml": 2000.0}, {"ml": 15.0}, {"side": 0.0}, {"side": -0.95}, {"depth": 0.3}, {"bright": 20.0},
     {"bony": 0.5}, {"under_lungs_mm": 300.0}, {"under_lungs_mm": -50.0}, {"probability": 0.6}],
)  # fmt: skip
def test_each_oddity_makes_a_candidate_less_like_a_kidney(odd: dict[str, float]) -> None:
    assert replace(KNOWN, **odd).likeness(1.0, 150.0) < 0.8 * KNOWN.likeness(1.0, 150.0)
    left, strange = replace(KNOWN, side=0.4), replace(KNOWN, **odd)
    assert most_alike({1: strange, 2: KNOWN, 3: left}, 2) == [2, 3]


@pytest.mark.parametrize("odd", [{"trunk": 0.2}, {"hu": 800.0}, {"hu": -700.0}])
def test_what_cannot_be_a_kidney_goes_without_a_rival(odd: dict[str, float]) -> None:
    assert most_alike({1: replace(KNOWN, **odd), 2: KNOWN}, 2) == [2]


def test_a_partner_counts_on_the_other_side_at_a_similar_height() -> None:
    same_side, too_high = replace(KNOWN, height_mm=240.0), replace(KNOWN, side=0.4, height_mm=340.0)
    left = replace(KNOWN, side=0.4, ml=50.0)
    assert most_alike({1: KNOWN, 2: same_side, 3: left}, 2) in ([1, 3], [2, 3])
    assert most_alike({1: KNOWN, 2: too_high, 3: left}, 2) == [1, 3]


def test_a_thin_scan_expects_no_whole_kidney() -> None:
    slab = replace(KNOWN, ml=12.0)
    assert slab.likeness(0.2, 150.0) == KNOWN.likeness(1.0, 150.0) > slab.likeness(1.0, 150.0)
