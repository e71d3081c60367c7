"""DICOM objects say what the label map says, where it says it, to readers that others wrote."""

import shutil
import subprocess
import sys
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from kits import __version__
from kits.batch.dicom.output import write_dicom
from kits.batch.dicom.rtstruct import decimal, outlines
from kits.batch.parts import parts_of
from kits.errors import InputError, OutputError
from kits.io.volume import Grid, Volume
from kits.measure.measure import measure
from test.helpers.scans import dicom_slice, enhanced, save_dicom

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom", reason="needs the extra report: pip install 'kits-cascade[report]'")
pytest.importorskip("skimage", reason="needs the extra report: pip install 'kits-cascade[report]'")

SHAPE, SPACING, ORIGIN = (9, 24, 30), (2.5, 1.5, 1.25), (-20.5, 31.25, 107.0)
ORIENTATIONS = list(product(permutations(range(3)), product((1, -1), repeat=3)))
TILT = Rotation.from_euler("xyz", (14, -8, 5), degrees=True).as_matrix()
PATIENT = {
    "FrameOfReferenceUID": "1.2.3.5",
    "PositionReferenceIndicator": "",
    "PatientName": "Doe^Jane",
    "PatientBirthDate": "19700101",
    "PatientSex": "F",
    "StudyID": "7",
    "StudyDate": "20240101",
    "StudyTime": "101500",
    "AccessionNumber": "",
    "ReferringPhysicianName": "",
}


def needs(program):
    """Skips a test where a program is missing; dcmqi's come with its Python package."""
    found = shutil.which(program) or shutil.which(program, path=str(Path(sys.executable).parent))
    return found or pytest.skip(f"{program} is not installed")


def anatomy():
    """Labels on a stored (slice, row, column) grid: two kidneys, one with a hole and a tumour; a speck of tumour."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:8, 6:17, 3:12] = 1
    labels[2:7, 10:13, 6:8] = 0
    labels[4:7, 6:10, 8:12] = 2
    labels[1:7, 8:18, 20:27] = 1
    labels[8, 20, 28] = 2
    return labels


def write_scan(folder, direction, names="{:03d}.dcm", places=None, shear=0.0, **attributes):
    """A series of those slices along a direction's axes; returns the straight grid that they lie on."""
    hu = np.full(SHAPE, -1000, np.int16)
    hu[:, 2:22, 1:29] = 40
    hu[anatomy() == 1] = 180
    step = direction[:, 2] * SPACING[0] + direction[:, 1] * shear
    for place in range(SHAPE[0]) if places is None else places:
        own = {
            "ImageOrientationPatient": [round(float(value), 9) for value in direction[:, :2].T.ravel()],
            "ImagePositionPatient": [round(float(value), 6) for value in np.array(ORIGIN) + place * step],
            "PixelSpacing": list(SPACING[1:]),
            "SliceThickness": SPACING[0],
        }
        save_dicom(dicom_slice(hu[place], place, **PATIENT | own | attributes), folder / names.format(99 - place))
    return Grid(SHAPE[::-1], SPACING[::-1], ORIGIN, tuple(direction.ravel().tolist()))


def canonical(volume, stored):
    order, flips = volume.home.canonical_axes()
    return np.ascontiguousarray(stored.transpose(order)[flips])


def written(folder, scan, kinds=("seg", "rtstruct", "sr"), stored=None):
    """The objects written of the scan and its anatomy: paths by kind, and the volume."""
    volume = Volume.read(scan)
    files = {kind: folder / f"case.{kind}.dcm" for kind in kinds}
    labels = canonical(volume, anatomy() if stored is None else stored)
    measured = measure(labels, volume.hu, volume.spacing)
    assert set(write_dicom(files, scan, volume, labels, measured)) == set(files.values())
    return files, volume


def direction_of(order, signs):
    direction = np.zeros((3, 3))
    direction[order, range(3)] = signs
    direction[:, 2] = np.cross(direction[:, 0], direction[:, 1])
    return direction


