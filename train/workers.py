"""Several processes, as ``torchrun`` starts them: PyTorch's distributed data parallelism, and one process without it.

Each process takes its part of every batch, and gradients are averaged. Batch norm uses the statistics of the whole
batch on GPUs (``SyncBatchNorm``); on CPUs, for which PyTorch has none, each process normalises with its own part's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


@contextmanager
def workers() -> Iterator[None]:
    """Join the other processes, if ``torchrun`` started any, and leave them in the end."""
    if not dist.is_torchelastic_launched():
        yield
        return
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Which process this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def device(name: str) -> str:
    """This process' own GPU, where there are several processes and GPUs."""
    if dist.is_initialized() and torch.cuda.is_available() and name != "cpu":
        return f"cuda:{os.environ['LOCAL_RANK']}"
    return name


def wrap(network: nn.Module, on: torch.device) -> nn.Module:
    """The network, or what averages its gradients over the processes."""
    if not dist.is_initialized():
        return network
    if on.type == "cuda":
        return DistributedDataParallel(nn.SyncBatchNorm.convert_sync_batchnorm(network), device_ids=[on.index])
    return DistributedDataParallel(network, broadcast_buffers=False)


def mean(value: torch.Tensor) -> float:
    """A number's mean over all processes."""
    value = value.detach().clone()
    if dist.is_initialized():
        dist.all_reduce(value)
    return value.item() / count()


def from_first(value: float, on: torch.device) -> float:
    """What the first process says; the others wait for it."""
    said = torch.tensor(value, dtype=torch.float64, device=on)
    if dist.is_initialized():
        dist.broadcast(said, 0)
    return said.item()
