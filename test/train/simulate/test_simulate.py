"""Simulated scans: lesions that fit their host, kidneys in their place, folders in KiTS's form, runs that resume."""

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
from train.data.cases import patient_of, read_pair
from train.lesions import grow as lesions
from train.lesions.fields import smooth_field
from train.lesions.grow import grow_lesion
from train.lesions.noise import noise_like
from train.lesions.paste import paste_tumour
from train.lesions.tissue import CYSTS, TUMOURS, draw_kind, lesion_hu
from train.simulate import command
from train.simulate.hosts import bend
from train.simulate.kidneys import shape_of, sides
from train.simulate.painted import paint_scan
from train.simulate.phases import phase_of
from train.simulate.scanner import add_noise, draw_slice_mm, thicken
from train.simulate.sources import find_sources, read_background, read_kidneys

AIR, FAT, MUSCLE, BONE, KIDNEY = -1000, -100, 55, 700, 140
NOISE_HU = 12.0
SPACING = (3.0, 1.4, 1.4)
SHAPE = (48, 160, 224)
FAST = (4.0, 1.9, 1.9)
FAST_SHAPE = (40, 110, 160)


def ball(shape, spacing, centre_mm, radii_mm):
    """Where an ellipsoid is, by mm from the volume's middle (z, y, x)."""
    axes = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing, strict=True)]
    grids = np.meshgrid(*axes, indexing="ij", sparse=True)
    return sum(((g - c) / r) ** 2 for g, c, r in zip(grids, centre_mm, radii_mm, strict=True)) < 1


def abdomen(shape=SHAPE, spacing=SPACING, noise_hu=NOISE_HU, seed=0):
    """A noisy made-up abdomen: fat in a wall of muscle, a spine, a larger right and a smaller left kidney."""
    rng = np.random.default_rng(seed)
    hu = np.full(shape, AIR, np.float32)
    hu[ball(shape, spacing, (0, 0, 0), (1e6, 95, 140))] = MUSCLE
    hu[ball(shape, spacing, (0, 0, 0), (1e6, 82, 127))] = FAT
    hu[ball(shape, spacing, (0, 55, 0), (1e6, 22, 24))] = BONE
    labels = np.zeros(shape, np.uint8)
    labels[ball(shape, spacing, (0, 25, -60), (52, 27, 29))] = 1
    labels[ball(shape, spacing, (0, 25, 60), (48, 25, 25))] = 1
    hu[labels > 0] = KIDNEY
    hu = ndimage.gaussian_filter(hu, (0, 0.5, 0.5))
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), (0, 0.6, 0.6))
    return np.rint(hu + noise * (noise_hu / noise.std())).astype(np.int16), labels


@pytest.fixture(scope="module")
def host():
    hu, labels = abdomen()
    hu.setflags(write=False)
    labels.setflags(write=False)
    return hu, labels


def grain(hu, mask):
    """Standard deviation of what varies from pixel to pixel."""
    return float((hu - ndimage.gaussian_filter(hu.astype(float), (0, 1.5, 1.5)))[mask].std())


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


class TestFields:
    def test_a_field_has_mean_0_and_variance_1_and_is_smooth(self):
        field = smooth_field((60, 80, 100), (2.0, 1.0, 1.0), 8.0, np.random.default_rng(0))
        assert field.shape == (60, 80, 100)
        assert field.dtype == np.float32
        assert abs(field.mean()) < 0.15
        assert 0.85 < field.std() < 1.15
        assert np.diff(field, axis=2).std() < 0.25

    def test_noise_has_its_hosts_strength_and_correlation(self):
        rng = np.random.default_rng(1)
        for blur in (0.0, 0.5):
            host = 60 + 15 * ndimage.gaussian_filter(rng.standard_normal((3, 100, 120)), (0, blur, blur))
            noise = noise_like(host, (3, 90, 90), rng)
            assert noise.std() == pytest.approx(0.88 * host.std(), rel=0.12)
            theirs, ours = (np.corrcoef(a[..., 1:].ravel(), a[..., :-1].ravel())[0, 1] for a in (host, noise))
            assert ours == pytest.approx(theirs, abs=0.12)


