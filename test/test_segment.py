"""Stage 2's way over the slices and back to the native grid."""

import pytest
import torch

from kits.engine import Engine
from kits.locate import Region
from kits.segment import CHUNK, segment, spans, to_native_slices
from test.threshold import NORM, Threshold, phantom_volume

HERE, THERE = (0, 0), (0, 100)


def test_spans_split_where_the_windows_change_and_where_they_grow_long() -> None:
    got = list(spans([(0, 50, (HERE,)), (40, 60, (THERE,)), (70, 71, (HERE,))]))
    assert got == [(0, 32, [HERE]), (32, 40, [HERE]), (40, 50, [HERE, THERE]), (50, 60, [THERE]), (70, 71, [HERE])]


def test_a_window_that_two_regions_share_is_looked_at_once() -> None:
    assert list(spans([(0, 5, (HERE,)), (0, 5, (HERE,))])) == [(0, 5, [HERE])]


@pytest.mark.parametrize(("depth", "resliced"), [(60, 20), (20, 20), (12, 20), (1, 2), (2, 1)])
def test_native_slices_take_interpolated_probabilities(depth: int, resliced: int) -> None:
    coarse = torch.linspace(0, 1, resliced)[:, None, None, None].expand(-1, 3, 2, 2)
    first, native = to_native_slices((0, coarse), resliced, depth)
    expected = torch.nn.functional.interpolate(coarse[:, 0, 0, 0][None, None], size=depth, mode="linear")[0, 0]
    assert first == 0
    assert torch.allclose(native[:, 0, 0, 0], expected, atol=1e-6)


@pytest.mark.parametrize("mode", ["native", "paper"])
def test_chunks_reach_every_slice_of_a_region_once_and_no_other(mode: str) -> None:
    volume, _ = phantom_volume(shape=(100, 64, 64), spacing=(1.5, 0.8, 0.8))
    regions = [Region(10, 90, ((0, 0),)), Region(30, 60, ((0, 0),))]
    reached = [
        first + index
        for first, chunk in segment(volume, regions, [Threshold()], NORM, Engine("cpu"), mode)
        for index in range(len(chunk))
    ]
    assert sorted(set(reached)) == sorted(set(reached) & set(range(8, 92)))
    assert set(range(11, 89)) <= set(reached)
    if mode == "native":
        assert reached == list(range(10, 90))


def test_native_neighbours_lie_three_and_six_millimetres_away() -> None:
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x[:, :, 8, 8].clone())
            return torch.zeros(len(x), 3, *x.shape[2:])

    volume, _ = phantom_volume(shape=(CHUNK * 3, 32, 32), spacing=(1.2, 0.8, 0.8), kidneys=())
    volume.hu[:] = (torch.arange(CHUNK * 3) * 2)[:, None, None].numpy()  # 2 HU a slice: 5 HU every 3 mm
    list(segment(volume, [Region(20, 70, ((0, 0),))], [Spy()], NORM, Engine("cpu")))
    hu = torch.cat(seen) * NORM.std + NORM.mean
    expected = torch.arange(20, 70)[:, None] * 2.0 + torch.tensor([-10.0, -5.0, 0.0, 5.0, 10.0])
    assert torch.allclose(hu, expected, atol=1e-3)
