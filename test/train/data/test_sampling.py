"""Sampling: which slice comes next."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from test.helpers.threshold import phantom
from test.train.made import SMALL, SPACING, made_scans
from train.config import GROUPS
from train.data.cache import scan_of
from train.data.sampling import Emphasis, draw, draw_batch, find_sites, weights_of
from train.presets import PRESETS


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
        sites = [site for group in find_sites(scans, role, emphasis=Emphasis(thin=3)).values() for site in group]
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


def test_each_tumour_is_drawn_as_often_however_few_slices_show_it() -> None:
    labels = np.zeros((40, 60, 60), np.uint8)
    labels[:, 10:50, 10:50] = 1
    labels[2:4, 20:30, 20:30] = 2  # two slices
    labels[8:38, 20:30, 20:30] = 2  # thirty
    scans = [scan_of("a", "a", np.zeros(labels.shape, np.int16), labels, SPACING)]
    rng = np.random.default_rng(0)
    small = {}
    for by_tumour in (0.0, 0.5, 1.0):
        sites = find_sites(scans, "segment", emphasis=Emphasis(by_tumour=by_tumour))
        drawn = [draw(sites, "KT", [1.0], rng).slice for _ in range(2000)]
        small[by_tumour] = np.mean([z < 4 for z in drawn])
        assert len({site.weight for site in sites["K", 0]}) == 1
    assert small[0.0] == pytest.approx(2 / 32, abs=0.02)
    assert small[0.5] == pytest.approx(1 / (1 + 15**0.5), abs=0.03)
    assert small[1.0] == pytest.approx(0.5, abs=0.04)


def test_the_shortest_tumour_in_view_decides_a_slices_weight() -> None:
    labels = np.zeros((6, 40, 40), np.uint8)
    labels[0:4, :10, :10] = 2
    labels[3, 20:30, 20:30] = 2
    assert weights_of(labels, Emphasis(by_tumour=1.0)) == [0.25, 0.25, 0.25, 1.0, 1.0, 1.0]
    assert weights_of(labels, Emphasis()) == [1.0] * 6


def test_slices_with_cysts_are_drawn_more_often_among_their_kind() -> None:
    labels = np.zeros((20, 60, 60), np.uint8)
    labels[:, 10:50, 10:50] = 1
    labels[3:5, 20:30, 20:30] = 3
    scans = [scan_of("a", "a", np.zeros(labels.shape, np.int16), labels, SPACING)]
    sites, rng = find_sites(scans, "segment", emphasis=Emphasis(cysts=9.0)), np.random.default_rng(0)
    drawn = [draw(sites, "K", [1.0], rng).slice for _ in range(2000)]
    assert np.mean([z in (3, 4) for z in drawn]) == pytest.approx(18 / 36, abs=0.04)


def test_far_from_kidneys_and_in_volumes_without_any_stage_2_looks_too_if_it_is_told_so() -> None:
    labels = np.zeros((40, 60, 60), np.uint8)
    labels[15:25, 10:50, 10:50] = 1
    hu = np.zeros(labels.shape, np.int16)
    scans = [scan_of("kidney", "a", hu, labels, SPACING), scan_of("chest", "b", hu, labels * 0, SPACING),
             scan_of("lone", "c", hu[:1], labels[:1], SPACING)]  # fmt: skip

    def drawn(far: float) -> list[set[int]]:
        sites = find_sites(scans, "segment", emphasis=Emphasis(far=far))
        shown = [site for found in sites.values() for site in found]
        assert {site.weight for site in shown} == ({1.0, far} if far else {1.0})
        assert all(site.weight == far for site in sites["B", 0] if site.scan == 0 and not 10 <= site.slice < 30)
        return [{site.slice for site in shown if site.scan == scan} for scan in range(3)]

    assert drawn(0.0) == [{*range(10, 30)}, {20}, {0}]
    assert drawn(0.3) == [{*range(40)}, {*range(40)}, {0}]


def test_sources_are_drawn_by_their_shares() -> None:
    hu, labels = phantom(shape=(8, 96, 128), radius_mm=(9.0, 14.0, 14.0))
    scans = [scan_of(str(n), str(n), hu.repeat(40, 0), labels.repeat(40, 0), SPACING, source=n) for n in (0, 1)]
    sites = find_sites(scans, "locate")
    rng = np.random.default_rng(0)
    drawn = [s.scan for _ in range(100) for s in draw_batch(sites, [1.0, 3.0], replace(SMALL, role="locate"), rng)]
    assert np.mean(drawn) == pytest.approx(0.75, abs=0.08)
