"""A run: stopped and resumed equals never stopped, ranks equal one process, bad input stops before
harm is done.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import training.loop
from tests.conftest import Recipe
from tests.training.runs import assert_same_weights, rows_of, torchrun
from training.config import TrainConfig
from training.loop import Stopped, train
from training.run.moments import read_moments
from training.run.resume import checkpoints
from training.step import train_step
from unimodal.config import apply_overrides, parse_config
from unimodal.embedder import load
from unimodal.encoder import Encoder


def test_a_run_leaves_a_model_that_has_learned_and_embeds(
    recipe: Recipe, world: Path
) -> None:
    config = recipe({"steps": 60, "optim": {"lr": 3e-3}, "tasks": {"pairs": None}})
    model = train(config)
    rows = rows_of(config.run)
    assert rows[-1]["pictures/loss"] < 0.75 * rows[0]["pictures/loss"]
    assert rows[-1]["pictures/scale"] != pytest.approx(1 / 0.07)
    embedder = load(model)
    reds = embedder.encode([world / f"images/{number}.png" for number in (0, 4, 8)])
    texts = embedder.encode(["red mug", "green chair", "blue lamp", "yellow shoe"])
    assert np.argmax((reds @ texts.T).mean(axis=0)) == 0
    assert (Path(config.run) / "config.yaml").is_file()


@pytest.mark.parametrize("stopped_at", [3, 6])
def test_stopped_and_resumed_equals_never_stopped_to_the_bit(
    recipe: Recipe, tmp_path: Path, stopped_at: int
) -> None:
    # The attention kernel too must be that of the first start: another one rounds otherwise.
    dropout = {
        "model": {
            "text": {
                "kwargs": {"hidden_dropout_prob": 0.1, "attn_implementation": "eager"}
            }
        }
    }
    whole = recipe({"run": str(tmp_path / "whole"), **dropout})
    train(whole)
    stopped = recipe(
        {"run": str(tmp_path / "stopped"), "save_every": 1, "workers": 1, **dropout}
    )
    with pytest.raises(Stopped, match=f"stopped at step {stopped_at} of 8"):
        train(
            stopped.model_copy(update={"eval": _every(stopped_at)}), evaluate=_stop_here
        )
    train(stopped, resume=True)
    assert [
        row for row in rows_of(stopped.run) if "val/some score" not in row
    ] == rows_of(whole.run)
    assert_same_weights(Path(stopped.run), Path(whole.run), exact=True)


def _every(steps: int) -> Any:
    from training.config import EvalConfig

    return EvalConfig(suite="none", every=steps)


def _stop_here(
    encoder: Encoder, should_stop: Callable[[], bool]
) -> Mapping[str, float]:
    os.kill(os.getpid(), 15)
    assert should_stop()
    return {"some score": 1.0}


def test_a_validation_that_was_cut_short_is_done_by_the_run_that_goes_on(
    recipe: Recipe,
) -> None:
    config = recipe(
        {"steps": 4, "eval": {"suite": "none", "every": 2, "best": "some score"}}
    )
    with pytest.raises(Stopped, match="stopped at step 2 of 4"):
        train(config, evaluate=_stop_here)
    assert not any("val/some score" in row for row in rows_of(config.run))
    train(
        config, evaluate=lambda embedder, should_stop: {"some score": 0.5}, resume=True
    )
    assert [row["step"] for row in rows_of(config.run) if "val/some score" in row] == [
        2,
        4,
    ]
    assert (Path(config.run) / "best/model.safetensors").is_file()


def test_a_recipe_that_validates_needs_something_that_scores(recipe: Recipe) -> None:
    with pytest.raises(ValueError, match="eval"):
        train(recipe({"eval": {"suite": "none", "every": 2}}))


def test_overwriting_removes_the_run_and_nothing_else_in_its_folder(
    recipe: Recipe,
) -> None:
    config = recipe({"steps": 1})
    train(config)
    kept = Path(config.run) / "shards/data.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    train(config, overwrite=True)
    assert kept.read_text() == "mine"
    assert len(rows_of(config.run)) == 1


def test_a_metrics_line_that_a_crash_cut_short_does_not_stop_the_run_from_going_on(
    recipe: Recipe,
) -> None:
    config = recipe({"steps": 2, "save_every": 1})
    train(config)
    with (Path(config.run) / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "los')
    train(config, resume=True)
    assert len(rows_of(config.run)) == 2


def test_a_run_that_is_finished_and_resumed_stays_as_it_is(recipe: Recipe) -> None:
    config = recipe({"steps": 2})
    model = train(config)
    before = (model / "model.safetensors").read_bytes()
    assert (train(config, resume=True) / "model.safetensors").read_bytes() == before
    assert len(rows_of(config.run)) == 2


def test_joint_adds_the_losses_and_both_towers_learn_in_every_step(
    recipe: Recipe,
) -> None:
    config = recipe({"schedule": "joint", "steps": 2})
    train(config)
    assert all(
        {"pictures/loss", "pairs/loss"} <= row.keys() for row in rows_of(config.run)
    )


def test_an_idle_tower_is_neither_decayed_nor_moved_by_its_momentum(
    recipe: Recipe, tmp_path: Path
) -> None:
    # Steps 0, 2, ... are images, steps 1, 3, ... pairs: the image tower rests in the last step.
    short = recipe(
        {
            "run": str(tmp_path / "a"),
            "steps": 3,
            "stages": [{"steps": 3}],
            "save_every": 1,
            "keep": 9,
        }
    )
    longer = recipe(
        {"run": str(tmp_path / "b"), "steps": 4, "save_every": 1, "keep": 9}
    )
    train(short)
    train(longer)
    third, fourth = (
        load_file(path / "model.safetensors")
        for path in checkpoints(Path(longer.run))[2:]
    )
    for name in third:
        assert torch.equal(third[name], fourth[name]) == (
            name.startswith(("image", "logit_scales"))
        ), name


def test_stages_change_tasks_lengths_and_rates_and_start_their_own_warm_up(
    recipe: Recipe,
) -> None:
    stages = [
        {"name": "short", "steps": 2, "tasks": {"pairs": None}},
        {
            "name": "long",
            "steps": 2,
            "optim": {"lr": 1e-4},
            "tasks": {"pictures": {"caption": "longest", "max_length": 24}},
        },
        {
            "name": "triplets",
            "steps": 1,
            "tasks": {"pictures": None, "pairs": {"num_negatives": 2}},
        },
    ]
    config = recipe({"stages": stages})
    train(config)
    rows = rows_of(config.run)
    assert [row["stage"] for row in rows] == [
        "short",
        "short",
        "long",
        "long",
        "triplets",
    ]
    assert rows[2]["lr"] == pytest.approx(5e-5)
    assert "pairs/loss" in rows[4]


def test_every_loss_and_option_trains_in_stages_and_is_saved_with_the_model(
    recipe: Recipe,
) -> None:
    kinds = [
        {"loss": "own_negatives", "matryoshka_dims": [4, 8]},
        {
            "negatives": {
                "margin": 0.1,
                "hardness": 2.0,
                "hard_negative_hardness": 2.0,
                "query_query": True,
            }
        },
        {"loss": "sigmoid", "num_negatives": 0, "accumulate": 2},
    ]
    stages = [
        {"steps": 2, "tasks": {"pictures": None, "pairs": kind}} for kind in kinds
    ]
    config = recipe({"stages": stages, "step": {"loss_tile": 2}})
    model = load(train(config)).models[0]
    assert model.config.matryoshka_dims == (4, 8)
    assert model.config.logit_biases == ("pairs",)
    assert float(model.logit_biases["pairs"].detach()) != -10
    assert all(np.isfinite(row["pairs/loss"]) for row in rows_of(config.run))


def test_init_starts_from_a_model_directory_with_its_learned_scale(
    recipe: Recipe, tmp_path: Path
) -> None:
    first = recipe(
        {
            "run": str(tmp_path / "first"),
            "steps": 4,
            "optim": {"lr": 1e-2},
            "tasks": {"pairs": None},
        }
    )
    model = train(first)
    second = recipe(
        {
            "run": str(tmp_path / "second"),
            "model": None,
            "init": str(model),
            "steps": 1,
            "optim": {"lr": 1e-9},
        }
    )
    train(second)
    assert rows_of(second.run)[0]["pictures/scale"] == pytest.approx(
        rows_of(first.run)[-1]["pictures/scale"], rel=1e-4
    )
    before, after = (
        load_file(path / "model.safetensors")
        for path in (model, tmp_path / "second/model")
    )
    assert after.keys() - before.keys() == {"logit_scales.pairs"}
    torch.testing.assert_close(
        before["text_projection.weight"], after["text_projection.weight"]
    )


def test_frozen_towers_and_layers_stay_and_slower_towers_move_less(
    recipe: Recipe, tmp_path: Path
) -> None:
    towers = {"image": {"freeze": True}, "text": {"frozen_layers": 1}}
    config = recipe({"steps": 3, "save_every": 1, "keep": 9, "towers": towers})
    train(config)
    first, last = (
        load_file(path / "model.safetensors")
        for path in (checkpoints(Path(config.run))[0], Path(config.run) / "model")
    )
    moved = {name for name in first if not torch.equal(first[name], last[name])}
    assert not any(
        name.startswith(
            ("image.", "text.backbone.embeddings", "text.backbone.encoder.layer.0")
        )
        for name in moved
    )
    assert {
        "image_projection.weight",
        "text.backbone.encoder.layer.1.output.dense.weight",
    } <= moved


def test_the_best_model_by_a_validation_score_is_kept(recipe: Recipe) -> None:
    scores = iter([0.1, 0.9, 0.3])
    settings = {"suite": "none", "every": 1, "best": "squares hit_rate_at_1"}
    config = recipe({"steps": 3, "save_every": 1, "keep": 9, "eval": settings})
    train(
        config,
        evaluate=lambda embedder, should_stop: {"squares hit_rate_at_1": next(scores)},
    )
    best = load_file(Path(config.run) / "best/model.safetensors")
    second = load_file(checkpoints(Path(config.run))[1] / "model.safetensors")
    assert all(torch.equal(best[name], second[name]) for name in best)


@pytest.mark.filterwarnings("ignore:eval.best")
def test_a_step_whose_score_is_undefined_is_not_the_best_and_ends_nothing(
    recipe: Recipe,
) -> None:
    scores = iter([None, 0.2, None])
    settings = {"suite": "none", "every": 1, "best": "pairs spearman"}
    config = recipe({"steps": 3, "save_every": 1, "keep": 9, "eval": settings})
    train(
        config,
        evaluate=lambda embedder, should_stop: {
            "pairs spearman": next(scores),
            "other score": 0.5,
        },
    )
    best = load_file(Path(config.run) / "best/model.safetensors")
    second = load_file(checkpoints(Path(config.run))[1] / "model.safetensors")
    assert all(torch.equal(best[name], second[name]) for name in best)
    validated = [row for row in rows_of(config.run) if "val/other score" in row]
    assert [row.get("val/pairs spearman") for row in validated] == [None, 0.2, None]


def test_a_fixed_temperature_stays_and_a_learned_scale_is_clamped(
    recipe: Recipe,
) -> None:
    config = recipe(
        {
            "steps": 30,
            "optim": {"lr": 0.3, "warmup_steps": 0},
            "tasks": {"pictures": {"max_scale": 15.0}},
        }
    )
    train(config)
    rows = rows_of(config.run)
    assert [
        row["pairs/scale"] for row in rows if "pairs/scale" in row
    ] == pytest.approx([20.0] * 15)
    scales = [row["pictures/scale"] for row in rows if "pictures/scale" in row]
    assert max(scales) <= 15.0 * (1 + 1e-6)
    assert min(scales) >= 1.0 - 1e-6


def test_bf16_and_gradient_checkpointing_run_and_stay_near_float32(
    recipe: Recipe, tmp_path: Path
) -> None:
    losses = {}
    variants: dict[str, dict[str, Any]] = {
        "plain": {},
        "bf16": {"precision": "bfloat16"},
        "checkpointed": {"step": {"grad_checkpointing": True}},
    }
    for name, changes in variants.items():
        config = recipe({"run": str(tmp_path / name), **changes})
        train(config)
        losses[name] = [
            next(value for key, value in row.items() if key.endswith("/loss"))
            for row in rows_of(config.run)
        ]
    np.testing.assert_allclose(losses["checkpointed"], losses["plain"], rtol=1e-5)
    np.testing.assert_allclose(losses["bf16"], losses["plain"], rtol=0.05)


def _poisoned(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, steps: range, **changes: Any
) -> TrainConfig:
    """A recipe whose loss is not finite at the given steps."""
    config = recipe({"steps": 16, "save_every": 2, "keep": 99, **changes})
    count = iter(range(99))

    def poison(model: Any, *arguments: Any, **options: Any) -> Any:
        weight = model.text_projection.weight.data
        before = weight.clone()
        if next(count) in steps:
            weight[0, 0] = float("nan")
        stats = train_step(model, *arguments, **options)
        if not stats.is_finite:
            weight.copy_(before)
        return stats

    monkeypatch.setattr(training.loop, "train_step", poison)
    return config


def test_a_step_that_is_not_finite_is_skipped_and_counted_and_leaves_everything_as_it_was(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _poisoned(recipe, monkeypatch, range(2, 4))
    train(config)
    rows = rows_of(config.run)
    assert [row["nonfinite"] for row in rows] == [0, 0, 1, 1, *[0] * 12]
    assert not any(name.endswith("/loss") for row in rows[2:4] for name in row)
    second, fourth = (
        load_file(path / "model.safetensors")
        for path in checkpoints(Path(config.run))[:2]
    )
    assert all(torch.equal(second[name], fourth[name]) for name in second)
    first, last = map(read_moments, checkpoints(Path(config.run))[:2])
    assert all(torch.equal(first[name], last[name]) for name in first)
    listed = [
        json.loads(line)
        for line in (Path(config.run) / "nonfinite.jsonl").read_text().splitlines()
    ]
    assert [(row["step"], row["task"], len(row["samples"])) for row in listed] == [
        (3, "pictures", 24),
        (4, "pairs", 12),
    ]


def test_a_last_step_that_is_not_finite_is_a_warning_and_costs_no_model(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _poisoned(recipe, monkeypatch, range(15, 16))
    with pytest.warns(
        UserWarning, match="not finite in 1 steps in a row, the last being step 16"
    ):
        model = train(config)
    assert (model / "model.safetensors").is_file()


def test_ten_steps_in_a_row_that_are_not_finite_stop_the_run_and_name_the_step_and_the_samples(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _poisoned(recipe, monkeypatch, range(3, 99))
    with pytest.raises(
        FloatingPointError,
        match=r"10 steps in a row, the last being step 13 .*squares.*samples .*, .*16 more",
    ) as caught:
        train(config)
    assert not (Path(config.run) / "model").exists()
    monkeypatch.undo()
    assert "/step-00000002)" in str(caught.value)  # 3 is the last good step
    _follow(config, str(caught.value))


def _follow(config: TrainConfig, advice: str) -> None:
    """Start the run that a message proposes."""
    found = re.search(r"\((run=ANOTHER .*init=\S+)\)", advice)
    assert found is not None
    overrides = found[1].replace("ANOTHER", f"{config.run}-2").split()
    train(
        parse_config(
            TrainConfig, apply_overrides(config.model_dump(), [*overrides, "steps=1"])
        )
    )


def test_an_existing_run_is_refused_unless_resumed_or_asked(recipe: Recipe) -> None:
    config = recipe({"steps": 1})
    train(config)
    with pytest.raises(
        ValueError,
        match=r"exists already.*--resume.*--overwrite",
    ):
        train(config)
    train(config, overwrite=True)


def test_resuming_with_another_recipe_names_the_difference(recipe: Recipe) -> None:
    config = recipe({"steps": 1})
    train(config)
    with pytest.raises(
        ValueError, match=r"was started with optim.lr=0.001 and the recipe says 0.5"
    ):
        train(recipe({"steps": 1, "optim": {"lr": 0.5}}), resume=True)


@pytest.mark.parametrize("has_init", [False, True])
def test_resuming_with_another_recipe_says_how_to_start_from_the_weights(
    recipe: Recipe, tmp_path: Path, has_init: bool
) -> None:
    config = recipe({"steps": 1})
    if has_init:
        first = train(config.model_copy(update={"run": str(tmp_path / "first")}))
        config = config.model_copy(update={"model": None, "init": str(first)})
    train(config)
    other = config.model_copy(
        update={"optim": config.optim.model_copy(update={"lr": 0.5})}
    )
    with pytest.raises(
        ValueError, match=r"start another run from its weights \(run="
    ) as caught:
        train(other, resume=True)
    _follow(other, str(caught.value))


def test_resuming_on_other_shards_is_refused(
    recipe: Recipe, world: Path, tmp_path: Path
) -> None:
    shutil.copytree(world / "shards", tmp_path / "shards")
    config = recipe({"steps": 1, "data_root": str(tmp_path / "shards")})
    train(config)
    for file in (tmp_path / "shards/pairs").glob("000002.tar*"):
        file.unlink()
    with pytest.raises(
        ValueError,
        match=r"000002.tar of 'pairs' is gone",
    ):
        train(config, resume=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"tasks": {"pictures": {"sources": {"squares": {"path": "nowhere"}}}}},
            "nowhere",
        ),
        (
            {"tasks": {"pictures": {"global_batch": 240}}},
            "larger than the source 'squares' of 79 samples",
        ),
        (
            {"tasks": {"pairs": {"num_negatives": 3}}},
            "2 negatives.*num_negatives is 3",
        ),
        (
            {"model": {"text": {"tokenizer": "no/such/tokenizer"}}},
            "no tokenizer found for 'no/such/tokenizer'",
        ),
        (
            {"model": {"image": {"name": "resnet_eighteen"}}},
            "not a timm model; did you mean",
        ),
        (
            {"model": {"image": {"projection": "none"}}},
            "needs embed_dim 16 to equal the tower's width 24",
        ),
        (
            {"tasks": {"pairs": {"max_length": 30}}},
            "max_length 30 of task 'pairs' is over the text tower's 24",
        ),
        (
            {"tasks": {"pictures": {"streams": 7}}},
            "global_batch 24 is not a multiple of streams 7",
        ),
        (
            {"tasks": {"pictures": {"tempreture": 1}}},
            "unknown key 'tempreture'; did you mean 'temperature'",
        ),
        (
            {"tasks": {"pictures": {"temperature": 0.001}}},
            "is a scale of 1000, which is not between 1 and max_scale 100",
        ),
        (
            {"tasks": {"pictures": {"matryoshka_dims": [4, 16]}}},
            "16, which is not a prefix of the 16 dimensions",
        ),
        (
            {"tasks": {"pictures": {"bias": 3.0}}},
            "bias .*'sigmoid'.*'info_nce'",
        ),
        (
            {"tasks": {"pairs": {"loss": "cosent"}}},
            "loss 'cosent' with num_negatives 1: set it to 0",
        ),
        (
            {"tasks": {"pairs": {"loss": "cosent", "num_negatives": 0}}},
            "has no score.*cosent",
        ),
        (
            {"tasks": {"pairs": {"loss": "distillation"}}},
            "has no teacher.*distillation",
        ),
        (
            {"model": {"image": None}},
            "task 'pictures' is image-text and the model has no image tower",
        ),
        ({"init": "somewhere"}, "model and init .*model=null"),
    ],
)
def test_what_a_recipe_gets_wrong_is_one_sentence_and_leaves_nothing_behind(
    recipe: Recipe, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train(recipe(changes))
    assert not (tmp_path / "run/model").exists()


def test_two_and_three_ranks_give_the_losses_and_weights_of_one_process_in_float64(
    recipe: Recipe, tmp_path: Path
) -> None:
    changes = {
        "precision": "float64",
        "steps": 6,
        "tasks": {"pairs": {"num_negatives": 2}},
    }
    one = recipe({"run": str(tmp_path / "one"), **changes})
    train(one)
    for ranks in (2, 3):
        several = recipe({"run": str(tmp_path / f"ranks{ranks}"), **changes})
        torchrun(several, ranks)
        for ours, theirs in zip(rows_of(several.run), rows_of(one.run), strict=True):
            assert ours.keys() == theirs.keys()
            for name, value in ours.items():
                assert value == theirs[name] or abs(
                    value - theirs[name]
                ) <= 1e-12 * max(1, abs(theirs[name])), name
        assert_same_weights(Path(several.run), Path(one.run), exact=False)


def test_weights_in_shards_give_the_run_of_one_process_which_goes_on_from_their_checkpoint(
    recipe: Recipe, tmp_path: Path
) -> None:
    """Two ranks with FSDP2 train, validate and save four steps, and are stopped; one process trains
    the rest.
    """
    changes = {"precision": "float64", "steps": 6, "save_every": 2, "keep": 9}
    one = recipe({"run": str(tmp_path / "one"), **changes})
    train(one)
    sharded = recipe({"run": str(tmp_path / "sharded"), "parallel": "fsdp", **changes})
    torchrun(sharded, 2)
    assert_same_weights(Path(sharded.run), Path(one.run), exact=False)
    for folder in checkpoints(Path(sharded.run))[
        2:
    ]:  # as if it had been stopped at step 4
        shutil.rmtree(folder)
    shutil.copytree(sharded.run, tmp_path / "again")
    train(sharded.model_copy(update={"parallel": "ddp"}), resume=True)
    assert_same_weights(Path(sharded.run), Path(one.run), exact=False)
    again = sharded.model_copy(update={"run": str(tmp_path / "again")})
    torchrun(again, 2, "--resume")
    assert_same_weights(Path(again.run), Path(one.run), exact=False)
    with pytest.raises(
        ValueError,
        match="parallel=fsdp shards weights over processes; start with torchrun",
    ):
        train(sharded, overwrite=True)


def test_a_world_size_that_does_not_fit_is_an_error_of_one_line(recipe: Recipe) -> None:
    result = torchrun(recipe({"tasks": {"pictures": {"streams": 3}}}), 2, check=False)
    assert result.returncode
    assert "world size 2 does not divide the 3 streams" in result.stderr
