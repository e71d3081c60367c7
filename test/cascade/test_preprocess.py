"""DALI's preprocessing equals references that share nothing with it, whole or in slabs, and results stay one's own."""

import numpy as np
import pytest
import torch

from kits.cascade import preprocess as module
from kits.cascade.preprocess import Slices
from kits.geometry import Grids
from kits.normalisation import Normalisation
from kits.plan import HU_WINDOW, NATIVE, PAPER

CPU = torch.device("cpu")
NORM = Normalisation(mean=58.5, std=73.25)
UNIT = Normalisation(mean=0.0, std=1.0, window=(-30000.0, 30000.0))
TOLERANCE_HU = 0.01  # DALI holds positions in float32, and neighbours here differ by up to 2500 HU
SHAPE = (13, 20, 22)
SHRINKING = [
    pytest.param((5, 20, 22), id="slices to 3 mm"),
    pytest.param((13, 10, 11), id="halved in plane"),
    pytest.param((5, 10, 11), id="both"),
    pytest.param((1, 20, 22), id="to one slice"),
    pytest.param((3, 40, 15), id="some axes shrink, one grows"),
]
GROWING = [
    pytest.param((13, 20, 22), id="nothing changes"),
    pytest.param((26, 20, 22), id="slices doubled"),
    pytest.param((31, 33, 29), id="all by odd factors"),
]


def noise(shape=SHAPE, seed=0):
    """HU far outside the window too: sharp edges, on which the order of filter and clip shows."""
    return np.random.default_rng(seed).integers(-1024, 1500, shape).astype(np.int16)


def filtered(hu, shape):
    """Resampled in float64 with the textbook's triangle: half-pixel centres, edges repeated, as wide as the shrink."""
    out = hu.astype(np.float64)
    for axis, (length, wanted) in enumerate(zip(hu.shape, shape, strict=True)):
        scale = length / wanted
        width = max(scale, 1.0)
        centres = (np.arange(wanted) + 0.5) * scale - 0.5
        beyond = int(width) + 2
        taps = np.arange(-beyond, length + beyond)
        weights = np.clip(1 - abs(taps - centres[:, None]) / width, 0, None)
        weights /= weights.sum(1, keepdims=True)
        padded = np.take(out, np.clip(taps, 0, length - 1), axis)
        out = np.moveaxis(np.tensordot(weights, padded, (1, axis)), 0, axis)
    return out


def preprocess(hu, shape, norm, device):
    return Slices(hu, shape, norm, device).slab()


def standardised(hu, norm):
    return (np.clip(hu, *norm.window) - norm.mean) / norm.std


@pytest.mark.parametrize("shape", GROWING + SHRINKING)
def test_resampling_equals_a_triangle_filter_written_out(shape):
    got = preprocess(noise(), shape, UNIT, CPU)
    assert got.dtype == torch.float32
    assert got.device == CPU
    np.testing.assert_allclose(got.numpy(), filtered(noise(), shape), rtol=0, atol=TOLERANCE_HU)


@pytest.mark.parametrize("shape", GROWING)
def test_where_nothing_shrinks_resampling_equals_torch_interpolation(shape):
    ct = torch.from_numpy(noise()).double()[None, None]
    expected = torch.nn.functional.interpolate(ct, size=shape, mode="trilinear", align_corners=False)[0, 0]
    got = preprocess(noise(), shape, UNIT, CPU)
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=TOLERANCE_HU)


@pytest.mark.parametrize("shape", GROWING + SHRINKING)
def test_values_are_clipped_after_resampling_and_then_standardised(shape):
    expected = standardised(filtered(noise(), shape), NORM)
    clipped_first = standardised(filtered(np.clip(noise(), *HU_WINDOW), shape), NORM)
    got = preprocess(noise(), shape, NORM, CPU).numpy()
    np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE_HU / NORM.std)
    if shape != SHAPE:
        assert abs(got - clipped_first).max() > 0.1, "the order of the steps would have been noticed"


def test_the_window_s_ends_and_all_beyond_come_to_the_standardised_ends():
    low, high = HU_WINDOW
    hu = np.array([-32768, -1024, low - 1, low, 0, high, high + 1, 32767], np.int16).reshape(1, 2, 4)
    got = preprocess(hu, hu.shape, NORM, CPU).numpy().ravel() * NORM.std + NORM.mean
    np.testing.assert_allclose(got, [low, low, low, low, 0, high, high, high], atol=1e-4)


def test_antialiasing_leaves_no_trace_of_alternating_slices():
    hu = np.full((24, 4, 4), 100, np.int16)
    hu[::2] = 200
    got = preprocess(hu, (6, 4, 4), UNIT, CPU)
    np.testing.assert_allclose(got[1:-1], 150, atol=TOLERANCE_HU)


@pytest.mark.parametrize("slab", [1, 3, 7])
@pytest.mark.parametrize("shape", [(29, 12, 14), (17, 12, 14), (41, 6, 7), (5, 12, 14)])
def test_slab_by_slab_equals_in_one_go(monkeypatch, slab, shape):
    hu = noise((41, 12, 14))
    whole = preprocess(hu, shape, UNIT, CPU)
    monkeypatch.setattr(module, "SLAB_SLICES", slab)
    torch.testing.assert_close(preprocess(hu, shape, UNIT, CPU), whole, rtol=0, atol=TOLERANCE_HU)


