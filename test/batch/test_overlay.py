"""The picture shows the right side right, the head up, true proportions, and contours where the labels are."""

import numpy as np
import pytest
from PIL import Image

from kits.batch.overlay import draw_overlay, write_overlay
from kits.errors import OutputError

TEAL, RED, YELLOW = (0, 214, 190), (255, 64, 96), (255, 214, 64)
SPACING = (3.0, 1.5, 1.5)
FIRST_PANEL = (slice(14, 280), slice(14, 494))


def scan():
    """A body of soft tissue in air, 40 slices of 160x200, with one kidney on the patient's left (high x)."""
    hu = np.full((40, 160, 200), -1000, np.int16)
    hu[:, 20:140, 20:180] = 40
    labels = np.zeros(hu.shape, np.uint8)
    labels[10:30, 80:100, 130:150] = 1
    hu[labels > 0] = 200
    return hu, labels


def pixels_like(picture, colour):
    """Where a picture has a colour, up to anti-aliasing."""
    return np.abs(np.asarray(picture, int) - colour).max(axis=2) < 40


def test_sheet_is_a_legible_rgb_picture():
    hu, labels = scan()
    picture = draw_overlay(hu, SPACING, labels)
    assert picture.mode == "RGB"
    assert 1400 <= picture.width <= 1500
    assert 500 <= picture.height <= 3000


def test_patients_left_is_shown_on_the_right():
    hu, labels = scan()
    panel = pixels_like(draw_overlay(hu, SPACING, labels), TEAL)[FIRST_PANEL]
    columns = np.flatnonzero(panel.any(axis=0))
    assert columns.size
    hu[:, 80:100, 50:60] = 200  # a second, right kidney widens the view to both sides
    labels[10:30, 80:100, 50:60] = 1
    panel = pixels_like(draw_overlay(hu, SPACING, labels), TEAL)[FIRST_PANEL]
    columns = np.flatnonzero(panel.any(axis=0))
    left_half, right_half = columns[columns < 240], columns[columns >= 240]
    assert np.ptp(right_half) > 1.5 * np.ptp(left_half)  # the left kidney is the wider one


def test_head_is_up_in_the_coronal_view():
    hu, labels = scan()
    hu[30:] = 240  # bright above the kidney
    sheet = np.asarray(draw_overlay(hu, SPACING, labels))
    coronal = sheet[-400:, 100:400].mean(axis=(1, 2))
    bright = np.flatnonzero(coronal > 200)
    assert bright.size
    teal = np.flatnonzero(pixels_like(sheet[-400:, :494], TEAL).any(axis=1))
    assert bright.mean() < teal.mean()


def test_coronal_view_has_true_proportions():
    hu, labels = scan()
    labels[:] = 0
    labels[10:30, 60:100, 80:120] = 1  # 60 mm high and wide
    sheet = pixels_like(draw_overlay(hu, SPACING, labels), TEAL)
    bottom_row = sheet[-300:, :494]
    high, wide = (np.ptp(np.flatnonzero(bottom_row.any(axis=axis))) for axis in (1, 0))
    assert high == pytest.approx(wide, rel=0.05)


def test_tumour_and_reference_have_their_own_colours():
    hu, labels = scan()
    plain = draw_overlay(hu, SPACING, labels).crop((0, 0, 1500, 300))
    assert not pixels_like(plain, RED).any()
    assert not pixels_like(plain, YELLOW).any()
    reference = labels.copy()
    labels[12:28, 85:95, 135:145] = 2
    both = draw_overlay(hu, SPACING, labels, np.roll(reference, 6, axis=1)).crop((0, 0, 1500, 300))
    assert pixels_like(both, RED).any()
    assert pixels_like(both, YELLOW).any()


def test_no_kidney_shows_the_volume_without_contours():
    hu, labels = scan()
    picture = draw_overlay(hu, SPACING, np.zeros_like(labels))
    rows = picture.crop((0, 0, 1500, 700))
    assert not pixels_like(rows, TEAL).any()
    assert np.asarray(rows).mean() > 30  # the body is seen


@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 64, 64), (200, 20, 20)])
@pytest.mark.parametrize("hu", [-1000, 40])
def test_odd_volumes_are_drawn_too(shape, hu):
    labels = np.zeros(shape, np.uint8)
    for _ in range(2):
        assert draw_overlay(np.full(shape, hu, np.int16), SPACING, labels).width <= 1500
        labels[0, 0, 0] = 1


def test_inputs_stay_as_they_are():
    hu, labels = scan()
    before = labels.copy()
    draw_overlay(hu, SPACING, labels, labels)
    np.testing.assert_array_equal(labels, before)


def test_shapes_must_agree():
    hu, labels = scan()
    with pytest.raises(ValueError, match="shape"):
        draw_overlay(hu, SPACING, labels[1:])


def test_picture_is_written_whole_or_not_at_all(tmp_path):
    hu, labels = scan()
    write_overlay(tmp_path / "new" / "a.png", hu, SPACING, labels)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]
    assert Image.open(tmp_path / "new" / "a.png").format == "PNG"
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_overlay(tmp_path / "file" / "a.png", hu, SPACING, labels)
