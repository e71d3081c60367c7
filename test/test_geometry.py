"""Grids, regions and windows of any volume: they cover the same extent, and what is found is in what is looked at."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kits.geometry import CHUNK, Box, Grids, Region, bounding_box, cover, covering, spans, translated
from kits.io.volume import Volume
from kits.plan import NATIVE, PAPER, SLICE_MM, WINDOW_PX

plans = st.sampled_from([PAPER, NATIVE, replace(PAPER, every_slice=True), replace(NATIVE, every_slice=False)])
sizes = st.tuples(st.integers(1, 400), st.integers(1, 900), st.integers(1, 900))
in_plane = st.floats(0.2, 4.0)
spacings = st.tuples(st.floats(0.3, 10.0), in_plane, in_plane)
every_grids = st.builds(Grids.from_shape, sizes, spacings, plans)


@st.composite
def grids_and_box(draw: st.DrawFn) -> tuple[Grids, Box]:
    """Grids, and a box on the halved one."""
    grids = draw(every_grids)
    lows = [draw(st.integers(0, length - 1)) for length in grids.halved.shape]
    z, y, x = (slice(low, draw(st.integers(low + 1, n))) for low, n in zip(lows, grids.halved.shape, strict=True))
    return grids, (z, y, x)


@given(every_grids)
def test_all_grids_cover_the_same_extent(grids: Grids) -> None:
    extent = np.multiply(grids.native.shape, grids.native.spacing)
    for lattice in (grids.resliced, grids.working, grids.halved):
        assert np.multiply(lattice.shape, lattice.spacing) == pytest.approx(extent)


@given(every_grids)
def test_slices_come_3_mm_apart_to_within_half_a_slice_over_the_whole_scan(grids: Grids) -> None:
    slices = grids.resliced.shape[0]
    assert slices == 1 or abs(slices * SLICE_MM - grids.height_mm) <= SLICE_MM / 2 + 1e-6
    assert grids.halved.shape == (slices, *(math.ceil(n / 2) for n in grids.resliced.shape[1:]))
    assert grids.working.shape == (
        grids.native.shape[0] if grids.plan.every_slice else slices,
        *grids.resliced.shape[1:],
    )


@given(every_grids)
def test_rows_and_columns_change_only_outside_the_plans_range(grids: Grids) -> None:
    known = all(grids.plan.finest_mm <= mm <= grids.plan.coarsest_mm for mm in grids.native.spacing[1:])
    if known:
        assert grids.in_plane_is_native
    else:
        for length, wanted, mm in zip(
            grids.working.shape[1:], grids.native.shape[1:], grids.native.spacing[1:], strict=True
        ):
            assert length == max(1, round(wanted * mm / grids.plan.typical_mm))


@given(grids_and_box())
def test_a_region_holds_its_box_and_its_margin_and_stays_in_the_volume(found: tuple[Grids, Box]) -> None:
    grids, box = found
    region = grids.region(box)
    native, working = grids.native, grids.working
    margin = grids.plan.margin_mm / native.spacing[0]
    scale = native.shape[0] / grids.halved.shape[0]
    assert 0 <= region.first <= max(0, box[0].start * scale - margin) + 1e-6
    assert native.shape[0] >= region.last >= min(native.shape[0], box[0].stop * scale + margin) - 1e-6
    for axis in (1, 2):
        starts = sorted({window[axis - 1] for window in region.windows})
        assert all(0 <= start <= max(0, working.shape[axis] - WINDOW_PX) for start in starts)
        assert all(b - a <= WINDOW_PX for a, b in itertools.pairwise(starts)), "no gap between windows"
        scale = working.shape[axis] / grids.halved.shape[axis]
        assert starts[0] <= box[axis].start * scale + 1e-6
        assert starts[-1] + WINDOW_PX >= box[axis].stop * scale - 1e-6


@given(grids_and_box())
def test_what_stage_2_works_on_holds_every_window_and_every_slice_of_a_region(found: tuple[Grids, Box]) -> None:
    grids, box = found
    region = grids.region(box)
    first, last = grids.working_slices(region)
    scale = grids.native.shape[0] / grids.working.shape[0]
    assert 0 <= first < last <= grids.working.shape[0]
    assert first * scale <= region.first + 1e-6
    assert last * scale >= region.last - 1e-6
    plane = grids.plane([region])
    for axis, part in enumerate(plane):
        assert 0 <= part.start < part.stop <= grids.native.shape[axis + 1]
        if grids.in_plane_is_native:
            for window in region.windows:
                assert part.start <= window[axis]
                assert part.stop >= min(window[axis] + WINDOW_PX, grids.native.shape[axis + 1])


@given(every_grids)
def test_the_usual_places_lie_in_the_slice(grids: Grids) -> None:
    for region in grids.usual_regions():
        ((row, column),) = region.windows
        assert (region.first, region.last) == (0, grids.native.shape[0])
        assert 0 <= row <= max(0, grids.working.shape[1] - WINDOW_PX)
        assert 0 <= column <= max(0, grids.working.shape[2] - WINDOW_PX)


@given(every_grids)
def test_the_smallest_component_is_the_same_volume_on_all_grids(grids: Grids) -> None:
    smallest = [
        grids.smallest_component(one.shape) * math.prod(one.spacing)
        for one in (grids.native, grids.halved, grids.working)
    ]
    assert smallest == pytest.approx([smallest[0]] * 3)
    assert grids.smallest_component(grids.resliced.shape) == pytest.approx(5000 * grids.kidney_in_view)
    assert 0 < grids.kidney_in_view <= 1
    assert grids.plan.scale_thin_scans or grids.kidney_in_view == 1


@given(every_grids)
def test_neighbours_lie_3_mm_apart(grids: Grids) -> None:
    if grids.plan.every_slice:
        assert grids.step * grids.working.spacing[0] == pytest.approx(SLICE_MM)
    else:
        assert grids.step == 1


def test_a_volumes_grids_are_made_once() -> None:
    hu = np.random.default_rng(0).normal(0, 300, (4, 32, 32))
    volume = Volume.from_array(hu, (3.0, 0.8, 0.8))
    assert Grids.of(volume, NATIVE) is Grids.of(volume, NATIVE)
    assert Grids.of(volume, NATIVE) is not Grids.of(volume, PAPER)


@given(st.integers(0, 900), st.integers(1, 900), st.integers(0, 300))
def test_windows_cover_a_range_and_stay_inside(low: int, length: int, beyond: int) -> None:
    high = low + length
    limit = high + beyond
    starts = cover(low, high, limit)
    assert starts == sorted(starts)
    assert all(0 <= start <= max(0, limit - WINDOW_PX) for start in starts)
    assert starts[0] <= low
    assert starts[-1] + WINDOW_PX >= high
    assert len(starts) == math.ceil(length / WINDOW_PX)


def test_a_slice_is_covered_by_as_few_windows_as_do() -> None:
    assert covering(200, 256) == [(0, 0)]
    assert covering(256, 400) == [(0, 0), (0, 144)]


@given(st.lists(st.tuples(st.integers(0, 90), st.integers(1, 60), st.integers(0, 2)), max_size=4))
def test_spans_look_at_each_wanted_window_of_each_slice_once(wanted: list[tuple[int, int, int]]) -> None:
    ranges = [(first, first + length, ((0, place),)) for first, length, place in wanted]
    looked = [(z, window) for first, last, windows in spans(ranges) for z in range(first, last) for window in windows]
    assert len(looked) == len(set(looked))
    assert set(looked) == {
        (z, window) for first, last, windows in ranges for z in range(first, last) for window in windows
    }
    assert all(0 < last - first <= CHUNK for first, last, _ in spans(ranges))


@given(st.lists(st.tuples(*[st.integers(0, 5)] * 3), min_size=1, max_size=5))
def test_a_bounding_box_is_tight_and_a_box_in_it_translates_back(voxels: list[tuple[int, int, int]]) -> None:
    mask = np.zeros((6, 6, 6), bool)
    mask[tuple(np.transpose(voxels))] = True
    box = bounding_box(mask)
    assert box is not None
    assert mask[box].sum() == mask.sum()
    assert all(mask[box].any(tuple(other for other in range(3) if other != axis))[[0, -1]].all() for axis in range(3))
    inner = bounding_box(mask[box])
    assert inner is not None
    assert translated(inner, box) == box


def test_without_a_region_the_whole_plane_is_meant() -> None:
    grids = Grids.from_shape((10, 300, 400), (3.0, 0.8, 0.8), NATIVE)
    assert grids.plane([]) == (slice(0, 300), slice(0, 400))
    assert grids.plane([Region(0, 5, ((10, 20),))]) == (slice(10, 266), slice(20, 276))
