"""A GPU that there is not: its tensors have no values, and refuse to meet those of the CPU as a real GPU's would."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch._subclasses.fake_tensor import FakeTensorMode


@contextmanager
def pretended_gpu() -> Iterator[torch.device]:
    """The GPU, inside; what NumPy made is still the CPU's there."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield torch.device("cuda", 0)
