"""Several processes, as ``torchrun`` starts them: PyTorch's distributed data parallelism, and one process without it.

Each process takes its part of every batch, and gradients are averaged. Batch norm uses the statistics of the whole
batch on GPUs (``SyncBatchNorm``); on CPUs, for which PyTorch has none, each process normalises with its own part's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from kits.errors import InputError

PATIENCE = timedelta(hours=2)
"""How long processes wait for the first one, which alone scores the validation cases."""


@contextmanager
def workers(on: str = "auto") -> Iterator[None]:
    """Join the other processes, if ``torchrun`` started any, and leave them in the end.

    Args:
        on: ``auto``, ``cuda`` or ``cpu``; decides by what they talk: NCCL on GPUs, gloo on CPUs.

    Raises:
        InputError: there are more processes than GPUs.
    """
    if not dist.is_torchelastic_launched():
        yield
        return
    if on_gpus(on):
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise InputError(
                f"There are {torch.cuda.device_count()} GPUs and more processes; give torchrun --nproc-per-node as "
                "many as there are GPUs, or add --device cpu."
            )
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if on_gpus(on) else "gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def on_gpus(on: str) -> bool:
    """Whether a device's name means GPUs here."""
    return on != "cpu" and torch.cuda.is_available()


def launched() -> bool:
    """Whether ``torchrun`` started this process."""
    return dist.is_torchelastic_launched()


def rank() -> int:
    """Which process this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def device(name: str) -> str:
    """This process' own GPU, where there are several processes and GPUs."""
    if dist.is_initialized() and on_gpus(name):
        return f"cuda:{os.environ['LOCAL_RANK']}"
    return name


def wrap(network: nn.Module, on: torch.device) -> nn.Module:
    """The network, or what averages its gradients over the processes."""
    if not dist.is_initialized():
        return network
    if on.type == "cuda":
        return DistributedDataParallel(nn.SyncBatchNorm.convert_sync_batchnorm(network), device_ids=[on.index])
    return DistributedDataParallel(network, broadcast_buffers=False)


def wait() -> None:
    """Until all processes are here."""
    if dist.is_initialized():
        dist.barrier()


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
