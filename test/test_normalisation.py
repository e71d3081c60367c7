"""One normalisation for arrays, tensors and DALI's graphs (the last: test/cascade/test_preprocess.py)."""

import numpy as np
import torch

from kits.normalisation import Normalisation
from kits.plan import HU_WINDOW

NORM = Normalisation(mean=60.0, std=80.0)
HU = np.array([-1000.0, -30.0, 60.0, 300.0, 2000.0], np.float32)
EXPECTED = np.array([-1.125, -1.125, 0.0, 3.0, 3.0], np.float32)


def test_arrays_and_tensors_are_clipped_and_standardised_alike() -> None:
    assert NORM.window == HU_WINDOW
    assert np.array_equal(NORM.apply(HU), EXPECTED)
    tensor = torch.from_numpy(HU)
    assert torch.equal(NORM.apply(tensor), torch.from_numpy(EXPECTED))
    assert torch.equal(tensor, torch.from_numpy(HU)), "the input is left as it was"


def test_a_graphs_own_clip_takes_the_place_of_the_arrays() -> None:
    clipped = []

    def clip(values: np.ndarray, low: float, high: float) -> np.ndarray:
        clipped.append((low, high))
        return np.clip(values, low, high)

    assert np.array_equal(NORM.apply(HU, clip), EXPECTED)
    assert clipped == [HU_WINDOW]


def test_air_is_the_least_input() -> None:
    assert NORM.air == EXPECTED[0]
