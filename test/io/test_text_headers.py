"""MetaImage and NRRD: their headers name no other file, promise no more than there is, and what they lack is told."""

import gzip
import zlib

import numpy as np
import pytest
import SimpleITK as sitk

from kits.errors import InputError
from kits.io.images import read_image
from kits.io.volume import Grid, Volume
from test.helpers.scans import ORIGIN, SPACING_XYZ, ct, write_meta, write_nrrd


def codes(volume):
    return [warning.code for warning in volume.warnings]


def assert_as_written(volume):
    np.testing.assert_array_equal(volume.hu, ct())
    assert volume.spacing == SPACING_XYZ[::-1]
    assert volume.home.origin == ORIGIN


@pytest.mark.parametrize("ending", ["mha", "mhd", "nrrd", "nhdr"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32])
def test_what_itk_writes_is_read_as_itk_reads_it(tmp_path, ending, compressed, dtype):
    image = sitk.GetImageFromArray(ct().astype(dtype))
    image.SetSpacing(SPACING_XYZ)
    image.SetOrigin(ORIGIN)
    image.SetDirection((0, 1, 0, 0, 0, -1, -1, 0, 0))
    sitk.WriteImage(image, str(tmp_path / f"a.{ending}"), compressed)
    found = read_image(tmp_path / f"a.{ending}")
    assert Grid.of(found) == Grid.of(image)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(image))
    assert found.GetPixelID() == image.GetPixelID()


@pytest.mark.parametrize("write", [write_meta, write_nrrd])
def test_a_whole_header_is_nothing_to_tell_of(tmp_path, write):
    volume = Volume.read(write(tmp_path / f"a.{'mha' if write is write_meta else 'nrrd'}"))
    assert_as_written(volume)
    assert codes(volume) == []


META_LACKS = {"ElementSpacing": "no-spacing", "TransformMatrix": "no-orientation", "Offset": "no-origin"}
NRRD_LACKS = {"space": "no-orientation", "space origin": "no-origin"}


@pytest.mark.parametrize(
    ("write", "name", "field", "code"),
    [(write_meta, "a.mha", *lack) for lack in META_LACKS.items()]
    + [(write_nrrd, "a.nrrd", *lack) for lack in NRRD_LACKS.items()],
)
def test_what_a_header_lacks_is_told(tmp_path, write, name, field, code):
    assert code in codes(Volume.read(write(tmp_path / name, drop=[field])))


def test_a_nrrd_without_directions_has_no_spacing_unless_it_gives_spacings(tmp_path):
    drop = ["space", "space directions"]
    assert "no-spacing" in codes(Volume.read(write_nrrd(tmp_path / "a.nrrd", drop=drop)))
    volume = Volume.read(write_nrrd(tmp_path / "b.nrrd", drop=drop, spacings="0.75 0.5 2.5"))
    assert volume.spacing == SPACING_XYZ[::-1]
    assert codes(volume) == ["no-orientation"]


@pytest.mark.parametrize("space", ["right-anterior-superior", "RAS", "left-anterior-superior"])
def test_a_nrrd_s_space_decides_its_axes(tmp_path, space):
    sign_x = -1 if space.lower().startswith("r") else 1
    path = write_nrrd(
        tmp_path / "a.nrrd",
        space=space,
        space_directions=f"({sign_x * 0.75},0,0) (0,-0.5,0) (0,0,2.5)",
        space_origin=f"({sign_x * ORIGIN[0]},{-ORIGIN[1]},{ORIGIN[2]})",
    )
    assert_as_written(Volume.read(path))


def others(tmp_path):
    """Files that a header must not reach: voxels outside its folder, a device, a link."""
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.raw").write_bytes(ct().tobytes())
    (tmp_path / "in" / "link.raw").symlink_to(tmp_path / "secret.raw")
    return [
        "../secret.raw",
        str(tmp_path / "secret.raw"),
        "/dev/zero",
        "link.raw",
        "%s%s%s%n",
        "LIST",
        "a%03d.raw 1 9 1",
    ]


