"""Every loss equals its formula written out, in value and gradient, and that of other libraries.

G global batch, K hard negatives per query, C candidates, D embedding dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import training.losses.contrastive
from tests.training.conftest import LargestTensor
from training.losses.contrastive import (
    PLAIN,
    Negatives,
    cosent_loss,
    distillation_loss,
    info_nce,
    own_negatives_loss,
    sigmoid_loss,
)

DIMS = [(), (3, 5)]  # of vectors of 8: the whole alone, and with two prefixes
NEGATIVES = {
    "plain": PLAIN,
    "margin": Negatives(margin=0.1),
    "hardness": Negatives(hardness=2.0),
    "hard_negative_hardness": Negatives(hard_negative_hardness=3.0),
    "query_query": Negatives(query_query=True),
    "document_document": Negatives(document_document=True),
    "all": Negatives(0.1, 2.0, 3.0, query_query=True, document_document=True),
}
SMOOTH = {
    name: each
    for name, each in NEGATIVES.items()
    if not each.hardness and not each.hard_negative_hardness
}


def _vectors(*shape: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return F.normalize(
        torch.randn(*shape, dtype=torch.float64, generator=draw), dim=-1
    ).requires_grad_()


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def _prefixes(vectors: Tensor, dims: Sequence[int]) -> Iterator[Tensor]:
    """(..., D) -> each prefix normalised again, then the whole as it is."""
    for dim in dims:
        yield vectors[..., :dim] / vectors[..., :dim].norm(dim=-1, keepdim=True)
    yield vectors


def _assert_same(ours: Tensor, naive: Tensor, inputs: Sequence[Tensor]) -> None:
    """Value and gradient of every input."""
    assert ours.item() == pytest.approx(naive.item(), rel=1e-12)
    for a, b in zip(
        torch.autograd.grad(ours, inputs),
        torch.autograd.grad(naive, inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def _assert_as_finite_differences(
    loss: Callable[..., Tensor], inputs: Sequence[Tensor], **options: Any
) -> None:
    assert torch.autograd.gradcheck(
        lambda *changed: loss(*changed, **options), tuple(inputs)
    )


# InfoNCE


def _pairs(num_hard: int, *, with_ids: bool) -> tuple[list[Tensor], dict[str, Any]]:
    """-> query, document, scale and hard negatives of a batch of 6, and its ids where wanted.

    Pairs 0 and 2 share their document, the query of 3 is the document of 1, and pairs 2 and 4 have
    one label.
    """
    inputs = [_vectors(6, 8, seed=0), _vectors(6, 8, seed=1), _number(5.0)]
    inputs += [_vectors(6, num_hard, 8, seed=2)] if num_hard else []
    if not with_ids:
        return inputs, {}
    ids = torch.arange(18).view(6, 3)  # query, document, label
    ids[2, 1], ids[3, 0], ids[4, 2] = ids[0, 1], ids[1, 1], ids[2, 2]
    if not num_hard:
        return inputs, {"ids": ids}
    hard_ids = 100 + torch.arange(6 * num_hard).view(6, num_hard)
    hard_ids[1, 0] = ids[
        0, 1
    ]  # the document of pairs 0 and 2 is a hard negative of query 1, ...
    hard_ids[5, -1] = ids[5, 2]  # ... and one of query 5 has the label of pair 5
    return inputs, {"ids": ids, "hard_negative_ids": hard_ids}


def _naive_info_nce(
    query: Tensor,
    document: Tensor,
    scale: Tensor,
    hard: Tensor | None = None,
    *,
    ids: Tensor | None = None,
    hard_negative_ids: Tensor | None = None,
    negatives: Negatives = PLAIN,
    dims: Sequence[int] = (),
) -> Tensor:
    """- log(e^(scale cos+) / (e^(scale cos+) + sum of weight x e^(scale cos) over negatives)),
    anchor by anchor.
    """
    size = len(query)
    hard = query.new_zeros(size, 0, query.shape[1]) if hard is None else hard
    known = (
        [set() for _ in query] if ids is None else [set(row) for row in ids.tolist()]
    )
    total = torch.zeros((), dtype=query.dtype)
    for q, d, h in zip(
        _prefixes(query, dims),
        _prefixes(document, dims),
        _prefixes(hard, dims),
        strict=True,
    ):
        for i in range(size):
            positive = q[i] @ d[i]
            others = [j for j in range(size) if j != i and not known[i] & known[j]]
            of_query = [(q[i] @ d[j], negatives.hardness, False) for j in others]
            of_document = [(d[i] @ q[j], negatives.hardness, False) for j in others]
            if negatives.query_query:
                of_query += [(q[i] @ q[j], negatives.hardness, False) for j in others]
            if negatives.document_document:
                of_document += [
                    (d[i] @ d[j], negatives.hardness, False) for j in others
                ]
            for j in range(size):
                for k in range(h.shape[1]):
                    if (
                        hard_negative_ids is None
                        or int(hard_negative_ids[j, k]) not in known[i]
                    ):
                        of_query.append(
                            (q[i] @ h[j, k], negatives.hard_negative_hardness, j == i)
                        )
            for seen in (of_query, of_document):
                partition = (scale * positive).exp()
                for cosine, hardness, is_own in seen:
                    if (
                        negatives.margin is None
                        or is_own
                        or cosine <= positive + negatives.margin
                    ):
                        partition = (
                            partition
                            + (hardness * cosine.detach()).exp()
                            * (scale * cosine).exp()
                        )
                total = total - ((scale * positive).exp() / partition).log()
    return total / (2 * size)


@pytest.mark.parametrize("with_ids", [False, True], ids=["", "ids"])
@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("num_hard", [0, 1, 3])
@pytest.mark.parametrize("negatives", NEGATIVES.values(), ids=NEGATIVES)
def test_info_nce_equals_its_formula_in_value_and_gradient(
    negatives: Negatives, num_hard: int, dims: Sequence[int], with_ids: bool
) -> None:
    inputs, ids = _pairs(num_hard, with_ids=with_ids)
    ours = info_nce(*inputs, negatives=negatives, dims=dims, **ids)
    _assert_same(
        ours, _naive_info_nce(*inputs, negatives=negatives, dims=dims, **ids), inputs
    )


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("num_hard", [0, 2])
@pytest.mark.parametrize("negatives", SMOOTH.values(), ids=SMOOTH)
def test_the_gradient_of_info_nce_equals_finite_differences(
    negatives: Negatives, num_hard: int, dims: Sequence[int]
) -> None:
    inputs, ids = _pairs(num_hard, with_ids=True)
    _assert_as_finite_differences(
        info_nce, inputs, negatives=negatives, dims=dims, **ids
    )


def test_every_option_of_info_nce_changes_the_loss() -> None:
    inputs, ids = _pairs(2, with_ids=True)
    found = {
        name: info_nce(*inputs, negatives=each).item()
        for name, each in NEGATIVES.items()
    }
    found["dims"] = info_nce(*inputs, dims=(3, 5)).item()
    found["no hard negatives"] = info_nce(*inputs[:3]).item()
    found["ids"] = info_nce(*inputs, ids=ids["ids"]).item()
    found["hard_negative_ids"] = info_nce(*inputs, **ids).item()
    assert len({round(value, 6) for value in found.values()}) == len(found), found


def test_a_margin_hides_too_similar_documents_and_hard_negatives_of_others_but_not_its_own() -> (
    None
):
    query = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    document = torch.tensor(
        [[0.6, 0.8], [0.8, 0.6]]
    )  # each is closer to the other query than to its own
    hard = torch.tensor(
        [[[1.0, 0.0]], [[0.0, 1.0]]], requires_grad=True
    )  # the query itself
    loss = info_nce(
        query, document, torch.tensor(1.0), hard, negatives=Negatives(margin=0.1)
    )
    # A query: its document, its own hard negative and the other's; a document: its query alone.
    one = math.log(math.exp(0.6) + math.exp(1.0) + math.exp(0.0)) - 0.6
    assert loss.item() == pytest.approx(one / 2)
    moved = info_nce(
        query,
        document,
        torch.tensor(1.0),
        hard.flip(0),
        negatives=Negatives(margin=0.1),
    )
    assert moved.item() == pytest.approx(
        (math.log(math.exp(0.6) + math.exp(0.0)) - 0.6) / 2
    )


def test_a_batch_of_one_vector_scores_the_logarithm_of_its_size() -> None:
    same = F.normalize(torch.ones(16, 4), dim=-1)
    assert info_nce(same, same, torch.tensor(100.0)).item() == pytest.approx(
        math.log(16)
    )


def test_a_batch_of_one_pair_known_sixteen_times_by_its_ids_scores_nothing() -> None:
    same = F.normalize(torch.ones(16, 4), dim=-1)
    ids = torch.zeros(16, 2, dtype=torch.long)
    assert info_nce(same, same, torch.tensor(100.0), ids=ids).item() == 0


def test_the_order_of_the_dims_is_nothing() -> None:
    inputs, _ = _pairs(1, with_ids=False)
    assert (
        info_nce(*inputs, dims=(5, 3)).item() == info_nce(*inputs, dims=(3, 5)).item()
    )


def test_a_prefix_of_zeros_is_similar_to_nothing_and_gets_no_gradient() -> None:
    query = torch.tensor([[0.0, 0.0, 1.0], [0.6, 0.0, 0.8]], requires_grad=True)
    document = torch.tensor([[0.6, 0.8, 0.0], [0.0, 0.8, 0.6]])
    of_prefix = info_nce(query, document, torch.tensor(1.0), dims=(2,)) - info_nce(
        query, document, torch.tensor(1.0)
    )
    gradient = torch.autograd.grad(of_prefix, query)[0]
    assert of_prefix.isfinite()
    assert gradient[0].tolist() == [0, 0, 0]
    assert gradient[1].abs().sum() > 0.01


# The other losses


@pytest.mark.parametrize("dims", DIMS)
def test_own_negatives_loss_equals_its_formula_in_value_and_gradient(
    dims: Sequence[int],
) -> None:
    query, document, hard, scale = inputs = _own_negatives()
    naive = torch.zeros((), dtype=torch.float64)
    for q, d, h in zip(
        _prefixes(query, dims),
        _prefixes(document, dims),
        _prefixes(hard, dims),
        strict=True,
    ):
        for i in range(len(q)):
            positive = (scale * q[i] @ d[i]).exp()
            others = [(scale * q[i] @ h[i, k]).exp() for k in range(h.shape[1])]
            naive = naive - (positive / sum(others, positive)).log() / len(q)
    _assert_same(own_negatives_loss(*inputs, dims=dims), naive, inputs)
    _assert_as_finite_differences(own_negatives_loss, inputs, dims=dims)


SHARED = torch.tensor(
    [[0, 1], [2, 3], [4, 0], [5, 6], [0, 3]]
)  # ids; the last pair shares one with all but the fourth


@pytest.mark.parametrize(
    "row_elements", [2**22, 10, 1], ids=["all rows", "2 rows", "1 row"]
)  # at once, of 5
@pytest.mark.parametrize("ids", [None, SHARED], ids=["", "ids"])
@pytest.mark.parametrize("dims", DIMS)
def test_sigmoid_loss_equals_its_formula_in_value_and_gradient(
    dims: Sequence[int],
    ids: Tensor | None,
    row_elements: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training.losses.contrastive, "_ROW_ELEMENTS", row_elements)
    left, right, scale, bias = inputs = _questions()
    naive = torch.zeros((), dtype=torch.float64)
    for u, v in zip(_prefixes(left, dims), _prefixes(right, dims), strict=True):
        for i in range(5):
            for j in range(5):
                if (
                    ids is None
                    or i == j
                    or not set(ids[i].tolist()) & set(ids[j].tolist())
                ):
                    sign = 1 if i == j else -1
                    naive = (
                        naive
                        - (1 / (1 + (-sign * (scale * u[i] @ v[j] + bias)).exp())).log()
                        / 5
                    )
    _assert_same(sigmoid_loss(*inputs, ids=ids, dims=dims), naive, inputs)


@pytest.mark.parametrize("row_elements", [2**22, 10], ids=["all rows", "2 rows"])
def test_the_gradient_of_sigmoid_loss_equals_finite_differences(
    row_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.losses.contrastive, "_ROW_ELEMENTS", row_elements)
    _assert_as_finite_differences(sigmoid_loss, _questions(), ids=SHARED, dims=(3,))


def test_sigmoid_loss_holds_a_few_rows_of_its_questions_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training.losses.contrastive, "_ROW_ELEMENTS", 256)
    inputs = [
        _vectors(64, 4, seed=0),
        _vectors(64, 4, seed=1),
        _number(5.0),
        _number(-2.0),
    ]
    with LargestTensor() as largest:
        sigmoid_loss(*inputs, ids=torch.arange(64)[:, None], dims=(2,)).backward()
    assert largest.numel == 256  # that of the vectors, too; all questions are 4096


@pytest.mark.parametrize("dims", DIMS)
def test_cosent_loss_equals_its_formula_in_value_and_gradient(
    dims: Sequence[int],
) -> None:
    left, right, scale = inputs = [
        _vectors(6, 8, seed=0),
        _vectors(6, 8, seed=1),
        _number(5.0),
    ]
    scores = torch.tensor(
        [0.5, 3.0, 0.5, -1.0, 2.0, 3.0], dtype=torch.float64
    )  # of equal scores none is above
    naive = torch.zeros((), dtype=torch.float64)
    for u, v in zip(_prefixes(left, dims), _prefixes(right, dims), strict=True):
        violations = torch.ones((), dtype=torch.float64)
        for i in range(6):
            for j in range(6):
                if scores[i] > scores[j]:
                    violations = (
                        violations + (scale * (u[j] @ v[j] - u[i] @ v[i])).exp()
                    )
        naive = naive + violations.log()

    def loss(left: Tensor, right: Tensor, scale: Tensor) -> Tensor:
        return cosent_loss(left, right, scores, scale, dims=dims)

    _assert_same(loss(*inputs), naive, inputs)
    _assert_as_finite_differences(loss, inputs)


@pytest.mark.parametrize(
    "is_shared", [False, True], ids=["own candidates", "shared candidates"]
)
@pytest.mark.parametrize("dims", DIMS)
def test_distillation_loss_equals_its_formula_in_value_and_gradient(
    dims: Sequence[int], is_shared: bool
) -> None:
    query, candidates, scale = inputs = [
        _vectors(5, 8, seed=0),
        _vectors(*((4,) if is_shared else (5, 4)), 8, seed=1),
        _number(5.0),
    ]
    teacher = torch.randn(5, 4, generator=torch.Generator().manual_seed(2)).double()
    teacher_scale = 3.0
    naive = torch.zeros((), dtype=torch.float64)
    for q, c in zip(_prefixes(query, dims), _prefixes(candidates, dims), strict=True):
        for i in range(5):
            wanted = [(teacher_scale * teacher[i, j]).exp() for j in range(4)]
            found = [
                (scale * q[i] @ (c[j] if is_shared else c[i, j])).exp()
                for j in range(4)
            ]
            for j in range(4):
                p = wanted[j] / torch.stack(wanted).sum()
                r = found[j] / torch.stack(found).sum()
                naive = naive + p * (p / r).log() / 5

    def loss(query: Tensor, candidates: Tensor, scale: Tensor) -> Tensor:
        return distillation_loss(
            query, candidates, teacher, scale, teacher_scale, dims=dims
        )

    _assert_same(loss(*inputs), naive, inputs)
    _assert_as_finite_differences(loss, inputs)


def test_a_student_equal_to_its_teacher_has_nothing_to_learn() -> None:
    query, candidates, *_ = _own_negatives()
    teacher = query @ candidates.T
    loss = distillation_loss(query, candidates, teacher.detach(), _number(5.0), 5.0)
    assert loss.item() == pytest.approx(0, abs=1e-14)


def _questions() -> list[Tensor]:
    """-> left, right, scale and bias."""
    return [_vectors(5, 8, seed=0), _vectors(5, 8, seed=1), _number(5.0), _number(-2.0)]


def _own_negatives() -> list[Tensor]:
    """-> query, document, hard negatives and scale."""
    return [
        _vectors(5, 8, seed=0),
        _vectors(5, 8, seed=1),
        _vectors(5, 3, 8, seed=2),
        _number(5.0),
    ]


# Other libraries

PRECISIONS = pytest.mark.parametrize(
    ("dtype", "rel"), [(torch.float32, 1e-5), (torch.float64, 1e-12)]
)


def _ranking(columns: Sequence[Tensor], **options: Any) -> Tensor:
    """sentence-transformers' loss of queries among documents: one direction."""
    from sentence_transformers.sentence_transformer.losses import (
        MultipleNegativesRankingLoss,
    )

    loss: Tensor = MultipleNegativesRankingLoss(
        None, scale=20.0, **options
    ).compute_loss_from_embeddings(list(columns), torch.empty(0))
    return loss


