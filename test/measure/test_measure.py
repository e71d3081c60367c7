"""Every figure on phantoms with a known answer."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest

from kits.measure.measure import measure

from .phantom import CENTRE, SEMI_AXES, SHAPE, SINUS, ball, grid, kidney, with_tumour

MM = (1.0, 1.0, 1.0)
SPACINGS = [MM, (3.0, 0.8, 0.8), (5.0, 0.7, 0.7), (0.5, 0.9, 0.9)]


def the_lesion(labels, spacing=MM):
    (lesion,) = measure(labels, None, spacing).lesions
    return lesion


@pytest.mark.parametrize("spacing", SPACINGS)
def test_kidney_with_masses_is_parenchyma_tumour_and_cyst(spacing):
    labels = with_tumour((0, 20, 0), 15, spacing)
    labels[ball((CENTRE[0] + 40, CENTRE[1], CENTRE[2]), 6, spacing)] = 3
    found = measure(labels, None, spacing)
    right, voxel = found.right, np.prod(spacing) / 1000
    assert found.left is None
    assert right.kidney_with_masses_ml == pytest.approx((labels > 0).sum() * voxel, abs=1e-3)
    assert right.parenchyma_ml == pytest.approx((labels == 1).sum() * voxel, abs=1e-3)
    assert right.tumour_ml == pytest.approx(4 / 3 * math.pi * 15**3 / 1000, rel=0.03)
    assert right.cyst_ml == pytest.approx((labels == 3).sum() * voxel, abs=1e-3)
    assert [one.name for one in found.lesions] == ["tumour 1", "cyst 1"]
    assert found.lesions[0].volume_ml == right.tumour_ml


@pytest.mark.parametrize("spacing", SPACINGS)
def test_length_and_polar_lines_are_the_phantoms(spacing):
    right = measure(kidney(spacing), None, spacing).right
    low, high = (slice_ * spacing[0] for slice_ in right.polar_lines)
    assert right.length_mm == pytest.approx(2 * SEMI_AXES[0], abs=1.5 * spacing[0] + 1)
    assert low == pytest.approx(CENTRE[0] - SINUS[0], abs=spacing[0])
    assert high == pytest.approx(CENTRE[0] + SINUS[0], abs=spacing[0])


def test_the_patients_left_is_where_x_is_high():
    found = measure(with_tumour((0, 20, -5), 15), None, MM)
    mirrored = measure(with_tumour((0, 20, -5), 15)[:, :, ::-1], None, MM)
    assert (found.left, mirrored.right) == (None, None)
    assert found.lesions[0].side == "right"
    assert mirrored.lesions[0].side == "left"
    first, second = asdict(found.lesions[0]), asdict(mirrored.lesions[0])
    for name in set(first) - {"side", "centre", "middle", "axial_ends", "renal", "padua"}:
        assert first[name] == pytest.approx(second[name], rel=0.01), name
    assert first["renal"]["text"] == second["renal"]["text"]


def test_the_bodys_middle_divides_the_sides_where_there_is_a_ct():
    labels = np.zeros((10, 40, 100), np.uint8)
    labels[2:8, 10:20, 45:55] = 1
    hu = np.full(labels.shape, -1000, np.int16)
    hu[:, :, 40:100] = 40
    assert measure(labels, hu, MM).right
    hu[:, :, 0:60], hu[:, :, 60:] = 40, -1000
    assert measure(labels, hu, MM).left


@pytest.mark.parametrize(("depth", "share"), [(-12, 0.0), (-6, 0.15625), (0, 0.5), (6, 0.84375), (11.5, 1.0)])
def test_outside_share_is_the_caps_volume(depth, share):
    """A ball of 12 mm whose centre lies so far outside a flat kidney's face."""
    z, y, x = grid()
    labels = ((abs(z - 70) <= 50) & (abs(y - 45) <= 20) & (abs(x - 45) <= 30)).astype(np.uint8)
    labels[ball((70, 45 - 20.5 - depth, 45), 12)] = 2
    assert the_lesion(labels).outside_share == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize(
    ("centre", "pole", "face", "rim"),
    [
        ((42, 0, 0), "upper", "neither", None),
        ((-42, 0, 0), "lower", "neither", None),
        ((0, -19, -4), "middle", "anterior", "lateral"),
        ((0, 19, -4), "middle", "posterior", "lateral"),
        ((0, 0, -24), "middle", "neither", "lateral"),
        ((28, 0, 20), "upper", "neither", "medial"),
    ],
)
def test_place_is_told_by_polar_lines_and_the_kidneys_own_axis(centre, pole, face, rim):
    lesion = the_lesion(with_tumour(centre, 7))
    assert (lesion.pole, lesion.face) == (pole, face)
    assert rim in (None, lesion.rim)