def world_of(mask, grid):
    """The mm (n, 3) of a stored mask's voxels, rounded and in order."""
    columns = np.reshape(grid.direction, (3, 3)) * grid.spacing_xyz
    return sort((np.argwhere(mask)[:, ::-1] @ columns.T) + grid.origin)


def sort(points):
    rounded = np.round(np.asarray(points, float), 2) + 0.0
    return rounded[np.lexsort(rounded.T)]


def segment_world(path, *numbers):
    """The mm of a DICOM Segmentation's voxels, as highdicom reads it."""
    volume = highdicom.seg.segread(path).get_volume(combine_segments=True)
    at = np.argwhere(np.isin(volume.array, numbers))
    return sort(at @ volume.affine[:3, :3].T + volume.affine[:3, 3])


def rasterised(path, grid, number):
    """An RT structure on a grid, by pydicom and even-odd filling at the pixels' centres."""
    from skimage.measure import grid_points_in_poly

    rt = pydicom.dcmread(path)
    (roi,) = [one for one in rt.ROIContourSequence if one.ReferencedROINumber == number]
    columns = np.reshape(grid.direction, (3, 3)) * grid.spacing_xyz
    mask = np.zeros(grid.size_xyz[::-1], bool)
    for contour in roi.ContourSequence:
        points = (np.reshape(contour.ContourData, (-1, 3)).astype(float) - grid.origin) @ np.linalg.inv(columns).T
        z = round(points[:, 2].mean())
        np.testing.assert_allclose(points[:, 2], z, atol=1e-3)
        mask[z] ^= grid_points_in_poly(mask.shape[1:], points[:, 1::-1])
    return mask


def complaints(path):
    result = subprocess.run([needs("dciodvfy"), "-new", str(path)], capture_output=True, text=True, check=False)
    return [line for line in (result.stdout + result.stderr).splitlines() if line.startswith("Error")]


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_in_every_orientation_masks_lie_where_the_label_map_lies(tmp_path, order, signs):
    direction = direction_of(order, signs)
    names = "{:03d}.dcm" if signs[2] > 0 else "0{:d}.dcm"
    grid = write_scan(tmp_path / "ct", direction, names)
    files, volume = written(tmp_path, tmp_path / "ct", ("seg", "rtstruct"))
    numbers, parts = parts_of(canonical(volume, anatomy()), volume.hu, measure(canonical(volume, anatomy()), volume.hu,
                                                                               volume.spacing))  # fmt: skip
    home = sitk.GetArrayFromImage(volume.to_home(numbers))
    for part in parts:
        expected = world_of(home == part.number, volume.home)
        np.testing.assert_allclose(segment_world(files["seg"], part.number), expected, atol=0.02)
        mask = rasterised(files["rtstruct"], volume.home, part.number)
        np.testing.assert_array_equal(mask, home == part.number)
    everything = [part.number for part in parts]
    np.testing.assert_allclose(segment_world(files["seg"], *everything), world_of(anatomy() > 0, grid), atol=0.02)


@pytest.mark.parametrize(
    "direction", [np.eye(3), TILT, np.diag([1.0, -1.0, -1.0])], ids=["axial", "oblique", "reversed"]
)
def test_other_programs_find_no_error_and_the_same_voxels(tmp_path, direction):
    grid = write_scan(tmp_path / "ct", direction)
    files, _ = written(tmp_path, tmp_path / "ct")
    for path in files.values():
        assert complaints(path) == []
    out = tmp_path / "itk"
    out.mkdir()
    command = [needs("segimage2itkimage"), "--inputDICOM", str(files["seg"]), "--outputDirectory", str(out)]
    subprocess.run([*command, "--outputType", "nrrd"], check=True, capture_output=True)
    images = [sitk.ReadImage(str(path)) for path in out.glob("*.nrrd")]
    points = [world_of(sitk.GetArrayFromImage(image) > 0, Grid.of(image)) for image in images]
    np.testing.assert_allclose(sort(np.concatenate(points)), world_of(anatomy() > 0, grid), atol=0.02)


