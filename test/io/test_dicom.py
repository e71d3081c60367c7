"""DICOM: positions decide geometry, one volume is chosen and the rest told, damage is a failed case or a told gap."""

import os
import shutil

import gdcm
import numpy as np
import pytest
from pydicom.uid import RLELossless

from kits.errors import InputError
from kits.io.cases import Case
from kits.io.images import count_voxels, read_volume
from test.helpers.scans import ORIGIN, SPACING_XYZ, ct, dicom_slice, enhanced, save_dicom, write_series

HU = ct((12, 16, 17))
X, Y, Z = ORIGIN
CORONAL = [1, 0, 0, 0, 0, -1]


def read(folder):
    return read_volume(Case("a case", folder, "out.nii.gz"))


def codes(volume):
    return [warning.code for warning in volume.warnings]


def assert_as_written(volume, hu=HU):
    np.testing.assert_array_equal(volume.hu, hu)
    assert volume.spacing == SPACING_XYZ[::-1]
    assert volume.home.origin == ORIGIN
    assert volume.home.direction == (1, 0, 0, 0, 1, 0, 0, 0, 1)


def refused(folder, match):
    with pytest.raises(InputError, match=match) as caught:
        read(folder)
    assert str(caught.value).startswith(f"{folder}: ")


@pytest.mark.parametrize("name", ["{:03d}.dcm", "IM{:04d}", "{:03d}.IMA"])
def test_slices_are_read_in_hu_by_position_whatever_their_names(tmp_path, name):
    write_series(tmp_path, HU, name)
    volume = read(tmp_path)
    assert_as_written(volume)
    assert codes(volume) == []


@pytest.mark.parametrize("mm", [-2.5, 0.0, 7.0])
def test_spacing_between_slices_is_not_believed(tmp_path, mm):
    write_series(tmp_path, HU, change=lambda place: {"SpacingBetweenSlices": mm})
    assert_as_written(read(tmp_path))


def test_each_slice_has_its_own_rescaling(tmp_path):
    write_series(tmp_path, HU)
    made = dicom_slice(2 * HU[3] + 1024, 3, RescaleIntercept=-1024, RescaleSlope=0.5)
    save_dicom(made, tmp_path / "096.dcm")
    expected = HU.copy()
    expected[3] = np.rint((2 * HU[3].astype(int) + 2048) * 0.5 - 1024)
    np.testing.assert_array_equal(read(tmp_path).hu, expected)


def recompress(path, syntax):
    """Turn a slice into one of another, lossless transfer syntax."""
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(path))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(path))
    assert writer.Write()


@pytest.mark.parametrize("kind", ["rle", "JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless"])
def test_compressed_slices_are_read(tmp_path, kind):
    write_series(tmp_path, HU)
    for path in sorted(tmp_path.iterdir()):
        if kind == "rle":
            made = dicom_slice(HU[99 - int(path.stem)], 99 - int(path.stem))
            made.compress(RLELossless, generate_instance_uid=False)
            save_dicom(made, path)
        else:
            recompress(path, getattr(gdcm.TransferSyntax, kind))
    np.testing.assert_array_equal(read(tmp_path).hu, HU)


def test_bits_above_those_stored_belong_to_no_pixel(tmp_path):
    write_series(tmp_path, HU, change=lambda place: {"BitsStored": 12, "HighBit": 11})
    made = dicom_slice(HU[0], 0, BitsStored=12, HighBit=11)
    made.PixelData = ((HU[0].astype(int) + 1024).astype(np.uint16) | 0x8000).tobytes()
    save_dicom(made, tmp_path / "099.dcm")
    assert_as_written(read(tmp_path))


# --- what belongs together ------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(16, 17), (40, 50)])
@pytest.mark.parametrize("z", [0, 15, 300])
def test_a_localizer_of_the_same_series_is_left_out_and_told(tmp_path, shape, z):
    write_series(tmp_path, HU)
    scout = dicom_slice(
        ct((1, *shape))[0], 50, ImageOrientationPatient=CORONAL, ImagePositionPatient=[X, 0, Z + z],
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
    )  # fmt: skip
    save_dicom(scout, tmp_path / "scout.dcm")
    volume = read(tmp_path)
    assert_as_written(volume)
    assert codes(volume) == ["left-aside"]
    assert "scout.dcm" in volume.warnings[0]