@pytest.mark.parametrize("angle", [-35, 35])
def test_anterior_follows_a_kidney_that_is_turned_about_its_long_axis(angle):
    """The phantom turned in the axial plane, with a tumour on what was its anterior face."""
    turn = math.radians(angle)
    z, y, x = (axis - at for axis, at in zip(grid(), CENTRE, strict=True))
    y, x = math.cos(turn) * y + math.sin(turn) * x, math.cos(turn) * x - math.sin(turn) * y
    labels = ((z / 55) ** 2 + (y / 20) ** 2 + (x / 32) ** 2 <= 1).astype(np.uint8)
    labels[(z / 7) ** 2 + ((y + 17) / 7) ** 2 + ((x + 12) / 7) ** 2 <= 1] = 2
    assert the_lesion(labels).face == "anterior"
    labels[labels == 2] = 1
    labels[(z / 7) ** 2 + ((y - 17) / 7) ** 2 + ((x + 12) / 7) ** 2 <= 1] = 2
    assert the_lesion(labels).face == "posterior"


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("away", [0, 3, 6, 10])
def test_distance_to_the_sinus_is_the_phantoms(spacing, away):
    """A ball lateral of the sinus, which begins at the kidney's middle, so far away from it."""
    lesion = the_lesion(with_tumour((0, 0, -8 - away), 8, spacing), spacing)
    assert lesion.to_sinus_mm == pytest.approx(away, abs=2 * spacing[1])
    assert lesion.to_sinus_centre_mm > lesion.to_sinus_mm


def test_contact_is_the_whole_surface_of_what_lies_within():
    lesion = the_lesion(with_tumour((38, 0, 0), 9))
    assert lesion.surface_mm2 == pytest.approx(4 * math.pi * 81, rel=0.05)
    assert lesion.contact_mm2 == pytest.approx(lesion.surface_mm2, rel=0.05)


def test_hu_and_confidence_are_over_the_lesions_voxels():
    labels = with_tumour((0, 19, 0), 9)
    rng = np.random.default_rng(0)
    hu = np.full(labels.shape, 40, np.int16)
    hu[labels == 1], hu[labels == 2] = 150, rng.normal(70, 20, (labels == 2).sum()).astype(np.int16)
    percent = np.zeros((2, *labels.shape), np.uint8)
    percent[0][labels > 0], percent[1][labels == 2] = 90, 60
    found = measure(labels, hu, MM, percent)
    (lesion,) = found.lesions
    inside = hu[labels == 2]
    assert (lesion.hu_mean, lesion.hu_sd) == pytest.approx((inside.mean(), inside.std()), abs=0.06)
    assert (found.right.hu_mean, found.right.hu_sd) == (150.0, 0.0)
    assert (lesion.confidence, found.right.confidence) == (0.6, 0.9)
    bare = measure(labels, None, MM)
    assert (bare.lesions[0].hu_mean, bare.lesions[0].confidence, bare.right.hu_mean) == (None, None, None)


def test_middle_lies_within_the_lesion():
    labels = kidney()
    shell = ball(CENTRE, 24) & ~ball(CENTRE, 20)
    labels[shell] = 2
    lesion = the_lesion(labels)
    assert labels[lesion.middle] == 2
    assert lesion.middle[0] == round(lesion.centre[0])


def test_lesions_are_numbered_by_size_and_specks_are_none():
    labels = with_tumour((40, 0, 0), 5)
    labels[ball((CENTRE[0] - 40, CENTRE[1], CENTRE[2]), 7)] = 2
    labels[CENTRE[0], CENTRE[1] - 20, CENTRE[2]] = 2
    found = measure(labels, None, MM)
    assert [(one.name, one.pole) for one in found.lesions] == [("tumour 1", "lower"), ("tumour 2", "upper")]
    assert found.right.tumour_ml > sum(one.volume_ml for one in found.lesions)


def test_a_kidney_that_the_scan_cuts_is_said_to_be():
    labels = with_tumour((40, 0, 0), 10)
    whole, cut = measure(labels, None, MM), measure(labels[:110], None, MM)
    assert (whole.right.cut, whole.lesions[0].cut) == (False, False)
    assert (cut.right.cut, cut.lesions[0].cut) == (True, True)
    in_the_sinus = measure(labels[:80], None, MM)
    assert in_the_sinus.right.polar_lines is None


def test_what_cannot_be_computed_is_none():
    labels = np.zeros(SHAPE, np.uint8)
    labels[ball(CENTRE, 20)] = 2
    found = measure(labels, None, MM)
    (lesion,) = found.lesions
    assert (lesion.pole, lesion.face, lesion.rim, lesion.outside_share, lesion.to_sinus_mm) == (None,) * 5
    assert (found.right.parenchyma_ml, found.right.length_mm, found.right.polar_lines) == (0, None, None)


def test_nothing_labelled_measures_nothing():
    found = measure(np.zeros((5, 6, 7), np.uint8), None, MM)
    assert (found.right, found.left, found.lesions) == (None, None, ())


@pytest.mark.parametrize("shape", [(1, 30, 30), (2, 30, 30), (30, 1, 30)])
def test_flat_volumes_are_measured_too(shape):
    labels = np.ones(shape, np.uint8)
    labels[0, 0, :10] = 2
    found = measure(labels, None, MM)
    assert found.right or found.left
    assert json.dumps(asdict(found))


def test_measurements_are_plain_json():
    found = measure(with_tumour((0, 20, 0), 15), np.zeros(SHAPE, np.int16), MM)
    read = json.loads(json.dumps(asdict(found), allow_nan=False))
    assert read["lesions"][0]["renal"]["radius"]["points"] == 1
    assert "research" in read["purpose"]


def test_inputs_stay_as_they_are_and_must_fit():
    labels = with_tumour((0, 20, 0), 15)
    before = labels.copy()
    measure(labels, None, MM)
    np.testing.assert_array_equal(labels, before)
    with pytest.raises(ValueError, match="shape"):
        measure(labels, np.zeros((2, 2, 2), np.int16), MM)
