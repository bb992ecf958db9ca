"""Contrastive losses: functions of tensors, each the mean over the global batch.

G global batch, K hard negatives per query, C candidates, D embedding dimension, A ids per pair.

Every loss takes `dims`, the prefix lengths of a matryoshka space (Kusupati et al., 2022, eq. 1):
the loss of the vectors cut to each length and normalised again is added to that of the whole
vectors. The products of a prefix are those of the shorter one plus a slice more, so all of them
together cost the multiplications of the whole vectors once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_ROW_ELEMENTS = 2**22  # similarities held at once where a loss is a sum over rows


class Negatives(NamedTuple):
    """Which negatives InfoNCE uses beside the documents of the other queries, and their weights."""

    # In-batch candidates more similar to the anchor than its positive by more than this are left
    # out (Qwen3-Embedding, Zhang et al., 2025, eq. 2: 0.1). A query's own hard negatives are
    # curated and stay.
    margin: float | None = None
    # exp(hardness x cosine) weighs every in-batch negative, exp(hard_negative_hardness x cosine)
    # every hard one; no gradient flows through the weights (LLaVE, Lan et al., 2025, eq. 4;
    # EmbeddingGemma, Vera et al., 2025, eq. 1).
    hardness: float = 0.0
    hard_negative_hardness: float = 0.0
    # A query also sees the other queries (GTE, Li et al., 2023, eq. 2) ...
    query_query: bool = False
    # ... and a document the other documents.
    document_document: bool = False


PLAIN = Negatives()


def info_nce(
    query: Tensor,
    document: Tensor,
    scale: Tensor,
    hard_negatives: Tensor | None = None,
    *,
    ids: Tensor | None = None,
    hard_negative_ids: Tensor | None = None,
    negatives: Negatives = PLAIN,
    dims: Sequence[int] = (),
) -> Tensor:
    """Symmetric InfoNCE (Radford et al., 2021, figure 3).

    With hard negatives it is the InfoNCE+ of Jina CLIP (2024, eq. 2).

    query, document: (G, D) unit vectors, row i of one matches row i of the other.
    scale: () multiplier of the cosine similarities, already exponentiated.
    hard_negatives: (G, K, D) unit vectors. A query sees every document and every hard negative of
        the batch; a document sees every query.
    ids: (G, A) int64, what pair i consists of (hashes of its two contents, and of a label if it has
        one). Pairs that share one are not each other's negatives.
    hard_negative_ids: (G, K) int64. One that is in a pair's ids is not a negative of that pair.

    Returns () the mean of both directions. It holds all (G, G) similarities; `tiled_info_nce` does
    not.
    """
    size = len(query)
    own = torch.eye(size, dtype=torch.bool, device=query.device)
    no_negative = own if ids is None else own | share_an_id(ids, ids)  # (G, G)
    is_own, hard_hidden = _hard_negative_masks(hard_negatives, ids, hard_negative_ids)
    total = torch.zeros((), dtype=query.dtype, device=query.device)
    for cross, hard, queries, documents in zip(
        similarities(query, document, dims),
        similarities(query, hard_negatives.flatten(0, 1), dims)
        if hard_negatives is not None
        else repeat(None),
        similarities(query, query, dims) if negatives.query_query else repeat(None),
        similarities(document, document, dims)
        if negatives.document_document
        else repeat(None),
        strict=False,
    ):
        positive = cross.diagonal()  # (G,)

        def logits(
            seen: Tensor,
            hidden: Tensor | None,
            hardness: float,
            curated: Tensor | None = None,
            positive: Tensor = positive,
        ) -> Tensor:
            """(G, C) similarities of anchors and candidates -> logits, -inf if not a negative."""
            if negatives.margin is not None:
                similar = seen.detach() > positive.detach()[:, None] + negatives.margin
                similar = similar if curated is None else similar & ~curated
                hidden = similar if hidden is None else hidden | similar
            weighted = (
                scale * seen + hardness * seen.detach() if hardness else scale * seen
            )
            return (
                weighted if hidden is None else weighted.masked_fill(hidden, -torch.inf)
            )

        for_query = [
            scale * positive[:, None],
            logits(cross, no_negative, negatives.hardness),
        ]
        for_document = [
            scale * positive[:, None],
            logits(cross.T, no_negative, negatives.hardness),
        ]
        if hard is not None:
            for_query.append(
                logits(hard, hard_hidden, negatives.hard_negative_hardness, is_own)
            )
        if queries is not None:
            for_query.append(logits(queries, no_negative, negatives.hardness))
        if documents is not None:
            for_document.append(logits(documents, no_negative, negatives.hardness))
        partitions = torch.cat(for_query, 1).logsumexp(1) + torch.cat(
            for_document, 1
        ).logsumexp(1)  # (G,)
        total = total + (partitions / 2 - scale * positive).mean()
    return total


def own_negatives_loss(
    query: Tensor,
    document: Tensor,
    hard_negatives: Tensor,
    scale: Tensor,
    *,
    dims: Sequence[int] = (),
) -> Tensor:
    """Cross-entropy of each query's document among its own hard negatives; no in-batch negatives.

    For classification as retrieval, where the batch is full of texts of the right label
    (Qwen3-Embedding, Zhang et al., 2025, section 3.1: negatives are the query's own wrong labels).

    query, document: (G, D), hard_negatives: (G, K, D) unit vectors. scale: (). Returns ().
    """
    candidates = torch.cat([document[:, None], hard_negatives], 1)  # (G, 1 + K, D)
    return _sum(
        F.cross_entropy(
            scale * seen, torch.zeros(len(seen), dtype=torch.long, device=seen.device)
        )
        for seen in _own_similarities(query, candidates, dims)
    )


def sigmoid_loss(
    left: Tensor,
    right: Tensor,
    scale: Tensor,
    bias: Tensor,
    *,
    ids: Tensor | None = None,
    dims: Sequence[int] = (),
) -> Tensor:
    """Binary classification of every pair of the batch (SigLIP, Zhai et al., 2023, algorithm 1).

    left, right: (G, D) unit vectors. scale, bias: (). ids: as for `info_nce`; pairs that share one
    do not count. Returns () the sum over all (G, G) pairs / G; a few rows of them are held at a
    time.
    """
    size = len(left)
    rows = max(1, _ROW_ELEMENTS // size)

    def of_rows(
        start: int, left: Tensor, right: Tensor, scale: Tensor, bias: Tensor
    ) -> Tensor:
        local = torch.arange(start, start + len(left), device=left.device)
        own = local[:, None] == torch.arange(size, device=left.device)  # (rows, G)
        hidden = None if ids is None else share_an_id(ids[local], ids) & ~own
        total = torch.zeros((), dtype=left.dtype, device=left.device)
        for seen in similarities(left, right, dims):
            logits = scale * seen + bias
            losses = F.softplus(torch.where(own, -logits, logits))
            total = (
                total
                + (losses if hidden is None else losses.masked_fill(hidden, 0.0)).sum()
            )
        return total

    parts = (
        (start, left[start : start + rows], right, scale, bias)
        for start in range(0, size, rows)
    )
    return (
        _sum(checkpoint(of_rows, *part, use_reentrant=False) for part in parts) / size
    )


def cosent_loss(
    left: Tensor,
    right: Tensor,
    scores: Tensor,
    scale: Tensor,
    *,
    dims: Sequence[int] = (),
) -> Tensor:
    """CoSENT for graded pairs: log(1 + sum over i scored above j of exp(scale (cos_j - cos_i))).

    Su Jianlin, 2022 (kexue.fm/archives/8847), as in sentence-transformers' CoSENTLoss.

    left, right: (G, D) unit vectors. scores: (G,) any scale, higher is closer. scale: ().

    Returns ().
    """
    ordered = scores[:, None] > scores[None, :]  # (G, G)

    def of_cosines(cosine: Tensor) -> Tensor:
        violations = (scale * (cosine[None, :] - cosine[:, None])).masked_fill(
            ~ordered, -torch.inf
        )
        return torch.cat([violations.flatten(), violations.new_zeros(1)]).logsumexp(0)

    return _sum(
        of_cosines(seen[:, 0]) for seen in _own_similarities(left, right[:, None], dims)
    )


def distillation_loss(
    query: Tensor,
    candidates: Tensor,
    teacher: Tensor,
    scale: Tensor,
    teacher_scale: float,
    *,
    dims: Sequence[int] = (),
) -> Tensor:
    """KL divergence from a teacher's softmax over the candidates to ours.

    Hinton et al., 2015; MobileCLIP, 2024.

    query: (G, D) unit vectors. candidates: (G, C, D), each query's own, or (C, D), the same for
        all.
    teacher: (G, C) the teacher's similarities. scale, teacher_scale: multipliers of ours and of the
    teacher's. Returns () the mean over the queries.
    """
    wanted = (teacher_scale * teacher.to(query.dtype)).log_softmax(1)
    found = (
        similarities(query, candidates, dims)
        if candidates.ndim == 2
        else _own_similarities(query, candidates, dims)
    )
    return _sum(
        F.kl_div(
            (scale * seen).log_softmax(1),
            wanted,
            reduction="batchmean",
            log_target=True,
        )
        for seen in found
    )


def similarities(
    left: Tensor, right: Tensor, dims: Sequence[int] = ()
) -> Iterator[Tensor]:
    """(B, D), (C, D) unit vectors -> (B, C) cosines, one for each length.

    The prefixes come first, the shortest one before the others, then the whole vectors.
    """
    return _prefix_cosines(
        left,
        right,
        dims,
        lambda ours, theirs: ours @ theirs.T,
        lambda ours, theirs: ours[:, None] * theirs,
    )


def share_an_id(ids: Tensor, other: Tensor) -> Tensor:
    """(B, A), (C, A') int64 -> (B, C) bool, whether the two rows have an id in common."""
    shared = ids[:, :1] == other[:, 0]
    for ours in ids.unbind(1):
        for theirs in other.unbind(1):
            shared |= ours[:, None] == theirs
    return shared


def inverse_norms(vectors: Tensor, dim: int) -> Tensor:
    """(..., D) -> (...), one over the length of the first `dim` values; 0 where they are all 0."""
    squares = vectors[..., :dim].square().sum(-1)
    return squares.clamp_min(torch.finfo(squares.dtype).tiny).rsqrt() * (squares > 0)


def _own_similarities(
    query: Tensor, candidates: Tensor, dims: Sequence[int]
) -> Iterator[Tensor]:
    """(B, D), (B, C, D) -> (B, C) cosines of each query and its own candidates, for each length."""
    return _prefix_cosines(
        query,
        candidates,
        dims,
        lambda ours, theirs: (ours[:, None] * theirs).sum(-1),
        lambda ours, theirs: ours[:, None] * theirs,
    )


def _prefix_cosines(
    left: Tensor,
    right: Tensor,
    dims: Sequence[int],
    multiply: Callable[[Tensor, Tensor], Tensor],
    lengths: Callable[[Tensor, Tensor], Tensor],
) -> Iterator[Tensor]:
    whole = left.shape[-1]
    start = 0
    products = None
    for end in (*sorted(dims), whole):
        more = multiply(left[..., start:end], right[..., start:end])
        products = more if products is None else products + more
        start = end
        if end == whole:  # unit vectors: nothing to normalise
            yield products
        else:
            yield products * lengths(
                inverse_norms(left, end), inverse_norms(right, end)
            )


def _hard_negative_masks(
    hard_negatives: Tensor | None, ids: Tensor | None, hard_negative_ids: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """(G, G * K) whether a hard negative is the query's own, and whether the query has its id."""
    if hard_negatives is None:
        return None, None
    size, count = hard_negatives.shape[:2]
    rows = torch.arange(size, device=hard_negatives.device)
    own = rows[:, None] == rows.repeat_interleave(count)
    if ids is None or hard_negative_ids is None:
        return own, None
    return own, share_an_id(ids, hard_negative_ids.reshape(-1, 1))


def _sum(losses: Iterator[Tensor]) -> Tensor:
    return torch.stack(list(losses)).sum()