@PRECISIONS
def test_info_nce_equals_open_clip(dtype: torch.dtype, rel: float) -> None:
    from open_clip.loss import ClipLoss

    image = _vectors(32, 16, seed=0).to(dtype)
    text = _vectors(32, 16, seed=1).to(dtype)
    scale = torch.tensor(20.0)
    theirs = ClipLoss()(image, text, scale).item()
    assert info_nce(image, text, scale).item() == pytest.approx(theirs, rel=rel)


@PRECISIONS
def test_sigmoid_loss_equals_open_clip(dtype: torch.dtype, rel: float) -> None:
    from open_clip.loss import SigLipLoss

    image = _vectors(32, 16, seed=0).to(dtype)
    text = _vectors(32, 16, seed=1).to(dtype)
    scale = torch.tensor(10.0)
    bias = torch.tensor(-10.0)
    theirs = SigLipLoss()(image, text, scale, bias).item()
    assert sigmoid_loss(image, text, scale, bias).item() == pytest.approx(
        theirs, rel=rel
    )


@PRECISIONS
def test_cosent_loss_equals_sentence_transformers(
    dtype: torch.dtype, rel: float
) -> None:
    from sentence_transformers.sentence_transformer.losses import CoSENTLoss

    left = _vectors(32, 16, seed=0).to(dtype)
    right = _vectors(32, 16, seed=1).to(dtype)
    scores = torch.arange(32).remainder(5).to(dtype)
    theirs = (
        CoSENTLoss(None, scale=20.0)
        .compute_loss_from_embeddings([left, right], scores)
        .item()
    )
    assert cosent_loss(left, right, scores, torch.tensor(20.0)).item() == pytest.approx(
        theirs, rel=rel
    )