def test_a_mip_among_the_slices_is_left_out_and_told(tmp_path):
    write_series(tmp_path, HU)
    save_dicom(dicom_slice(HU.max(0), 20, ImageType=["DERIVED", "SECONDARY", "MIP"]), tmp_path / "mip.dcm")
    volume = read(tmp_path)
    assert_as_written(volume)
    assert codes(volume) == ["left-aside"]


def test_slices_of_another_matrix_are_named_and_their_gap_is_told(tmp_path):
    write_series(tmp_path, HU)
    save_dicom(dicom_slice(HU[5, ::2, ::2], 5), tmp_path / "094.dcm")
    volume = read(tmp_path)
    assert codes(volume) == ["other-slices", "gaps"]
    assert "094.dcm" in volume.warnings[0]
    np.testing.assert_array_equal(volume.hu[[*range(5), *range(6, 12)]], HU[[*range(5), *range(6, 12)]])
    np.testing.assert_array_equal(volume.hu[5], np.rint((HU[4].astype(float) + HU[6]) / 2))


def test_copies_are_left_out_and_told(tmp_path):
    write_series(tmp_path, HU)
    shutil.copy(tmp_path / "095.dcm", tmp_path / "095 (1).dcm")
    volume = read(tmp_path)
    assert_as_written(volume)
    assert codes(volume) == ["copies"]


PHASES = {
    "AcquisitionNumber": (1, 2),
    "TemporalPositionIdentifier": (1, 2),
    "ConvolutionKernel": ("B30f", "B70f"),
    "ContentTime": ("101010", "101150"),
}


@pytest.mark.parametrize("attribute", PHASES)
@pytest.mark.parametrize("numbering", ["interleaved", "consecutive", "same"])
@pytest.mark.parametrize("lift", [0, 1])
def test_one_of_two_phases_is_taken_and_told(tmp_path, attribute, numbering, lift):
    if lift and attribute == "ContentTime":
        pytest.skip("may differ within one phase")

    def change(phase):
        number = {"interleaved": lambda p: 2 * p + phase, "consecutive": lambda p: p + 20 * phase, "same": lambda p: p}
        return lambda place: {
            attribute: PHASES[attribute][phase],
            "InstanceNumber": number[numbering](place) + 1,
            "SOPInstanceUID": f"1.2.9.{phase}.{place}",
            "ImagePositionPatient": [X, Y, Z + 2.5 * place + lift * phase],
        }

    write_series(tmp_path, HU, "a{:03d}.dcm", change(0))
    write_series(tmp_path, HU - 30, "b{:03d}.dcm", change(1), places=range(10))
    volume = read(tmp_path)
    assert_as_written(volume)
    assert codes(volume) == ["several-phases"]
    assert attribute in volume.warnings[0]


def test_phases_that_only_their_numbers_tell_apart_are_told_by_them(tmp_path):
    write_series(tmp_path, HU, "a{:03d}.dcm")
    write_series(tmp_path, HU - 30, "b{:03d}.dcm", lambda place: {"InstanceNumber": 100 + place})
    volume = read(tmp_path)
    assert_as_written(volume)
    assert "InstanceNumber; took that of 1 to 12" in volume.warnings[0]


def test_phases_that_nothing_tells_apart_are_refused(tmp_path):
    change = [
        lambda place, phase=phase: {"InstanceNumber": None, "SOPInstanceUID": f"1.2.9.{phase}.{place}"}
        for phase in (0, 1)
    ]
    write_series(tmp_path, HU, "a{:03d}.dcm", change[0])
    write_series(tmp_path, HU - 30, "b{:03d}.dcm", change[1])
    refused(tmp_path, "same position")


def test_each_slice_may_be_an_acquisition_of_its_own(tmp_path):
    write_series(tmp_path, HU, change=lambda place: {"AcquisitionNumber": place, "ContentTime": f"1010{place:02d}"})
    volume = read(tmp_path)
    assert_as_written(volume)
    assert codes(volume) == []


def test_two_acquisitions_one_above_the_other_are_one_volume(tmp_path):
    write_series(tmp_path, HU, change=lambda place: {"AcquisitionNumber": 1 + (place > 5)})
    volume = read(tmp_path)
    assert_as_written(volume)
    assert codes(volume) == []


