"""Any orientation gives the same canonical array, the way home is exact, and what is not CT is refused."""

from itertools import permutations, product

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from kits.errors import InputError
from kits.io.volume import Grid, Volume

SPACING = (3.0, 0.8, 0.7)
NAME = "some/imaging.nii.gz"
ORIENTATIONS = list(product(permutations(range(3)), product((1, -1), repeat=3)))


def ct(shape=(5, 6, 7), seed=0):
    """HU-like noise: air, fat and bone are all there and no two axes look alike."""
    return np.random.default_rng(seed).integers(-1000, 1500, shape).astype(np.int16)


def image_of(array, spacing=SPACING, direction=None):
    image = sitk.GetImageFromArray(array, isVector=False)
    image.SetSpacing(spacing[::-1])
    image.SetOrigin((-100.25, 33.5, 1000.125))
    if direction is not None:
        image.SetDirection(np.ravel(direction).tolist())
    return image


def stored_as(hu, order, signs):
    """The image whose axis ``j`` runs along world axis ``order[j]``, backwards where ``signs[j]`` is -1."""
    direction = np.zeros((3, 3))
    direction[order, range(3)] = signs
    xyz = hu.transpose(2, 1, 0).transpose(order)[tuple(slice(None, None, sign) for sign in signs)]
    spacing_xyz = np.array(SPACING[::-1])[list(order)]
    return image_of(np.ascontiguousarray(xyz.transpose(2, 1, 0)), spacing_xyz[::-1].tolist(), direction)


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_every_orientation_gives_the_same_array_and_an_exact_way_home(order, signs):
    hu = ct()
    image = stored_as(hu, order, signs)
    volume = Volume.from_image(image, NAME)
    np.testing.assert_array_equal(volume.hu, hu)
    assert volume.spacing == SPACING
    assert volume.hu.flags.c_contiguous
    assert volume.hu.dtype == np.int16
    home = volume.to_home(volume.hu)
    assert Grid.of(home) == Grid.of(image) == volume.home
    np.testing.assert_array_equal(sitk.GetArrayFromImage(home), sitk.GetArrayFromImage(image))


@settings(max_examples=30, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-40, 40)] * 3).filter(lambda a: sum(map(abs, a)) < 40),
    orientation=st.sampled_from(ORIENTATIONS),
)
def test_an_oblique_volume_gets_the_nearest_axes_and_an_exact_way_home(angles, orientation):
    hu = ct()
    image = stored_as(hu, *orientation)
    tilt = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    image.SetDirection((tilt @ np.reshape(image.GetDirection(), (3, 3))).ravel().tolist())
    volume = Volume.from_image(image, NAME)
    np.testing.assert_array_equal(volume.hu, hu)
    assert Grid.of(volume.to_home(volume.hu)) == Grid.of(image)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64])
def test_storage_types_give_the_same_hu(dtype):
    hu = ct()
    np.testing.assert_array_equal(Volume.from_image(image_of(hu.astype(dtype)), NAME).hu, hu)


def test_floats_are_rounded_and_clipped_to_int16():
    values = np.full((2, 4, 4), -100.0)
    values[0, 0] = (-1e6, 40.6, -40.6, 1e6)
    assert Volume.from_array(values, SPACING).hu[0, 0].tolist() == [-32768, 41, -41, 32767]


def test_the_array_does_not_share_memory_with_its_source():
    hu = ct()
    volume = Volume.from_array(hu, SPACING)
    hu[:] = 0
    np.testing.assert_array_equal(volume.hu, ct())


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float32])
def test_results_of_any_type_go_home(dtype):
    volume = Volume.from_array(ct(), SPACING)
    result = volume.hu > 0
    home = sitk.GetArrayFromImage(volume.to_home(result.astype(dtype)))
    np.testing.assert_array_equal(home, result)
    assert home.dtype == (np.uint8 if dtype is bool else dtype)


def test_a_result_of_another_shape_is_a_programming_error():
    with pytest.raises(ValueError, match=r"\(1, 2, 3\)"):
        Volume.from_array(ct(), SPACING).to_home(np.zeros((1, 2, 3)))