class TestGrowLesion:
    @pytest.mark.parametrize("kind", [*TUMOURS, *CYSTS])
    def test_every_kind_grows_about_a_kidney_and_leaves_the_rest_alone(self, host, kind):
        hu, labels = host
        grown, marked, lesion = grow_lesion(hu, labels, SPACING, np.random.default_rng(4), kind)
        assert lesion is not None
        assert lesion.kind == kind
        assert (grown.dtype, marked.dtype, grown.shape) == (hu.dtype, labels.dtype, hu.shape)
        assert set(np.unique(marked)) <= {0, 1, 2}
        assert (marked == 2).any() == (lesion.label == 2)
        distances = [(np.arange(n) - c) * mm for n, c, mm in zip(hu.shape, lesion.centre, SPACING, strict=True)]
        z, y, x = np.meshgrid(*distances, indexing="ij", sparse=True)
        far = np.sqrt(z * z + y * y + x * x) > 1.3 * lesion.diameter_mm + 14
        assert np.array_equal(grown[far], hu[far])
        assert np.array_equal(marked[far], labels[far])

    def test_a_lone_slice_gets_a_section_through_a_lesion(self, host):
        hu, labels = (array[24:25] for array in host)
        found = 0
        for seed in range(12):
            grown, marked, lesion = grow_lesion(hu, labels, SPACING, np.random.default_rng(seed), "solid")
            found += lesion is not None and bool((marked == 2).any()) and not np.array_equal(grown, hu)
            assert grown.shape == hu.shape
        assert found >= 11

    def test_the_same_generator_grows_the_same_lesion(self, host):
        first, again, other = (grow_lesion(*host, SPACING, np.random.default_rng(seed)) for seed in (5, 5, 6))
        assert np.array_equal(first[0], again[0])
        assert first[2] == again[2]
        assert not np.array_equal(first[0], other[0])

    def test_without_a_kidney_nothing_grows(self, host):
        hu, labels = host
        grown, marked, lesion = grow_lesion(hu, np.zeros_like(labels), SPACING, np.random.default_rng(0))
        assert lesion is None
        assert np.array_equal(grown, hu)
        assert not marked.any()

    def test_bone_and_air_are_never_grown_over(self, host):
        hu, labels = host
        for seed in range(3):
            grown, marked, _ = grow_lesion(hu, labels, SPACING, np.random.default_rng(seed), "solid")
            assert not (marked[(hu < -400) & (labels == 0)] > 0).any()
            assert (grown[hu > 600] > 300).mean() > 0.98

    def test_tumours_are_about_as_bright_as_in_kits_and_keep_the_hosts_noise(self, host):
        hu, labels = host
        rng = np.random.default_rng(11)
        means, grains = [], []
        for _ in range(30):
            grown, marked, _ = grow_lesion(hu[20:29], labels[20:29], SPACING, rng, "solid")
            inner = ndimage.binary_erosion(marked == 2, np.ones((1, 3, 3)), iterations=2)
            if inner.sum() > 150:
                means.append(grown[inner].mean())
                grains.append(grain(grown, inner))
        assert 70 < np.median(means) < 125  # between a kidney of 140 HU and none
        assert np.quantile(means, 0.1) < 80
        assert np.quantile(means, 0.9) > 100
        calm = grain(hu[20:29], ndimage.binary_erosion(labels[20:29] == 1, np.ones((1, 3, 3)), iterations=3))
        assert np.median(grains) == pytest.approx(calm, rel=0.3)

    def test_cysts_hold_water(self):
        depth = np.full((4, 30, 30), 5.0, np.float32)
        rng = np.random.default_rng(0)
        levels = [lesion_hu("cyst", depth, SPACING, 10.0, 150.0, rng).mean() for _ in range(50)]
        assert min(levels) > -10
        assert max(levels) < 40

    def test_a_cyst_grows_around_a_tumour(self, host):
        hu, labels = (array[22:27] for array in host)
        marked = labels.copy()
        marked[2:3][(labels[2:3] == 1) & ball((1, *SHAPE[1:]), SPACING, (0, 12, -60), (1e6, 10, 10))] = 2
        reached = 0
        for seed in range(12):
            rng = np.random.default_rng(seed)
            grown, after, lesion = grow_lesion(hu, marked, SPACING, rng, draw_kind(CYSTS, rng))
            assert lesion is None or lesion.kind in CYSTS
            tumour = after == 2  # pushed aside and spread, perhaps
            assert tumour.sum() > 0.7 * (marked == 2).sum()
            assert (grown[tumour] < 60).mean() < 0.1  # the cyst's blurred rim
            reached += bool((ndimage.binary_dilation(tumour, iterations=3) & (grown < 60) & (after == 1)).any())
        assert reached

    def test_they_keep_away_from_the_skin(self, host, monkeypatch):
        hu, labels = host
        monkeypatch.setattr(lesions, "TUMOUR_MM", (80.0, 100.0))
        skin = ndimage.distance_transform_edt(hu > -250, sampling=(1e6, *SPACING[1:]))
        grown = 0
        for seed in range(6):
            _, marked, lesion = grow_lesion(hu, labels, SPACING, np.random.default_rng(seed), "solid")
            grown += lesion is not None
            assert lesion is None or skin[marked == 2].min() > lesions.SKIN_MM - 2 * SPACING[1]
            assert lesion is None or ndimage.label(marked == 2, np.ones((3, 3, 3)))[1] == 1
        assert grown > 2

    def test_a_lesion_seen_by_a_thin_scan_has_blurred_edges(self, host):
        hu, labels = host
        grown, marked, _ = grow_lesion(hu, labels, SPACING, np.random.default_rng(8), "cyst")
        changed = np.abs(grown.astype(int) - hu) > 5
        assert changed.sum() > (np.abs(grown.astype(int) - hu) > 60).sum() > 0
        assert np.array_equal(np.unique(marked), [0, 1])


