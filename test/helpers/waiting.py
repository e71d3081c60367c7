"""Whether anything would wait for a GPU, seen without one."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class NothingWaits(TorchDispatchMode):
    """Refuses what a GPU is waited for: tensors from the CPU among the device's; meta tensors refuse ``item``."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        assert all(leaf.device.type == "meta" for leaf in leaves), func
        return func(*args, **(kwargs or {}))
