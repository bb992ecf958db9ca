"""The comparisons of `unimodal bench`, small: both sides compute the same; how fast they are is
nobody's promise.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from typer.testing import CliRunner

from training.config import SourceConfig, StepConfig, TaskConfig
from training.data.loader import steps_from
from training.losses.contrastive import info_nce
from training.speed import data, loss, step
from training.step import encode_batch
from unimodal import photographs
from unimodal.cli import app
from unimodal.compare import relative_difference
from unimodal.model_config import PreprocessConfig
from unimodal.preprocess.tokenizers import load_tokenizer
from unimodal.shards.read import open_shards

SMALL_LOSS = loss.LossSizes(batch=48, memory_batch=1024, cached_batch=80, dim=8)
SMALL_CACHED = step.Cached(
    batch=8,
    chunk=2,
    image_size=16,
    image={"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2},
    layers=1,
    width=24,
    tokens=6,
)
SMALL_TEXTS = step.Texts(pairs=40, layers=1, width=16)
SMALL_DATA = data.DataSizes(
    image_size=16,
    short_sides=((48, ">= 3.3"), (64, ">= 2.8")),
    drawn=2,
    images=16,
    batch=8,
    samples=24,
    captions=40,
    sent=3,
)


def silent(_: str) -> None: ...


def test_bench_loss_has_a_row_for_each_peer() -> None:
    rows = loss.bench_loss(SMALL_LOSS, rounds=1)
    assert [row.target for row in rows[:3]] == ["<= 0.60", "<= 0.08", "<= 0.12"]
    for row in rows[:3]:
        assert row.ratio == pytest.approx(row.ours / row.theirs)
    assert rows[1].unit == "MB"


def test_bench_step_has_a_row_for_each_peer_and_gives_the_threads_back() -> None:
    before = torch.get_num_threads()
    rows = step.bench_step(SMALL_CACHED, SMALL_TEXTS, rounds=1)
    assert torch.get_num_threads() == before
    assert [row.target for row in rows] == ["<= 0.80", ">= 3", ">= 4", ">= 2.5"]
    assert rows[0].ratio == pytest.approx(rows[0].ours / rows[0].theirs)
    for row in rows[1:]:
        assert row.ratio == pytest.approx(row.theirs / row.ours)
    assert {row.unit for row in rows} == {"CPU s, 1 thread"}


def test_bench_data_has_a_row_for_each_peer() -> None:
    rows = data.bench_data(SMALL_DATA, rounds=1)
    assert [row.target for row in rows] == [
        ">= 3.3",
        ">= 2.8",
        ">= 10",
        "<= 0.25",
        "<= 0.2",
        ">= 2.5",
    ]
    for row in rows:
        ratio = (
            row.theirs / row.ours
            if row.target.startswith(">=")
            else row.ours / row.theirs
        )
        assert row.ratio == pytest.approx(ratio)
    assert [row.unit for row in rows] == ["CPU s, 1 thread"] * 3 + [
        "MB",
        "CPU s, both processes",
        "CPU s, 1 thread",
    ]


def test_both_loaders_give_the_same_images_and_captions(tmp_path: Path) -> None:
    images = [
        photographs.encode(photographs.draw_photograph(seed, 64), 64)
        for seed in range(3)
    ]
    shards = photographs.pack(images, 16, tmp_path / "shards")
    dataset = data.open_dataset(tmp_path / "shards", SMALL_DATA)
    theirs = data.open_clip_batches(shards, SMALL_DATA)
    ours = [batch for step in steps_from(dataset, 0, 2, workers=0) for batch in step]
    found = list(theirs())
    mean, std = (
        torch.tensor(values)[:, None, None]
        for values in (PreprocessConfig().mean, PreprocessConfig().std)
    )
    assert len(found) == len(ours) == 2
    levels = torch.cat([255 * (pixels * std + mean) for pixels, _ in found])
    assert [pixels.shape for pixels, _ in found] == [(8, 3, 16, 16)] * 2
    assert float(levels.mean()) == pytest.approx(
        np.mean(
            [
                float(batch.pixels.double().mean())
                for batch in ours
                if batch.pixels is not None
            ]
        ),
        abs=2,
    )
    assert sorted(ids for batch in ours for ids in batch.texts.lists()) == sorted(
        [token for token in row if token]
        for _, texts in found
        for row in texts.tolist()
    )


def test_shards_of_photographs_are_read_alike_by_both(tmp_path: Path) -> None:
    import webdataset

    shards = photographs.pack([b"one", b"another"], 6, tmp_path / "shards")
    ours = open_shards(tmp_path / "shards")
    found = list(
        webdataset.DataPipeline(
            webdataset.SimpleShardList(list(map(str, shards))),
            webdataset.tarfile_to_samples(),
        )
    )
    places = [(shard, sample) for shard in range(2) for sample in range(3)]
    assert [(sample.key, sample.parts) for sample in ours.read_many(places)] == [
        (
            sample["__key__"],
            {name: sample[name] for name in ("jpg", "txt", "json")},
        )
        for sample in found
    ]


def test_photographs_are_the_same_each_time_and_as_large_as_they_are_said_to_be() -> (
    None
):
    assert photographs.draw_photograph(3, 64) == photographs.draw_photograph(3, 64)
    assert photographs.draw_photograph(3, 64) != photographs.draw_photograph(5, 64)
    drawn = [photographs.draw_photograph(seed) for seed in range(6)]
    assert {image.size for image in drawn} == {(682, 512), (512, 682)}
    for short, kilobytes in ((256, 23.6), (512, 69)):
        found = [len(photographs.encode(image, short)) / 1000 for image in drawn]
        assert np.mean(found) == pytest.approx(kilobytes, rel=0.1)


def test_other_token_ids_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, config = load_tokenizer(data.CLIP)
    monkeypatch.setattr(
        data, "load_tokenizer", lambda _: (tokenizer.with_max_length(config, 8), config)
    )
    with pytest.raises(FloatingPointError, match=r"token ids.*open_clip_torch"):
        data._tokenising(SMALL_DATA, 1, silent)


def test_every_loss_gives_the_gradient_of_the_plain_one() -> None:
    left, right = (
        F.normalize(side.double(), dim=1) for side in loss.draw_vectors(100, 12)
    )
    leaves = [side.clone().requires_grad_() for side in (left, right)]
    info_nce(
        leaves[0], leaves[1], torch.tensor(loss.SCALE, dtype=torch.float64)
    ).backward()
    plain = [leaf.grad for leaf in leaves if leaf.grad is not None]
    assert relative_difference(loss.ours(left, right, tile=32), plain) < 1e-12
    assert relative_difference(loss.clip(left, right), plain) < 1e-12
    across = [
        gradient - (gradient * side).sum(1, keepdim=True) * side
        for gradient, side in zip(plain, (left, right), strict=True)
    ]
    assert relative_difference(loss.cached(left, right)(), across) < 1e-12


def test_grad_cache_and_our_cached_step_give_the_gradients_of_a_plain_one() -> None:
    model = step.random_model(layers=1, width=16)
    task = TaskConfig(
        kind="text-text", sources={"random": SourceConfig(path="-")}, global_batch=10
    )
    batch = step.make_batch([3, 9, 4, 4, 7, 2, 8, 5, 6, 1] * 2)
    config = StepConfig(token_budget=18, graph_memory=0.0)
    assert len(encode_batch(model, batch, config, "float32", seed=0)["text"].chunks) > 3
    expected = step.our_step(model, batch, task, StepConfig(token_budget=10**6))
    assert (
        relative_difference(step.grad_cache_step(model, batch, task, config), expected)
        < 1e-5
    )
    assert (
        relative_difference(step.our_step(model, batch, task, config), expected) < 1e-5
    )


def test_sentence_transformers_gets_the_same_texts_and_gives_our_gradients() -> None:
    model = step.random_model(layers=1, width=16)
    task = TaskConfig(
        kind="text-text", sources={"random": SourceConfig(path="-")}, global_batch=35
    )
    batch = step.make_batch([2 + number % 7 for number in range(70)])
    peer = step.SentenceTransformersStep(model, batch, 1 / task.start_temperature)
    seen = [
        length
        for side in peer.features
        for length in side["attention_mask"].sum(1).tolist()
    ]
    assert seen == batch.texts.lengths
    assert torch.cat(
        [side["input_ids"][side["attention_mask"].bool()] for side in peer.features]
    ).tolist() == (batch.texts.flat.tolist())
    expected = step.our_step(model, batch, task, StepConfig())
    assert relative_difference(peer.cached(), expected) < 1e-5
    assert relative_difference(peer.uncached(), expected) < 1e-5


def test_the_lengths_are_those_of_documents() -> None:
    for count in (80, 96, 128):
        lengths = step.long_tailed_lengths(count)
        assert lengths == step.long_tailed_lengths(count)
        assert lengths != sorted(lengths)
        assert np.mean(lengths) == pytest.approx(131, rel=0.03)
        assert np.quantile(lengths, 0.95) == pytest.approx(366, rel=0.03)
        assert max(lengths) == 512
    with pytest.raises(ValueError, match=r"4 lengths .*131; draw more"):
        step.long_tailed_lengths(4)


def test_the_command_prints_the_rows_and_writes_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from unimodal.training.speed import loss as installed

    sizes = installed.LossSizes(*SMALL_LOSS)
    monkeypatch.setattr(
        installed, "bench_loss", partial(installed.bench_loss, sizes)
    )  # as large as a test may be
    file = tmp_path / "rows.json"
    words = ["bench", "loss", "--rounds", "1", "--threads", "1", "--json", str(file)]
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "ClipLoss" in result.output
    rows = json.loads(file.read_text())
    assert len(rows) >= 3
    for row in rows:
        assert set(row) == {"name", "peer", "ratio", "target", "ours", "theirs", "unit"}
    assert rows[0]["unit"] == "CPU s, 1 thread"


def test_a_bench_that_is_none_is_named_with_the_nearest() -> None:
    result = CliRunner().invoke(app, ["bench", "los"])
    assert isinstance(result.exception, ValueError)
    assert str(result.exception) == "there is no bench 'los'; did you mean 'loss'?"