@pytest.mark.parametrize("shape", [(1, 8, 9), (2, 796, 512), (2, 512, 796)])
@pytest.mark.parametrize("slice_mm", [0.3, 10.0])
def test_unusual_shapes_and_slice_thicknesses_are_fine(shape, slice_mm):
    image = image_of(ct(shape), (slice_mm, 0.8, 0.8))
    volume = Volume.from_image(image, NAME)
    assert volume.hu.shape == shape
    assert volume.voxel_ml == pytest.approx(slice_mm * 0.64 / 1000)
    assert Grid.of(volume.to_home(volume.hu)) == Grid.of(image)


@pytest.mark.parametrize("padding", [-2048, -3024])
def test_padding_around_the_field_of_view_is_fine(padding):
    hu = ct((3, 20, 20))
    hu[:, :15] = padding
    assert Volume.from_array(hu, SPACING).warnings == ()


@pytest.mark.parametrize("shape", [(1, 5, 6, 7), (1, 1, 5, 6, 7)])
def test_a_single_frame_of_more_dimensions_is_a_volume(shape):
    volume = Volume.from_image(sitk.GetImageFromArray(ct(shape), isVector=False), NAME)
    np.testing.assert_array_equal(volume.hu, ct(shape).reshape(5, 6, 7))
    assert volume.to_home(volume.hu).GetSize() == (7, 6, 5)


def with_voxel(value):
    values = ct().astype(np.float32)
    values[1, 2, 3] = value
    return image_of(values)


NOT_CT = {
    "two frames": (sitk.GetImageFromArray(ct((2, 4, 5, 6)), isVector=False), "more than one frame"),
    "2-D": (sitk.GetImageFromArray(ct((8, 8))), "2-D"),
    "colour": (sitk.GetImageFromArray(ct((4, 5, 6, 3)), isVector=True), "3 components"),
    "complex": (sitk.GetImageFromArray(ct().astype(np.complex64)), "complex"),
    "no voxels": (sitk.Image([0, 3, 3], sitk.sitkInt16), "holds no voxels"),
    "NaN": (with_voxel(np.nan), "NaN or infinite voxels .slice 1"),
    "infinity": (with_voxel(np.inf), "NaN or infinite"),
    "tiny pixels": (image_of(ct(), (3.0, 0.8, 0.05)), "along x is 0.05 mm"),
    "huge pixels": (image_of(ct(), (3.0, 12.5, 0.8)), "along y is 12.5 mm"),
    "huge slices": (image_of(ct(), (300.0, 0.8, 0.8)), "along z is 300 mm"),
    "shear": (image_of(ct(), direction=[[1, 0.5, 0], [0, 1, 0], [0, 0, 1]]), "not at right angles"),
    "all air": (image_of(ct() // 10 - 1000), "only air"),
    "constant": (image_of(np.zeros((4, 5, 6), np.int16)), "only air"),
    "zero to one": (image_of(np.linspace(0, 1, 60).reshape(3, 4, 5)), "span only 0 to 1,"),
    "8 bits": (image_of(ct().astype(np.uint8)), "slope and intercept"),
    "not rescaled": (image_of((ct() + 1024).astype(np.uint16)), "slope and intercept"),
    "padded, not rescaled": (image_of(np.where(ct() < 0, -2000, ct())), "slope and intercept"),
}


@pytest.mark.parametrize("case", NOT_CT)
def test_what_is_not_ct_is_refused_by_name_and_reason(case):
    image, reason = NOT_CT[case]
    with pytest.raises(InputError, match=reason) as caught:
        Volume.from_image(image, NAME)
    assert str(caught.value).startswith(f"{NAME}: ")
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("shape", [(4, 4), (0, 4, 4)])
def test_an_array_that_is_no_volume_is_refused(shape):
    with pytest.raises(InputError, match="is not a volume"):
        Volume.from_array(np.zeros(shape), SPACING)


def test_a_nan_spacing_is_refused():
    with pytest.raises(InputError, match="nan mm"):
        Volume.from_array(ct(), (3.0, float("nan"), 0.8))


@pytest.mark.parametrize(
    ("hu", "warning"),
    [
        (np.clip(ct(), -300, 300), "no air in view"),
        (np.where(ct() < -500, -900, 9000), "81 % of the voxels lie outside"),
    ],
)
def test_odd_statistics_are_a_warning_only(hu, warning):
    (found,) = Volume.from_array(hu, SPACING).warnings
    assert warning in found
