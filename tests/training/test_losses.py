"""InfoNCE equals its formula written out, in value and gradient."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from training.losses import info_nce


def _vectors(*shape: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, dtype=torch.float64, generator=draw), dim=-1).requires_grad_()


def _naive(left: Tensor, right: Tensor, scale: Tensor, negatives: Tensor | None) -> Tensor:
    size, total = len(left), torch.zeros((), dtype=torch.float64)
    for i in range(size):
        seen = [scale * left[i] @ right[j] for j in range(size)]
        if negatives is not None:
            seen += [scale * left[i] @ negatives[j, k] for j in range(size) for k in range(negatives.shape[1])]
        back = [scale * left[j] @ right[i] for j in range(size)]
        positive = scale * left[i] @ right[i]
        total = total + torch.stack(seen).exp().sum().log() - positive
        total = total + torch.stack(back).exp().sum().log() - positive
    return total / (2 * size)


@pytest.mark.parametrize("num_negatives", [0, 1, 3])
def test_info_nce_equals_its_formula_in_value_and_gradient(num_negatives: int) -> None:
    left, right = _vectors(5, 8, seed=0), _vectors(5, 8, seed=1)
    negatives = _vectors(5, num_negatives, 8, seed=2) if num_negatives else None
    scale = torch.tensor(7.0, dtype=torch.float64, requires_grad=True)
    inputs = [tensor for tensor in (left, right, scale, negatives) if tensor is not None]
    ours, naive = info_nce(left, right, scale, negatives), _naive(left, right, scale, negatives)
    assert ours.item() == pytest.approx(naive.item(), rel=1e-13)
    for a, b in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(naive, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


def test_the_gradient_of_info_nce_equals_finite_differences() -> None:
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    inputs = (_vectors(4, 6, seed=0), _vectors(4, 6, seed=1), scale, _vectors(4, 2, 6, seed=2))
    assert torch.autograd.gradcheck(info_nce, inputs)


def test_a_batch_of_one_vector_scores_the_logarithm_of_its_size() -> None:
    same = F.normalize(torch.ones(16, 4), dim=-1)
    assert info_nce(same, same, torch.tensor(100.0)).item() == pytest.approx(math.log(16))
