"""Components: what goes, what stays, and how the paper's limit carries over to other grids."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from kits.cascade.clean import clean
from kits.cascade.components import components
from kits.geometry import Grids, bounding_box
from kits.io.volume import Volume
from kits.plan import NATIVE, PAPER, Plan

SPACING = (3.0, 0.8, 0.8)
"""At which the working grid is the scan's own, so that ``smallest_voxels`` are its voxels."""
BARE = replace(PAPER, tumour_needs_kidney=False, smallest_voxels=0)
"""A plan without any rule."""
VOXEL_ML = 3.0 * 0.8 * 0.8 / 1000


def cleaned(labels: np.ndarray, hu: np.ndarray | None = None, **changes: object) -> np.ndarray:
    """A copy of a label map after the rules that are switched on."""
    return by_plan(replace(BARE, **changes), labels, hu)


def by_plan(plan: Plan, labels: np.ndarray, hu: np.ndarray | None = None) -> np.ndarray:
    hu = np.where(np.arange(labels.size).reshape(labels.shape) % 2, 40, -900) if hu is None else hu
    volume = Volume.from_array(hu.astype(np.int16), SPACING, "scan")
    return clean(labels.copy(), volume, Grids.of(volume, plan))


def map_of(*boxes: tuple[int, tuple[slice, slice, slice]], shape: tuple[int, int, int] = (20, 40, 40)) -> np.ndarray:
    labels = np.zeros(shape, np.uint8)
    for label, box in boxes:
        labels[box] = label
    return labels


CUBE = np.s_[5:15, 5:15, 5:15]  # 1000 voxels


def test_components_come_largest_first_and_without_the_small() -> None:
    mask = map_of((1, np.s_[0:2, 0:2, 0:2]), (1, CUBE), (1, np.s_[5:10, 20:25, 20:25])) > 0
    labels, boxes = components(mask, 100)
    assert boxes == [CUBE, np.s_[5:10, 20:25, 20:25]]
    assert np.bincount(labels.ravel()).tolist() == [mask.size - 1125, 1000, 125]


def test_a_component_as_large_as_the_limit_stays() -> None:
    labels = map_of((1, CUBE))
    assert (cleaned(labels, smallest_voxels=1000) == labels).all()
    assert not cleaned(labels, smallest_voxels=1001).any()


def test_kidney_and_tumour_count_together() -> None:
    labels = map_of((1, CUBE), (2, np.s_[5:15, 10:15, 5:15]))
    assert (cleaned(labels, smallest_voxels=1000) == labels).all()


def test_a_small_tumour_in_a_kidney_stays() -> None:
    labels = map_of((1, CUBE), (2, np.s_[9:10, 9:10, 9:10]))
    assert (cleaned(labels, smallest_voxels=900) == labels).all()


def test_a_tumour_below_its_own_limit_becomes_kidney() -> None:
    large, small = (2, np.s_[5:15, 5:8, 5:15]), (2, np.s_[9:11, 12:14, 9:11])
    labels = map_of((1, CUBE), large, small)
    assert (cleaned(labels, smallest_tumour_ml=8 * VOXEL_ML) == labels).all()
    assert (cleaned(labels, smallest_tumour_ml=9 * VOXEL_ML) == map_of((1, CUBE), large)).all()


@pytest.mark.parametrize("slices", [slice(0, 2), slice(18, 20)])
def test_but_where_the_scan_ends_in_it_a_quarter_is_enough(slices: slice) -> None:
    kidney = map_of((1, np.s_[:, 5:15, 5:15]))
    labels = np.where(map_of((2, np.s_[slices, 9:11, 9:11])), 2, kidney).astype(np.uint8)  # 8 voxels
    assert (cleaned(labels, smallest_tumour_ml=32 * VOXEL_ML) == labels).all()
    assert (cleaned(labels, smallest_tumour_ml=33 * VOXEL_ML) == kidney).all()


