"""Stage 2's way over the slices and back to the native grid."""

import numpy as np
import pytest
import torch

from kits.cascade.preprocess import Slices
from kits.cascade.segment import segment, to_native_slices
from kits.cascade.stage import Stage
from kits.geometry import CHUNK, Grids, Region, spans
from kits.plan import NATIVE, PAPER, Plan
from kits.runtime.engine import Engine
from test.helpers.threshold import NORM, member, phantom_volume, stage
from test.helpers.waiting import NothingWaits

HERE, THERE = (0, 0), (0, 100)


def test_spans_split_where_the_windows_change_and_where_they_grow_long() -> None:
    got = list(spans([(0, 50, (HERE,)), (40, 60, (THERE,)), (70, 71, (HERE,))]))
    assert got == [(0, 32, [HERE]), (32, 40, [HERE]), (40, 50, [HERE, THERE]), (50, 60, [THERE]), (70, 71, [HERE])]


def test_a_window_that_two_regions_share_is_looked_at_once() -> None:
    assert list(spans([(0, 5, (HERE,)), (0, 5, (HERE,))])) == [(0, 5, [HERE])]


@pytest.mark.parametrize(("depth", "resliced"), [(60, 20), (20, 20), (12, 20), (1, 2), (2, 1)])
def test_native_slices_take_interpolated_probabilities(depth: int, resliced: int) -> None:
    coarse = torch.linspace(0, 1, resliced)[:, None, None, None].expand(-1, 3, 2, 2)
    ((first, native),) = to_native_slices(iter([(0, coarse)]), resliced, depth)
    expected = torch.nn.functional.interpolate(coarse[:, 0, 0, 0][None, None], size=depth, mode="linear")[0, 0]
    assert first == 0
    assert torch.allclose(native[:, 0, 0, 0], expected, atol=1e-6)


@pytest.mark.parametrize("plan", [NATIVE, PAPER], ids=["native", "paper"])
def test_stage_2_is_queued_without_waiting_for_the_device(plan: Plan) -> None:
    volume, _ = phantom_volume(shape=(100, 64, 80), spacing=(1.25, 0.5, 0.5))
    grids = Grids.of(volume, plan)
    regions = [Region(2, 90, ((0, 0),)), Region(30, 60, ((0, 0),))]
    device = torch.device("meta")

    def slab(slices: Slices, first: int, last: int) -> torch.Tensor:
        return torch.empty((last - first, *slices.shape[1:]), device=device)

    network = torch.nn.Conv2d(5, 3, 1).to(device)
    on_device = Stage((member("segment", network),), (network,), Engine(device, "torch", "fp32"), slab)
    with NothingWaits():
        found = list(segment(volume, grids, regions, on_device))
    expected = [(box, chunk.shape) for box, chunk in segment(volume, grids, regions, stage())]
    assert [(box, chunk.shape) for box, chunk in found] == expected
    assert {chunk.device.type for _, chunk in found} == {"meta"}


@pytest.mark.parametrize("plan", [NATIVE, PAPER], ids=["native", "paper"])
def test_chunks_reach_every_slice_of_a_region_once_and_no_other(plan: Plan) -> None:
    volume, _ = phantom_volume(shape=(100, 64, 64), spacing=(1.5, 0.8, 0.8))
    regions = [Region(10, 90, ((0, 0),)), Region(30, 60, ((0, 0),))]
    reached = [
        index
        for (slices, _, _), _ in segment(volume, Grids.of(volume, plan), regions, stage())
        for index in range(slices.start, slices.stop)
    ]
    assert sorted(set(reached)) == sorted(set(reached) & set(range(8, 92)))
    assert set(range(11, 89)) <= set(reached)
    if plan.every_slice:
        assert reached == list(range(10, 90))


def test_native_neighbours_lie_three_and_six_millimetres_away() -> None:
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x[:, :, 8, 8].clone())
            return torch.zeros(len(x), 3, *x.shape[2:])

    volume, _ = phantom_volume(shape=(CHUNK * 3, 32, 32), spacing=(1.2, 0.8, 0.8), kidneys=())
    volume.hu[:] = (torch.arange(CHUNK * 3) * 2)[:, None, None].numpy()  # 2 HU a slice: 5 HU every 3 mm
    list(segment(volume, Grids.of(volume, NATIVE), [Region(20, 70, ((0, 0),))], stage(Spy())))
    hu = torch.cat(seen) * NORM.std + NORM.mean
    expected = torch.arange(20, 70)[:, None] * 2.0 + torch.tensor([-10.0, -5.0, 0.0, 5.0, 10.0])
    assert torch.allclose(hu, expected, atol=1e-3)


@pytest.mark.parametrize("plan", [NATIVE, PAPER], ids=["native", "paper"])
def test_only_the_part_of_the_plane_that_windows_reach_is_worked_on(plan: Plan) -> None:
    volume, truth = phantom_volume(shape=(20, 300, 600), kidneys=((0.5, 0.5, 0.5),), tumour_mm=0)
    found = np.zeros_like(truth)
    region = Region(0, 20, ((20, 150), (30, 200)))
    for box, chunk in segment(volume, Grids.of(volume, plan), [region], stage()):
        assert box[1:] == (slice(20, 286), slice(150, 456))
        assert tuple(chunk.shape[2:]) == (266, 306)
        found[box] = chunk.argmax(1).numpy()
    assert np.array_equal(found, truth)


def test_without_a_region_there_is_nothing_to_do() -> None:
    volume, _ = phantom_volume(shape=(5, 64, 64))
    assert list(segment(volume, Grids.of(volume, NATIVE), [], stage())) == []
