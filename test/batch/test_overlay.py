"""The picture shows the right side right, the head up, true proportions, and contours where the labels are."""

import numpy as np
import pytest
from PIL import Image

from kits.batch.colours import COLOURS, REFERENCE_COLOURS
from kits.batch.overlay import AMBER, Heading, axial_slices, draw_overlay, figures, find_contours, write_overlay
from kits.errors import OutputError
from kits.measure.measure import measure

BLUE, ORANGE, PURPLE = COLOURS[1], COLOURS[2], REFERENCE_COLOURS[1]
SPACING = (3.0, 1.5, 1.5)
HEADING = 40
"""Pixels above the slices of a sheet without a name or warnings."""
FIRST_PANEL = (slice(HEADING + 14, HEADING + 280), slice(14, 494))


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
    panel = pixels_like(draw_overlay(hu, SPACING, labels), BLUE)[FIRST_PANEL]
    columns = np.flatnonzero(panel.any(axis=0))
    assert columns.size
    hu[:, 80:100, 50:60] = 200  # a second, right kidney widens the view to both sides
    labels[10:30, 80:100, 50:60] = 1
    panel = pixels_like(draw_overlay(hu, SPACING, labels), BLUE)[FIRST_PANEL]
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
    teal = np.flatnonzero(pixels_like(sheet[-400:, :494], BLUE).any(axis=1))
    assert bright.mean() < teal.mean()


def test_coronal_view_has_true_proportions():
    hu, labels = scan()
    labels[:] = 0
    labels[10:30, 60:100, 80:120] = 1  # 60 mm high and wide
    sheet = pixels_like(draw_overlay(hu, SPACING, labels), BLUE)
    bottom_row = sheet[-300:, :494]
    high, wide = (np.ptp(np.flatnonzero(bottom_row.any(axis=axis))) for axis in (1, 0))
    assert high == pytest.approx(wide, rel=0.05)


def test_tumour_and_reference_have_their_own_colours():
    hu, labels = scan()
    plain = draw_overlay(hu, SPACING, labels).crop((0, HEADING, 1500, 320))
    assert not pixels_like(plain, ORANGE).any()
    assert not pixels_like(plain, PURPLE).any()
    reference = labels.copy()
    labels[12:28, 85:95, 135:145] = 2
    both = draw_overlay(hu, SPACING, labels, np.roll(reference, 6, axis=1)).crop((0, HEADING, 1500, 320))
    assert pixels_like(both, ORANGE).any()
    assert pixels_like(both, PURPLE).any()


def test_no_kidney_shows_the_volume_without_contours():
    hu, labels = scan()
    picture = draw_overlay(hu, SPACING, np.zeros_like(labels))
    rows = picture.crop((0, HEADING, 1500, 700))
    assert not pixels_like(rows, BLUE).any()
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


def lesion_scan():
    """The scan with three lesions: two small ones far from where even slices would lie, and a cyst."""
    hu, labels = scan()
    labels[10:12, 84:88, 134:138] = 2
    labels[28:30, 90:94, 140:144] = 2
    labels[19:21, 80:84, 130:134] = 3
    return hu, labels


def test_every_lesion_has_a_slice_through_its_middle():
    hu, labels = lesion_scan()
    measured = measure(labels, hu, SPACING)
    assert len(measured.lesions) == 3
    chosen = axial_slices(10, 29, measured.lesions)
    assert {one.name for _, there in chosen for one in there} == {"tumour 1", "tumour 2", "cyst 1"}
    for z, there in chosen:
        assert all(labels[z, one.middle[1], one.middle[2]] > 1 for one in there)
    assert [z for z, _ in chosen] == sorted({z for z, _ in chosen}, reverse=True)
    assert len(chosen) == 6


def test_more_lesions_than_slices_give_more_slices():
    hu, labels = scan()
    for row, z in enumerate(range(10, 30, 2)):
        labels[z, 81 + row : 84 + row, 131:137] = 2
        labels[z + 1] = np.where(labels[z + 1] == 2, 1, labels[z + 1])
    measured = measure(labels, hu, SPACING)
    assert len(measured.lesions) == 10
    chosen = axial_slices(10, 29, measured.lesions)
    assert {one.middle[0] for one in measured.lesions} <= {z for z, _ in chosen}
    picture = draw_overlay(hu, SPACING, labels)
    assert picture.height > draw_overlay(*scan()[:1], SPACING, scan()[1]).height


def test_each_class_has_its_colour_and_small_lesions_are_pointed_at():
    hu, labels = lesion_scan()
    picture = draw_overlay(hu, SPACING, labels)
    for label in (1, 2, 3):
        assert pixels_like(picture, COLOURS[label]).any()
    with_cross = np.asarray(picture, int)[HEADING:300]
    labels[labels > 1] = 1
    without = np.asarray(draw_overlay(hu, SPACING, labels), int)[HEADING:300]
    white = [(np.abs(one - (235, 238, 242)).max(axis=2) < 5).sum() for one in (with_cross, without)]
    assert white[0] > white[1] + 50


def test_heading_has_room_for_name_and_warnings_in_amber():
    hu, labels = scan()
    plain = draw_overlay(hu, SPACING, labels)
    titled = draw_overlay(hu, SPACING, labels, None, Heading("case_00001", ("Look twice.", "And again.")))
    assert titled.height == plain.height + 36 + 2 * 24
    assert pixels_like(titled.crop((0, 0, 1500, 150)), AMBER).any()
    assert not pixels_like(plain.crop((0, 0, 1500, 150)), AMBER).any()


def test_the_legend_names_what_kidney_means_and_each_lesion():
    hu, labels = lesion_scan()
    names = [contour.name for contour in find_contours(labels, labels)]
    assert names == ["kidney with masses", "cyst", "tumour", "reference kidney with masses", "reference tumour"]
    lines = figures(measure(labels, hu, SPACING))
    assert lines[0].startswith("tumour 1, left: 0.2 ml")
    assert "R.E.N.A.L." in lines[0]
    assert "research" in " ".join(lines)
