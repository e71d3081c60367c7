"""Simulated scans: kidneys in their place, folders in KiTS's form, runs that resume."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from kits.errors import InputError
from kits.io.cases import find_cases
from kits.io.images import read_labels, read_volume
from test.train.abdomen import (
    FAST,
    FAST_SHAPE,
    KIDNEY,
    SHAPE,
    SPACING,
    abdomen,
    ball,
)
from train.data.cases import patient_of, read_pair
from train.simulate import command
from train.simulate.hosts import bend
from train.simulate.kidneys import shape_of, sides
from train.simulate.painted import paint_scan
from train.simulate.phases import phase_of
from train.simulate.scanner import add_noise, draw_slice_mm, thicken
from train.simulate.sources import find_sources, read_background, read_kidneys


def image_of(array, spacing):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing[::-1])
    return image


def write_sources(folder: Path) -> Path:
    """Two backgrounds and two KiTS label maps in KiTS's storage order, all made up."""
    for number, name in enumerate(("alice", "kits_00007")):
        hu, labels = abdomen(FAST_SHAPE, FAST, seed=number)
        (folder / "scans" / name).mkdir(parents=True)
        sitk.WriteImage(image_of(hu, FAST), str(folder / "scans" / name / "ct.nii.gz"))
        sitk.WriteImage(image_of(labels, FAST), str(folder / "scans" / name / "label.nii.gz"))
    (folder / "maps").mkdir()
    for number in (7, 8):
        _, labels = abdomen(FAST_SHAPE, FAST)
        labels[ball(FAST_SHAPE, FAST, (10, 0, -62), (14, 14, 14))] = 2
        labels[ball(FAST_SHAPE, FAST, (-10, 0, 60), (10, 10, 10))] = 3
        turned = image_of(np.ascontiguousarray(labels[::-1].transpose(2, 1, 0)), FAST[::-1])
        turned.SetDirection(command.KITS_DIRECTION)
        sitk.WriteImage(turned, str(folder / "maps" / f"case_{number:05d}.nii.gz"))
    return folder


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write_sources(tmp_path_factory.mktemp("inputs"))


