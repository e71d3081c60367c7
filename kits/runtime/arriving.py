"""From the device to the CPU: one result is waited for while the next is computed; what is no number is refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch

from kits.errors import KitsError

Key = TypeVar("Key")
Sent = tuple[torch.Tensor, "torch.cuda.Event | None"]


def arriving(
    chunks: Iterable[tuple[Key, Sequence[torch.Tensor]]],
) -> Iterator[tuple[Key, list[np.ndarray]]]:
    """Tensors as arrays, in order. A GPU's are waited for only when those of the next chunk have been asked for: so it
    has work while the CPU writes down one chunk and prepares another.

    Args:
        chunks: each a name of any kind, and tensors of one device.
    """
    held: tuple[Key, list[Sent]] | None = None
    for key, tensors in chunks:
        coming = key, [send(tensor) for tensor in tensors]
        if held:
            yield held[0], [receive(sent) for sent in held[1]]
        held = coming
        if tensors[0].device.type == "cpu":
            yield key, [receive(sent) for sent in held[1]]
            held = None
    if held:
        yield held[0], [receive(sent) for sent in held[1]]


def send(tensor: torch.Tensor) -> Sent:
    """A tensor's copy on the CPU, and what to wait for before it is read; what lies there is not copied."""
    if tensor.device.type == "cpu":
        return tensor, None
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record(torch.cuda.current_stream(tensor.device))
    return copy, arrived


def receive(sent: Sent) -> np.ndarray:
    """What was sent, once it is there."""
    tensor, arrived = sent
    if arrived:
        arrived.synchronize()
    return tensor.numpy()


def finite(probabilities: torch.Tensor) -> torch.Tensor:
    """Whether all of them are numbers, for ``check_finite``: bool, on their device."""
    return probabilities.sum().isfinite()


def check_finite(is_finite: np.ndarray | torch.Tensor) -> None:
    """Refuse what ``finite`` found to be none: labels of it would be an empty map.

    Raises:
        KitsError: some are not.
    """
    if not bool(is_finite):
        raise KitsError("The networks gave what is no number; use --precision fp32, --device cpu, or other weights.")
