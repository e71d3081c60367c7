"""What training minimises: weighted cross-entropy (paper section 3.1), and a Dice term of the scored regions."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional

from .config import Loss

SMOOTH_PX = 10.0
"""Added to both sides of the own Dice of a slice that shows a region; more would let the smallest tumours go."""
EMPTY_PX = 100.0
"""The same for a slice that shows none of it, so that there less of it is better."""


def loss(logits_BCYX: torch.Tensor, labels_BYX: torch.Tensor, how: Loss) -> torch.Tensor:
    """Weighted categorical cross-entropy, and one minus the soft Dice of kidney+tumour and of tumour.

    The cross-entropy is Keras': each pixel's is multiplied with its class' weight, then the mean over pixels is taken.
    The regions of the Dice term are the scored ones (KiTS19): labels 1 and 2 together, and label 2. Dice is that of all
    the batch's pixels, or in part (``how.each``) the mean of the slices' own. With several processes its sums are taken
    over all of them, so that the gradients are those of one large batch.

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
    sums = torch.stack([_sums(p, truth, how.empty) for p, truth in regions])
    if dist.is_initialized():
        sums = all_reduce(sums)
    common, sizes, each, counted = sums.T
    pooled = (2 * common + 1) / (sizes + 1)
    dice = torch.lerp(pooled, each / counted, how.each)
    return entropy.mean() + 1 - dice.mean()


def _sums(p: torch.Tensor, truth: torch.Tensor, empty: float) -> torch.Tensor:
    """Of one region: common and total size, the weighted sum of the slices' own Dice, and the sum of their weights."""
    common, size, shown = (p * truth).sum((1, 2)), (p + truth).sum((1, 2)), truth.any(2).any(1)
    smooth = torch.where(shown, SMOOTH_PX, EMPTY_PX)
    weight = torch.where(shown, 1.0, empty)
    each = (2 * common + smooth) / (size + smooth)
    return torch.stack([common.sum(), size.sum(), (weight * each).sum(), weight.sum()])


def kernel_penalty(network: nn.Module) -> torch.Tensor:
    """Sum of squares of all convolution kernels: L2 regularisation in Keras' sense (section 3.1)."""
    kernels = [m.weight for m in network.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    return torch.stack([kernel.square().sum() for kernel in kernels]).sum()
