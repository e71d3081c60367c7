"""Diameters, gaps, hulls and surfaces of shapes whose measures are known."""

import math

import numpy as np
import pytest

from kits.measure.shapes import Hull, diameters, gap, surface_mm2

SPACINGS = [(1.0, 0.8, 0.8), (3.0, 0.8, 0.8), (5.0, 0.7, 0.7), (0.5, 0.9, 0.9)]


def ball(radius, spacing, margin=9.0):
    """A ball, not quite centred on a voxel, and its coordinates in mm from its centre."""
    axes = [np.arange(-math.ceil((radius + margin) / s), math.ceil((radius + margin) / s) + 1) * s for s in spacing]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    z, x = z + 0.3, x + 0.17
    return z**2 + y**2 + x**2 < radius**2, (z, y, x)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("radius", [10, 20])
def test_a_balls_diameters_are_right_to_a_pixel(spacing, radius):
    mask, _ = ball(radius, spacing)
    found = diameters(mask, spacing)
    assert found.axial_mm == pytest.approx(2 * radius, abs=1.3 * spacing[1])
    assert found.perpendicular_mm == pytest.approx(2 * radius, abs=1.3 * spacing[1])
    assert found.longest_mm == pytest.approx(2 * radius, abs=1.4 * spacing[1])


def test_a_row_of_pixels_is_as_long_as_its_pixels():
    mask = np.zeros((3, 5, 20), bool)
    mask[1, 2, 4:14] = True
    found = diameters(mask, (5.0, 0.8, 0.8))
    assert found.axial_mm == pytest.approx(8.0)
    assert found.perpendicular_mm == pytest.approx(0.8)
    assert found.axial_ends == ((1.0, 2.0, 3.5), (1.0, 2.0, 13.5)) or found.axial_ends[::-1][0][2] == 3.5


def test_axial_diameter_is_of_the_slice_where_it_is_longest():
    mask = np.zeros((10, 40, 40), bool)
    mask[:, 10:20, 10:14] = True
    mask[7, 10, 5:35] = True
    found = diameters(mask, (2.0, 1.0, 1.0))
    assert {end[0] for end in found.axial_ends} == {7.0}
    assert found.axial_mm == pytest.approx(math.hypot(30, 9), abs=1.5)


def test_longest_diameter_goes_through_slices():
    mask = np.zeros((21, 8, 8), bool)
    mask[:, 2:4, 2:4] = True
    assert diameters(mask, (3.0, 1.0, 1.0)).longest_mm == pytest.approx(math.sqrt(60**2 + 2**2 + 1), abs=0.1)


def test_one_voxel_has_its_own_size():
    mask = np.zeros((3, 3, 3), bool)
    mask[1, 1, 1] = True
    found = diameters(mask, (3.0, 0.8, 0.8))
    assert (found.axial_mm, found.longest_mm) == pytest.approx((0.8, 0.8))


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("radius", [10, 20])
@pytest.mark.parametrize("height", [0.3, 1.0, 1.7])
def test_contact_is_the_caps_area(spacing, radius, height):
    """A plane leaves a cap of so many radii of the ball within the neighbour: its area is 2 pi r h."""
    mask, (z, _, x) = ball(radius, spacing)
    neighbour = ((x + 0.5 * z) / math.hypot(1, 0.5) > radius * (1 - height)) & ~mask
    surface, contact = surface_mm2(mask, neighbour, spacing)
    assert surface == pytest.approx(4 * math.pi * radius**2, rel=0.08)
    assert contact == pytest.approx(2 * math.pi * radius**2 * height, abs=(0.06 if spacing[0] < 5 else 0.14) * surface)


def test_a_tilted_plane_is_not_counted_by_its_steps():
    z, y, x = np.meshgrid(*(np.arange(n) for n in (60, 60, 60)), indexing="ij")
    box = (abs(y - 30) <= 20) & (abs(x - 30) <= 20)
    lower, upper = box & (z + x < 60) & (z > 4), box & (z + x >= 60) & (z < 56)
    _, contact = surface_mm2(lower, upper, (1.0, 1.0, 1.0))
    assert contact == pytest.approx(41 * 41 * math.sqrt(2), rel=0.1)


def test_nothing_has_no_surface():
    empty = np.zeros((4, 4, 4), bool)
    assert surface_mm2(empty, empty, (1.0, 1.0, 1.0)) == (0.0, 0.0)


def test_gap_is_what_lies_between():
    first, second = np.zeros((2, 10, 10, 30), bool)
    first[2:4, 2:4, 2:5] = True
    second[2:4, 2:4, 5:8] = True
    assert gap(first, second, (3.0, 1.0, 0.8)) == 0
    second[:] = False
    second[6, 5, 3] = True
    assert gap(first, second, (3.0, 1.0, 0.8)) == pytest.approx(math.hypot(2 * 3.0, 1.0))
    assert gap(first, np.zeros_like(first), (3.0, 1.0, 0.8)) is None


def test_hull_tells_inside_from_outside():
    mask = np.zeros((12, 12, 12), bool)
    mask[1:11, 1:11, 1:11] = True
    depth = Hull(mask, (2.0, 1.0, 1.0)).outside(np.array([[11.0, 5, 5], [11.0, 5, 14.5], [30.0, 5, 5]]))
    np.testing.assert_allclose(depth, [-4.5, 4.0, 9.0], atol=0.3)
