"""A batch that asks nothing is told, counted, and an error where every batch is like it."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import Recipe
from training.config import TaskConfig, TrainConfig
from training.data.collate import NUM_IDS, Batch, TokenLists
from training.data.mixture import BatchPlace
from training.loop import train
from training.losses.contrast import Contrast, contrast_of, count_members, count_sharing
from training.run.resume import checkpoints, step_of
from unimodal.config import merge, parse_config


@pytest.mark.parametrize("num_values", [1, 2, 5, 40, 10_000])
@pytest.mark.parametrize("num_ids", [1, 2, 3, 4])
def test_pairs_that_share_an_id_are_counted_as_a_matrix_of_all_of_them_would(
    num_values: int, num_ids: int
) -> None:
    draw = torch.Generator().manual_seed(num_values)
    ids = torch.randint(-num_values, num_values, (57, num_ids), generator=draw) * 2**40
    rows = [set(row.tolist()) for row in ids]
    naive = sum(
        i != j and bool(rows[i] & rows[j]) for i in range(57) for j in range(57)
    )
    assert count_sharing(ids) == naive

    others = torch.randint(-num_values, num_values, (31,), generator=draw) * 2**40
    assert count_members(ids, others) == sum(
        other in row for row in rows for other in others.tolist()
    )


def test_counting_a_large_batch_of_one_text_is_quick() -> None:
    ids = torch.arange(3 * 2**15).view(-1, 3)
    ids[:, 1] = 7
    assert count_sharing(ids) == 2**15 * (2**15 - 1)


def _batch(ids: Any, hard: Any = None, scores: Any = None) -> Batch:
    table = torch.tensor(ids)
    return Batch(
        place=BatchPlace(0, "pairs", "made", 0, 0),
        keys=[f"key{row}" for row in range(len(table))],
        pixels=None,
        texts=TokenLists(torch.zeros(0, dtype=torch.int32), []),
        ids=table,
        hard_negative_ids=torch.tensor(hard)
        if hard is not None
        else torch.zeros(len(table), 0, dtype=torch.int64),
        scores=torch.tensor(scores) if scores is not None else None,
        skipped=[],
    )


def _task(**changes: Any) -> TaskConfig:
    values = {
        "kind": "text-text",
        "sources": {"made": {"path": "x"}},
        "global_batch": 4,
    }
    return parse_config(TaskConfig, {**values, **changes})


APART = np.arange(4 * NUM_IDS).reshape(4, NUM_IDS).tolist()
SAME_DOCUMENT = [[row, 99, row] for row in range(4)]
HALF = [[0, 90, 0], [1, 90, 1], [2, 91, 2], [3, 91, 3]]


@pytest.mark.parametrize(
    ("task", "batch", "masked", "lacks"),
    [
        ({}, _batch(APART), 0.0, ""),
        ({}, _batch(HALF), 4 / 12, ""),
        (
            {},
            _batch(SAME_DOCUMENT),
            1.0,
            "none is a negative (key0 and key1 have the same document)",
        ),
        ({"mask_duplicates": False}, _batch(SAME_DOCUMENT), None, ""),
        ({"loss": "sigmoid"}, _batch(SAME_DOCUMENT), 1.0, "none is a negative"),
        ({"loss": "sigmoid"}, _batch(HALF), 4 / 12, ""),
        ({"num_negatives": 1}, _batch(SAME_DOCUMENT, [[5], [6], [7], [8]]), 1.0, ""),
        (
            {"num_negatives": 1},
            _batch(SAME_DOCUMENT, [[99], [99], [99], [99]]),
            1.0,
            "none is a negative",
        ),
        ({"num_negatives": 1}, _batch(SAME_DOCUMENT, [[99], [99], [99], [8]]), 1.0, ""),
        (
            {"loss": "own_negatives", "num_negatives": 1},
            _batch(APART, [[5], [6], [7], [8]]),
            None,
            "",
        ),
        (
            {"loss": "own_negatives", "num_negatives": 2},
            _batch(APART, [[row[1]] * 2 for row in APART]),
            None,
            "each query's hard negatives are its own document (as of sample key0)",
        ),
        (
            {"loss": "cosent"},
            _batch(APART, scores=[[1.0], [1.0], [1.0], [0.5]]),
            None,
            "",
        ),
        (
            {"loss": "cosent"},
            _batch(APART, scores=[[0.8]] * 4),
            None,
            "all its samples have the score 0.8",
        ),
        (
            {"loss": "distillation", "num_negatives": 1},
            _batch(APART, [[5]] * 4, [[0.5, 0.5], [0.1, 0.1]] * 2),
            None,
            "the same for the document and all hard negatives of each query (of sample key0: 0.5)",
        ),
        (
            {"loss": "distillation", "num_negatives": 1},
            _batch(APART, [[5]] * 4, [[0.5, 0.5], [0.1, 0.2]] * 2),
            None,
            "",
        ),
    ],
)
def test_what_a_batch_has_to_compare(
    task: dict[str, Any], batch: Batch, masked: float | None, lacks: str
) -> None:
    found = contrast_of(batch, _task(**task))
    assert found.masked == (pytest.approx(masked) if masked is not None else None)
    assert lacks in found.lacks
    assert bool(found.lacks) is bool(lacks)


def test_a_rank_with_one_sample_has_an_example_too() -> None:
    batch = _batch(SAME_DOCUMENT)._replace(keys=["key0"])
    assert isinstance(found := contrast_of(batch, _task()), Contrast)
    assert "(one of them is key0)" in found.lacks


def _write(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    folder.mkdir(parents=True)
    with tarfile.open(folder / "000000.tar", "w") as tar:
        for number, row in enumerate(rows):
            content = json.dumps(row).encode()
            member = tarfile.TarInfo(f"{number:06}.json")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def _pairs(count: int, **more: Any) -> list[dict[str, Any]]:
    return [
        {"query": f"red mug {number}", "document": f"green chair {number}", **more}
        for number in range(count)
    ]


def _config(
    recipe: Recipe, root: Path, sources: dict[str, Any], **changes: Any
) -> TrainConfig:
    task = {
        "sources": {"pairs": None, **sources},
        "num_negatives": 0,
        "global_batch": 4,
        "streams": 4,
    }
    values = recipe(
        {"data_root": str(root), "tasks": {"pictures": None, "pairs": task}}
    ).model_dump()
    return parse_config(TrainConfig, merge(values, changes))


def test_a_run_whose_every_step_teaches_nothing_ends_with_an_error(
    recipe: Recipe, tmp_path: Path
) -> None:
    _write(tmp_path / "data/same", _pairs(12, document="one document for all"))
    config = _config(recipe, tmp_path / "data", {"same": {"path": "same"}}, steps=3)
    with (
        pytest.warns(
            UserWarning,
            match="the batch of step 1 of task 'pairs', source 'same', teaches nothing: ",
        ),
        pytest.raises(
            ValueError,
            match=r"the run has learned nothing: .* have the same document\); shuffle or repair",
        ),
    ):
        train(config)
    assert not (Path(config.run) / "model").exists()
    rows = [
        json.loads(line)
        for line in (Path(config.run) / "metrics.jsonl").read_text().splitlines()
    ]
    assert [(row["pairs/masked"], row["pairs/loss"]) for row in rows] == [
        (1.0, 0.0)
    ] * 3


def test_a_source_whose_first_ten_batches_teach_nothing_ends_the_run_though_another_one_teaches(
    recipe: Recipe, tmp_path: Path
) -> None:
    _write(tmp_path / "data/same", _pairs(12, document="one document for all"))
    _write(tmp_path / "data/good", _pairs(12))
    sources = {"same": {"path": "same"}, "good": {"path": "good"}}
    config = _config(recipe, tmp_path / "data", sources, steps=200)
    with (
        pytest.warns(UserWarning, match="source 'same', teaches nothing"),
        pytest.raises(
            ValueError,
            match="each of the first 10 batches of task 'pairs', source 'same', teaches nothing",
        ),
    ):
        train(config)
    last = (Path(config.run) / "metrics.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["step"] < 25


def test_a_batch_that_teaches_nothing_among_others_is_one_warning(
    recipe: Recipe, tmp_path: Path
) -> None:
    scores = [{"score": 0.5}] * 8 + [
        {"score": 0.5 + number / 100} for number in range(8)
    ]
    _write(
        tmp_path / "data/graded",
        [{**pair, **score} for pair, score in zip(_pairs(16), scores, strict=True)],
    )
    changes = {
        "steps": 24,
        "tasks": {"pairs": {"loss": "cosent", "global_batch": 2, "streams": 2}},
    }
    config = _config(
        recipe, tmp_path / "data", {"graded": {"path": "graded"}}, **changes
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert train(config).is_dir()
    messages = [str(warning.message) for warning in caught]
    messages = [message for message in messages if "teaches nothing" in message]
    assert len(messages) == 1
    assert (
        "all its samples have the score 0.5, and cosent learns from pairs of different scores"
        in messages[0]
    )


def test_a_resumed_run_that_learned_before_it_was_stopped_ends_well(
    recipe: Recipe, tmp_path: Path
) -> None:
    _write(tmp_path / "data/same", _pairs(12, document="one document for all"))
    _write(tmp_path / "data/good", _pairs(12))
    config, later = (
        _config(
            recipe,
            tmp_path / "data",
            {
                "good": {"path": "good", "weight": good},
                "same": {"path": "same", "weight": 1 - good},
            },
            steps=14,
            save_every=2,
            keep=10,
        )
        for good in (1, 0)
    )
    model = train(config)
    shutil.rmtree(model)
    for folder in checkpoints(Path(config.run)):
        if step_of(folder) > 2:
            shutil.rmtree(folder)
    with pytest.warns(
        UserWarning,
        match="the batch of step 3 of task 'pairs', source 'same', teaches nothing",
    ):
        assert train(later, resume=True).is_dir()