@pytest.mark.parametrize("number", range(7))
@pytest.mark.parametrize("ending", ["mha", "mhd", "nrrd", "nhdr"])
def test_a_header_names_no_file_but_a_plain_one_beside_it(tmp_path, ending, number):
    named = others(tmp_path)[number]
    path = tmp_path / "in" / f"a.{ending}"
    if ending.startswith("m"):
        write_meta(path, ElementDataFile=named)
    else:
        write_nrrd(path, data_file=named)
    with pytest.raises(InputError, match="beside it") as caught:
        Volume.read(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("skip", ["0", "8", "-1"])
def test_a_data_file_beside_its_header_is_read(tmp_path, skip):
    (tmp_path / "a.raw").write_bytes(b"" if skip == "0" else b"8 bytes.")
    with (tmp_path / "a.raw").open("ab") as file:
        file.write(ct().tobytes())
    assert_as_written(Volume.read(write_meta(tmp_path / "a.mhd", ElementDataFile="a.raw", HeaderSize=skip)))
    assert_as_written(Volume.read(write_nrrd(tmp_path / "a.nhdr", data_file="a.raw", byte_skip=skip)))


@pytest.mark.parametrize(
    "fields",
    [
        {"NDims": "300"},
        {"NDims": "-1"},
        {"NDims": "x"},
        {"DimSize": "17 16"},
        {"DimSize": "1000000 1000000 1000000"},
        {"DimSize": "17 16 7"},
        {"DimSize": "17 16 -6"},
        {"ElementType": "MET_OTHER"},
        {"ElementNumberOfChannels": "3"},
        {"ElementSpacing": "0.75 0.5"},
        {"ElementSpacing": "0.75 0.5 nan"},
        {"ElementSpacing": "0.75 0.5 0"},
        {"TransformMatrix": "1 0 0 0 1 0 0 0"},
        {"TransformMatrix": "0 0 0 0 0 0 0 0 0"},
        {"CompressedData": "perhaps"},
        {"CompressedData": "True", "BinaryData": "nonsense"},
    ],
)
def test_a_metaimage_whose_header_is_impossible_is_refused(tmp_path, fields):
    path = write_meta(tmp_path / "a.mha", **fields)
    with pytest.raises(InputError, match=r"a\.mha: "):
        Volume.read(path)


@pytest.mark.parametrize(
    "fields",
    [
        {"dimension": "300"},
        {"sizes": "17 16"},
        {"sizes": "17 16 600000000"},
        {"sizes": "17 16 0"},
        {"type": "block"},
        {"encoding": "hex"},
        {"endian": "middle"},
        {"space_directions": "(1,0,0) (0,1,0)"},
        {"space_directions": "(1,0,0) (0,1,0) none"},
        {"space_directions": "(1,0,0) (0,1,0) (0,0,nan)"},
        {"space_directions": "(1,0,0) (0,1,0) (0,0,0)"},
        {"space_origin": "(0,0)"},
        {"space_units": '"cm" "cm" "cm"'},
        {"byte_skip": "-7"},
    ],
)
def test_a_nrrd_whose_header_is_impossible_is_refused(tmp_path, fields):
    path = write_nrrd(tmp_path / "a.nrrd", **fields)
    with pytest.raises(InputError, match=r"a\.nrrd: "):
        Volume.read(path)


def test_a_field_given_twice_is_refused(tmp_path):
    path = write_meta(tmp_path / "a.mha")
    path.write_bytes(path.read_bytes().replace(b"NDims", b"ElementSpacing = 1 1 1\nNDims"))
    with pytest.raises(InputError, match="twice"):
        Volume.read(path)


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_damaged_compressed_voxels_are_refused(tmp_path, damage):
    path = write_meta(tmp_path / "a.mha", CompressedData="True")
    data = bytearray(path.read_bytes())
    if damage == "cut":
        del data[-20:]
    else:
        data[-50] ^= 0x55
    path.write_bytes(data)
    with pytest.raises(InputError, match="damaged"):
        Volume.read(path)


def test_a_metaimage_may_be_gzipped_inside(tmp_path):
    path = write_meta(tmp_path / "a.mha", CompressedData="True")
    path.write_bytes(path.read_bytes().replace(zlib.compress(ct().tobytes()), gzip.compress(ct().tobytes())))
    assert_as_written(Volume.read(path))


def test_voxels_in_decimal_numbers_are_read(tmp_path):
    text = " ".join(map(str, ct().ravel())).encode()
    for path in (write_meta(tmp_path / "a.mha", BinaryData="False"), write_nrrd(tmp_path / "a.nrrd", encoding="ascii")):
        path.write_bytes(path.read_bytes().replace(ct().tobytes(), text))
        assert_as_written(Volume.read(path))


def test_big_endian_voxels_are_read(tmp_path):
    meta = write_meta(tmp_path / "a.mha", BinaryDataByteOrderMSB="True")
    nrrd = write_nrrd(tmp_path / "a.nrrd", endian="big")
    for path in (meta, nrrd):
        path.write_bytes(path.read_bytes().replace(ct().tobytes(), ct().byteswap().tobytes()))
        assert_as_written(Volume.read(path))


def test_bytes_after_the_voxels_are_told(tmp_path):
    path = write_meta(tmp_path / "a.mha", DimSize="17 16 5")
    assert codes(Volume.read(path)) == ["trailing-data"]
