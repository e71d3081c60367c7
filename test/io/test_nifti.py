"""NIfTI: whichever of its three places is believed is told, and no writer's habit moves a voxel."""

import gzip
import struct

import nibabel as nib
import numpy as np
import pytest

from kits.errors import InputError
from kits.io.volume import Volume
from test.helpers.scans import AFFINE, ORIGIN, SPACING_XYZ, ct, write_nifti


def codes(volume):
    return [warning.code for warning in volume.warnings]


def mirrored(axis):
    affine = AFFINE.copy()
    affine[axis] *= -1
    return affine


def sheared(degrees):
    affine = AFFINE.copy()
    affine[1, 2] = np.tan(np.deg2rad(degrees)) * affine[2, 2]
    return affine


def assert_as_written(volume):
    np.testing.assert_array_equal(volume.hu, ct())
    assert volume.spacing == pytest.approx(SPACING_XYZ[::-1])
    assert volume.home.origin == pytest.approx(ORIGIN)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_both_versions_are_read(tmp_path, kind, name):
    volume = Volume.read(write_nifti(tmp_path / name, kind=kind))
    assert_as_written(volume)
    assert codes(volume) == []


def test_a_gzipped_file_may_be_called_nii(tmp_path):
    path = write_nifti(tmp_path / "a.nii")
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert_as_written(Volume.read(path))


@pytest.mark.parametrize("packed", [False, True])
def test_header_and_voxels_may_be_two_files(tmp_path, packed):
    nib.save(nib.Nifti1Pair(ct().transpose(2, 1, 0), AFFINE), tmp_path / "a.img")
    if packed:
        (tmp_path / "a.img.gz").write_bytes(gzip.compress((tmp_path / "a.img").read_bytes()))
        (tmp_path / "a.img").unlink()
    assert_as_written(Volume.read(tmp_path / "a.hdr"))


def test_a_header_without_its_voxels_is_refused(tmp_path):
    nib.save(nib.Nifti1Pair(ct().transpose(2, 1, 0), AFFINE), tmp_path / "a.img")
    (tmp_path / "a.img").unlink()
    with pytest.raises(InputError, match=r"a\.hdr: its voxels should lie beside it in a\.img"):
        Volume.read(tmp_path / "a.hdr")


def test_transforms_that_agree_but_for_rounding_are_nothing_to_tell_of(tmp_path):
    near = AFFINE.copy()
    near[:3, 3] += 0.1
    assert codes(Volume.read(write_nifti(tmp_path / "a.nii", qform=(near, 1)))) == []


def test_where_transforms_disagree_the_sform_is_taken_and_told_by_how_much(tmp_path):
    elsewhere = AFFINE.copy()
    elsewhere[2, 3] += 40
    volume = Volume.read(write_nifti(tmp_path / "a.nii", qform=(elsewhere, 1)))
    assert_as_written(volume)
    assert volume.warnings == ("sform and qform disagree by up to 40 mm; took the sform, not the qform.",)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_transforms_that_mirror_each_other_are_told_apart_from_shifts(tmp_path, axis):
    volume = Volume.read(write_nifti(tmp_path / "a.nii", qform=(mirrored(axis), 1)))
    assert_as_written(volume)
    assert codes(volume) == ["mirrored-transforms"]
    assert "sides may be swapped" in volume.warnings[0]


@pytest.mark.parametrize(("sform", "code"), [(sheared(10), 2), (mirrored(0), 4)])
def test_the_qform_is_taken_where_the_sform_is_sheared_or_leads_to_a_template(tmp_path, sform, code):
    volume = Volume.read(write_nifti(tmp_path / "a.nii", sform=(sform, code)))
    assert_as_written(volume)
    assert "took the qform" in volume.warnings[0]


def test_the_only_valid_transform_gives_the_spacing_whatever_pixdim_says(tmp_path):
    path = write_nifti(tmp_path / "a.nii", qform=(AFFINE, 0), edits=[("<3f", 80, 1, 1, 1)])
    volume = Volume.read(path)
    assert_as_written(volume)
    assert volume.warnings == ("pixdim says 1 x 1 x 1 mm, the sform 0.75 x 0.5 x 2.5 mm; took the sform's spacing.",)


