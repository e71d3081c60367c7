"""What training minimises: weighted cross-entropy (paper section 3.1), and a Dice term of the scored regions."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional

from train.config import Loss


def loss(logits_BCYX: torch.Tensor, labels_BYX: torch.Tensor, how: Loss) -> torch.Tensor:
    """Weighted categorical cross-entropy, and one minus the soft Dice of kidney+tumour and of tumour.

    The cross-entropy is Keras': each pixel's is multiplied with its class' weight, then the mean over pixels is taken.
    The regions of the Dice term are the scored ones (KiTS19): labels 1 and 2 together, and label 2. Dice is that of all
    the batch's pixels, or in part (``how.each``) the mean over the slices that show the region. With several processes
    its sums are taken over all of them, so that the gradients are those of one large batch.

    Args:
        logits_BCYX: (batch, 3, rows, columns).
        labels_BYX: int64 in {0, 1, 2}.
        how: weights, and which terms there are. ``l2`` is not one of these: see ``kernel_penalty``.
    """
    weights = torch.tensor(how.class_weights, device=logits_BCYX.device)
    logits_BCYX = logits_BCYX.float()
    entropy = functional.cross_entropy(logits_BCYX, labels_BYX, reduction="none") * weights[labels_BYX]
    if not how.dice:
        return entropy.mean()
    probabilities = logits_BCYX.softmax(1)
    regions = ((1 - probabilities[:, 0], labels_BYX > 0), (probabilities[:, 2], labels_BYX > 1))
    sums = torch.stack([_sums(p, truth) for p, truth in regions])
    if dist.is_initialized():
        sums = all_reduce(sums)
    common, sizes, each, count = sums.T
    pooled = (2 * common + 1) / (sizes + 1)
    dice = torch.where(count > 0, torch.lerp(pooled, each / count.clamp(min=1), how.each), pooled)
    return entropy.mean() + 1 - dice.mean()


def _sums(p: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Of one region: common and total size, the sum of the slices' own Dice, and how many slices show it."""
    common, size, shown = (p * truth).sum((1, 2)), (p + truth).sum((1, 2)), truth.any(2).any(1)
    each = (2 * common + 1) / (size + 1) * shown
    return torch.stack([common.sum(), size.sum(), each.sum(), shown.sum()])


def kernel_penalty(network: nn.Module) -> torch.Tensor:
    """Sum of squares of all convolution kernels: L2 regularisation in Keras' sense (section 3.1)."""
    kernels = [m.weight for m in network.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    return torch.stack([kernel.square().sum() for kernel in kernels]).sum()
