"""What a run has seen is written down, what it could not use is counted, and other data than before
is refused.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import Recipe
from training.config import TrainConfig
from training.loop import Stopped, train
from training.run.resume import checkpoints, read_state
from training.step import train_step
from unimodal.shards.index import load_index, sidecar


def _ledger(config: TrainConfig) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(config.run) / "ledger.json").read_text())
    return found


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_ledger_says_which_source_gave_how_many_samples_in_which_epoch(
    recipe: Recipe, world: Path
) -> None:
    config = recipe(
        {"steps": 12}
    )  # six steps a task: 144 of 79 images (three batches an epoch), 72 of 61 pairs
    model = train(config)
    ledger = _ledger(config)
    names = ("task", "source", "epoch", "last_epoch", "samples", "of")
    assert [tuple(row[name] for name in names) for row in ledger["seen"]] == [
        ("pictures", "squares", 0, 1, 72, 79),
        ("pairs", "pairs", 0, 0, 60, 61),
        ("pairs", "pairs", 1, 1, 12, 61),
    ]
    assert set(ledger["shards"]) == {"pictures", "pairs"}
    assert ledger["step"] == 12
    shards = _lines(Path(config.run) / "shards.jsonl")
    assert sum(row["samples"] for row in shards) == 79 + 61
    assert len({row["digest"] for row in shards}) == len(shards) == 7
    assert "pictures (144 samples, 1.82 epochs)" in (model / "README.md").read_text()


def test_stages_without_names_have_rows_of_their_own(recipe: Recipe) -> None:
    config = recipe(
        {
            "stages": [
                {"steps": 2, "tasks": {"pairs": None}},
                {"steps": 2, "tasks": {"pictures": None}},
            ]
        }
    )
    train(config)
    assert [(row["stage"], row["path"]) for row in _ledger(config)["seen"]] == [
        ("stage 0", "pictures"),
        ("stage 1", "pairs"),
    ]
    with pytest.raises(ValueError, match=r"stages a, a .*name"):
        recipe({"stages": [{"steps": 1, "name": "a"}, {"steps": 1, "name": "a"}]})


def test_weights_may_change_at_resume_and_that_is_said_and_kept(
    recipe: Recipe, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(world / "shards/pairs", world / "shards/others", dirs_exist_ok=True)

    def config(weight: float) -> TrainConfig:
        sources = {
            "pairs": {"weight": weight},
            "others": {"path": "others", "weight": 1},
        }
        return recipe({"tasks": {"pairs": {"sources": sources}, "pictures": None}})

    first = config(3)
    _train_until(first, 4)
    assert [(row["source"], row["samples"]) for row in _ledger(first)["seen"]] == [
        ("pairs", 36),
        ("others", 12),
    ]
    second = config(0)
    train(second, resume=True)
    ledger = _ledger(second)
    assert [(row["source"], row["samples"]) for row in ledger["seen"]] == [
        ("pairs", 36),
        ("others", 60),
    ]
    assert (
        "from step 4 on, source 'pairs' of task 'pairs' in stage 'main'"
        in ledger["changes"][0]
    )
    assert ledger["changes"][0] in capsys.readouterr().err
    stretches = read_state(checkpoints(Path(second.run))[-1]).mixtures["0/pairs"][
        "stretches"
    ]
    assert [
        (stretch["start"], stretch["weights"], stretch["counts"])
        for stretch in stretches
    ] == [
        (0, [3.0, 1.0], [[0, 0]]),
        (4, [0.0, 1.0], [[3, 1]]),
    ]


def _train_until(config: TrainConfig, step: int) -> None:
    """Train, and stop as after a signal once the checkpoint of a step is there."""
    done = 0

    def counted(*args: Any, **options: Any) -> Any:
        nonlocal done
        done += 1
        if done == step:
            os.kill(os.getpid(), 15)
        return train_step(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.loop.train_step", counted)
        with pytest.raises(Stopped, match=f"stopped at step {step} of"):
            train(config)


def test_a_path_that_changes_at_resume_is_refused(recipe: Recipe) -> None:
    config = recipe({"save_every": 1})
    _train_until(config, 2)
    other = recipe(
        {
            "save_every": 1,
            "tasks": {"pairs": {"sources": {"pairs": {"path": "pictures"}}}},
        }
    )
    with pytest.raises(
        ValueError,
        match=r'tasks\.pairs\.sources\.pairs\.path="pairs" and the recipe says "pictures"',
    ):
        train(other, resume=True)


@pytest.mark.parametrize("has_checksums", [True, False])
def test_a_shard_written_again_is_refused_at_resume_by_its_name(
    recipe: Recipe, world: Path, tmp_path: Path, has_checksums: bool
) -> None:
    shutil.copytree(world / "shards", tmp_path / "shards")
    config = recipe({"data_root": str(tmp_path / "shards"), "save_every": 1})
    _train_until(config, 2)
    shard = sorted((tmp_path / "shards/pairs").glob("*.tar"))[1]
    content = bytearray(shard.read_bytes())
    place = (
        content.index(b'"query": "') + 10
    )  # of the first sample, where shards without checksums are looked at
    content[place] ^= 1  # as long as before, and the headers are the same
    shard.write_bytes(content)
    sidecar(shard).unlink()
    load_index(shard, checksums=has_checksums)
    with pytest.raises(
        ValueError,
        match=rf"trained on: {shard.name} of 'pairs' was written again",
    ):
        train(config, resume=True)


def test_the_same_shards_elsewhere_are_the_same(
    recipe: Recipe, world: Path, tmp_path: Path
) -> None:
    config = recipe({"save_every": 1})
    _train_until(config, 2)
    shutil.copytree(world / "shards", tmp_path / "moved")
    train(config.model_copy(update={"data_root": str(tmp_path / "moved")}), resume=True)
    assert _ledger(config)["step"] == 8


def _shard(file: Path, count: int, bad: set[int]) -> None:
    file.parent.mkdir()
    with tarfile.open(file, "w") as tar:
        for number in range(count):
            image = io.BytesIO()
            Image.new("RGB", (16, 16), (number % 256, number // 256, 20)).save(
                image, "PNG"
            )
            for name, content in (
                (f"{number:04}.png", b"<html>" if number in bad else image.getvalue()),
                (f"{number:04}.txt", f"a caption {number}".encode()),
            ):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def _images(recipe: Recipe, file: Path, **changes: Any) -> TrainConfig:
    source = {"squares": {"path": str(file)}}
    return recipe(
        {"tasks": {"pictures": {"sources": source}, "pairs": None}, **changes}
    )


def test_a_few_corrupt_samples_are_counted_and_too_many_end_the_run(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _shard(tmp_path / "few/0.tar", 240, {3, 77, 200})
    config = _images(recipe, tmp_path / "few/0.tar", steps=10)
    train(config)
    assert _ledger(config)["skipped"] == 3
    assert "3 of 240 samples" in capsys.readouterr().err
    assert len(_lines(Path(config.run) / "skipped.jsonl")) == 3
    assert (
        sum(row["skipped"] for row in _lines(Path(config.run) / "metrics.jsonl")) == 3
    )
    _shard(tmp_path / "many/0.tar", 480, set(range(0, 480, 3)))
    many = _images(
        recipe, tmp_path / "many/0.tar", steps=20, run=str(tmp_path / "run2")
    )
    with pytest.raises(
        ValueError,
        match=r"1\d\d of \d\d\d samples .* max_skipped 0.01",
    ):
        train(many)
    assert len(_lines(Path(many.run) / "skipped.jsonl")) > 100
    train(many.model_copy(update={"max_skipped": 0.6}), overwrite=True)
    with pytest.raises(ValueError, match=r"1 of \d+ samples .* max_skipped 0:"):
        train(config.model_copy(update={"max_skipped": 0.0}), overwrite=True)


def test_corrupt_samples_are_counted_on_where_a_run_was_stopped(
    recipe: Recipe, tmp_path: Path
) -> None:
    _shard(tmp_path / "few/0.tar", 240, {3, 77, 200})
    config = _images(recipe, tmp_path / "few/0.tar", steps=10)
    _train_until(config, 6)
    train(config, resume=True)
    assert _ledger(config)["skipped"] == 3
    state = read_state(checkpoints(Path(config.run))[-1])
    assert (state.num_skipped, state.num_samples) == (3, 240)


def test_a_cut_tar_is_reported_and_its_whole_samples_are_used(
    recipe: Recipe, tmp_path: Path
) -> None:
    _shard(tmp_path / "cut/0.tar", 100, set())
    file = tmp_path / "cut/0.tar"
    os.truncate(file, file.stat().st_size // 2 + 700)
    config = _images(recipe, file, steps=2)
    with pytest.warns(UserWarning, match=r"0\.tar is cut short \(.*\)"):
        train(config)
    (row,) = _lines(Path(config.run) / "skipped.jsonl")
    assert (row["shard"], row["key"], row["step"]) == (str(file), "", 0)
    assert row["reason"].startswith("cut ")