def options(inputs: Path, out: Path, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    paths = ["--labels", f"{inputs}/maps", "--backgrounds", f"{inputs}/scans", "--out", str(out)]
    return parser.parse_args([*paths, *more])


class TestScanner:
    def test_thicker_slices_are_means_with_the_label_of_most(self):
        hu = np.arange(6, dtype=np.int16)[:, None, None] * np.full((1, 4, 4), 10, np.int16)
        labels = np.zeros((6, 4, 4), np.uint8)
        labels[2:4], labels[4] = 1, 2
        thick, marked, spacing = thicken(hu, labels, (1.0, 0.8, 0.8), 2.0)
        assert thick[:, 0, 0].tolist() == [5, 25, 45]
        assert marked[:, 0, 0].tolist() == [0, 1, 2]
        assert spacing == (2.0, 0.8, 0.8)

    def test_slice_thickness_is_never_below_what_there_is(self):
        rng = np.random.default_rng(0)
        assert min(draw_slice_mm(rng, 2.2) for _ in range(50)) == 2.5
        assert draw_slice_mm(rng, 6.0) == 6.0

    def test_noise_has_the_strength_asked_for_and_is_finer_than_anatomy(self):
        hu = np.full((4, 128, 128), 50.0, np.float32)
        add_noise(hu, (3.0, 0.8, 0.8), 20.0, 0.4, np.random.default_rng(0))
        assert hu.std() == pytest.approx(20, rel=0.25)
        assert ndimage.gaussian_filter(hu, (0, 4, 4)).std() < 4

    def test_bending_moves_scan_and_labels_alike(self):
        hu, labels = (array[::8].copy() for array in abdomen(noise_hu=1))
        bend(hu, labels, (24.0, 1.4, 1.4), 3.0, np.random.default_rng(0))
        inner = ndimage.binary_erosion(labels > 0, np.ones((1, 5, 5)))
        assert hu[inner].mean() == pytest.approx(KIDNEY, abs=3)
        assert not np.array_equal(labels, abdomen()[1][::8])


class TestSources:
    def test_patients_are_named_as_in_training(self):
        assert patient_of("case_00012") == patient_of("kits_00012") == "kits-00012"
        assert patient_of("ircadb") == "ircadb"

    def test_left_out_patients_are_in_no_source(self, inputs):
        found = find_sources([inputs / "maps"], inputs / "scans", ["kits-00007"])
        assert [s.patient for s in found.backgrounds] == ["alice"]
        assert [s.patient for s in found.kidneys] == ["kits-00008"]
        found = find_sources([inputs / "maps"], inputs / "scans", ["alice"])
        assert [s.patient for s in found.backgrounds] == ["kits-00007"]

    def test_a_folder_with_nothing_in_it_is_named(self, tmp_path, inputs):
        with pytest.raises(InputError, match="no label map found"):
            find_sources([tmp_path], inputs / "scans")
        with pytest.raises(InputError, match="no scan found"):
            find_sources([inputs / "maps"], tmp_path)

    def test_scans_with_coarse_pixels_are_no_backgrounds(self, tmp_path):
        (tmp_path / "coarse").mkdir()
        sitk.WriteImage(image_of(np.zeros((5, 8, 8), np.int16), (3.0, 3.0, 3.0)), str(tmp_path / "coarse/ct.nii.gz"))
        assert not find_sources([], tmp_path).backgrounds

    def test_label_maps_are_read_canonically_whatever_their_storage(self, inputs):
        labels, spacing = read_kidneys(find_sources([inputs / "maps"], None).kidneys[0])
        assert spacing == pytest.approx(FAST)
        right, left = (np.count_nonzero(half == 1) for half in np.array_split(labels, 2, axis=2))
        assert right > left
        z_of_tumour, z_of_cyst = (np.argwhere(labels == n)[:, 0].mean() for n in (2, 3))
        assert z_of_tumour > z_of_cyst


class TestPainted:
    def test_right_and_left_are_told_apart(self):
        _, labels = abdomen()
        found = sides(labels, SPACING)
        assert set(found) == {"right", "left"}
        assert found["right"][..., : SHAPE[2] // 2].sum() == found["right"].sum() > found["left"].sum() > 0
        assert set(sides(np.where(found["left"], 1, 0).astype(np.uint8), SPACING)) == {"left"}

    def test_a_hull_holds_the_sinus_that_the_label_leaves_out(self):
        labels = ball(SHAPE, SPACING, (0, 0, 0), (50, 28, 28)).astype(np.uint8)
        labels[ball(SHAPE, SPACING, (0, 0, 0), (25, 8, 8))] = 0
        kidney = shape_of(labels, SPACING, np.random.default_rng(0))
        whole, tumour, _, hull = kidney.depths
        middle = tuple(np.rint(kidney.centre).astype(int))
        assert whole[middle] < 0 < hull[middle]
        assert not (tumour > 0).any()
        assert kidney.volume_ml == pytest.approx(labels.sum() * np.prod(SPACING) / 1000, rel=0.05)

    def test_new_kidneys_replace_the_old_ones_in_place(self, inputs):
        found = find_sources([inputs / "maps"], inputs / "scans")
        made = paint_scan(found.backgrounds[0], found.kidneys[1], np.random.default_rng(2))
        assert made.about["painted"] == ["right", "left"]
        assert made.hu.dtype == np.int16
        assert made.hu.shape == made.labels.shape
        _, old, spacing = read_background(found.backgrounds[0])
        volumes = [np.count_nonzero(a) * np.prod(s) for a, s in ((made.labels, made.spacing), (old, spacing))]
        assert volumes[0] == pytest.approx(volumes[1], rel=0.5)
        for half in (slice(0, 80), slice(80, 160)):
            there, before = (np.argwhere(a[..., half]).mean(axis=0)[1:] for a in (made.labels, old))
            assert np.abs(there - before).max() * FAST[1] < 20
        inner = ndimage.binary_erosion(made.labels == 1, iterations=2)
        level = made.about["phase"]
        assert made.hu[inner].mean() > (0 if level == "unenhanced" else 50)
        rim = ndimage.binary_dilation(made.labels > 0, iterations=4) & ~ndimage.binary_dilation(made.labels > 0)
        assert np.median(made.hu[rim]) < -60  # fat, where the old kidney may have been

    def test_the_phase_of_a_real_kidney_is_measured(self, host):
        phase = phase_of(host[0], host[1] > 0, np.random.default_rng(0))
        assert phase.cortex == pytest.approx(KIDNEY, rel=0.2)
        assert phase.name == "nephrographic"


class TestSimulate:
    def test_folders_are_kits_cases_that_say_what_they_were_made_from(self, inputs, tmp_path):
        command.main(options(inputs, tmp_path, "--count", "2", "--seed", "1", "--kinds", "lesions", "painted"))
        cases = find_cases(tmp_path)
        assert [case.name for case in cases] == ["case_00000", "case_00001"]
        for case, kind in zip(cases, ("lesions", "painted"), strict=True):
            volume = read_volume(case)
            assert volume.home.direction == command.KITS_DIRECTION
            assert not volume.warnings
            labels, _ = read_labels(case.source.with_name("segmentation.nii.gz"))
            assert set(np.unique(labels)) <= {0, 1, 2, 3}
            hu, canonical, spacing = read_pair(case.source, case.source.with_name("segmentation.nii.gz"))
            assert hu.shape == canonical.shape
            assert 0.5 <= spacing[0] <= 6
            about = json.loads(case.source.with_name("simulation.json").read_text())
            assert about["kind"] == kind
            assert about["seed"] == 1
            assert about["patients"]
            assert set(about["patients"]) <= {"alice", "kits-00007", "kits-00008"}
            assert about["lesions"]
            # The head is up and the front is to the front: the spine lies behind the kidneys.
            behind = np.argwhere(hu > 400)[:, 1].mean()
            assert behind > np.argwhere(canonical > 0)[:, 1].mean()

    def test_a_run_goes_on_where_it_stopped_and_makes_the_same(self, inputs, tmp_path):
        arguments = ("--seed", "3", "--kinds", "lesions")
        command.main(options(inputs, tmp_path, "--count", "2", *arguments))
        first = tmp_path / "case_00000"
        before = (first / "imaging.nii.gz").stat().st_mtime_ns
        voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "case_00001" / "imaging.nii.gz")))
        for path in (tmp_path / "case_00001").iterdir():
            path.unlink()
        (tmp_path / "case_00001").rename(tmp_path / ".partial-case_00001")  # as a kill leaves it
        command.main(options(inputs, tmp_path, "--count", "2", *arguments))
        assert (first / "imaging.nii.gz").stat().st_mtime_ns == before
        again = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "case_00001" / "imaging.nii.gz")))
        assert np.array_equal(voxels, again)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["case_00000", "case_00001"]
        with pytest.raises(InputError, match="seed 3"):
            command.main(options(inputs, tmp_path, "--count", "2", "--seed", "4", "--kinds", "lesions"))

    def test_a_kind_without_sources_is_refused_in_words(self, inputs, tmp_path):
        left = ("--leave-out", "alice", "kits-00007")
        with pytest.raises(InputError, match="real scans"):
            command.main(options(inputs, tmp_path, "--count", "1", "--kinds", "lesions", *left))
        barred = ("--leave-out", "kits-00007", "kits-00008", "--kinds", "painted")
        with pytest.raises(InputError, match="painted scans need KiTS label maps"):
            command.main(options(inputs, tmp_path, "--count", "1", *barred))

    def test_a_folder_that_is_no_simulation_is_left_alone(self, inputs, tmp_path):
        (tmp_path / "case_00000").mkdir()
        with pytest.raises(InputError, match="no simulated case"):
            command.main(options(inputs, tmp_path, "--count", "1", "--kinds", "lesions"))
