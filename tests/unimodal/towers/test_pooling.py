"""Each pooling equals its definition, text by text, and never sees the padding."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from unimodal.towers.pooling import POOLING, AttentionPool

# B batch, L tokens, W width of the tower
Naive = Callable[[Tensor], Tensor]
NAIVE: dict[str, Naive] = {
    "cls": lambda tokens: tokens[0],
    "mean": lambda tokens: (
        sum(tokens, start=torch.zeros(tokens.shape[1], dtype=tokens.dtype))
        / len(tokens)
    ),
    "last": lambda tokens: tokens[-1],
}
LENGTHS = (1, 7, 4, 5)


def padded() -> tuple[list[Tensor], Tensor, Tensor]:
    """Texts of four lengths, together (B, L, W) with large junk as padding, and
    their mask (B, L).
    """
    generator = torch.Generator().manual_seed(0)
    texts = [
        torch.randn(length, 16, generator=generator, dtype=torch.float64)
        for length in LENGTHS
    ]
    tokens = 1e4 * torch.randn(
        len(texts), max(LENGTHS), 16, generator=generator, dtype=torch.float64
    )
    mask = torch.zeros(len(texts), max(LENGTHS), dtype=torch.bool)
    for row, text in enumerate(texts):
        tokens[row, : len(text)] = text
        mask[row, : len(text)] = True
    return texts, tokens, mask


@pytest.mark.parametrize("name", POOLING)
def test_pooling_equals_the_naive_loop_whatever_the_padding_holds(name: str) -> None:
    texts, tokens, mask = padded()
    expected = torch.stack([NAIVE[name](text) for text in texts])
    torch.testing.assert_close(
        POOLING[name](tokens, mask), expected, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("name", POOLING)
def test_no_mask_means_that_all_tokens_are_real(name: str) -> None:
    texts, _, _ = padded()
    for text in texts:
        torch.testing.assert_close(
            POOLING[name](text[None], None)[0], NAIVE[name](text), rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("name", POOLING)
def test_padding_gets_no_gradient(name: str) -> None:
    _, tokens, mask = padded()
    tokens.requires_grad_()
    POOLING[name](tokens, mask).square().sum().backward()
    assert tokens.grad is not None
    assert not tokens.grad[~mask].any()
    assert tokens.grad[mask].any()


def naive_attention(pool: AttentionPool, tokens: Tensor) -> Tensor:
    """One text (L, W) -> (W,): softmax(q k / sqrt(w)) v of every head, written out."""
    width = tokens.shape[1]
    heads = pool.attention.num_heads
    normed = torch.nn.functional.layer_norm(
        tokens, (width,), pool.norm.weight, pool.norm.bias
    )
    (wq, wk, wv), (bq, bk, bv) = (
        pool.attention.in_proj_weight.chunk(3),
        pool.attention.in_proj_bias.chunk(3),
    )
    query = wq @ pool.query[0, 0] + bq
    keys = normed @ wk.T + bk
    values = normed @ wv.T + bv
    size = width // heads
    parts = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        weights = [
            math.exp(float(key[part] @ query[part]) / math.sqrt(size)) for key in keys
        ]
        parts.append(
            sum(
                w / sum(weights) * v[part] for w, v in zip(weights, values, strict=True)
            )
        )
    return pool.attention.out_proj(torch.cat(parts))  # type: ignore[no-any-return, arg-type]


def attention_pool() -> AttentionPool:
    torch.manual_seed(0)
    pool = AttentionPool(16).double()
    for parameter in pool.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return pool


@torch.no_grad()
def test_attention_pooling_equals_the_naive_loop_whatever_the_padding_holds() -> None:
    pool, (texts, tokens, mask) = attention_pool(), padded()
    expected = torch.stack([naive_attention(pool, text) for text in texts])
    torch.testing.assert_close(pool(tokens, mask), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        pool(texts[1][None], None)[0], expected[1], rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("width", [1, 6, 7, 24, 48, 64, 192, 384])
def test_attention_pooling_takes_towers_of_any_width(width: int) -> None:
    assert AttentionPool(width)(torch.randn(2, 3, width), None).shape == (2, width)
