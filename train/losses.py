"""What training minimises: weighted cross-entropy (paper section 3.1), and a Dice term of the scored regions.

Another term is one more function here with ``@term(NAME)``; a configuration names it in ``loss.terms``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.nn.functional import all_reduce
from scipy import ndimage
from torch.nn import functional

from kits.choices import KIDNEY, TUMOUR

from .config import Loss

EMPTY_PX = 100.0
"""Added to both sides of a slice's Dice that shows none of a region, and for each slice of a batch that shows none:
there less of it is better, but a few pixels are no disaster that a rare class would not survive."""

REGION_SHARES = (0.5, 0.5, 0.25)
"""How much the Dice of kidney with all that is in it, of tumour and of cysts counts."""

Term = Callable[[torch.Tensor, torch.Tensor, Loss], torch.Tensor]
TERMS: dict[str, Term] = {}
"""Name -> (float32 logits (batch, classes, y, x), int64 labels (batch, y, x), the loss's settings) -> a number."""


def term(name: str) -> Callable[[Term], Term]:
    """List a function in ``TERMS``."""

    def listed(function: Term) -> Term:
        TERMS[name] = function
        return function

    return listed


def loss(logits_BCYX: torch.Tensor, labels_BYX: torch.Tensor, how: Loss) -> torch.Tensor:
    """The sum of the terms, each as much as it counts.

    Args:
        logits_BCYX: (batch, classes, rows, columns), 3 classes or, with cysts, 4.
        labels_BYX: int64, below the number of classes.
        how: which terms there are, and their settings. ``l2`` is not one of these: see ``kernel_penalty``.
    """
    logits_BCYX = logits_BCYX.float()
    values = [times * TERMS[name](logits_BCYX, labels_BYX, how) for name, times in how.terms.items() if times]
    return torch.stack(values).sum()


@term("cross-entropy")
def cross_entropy(logits_BCYX: torch.Tensor, labels_BYX: torch.Tensor, how: Loss) -> torch.Tensor:
    """Keras' weighted categorical cross-entropy: each pixel's times its class' weight, then the mean over pixels."""
    weights = torch.tensor((*how.class_weights, how.class_weights[KIDNEY]), device=logits_BCYX.device)
    return (functional.cross_entropy(logits_BCYX, labels_BYX, reduction="none") * weights[labels_BYX]).mean()


@term("dice")
def soft_dice(logits_BCYX: torch.Tensor, labels_BYX: torch.Tensor, how: Loss) -> torch.Tensor:
    """One minus the soft Dice of the scored regions (KiTS19): all labels together, and label 2.

    Where cysts are a class, half of one minus theirs is added.

    Dice is that of all the batch's pixels, or in part (``how.each``) the mean of the slices' own. With several
    processes its sums are taken over all of them, so that the gradients are those of one large batch.
    """
    probabilities = logits_BCYX.softmax(1)
    regions = (
        (1 - probabilities[:, 0], labels_BYX > 0),
        *((probabilities[:, n], labels_BYX == n) for n in range(TUMOUR, probabilities.shape[1])),
    )
    sums = torch.stack([_sums(p, truth, how) for p, truth in regions])
    if dist.is_initialized():
        sums = all_reduce(sums)
    common, sizes, each, counted, shown, slices = sums.T
    shares = torch.tensor(REGION_SHARES, device=sums.device)
    smooth = torch.where(shown > 0, 1.0, EMPTY_PX * slices)
    pooled = (2 * common + smooth) / (sizes + smooth)
    return (1 - torch.lerp(pooled, each / counted, how.each)).mul(shares[: len(sums)]).sum()


def _sums(p: torch.Tensor, truth: torch.Tensor, how: Loss) -> torch.Tensor:
    """Sums of one region.

    Common and total size, the weighted sum of the slices' own Dice, the sum of their weights, how many slices show the
    region, and how many there are.
    """
    common, size, shown = (p * truth).sum((1, 2)), (p + truth).sum((1, 2)), truth.any(2).any(1)
    smooth = torch.where(shown, how.smooth_px, EMPTY_PX)
    weight = torch.where(shown, 1.0, how.empty)
    each = (2 * common + smooth) / (size + smooth)
    count = torch.ones_like(size).sum()
    return torch.stack([common.sum(), size.sum(), (weight * each).sum(), weight.sum(), shown.sum(), count])


def kernel_penalty(network: nn.Module) -> torch.Tensor:
    """Sum of squares of all convolution kernels: L2 regularisation in Keras' sense (section 3.1)."""
    kernels = [m.weight for m in network.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    return torch.stack([kernel.square().sum() for kernel in kernels]).sum()


FALSE_PX, FALSE_P = 20, 0.3
"""What is called tumour where none is counts as one if it has so many pixels of such a probability."""


@term("components")
def components(logits_BCYX: torch.Tensor, labels_BYX: torch.Tensor, how: Loss) -> torch.Tensor:
    """Each tumour in a slice counts as one, and so does, by half, each piece that is called so where none is."""
    p_BYX = logits_BCYX.softmax(1)[:, TUMOUR]
    total, count = p_BYX.new_zeros(()), 0.0
    for p, labels in zip(p_BYX, labels_BYX, strict=True):
        truth = (labels == TUMOUR).cpu().numpy()
        numbered, _ = ndimage.label(truth)
        called, _ = ndimage.label((p.detach() > FALSE_P).cpu().numpy())
        false = np.setdiff1d(np.unique(called), np.unique(called[truth]))
        sizes = np.bincount(called.ravel())
        for number in range(1, numbered.max() + 1):
            total = total + 1 - p[torch.from_numpy(numbered == number).to(p.device)].mean()
            count += 1
        for number in false[false > 0]:
            if sizes[number] >= FALSE_PX:
                total = total + 0.5 * p[torch.from_numpy(called == number).to(p.device)].mean()
                count += 0.5
    return total / max(count, 1.0)


@term("nested")
def nested(logits_BCYX: torch.Tensor, labels_BYX: torch.Tensor, how: Loss) -> torch.Tensor:
    """Cross-entropy of regions within each other: kidney with masses, masses, tumour, each yes or no; masses' Dice."""
    logits = logits_BCYX.unbind(1)
    weights = torch.tensor((*how.class_weights, how.class_weights[KIDNEY]), device=logits_BCYX.device)[labels_BYX]
    value = logits_BCYX.new_zeros(())
    classes = range(len(logits))
    for inner in ((1, 2, 3), (2, 3), (2,)):
        inside = [n for n in inner if n in classes]
        outside = [n for n in classes if n not in inside]
        region = torch.logsumexp(torch.stack([logits[n] for n in inside]), 0)
        rest = torch.logsumexp(torch.stack([logits[n] for n in outside]), 0)
        truth = torch.isin(labels_BYX, torch.tensor(inside)).float()
        value = value + (weights * functional.binary_cross_entropy_with_logits(region - rest, truth, reduction="none")).mean()
    p = logits_BCYX.softmax(1)[:, 2:].sum(1)
    truth = (labels_BYX >= 2).float()
    return value / 2 + 0.5 * (1 - (2 * (p * truth).sum() + 1) / ((p + truth).sum() + 1))
