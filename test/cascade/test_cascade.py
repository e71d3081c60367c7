"""The whole cascade with networks whose answer is known: geometry, modes, and volumes at the limits."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage
from torch import nn

from kits import Cascade, Volume
from kits.cascade.cascade import most_probable
from kits.cascade.remarks import remarks
from kits.cascade.segment import beyond as followed
from kits.cascade.stage import PREPROCESSING, Stage, Wrap, mirrored
from kits.errors import WeightsError
from kits.geometry import Grids, Region
from kits.plan import NATIVE
from kits.runtime.runtime import Runtime
from kits.runtime.weights import Member
from test.helpers.threshold import NORM, Threshold, dice, member, oriented, phantom, phantom_volume, threshold_cascade

ORIENTATIONS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


def test_native_mode_finds_every_voxel_of_kidney_and_tumour() -> None:
    volume, truth = phantom_volume()
    result = threshold_cascade().predict(volume)
    assert np.array_equal(result.labels, truth)
    assert len(result.regions) == 2
    assert result.warnings == []
    assert set(result.seconds) == {"locate", "segment", "postprocess"}


@pytest.mark.parametrize("thickness", [0.7, 1.5, 5.0])
def test_paper_mode_comes_close_through_3_mm_slices(thickness: float) -> None:
    shape = (round(120 / thickness), 128, 160)
    volume, truth = phantom_volume(shape=shape, spacing=(thickness, 0.8, 0.8))
    labels = threshold_cascade("paper").predict(volume).labels
    assert dice(labels > 0, truth > 0) > 0.95
    assert dice(labels == 2, truth == 2) > 0.8


@pytest.mark.parametrize("thickness", [0.7, 1.5, 5.0])
def test_native_mode_has_no_such_loss(thickness: float) -> None:
    shape = (round(120 / thickness), 128, 160)
    volume, truth = phantom_volume(shape=shape, spacing=(thickness, 0.8, 0.8))
    assert np.array_equal(threshold_cascade().predict(volume).labels, truth)


def test_all_48_orientations_give_the_same_label_map() -> None:
    spacing = (3.0, 0.8, 0.9)
    hu, _ = phantom(shape=(24, 80, 96), spacing=spacing, radius_mm=(24.0, 14.0, 14.0))
    cascade = threshold_cascade()
    expected = cascade.predict(Volume.from_image(oriented(hu, spacing, (0, 1, 2), (1, 1, 1)), "lps")).labels
    assert {0, 1, 2} == set(np.unique(expected))
    assert len(ORIENTATIONS) == 48
    for order, signs in ORIENTATIONS:
        image = oriented(hu, spacing, order, signs)
        volume = Volume.from_image(image, f"{order} {signs}")
        stored = volume.to_home(cascade.predict(volume).labels)
        assert stored.GetDirection() == image.GetDirection()
        mapped = sitk.GetArrayFromImage(oriented(expected, spacing, order, signs))
        assert np.array_equal(sitk.GetArrayFromImage(stored), mapped), (order, signs)


def test_an_oblique_volume_goes_home_to_its_own_grid() -> None:
    hu, truth = phantom()
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing((0.8, 0.8, 3.0))
    tilt = np.deg2rad(14)
    image.SetDirection((1, 0, 0, 0, np.cos(tilt), -np.sin(tilt), 0, np.sin(tilt), np.cos(tilt)))
    volume = Volume.from_image(image, "oblique")
    home = volume.to_home(threshold_cascade().predict(volume).labels)
    assert home.GetDirection() == image.GetDirection()
    assert np.array_equal(sitk.GetArrayFromImage(home), truth)


def test_one_kidney_is_found_and_remarked_on() -> None:
    volume, truth = phantom_volume(kidneys=((0.5, 0.55, 0.3),))
    result = threshold_cascade().predict(volume)
    assert np.array_equal(result.labels, truth)
    assert any("Only one kidney" in warning for warning in result.warnings)


def test_no_kidney_gives_an_empty_map_and_a_warning() -> None:
    volume, _ = phantom_volume(kidneys=())
    result = threshold_cascade().predict(volume, keep_probabilities=True)
    assert not result.labels.any()
    assert not result.probabilities.any()
    assert any("No kidney was found" in warning for warning in result.warnings)


@pytest.mark.parametrize("mode", ["native", "paper"])
def test_a_fused_kidney_wider_than_a_window_is_covered_by_tiles(mode: str) -> None:
    volume, truth = phantom_volume(
        shape=(30, 200, 420), kidneys=((0.5, 0.5, 0.5),), radius_mm=(30.0, 20.0, 120.0), tumour_mm=0
    )
    result = threshold_cascade(mode).predict(volume)
    assert len(result.regions) == 1
    assert len(result.regions[0].windows) == 2
    assert np.array_equal(result.labels, truth)


def test_kidneys_at_the_edges_of_the_volume_are_whole_and_remarked_on() -> None:
    volume, truth = phantom_volume(kidneys=((0.0, 0.5, 0.1), (1.0, 0.5, 0.85)))
    result = threshold_cascade().predict(volume)
    assert np.array_equal(result.labels, truth)
    assert any("cut by the first or the last slice" in warning for warning in result.warnings)


@pytest.mark.parametrize(("kidney_hu", "said"), [(35, True), (110, False)])
def test_kidneys_without_contrast_medium_are_remarked_on(kidney_hu: int, said: bool) -> None:
    volume, labels = phantom_volume()
    scan = Volume.from_array(np.where(labels > 0, kidney_hu, volume.hu).astype(np.int16), volume.spacing, "scan")
    found = remarks(labels, [], scan, Grids.of(scan, NATIVE))
    assert any(f"The kidneys measure {kidney_hu} HU, as without contrast medium" in one for one in found) == said


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((1, 128, 160), (5.0, 0.8, 0.8)),  # one slice
        ((20, 512, 796), (5.0, 0.65, 0.65)),  # KiTS19's widest
        ((300, 96, 128), (0.3, 1.0, 1.0)),
        ((12, 128, 160), (10.0, 0.8, 0.8)),
    ],
)
@pytest.mark.parametrize("mode", ["native", "paper"])
def test_unusual_grids(mode: str, shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> None:
    volume, truth = phantom_volume(shape=shape, spacing=spacing, tumour_mm=0)
    labels = threshold_cascade(mode).predict(volume).labels
    if mode == "paper" and shape[0] == 1:
        assert not labels.any()  # to the letter: one slice never holds 5000 voxels
    else:
        assert dice(labels > 0, truth > 0) > (0.93 if mode == "paper" else 0.995)


@pytest.mark.parametrize("in_plane", [0.3, 0.45, 1.5, 3.0])
def test_in_plane_spacings_that_the_networks_do_not_know_are_resampled_and_come_back(in_plane: float) -> None:
    shape = (40, round(102 / in_plane), round(128 / in_plane))
    volume, truth = phantom_volume(shape=shape, spacing=(3.0, in_plane, in_plane))
    labels = threshold_cascade().predict(volume).labels
    assert labels.shape == shape
    assert dice(labels > 0, truth > 0) > 0.93


def test_probabilities_are_percent_of_the_scored_regions() -> None:
    volume, truth = phantom_volume()
    kidney, tumour = threshold_cascade().predict(volume, keep_probabilities=True).probabilities
    assert kidney.dtype == np.uint8
    assert np.array_equal(kidney == 100, truth > 0)
    assert np.array_equal(tumour == 100, truth == 2)


def test_the_most_probable_class_is_the_first_of_the_highest() -> None:
    levels = torch.tensor(list(itertools.product((0.0, 0.3, 0.7), repeat=3)))
    assert torch.equal(most_probable(levels[None, :, :, None].transpose(1, 2))[0, :, 0], levels.argmax(1))


def test_cysts_count_as_kidney_until_all_else_is_decided() -> None:
    levels = torch.tensor([(0.1, 0.25, 0.4, 0.25), (0.1, 0.4, 0.1, 0.4), (0.1, 0.2, 0.5, 0.2), (0.4, 0.2, 0.1, 0.3)])
    labels = most_probable(levels[None, :, :, None].transpose(1, 2))[0, :, 0]
    assert labels.tolist() == [1, 1, 2, 3]
    merged = torch.cat([levels[:, :1], levels[:, 1:2] + levels[:, 3:], levels[:, 2:3]], 1)
    assert most_probable(merged[None, :, :, None].transpose(1, 2))[0, :, 0].tolist() == [1, 1, 2, 1]


def test_networks_that_tell_cysts_apart_and_such_that_do_not_make_no_ensemble() -> None:
    other = member("segment")
    other = replace(other, info=replace(other.info, classes=4))
    with pytest.raises(WeightsError, match=r"different numbers of classes, segment \(3\), segment \(4\)"):
        Cascade([member("locate")], [member("segment"), other], Runtime.of("cpu"))


class Cystic(nn.Module):
    """Cyst from 120 to 150 HU, kidney above, tumour above 240."""

    def forward(self, x_BCYX: torch.Tensor) -> torch.Tensor:
        hu = x_BCYX[:, 2] * NORM.std + NORM.mean
        label = torch.where(hu > 240, 2, torch.where(hu > 150, 1, torch.where(hu > 120, 3, 0)))
        return nn.functional.one_hot(label, 4).permute(0, 3, 1, 2).float() * 20


def test_cysts_are_kidney_or_the_label_3_as_the_plan_says() -> None:
    volume, truth = phantom_volume()
    inside = ndimage.binary_erosion(truth == 1, iterations=4)
    volume.hu[inside] = 135
    cystic = Member("segment", Cystic(), replace(member("segment").info, classes=4))
    for apart, label in ((False, 1), (True, 3)):
        runtime = replace(Runtime.of("cpu", "native", "torch", "fp32"), plan=replace(NATIVE, cysts_apart=apart))
        labels = Cascade([member("locate")], [cystic], runtime).predict(volume).labels
        assert np.array_equal(labels, np.where(inside, label, truth))


def test_mirrored_slices_give_the_same_where_a_network_knows_no_sides() -> None:
    volume, truth = phantom_volume()
    runtime = replace(Runtime.of("cpu", "native", "torch", "fp32"), plan=replace(NATIVE, mirror=True))
    network = Threshold()
    cascade = Cascade([member("locate")], [member("segment", network)], runtime)
    assert np.array_equal(cascade.predict(volume).labels, truth)
    twice, network.seen = network.seen, 0
    cascade.with_plan(NATIVE).predict(volume)
    assert twice == 2 * network.seen


def test_a_mirrored_network_answers_as_if_it_had_not_been() -> None:
    stacks = torch.arange(6.0).reshape(1, 1, 1, 6)
    leftmost = mirrored(lambda seen: seen[..., :1].expand_as(seen))
    assert (leftmost(stacks) == 5).all(), "it saw the right end first"
    assert torch.equal(mirrored(lambda seen: seen)(stacks), stacks)


def test_a_thin_scan_without_kidney_in_stage_1_is_looked_at_again_where_kidneys_usually_are() -> None:
    thin, truth = phantom_volume(shape=(10, 400, 512), kidneys=((0.5, 0.58, 0.34),), tumour_mm=0)
    thick, _ = phantom_volume(shape=(40, 400, 512), kidneys=((0.5, 0.58, 0.34),), tumour_mm=0)
    cascade = threshold_cascade()

    def blind(stacks: torch.Tensor) -> torch.Tensor:
        return torch.tensor([20.0, 0.0, 0.0])[:, None, None].expand(len(stacks), 3, *stacks.shape[2:])

    cascade.locator = replace(cascade.locator, networks=(blind,))
    assert np.array_equal(cascade.predict(thin).labels, truth)
    assert not cascade.predict(thick).labels.any()


@pytest.mark.parametrize(("mode", "least"), [("native", 1.0), ("paper", 0.99)])
def test_a_kidney_is_followed_beyond_the_region_that_stage_1_gave_it(mode: str, least: float) -> None:
    volume, labels = phantom_volume(shape=(60, 128, 400), kidneys=((0.4, 0.55, 0.2), (0.6, 0.55, 0.85)))
    cascade = threshold_cascade(mode)
    first, second = cascade.locate(volume)
    middle = (second.first + second.last) // 2
    half_seen = [first, replace(second, first=middle - 3, last=middle + 3)]
    found = {}
    for times in (0, 4):
        again = cascade.with_plan(replace(cascade.plan, follow=times))
        found[times] = again.predict(volume, keep_probabilities=True, regions=half_seen)
    assert dice(found[0].labels > 0, labels > 0) < 0.95
    assert found[0].regions == half_seen
    assert dice(found[4].labels > 0, labels > 0) >= least
    assert found[4].regions[0] == first, "where nothing reaches an end nothing is looked at"
    assert found[4].regions[1].first < middle - 10
    assert found[4].regions[1].last > middle + 10
    assert found[4].probabilities is not None
    assert dice(found[4].probabilities[0] > 50, labels > 0) >= least


def test_following_looks_at_new_slices_alone_with_all_windows_that_see_them() -> None:
    labels = np.zeros((60, 128, 600), np.uint8)
    volume = Volume.from_array(np.where(np.arange(600) < 5, -1000, 100) + labels.astype(np.int16), (3.0, 0.8, 0.8))
    grids = Grids.of(volume, NATIVE)

    def beyond(labels: np.ndarray, regions: list[Region]) -> tuple[list[Region], list[Region]]:
        return followed(labels, regions, volume, grids)

    one, other = Region(10, 40, ((0, 0),)), Region(20, 30, ((0, 200),))
    assert beyond(labels, [one, other]) == ([one, other], [])
    labels[25:30, 40:60, 210:240] = 1  # both see it, and the first one goes on doing so
    assert beyond(labels, [one, other]) == ([one, other], [])
    labels[25:30, 40:60, 300:330] = 1
    longer, shown = beyond(labels, [one, other])
    assert longer == [one, replace(other, last=35)]
    assert shown == [replace(one, first=29, last=35), replace(other, first=29, last=35)]
    volume.hu[29, 40:60, 300:330] = 60
    assert beyond(labels, [one, other]) == ([one, other], []), "the kidneys are brighter"
    labels[29, 40:60, 300:330] = 2
    assert beyond(labels, [one, other]) == (longer, shown), "a tumour may have any HU"
    labels[:, 40:60, 300:330] = 1
    assert beyond(labels, [Region(0, 60, ((0, 200),))])[1] == [], "the scan ends there"


def test_progress_grows_to_one() -> None:
    volume, _ = phantom_volume()
    told: list[float] = []
    threshold_cascade().predict(volume, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_the_same_cascade_serves_many_volumes() -> None:
    cascade = threshold_cascade()
    for shape in ((40, 128, 160), (25, 300, 280), (40, 128, 160)):
        volume, truth = phantom_volume(shape=shape)
        assert np.array_equal(cascade.predict(volume).labels, truth)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="'quick'"):
        threshold_cascade("quick")


def test_weights_load_by_folder_name(tiny_weights: object) -> None:
    cascade = Cascade.load(str(tiny_weights), Runtime.of("cpu", runner="torch"))
    assert (len(cascade.locator.networks), len(cascade.segmenter.networks)) == (1, 2)


def test_a_mode_runs_the_networks_that_name_it_only() -> None:
    paper = [member("locate"), member("segment")]
    ours = [replace(one, name=f"our {one.name}", info=replace(one.info, modes=("native",))) for one in paper]
    paper = [replace(one, info=replace(one.info, modes=("paper",))) for one in paper]
    both = member("segment")
    stages = [[paper[0], ours[0]], [paper[1], ours[1], both]]
    assert Cascade(*stages, Runtime.of("cpu", "native", "torch")).members == [*ours, both]
    assert Cascade(*stages, Runtime.of("cpu", "paper", "torch")).members == [*paper, both]
    with pytest.raises(WeightsError, match="none is a network of stage 1 for the mode paper"):
        Cascade(ours[:1], stages[1], Runtime.of("cpu", "paper", "torch"))


@pytest.mark.parametrize("mode", ["native", "paper"])
def test_locate_and_segment_by_themselves_agree_with_predict(mode: str) -> None:
    volume, _ = phantom_volume(shape=(60, 128, 160), spacing=(2.0, 0.8, 0.8))
    cascade = threshold_cascade(mode)
    whole = cascade.predict(volume, keep_probabilities=True)
    regions = cascade.locate(volume)
    assert regions == whole.regions
    assert np.array_equal(cascade.label(volume, cascade.segment(volume, regions)), whole.labels)
    percent = np.zeros((2, *volume.hu.shape), np.uint8)
    for box, probabilities in cascade.segment(volume, regions):
        both = torch.stack([1 - probabilities[:, 0], probabilities[:, 2]])
        percent[(slice(None), *box)] = (100 * both).round().numpy()
    assert np.array_equal(percent, whole.probabilities)


class Swapped(Threshold):
    """Takes kidney for tumour and tumour for kidney."""

    def forward(self, x_BCYX: torch.Tensor) -> torch.Tensor:
        return super().forward(x_BCYX)[:, [0, 2, 1]]


def test_members_can_be_asked_alone_and_all_are_their_mean() -> None:
    volume, truth = phantom_volume()
    ours, wrong = member("segment"), member("segment", Swapped())
    cascade = Cascade([member("locate")], [ours, wrong], Runtime.of("cpu", runner="torch"))
    regions = cascade.locate(volume)
    alone, other, both = (
        next(iter(cascade.segment(volume, regions, members)))[1] for members in ([ours], [wrong], None)
    )
    assert torch.allclose((alone + other) / 2, both, atol=1e-6)
    assert np.array_equal(cascade.label(volume, cascade.segment(volume, regions, [ours])), truth)
    for stranger in ([], [member("segment")], [ours, cascade.locator.members[0]]):
        with pytest.raises(ValueError, match=r"members must be some of this stage's \(segment, segment\)"):
            cascade.segment(volume, regions, stranger)


def test_stage_1s_own_answer_is_on_the_native_grid_and_covers_it() -> None:
    volume, truth = phantom_volume(shape=(80, 128, 160), spacing=(1.5, 0.8, 0.8))
    cascade = threshold_cascade()
    reached = np.zeros(truth.shape, int)
    for box, probabilities in cascade.segment_coarsely(volume):
        reached[box] += 1
        assert torch.allclose(probabilities.sum(1), torch.ones(()), atol=1e-5)
    assert (reached == 1).all()
    assert dice(cascade.label(volume, cascade.segment_coarsely(volume)) > 0, truth > 0) > 0.9


def test_what_is_wrapped_around_a_cascade_sees_all_of_its_work_and_changes_nothing() -> None:
    volume, truth = phantom_volume()
    cascade = threshold_cascade()
    calls: list[tuple[bool, str]] = []

    def wrap_stage(stage: Stage) -> Wrap:
        def wrap(part: str, run):  # type: ignore[no-untyped-def]
            def called(*arguments: object) -> torch.Tensor:
                calls.append((stage is cascade.locator, part))
                return run(*arguments)

            return called

        return wrap

    assert np.array_equal(cascade.wrapped(wrap_stage).predict(volume).labels, truth)
    assert set(calls) == {(True, "locate"), (True, PREPROCESSING), (False, "segment"), (False, PREPROCESSING)}
    seen = len(calls)
    assert np.array_equal(cascade.predict(volume).labels, truth)
    assert len(calls) == seen, "the cascade itself is as it was"


def test_a_plan_travels_with_the_runtime() -> None:
    volume, truth = phantom_volume()
    plan = replace(NATIVE, kidneys=1)
    runtime = replace(Runtime.of("cpu", runner="torch"), plan=plan)
    cascade = Cascade([member("locate")], [member("segment")], runtime)
    result = cascade.predict(volume)
    assert (cascade.plan, len(result.regions)) == (plan, 1)
    assert 0 < (result.labels > 0).sum() < (truth > 0).sum()
    assert np.array_equal(cascade.with_plan(NATIVE).predict(volume).labels, truth)
    assert cascade.plan == plan, "the cascade itself is as it was"