@PRECISIONS
def test_info_nce_with_hard_negatives_equals_sentence_transformers(
    dtype: torch.dtype, rel: float
) -> None:
    query, document, hard = _ranked(dtype)
    both = ("query_to_doc", "doc_to_query")
    theirs = _ranking(
        [query, document, *hard.unbind(1)],
        directions=both,
        partition_mode="per_direction",
    ).item()
    assert info_nce(query, document, torch.tensor(20.0), hard).item() == pytest.approx(
        theirs, rel=rel
    )


@PRECISIONS
def test_hardness_weights_equal_sentence_transformers(
    dtype: torch.dtype, rel: float
) -> None:
    query, document, hard = _ranked(dtype)
    options = {"hardness_mode": "all_negatives", "hardness_strength": 9.0}
    theirs = _ranking([query, document, *hard.unbind(1)], **options) + _ranking(
        [document, query], **options
    )
    ours = info_nce(
        query,
        document,
        torch.tensor(20.0),
        hard,
        negatives=Negatives(hardness=9.0, hard_negative_hardness=9.0),
    )
    assert ours.item() == pytest.approx(theirs.item() / 2, rel=rel)


@PRECISIONS
def test_negatives_of_the_same_side_equal_sentence_transformers(
    dtype: torch.dtype, rel: float
) -> None:
    query, document, hard = _ranked(dtype)
    directions = ("query_to_doc", "query_to_query")
    theirs = _ranking(
        [query, document, *hard.unbind(1)], directions=directions
    ) + _ranking([document, query], directions=directions)
    ours = info_nce(
        query,
        document,
        torch.tensor(20.0),
        hard,
        negatives=Negatives(query_query=True, document_document=True),
    )
    assert ours.item() == pytest.approx(theirs.item() / 2, rel=rel)


@PRECISIONS
def test_matryoshka_prefixes_equal_sentence_transformers_on_cut_vectors(
    dtype: torch.dtype, rel: float
) -> None:
    query, document, _ = _ranked(dtype)
    cut = [(query[:, :dim], document[:, :dim]) for dim in (4, 8, 16)]
    theirs = sum(_ranking(pair).item() + _ranking(pair[::-1]).item() for pair in cut)
    ours = info_nce(query, document, torch.tensor(20.0), dims=(4, 8))
    assert ours.item() == pytest.approx(theirs / 2, rel=rel)


def _ranked(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """-> 32 queries, documents and pairs of hard negatives."""
    query = _vectors(32, 16, seed=0)
    document = _vectors(32, 16, seed=1)
    hard = _vectors(32, 2, 16, seed=2)
    return query.to(dtype), document.to(dtype), hard.to(dtype)