def test_the_largest_axial_series_is_taken_and_the_others_noted(tmp_path):
    write_series(tmp_path, HU[:4] - 30, "a{:03d}.dcm", lambda place: {"SeriesInstanceUID": "1.1"})
    write_series(tmp_path, HU, "b{:03d}.dcm")
    coronal = ct((14, 16, 17))
    for place in range(14):
        made = dicom_slice(coronal[place], place, ImageOrientationPatient=CORONAL, SeriesInstanceUID="1.3",
                           ImagePositionPatient=[X, Y + 2.5 * place, Z])  # fmt: skip
        save_dicom(made, tmp_path / f"c{place}.dcm")
    volume = read(tmp_path)
    assert_as_written(volume)
    assert volume.warnings == ("The folder holds 3 DICOM series; took the one of 12 slices.",)


def test_a_coronal_series_alone_is_read_with_a_warning(tmp_path):
    for place in range(12):
        made = dicom_slice(
            HU[place], place, ImageOrientationPatient=CORONAL, ImagePositionPatient=[X, Y + 2.5 * place, Z]
        )
        save_dicom(made, tmp_path / f"{place}.dcm")
    volume = read(tmp_path)
    np.testing.assert_array_equal(volume.hu, HU.transpose(1, 0, 2)[::-1])
    assert volume.spacing == (0.5, 2.5, 0.75)
    assert codes(volume) == ["not-axial"]


def test_slices_of_two_patients_are_refused(tmp_path):
    write_series(tmp_path, HU, "a{:03d}.dcm")
    write_series(tmp_path, HU, "b{:03d}.dcm", lambda place: {"PatientID": "other", "SeriesInstanceUID": "1.9"})
    refused(tmp_path, "several patients")


# --- what is no CT --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "Secondary Capture Image Storage"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.2", "Modality": "RTDOSE"}, "RT Dose Storage"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4", "Modality": "MR"}, "MR Image Storage"),
        ({"Modality": "PT"}, "modality PT"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "inverted"),
        ({"RescaleType": "MGML"}, "MGML, not in HU"),
        ({"ImagePositionPatient": None}, "no position"),
        ({"ImageOrientationPatient": None}, "no position or orientation"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer images only"),
        ({"PixelSpacing": None}, "no pixel spacing"),
        ({"RescaleSlope": 0}, "rescale slope"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "right angles"),
    ],
)
def test_what_is_no_ct_volume_is_refused_by_what_it_is(tmp_path, change, reason):
    write_series(tmp_path, HU, change=lambda place: change)
    refused(tmp_path, reason)


def test_report_pages_beside_the_slices_are_told(tmp_path):
    write_series(tmp_path, HU)
    page = dicom_slice(ct((1, 60, 80))[0], 40, SOPClassUID="1.2.840.10008.5.1.4.1.1.7", SeriesInstanceUID="1.8")
    save_dicom(page, tmp_path / "page.dcm")
    volume = read(tmp_path)
    assert_as_written(volume)
    assert volume.warnings == ("Left out what is no CT: 1 x Secondary Capture Image Storage.",)


# --- geometry -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [[4], [4, 5], [2, 8]])
def test_a_gap_is_interpolated_and_told(tmp_path, missing):
    places = [place for place in range(12) if place not in missing]
    write_series(tmp_path, HU, places=places)
    volume = read(tmp_path)
    np.testing.assert_array_equal(volume.hu[places], HU[places])
    assert volume.hu.shape == HU.shape
    assert volume.spacing == SPACING_XYZ[::-1]
    assert codes(volume) == ["gaps"]
    assert f"{len(missing)} of 12 slices are interpolated" in volume.warnings[0]


def test_interpolated_slices_lie_between_their_neighbours(tmp_path):
    write_series(tmp_path, HU, places=[0, 1, 2, 5, 6, 7, 8])
    expected = np.rint(HU[2] + (HU[5].astype(float) - HU[2]) / 3)
    np.testing.assert_array_equal(read(tmp_path).hu[3], expected)


