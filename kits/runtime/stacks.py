"""2.5D: the neighbouring slices as channels (paper section 2.3)."""

import torch

from kits.plan import OFFSETS


def stack_slices(slices_ZYX: torch.Tensor, centres: torch.Tensor, step: float = 1.0) -> torch.Tensor:
    """Each central slice with its neighbours as channels, (batch, 5, rows, columns).

    A neighbour that falls between two slices is interpolated linearly; beyond the ends the edge slice repeats.

    Args:
        slices_ZYX: standardised slices, (z, y, x), any float type.
        centres: indices of the central slices, int64 (batch,), on the CPU: where a neighbour lies is decided there, so
            that a GPU's queue of work is never waited for.
        step: slices between neighbours: 1 on the 3 mm grid, 3 mm / thickness on the native one.

    Example:
        >>> stack_slices(torch.arange(4.0).reshape(4, 1, 1), torch.tensor([0, 2]))[:, :, 0, 0]
        tensor([[0., 0., 0., 1., 2.],
                [0., 1., 2., 3., 3.]])
    """
    positions = (centres[:, None] + torch.tensor(OFFSETS) * step).clamp(0, len(slices_ZYX) - 1)
    below = positions.floor().long()
    weight = (positions - below)[..., None, None]
    stacks = slices_ZYX[below]
    if not weight.any():
        return stacks
    return torch.lerp(stacks, slices_ZYX[(below + 1).clamp_max(len(slices_ZYX) - 1)], weight.to(slices_ZYX))
