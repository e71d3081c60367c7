"""Augmentation: what is varied, and what is not."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from test.helpers.threshold import dice, phantom
from test.train.made import BEST, CPU, NORM, SMALL, SPACING, made_scans
from train.config import Augmentation
from train.data import augment
from train.data.augment import LOST_FAT_HU, Augmenter, Donors, cropped, placements, take, vary_intensity, warp_graph
from train.data.cache import Scan, scan_of
from train.data.sampling import Site, find_sites
from train.data.variations import vary_content
from train.presets import PRESETS

BEST_SMALL = replace(BEST, patch=64)


def augmented(scan: Scan, site: Site, config: object, count: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    generators = [np.random.default_rng((3, n)) for n in range(count)]
    return Augmenter(config, NORM, count, CPU)([scan], [site] * count, generators)


@pytest.mark.parametrize("lone", [True, False])
def test_a_patch_moves_image_and_labels_together(lone: bool) -> None:
    scan = made_scans(1)[0] if lone else made_scans(2)[0]
    images, labels = augmented(scan, Site(0, 0 if lone else 4, (52.0, 35.0)), SMALL)
    assert images.shape == (20, 5, 64, 64)
    assert images.dtype == torch.float32
    assert labels.shape == (20, 64, 64)
    overlaps = [
        dice((image[2] * NORM.std + NORM.mean > 105).numpy(), (truth > 0).numpy())
        for image, truth in zip(images, labels, strict=True)
        if truth.any()
    ]
    assert len(overlaps) > 10
    assert np.mean(overlaps) > 0.9


def test_without_augmentation_a_patch_is_what_inference_sees() -> None:
    scan = made_scans(2)[0]
    config = replace(SMALL, augmentation=Augmentation(groups=()))
    images, labels = augmented(scan, Site(0, 4, (48.0, 64.0)), config, 1)
    expected = (np.clip(scan.hu[2:7, 16:80, 32:96].astype(np.float32), *NORM.window) - NORM.mean) / NORM.std
    assert np.allclose(images[0].numpy(), expected, atol=1e-4)
    assert np.array_equal(labels[0].numpy(), scan.labels[4, 16:80, 32:96])


def test_only_the_groups_named_are_varied() -> None:
    scan = made_scans(2)[0]
    with_tumour = scan.groups.index("KT")
    config = PRESETS["paper"]["res-unet2"]
    assert "K" in scan.groups
    for z, region, varied in (
        (with_tumour, None, True),
        (scan.groups.index("K"), None, False),
        (with_tumour, "K", False),  # the tumour lies in the other kidney's region
    ):
        images, _ = augmented(scan, Site(0, z, (48.0, 64.0), region), replace(config, patch=64), 4)
        assert bool((images[0] != images[1]).any()) == varied


def test_a_patch_without_flip_is_never_mirrored() -> None:
    hu = np.tile(np.linspace(-100, 300, 128).astype(np.int16), (1, 96, 1))
    scan, site = scan_of("x", "x", hu, np.zeros(hu.shape, np.uint8), SPACING), Site(0, 0, (48.0, 64.0))

    def rising(flip: float) -> list[bool]:
        how = replace(SMALL.augmentation, flip=flip)
        images, _ = augmented(scan, site, replace(SMALL, augmentation=how, patch=32))
        return [bool(image[2, :, -8:].mean() > image[2, :, :8].mean()) for image in images]

    assert all(rising(0.0))
    assert not any(rising(1.0))


def test_zoom_magnifies_and_shrinks_only_where_it_may() -> None:
    rng = np.random.default_rng(0)
    site = Site(0, 0, (50.0, 50.0))

    def scales(how: Augmentation) -> np.ndarray:
        drawn = [placements(site, False, 64, how, rng)[0][:, :2] for _ in range(200)]
        return np.sqrt([abs(np.linalg.det(matrix)) for matrix in drawn])

    paper = scales(PRESETS["paper"]["res-net"].augmentation)
    assert paper.min() == pytest.approx(1 / 1.25, abs=0.02)  # a patch then shows less of the slice
    assert paper.max() == pytest.approx(1.0)
    assert (paper < 0.9999).mean() == pytest.approx(0.66, abs=0.1)
    best = scales(BEST.augmentation)
    assert 1.15 < best.max() < 1.35
    assert 0.6 < best.min() < 0.7


def test_lesions_are_grown_in_lone_slices_without_tumour() -> None:
    hu, labels = phantom(shape=(8, 96, 128), radius_mm=(9.0, 20.0, 20.0))
    healthy = np.minimum(labels[4:5], 1)
    scan = scan_of("slice", "x", np.where(labels[4:5] == 2, 140, hu[4:5]).astype(np.int16), healthy, SPACING)
    how = replace(SMALL.augmentation, lesions=1.0, shift_px=0.0)
    site = Site(0, 0, find_sites([scan], "segment")["K", 0][0].centre)
    _, labels_drawn = augmented(scan, site, replace(SMALL, augmentation=how))
    assert (labels_drawn == 2).any(dim=(1, 2)).float().mean() > 0.15
    _, labels_drawn = augmented(scan, site, SMALL)
    assert not (labels_drawn == 2).any()


def test_tumours_are_pasted_from_other_lone_slices() -> None:
    hu, labels = phantom(shape=(8, 96, 128), radius_mm=(9.0, 20.0, 20.0))
    healthy = np.minimum(labels[4:5], 1)
    host = scan_of("slice", "x", np.where(labels[4:5] == 2, 140, hu[4:5]).astype(np.int16), healthy, SPACING)
    donor = scan_of("other", "y", hu[4:5], labels[4:5], SPACING)
    how = replace(SMALL.augmentation, pasted=1.0, shift_px=0.0)
    site = Site(0, 0, find_sites([host], "segment")["K", 0][0].centre)
    augment = Augmenter(replace(SMALL, augmentation=how), NORM, 16, CPU)
    generators = [np.random.default_rng(n) for n in range(16)]
    for scans, pasted in (([host, donor], True), ([host], False)):
        _, drawn = augment(scans, [site] * 16, generators)
        assert ((drawn == 2).any(dim=(1, 2)).float().mean() > 0.3) == pasted


@pytest.mark.parametrize("kind", ["pasted_among", "grown_among"])
def test_tumours_go_on_through_a_volumes_neighbouring_slices(kind: str) -> None:
    hu, labels = phantom(shape=(9, 96, 128), radius_mm=(20.0, 20.0, 20.0))
    host = scan_of("v", "x", np.where(labels == 2, 140, hu).astype(np.int16), np.minimum(labels, 1), SPACING)
    donor = scan_of("other", "y", hu[4:5], labels[4:5], SPACING)
    site = Site(0, 4, find_sites([host], "segment")["K", 0][0].centre)
    changed = []
    for n in range(30):
        slices, drawn = take(host, site, False, Donors([donor]), Augmentation(**{kind: 1.0}), np.random.default_rng(n))
        assert len(slices) == 5
        differs = [int((one != old).sum()) for one, old in zip(slices, host.hu[2:7], strict=True)]
        if (drawn == 2).any():
            changed.append(differs)
            assert differs[2] > 0
    assert len(changed) > 5
    assert np.mean([differs[1] > 0 or differs[3] > 0 for differs in changed]) > 0.7
    assert len({tuple(differs) for differs in changed}) > 3
    assert (host.labels < 2).all(), "the scan itself stays as it is"
    slices, drawn = take(host, site, False, Donors([donor]), Augmentation(), np.random.default_rng(0))
    assert (drawn < 2).all()


def test_a_whole_tumour_has_in_each_slice_the_section_that_it_has_there() -> None:
    hu, labels = phantom(shape=(9, 96, 128), radius_mm=(20.0, 20.0, 20.0))
    host = scan_of("v", "x", np.where(labels == 2, 140, hu).astype(np.int16), np.minimum(labels, 1), SPACING)
    ring, disc = np.zeros((40, 40), np.uint8), np.zeros((40, 40), np.uint8)
    y, x = np.mgrid[:40, :40]
    disc[(y - 20) ** 2 + (x - 20) ** 2 < 64], ring[(y - 20) ** 2 + (x - 20) ** 2 < 25] = 2, 2
    donor_labels = np.stack([disc, ring, disc, ring, disc, ring, disc])
    donor_hu = np.where(donor_labels, 90, 180).astype(np.int16)
    donors = Donors.of(
        [
            scan_of("lone", "y", hu[4:5], labels[4:5], SPACING),
            scan_of("whole", "z", donor_hu, np.where(donor_labels, donor_labels, 1).astype(np.uint8), SPACING),
        ],
        Augmentation(pasted_among=1.0, whole=1.0),
    )
    assert [one.mask.shape[0] for one in donors.whole] == [7]
    site = Site(0, 4, find_sites([host], "segment")["K", 0][0].centre)
    zigzag = 0
    for n in range(40):
        how = Augmentation(pasted_among=1.0, whole=1.0)
        slices, drawn = take(host, site, False, donors, how, np.random.default_rng(n))
        if (drawn == 2).any():
            px = [int((one != old).sum()) for one, old in zip(slices, host.hu[2:7], strict=True)]
            zigzag += (px[1] > px[2] < px[3]) or (px[1] < px[2] > px[3])
    assert zigzag > 10, "a ball's sections would only grow towards its middle"
    assert (host.labels < 2).all(), "the scan itself stays as it is"


@pytest.mark.parametrize("how", [BEST.augmentation, PRESETS["paper"]["res-net"].augmentation], ids=["best", "paper"])
def test_what_never_happens_draws_nothing(how: Augmentation) -> None:
    hu, labels = phantom(shape=(9, 96, 128), radius_mm=(20.0, 20.0, 20.0))
    scan, rng = scan_of("v", "x", hu, labels, SPACING), np.random.default_rng(0)
    how = replace(how, reverse=0.0)
    before = np.random.default_rng(0)
    before.random()  # for the slices' order
    take(scan, Site(0, 4, (48.0, 64.0)), False, Donors(), how, rng)
    vary_content(torch.zeros(5, 8, 8), torch.zeros(8, 8), how, rng)
    assert rng.bit_generator.state == before.bit_generator.state


def test_a_volumes_slice_is_taken_alone_at_times() -> None:
    scan = made_scans(2)[0]
    how = replace(SMALL.augmentation, intensity=False, drift=0.0)

    def repeated(alone: float) -> list[bool]:
        images, _ = augmented(scan, Site(0, 5, (52.0, 35.0)), replace(SMALL, augmentation=replace(how, alone=alone)))
        return [bool((image == image[2]).all()) for image in images]

    assert all(repeated(1.0))
    assert not any(repeated(0.0))
    assert {True, False} == set(repeated(0.5))


def test_a_lone_slices_channels_share_their_noise_at_times_and_may_lose_their_fat() -> None:
    hu = torch.full((5, 32, 32), -90.0)
    hu[:, 8:24, 8:24] = 120.0
    alone, among = ([vary_intensity(hu, lone, np.random.default_rng(n)) for n in range(60)] for lone in (True, False))
    shared, own = (np.array([bool((image == image[2]).all()) for image in images]) for images in (alone, among))
    assert 0 < (shared & ~own).sum() < (~own).sum()
    lost = [bool((image[:, :8] == LOST_FAT_HU).all()) for image in among]
    assert 0 < sum(lost) < 20


def test_a_patch_needs_no_more_than_its_crop_of_a_slice() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(-100, 300, (200, 240), np.int16)
    scan = scan_of("x", "x", image[None], np.zeros((1, 200, 240), np.uint8), SPACING)
    sites = [Site(0, 0, centre) for centre in ((100.0, 120.0), (3.0, 5.0), (199.0, 239.0), (-300.0, 900.0))]
    for site in sites:
        (matrix, *_) = placements(site, False, 32, BEST.augmentation, rng)
        crop, moved = cropped(scan.hu[0], matrix, 32)
        graph = warp_graph(1, 32, None)
        patches = []
        for fed, by in ((image[..., None], matrix), (crop, moved)):
            inputs = {f"slice{c}": [fed] for c in range(5)} | {"labels": [fed.astype(np.uint8)]}
            inputs |= {f"{name}-matrix": [by] for name in list(inputs)}
            patches.append(np.asarray(graph.run(**inputs)[0].as_tensor()))
        assert crop.size <= image.size
        assert np.abs(patches[0] - patches[1]).max() < 0.1  # HU; positions are float32
    assert cropped(scan.hu[0], placements(sites[0], False, 32, None, rng)[0], 32)[0].shape == (36, 36, 1)


def test_what_threads_prepare_does_not_depend_on_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    scan = made_scans(2)[0]
    one = augmented(scan, Site(0, 4, (52.0, 35.0)), BEST_SMALL, 6)
    monkeypatch.setattr(augment, "feeders", lambda device, batch: 4)
    four = augmented(scan, Site(0, 4, (52.0, 35.0)), BEST_SMALL, 6)
    assert all(torch.equal(a, b) for a, b in zip(one, four, strict=True))


def test_beside_a_gpu_slices_are_prepared_by_this_process_part_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 12)
    assert augment.feeders(CPU, 32) == 1
    assert augment.feeders(torch.device("cuda"), 32) == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert augment.feeders(torch.device("cuda"), 32) == 3
