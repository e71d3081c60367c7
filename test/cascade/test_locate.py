"""Stage 1: which regions come of which kidneys."""

import numpy as np
import pytest
import torch

from kits.cascade.locate import locate
from kits.cascade.preprocess import Slices
from kits.cascade.stage import Stage
from kits.geometry import CHUNK, Grids, Region
from kits.io.volume import Volume
from kits.plan import NATIVE, PAPER, Plan
from kits.runtime import arriving
from kits.runtime.engine import Engine
from test.helpers.threshold import Threshold, member, phantom_volume, stage
from test.helpers.waiting import NothingWaits


def located(volume: Volume, plan: Plan = NATIVE) -> list[Region]:
    return locate(volume, Grids.of(volume, plan), stage())


def regions(plan: Plan = NATIVE, **settings: object) -> tuple[list, np.ndarray]:
    volume, truth = phantom_volume(**settings)
    return located(volume, plan), truth


def test_a_region_holds_its_kidney_with_a_margin_above_and_below() -> None:
    (right, left), truth = regions(shape=(60, 300, 520), kidneys=((0.5, 0.5, 0.2), (0.45, 0.5, 0.8)))
    for region, half in ((right, np.s_[:, :, :260]), (left, np.s_[:, :, 260:])):
        kidney = np.argwhere(truth[half]) + np.array([0, 0, half[2].start or 0])
        (top, column), *rest = region.windows
        assert not rest
        assert region.first <= kidney[:, 0].min() - NATIVE.margin_mm / 3
        assert region.last > kidney[:, 0].max() + NATIVE.margin_mm / 3
        assert top <= kidney[:, 1].min()
        assert kidney[:, 1].max() < top + 256
        assert column <= kidney[:, 2].min()
        assert kidney[:, 2].max() < column + 256


def test_a_window_is_centred_on_its_kidney_where_there_is_room() -> None:
    (region,), _ = regions(shape=(40, 400, 600), kidneys=((0.5, 0.5, 0.5),), tumour_mm=0)
    assert abs(region.windows[0][0] + 128 - 200) <= 2
    assert abs(region.windows[0][1] + 128 - 300) <= 2


def test_a_window_at_the_edge_moves_inside() -> None:
    (region,), _ = regions(shape=(40, 300, 400), kidneys=((0.5, 0.5, 0.05),))
    assert region.windows[0][1] == 0


def test_only_the_two_largest_components_are_kidneys_largest_first() -> None:
    places = ((0.5, 0.5, 0.2), (0.5, 0.5, 0.5), (0.5, 0.5, 0.8))
    volume, _ = phantom_volume(shape=(40, 128, 400), kidneys=places, tumour_mm=0)
    volume.hu[:, :, 160:240][volume.hu[:, :, 160:240] > 100] = 40
    found = located(volume)
    assert len(found) == 2
    volume, _ = phantom_volume(shape=(40, 128, 400), kidneys=places, tumour_mm=0)
    assert len(located(volume)) == 2


def test_a_component_under_the_papers_limit_is_no_kidney() -> None:
    small = {"kidneys": ((0.5, 0.5, 0.5),), "radius_mm": (12.0, 12.0, 12.0), "tumour_mm": 0}
    assert regions(**small)[0] == []


def test_a_thin_scan_keeps_its_slab_of_kidney_unless_in_the_paper() -> None:
    thin = {"shape": (3, 128, 160), "kidneys": ((0.5, 0.5, 0.5),), "tumour_mm": 0}
    assert len(regions(**thin)[0]) == 1
    assert regions(PAPER, **thin)[0] == []


def test_only_some_slices_are_looked_at_unless_in_the_paper() -> None:
    volume, _ = phantom_volume(shape=(60, 128, 160))
    seen = []
    for plan in (NATIVE, PAPER):
        network = Threshold()
        locate(volume, Grids.of(volume, plan), stage(network))
        seen.append(network.seen)
    assert 60 / NATIVE.look_every < seen[0] < 60 / 2
    assert seen[1] == 60


@pytest.mark.parametrize("centre", [0.40, 0.42, 0.44, 0.46, 0.48, 0.50])
def test_regions_end_where_they_would_if_every_slice_were_looked_at(centre: float) -> None:
    places = ((centre, 0.5, 0.2), (centre + 0.11, 0.5, 0.8))
    few, every = (regions(plan, shape=(61, 300, 400), kidneys=places)[0] for plan in (NATIVE, PAPER))
    assert [(region.first, region.last) for region in few] == [(region.first, region.last) for region in every]


def test_what_ends_between_slices_looked_at_is_not_linked_to_what_begins_there() -> None:
    volume, _ = phantom_volume(shape=(60, 128, 160), kidneys=((0.35, 0.5, 0.5),), tumour_mm=0)
    kidney_ends = np.flatnonzero((volume.hu > 120).any((1, 2)))[-1]
    first = 4 + 3 * (kidney_ends // 3)  # the next slice looked at, two or more after the kidney's last
    volume.hu[first : first + 8, 60:70, 75:85] = 180  # far smaller than the kidney, in line with it
    few, every = (located(volume, plan) for plan in (NATIVE, PAPER))
    assert few == every


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_few_slices_are_all_in_the_region(depth: int) -> None:
    (region,), _ = regions(shape=(depth, 128, 160), kidneys=((0.5, 0.5, 0.5),), tumour_mm=0)
    assert (region.first, region.last) == (0, depth)


@pytest.mark.parametrize("plan", [NATIVE, PAPER], ids=["native", "paper"])
def test_a_device_has_the_next_slices_before_the_last_are_waited_for(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume, _ = phantom_volume(shape=(300, 64, 64), spacing=(3.0, 0.8, 0.8))
    device, happened = torch.device("meta"), []

    def slab(slices: Slices, first: int, last: int) -> torch.Tensor:
        return torch.empty((last - first, *slices.shape[1:]), device=device)

    def network(stacks_BCYX: torch.Tensor) -> torch.Tensor:
        happened.append("ask")
        return stacks_BCYX[:, :3]

    def receive(sent: tuple[torch.Tensor, None]) -> np.ndarray:
        happened.append("wait")
        return np.ones(sent[0].shape, np.float32)

    monkeypatch.setattr(arriving, "send", lambda tensor: (tensor, None))
    monkeypatch.setattr(arriving, "receive", receive)
    engine = Engine(device, "torch", "fp32")
    engine.batch = CHUNK
    with NothingWaits():
        found = locate(volume, Grids.of(volume, plan), Stage((member("locate"),), (network,), engine, slab))
    chunks = -(-300 // plan.look_every // CHUNK)
    one = ["wait", "wait"]  # for the background, and for whether all are numbers
    assert chunks > 2
    assert happened == ["ask", *(["ask", *one] * (chunks - 1)), *one]
    assert found == []
