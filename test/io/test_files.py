"""Cases are found and named by rule, damage is noticed, and nothing half-written is left behind."""

import resource
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from kits.errors import InputError, OutputError
from kits.io.atomic import write_text
from kits.io.cases import Case, find_cases
from kits.io.images import read_image, read_labels, read_volume, write_image
from kits.io.volume import Grid
from test.helpers.threshold import oriented

ENDINGS = ("nii", "nii.gz", "mha", "nrrd")


def ct(shape=(6, 16, 17)):
    return np.random.default_rng(0).integers(-1000, 1500, shape).astype(np.int16)


def image_of(array):
    image = sitk.GetImageFromArray(array, isVector=False)
    if image.GetDimension() == 3:
        image.SetSpacing((0.75, 0.75, 2.5))
        image.SetOrigin((-100.5, 33.25, 1000.125))
    return image


def write_ct(path, array=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image_of(ct() if array is None else array), str(path))
    return path


def write_dicom(folder, uid="1.2.840.1", positions=(0, 2, 4, 6, 8, 10), orientation="1\\0\\0\\0\\1\\0"):
    """Slices stored as unsigned values with an intercept of -1024, in a file order unlike their positions."""
    folder.mkdir(parents=True, exist_ok=True)
    normal = np.array([0, 0, 1]) if orientation.endswith("0\\1\\0") else np.array([0, 1, 0])
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    hu = ct((len(positions), 16, 17))
    for index, mm in enumerate(positions):
        tags = {
            "0008|0060": "CT",
            "0020|000d": "1.2.3",
            "0020|000e": uid,
            "0008|0018": f"{uid}.{index + 1}",
            "0020|0032": "\\".join(str(v) for v in mm * normal),
            "0020|0037": orientation,
            "0028|1052": "-1024",
            "0028|1053": "1",
        }
        image = sitk.GetImageFromArray(hu[index])
        image.SetSpacing((0.75, 0.75))
        for key, value in tags.items():
            image.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{uid}.{99 - index}.dcm"))
        writer.Execute(image)
    return hu


def names(folder):
    return {case.name: case.output_name for case in find_cases(folder)}


def names_in(folder):
    return [path.name for path in folder.iterdir()]


def case_of(path):
    return Case("a_case", path, "out.nii.gz")


# --- finding --------------------------------------------------------------------------------------------


def test_flat_files_of_every_kind_are_found_and_sorted(tmp_path):
    for name in ("d.nii", "c.nii.gz", "B.MHA", "a.nrrd", ".hidden.nii.gz", "notes.txt", "x.gz"):
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / ".partial").mkdir()
    assert list(names(tmp_path).items()) == [(n, f"{n}.nii.gz") for n in "Bacd"]


def test_kits_folders_give_prediction_names_and_other_files_in_them_are_ignored(tmp_path):
    for name in ("imaging.nii.gz", "segmentation.nii.gz", "aggregated_OR_seg.nii.gz"):
        for case in ("case_00210", "case_00007"):
            (tmp_path / case).mkdir(exist_ok=True)
            (tmp_path / case / name).touch()
    (tmp_path / "imaging_00211.nii.gz").touch()
    expected = {f"case_{n}": f"prediction_{n}.nii.gz" for n in ("00007", "00210", "00211")}
    assert names(tmp_path) == expected
    assert names(tmp_path / "case_00210") == {"case_00210": "prediction_00210.nii.gz"}
    assert names(tmp_path / "case_00210" / "imaging.nii.gz") == {"case_00210": "prediction_00210.nii.gz"}


def test_the_name_of_the_current_folder_counts(tmp_path, monkeypatch):
    write_ct(tmp_path / "case_00012" / "imaging.nii.gz")
    monkeypatch.chdir(tmp_path / "case_00012")
    assert names(Path()) == {"case_00012": "prediction_00012.nii.gz"}


def test_dicom_folders_are_cases(tmp_path):
    write_dicom(tmp_path / "patient7", positions=(0,))
    (tmp_path / "patient7" / "report.txt").write_text("no DICOM")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "report.txt").write_text("no DICOM")
    assert names(tmp_path) == names(tmp_path / "patient7") == {"patient7": "patient7.nii.gz"}


@pytest.mark.parametrize(("one", "other"), [("a.nii", "a.mha"), ("case_00001/imaging.nii.gz", "imaging_00001.nrrd")])
def test_two_inputs_for_one_output_are_refused_by_name(tmp_path, one, other):
    for name in (one, other):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(InputError) as caught:
        find_cases(tmp_path)
    assert str(tmp_path / one) in str(caught.value)
    assert str(tmp_path / other) in str(caught.value)


