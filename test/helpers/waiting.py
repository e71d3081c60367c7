"""Whether anything would wait for a GPU, or mistake the CPU's tensors for its own, seen without one."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class NothingWaits(TorchDispatchMode):
    """Refuses what a GPU is waited for: tensors from the CPU among the device's; meta tensors refuse ``item``."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        assert all(leaf.device.type == "meta" for leaf in leaves), func
        return func(*args, **(kwargs or {}))


class OneDevice(TorchDispatchMode):
    """Refuses what no GPU does: an operation on tensors of it and of the CPU, but for the CPU's single numbers.

    Meta tensors stand in for a GPU's; making them of the CPU's is what ``Tensor.to`` is for.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        devices = {leaf.device.type for leaf in leaves if leaf.dim() or leaf.device.type != "cpu"}
        assert len(devices) <= 1, func
        return func(*args, **(kwargs or {}))
