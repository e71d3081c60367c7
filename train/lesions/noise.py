"""CT noise: measured in a host scan and drawn again, so that what is painted in has the host's own grain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import fft, ndimage

SOFT_TISSUE_HU = (-40, 280)
SMOOTH_PX = 3.0  # what changes slower than this is anatomy, not noise
CALM = 0.4  # the share of soft tissue that is used: that which varies least
LAG = (2, 8, 8)  # noise of abdominal CT is uncorrelated beyond some 8 px; slices hardly are at all
FEWEST_VOXELS = 300
ASSUMED_HU = 10.0  # where there is nothing to measure: the median of KiTS kidneys


def noise_like(host: np.ndarray, shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Noise with the strength and spatial correlation of a host's.

    The autocorrelation of the host is measured where soft tissue is calm, and white noise is filtered to the same.
    What comes out is weaker by a tenth or so, since some places are calm by chance only; a higher estimate would take
    organs' edges for noise.

    Args:
        host: HU (z, y, x), such as the surroundings of a lesion; 100 px a side are enough.
        shape: (z, y, x) of what is wanted.

    Returns:
        float32 HU, mean about 0.
    """
    residual, calm = _grain(host.astype(np.float32))
    if np.count_nonzero(calm) < FEWEST_VOXELS:
        blurred = ndimage.gaussian_filter(rng.standard_normal(tuple(shape), dtype=np.float32), (0, 0.7, 0.7))
        return blurred * np.float32(ASSUMED_HU / 0.42)  # 0.42: what the blur leaves of white noise
    lags = [min(lag, n - 1, m - 1) for lag, n, m in zip(LAG, host.shape, shape, strict=True)]
    correlation = _autocorrelation(residual, calm, lags)
    padded = [fft.next_fast_len(n + lag, real=True) for n, lag in zip(shape, lags, strict=True)]
    kernel = np.zeros(padded, np.float32)
    kernel[np.ix_(*(np.arange(-lag, lag + 1) for lag in lags))] = correlation
    power = np.maximum(fft.rfftn(kernel).real, 0)
    white = rng.standard_normal(padded, dtype=np.float32)
    noise = fft.irfftn(fft.rfftn(white) * np.sqrt(power), s=padded)
    return noise[tuple(slice(n) for n in shape)].astype(np.float32)


def surroundings(host: np.ndarray, centre: Sequence[float]) -> np.ndarray:
    """Surroundings of ``centre`` (voxels) that suffice to measure noise in, at most 9 x 121 x 121 voxels."""
    halves = (4, 60, 60)
    starts = [min(max(0, round(c) - half), n - 1) for c, half, n in zip(centre, halves, host.shape, strict=True)]
    return host[tuple(slice(start, start + 2 * half + 1) for start, half in zip(starts, halves, strict=True))]


def _grain(host: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The host without anatomy, 0 where that is not noise alone, and where it is."""
    sigma = (0, SMOOTH_PX, SMOOTH_PX)
    slight = ndimage.gaussian_filter(host, (0, 1, 1))
    soft = (slight > SOFT_TISSUE_HU[0]) & (slight < SOFT_TISSUE_HU[1])
    share = np.maximum(ndimage.gaussian_filter(soft.astype(np.float32), sigma), 1e-3)
    residual = np.where(soft, host - ndimage.gaussian_filter(host * soft, sigma) / share, 0)
    soft &= share > 0.8
    if not soft.any():
        return residual, soft
    variation = ndimage.gaussian_filter(residual**2, sigma) / share
    calm = soft & (variation <= np.quantile(variation[soft], CALM))
    return np.where(calm, residual, 0), calm


def _autocorrelation(values: np.ndarray, mask: np.ndarray, lags: list[int]) -> np.ndarray:
    """Autocorrelation of ``values`` (0 outside ``mask``) up to ``lags``, windowed, of shape 2 * lags + 1."""
    padded = [fft.next_fast_len(n + lag, real=True) for n, lag in zip(values.shape, lags, strict=True)]
    corner = np.ix_(*(np.arange(-lag, lag + 1) for lag in lags))
    sums, counts = (
        fft.irfftn(np.abs(fft.rfftn(array.astype(np.float32), s=padded)) ** 2, s=padded)[corner]
        for array in (values, mask)
    )
    window = np.ones(())
    for lag in lags:
        window = np.multiply.outer(window, np.hanning(2 * lag + 3)[1:-1])
    return sums / np.maximum(counts, 1) * window
