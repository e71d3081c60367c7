"""Pictures become slices to learn from, in HU: without tumour where the patient has none, else with what is known."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kits.errors import InputError
from test.helpers.threshold import threshold_cascade
from train.config import Source
from train.data.cases import find_labelled
from train.pictures import (
    GREY_HU,
    SOFT_HU,
    Asked,
    Slice,
    calibrated,
    label_pictures,
    pattern,
    with_cysts,
    with_tumours,
    without_tumour,
)

GAIN, FAT = 1.6, 30  # HU a grey value, and the grey value of fat


def picture(kidney_hu: float = 180.0, lesion_hu: float = 290.0) -> np.ndarray:
    """A body of fat around muscle with two kidneys, in one of them a bright spot, as grey values."""
    y, x = np.mgrid[-1:1:256j, -1:1:256j]
    hu = np.full((256, 256), -1000.0)
    hu[(x / 0.9) ** 2 + (y / 0.7) ** 2 < 1] = -105
    hu[(x / 0.75) ** 2 + (y / 0.55) ** 2 < 1] = 55
    for middle in (-0.4, 0.4):
        hu[((x - middle) / 0.15) ** 2 + ((y - 0.1) / 0.2) ** 2 < 1] = kidney_hu
    hu[((x - 0.4) / 0.05) ** 2 + ((y - 0.1) / 0.05) ** 2 < 1] = lesion_hu
    noise = np.random.default_rng(0).normal(0, 6, hu.shape)
    return np.clip(np.rint(FAT + (hu + 105 + noise) / GAIN), 0, 255).astype(np.uint8)


def test_fat_and_muscle_tell_what_grey_values_mean() -> None:
    one = calibrated(picture(kidney_hu=150))
    assert one is not None
    kidney = one.hu[140, 70:80]
    assert kidney.mean() == pytest.approx(150, abs=12)
    assert one.mm == pytest.approx(0.98), "256 px of a usual body would be wider pixels than CT has"


@pytest.mark.parametrize("grey", [np.zeros((64, 64), np.uint8), np.full((64, 64), 200, np.uint8)])
def test_a_picture_without_a_body_or_without_fat_is_not_calibrated(grey: np.ndarray) -> None:
    assert calibrated(grey) is None


def test_what_was_called_tumour_is_kidney_in_a_kidneys_hollow_and_else_nothing() -> None:
    labels = np.zeros((128, 128), np.uint8)
    labels[20:60, 20:60], labels[35:45, 35:45], labels[100:110, 100:110] = 1, 2, 2
    found = without_tumour(labels, 0.8)
    assert found is not None
    expected = np.zeros_like(labels)
    expected[20:60, 20:60] = 1
    assert np.array_equal(found, expected)


def test_fat_that_the_window_cut_away_leaves_muscle_to_tell() -> None:
    grey = picture(kidney_hu=150).astype(float)
    grey[160:180, 110:146] = 0  # fat between muscles
    narrow = np.clip(np.rint((grey - FAT - 35) * GAIN / SOFT_HU), 0, 255).astype(np.uint8)
    one = calibrated(narrow)
    assert one is not None
    assert one.hu[140, 70:80].mean() == pytest.approx(150, abs=12)


def kidneys_with_water(outside: bool = False) -> tuple[Slice, np.ndarray]:
    """Two kidneys without contrast medium, a round of water in one, or beside it; and what a cascade calls of them."""
    y, x = np.mgrid[:200, :200]
    labels = np.zeros((200, 200), np.uint8)
    for middle in (55, 145):
        labels[(x - middle) ** 2 + (y - 100) ** 2 < 30**2] = 1
    hu = np.where(labels, 36, -100)
    middle = 95 if outside else 65
    water = (x - middle) ** 2 + (y - 100) ** 2 < 11**2
    hu[water] = 6
    if not outside:
        labels[water & (x > 65)] = 2  # half of it, it says, is a tumour
    noise = np.random.default_rng(0).normal(0, 10, hu.shape)
    return Slice(np.rint(hu + noise).astype(np.int16), 0.8), labels


def test_what_is_watery_in_a_kidney_with_cysts_is_one() -> None:
    one, seen = kidneys_with_water()
    labels = with_cysts(one, seen)
    assert labels is not None
    y, x = np.mgrid[:200, :200]
    water = (x - 65) ** 2 + (y - 100) ** 2 < 11**2
    common = np.count_nonzero(water & (labels == 3))
    assert 2 * common / (water.sum() + (labels == 3).sum()) > 0.9
    assert np.array_equal(labels > 0, seen > 0)
    assert not (labels == 2).any()


def test_water_beside_a_kidney_that_nothing_was_said_of_leaves_the_slice_out() -> None:
    assert with_cysts(*kidneys_with_water(outside=True)) is None


def test_a_slice_without_kidney_tells_nothing_of_cysts() -> None:
    one, seen = kidneys_with_water()
    assert with_cysts(one, np.zeros_like(seen)) is None


def test_labels_that_cannot_be_true_are_not_learned_from() -> None:
    huge, much = np.zeros((2, 256, 256), np.uint8)
    huge[20:200, 20:200] = 1
    much[10:30, 10:30], much[100:160, 100:160] = 1, 2
    assert without_tumour(huge, 0.8) is None
    assert without_tumour(much, 0.8) is None


def test_pictures_become_a_source_of_slices(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.fromarray(picture()).save(tmp_path / "a.png")
    (tmp_path / "b.txt").write_text("no picture")
    paths = sorted(tmp_path.iterdir())
    entries = label_pictures(paths, tmp_path / "out", threshold_cascade())
    assert [entry["case"] for entry in entries] == [0]
    assert "b.txt: is left out" in caplog.text
    assert json.loads((tmp_path / "out" / "slices.json").read_text()) == entries
    (case,) = find_labelled(Source("slices", tmp_path / "out", "healthy", grey_hu=GREY_HU))
    hu, labels, _ = case.read()
    assert case.patient == "healthy-00000"
    assert set(np.unique(labels)) == {0, 1}, "the bright spot is no tumour"
    assert hu[0][labels[0] == 1].mean() == pytest.approx(185, abs=15)
    with pytest.raises(InputError, match="Of 1 pictures none"):
        label_pictures([tmp_path / "b.txt"], tmp_path / "none", threshold_cascade())


def called() -> np.ndarray:
    """A kidney with a large piece that is called tumour, a speck, and a piece far from it."""
    labels = np.zeros((128, 128), np.uint8)
    labels[20:60, 20:60], labels[30:50, 30:50], labels[22:25, 22:25], labels[100:115, 100:115] = 1, 2, 2, 2
    return labels


def test_of_a_patient_with_a_tumour_what_is_called_so_stays_but_for_specks() -> None:
    found = with_tumours(called(), 0.8)
    assert found is not None
    expected = called()
    expected[22:25, 22:25] = 1
    assert np.array_equal(found, expected)


def test_an_outline_tells_which_piece_is_the_tumour_and_is_one_itself() -> None:
    outline = np.zeros((128, 128), bool)
    outline[45:55, 45:55] = True
    found = with_tumours(called(), 0.8, outline)
    assert found is not None
    expected = np.minimum(called(), 1)
    expected[30:50, 30:50], expected[45:55, 45:55] = 2, 2
    assert np.array_equal(found, expected)


def test_a_slice_in_which_no_tumour_is_found_is_left_out() -> None:
    assert with_tumours(np.minimum(called(), 1), 0.8) is None


def test_pictures_of_one_patient_have_one_name_and_keep_their_outlined_tumours(tmp_path: Path) -> None:
    pictures, outlines = tmp_path / "pictures", tmp_path / "outlines"
    for folder in (pictures, outlines):
        folder.mkdir()
    drawn = np.zeros((256, 256), np.uint8)
    drawn[140:150, 70:85] = 255
    for name in ("ann_1.png", "ann_2.png", "bob_1.png"):
        Image.fromarray(picture()).save(pictures / name)
        Image.fromarray(drawn).save(outlines / name)
    asked = Asked(outlines=outlines, patients="(.*)_")
    entries = label_pictures(sorted(pictures.iterdir()), tmp_path / "out", threshold_cascade(), asked)
    assert [entry["case"] for entry in entries] == [0, 0, 2]
    labels = np.asarray(Image.open(tmp_path / "out" / str(entries[0]["label"])))
    assert (labels[drawn > 0] == 2).all()
    assert np.count_nonzero(labels == 2) == np.count_nonzero(drawn), "the bright spot elsewhere is none"
    (outlines / "ann_1.png").unlink()
    with pytest.raises(InputError, match=r"no outlines of .*ann_1\.png; add them"):
        label_pictures(sorted(pictures.iterdir()), tmp_path / "none", threshold_cascade(), asked)


@pytest.mark.parametrize("text", ["unclosed (", "no group"])
def test_what_names_no_patient_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        pattern(text)