def test_the_smallest_tumour_is_a_millilitre_or_its_share_of_a_thin_scan_and_none_in_the_paper() -> None:
    spacing = (2.0, 0.5, 0.5)
    assert Grids.from_shape((100, 512, 512), spacing, NATIVE).smallest_tumour == pytest.approx(2000)
    assert Grids.from_shape((25, 512, 512), spacing, NATIVE).smallest_tumour == pytest.approx(1000)
    assert Grids.from_shape((100, 512, 512), spacing, PAPER).smallest_tumour == 0


def test_tumour_that_touches_no_kidney_goes() -> None:
    labels = map_of((1, CUBE), (2, np.s_[5:15, 20:30, 5:15]))
    assert (cleaned(labels, tumour_needs_kidney=True) == map_of((1, CUBE))).all()


@pytest.mark.parametrize("slices", [slice(0, 8), slice(12, 20)])
def test_but_not_if_the_scan_ends_in_it_and_may_hide_its_kidney(slices: slice) -> None:
    labels = map_of((2, np.s_[slices, 20:30, 5:15]))
    assert (cleaned(labels, tumour_needs_kidney=True) == labels).all()


def test_a_third_kidney_goes_but_in_the_paper() -> None:
    two = (1, CUBE), (1, np.s_[5:15, 25:35, 5:15])
    three = map_of(*two, (1, np.s_[5:10, 5:15, 25:35]))
    assert (cleaned(three, at_most_kidneys=True) == map_of(*two)).all()
    assert (by_plan(replace(PAPER, smallest_voxels=100), three) == three).all()


def test_what_goes_for_another_reason_takes_no_kidneys_place() -> None:
    two = (1, CUBE), (1, np.s_[5:15, 25:35, 5:15])
    labels = map_of(*two, (2, np.s_[2:18, 25:35, 20:35]))
    assert (cleaned(labels, at_most_kidneys=True, tumour_needs_kidney=True) == map_of(*two)).all()


def test_an_empty_map_stays_empty() -> None:
    assert not by_plan(NATIVE, map_of()).any()


def test_the_limit_means_the_same_volume_on_every_grid() -> None:
    grids = Grids.from_shape((200, 512, 512), (1.5, 0.8, 0.8), PAPER)
    assert grids.smallest_component((100, 512, 512)) == 5000
    assert grids.smallest_component((100, 256, 256)) == 1250
    assert grids.smallest_component((200, 512, 512)) == 10000


def test_the_limit_shrinks_for_a_scan_too_thin_for_a_kidney_but_in_the_paper() -> None:
    shape = (10, 512, 512)
    assert Grids.from_shape(shape, SPACING, NATIVE).smallest_component(shape) == pytest.approx(1500)
    assert Grids.from_shape(shape, SPACING, PAPER).smallest_component(shape) == 5000


def test_the_bounding_box_is_tight() -> None:
    assert bounding_box(map_of((1, CUBE)) > 0) == CUBE
    assert bounding_box(map_of() > 0) is None


# Necks

RIGHT, BRIDGE = np.s_[4:36, 10:34, 8:32], np.s_[16:18, 20:24, 32:60]
BESIDE, ACROSS, NEAR = np.s_[8:30, 8:30, 36:56], np.s_[4:36, 10:34, 60:84], np.s_[14:24, 15:25, 32:36]


@pytest.mark.parametrize(
    ("label", "place", "bridge", "stays"),
    [
        (1, BESIDE, np.s_[16:18, 20:24, 32:36], False),
        (2, BESIDE, np.s_[16:18, 20:24, 32:36], True),
        (1, BESIDE, NEAR, True),
        (1, ACROSS, BRIDGE, True),
    ],
    ids=["by a neck", "a tumour", "broadly", "the other half of a horseshoe"],
)
def test_what_hangs_on_a_kidney_by_a_neck_goes(
    label: int, place: tuple[slice, ...], bridge: tuple[slice, ...], stays: bool
) -> None:
    mm = (3.0, 1.6, 1.6)
    kidney = map_of((1, RIGHT), (1, bridge), shape=(40, 44, 92))
    labels = kidney.copy()
    labels[place] = label
    hu = np.full(labels.shape, -1000)
    hu[:, 2:42, 2:90] = 30
    hu[kidney > 0] = 150
    hu[place] = 90
    volume = Volume.from_array(hu.astype(np.int16), mm, "scan")
    for plan, kept in ((replace(BARE, neck_mm=10.0), stays), (BARE, True)):
        left = clean(labels.copy(), volume, Grids.of(volume, plan))
        assert (left[RIGHT] == 1).all()
        assert (left[place] == (label if kept else 0)).mean() > 0.95