@pytest.mark.parametrize("name", ["", "nowhere", "notes.txt"])
def test_nothing_found_says_what_was_looked_for_and_where(tmp_path, name):
    (tmp_path / "notes.txt").write_text("no volume")
    with pytest.raises(InputError, match=r"\*\.nii\.gz.*DICOM") as caught:
        find_cases(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


# --- reading --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [*ENDINGS, "NII.GZ", "MHA"])
def test_every_format_is_read_in_either_case(tmp_path, ending):
    path = write_ct(tmp_path / f"a.{ending.lower()}").rename(tmp_path / f"a.{ending}")
    volume = read_volume(find_cases(path)[0])
    np.testing.assert_array_equal(volume.hu, ct())
    assert volume.spacing == (2.5, 0.75, 0.75)
    assert volume.name == "a"


def patched(path, *fields):
    """Overwrite fields of an uncompressed NIfTI's header: (offset, struct format, values)."""
    data = bytearray(path.read_bytes())
    for offset, form, *values in fields:
        struct.pack_into(form, data, offset, *values)
    path.write_bytes(data)
    return path


def test_slope_and_intercept_of_the_header_are_applied(tmp_path):
    path = patched(write_ct(tmp_path / "a.nii"), (112, "<2f", 0.5, -10.0))
    np.testing.assert_array_equal(read_volume(case_of(path)).hu, np.rint(ct() * 0.5 - 10))


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.uint8, np.int32, np.float32])
@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_a_nifti_is_what_itk_reads(tmp_path, ending, dtype):
    values = np.random.default_rng(0).integers(0, 200, (4, 5, 6)).astype(dtype)
    image = oriented(values, (3.0, 0.7, 0.8), (2, 0, 1), (-1, 1, -1))
    write_image(image, tmp_path / f"a.{ending}")
    ours, itks = read_image(tmp_path / f"a.{ending}"), sitk.ReadImage(str(tmp_path / f"a.{ending}"))
    assert ours.GetPixelID() == itks.GetPixelID()
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(ours), sitk.GetArrayViewFromImage(itks))
    for geometry in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(ours, geometry)() == getattr(itks, geometry)()


def test_a_plain_nifti_called_gz_is_read(tmp_path):
    path = write_ct(tmp_path / "a.nii").rename(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_volume(case_of(path)).hu, ct())


def cut(share):
    return lambda data: data[: int(len(data) * share)]


def flipped(data):
    data = bytearray(data)
    data[len(data) // 2] ^= 0x10
    return bytes(data)


DAMAGE = {f"cut to {share}": cut(share) for share in (0, 0.01, 0.5, 0.98)} | {
    "text": lambda _: b"not an image\n" * 99,
    "bit flipped": flipped,
}


@pytest.mark.parametrize(
    ("damage", "ending"),
    # only gzip carries a checksum
    [(d, e) for d in DAMAGE for e in ENDINGS if d != "bit flipped" or e == "nii.gz"],
)
def test_damaged_files_are_refused_by_name(tmp_path, ending, damage):
    path = write_ct(tmp_path / f"a.{ending}")
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    with pytest.raises(InputError, match="damaged") as caught:
        read_volume(case_of(path))
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ((80, "<f", 0.0), "spacing"),
        ((84, "<f", float("nan")), "spacing"),
        ((88, "<f", -3.0), "spacing"),
        ((80, "<f", 70.0), "70 mm"),
        ((46, "<h", 0), "no voxels"),
        ((40, "<h", 99), "no voxels"),
        ((42, "<3h", 32767, 32767, 32767), "damaged"),
        ((108, "<f", float("nan")), "damaged"),
        ((108, "<f", 1e30), "damaged"),
    ],
)
def test_impossible_headers_are_refused_by_name(tmp_path, field, reason):
    path = patched(write_ct(tmp_path / "a.nii"), field)
    with pytest.raises(InputError, match=reason) as caught:
        read_volume(case_of(path))
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_and_infinite_voxels_are_refused_by_name(tmp_path, ending, value, dtype):
    voxels = ct().astype(dtype)
    voxels[-1, -1, -1] = value
    path = write_ct(tmp_path / f"a.{ending}", voxels)
    with pytest.raises(InputError, match="NaN or infinite") as caught:
        read_volume(case_of(path))
    assert str(caught.value).startswith(str(path))


def test_what_is_no_volume_is_refused_by_file_name(tmp_path):
    path = write_ct(tmp_path / "flat.nii.gz", ct((16, 16)))
    with pytest.raises(InputError, match=r"flat\.nii\.gz: is a 2-D"):
        read_volume(case_of(path))


@pytest.mark.parametrize("name", ["missing.nii.gz", "missing.mha", "folder.nii.gz/a.nii"])
def test_a_file_that_cannot_be_opened_is_refused_by_name(tmp_path, name):
    (tmp_path / "folder.nii.gz").touch()
    with pytest.raises(InputError, match="cannot be opened"):
        read_volume(case_of(tmp_path / name))


