"""2.5D: the neighbouring slices as channels (paper section 2.3)."""

from collections.abc import Sequence

import torch

from kits.plan import OFFSETS


def stack_slices(slices_ZYX: torch.Tensor, centres: torch.Tensor, step: float = 1.0) -> torch.Tensor:
    """Each central slice with its neighbours as channels, (batch, 5, rows, columns).

    A neighbour that falls between two slices is interpolated linearly; beyond the ends the edge slice repeats.

    Args:
        slices_ZYX: standardised slices, (z, y, x), any float type.
        centres: indices of the central slices, int64 (batch,), on the slices' device: a GPU that is indexed from the
            CPU is waited for at every batch.
        step: slices between neighbours: 1 on the 3 mm grid, 3 mm / thickness on the native one.

    Example:
        >>> stack_slices(torch.arange(4.0).reshape(4, 1, 1), torch.tensor([0, 2]))[:, :, 0, 0]
        tensor([[0., 0., 0., 1., 2.],
                [0., 1., 2., 3., 3.]])
    """
    device = centres.device
    offsets = torch.arange(OFFSETS[0], OFFSETS[-1] + 1, device=device)
    positions = (centres[:, None] + offsets * step).clamp(0, len(slices_ZYX) - 1)
    below = positions.floor().long()
    stacks = slices_ZYX[below]
    if float(step).is_integer():  # asking the numbers themselves would wait for a GPU
        return stacks
    weight = (positions - below)[..., None, None]
    return torch.lerp(stacks, slices_ZYX[(below + 1).clamp_max(len(slices_ZYX) - 1)], weight.to(slices_ZYX))


def indices_on(device: torch.device, indices: Sequence[int]) -> torch.Tensor:
    """Indices as int64 on a device, sent there, if at all, without waiting for what it has to do."""
    if isinstance(indices, range):
        return torch.arange(indices.start, indices.stop, indices.step, device=device)
    sent = torch.tensor(indices)
    return sent.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else sent.to(device)
