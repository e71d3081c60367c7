"""One anatomy gives one label map in the world, however it is stored."""

import gzip
import struct
import tempfile
from functools import cache
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from kits.io.cases import find_cases
from kits.io.images import read_image, read_volume, write_image
from test.helpers.scans import dicom_slice, enhanced, save_dicom
from test.helpers.threshold import oriented, phantom_volume, threshold_cascade

SPACINGS = [(3.0, 0.8, 0.8), (2.5, 0.9, 0.75), (5.0, 0.7, 0.7)]
ORIENTATIONS = list(product(permutations(range(3)), product((1, -1), repeat=3)))
PIXELS = [(np.int16, 1.0, 0), (np.int32, 1.0, 0), (np.float32, 1.0, 0), (np.float64, 1.0, 0), (np.int16, 0.5, -7),
          (np.int16, 2.0, 4), (np.uint16, 1.0, -1024), (np.int32, 0.25, 100)]  # fmt: skip
STORED = ["a.nii", "a.nii.gz", "a.hdr", "nifti-2", "a.mha", "packed.mha", "a.nrrd", "packed.nrrd", "dicom", "enhanced"]


@cache
def known(spacing):
    """The anatomy's HU (even numbers, so that a slope of 2 loses nothing) and what the cascade finds in it."""
    volume, _ = phantom_volume(shape=(24, 96, 112), spacing=spacing, radius_mm=(20.0, 14.0, 14.0))
    hu = volume.hu & ~1
    return hu, threshold_cascade().predict(type(volume).from_array(hu, spacing)).labels


def store(folder, image, how, pixel):
    """Write an image of HU in one of the ways, its pixels of one of the kinds."""
    dtype, slope, intercept = pixel
    if how.endswith(("mha", "nrrd")):  # these know no slope
        dtype, slope, intercept = (np.int16 if dtype == np.uint16 else dtype), 1.0, 0
    hu = sitk.GetArrayFromImage(image).astype(np.float64)
    stored = sitk.GetImageFromArray(np.rint((hu - intercept) / slope).astype(dtype))
    stored.CopyInformation(image)
    if how in ("dicom", "enhanced"):
        write_frames(folder / "scan", image, how)
    elif how.endswith(("mha", "nrrd")):
        sitk.WriteImage(stored, str(folder / how), how.startswith("packed"))
    else:
        write_niftis(folder, stored, how, slope, intercept)


def write_niftis(folder, stored, how, slope, intercept):
    sitk.WriteImage(stored, str(folder / "itk.nii"))
    data = bytearray((folder / "itk.nii").read_bytes())
    struct.pack_into("<2f", data, 112, slope, intercept)
    (folder / "itk.nii").write_bytes(data)
    if how == "nifti-2":
        raw = nib.load(folder / "itk.nii")
        made = nib.Nifti2Image(raw.dataobj.get_unscaled(), raw.affine)
        made.header.set_slope_inter(slope, intercept)
        nib.save(made, folder / "a.nii")
    elif how == "a.hdr":
        data[344:348] = b"ni1\0"
        struct.pack_into("<f", data, 108, 0)
        (folder / "a.hdr").write_bytes(data[:348])
        (folder / "a.img").write_bytes(data[352:])
    else:
        (folder / how).write_bytes(gzip.compress(data, 1) if how.endswith("gz") else data)
    (folder / "itk.nii").unlink()


def write_frames(folder, image, how):
    """As DICOM slices in an order of no meaning."""
    hu = sitk.GetArrayFromImage(image)
    direction = np.reshape(image.GetDirection(), (3, 3))
    x, y, z = image.GetSpacing()
    places = np.random.default_rng(0).permutation(len(hu)).tolist()
    position = [(np.array(image.GetOrigin()) + k * z * direction[:, 2]).round(6).tolist() for k in range(len(hu))]
    axes = [*direction[:, 0], *direction[:, 1]]
    if how == "dicom":
        for number, k in enumerate(places):
            made = dicom_slice(hu[k], k, ImageOrientationPatient=axes, ImagePositionPatient=position[k],
                               PixelSpacing=[y, x], InstanceNumber=number)  # fmt: skip
            save_dicom(made, folder / f"{number}.dcm")
        return
    made = enhanced(hu, places)
    shared = made.SharedFunctionalGroupsSequence[0]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = axes
    shared.PixelMeasuresSequence[0].PixelSpacing = [y, x]
    for k, frame in zip(places, made.PerFrameFunctionalGroupsSequence, strict=True):
        frame.PlanePositionSequence[0].ImagePositionPatient = position[k]
    save_dicom(made, folder / "all.dcm")


def in_the_world(labels, spacing):
    """Where labelled voxels of the canonical array lie: millimetres and label, sorted."""
    where = np.argwhere(labels)
    mm = where[:, ::-1] * np.array(spacing[::-1])
    return np.column_stack([mm, labels[tuple(where.T)]])


def of_image(image):
    """The same of an image, through its header."""
    labels = sitk.GetArrayFromImage(image)
    where = np.argwhere(labels)
    direction = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    mm = where[:, ::-1] @ direction.T + image.GetOrigin()
    return np.column_stack([mm, labels[tuple(where.T)]])


def ordered(points):
    points = points.round(2) + 0.0
    return points[np.lexsort(points.T)]


@settings(max_examples=40, deadline=None)
@given(
    how=st.sampled_from(STORED),
    orientation=st.sampled_from(ORIENTATIONS),
    spacing=st.sampled_from(SPACINGS),
    pixel=st.sampled_from(PIXELS),
)
def test_one_anatomy_gives_one_label_map_in_the_world(how, orientation, spacing, pixel):
    hu, expected = known(spacing)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store(folder, oriented(hu, spacing, *orientation), how, pixel)
        (case,) = find_cases(folder)
        volume = read_volume(case)
        np.testing.assert_array_equal(volume.hu, hu)
        np.testing.assert_allclose(volume.spacing, spacing, rtol=1e-6)
        assert [warning for warning in volume.warnings if warning.code != "not-axial"] == []
        write_image(volume.to_home(expected), folder / "labels.nii.gz")
        found = of_image(read_image(folder / "labels.nii.gz"))
    np.testing.assert_allclose(ordered(found), ordered(in_the_world(expected, spacing)), atol=0.02)


@pytest.mark.parametrize("how", STORED)
def test_the_cascade_finds_the_same_in_each_way_of_storing(tmp_path, how):
    spacing = SPACINGS[0]
    hu, expected = known(spacing)
    store(tmp_path, oriented(hu, spacing, (0, 2, 1), (1, -1, 1)), how, PIXELS[-1])
    volume = read_volume(find_cases(tmp_path)[0])
    np.testing.assert_array_equal(threshold_cascade().predict(volume).labels, expected)