@pytest.mark.parametrize("shape", [(29, 12, 14), (41, 6, 7), (9, 12, 14), (82, 12, 14)])
def test_some_slices_are_those_of_the_whole(shape):
    hu = noise((41, 12, 14))
    whole = preprocess(hu, shape, UNIT, CPU)
    for start, stop in ((0, 4), (3, 7), (shape[0] - 1, shape[0])):
        part = Slices(hu, shape, UNIT, CPU).slab(start, stop)
        torch.testing.assert_close(part, whole[start:stop], rtol=0, atol=TOLERANCE_HU)


@pytest.mark.parametrize("shape", [SHAPE, (5, 10, 11)])
def test_a_result_is_not_overwritten_by_the_next_call(shape):
    first = preprocess(noise(seed=1), shape, NORM, CPU)
    copy = first.clone()
    for seed in range(2, 6):
        assert not torch.equal(preprocess(noise(seed=seed), shape, NORM, CPU), first)
    torch.testing.assert_close(first, copy, rtol=0, atol=0)


def test_volumes_of_other_sizes_and_norms_do_not_disturb_one_another():
    cases = [
        (noise(shape, seed), norm) for seed, shape in enumerate([SHAPE, (9, 30, 8), SHAPE]) for norm in (NORM, UNIT)
    ]
    for hu, norm in cases * 2:
        shape = tuple(n // 2 for n in hu.shape)
        expected = standardised(filtered(hu, shape), norm)
        np.testing.assert_allclose(preprocess(hu, shape, norm, CPU), expected, rtol=0, atol=TOLERANCE_HU)


def test_the_input_may_be_a_view_and_is_left_as_it_was():
    hu = noise()
    view = hu[::-1, 2:18, ::2]
    kept = view.copy()
    got = preprocess(view, (5, 8, 6), UNIT, CPU)
    np.testing.assert_allclose(got, filtered(kept, (5, 8, 6)), rtol=0, atol=TOLERANCE_HU)
    np.testing.assert_array_equal(view, kept)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: see test/gpu.md")
@pytest.mark.parametrize("shape", GROWING + SHRINKING)
def test_the_gpu_gives_the_same_as_the_cpu(monkeypatch, shape):
    monkeypatch.setattr(module, "SLAB_SLICES", 4)
    got = [preprocess(noise(seed=seed), shape, NORM, torch.device("cuda")) for seed in range(8)]
    for seed, one in enumerate(got):
        assert one.device.type == "cuda"
        torch.testing.assert_close(one.cpu(), preprocess(noise(seed=seed), shape, NORM, CPU), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("shape", "spacing", "expected"),
    [
        pytest.param((100, 512, 512), (3.0, 0.78, 0.78), (100, 512, 512), id="already as wanted"),
        pytest.param((29, 512, 796), (5.0, 0.62, 1.1), (48, 512, 796), id="in plane at both ends of the range"),
        pytest.param((60, 512, 796), (3.0, 0.451, 0.451), (60, 296, 460), id="0.451 mm in plane comes to 0.78 mm"),
        pytest.param((100, 100, 90), (3.0, 3.0, 3.0), (100, 385, 346), id="3 mm in plane comes to 0.78 mm"),
        pytest.param((60, 512, 512), (3.0, 0.39, 0.39), (60, 256, 256), id="0.39 mm in plane comes to 0.78 mm"),
        pytest.param((60, 300, 400), (3.0, 0.78, 1.56), (60, 300, 800), id="one axis outside the range"),
        pytest.param((1, 512, 512), (1.0, 0.8, 0.8), (1, 512, 512), id="one thin slice"),
        pytest.param((1, 512, 512), (10.0, 0.8, 0.8), (3, 512, 512), id="one thick slice"),
        pytest.param((1000, 512, 512), (0.3, 0.8, 0.8), (100, 512, 512), id="slices of 0.3 mm"),
        pytest.param((2, 512, 512), (0.3, 0.8, 0.8), (1, 512, 512), id="thinner than one slice"),
        pytest.param((3, 1, 1), (3.0, 0.1, 0.1), (3, 1, 1), id="never fewer than one pixel"),
    ],
)
def test_the_working_shape(shape, spacing, expected):
    grids = Grids.from_shape(shape, spacing, NATIVE)
    assert grids.resliced.shape == expected
    assert grids.working.shape == (shape[0], *expected[1:])


def test_the_paper_keeps_kits_own_pixels_however_fine():
    for spacing, expected in (((3.0, 0.4, 0.4), (60, 512, 796)), ((3.0, 0.39, 0.39), (60, 256, 398))):
        assert Grids.from_shape((60, 512, 796), spacing, PAPER).working.shape == expected


def test_air_is_what_air_becomes():
    air = np.full((1, 2, 2), -1000, np.int16)
    np.testing.assert_allclose(preprocess(air, air.shape, NORM, CPU), NORM.air, rtol=1e-6)
    assert NORM.air == pytest.approx((-30 - 58.5) / 73.25)