# --- DICOM ----------------------------------------------------------------------------------------------


def test_a_dicom_series_is_read_in_hu_by_position(tmp_path):
    hu = write_dicom(tmp_path / "p")
    volume = read_volume(find_cases(tmp_path)[0])
    np.testing.assert_array_equal(volume.hu, hu)
    assert volume.spacing == (2.0, 0.75, 0.75)
    assert volume.warnings == ()


def test_a_gap_between_dicom_slices_is_reported(tmp_path):
    write_dicom(tmp_path, positions=(0, 2, 4, 10, 12))
    (warning,) = read_volume(case_of(tmp_path)).warnings
    assert "2 mm apart, but up to 6 mm" in warning


def test_the_largest_axial_series_is_taken_and_the_others_noted(tmp_path):
    write_dicom(tmp_path, "1.2.840.1", positions=(0, 2))
    hu = write_dicom(tmp_path, "1.2.840.2", positions=(0, 2, 4))
    write_dicom(tmp_path, "1.2.840.3", positions=(0, 2, 4, 6), orientation="1\\0\\0\\0\\0\\-1")  # coronal
    volume = read_volume(case_of(tmp_path))
    np.testing.assert_array_equal(volume.hu, hu)
    assert volume.warnings == ("The folder holds 3 DICOM series; took the one of 3 slices.",)


def test_a_coronal_series_alone_is_read_with_a_warning(tmp_path):
    write_dicom(tmp_path, orientation="1\\0\\0\\0\\0\\-1")
    volume = read_volume(case_of(tmp_path))
    assert volume.hu.shape == (16, 6, 17)
    assert any("not axial" in warning for warning in volume.warnings)


def test_two_phases_in_one_dicom_series_are_refused(tmp_path):
    write_dicom(tmp_path, positions=(0, 0, 2, 2))
    with pytest.raises(InputError, match="same position") as caught:
        read_volume(case_of(tmp_path))
    assert str(tmp_path) in str(caught.value)


def test_a_folder_whose_dicom_files_are_damaged_is_refused_by_name(tmp_path):
    write_dicom(tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(InputError, match="DICOM") as caught:
        read_volume(find_cases(tmp_path)[0])
    assert str(caught.value).startswith(str(tmp_path))


# --- label maps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float64])
def test_labels_are_read_as_stored(tmp_path, dtype):
    labels = np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(dtype)
    found, spacing = read_labels(write_ct(tmp_path / "a.nii.gz", labels))
    np.testing.assert_array_equal(found, labels)
    assert found.dtype == np.uint8
    assert spacing == (2.5, 0.75, 0.75)


@pytest.mark.parametrize("value", [-1, 256, 0.5, np.nan])
def test_what_is_no_label_map_is_refused_by_name(tmp_path, value):
    path = write_ct(tmp_path / "a.nii.gz", np.full((4, 5, 6), value, np.float32))
    with pytest.raises(InputError, match=r"a\.nii\.gz: (is not a label map|has NaN)"):
        read_labels(path)


# --- writing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_written_is_read_back_on_the_same_grid(tmp_path, ending):
    path = tmp_path / "new" / "folder" / f"a.{ending}"
    image = image_of((ct() > 0).astype(np.uint8))
    write_image(image, path)
    found = read_image(path)
    assert Grid.of(found) == Grid.of(image)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(image))
    assert names_in(path.parent) == [path.name]


def test_text_is_written_whole(tmp_path):
    write_text("Größe", tmp_path / "a" / "report.json")
    assert (tmp_path / "a" / "report.json").read_text(encoding="utf-8") == "Größe"


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_full_disk_is_an_error_and_leaves_what_was_there(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    path.write_text("an older result")
    noise = np.random.default_rng(0).integers(0, 255, (9, 64, 64)).astype(np.uint8)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, before[1]))
    try:
        with pytest.raises(OutputError, match="cannot be written") as caught:
            write_image(image_of(noise), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(caught.value).startswith(str(path))
    assert path.read_text() == "an older result"
    assert names_in(tmp_path) == [path.name]


@pytest.mark.parametrize("write", [write_image, write_text])
def test_an_unwritable_output_is_refused_by_name(tmp_path, write):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "a.nii.gz"
    with pytest.raises(OutputError, match="permissions") as caught:
        write(image_of(ct()) if write is write_image else "text", path)
    assert str(caught.value).startswith(str(path))
    assert names_in(tmp_path) == ["file"]


def test_an_interrupted_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupted(_, name, **__):
        Path(name).write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(sitk, "WriteImage", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_image(image_of(ct()), tmp_path / "a.nii.gz")
    assert names_in(tmp_path) == []