def test_two_blocks_are_refused(tmp_path):
    lift = lambda place: {"ImagePositionPatient": [X, Y, Z + 2.5 * place + 100 * (place > 5)]}  # noqa: E731
    write_series(tmp_path, HU, change=lift)
    refused(tmp_path, "two blocks: 2.5 mm lie between most slices, but 102.5 mm between slice 6 and 7 of 12")


def test_uneven_distances_are_resampled_and_told_and_a_jumble_is_refused(tmp_path):
    thick = [*np.arange(0, 15, 2.5), *np.arange(15, 45, 5)]
    for name, along in (("a", thick), ("b", np.cumsum([0, *[0.4, 2.1] * 5, 0.4]))):
        write_series(
            tmp_path / name, HU, change=lambda place, mm=along: {"ImagePositionPatient": [X, Y, Z + mm[place]]}
        )
    volume = read(tmp_path / "a")
    assert volume.spacing == SPACING_XYZ[::-1]
    assert volume.hu.shape[0] == 17
    assert codes(volume) == ["gaps"]
    np.testing.assert_array_equal(volume.hu[8], HU[7])
    refused(tmp_path / "b", "uneven distances")


def test_positions_rounded_by_their_writer_are_even(tmp_path):
    write_series(tmp_path, HU, change=lambda place: {"ImagePositionPatient": [X, Y, round(Z + 0.625 * place, 1)]})
    volume = read(tmp_path)
    assert volume.spacing[0] == pytest.approx(0.625, abs=0.01)


def test_a_single_slice_is_as_thick_as_its_header_says(tmp_path):
    write_series(tmp_path / "a", HU, places=[3])
    volume = read(tmp_path / "a")
    assert (volume.spacing[0], codes(volume)) == (2.5, ["single-slice"])
    write_series(tmp_path / "b", HU, places=[3], change=lambda place: {"SliceThickness": None})
    refused(tmp_path / "b", "single slice")


@pytest.mark.parametrize("degrees", [15, -22])
def test_a_tilted_gantry_is_straightened_and_every_voxel_stays_where_it_was(tmp_path, degrees):
    """The scanned body is a ramp in the world's coordinates, so each voxel's value says where it lies."""
    tilt = np.deg2rad(degrees)
    axes = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)]])
    rows, columns = np.mgrid[0:40, 0:30]
    for place in range(8):
        corner = np.array([X, Y, Z + 5.0 * place])
        world = corner + rows[..., None] * 0.8 * axes[1] + columns[..., None] * 0.8 * axes[0]
        hu = np.rint(10 * (world[..., 1] - Y) + 3 * (world[..., 2] - Z))
        made = dicom_slice(hu - 200, place, ImageOrientationPatient=axes.ravel().tolist(), PixelSpacing=[0.8, 0.8],
                           ImagePositionPatient=corner.tolist())  # fmt: skip
        save_dicom(made, tmp_path / f"{place}.dcm")
    volume = read(tmp_path)
    assert codes(volume)[:1] == ["tilted"]
    assert volume.spacing[0] == pytest.approx(5 * np.cos(tilt))
    home = volume.to_home(volume.hu)
    inside = np.argwhere(volume.hu != -1024)
    inside = inside[(inside[:, 1] > 0) & (inside[:, 1] < volume.hu.shape[1] - 1)][::97]
    checked = 0
    for z, y, x in inside:
        if (volume.hu[z, y - 1 : y + 2, x] == -1024).any():
            continue  # half of it is air beyond the slice's edge
        _, wy, wz = home.TransformIndexToPhysicalPoint((int(x), int(y), int(z)))
        if volume.hu[z, y, x] > -900:
            assert volume.hu[z, y, x] == pytest.approx(10 * (wy - Y) + 3 * (wz - Z) - 200, abs=3)
            checked += 1
    assert checked > 50


def test_slices_beside_each_other_are_refused(tmp_path):
    write_series(tmp_path, HU, change=lambda place: {"ImagePositionPatient": [X + 20 * place, Y, Z + 2.5 * place]})
    refused(tmp_path, "beside each other")


# --- many frames ----------------------------------------------------------------------------------------

SHUFFLED = [*range(0, 12, 2), *range(1, 12, 2)]


