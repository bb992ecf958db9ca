"""Tiled InfoNCE equals `info_nce`, on one rank and on several, and holds no matrix of similarities.

G global batch, K hard negatives per query, D embedding dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from tests.training.conftest import LargestTensor
from training.losses.contrastive import PLAIN, Negatives, info_nce
from training.losses.tiled import tiled_info_nce

TILES = [4, 5, 64]  # of a batch of 12: divides it, does not, holds it
NAMES = ("loss", "query", "document", "scale", "hard_negatives")
DIMS = [(), (3, 5)]  # of vectors of 8: the whole alone, and with two prefixes


def _batch(
    size: int, width: int, num_hard: int, scale: float, noise: float = 1.0
) -> list[Tensor]:
    """-> query, document, scale and hard negatives where there are; noise: how far a document is
    from its query.
    """
    draw = torch.Generator().manual_seed(0)

    def near(vectors: Tensor, *shape: int) -> Tensor:
        away = torch.randn(*shape, width, dtype=torch.float64, generator=draw)
        return F.normalize(vectors + noise * F.normalize(away, dim=-1), dim=-1)

    query = F.normalize(
        torch.randn(size, width, dtype=torch.float64, generator=draw), dim=-1
    )
    vectors = [query, near(query, size), torch.tensor(scale, dtype=torch.float64)]
    return [*vectors, near(query[:, None], size, num_hard)] if num_hard else vectors


def _ids(size: int, num_hard: int) -> dict[str, Tensor]:
    """Some pairs share a document or a label; a hard negative is another pair's document, another
    has its own label.
    """
    ids = torch.arange(3 * size).view(size, 3)  # query, document, label
    ids[2, 1], ids[size - 1, 0], ids[4, 2] = ids[0, 1], ids[1, 1], ids[2, 2]
    if not num_hard:
        return {"ids": ids}
    hard_ids = 1000 * size + torch.arange(size * num_hard).view(size, num_hard)
    hard_ids[1, 0], hard_ids[size - 2, -1] = ids[0, 1], ids[size - 2, 2]
    return {"ids": ids, "hard_negative_ids": hard_ids}


def _value_and_gradients(
    loss: Callable[..., Tensor], inputs: Sequence[Tensor], **options: Any
) -> list[Tensor]:
    inputs = [each.detach().requires_grad_() for each in inputs]
    value = loss(*inputs, **options)
    return [value.detach(), *torch.autograd.grad(value, inputs)]


def _errors(found: Sequence[Tensor], truth: Sequence[Tensor]) -> list[float]:
    """The length of the difference as a part of the length of the truth, of each tensor."""
    return [
        float((a - b).norm() / b.norm().clamp_min(1e-300))
        for a, b in zip(found, truth, strict=True)
    ]


def _assert_equal(
    found: Sequence[Tensor], truth: Sequence[Tensor], rel: float = 1e-12
) -> None:
    assert all(error <= rel for error in _errors(found, truth)), _errors(
        found, truth
    )  # `max` accepts a nan without an error


def _assert_as_exact_as_plain(
    inputs: Sequence[Tensor], *, tile: int, **options: Any
) -> None:
    """In float32, by the float64 truth: every vector's gradient has at most twice the error of
    `info_nce`.

    The loss and the gradient of the scale are single numbers and exact by luck at times. They may
    be off by what the rounding of logits and the errors of gradients come to in a sum over the
    batch.
    """
    inputs = [each.float() for each in inputs]
    truth = _value_and_gradients(
        info_nce, [each.double() for each in inputs], **options
    )
    plain, tiled = (
        [float((a - b).norm()) for a, b in zip(found, truth, strict=True)]
        for found in (
            _value_and_gradients(info_nce, inputs, **options),
            _value_and_gradients(tiled_info_nce, inputs, tile=tile, **options),
        )
    )
    scale = float(inputs[2])
    eps = torch.finfo(torch.float32).eps
    spare = [
        2 * eps * (scale / len(inputs[0]) ** 0.5 + float(truth[0])),
        0,
        0,
        4 * plain[1] / scale,
        0,
    ]
    for name, ours, theirs, more in zip(NAMES, tiled, plain, spare, strict=False):
        assert ours <= max(2 * theirs, more), (name, ours, theirs, more)


@pytest.mark.parametrize("with_ids", [False, True], ids=["", "ids"])
@pytest.mark.parametrize("same_side", [False, True], ids=["", "same_side"])
@pytest.mark.parametrize("hardness", [0.0, 3.0])
@pytest.mark.parametrize("margin", [None, 0.1])
@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("num_hard", [0, 2])
@pytest.mark.parametrize("tile", TILES)
def test_it_equals_info_nce_in_value_and_gradient(
    tile: int,
    num_hard: int,
    dims: Sequence[int],
    margin: float | None,
    hardness: float,
    same_side: bool,
    with_ids: bool,
) -> None:
    inputs = _batch(12, 8, num_hard, scale=5.0)
    negatives = Negatives(margin, hardness, 2 * hardness, same_side, same_side)
    options = {
        "negatives": negatives,
        "dims": dims,
        **(_ids(12, num_hard) if with_ids else {}),
    }
    truth = _value_and_gradients(info_nce, inputs, **options)
    _assert_equal(
        _value_and_gradients(tiled_info_nce, inputs, tile=tile, **options), truth
    )


@pytest.mark.parametrize("side", ["query_query", "document_document"])
def test_each_term_of_the_same_side_comes_alone(side: str) -> None:
    inputs = _batch(12, 8, 2, scale=5.0)
    options = {"negatives": Negatives(**{side: True}), "dims": (3,)}
    truth = _value_and_gradients(info_nce, inputs, **options)
    _assert_equal(
        _value_and_gradients(tiled_info_nce, inputs, tile=5, **options), truth
    )


def test_prefixes_of_zeros_are_as_in_info_nce() -> None:
    inputs = _batch(12, 8, 2, scale=5.0)
    inputs[0][3, :3], inputs[1][7, :5], inputs[3][2, 1, :3] = 0, 0, 0
    inputs = [F.normalize(each, dim=-1) if each.ndim else each for each in inputs]
    truth = _value_and_gradients(info_nce, inputs, dims=(3, 5))
    _assert_equal(
        _value_and_gradients(tiled_info_nce, inputs, dims=(3, 5), tile=5), truth
    )


@pytest.mark.parametrize("dims", [(), (2,)])
@pytest.mark.parametrize(
    "negatives", [PLAIN, Negatives(0.1, query_query=True, document_document=True)]
)
def test_its_gradient_equals_finite_differences(
    negatives: Negatives, dims: Sequence[int]
) -> None:
    inputs = [each.requires_grad_() for each in _batch(5, 4, 1, scale=5.0)]
    ids = _ids(5, 1)

    def loss(*changed: Tensor) -> Tensor:
        return tiled_info_nce(*changed, negatives=negatives, dims=dims, tile=4, **ids)

    assert torch.autograd.gradcheck(loss, tuple(inputs))


def test_its_second_derivative_is_refused() -> None:
    query, *others = _batch(6, 8, 2, scale=5.0)
    loss = tiled_info_nce(query.requires_grad_(), *others, tile=4)
    (gradient,) = torch.autograd.grad(loss.square(), query, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_a_constant_scale_and_a_locked_side_leave_the_other_gradients_as_they_are() -> (
    None
):
    inputs = _batch(12, 8, 2, scale=5.0)
    truth = _value_and_gradients(info_nce, inputs)[1]
    loss = tiled_info_nce(inputs[0].requires_grad_(), *inputs[1:], tile=5)
    _assert_equal(torch.autograd.grad(loss, inputs[0]), [truth])


# Precision


@pytest.mark.parametrize(
    "negatives",
    [
        PLAIN,
        Negatives(0.1),
        Negatives(0.1, 9.0, 5.0, True, True),
        Negatives(None, 9.0, 5.0, True, True),
    ],
    ids=["plain", "margin", "margin and all", "all"],
)
@pytest.mark.parametrize("dims", [(), (16,)])
@pytest.mark.parametrize("num_hard", [0, 2])
@pytest.mark.parametrize(
    ("scale", "noise"),
    [(20.0, 0.3), (20.0, 1.0), (20.0, 3.0), (100.0, 1.5), (100.0, 3.0)],
)
def test_in_float32_it_is_as_exact_as_info_nce(
    scale: float, noise: float, num_hard: int, dims: Sequence[int], negatives: Negatives
) -> None:
    inputs = _batch(256, 64, num_hard, scale, noise)
    _assert_as_exact_as_plain(inputs, negatives=negatives, dims=dims, tile=100)


@pytest.mark.parametrize("scale", [90.0, 95.0, 100.0])
def test_a_solved_batch_scores_nothing_in_float32(scale: float) -> None:
    same = torch.eye(64)
    assert (
        abs(tiled_info_nce(same, same, torch.tensor(scale), tile=24).item())
        <= torch.finfo(torch.float32).eps
    )


def _opposite(size: int) -> list[Tensor]:
    """The document of a query is its opposite and the next pair's document the query itself, every
    other two pairs.
    """
    query, document, scale, hard = _batch(size, 8, 1, 100.0)
    for i in range(0, size - 1, 4):
        query[i + 1] = document[i] = -query[i]
        document[i + 1] = query[i]
    return [query, document, scale, hard]


def _two_camps(size: int) -> list[Tensor]:
    """Every second query points away from all documents and hard negatives, the others at them."""
    query, document, scale, hard = _batch(size, 8, 1, 100.0)
    away = torch.ones(size, 1, dtype=torch.float64)
    away[::2] = -1
    pole = torch.eye(8, dtype=torch.float64)[0]
    toward = [
        F.normalize(pole + 0.1 * each, dim=-1) for each in (query, document, hard)
    ]
    return [away * toward[0], toward[1], scale, toward[2]]


def _far(size: int) -> list[Tensor]:
    """All queries point away from all documents."""
    query, document, scale, hard = _two_camps(size)
    return [query * -query[:, :1].sign(), document, scale, hard]


def _stray(size: int) -> list[Tensor]:
    """The first document points away from all queries; most tiles that it is in
    hold no such query.
    """
    query, document, scale, hard = _two_camps(size)
    document[0] *= -1
    return [query * query[:, :1].sign(), document, scale, hard]


STRESSES = pytest.mark.parametrize("stress", [_opposite, _two_camps, _far, _stray])
OPTIONS = pytest.mark.parametrize(
    "options",
    [
        {},
        {"dims": (3, 5)},
        {"negatives": Negatives(hardness=9.0, hard_negative_hardness=5.0)},
        {"negatives": Negatives(query_query=True, document_document=True)},
        {"negatives": Negatives(0.1)},
    ],
    ids=["plain", "dims", "hardness", "same_side", "margin"],
)


@OPTIONS
@STRESSES
def test_at_scale_100_cosines_of_any_distance_are_as_exact_as_in_info_nce(
    stress: Callable[[int], list[Tensor]], options: dict[str, Any]
) -> None:
    _assert_as_exact_as_plain(stress(40), tile=8, **options)


@OPTIONS
@STRESSES
def test_a_scale_beyond_the_range_of_exp_is_as_exact_as_in_info_nce(
    stress: Callable[[int], list[Tensor]], options: dict[str, Any]
) -> None:
    query, document, _, hard = stress(40)
    inputs = [query, document, torch.tensor(1500.0, dtype=torch.float64), hard]
    truth = _value_and_gradients(info_nce, inputs, **options)
    _assert_equal(
        _value_and_gradients(tiled_info_nce, inputs, tile=8, **options),
        truth,
        rel=1e-11,
    )


# Memory


def test_it_makes_no_tensor_larger_than_a_tile_or_the_vectors() -> None:
    inputs = _batch(256, 16, 2, scale=5.0)
    size = 256
    tile = 96
    options = {
        "dims": (4, 8),
        "negatives": Negatives(0.1, 3.0, 3.0, True, True),
        **_ids(256, 2),
    }
    with LargestTensor() as plain:
        _value_and_gradients(info_nce, inputs, **options)
    with LargestTensor() as tiled:
        _value_and_gradients(tiled_info_nce, inputs, tile=tile, **options)
    assert plain.numel >= size**2  # it would be seen
    assert tiled.numel == tile**2 > inputs[3].numel()


# Ranks


@pytest.mark.parametrize("world_size", [2, 3])
def test_several_ranks_give_the_loss_and_gradients_of_one_process(
    world_size: int, tmp_path: Path
) -> None:
    arguments = (world_size, tmp_path / "store")
    spawn(_check_rank, arguments, world_size)  # type: ignore[no-untyped-call]


def _check_rank(rank: int, world_size: int, store: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{store}", timedelta(seconds=60), world_size, rank
    )
    everything = Negatives(0.1, 3.0, 3.0, True, True)
    for num_hard, with_ids, dims, negatives, tile in [
        (0, False, (), PLAIN, 4),
        (0, True, (3, 5), everything, 5),
        (2, False, (3, 5), PLAIN, 64),
        (2, True, (), Negatives(0.1), 4),
        (2, True, (3, 5), Negatives(0.1), 5),
        (2, True, (3, 5), everything, 5),
        (2, True, (3, 5), everything, 64),
    ]:
        ids = _ids(12, num_hard) if with_ids else {}
        _check_case(
            _batch(12, 8, num_hard, scale=5.0),
            ids,
            1e-12,
            negatives=negatives,
            dims=dims,
            tile=tile,
        )
    for stress in (_opposite, _two_camps, _far, _stray):
        query, document, _, hard = stress(12)
        inputs = [query, document, torch.tensor(1500.0, dtype=torch.float64), hard]
        _check_case(inputs, {}, 1e-11, dims=(3, 5), negatives=PLAIN, tile=3)
    dist.destroy_process_group()


def _check_case(
    inputs: Sequence[Tensor],
    ids: Mapping[str, Tensor],
    rel: float,
    *,
    tile: int,
    **options: Any,
) -> None:
    """The gradients of this rank's vectors are its rows of one process's, times the ranks; the
    scale has its whole.
    """
    rank = dist.get_rank()
    world_size = dist.get_world_size()
    size = len(inputs[0]) // world_size

    def own(whole: Tensor) -> Tensor:
        return whole[rank * size : (rank + 1) * size] if whole.ndim else whole

    truth = _value_and_gradients(info_nce, inputs, **options, **ids)
    local_ids = {name: own(each) for name, each in ids.items()}
    found = _value_and_gradients(
        tiled_info_nce,
        [own(each) for each in inputs],
        tile=tile,
        **options,
        **local_ids,
    )
    found = [each / world_size if each.ndim else each for each in found]
    _assert_equal(found, [own(each) for each in truth], rel)
