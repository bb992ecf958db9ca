"""The optimiser's groups and what a stage says about them."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import Recipe
from training.config import OptimConfig, TowersConfig
from training.data.dataset import StepDataset
from training.data.loader import steps_from
from training.model import make_model, prepare_model
from training.optim import make_optimizer
from training.step import train_step


def test_matrices_decay_vectors_do_not_and_each_tower_has_its_own_rate(
    recipe: Recipe,
) -> None:
    config = recipe({"towers": {"text": {"lr_scale": 0.1}}})
    model = prepare_model(make_model(config, None)[0], config, torch.device("cpu"))
    optimizer = make_optimizer(
        model, OptimConfig(), TowersConfig.model_validate({"text": {"lr_scale": 0.1}})
    )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            assert group["lr_scale"] == (0.1 if name.startswith("text") else 1.0), name
            assert group["decays"] == (parameter.ndim > 1), name
    assert sum(len(group["params"]) for group in optimizer.param_groups) == sum(
        parameter.requires_grad for parameter in model.parameters()
    )


def test_a_later_stage_brings_its_own_optimiser_settings(recipe: Recipe) -> None:
    optim = {"lr": 1e-4, "betas": [0.5, 0.6], "weight_decay": 0.5, "eps": 1e-3}
    config = recipe({"stages": [{"steps": 1}, {"steps": 1, "optim": optim}]})
    model, tokenizer = make_model(config, None)
    model = prepare_model(model, config, torch.device("cpu"))
    dataset = StepDataset(config.plan, config.data_root, model.config, tokenizer, 0)
    optimizer = make_optimizer(model, config.plan[0].optim, config.towers)
    for step, (batches, stage) in enumerate(
        zip(steps_from(dataset, 0, 2, 0), config.plan, strict=True)
    ):
        train_step(
            model,
            batches,
            stage,
            optimizer,
            config.step,
            learning_rate=1e-4,
            precision="float32",
            seed=step,
        )
    for group in optimizer.param_groups:
        assert group["betas"] == (0.5, 0.6)
        assert group["eps"] == pytest.approx(1e-3)
        assert group["weight_decay"] == (0.5 if group["decays"] else 0.0)