@pytest.mark.parametrize("pixel", [0.0, float("nan"), -3.0, 70.0])
def test_an_impossible_pixdim_is_told_where_the_sform_is_valid(tmp_path, pixel):
    volume = Volume.read(write_nifti(tmp_path / "a.nii", edits=[("<f", 80, pixel)]))
    assert_as_written(volume)
    assert "pixdim-disagrees" in codes(volume)


@pytest.mark.parametrize("pixel", [0.0, float("nan"), -3.0])
def test_an_impossible_pixdim_alone_is_refused(tmp_path, pixel):
    path = write_nifti(tmp_path / "a.nii", sform=(AFFINE, 0), qform=(AFFINE, 0), edits=[("<f", 80, pixel)])
    with pytest.raises(InputError, match="correct the spacing"):
        Volume.read(path)


def test_without_transforms_the_axes_are_nifti_s_own_and_that_is_told(tmp_path):
    volume = Volume.read(write_nifti(tmp_path / "a.nii", sform=(AFFINE, 0), qform=(AFFINE, 0)))
    np.testing.assert_array_equal(volume.hu, ct()[:, ::-1, ::-1])  # right and anterior are ours backwards
    assert codes(volume) == ["no-orientation"]


def test_a_shear_of_rounding_is_straightened_and_more_is_refused(tmp_path):
    volume = Volume.read(write_nifti(tmp_path / "a.nii", sform=(sheared(0.05), 1), qform=(AFFINE, 0)))
    np.testing.assert_array_equal(volume.hu, ct())
    cosines = np.reshape(volume.home.direction, (3, 3))
    np.testing.assert_allclose(cosines.T @ cosines, np.eye(3), atol=1e-9)
    with pytest.raises(InputError, match="not at right angles"):
        Volume.read(write_nifti(tmp_path / "b.nii", sform=(sheared(0.5), 1), qform=(AFFINE, 0)))


@pytest.mark.parametrize("slope", [0.0, float("nan"), float("inf")])
def test_no_slope_means_no_intercept(tmp_path, slope):
    assert_as_written(Volume.read(write_nifti(tmp_path / "a.nii", edits=[("<2f", 112, slope, -1024)])))


def test_an_intercept_that_is_no_number_is_refused(tmp_path):
    with pytest.raises(InputError, match="scl_inter"):
        Volume.read(write_nifti(tmp_path / "a.nii", edits=[("<2f", 112, 1, float("nan"))]))


@pytest.mark.parametrize("offset", [0, 100, 348, 351])
def test_an_offset_within_the_header_is_told_from_the_length(tmp_path, offset):
    path = write_nifti(tmp_path / "a.nii", edits=[("<f", 108, offset)])
    assert_as_written(Volume.read(path))
    data = path.read_bytes()
    path.write_bytes(data[:348] + data[352:])
    assert_as_written(Volume.read(path))


def test_what_lies_between_header_and_voxels_is_skipped(tmp_path):
    path = write_nifti(tmp_path / "a.nii")
    data = bytearray(path.read_bytes())
    struct.pack_into("<f", data, 108, 352 + 64)
    path.write_bytes(data[:352] + bytes(range(64)) + data[352:])
    assert_as_written(Volume.read(path))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_bytes_after_the_voxels_are_told_and_gigabytes_of_them_are_not_read(tmp_path, name):
    path = write_nifti(tmp_path / name)
    if name == "a.nii":
        with path.open("ab") as file:
            file.truncate(1 << 36)  # a hole: no disk is filled
    else:
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + b"\0" * 1000))
    volume = Volume.read(path)
    assert_as_written(volume)
    assert codes(volume) == ["trailing-data"]


def test_metres_become_millimetres_and_that_is_told(tmp_path):
    metres = AFFINE.copy()
    metres[:3] /= 1000
    volume = Volume.read(write_nifti(tmp_path / "a.nii", sform=(metres, 1), qform=(metres, 1), edits=[("b", 123, 1)]))
    assert_as_written(volume)
    assert codes(volume) == ["units"]


@pytest.mark.parametrize("order", ["<", ">"])
def test_either_byte_order_is_read(tmp_path, order):
    image = nib.Nifti1Image(ct().transpose(2, 1, 0), AFFINE, nib.Nifti1Header(endianness=order))
    nib.save(image, tmp_path / "a.nii")
    assert (tmp_path / "a.nii").read_bytes()[:4] == struct.pack(f"{order}i", 348)
    np.testing.assert_array_equal(Volume.read(tmp_path / "a.nii").hu, ct())