# Cysts

LESION = np.s_[8:13, 12:32, 12:32]
"""16 mm across at 0.8 mm."""


def kidney_with_lesion(lesion_hu: float, kidney_hu: float = 150.0, noise_hu: float = 10.0) -> tuple[np.ndarray, ...]:
    """A label map in which the lesion is called tumour, and the CT; its border is blurred, as by a scanner."""
    labels = map_of((1, np.s_[3:17, 4:36, 4:36]), (2, LESION))
    hu = np.where(labels == 2, lesion_hu, np.where(labels == 1, kidney_hu, -100.0))
    hu = ndimage.gaussian_filter(hu, (0, 1, 1)) + np.random.default_rng(0).normal(0, noise_hu, hu.shape)
    return labels, np.rint(hu).astype(np.int16)


def test_what_looks_like_water_is_no_tumour() -> None:
    labels, hu = kidney_with_lesion(5.0)
    assert (cleaned(labels, hu, water_is_cyst=True) == np.minimum(labels, 1)).all()
    noisy = kidney_with_lesion(5.0, noise_hu=40.0)[1]
    assert (cleaned(labels, noisy, water_is_cyst=True) == np.minimum(labels, 1)).all()


@pytest.mark.parametrize(
    ("lesion_hu", "kidney_hu"),
    [(40.0, 150.0), (5.0, 40.0)],
    ids=["brighter than water", "kidneys without contrast medium"],
)
def test_what_may_be_a_tumour_stays_one(lesion_hu: float, kidney_hu: float) -> None:
    labels, hu = kidney_with_lesion(lesion_hu, kidney_hu)
    assert (cleaned(labels, hu, water_is_cyst=True) == labels).all()


def test_a_dark_tumour_with_bright_walls_stays_one() -> None:
    labels, hu = kidney_with_lesion(5.0)
    hu[:, 15:29, 20:24] = 120
    assert np.median(hu[LESION]) < 15
    assert (cleaned(labels, hu, water_is_cyst=True) == labels).all()


def test_each_lesion_is_judged_by_itself() -> None:
    labels, hu = kidney_with_lesion(5.0)
    solid = np.s_[4:7, 14:30, 14:30]
    labels[solid], hu[solid] = 2, 90
    expected = np.where(hu == 90, labels, np.minimum(labels, 1))
    assert (cleaned(labels, hu, water_is_cyst=True) == expected).all()


@pytest.mark.parametrize(("core", "kind"), [(np.s_[7:13, 7:13, 7:13], 2), (np.s_[5:15, 5:12, 5:15], 3)])
def test_a_mass_is_what_most_of_it_is(core: tuple[slice, slice, slice], kind: int) -> None:
    labels = map_of((1, np.s_[2:18, 2:38, 2:38]), (2, CUBE), (3, core), (3, np.s_[5:10, 25:30, 25:30]))
    expected = labels.copy()
    expected[CUBE] = kind
    assert (cleaned(labels, cysts_apart=True) == expected).all(), "what lies apart stays what it is"
    assert (cleaned(labels) == np.where(expected == 3, 1, expected)).all()


@pytest.mark.parametrize("labels", [map_of(), map_of((2, CUBE)), map_of((1, CUBE))])
def test_without_a_kidney_or_a_tumour_no_cyst_is_sought(labels: np.ndarray) -> None:
    assert (cleaned(labels, water_is_cyst=True) == labels).all()


def test_in_the_paper_a_cyst_stays_what_the_networks_called_it() -> None:
    labels, hu = kidney_with_lesion(5.0)
    assert (by_plan(NATIVE, labels, hu) == np.minimum(labels, 1)).all()
    assert (by_plan(PAPER, labels, hu) == labels).all()
