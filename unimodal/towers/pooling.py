"""Token states -> one vector.

B batch, L tokens, W width of the tower. `mask` is true at real tokens; None: all are real.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def cls_pool(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """tokens: (B, L, W) -> (B, W), the first token."""
    return tokens[:, 0]


def mean_pool(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """tokens: (B, L, W), mask: (B, L) -> (B, W), the mean over real tokens."""
    if mask is None:
        return tokens.mean(dim=1)
    weights = mask.to(tokens.dtype)[:, :, None]  # (B, L, 1)
    return (tokens * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def last_pool(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """tokens: (B, L, W), mask: (B, L) -> (B, W), the last real token (padding on the right)."""
    if mask is None:
        return tokens[:, -1]
    rows = torch.arange(len(tokens), device=tokens.device)
    return tokens[rows, mask.sum(dim=1) - 1]


POOLING = {"cls": cls_pool, "mean": mean_pool, "last": last_pool}


class AttentionPool(nn.Module):
    """One learned query attends to the tokens.

    Set Transformer's PMA (Lee et al., 2019), the MAP head of SigLIP.
    """

    def __init__(self, width: int, num_heads: int | None = None) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, width) * width**-0.5)
        self.attention = nn.MultiheadAttention(
            width, num_heads or _num_heads(width), batch_first=True
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """tokens: (B, L, W), mask: (B, L) -> (B, W)."""
        tokens = self.norm(tokens)
        query = self.query.expand(len(tokens), -1, -1)  # (B, 1, W)
        hidden = None if mask is None else ~mask
        pooled, _ = self.attention(
            query, tokens, tokens, key_padding_mask=hidden, need_weights=False
        )
        return pooled[:, 0]  # type: ignore[no-any-return]  # nn.Module is untyped


def _num_heads(width: int) -> int:
    """Heads of 64 dimensions where they divide the width, else as many of 8, 4, 2, 1 as do."""
    if width >= 64 and width % (width // 64) == 0:
        return width // 64
    return next(count for count in (8, 4, 2, 1) if width % count == 0)
