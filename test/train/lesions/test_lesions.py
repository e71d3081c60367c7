"""Lesions that augmentation draws: they fit their host, whether grown or pasted."""

import numpy as np
import pytest
from scipy import ndimage

from test.train.abdomen import (
    FAT,
    KIDNEY,
    SHAPE,
    SPACING,
    ball,
    grain,
)
from train.lesions import grow as lesions
from train.lesions.fields import smooth_field
from train.lesions.grow import grow_lesion
from train.lesions.noise import noise_like
from train.lesions.paste import paste_tumour
from train.lesions.tissue import CYSTS, TUMOURS, draw_kind, lesion_hu


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
        assert set(np.unique(marked)) <= {0, 1, 2, 3}
        assert (marked == 3).any() == (lesion.label == 3)
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
            reached += bool((ndimage.binary_dilation(tumour, iterations=3) & (grown < 60) & (after == 3)).any())
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
        assert np.array_equal(np.unique(marked), [0, 1, 3])


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
