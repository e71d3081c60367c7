"""A central slice and its neighbours: repeated at the edges, interpolated in between."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kits.runtime.stacks import OFFSETS, indices_on, stack_slices


def ramp(depth, **settings):
    """Slices that hold their own index, (depth, 1, 1)."""
    return torch.arange(depth, **({"dtype": torch.float32} | settings)).reshape(depth, 1, 1)


def channels(stacks):
    return stacks[:, :, 0, 0].tolist()


def test_the_central_slice_is_the_middle_of_five_channels():
    slices = torch.randn(9, 4, 3, generator=torch.Generator().manual_seed(0))
    stacks = stack_slices(slices, torch.tensor([4, 2]))
    assert stacks.shape == (2, 5, 4, 3)
    torch.testing.assert_close(stacks[0], slices[2:7], rtol=0, atol=0)
    torch.testing.assert_close(stacks[1], slices[0:5], rtol=0, atol=0)


def test_the_edge_slices_repeat():
    stacks = stack_slices(ramp(4), torch.tensor([0, 1, 2, 3]))
    assert channels(stacks) == [[0, 0, 0, 1, 2], [0, 0, 1, 2, 3], [0, 1, 2, 3, 3], [1, 2, 3, 3, 3]]


@pytest.mark.parametrize("step", [0.3, 1.0, 10.0])
def test_a_volume_of_one_slice_shows_it_five_times(step):
    assert channels(stack_slices(ramp(1) + 7, torch.tensor([0]), step)) == [[7] * 5]


def test_whole_steps_skip_slices():
    assert channels(stack_slices(ramp(9), torch.tensor([4]), step=2.0)) == [[0, 2, 4, 6, 8]]


def test_thick_slices_interpolate_between_neighbours():
    assert channels(stack_slices(ramp(5), torch.tensor([2]), step=0.5)) == [[1, 1.5, 2, 2.5, 3]]


@settings(max_examples=60, deadline=None)
@given(
    depth=st.integers(1, 40),
    step=st.floats(0.15, 30.0),  # slices of 20 mm and of 0.1 mm
    seed=st.integers(0, 2**16),
    data=st.data(),
)
def test_any_step_equals_linear_interpolation_that_holds_the_ends(depth, step, seed, data):
    centres = data.draw(st.lists(st.integers(0, depth - 1), min_size=1, max_size=4))
    values = np.random.default_rng(seed).normal(size=(depth, 2, 1)).astype(np.float32)
    stacks = stack_slices(torch.from_numpy(values), torch.tensor(centres), step).numpy()
    for centre, stack in zip(centres, stacks, strict=True):
        positions = centre + np.array(OFFSETS) * step
        for row in range(2):
            expected = np.interp(positions, np.arange(depth), values[:, row, 0])
            np.testing.assert_allclose(stack[:, row, 0], expected, atol=2e-4)
        np.testing.assert_array_equal(stack[2], values[centre])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("step", [1.0, 0.5])
def test_the_slices_keep_their_type(dtype, step):
    stacks = stack_slices(ramp(5, dtype=dtype), torch.tensor([2]), step)
    assert stacks.dtype == dtype
    assert channels(stacks) == [[2 + offset * step for offset in OFFSETS]]


@pytest.mark.parametrize("indices", [range(1, 7, 2), [4, 0, 2]])
def test_indices_on_a_device_are_those_that_were_given(indices):
    got = indices_on(torch.device("cpu"), indices)
    assert (got.tolist(), got.dtype) == (list(indices), torch.int64)


def test_the_slices_are_left_as_they_were():
    slices = ramp(5)
    stack_slices(slices, torch.tensor([2]), 0.5).add_(1)
    stack_slices(slices, torch.tensor([2])).add_(1)
    assert slices.flatten().tolist() == [0, 1, 2, 3, 4]