@pytest.mark.parametrize("intercepts", [None, [-1024, -2048] * 6])
@pytest.mark.parametrize("places", [range(12), SHUFFLED])
def test_frames_are_placed_and_rescaled_each_by_itself(tmp_path, places, intercepts):
    save_dicom(enhanced(HU, places, intercepts), tmp_path / "a.dcm")
    volume = read(tmp_path)
    assert_as_written(volume)
    assert codes(volume) == []


def test_frames_split_over_files_are_one_volume(tmp_path):
    for index in range(3):
        made = enhanced(HU, SHUFFLED[4 * index : 4 * index + 4], SOPInstanceUID=f"1.2.3.{index}")
        save_dicom(made, tmp_path / f"{index}.dcm")
    assert_as_written(read(tmp_path))


def test_frames_and_not_files_choose_among_series(tmp_path):
    save_dicom(enhanced(HU, range(12), SeriesInstanceUID="1.1"), tmp_path / "a.dcm")
    write_series(tmp_path, HU[:3] - 30)
    volume = read(tmp_path)
    assert_as_written(volume)
    assert codes(volume) == ["several-series"]


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_multi_frame_file_cut_short_is_refused(tmp_path, share):
    path = save_dicom(enhanced(HU, range(12)), tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    refused(tmp_path, r"a\.dcm")


# --- damage ---------------------------------------------------------------------------------------------


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def empty(path):
    path.write_bytes(b"")


def header_only(path):
    path.write_bytes(path.read_bytes()[:300])


def promise_more(path):
    data = path.read_bytes()
    at = data.rindex(b"\xe0\x7f\x10\x00OW")
    path.write_bytes(data[: at + 8] + b"\xf0\xff\xff\xff" + data[at + 12 :])


def dangle(path):
    path.unlink()
    path.symlink_to("/nowhere/slice.dcm")


@pytest.mark.parametrize("damage", [cut, empty, header_only, dangle])
def test_a_damaged_slice_is_an_interpolated_gap_and_told_by_name(tmp_path, damage):
    write_series(tmp_path, HU)
    damage(tmp_path / "095.dcm")
    volume = read(tmp_path)
    assert codes(volume) == ["unreadable-slices", "gaps"]
    assert "095.dcm" in volume.warnings[0]
    np.testing.assert_array_equal(volume.hu[[0, 3, 5, 11]], HU[[0, 3, 5, 11]])


@pytest.mark.parametrize("damage", [cut, empty, header_only, dangle])
def test_a_damaged_last_slice_is_told_though_it_leaves_no_gap(tmp_path, damage):
    write_series(tmp_path, HU)
    damage(tmp_path / "088.dcm")
    volume = read(tmp_path)
    assert codes(volume) == ["unreadable-slices"]
    np.testing.assert_array_equal(volume.hu, HU[:-1])


@pytest.mark.parametrize("damage", [cut, empty, header_only, dangle, promise_more])
def test_a_folder_that_is_mostly_damaged_is_refused(tmp_path, damage):
    write_series(tmp_path, HU)
    for place in range(4):
        damage(tmp_path / f"{99 - place:03d}.dcm")
    if damage is promise_more:  # it promises 4 GB, but holds every pixel
        assert_as_written(read(tmp_path))
    else:
        refused(tmp_path, r"4 of its .*files cannot be read")


def test_a_pipe_among_the_slices_is_told_and_costs_no_slice(tmp_path):
    write_series(tmp_path, HU)
    os.mkfifo(tmp_path / "093a.dcm")
    volume = read(tmp_path)
    assert_as_written(volume)
    assert codes(volume) == ["no-file"]


def test_what_lies_beside_slices_on_a_cd_is_nothing_to_tell_of(tmp_path):
    write_series(tmp_path, HU, "IM{:03d}")
    for name in ("DICOMDIR", "report.pdf", "readme", "viewer.exe", ".hidden"):
        (tmp_path / name).write_text("something else altogether, and long enough to hold a preamble" * 5)
    volume = read(tmp_path)
    assert_as_written(volume)
    assert codes(volume) == []


def test_voxels_are_counted_by_one_header(tmp_path):
    write_series(tmp_path / "a", HU)
    save_dicom(enhanced(HU, range(12)), tmp_path / "b" / "a.dcm")
    assert {count_voxels(Case("a", tmp_path / name, "a.nii.gz")) for name in "ab"} == {HU.size}