def test_the_report_says_the_measurements_to_other_readers(tmp_path):
    write_scan(tmp_path / "ct", np.eye(3))
    files, volume = written(tmp_path, tmp_path / "ct")
    measured = measure(canonical(volume, anatomy()), volume.hu, volume.spacing)
    report = highdicom.sr.srread(files["sr"])
    groups = report.content.get_volumetric_roi_measurement_groups()
    assert {group.tracking_identifier for group in groups} == {"right kidney", "left kidney", "tumour 1"}
    (tumour,) = [group for group in groups if group.tracking_identifier == "tumour 1"]
    values = {item.name.meaning: item.value for item in tumour.get_measurements()}
    assert values["Volume"] == measured.lesions[0].volume_ml
    assert values["Long axis"] == measured.lesions[0].axial_mm
    segmentation = highdicom.seg.segread(files["seg"])
    segment = tumour.referenced_segment
    assert segment.referenced_sop_instance_uid == segmentation.SOPInstanceUID
    out = tmp_path / "report.json"
    reader = [needs("tid1500reader"), "--inputDICOM", str(files["sr"]), "--outputMetadata", str(out)]
    subprocess.run(reader, check=True, capture_output=True)
    assert '"TrackingIdentifier" : "tumour 1"' in out.read_text()


def test_objects_name_what_they_show_and_who_made_it(tmp_path):
    write_scan(tmp_path / "ct", np.eye(3))
    files, _ = written(tmp_path, tmp_path / "ct", ("seg", "rtstruct"))
    segmentation = highdicom.seg.segread(files["seg"])
    one = segmentation.get_segment_description(1)
    assert (one.segment_label, one.segmented_property_type.meaning) == ("right kidney", "Kidney")
    assert one.algorithm_identification[0].AlgorithmVersion == __version__
    assert segmentation.PatientName == "Doe^Jane"
    assert segmentation.FrameOfReferenceUID == "1.2.3.5"
    referenced = segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    uids = {pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in (tmp_path / "ct").iterdir()}
    assert {item.ReferencedSOPInstanceUID for item in referenced} == uids
    rt = pydicom.dcmread(files["rtstruct"])
    names = [roi.ROIName for roi in rt.StructureSetROISequence]
    assert names == ["right kidney", "left kidney", "tumour 1", "tumour, specks"]
    images = rt.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert {item.ReferencedSOPInstanceUID for item in images.ContourImageSequence} == uids
    for contour in rt.ROIContourSequence[0].ContourSequence:
        uid = contour.ContourImageSequence[0].ReferencedSOPInstanceUID
        (image,) = [path for path in (tmp_path / "ct").iterdir() if pydicom.dcmread(path).SOPInstanceUID == uid]
        assert float(pydicom.dcmread(image).ImagePositionPatient[2]) == pytest.approx(float(contour.ContourData[2]))


def test_where_slices_are_missing_contours_refer_to_none_and_masks_stay_in_place(tmp_path):
    grid = write_scan(tmp_path / "ct", np.eye(3), places=[0, 1, 2, 3, 5, 6, 7, 8])
    files, volume = written(tmp_path, tmp_path / "ct")
    assert volume.home.size_xyz == grid.size_xyz
    np.testing.assert_allclose(segment_world(files["seg"], 1, 2, 3, 4), world_of(anatomy() > 0, grid), atol=0.02)
    for path in files.values():
        assert complaints(path) == []
    rt = pydicom.dcmread(files["rtstruct"])
    lonely = [one for one in rt.ROIContourSequence[0].ContourSequence if "ContourImageSequence" not in one]
    assert {float(one.ContourData[2]) for one in lonely} == {ORIGIN[2] + 4 * SPACING[0]}


