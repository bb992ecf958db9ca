"""Chunks: whatever is kept or encoded again, the gradients are the same to the bit, with dropout
on.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import Recipe
from training import grad_cache
from training.config import StepConfig, TrainConfig
from training.data.collate import Batch, TokenLists
from training.data.dataset import StepDataset
from training.data.loader import steps_from
from training.grad_cache import measure_graph
from training.model import make_model, prepare_model
from training.optim import make_optimizer
from training.step import encode_batch, train_step
from unimodal import distributed
from unimodal.model import DualEncoder
from unimodal.model_config import ImageTowerConfig

DROPOUT = {
    "text": {
        "kwargs": {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2}
    }
}
KEEP_ALL = 1000.0
KEEP_NONE = 0.0
KEEP_ONE = 1e-12  # GiB


def _start(config: TrainConfig) -> tuple[DualEncoder, list[Batch]]:
    """A model and the batches of its first step."""
    model, tokenizer = make_model(config, None)
    model = prepare_model(model, config, torch.device("cpu"))
    dataset = StepDataset(config.plan, config.data_root, model.config, tokenizer, 0)
    return model, next(steps_from(dataset, 0, 1, 0))


def _gradients(config: TrainConfig, **changes: Any) -> tuple[dict[str, Tensor], int]:
    """Of a step with other settings of the cut, and the number of chunks that were
    encoded twice.
    """
    model, batches = _start(config)
    optimizer = make_optimizer(model, config.optim, config.towers)
    step = config.step.model_copy(update=changes)
    stage = config.plan[0].model_copy(
        update={"optim": config.optim.model_copy(update={"clip_norm": 1e9})}
    )
    stats = train_step(
        model,
        batches,
        stage,
        optimizer,
        step,
        learning_rate=0.0,
        precision=config.precision,
        seed=7,
    )
    return {
        name: p.grad for name, p in model.named_parameters() if p.grad is not None
    }, stats.num_recomputed


def _dropping(recipe: Recipe, **changes: Any) -> TrainConfig:
    image = {"patch_dropout": 0.25}
    return recipe(
        {"model": DROPOUT, "towers": {"image": image}, "schedule": "joint", **changes}
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_is_kept_changes_no_bit_with_dropout_and_patch_dropout_on(
    recipe: Recipe, precision: str
) -> None:
    config = _dropping(recipe, precision=precision)
    cut = {"micro_batch": 5, "token_budget": 64}
    kept, none_twice = _gradients(config, graph_memory=KEEP_ALL, **cut)
    recomputed, all_twice = _gradients(config, graph_memory=KEEP_NONE, **cut)
    mixed, some_twice = _gradients(config, graph_memory=KEEP_ONE, **cut)
    assert none_twice == 0 < some_twice < all_twice
    for name in kept:
        assert torch.equal(kept[name], recomputed[name]), name
        assert torch.equal(kept[name], mixed[name]), name


def test_another_seed_draws_other_masks(recipe: Recipe) -> None:
    config = _dropping(recipe)
    model, batches = _start(config)
    vectors = [
        encode_batch(model, batches[0], config.step, "float32", seed)["image"].vectors
        for seed in (7, 7, 8)
    ]
    assert torch.equal(vectors[0], vectors[1])
    assert not torch.allclose(vectors[0], vectors[2])


def test_each_chunk_has_masks_of_its_own(recipe: Recipe) -> None:
    model, batches = _start(_dropping(recipe))
    first = batches[0].texts.lists()[0]
    twins = batches[0]._replace(
        texts=TokenLists(torch.tensor(first * 4), [len(first)] * 4)
    )
    found = encode_batch(model, twins, StepConfig(token_budget=1), "float32", 7)[
        "text"
    ].vectors
    assert all(
        not torch.allclose(vector, other)
        for vector, other in itertools.combinations(found, 2)
    )


@pytest.mark.parametrize("token_budget", [1, 40, 100, 10_000])
@pytest.mark.parametrize("micro_batch", [1, 7, None])
def test_the_cut_changes_gradients_by_rounding_alone(
    recipe: Recipe, token_budget: int, micro_batch: int | None
) -> None:
    config = recipe({"precision": "float64", "schedule": "joint"})
    uncut, _ = _gradients(config, token_budget=10**6, graph_memory=KEEP_ALL)
    found, _ = _gradients(
        config,
        token_budget=token_budget,
        micro_batch=micro_batch,
        graph_memory=KEEP_ONE,
    )
    whole = torch.stack([gradient.norm() for gradient in uncut.values()]).norm()
    for name, gradient in uncut.items():
        assert (found[name] - gradient).norm() <= 1e-12 * whole, name


def test_as_many_chunks_are_kept_as_fit_into_the_memory(recipe: Recipe) -> None:
    model, batches = _start(recipe())
    assert batches[0].pixels is not None
    with measure_graph(model) as measured:
        model.encode_image(batches[0].pixels[:4])
    for count in (1, 2, 3, 5):
        config = StepConfig(
            micro_batch=4, graph_memory=(count + 0.1) * measured.num_bytes / 2**30
        )
        assert (
            len(encode_batch(model, batches[0], config, "float32", 0)["image"].graphs)
            == count
        )


def test_the_measure_of_a_graph_counts_what_is_saved_once_and_no_weights() -> None:
    layers = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Tanh())
    with measure_graph(layers) as measured:
        layers(torch.randn(4, 8))
    # the input of the linear layer, and the result of each tanh
    assert measured.num_bytes == 4 * (4 * 8 + 2 * 4 * 16)


def test_ranks_with_fewer_chunks_cut_theirs_further(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batches = _start(recipe())
    monkeypatch.setattr(
        distributed, "all_reduce_max", lambda counts: [count + 3 for count in counts]
    )
    for found in grad_cache.cut(
        model, batches[0], StepConfig(micro_batch=10, token_budget=200), "float32"
    ).values():
        assert sorted(row for chunk in found for row in chunk.rows) == list(range(24))
        assert all(chunk.rows for chunk in found)
    assert (
        len(
            grad_cache.cut(model, batches[0], StepConfig(micro_batch=10), "float32")[
                "image"
            ]
        )
        == 3 + 3
    )


def test_live_batch_normalization_is_refused_in_a_cut_batch_and_allowed_whole_or_frozen(
    recipe: Recipe,
) -> None:
    base = recipe()
    assert base.model is not None
    tower = ImageTowerConfig(
        name="resnet18", kwargs={"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}
    )
    model = base.model.model_copy(update={"image": tower})

    def prepare(micro_batch: int | None, freeze: bool) -> None:
        towers = base.towers.model_copy(
            update={"image": base.towers.image.model_copy(update={"freeze": freeze})}
        )
        step = base.step.model_copy(update={"micro_batch": micro_batch})
        config = base.model_copy(
            update={"model": model, "towers": towers, "step": step}
        )
        prepare_model(make_model(config, None)[0], config, torch.device("cpu"))

    prepare(None, False)
    prepare(24, False)
    prepare(8, True)
    with pytest.raises(
        ValueError,
        match=r"image\.backbone.* which is cut into chunks",
    ):
        prepare(8, False)


def test_patch_dropout_leaves_patches_out_in_training_alone_and_needs_a_vision_transformer(
    recipe: Recipe,
) -> None:
    model, batches = _start(_dropping(recipe))
    pixels = batches[0].pixels
    assert pixels is not None
    plain, _ = _start(recipe({"schedule": "joint"}))
    lengths = []
    for encoder in (model, plain):
        assert encoder.image is not None
        block: nn.Module = encoder.image.backbone.blocks[0]  # type: ignore[index, assignment]
        block.register_forward_hook(
            lambda _module, inputs, _output: lengths.append(inputs[0].shape[1])
        )
        encoder.encode_image(pixels)
    assert lengths == [1 + 3, 1 + 4]
    torch.testing.assert_close(
        model.eval().encode_image(pixels), plain.eval().encode_image(pixels)
    )
    with pytest.raises(
        ValueError, match=r"towers\.text\.patch_dropout 0\.5 needs a vision transformer"
    ):
        _start(recipe({"towers": {"text": {"patch_dropout": 0.5}}}))


@pytest.mark.slow
def test_compiled_towers_give_the_gradients_of_plain_ones_and_save_under_the_same_names(
    recipe: Recipe,
) -> None:
    config = recipe({"schedule": "joint"})
    plain, _ = _gradients(config)
    compiled, _ = _gradients(
        config.model_copy(
            update={"step": config.step.model_copy(update={"compile": True})}
        )
    )
    assert compiled.keys() == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(compiled[name], gradient, rtol=1e-4, atol=1e-5)
