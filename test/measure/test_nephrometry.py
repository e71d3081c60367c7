"""R.E.N.A.L. and PADUA as published: each threshold, and whole scores of phantoms."""

from dataclasses import replace

import numpy as np
import pytest

from kits.measure.measure import measure
from kits.measure.nephrometry import padua, renal
from kits.measure.results import Lesion

from .phantom import with_tumour

LESION = Lesion(
    name="tumour 1",
    kind="tumour",
    side="left",
    volume_ml=10.0,
    axial_mm=28.0,
    perpendicular_mm=25.0,
    longest_mm=30.0,
    axial_ends=((0.0, 0.0, 0.0), (0.0, 0.0, 1.0)),
    centre=(0.0, 0.0, 0.0),
    middle=(0, 0, 0),
    hu_mean=None,
    hu_sd=None,
    pole="upper",
    face="anterior",
    rim="lateral",
    outside_share=0.6,
    between_lines=0.0,
    crosses_middle=False,
    to_sinus_mm=10.0,
    to_sinus_centre_mm=30.0,
    surface_mm2=2000.0,
    contact_mm2=900.0,
    cut=False,
    confidence=None,
)


def test_the_simplest_tumour_has_four_points():
    score = renal(LESION)
    assert (score.total, score.complexity, score.text) == (4, "low", "1+1+1+a+1 = 4a")
    assert padua(LESION).total_range == (6, 7)


def test_the_hardest_tumour_has_twelve_points():
    worst = replace(
        LESION, longest_mm=80.0, outside_share=0.0, to_sinus_mm=0.0, between_lines=1.0, face="neither", rim="medial"
    )
    score = renal(worst)
    assert (score.total, score.complexity, score.text) == (12, "high", "3+3+3+x+3 = 12x")
    assert padua(worst).total_range == (13, 14)


@pytest.mark.parametrize(
    ("mm", "in_renal", "in_padua"), [(40.0, 1, 1), (40.1, 2, 2), (69.9, 2, 2), (70.0, 3, 2), (70.1, 3, 3)]
)
def test_size(mm, in_renal, in_padua):
    lesion = replace(LESION, longest_mm=mm)
    assert renal(lesion).radius.points == in_renal
    assert padua(lesion).size.points == in_padua
    assert f"{mm:.1f} mm" in renal(lesion).radius.basis


@pytest.mark.parametrize(("share", "points"), [(1.0, 1), (0.5, 1), (0.49, 2), (0.06, 2), (0.05, 3), (0.0, 3)])
def test_exophytic_share(share, points):
    lesion = replace(LESION, outside_share=share)
    assert renal(lesion).exophytic.points == padua(lesion).exophytic.points == points


@pytest.mark.parametrize(("mm", "points"), [(7.0, 1), (6.9, 2), (4.1, 2), (4.0, 3), (0.0, 3)])
def test_nearness(mm, points):
    score = renal(replace(LESION, to_sinus_mm=mm))
    assert score.nearness.points == points
    assert "estimate" in score.nearness.basis


@pytest.mark.parametrize(
    ("share", "middle", "points"),
    [(0.0, False, 1), (0.01, False, 2), (0.5, False, 2), (0.51, False, 3), (0.4, True, 3)],
)
def test_location_by_polar_lines(share, middle, points):
    assert renal(replace(LESION, between_lines=share, crosses_middle=middle)).location.points == points


@pytest.mark.parametrize(("share", "points"), [(0.0, 1), (0.5, 1), (0.51, 2)])
def test_paduas_location_by_sinus_lines(share, points):
    assert padua(replace(LESION, between_lines=share, crosses_middle=True)).location.points == points


@pytest.mark.parametrize(("mm", "points"), [(0.0, 2), (1.0, 2), (1.1, 1)])
def test_paduas_sinus(mm, points):
    assert padua(replace(LESION, to_sinus_mm=mm)).sinus.points == points


@pytest.mark.parametrize(
    ("total", "complexity"), [(4, "low"), (6, "low"), (7, "moderate"), (9, "moderate"), (10, "high")]
)
def test_complexity(total, complexity):
    rest = total - 4  # points above the least, spread over three items
    lesion = replace(
        LESION,
        longest_mm=(30.0, 50.0, 80.0)[min(rest, 2)],
        outside_share=(0.6, 0.3, 0.0)[min(max(rest - 2, 0), 2)],
        to_sinus_mm=(9.0, 5.0, 0.0)[min(max(rest - 4, 0), 2)],
    )
    assert (renal(lesion).total, renal(lesion).complexity) == (total, complexity)


def test_what_the_masks_do_not_carry_is_said_not_to_be_computable():
    score, other = renal(LESION), padua(LESION)
    assert (score.hilar.points, other.collecting_system.points) == (None, None)
    assert "vessels are not segmented" in score.hilar.basis
    assert "collecting systems are not segmented" in other.collecting_system.basis


@pytest.mark.parametrize(
    ("missing", "item", "reason"),
    [
        ({"to_sinus_mm": None}, "nearness", "no sinus"),
        ({"between_lines": None}, "location", "no sinus"),
        ({"outside_share": None}, "exophytic", "no parenchyma"),
        ({"cut": True}, "radius", "cuts the tumour"),
    ],
)
def test_a_missing_item_leaves_no_total(missing, item, reason):
    lesion = replace(LESION, **missing)
    score = renal(lesion)
    assert getattr(score, item).points is None
    assert reason in getattr(score, item).basis
    assert (score.total, score.complexity) == (None, None)
    assert "?" in score.text
    assert padua(lesion).total_range is None


def test_a_large_tumour_is_large_even_if_cut():
    assert renal(replace(LESION, longest_mm=90.0, cut=True)).radius.points == 3


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.8, 0.8)])
@pytest.mark.parametrize(
    ("centre", "radius", "text"),
    [
        ((0, 0, -14.5), 9, "1+3+2+x+3 = 9x"),  # 4 to 7 mm from the sinus, within, between the lines
        ((44, 0, 0), 9, "1+3+1+x+1 = 6x"),  # in the upper pole, all within, far from the sinus
        ((0, 24, -4), 15, "1+1+3+p+3 = 8p"),  # on the posterior face, more than half outside
        ((0, -26, -8), 22, "2+1+3+a+3 = 9a"),
        ((30, 0, -9), 12, "1+3+3+x+2 = 9x"),  # crosses the upper polar line with a tenth or so
    ],
)
def test_whole_scores_of_phantoms(centre, radius, text, spacing):
    (lesion,) = measure(with_tumour(centre, radius, spacing), None, spacing).lesions
    assert lesion.renal.text == text, lesion


def test_cysts_have_no_score():
    labels = with_tumour((40, 0, 0), 9)
    labels[labels == 2] = 3
    (lesion,) = measure(labels, None, (1.0, 1.0, 1.0)).lesions
    assert (lesion.renal, lesion.padua) == (None, None)
    assert np.isfinite(lesion.contact_mm2)
