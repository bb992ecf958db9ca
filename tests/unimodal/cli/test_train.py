"""A dry run refuses what the run would be refused for, and says what is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.conftest import Recipe
from training.loop import train
from training.run.resume import write_config
from unimodal.cli import app
from unimodal.cli.train import _evaluator
from unimodal.config import read_config


def _dry_run(folder: Path, recipe: Recipe, *overrides: str) -> str:
    folder.mkdir(exist_ok=True)
    write_config(folder, recipe())
    command = ["train", str(folder / "config.yaml"), "--dry-run", *overrides]
    # pytest-xdist sets COLUMNS, at which tables would be wrapped.
    return (
        CliRunner()
        .invoke(app, command, env={"COLUMNS": None}, catch_exceptions=False)
        .output
    )


def test_a_dry_run_counts_samples_and_names_the_numbers_of_processes_that_fit(
    recipe: Recipe, tmp_path: Path
) -> None:
    said = _dry_run(tmp_path / "dry", recipe)
    assert "squares, weight 1, 79 samples" in said
    assert "pairs, weight 1, 61 samples" in said
    assert "1, 2, 3, 4, 6, 12" in said
    assert not (tmp_path / "run").exists()


def test_a_dry_run_says_what_is_not_there(recipe: Recipe, tmp_path: Path) -> None:
    said = _dry_run(
        tmp_path / "dry",
        recipe,
        "tasks.pairs.sources.pairs.path=nowhere",
        "eval={suite: mini, every: 2}",
    )
    assert "shards/nowhere is not there)" in said
    assert "validation every 2 steps: figures (not below " in said


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["eval={suite: nosuch, every: 2}"],
            "'nosuch' is neither a file nor a shipped recipe",
        ),
        (
            ["eval={suite: mini, every: 2, tasks: [figres]}"],
            "'figres' is not in suite 'mini'; did you mean 'figures'",
        ),
        (
            ["eval={suite: mini, every: 2, best: ndcg_at_10}"],
            "eval.best 'ndcg_at_10' is not a task and a metric; write",
        ),
        (
            ["eval={suite: mini, every: 2, best: figres ndcg_at_10}"],
            "'figres' does not belong to a task of the suite",
        ),
        (
            ["model=null", "init=/no/model"],
            "init '/no/model' does not exist; check the path, or give a hub id",
        ),
        (["model=null", "init=hf:./model"], "init 'hf:./model' does not exist"),
        (
            ["model.text.tokenizer=no/such/tokenizer"],
            "model.text.tokenizer 'no/such/tokenizer' does not exist",
        ),
        (["model.text.name=/no/model"], "model.text.name '/no/model' does not exist"),
        (
            ["init=/no/model"],
            "model and init are both given.* model=null or init=null",
        ),
        (
            ["tasks={pictures: null, pairs: null}"],
            "there is no task to train; give one",
        ),
        (
            ["tasks.pictures.global_batch=240"],
            "larger than the source 'squares' of 79 samples; set global_batch to",
        ),
        (["tasks.pairs.sources.pairs.epochs=1"], "only 5 of the 4?.*epochs"),
        (
            ["tasks.pairs.max_length=30"],
            "max_length 30 of task 'pairs' is over the text tower's 24; set tasks.pairs.max",
        ),
        (
            ["tasks.pairs.matryoshka_dims=[4, 16]"],
            "16, which is not a prefix of the 16 dimensions",
        ),
        (
            ["tasks.pairs.streams=7"],
            "global_batch 12 is not a multiple of streams 7; set global_batch to 14, or streams",
        ),
    ],
)
def test_a_dry_run_refuses_what_the_run_would_be_refused_for(
    recipe: Recipe, tmp_path: Path, overrides: list[str], message: str
) -> None:
    steps = ["steps=40"] if "epochs" in overrides[0] else []
    with pytest.raises(ValueError, match=message):
        _dry_run(tmp_path / "dry", recipe, *overrides, *steps)


def test_a_dry_run_under_torchrun_checks_the_number_of_processes(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "5")
    with pytest.raises(
        ValueError,
        match=r"world size 5 does not divide the 12 streams .* 24",
    ):
        _dry_run(tmp_path / "dry", recipe)


@pytest.mark.parametrize(
    ("task", "wrong", "advice", "advised"),
    [
        (
            "pictures",
            {"temperature": 0.001},
            "set temperature to a number from 0.01 to 1",
            {"temperature": 0.01},
        ),
        (
            "pictures",
            {"temperature": 0.001},
            "or max_scale to 1000",
            {"temperature": 0.001, "max_scale": 1000},
        ),
        (
            "pictures",
            {"temperature": 2.0},
            "set temperature to a number from 0.01 to 1.",
            {"temperature": 1.0},
        ),
        (
            "pictures",
            {"max_scale": 0.5},
            "set max_scale to 100, and temperature",
            {"max_scale": 100},
        ),
        (
            "pictures",
            {"streams": 7},
            "set global_batch to 28",
            {"global_batch": 28, "streams": 7},
        ),
        ("pictures", {"streams": 16}, "or streams to 8.", {"streams": 8}),
        (
            "pairs",
            {"max_length": 30},
            "set tasks.pairs.max_length to 24",
            {"max_length": 24},
        ),
        (
            "pairs",
            {"loss": "sigmoid"},
            "set it to 0.",
            {"loss": "sigmoid", "num_negatives": 0},
        ),
        ("pairs", {"matryoshka_dims": [16]}, "lower it", {"matryoshka_dims": [15]}),
    ],
)
def test_what_a_message_advises_is_accepted(
    recipe: Recipe,
    task: str,
    wrong: dict[str, Any],
    advice: str,
    advised: dict[str, Any],
) -> None:
    with pytest.raises(ValueError, match=re.escape(advice)):
        recipe({"tasks": {task: wrong}})
    recipe({"tasks": {task: advised}})


def test_the_recipe_that_a_dry_run_prints_is_one(
    recipe: Recipe, tmp_path: Path
) -> None:
    printed = _dry_run(tmp_path / "dry", recipe).partition("┏")[0]
    (tmp_path / "printed.yaml").write_text(printed, encoding="utf-8")
    assert read_config(type(recipe()), tmp_path / "printed.yaml") == recipe()


@pytest.mark.parametrize(
    "wanted",
    [
        "squares/text->image hit_rate_at_10",
        "squares hit_rate_at_10",
        "squares/text->image x",
    ],
)
def test_a_best_score_that_validation_does_not_give_is_refused_before_the_first_step(
    recipe: Recipe, world: Path, tmp_path: Path, wanted: str
) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text(
        "tasks: {squares: {kind: image-text, rows: {input: pictures.jsonl}, text: captions}}"
    )
    settings = {
        "suite": str(suite),
        "data_root": str(world),
        "every": 1,
        "best": wanted,
        "split": "all",
    }
    config = recipe({"steps": 1, "eval": settings})
    evaluate, load = _evaluator(config)
    assert load is not None
    assert evaluate is not None
    if "/text->image hit" not in wanted:
        with pytest.raises(
            ValueError,
            match="is not a validation score; did you mean 'squares/text->image",
        ):
            load()
        return
    load()
    assert train(config, evaluate=evaluate, load=load).is_dir()
    assert (Path(config.run) / "best").is_dir()