class TestPaste:
    DONOR_KIDNEY, DONOR_TUMOUR = 240, 90

    def donor(self, tumour_px=12, noise_hu=40.0):
        """A slice of another size with a kidney and a round tumour in it."""
        rng = np.random.default_rng(5)
        y, x = np.mgrid[:120, :100]
        labels = np.zeros((1, 120, 100), np.uint8)
        labels[0, (y - 60) ** 2 + (x - 50) ** 2 < 25**2] = 1
        labels[0, (y - 60) ** 2 + (x - 40) ** 2 < tumour_px**2] = 2
        hu = np.choose(labels, [FAT, self.DONOR_KIDNEY, self.DONOR_TUMOUR]) + rng.normal(0, noise_hu, labels.shape)
        return np.rint(hu).astype(np.int16), labels

    def pasted(self, host, donor, seeds=30):
        """The slice before, and those after which a tumour was pasted."""
        hu, labels = host[0][24:25], host[1][24:25]
        for seed in range(seeds):
            new_hu, new_labels = paste_tumour(hu, labels, SPACING, *donor, np.random.default_rng(seed))
            if (new_labels == 2).any():
                yield hu, labels, new_hu, new_labels

    def test_a_tumour_lies_at_a_kidney_and_changes_nothing_else(self, host):
        found = list(self.pasted(host, self.donor()))
        assert len(found) > 20
        for hu, labels, new_hu, new_labels in found:
            assert new_hu.dtype == hu.dtype
            tumour = new_labels == 2
            assert ndimage.label(tumour)[1] == 1
            assert (ndimage.binary_dilation(tumour) & (labels == 1)).any()
            assert np.array_equal(new_labels[~tumour], labels[~tumour])
            reach = ndimage.binary_dilation(tumour, np.ones((1, 3, 3)), iterations=5)
            assert np.array_equal(new_hu[~reach], hu[~reach])

    def test_it_follows_the_contrast_and_the_noise_of_its_new_kidney(self, host):
        cores = [
            (new_hu, ndimage.binary_erosion(new_labels == 2, np.ones((1, 3, 3)), iterations=3))
            for _, _, new_hu, new_labels in self.pasted(host, self.donor())
        ]
        cores = [(new_hu, core) for new_hu, core in cores if core.sum() > 20]  # of fewer, the mean is noise
        assert len(cores) > 8
        means = [new_hu[core].mean() for new_hu, core in cores]
        low = self.DONOR_TUMOUR * KIDNEY / self.DONOR_KIDNEY
        assert low - 13 < min(means) < max(means) < self.DONOR_TUMOUR + 13
        ends = min(means), max(means)
        assert ends[0] < low + 8 < self.DONOR_TUMOUR - 8 < ends[1]
        calm = grain(host[0][24:25], ndimage.binary_erosion(host[1][24:25] == 1, np.ones((1, 3, 3)), iterations=3))
        assert np.median([grain(new_hu, core) for new_hu, core in cores]) == pytest.approx(calm, rel=0.35)

    @pytest.mark.parametrize("case", ["no kidney", "no tumour", "speck", "too large"])
    def test_where_none_can_be_nothing_changes(self, host, case):
        hu, labels = host[0][24:25], host[1][24:25]
        if case == "no kidney":
            labels = labels * 0
        donor = self.donor({"no tumour": 0, "speck": 2, "too large": 24}.get(case, 12))
        if case == "too large":
            donor = tuple(np.kron(array, np.ones((1, 8, 8), array.dtype)) for array in donor)
        new_hu, new_labels = paste_tumour(hu, labels, SPACING, *donor, np.random.default_rng(0))
        assert np.array_equal(new_hu, hu)
        assert np.array_equal(new_labels, labels)


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
            assert set(np.unique(labels)) <= {0, 1, 2}
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
