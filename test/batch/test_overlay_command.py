"""``kits overlay``: a picture of a label map that exists, wherever its file keeps its axes; wrong maps are refused."""

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from kits.batch.overlay_command import labels_on, main
from kits.errors import InputError, OutputError
from kits.io.volume import Volume


@pytest.fixture
def files(tmp_path, make_ct):
    """A scan and its label map on disk; the map's file stores the axes the other way round."""
    hu = make_ct()
    labels = (hu == 180).astype(np.uint8)
    labels[5:7, 30:38, 12:18] *= 2
    scan, label_map = sitk.GetImageFromArray(hu), sitk.GetImageFromArray(labels)
    for image in (scan, label_map):
        image.SetSpacing((0.8, 0.8, 3.0))
        image.SetOrigin((-20.0, 7.0, 90.0))
    sitk.WriteImage(scan, tmp_path / "scan.nii.gz")
    sitk.WriteImage(sitk.DICOMOrient(label_map, "RAS"), tmp_path / "labels.nii.gz")
    return tmp_path, labels


def test_a_picture_is_drawn(files):
    folder, _ = files
    assert main([str(folder / "scan.nii.gz"), str(folder / "labels.nii.gz"), str(folder / "out" / "a.png")]) == 0
    assert Image.open(folder / "out" / "a.png").width > 1400


def test_a_reference_is_drawn_too(files):
    folder, _ = files
    scan, labels = str(folder / "scan.nii.gz"), str(folder / "labels.nii.gz")
    main([scan, labels, str(folder / "a.png")])
    main([scan, labels, str(folder / "b.png"), "--reference", labels])
    assert (folder / "a.png").read_bytes() != (folder / "b.png").read_bytes()


def test_labels_come_in_the_scans_order(files):
    folder, labels = files
    volume = Volume.from_image(sitk.ReadImage(folder / "scan.nii.gz"), "scan")
    np.testing.assert_array_equal(labels_on(volume, folder / "labels.nii.gz"), labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda image: image[1:], "voxels"),
        (lambda image: image.SetOrigin((5.0, 7.0, 90.0)), "elsewhere"),
        (lambda image: image.SetSpacing((0.8, 0.8, 3.1)), "elsewhere"),
        (lambda image: sitk.Cast(image, sitk.sitkInt16) * -1, "not a label map"),
        (lambda image: image * 4, "not a label map"),
    ],
)
def test_a_map_of_another_scan_is_refused(files, change, message):
    folder, _ = files
    image = sitk.ReadImage(folder / "labels.nii.gz")
    sitk.WriteImage(change(image) or image, folder / "wrong.nii.gz")
    with pytest.raises(InputError, match=rf"wrong\.nii\.gz.*{message}"):
        main([str(folder / "scan.nii.gz"), str(folder / "wrong.nii.gz"), str(folder / "a.png")])
    assert not (folder / "a.png").exists()


def test_several_scans_are_refused(files):
    folder, _ = files
    with pytest.raises(InputError, match="2 scans"):
        main([str(folder), str(folder / "labels.nii.gz"), str(folder / "a.png")])


def test_what_cannot_be_written_is_said(files):
    folder, _ = files
    with pytest.raises(OutputError, match="cannot be written"):
        main([str(folder / "scan.nii.gz"), str(folder / "labels.nii.gz"), str(folder / "scan.nii.gz" / "a.png")])
