"""Files of every format are read alike, damage is noticed, and nothing half-written is left behind."""

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


def names_in(folder):
    return [path.name for path in folder.iterdir()]


def case_of(path):
    return Case("a_case", path, "out.nii.gz")


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
        ((46, "<h", 0), "no voxels"),
        ((70, "<h", 8), "damaged"),
        ((70, "<h", 32), "not one HU value"),
        ((70, "<h", 7777), "damaged"),
        ((344, "4s", b"ABCD"), "no NIfTI"),
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


# --- label maps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float64])
def test_labels_are_read_as_stored(tmp_path, dtype):
    labels = np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(dtype)
    found, grid = read_labels(write_ct(tmp_path / "a.nii.gz", labels))
    np.testing.assert_array_equal(found, labels)
    assert found.dtype == np.uint8
    assert grid.spacing_xyz == (0.75, 0.75, 2.5)


def test_labels_that_a_slope_moved_by_a_rounding_are_whole_numbers(tmp_path):
    labels = np.random.default_rng(0).integers(0, 4, (4, 5, 6)).astype(np.uint8)
    stored = write_ct(tmp_path / "a.nii", labels.astype(np.int16) * 1000)
    np.testing.assert_array_equal(read_labels(patched(stored, (112, "<2f", 0.001, 1e-5)))[0], labels)


@pytest.mark.parametrize("value", [-1, 256, 0.5, np.nan])
def test_what_is_no_label_map_is_refused_by_name(tmp_path, value):
    path = write_ct(tmp_path / "a.nii.gz", np.full((4, 5, 6), value, np.float32))
    with pytest.raises(InputError, match=r"a\.nii\.gz: is not a label map"):
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
