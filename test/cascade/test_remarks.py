"""What a person is told of a label map, and the code that a program reads."""

import numpy as np
import pytest

from kits.cascade.remarks import remarks
from kits.geometry import Grids, Region
from kits.io.remark import Remark
from kits.io.volume import Volume
from kits.plan import NATIVE
from test.helpers.threshold import BODY, FAT, KIDNEY

SHAPE, SPACING = (60, 110, 200), (4.0, 1.6, 1.6)
"""240 x 176 x 320 mm."""
RIGHT, LEFT = np.s_[20:45, 60:85, 45:70], np.s_[20:45, 60:85, 130:155]
"""Two kidneys of 160 ml."""
MASS = np.s_[25:40, 60:75, 45:60]


def told(
    *boxes: tuple[int, tuple[slice, ...], int], regions: tuple[Region, ...] = (), base: bool = True
) -> list[Remark]:
    """Remarks on boxes of (label, place, HU) in a body of soft tissue, beside two usual kidneys if ``base``."""
    hu, labels = np.full(SHAPE, -1000, np.int16), np.zeros(SHAPE, np.uint8)
    hu[:, 8:104, 10:190] = FAT
    hu[:, 12:100, 14:186] = BODY
    usual = ((1, RIGHT, KIDNEY), (1, LEFT, KIDNEY)) if base else ()
    for label, place, value in (*usual, *boxes):
        labels[place], hu[place] = label, value
    volume = Volume.from_array(hu, SPACING)
    return remarks(labels, regions, volume, Grids.of(volume, NATIVE))


def codes(found: list[Remark]) -> list[str]:
    return [one.code for one in found]


def test_two_usual_kidneys_need_no_remark_nor_does_a_tumour_in_one() -> None:
    assert told() == []
    assert told((2, MASS, 60)) == []


def test_a_large_kidney_without_tumour_is_named() -> None:
    large = np.s_[10:50, 55:90, 40:80]
    (found,) = told((1, large, KIDNEY))
    assert found.code == "large-kidney"
    assert "the right kidney (573 ml, slices 11 to 50 from the feet)" in found
    assert told((1, large, KIDNEY), (2, MASS, 60)) == []


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (np.s_[20:45, 15:40, 130:155], "the left kidney (160 ml, slices 21 to 45 from the feet). Is it a kidney?"),
        (np.s_[20:45, 60:85, 88:113], "Far from where kidneys usually lie"),
        (np.s_[47:59, 60:85, 45:70], "Two kidneys on one side"),
        (np.s_[50:58, 60:85, 130:155], "Far above"),
    ],
    ids=["in front", "in the middle", "on one side", "above"],
)
def test_a_kidney_far_from_its_place_is_named(place: tuple[slice, ...], said: str) -> None:
    first = (1, np.s_[2:24, 60:85, 45:70] if said == "Far above" else RIGHT, KIDNEY)
    found = told(first, (1, place, KIDNEY), base=False)
    assert codes(found) == ["far-kidney"]
    assert said.lower() in found[0].lower()


def test_tumour_without_contrast_medium_is_named() -> None:
    found = told((1, RIGHT, 35), (1, LEFT, 35), (2, MASS, 30))
    assert codes(found) == ["no-contrast", "tumour-without-contrast"]
    assert "34.6 ml were called tumour" in found[1]
    assert "the right kidney" in found[1]
    assert codes(told((1, RIGHT, 35), (1, LEFT, 35))) == ["no-contrast"]


@pytest.mark.parametrize("hu", [500, -40])
def test_hu_that_fit_no_kidney_are_named(hu: int) -> None:
    found = told((1, RIGHT, hu), (1, LEFT, hu))
    assert codes(found).count("odd-hu") == 2


def test_two_kidneys_whose_hu_do_not_fit_are_named() -> None:
    (found,) = told((1, LEFT, 70))
    assert found.code == "odd-hu"
    assert (
        found == "70 and 180 HU do not fit each other: look at the left kidney (160 ml, slices 21 to 45 from the feet)."
    )


SPINE, LUNGS = np.s_[:, 70:96, 88:112], np.s_[46:60, 20:90, 24:176]


@pytest.mark.parametrize(
    ("axis", "code", "said"),
    [(0, "head-to-feet", "above the lungs"), (1, "front-to-back", "spine seems to lie in front")],
)
def test_a_scan_that_lies_otherwise_than_its_header_says_is_told(axis: int, code: str, said: str) -> None:
    shapes = ((0, SPINE, 400), (0, LUNGS, -800), (1, RIGHT, KIDNEY), (1, LEFT, KIDNEY))
    assert told(*shapes, base=False) == []

    def turned(place: tuple[slice, ...]) -> tuple[slice, ...]:
        start, stop, _ = place[axis].indices(SHAPE[axis])
        other = slice(SHAPE[axis] - stop, SHAPE[axis] - start)
        return (*place[:axis], other, *place[axis + 1 :])

    found = told(*((label, turned(place), hu) for label, place, hu in shapes), base=False)
    assert [one for one in found if one.code == code and said in one]
    assert "mend it" in " ".join(found)


def test_where_the_stages_disagree_is_told() -> None:
    right, left = Region(15, 50, ((20, 0),)), Region(15, 50, ((20, 150),))
    assert told(regions=(right, left)) == []
    (lost,) = told((0, LEFT, BODY), regions=(right, left))
    assert lost.code == "stages-disagree"
    assert "Stage 1 saw a kidney of its own in slices 16 to 50 from the feet, stage 2 did not" in lost
    assert codes(told(regions=(right,))) == ["one-kidney", "stages-disagree"]
    assert codes(told(base=False, regions=(right,))) == ["no-kidney", "stages-disagree"]


def test_a_scan_that_shows_one_kidney_or_none_or_ends_in_one_is_told() -> None:
    assert codes(told(base=False)) == ["no-kidney"]
    assert codes(told((0, LEFT, BODY), regions=(Region(15, 50, ((20, 0),)),))) == ["one-kidney"]
    assert codes(told((1, np.s_[0:45, 60:85, 45:70], KIDNEY))) == ["cut-kidney"]
