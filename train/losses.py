"""What training minimises: weighted cross-entropy (paper section 3.1), with a Dice term of the scored regions."""

import torch
from torch.nn import functional


def loss(logits_BCYX: torch.Tensor, labels_BYX: torch.Tensor, class_weights: torch.Tensor) -> torch.Tensor:
    """Weighted categorical cross-entropy plus one minus the batch's soft Dice of kidney+tumour and of tumour.

    The regions are the scored ones (KiTS19): labels 1 and 2 together, and label 2.

    Args:
        logits_BCYX: (batch, 3, rows, columns).
        labels_BYX: int64 in {0, 1, 2}.
        class_weights: of background, kidney and tumour, float (3,).
    """
    entropy = functional.cross_entropy(logits_BCYX.float(), labels_BYX, class_weights)
    probabilities = logits_BCYX.float().softmax(1)
    regions = ((1 - probabilities[:, 0], labels_BYX > 0), (probabilities[:, 2], labels_BYX > 1))
    dice = sum((2 * (p * truth).sum() + 1) / (p.sum() + truth.sum() + 1) for p, truth in regions)
    return entropy + 1 - dice / len(regions)
