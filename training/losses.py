"""Contrastive losses: functions of tensors.

G global batch, K hard negatives per query, D embedding dimension.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(left: Tensor, right: Tensor, scale: Tensor, hard_negatives: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE (Radford et al., 2021, figure 3), with hard negatives Jina CLIP's InfoNCE+ (2024, eq. 2).

    left, right: (G, D) unit vectors, row i of one matches row i of the other.
    scale: () multiplier of the cosine similarities, already exponentiated.
    hard_negatives: (G, K, D) unit vectors. Left sees every right and every hard negative of the batch; right sees
        every left.

    Returns () the mean of both directions.
    """
    logits = scale * left @ right.T  # (G, G)
    targets = torch.arange(len(left), device=left.device)
    backward = F.cross_entropy(logits.T, targets)
    if hard_negatives is not None:
        logits = torch.cat([logits, scale * left @ hard_negatives.flatten(0, 1).T], dim=1)  # (G, G + G * K)
    return (F.cross_entropy(logits, targets) + backward) / 2