def test_a_scan_of_a_tilted_gantry_keeps_masks_on_the_straight_grid_and_refers_to_its_slices(tmp_path):
    write_scan(tmp_path / "ct", np.eye(3), shear=0.6)
    volume = Volume.read(tmp_path / "ct")
    stored = np.zeros(volume.home.size_xyz[::-1], np.uint8)
    stored[2:7, 8:16, 4:12] = 1
    files, _ = written(tmp_path, tmp_path / "ct", stored=stored)
    np.testing.assert_allclose(segment_world(files["seg"], 1), world_of(stored > 0, volume.home), atol=0.02)
    np.testing.assert_array_equal(rasterised(files["rtstruct"], volume.home, 1), stored > 0)
    for path in files.values():
        assert complaints(path) == []


def test_an_enhanced_scan_is_referred_to_by_frame(tmp_path):
    hu = np.where(anatomy() == 1, 180, 40).astype(np.int16)
    hu[:, 0] = -1000
    save_dicom(enhanced(hu, list(range(SHAPE[0])), **PATIENT), tmp_path / "ct" / "all.dcm")
    files, _ = written(tmp_path, tmp_path / "ct", ("seg", "rtstruct"))
    assert len(segment_world(files["seg"], 1, 2, 3, 4)) == np.count_nonzero(anatomy())
    contour = pydicom.dcmread(files["rtstruct"]).ROIContourSequence[0].ContourSequence[0]
    assert contour.ContourImageSequence[0].ReferencedFrameNumber == 2


@pytest.mark.parametrize("left_out", ["StudyID", "PatientBirthDate", "AccessionNumber", "PatientName"])
def test_what_may_be_empty_may_be_missing(tmp_path, left_out):
    write_scan(tmp_path / "ct", np.eye(3), **{left_out: None})
    files, _ = written(tmp_path, tmp_path / "ct")
    for path in files.values():
        assert complaints(path) == []


def test_without_a_frame_of_reference_there_is_a_sentence_and_no_file(tmp_path):
    write_scan(tmp_path / "ct", np.eye(3), FrameOfReferenceUID=None)
    with pytest.raises(InputError, match="no FrameOfReferenceUID"):
        written(tmp_path, tmp_path / "ct")
    assert not list(tmp_path.glob("*.dcm"))


def test_an_empty_label_map_is_a_sentence(tmp_path):
    write_scan(tmp_path / "ct", np.eye(3))
    with pytest.raises(OutputError, match="nothing was found"):
        written(tmp_path, tmp_path / "ct", stored=np.zeros(SHAPE, np.uint8))


def test_a_scan_that_is_no_dicom_is_a_sentence(tmp_path):
    volume = Volume.from_array(np.random.default_rng(0).integers(-1000, 500, SHAPE), SPACING)
    path = tmp_path / "scan.nii.gz"
    sitk.WriteImage(volume.to_home(volume.hu), str(path))
    labels = np.ones(SHAPE, np.uint8)
    measured = measure(labels, volume.hu, volume.spacing)
    with pytest.raises(InputError, match=r"scan.nii.gz: is no DICOM series"):
        write_dicom({"seg": tmp_path / "seg.dcm"}, path, volume, labels, measured)


def test_decimals_have_at_most_16_characters():
    for value in (0.1 + 0.2, -1234.56789012345, 1e-9, -0.00001, 99999.99999):
        assert len(decimal(value)) <= 16
        assert float(decimal(value)) == pytest.approx(value, abs=1e-4)


def test_a_hole_is_left_out_of_its_outline():
    mask = np.zeros((9, 11), bool)
    mask[1:8, 1:10] = True
    mask[3:6, 3:5] = mask[4, 7] = False
    (line,) = outlines(mask)
    from skimage.measure import grid_points_in_poly

    np.testing.assert_array_equal(grid_points_in_poly(mask.shape, line), mask)
