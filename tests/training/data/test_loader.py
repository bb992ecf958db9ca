"""Reading from elsewhere: each rank fetches its own part, ahead of need; pieces make the batch they
were cut from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.conftest import Recipe
from tests.torture.servers import Server
from tests.training.runs import (
    assert_same_batches,
    dataset_of,
    global_batches,
    samples_of,
)
from training.config import TrainConfig
from training.data import dataset as dataset_module
from training.data.loader import steps_from
from training.data.transport import Shared
from unimodal.config import parse_config
from unimodal.shards.config import PackConfig
from unimodal.shards.write import pack


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """480 pairs in 24 shards."""
    folder = tmp_path_factory.mktemp("pairs")
    rows = ({"query": f"what is {n}", "document": f"it is {n}"} for n in range(480))
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = {
        "input": "pairs.jsonl",
        "query": "query",
        "document": "document",
        "samples_per_shard": 20,
    }
    pack(parse_config(PackConfig, fields), folder / "shards", folder)
    return folder / "shards"


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    with Server(folder) as server:
        yield server


def _config(recipe: Recipe, path: str, cache: Path) -> TrainConfig:
    source = {"path": path}
    task = {"global_batch": 48, "num_negatives": 0, "sources": {"pairs": source}}
    return recipe(
        {
            "steps": 20,
            "tasks": {"pictures": None, "pairs": task},
            "storage": {"cache": str(cache)},
        }
    )


def _fetched(server: Server) -> set[str]:
    return {
        request.path
        for request in server.requests
        if request.method == "GET" and request.path.endswith(".tar")
    }


def test_each_rank_fetches_the_shards_of_its_own_streams(
    recipe: Recipe, folder: Path, server: Server, tmp_path: Path
) -> None:
    everything: list[str] = []
    for rank in range(4):
        config = _config(
            recipe, server.url + "/{000000..000023}.tar", tmp_path / f"cache {rank}"
        )
        server.requests.clear()
        for _ in steps_from(dataset_of(config, rank, 4), 0, 10, 0):  # an epoch
            pass
        fetched = _fetched(server)
        assert 6 <= len(fetched) <= 8  # a quarter of 24, and what lies across a cut
        everything += fetched
    assert len(set(everything)) == 24
    assert len(everything) <= 24 + 4


def test_batches_from_elsewhere_are_those_of_the_disk_also_when_mixed(
    recipe: Recipe, folder: Path, server: Server, tmp_path: Path
) -> None:
    here = global_batches(_config(recipe, str(folder), tmp_path / "a"), 1)
    away = _config(recipe, server.url + "/{000000..000023}.tar", tmp_path / "b")
    assert_same_batches(global_batches(away, 2, workers=2), here)
    assert _fetched(server) == {f"/{n:06d}.tar" for n in range(24)}


def test_what_a_small_source_begins_anew_fetches_nothing_of_a_large_one_in_mixed_batches(
    recipe: Recipe,
    folder: Path,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("training.data.order.WINDOW", 5)
    sources = {
        "small": {"path": server.url + "/000000.tar", "weight": 10},
        "large": {"path": server.url + "/{000001..000023}.tar", "weight": 1},
    }
    task = {
        "mixed": True,
        "global_batch": 4,
        "streams": 1,
        "num_negatives": 0,
        "sources": sources,
    }
    storage = {"cache": str(tmp_path / "cache")}
    config = recipe(
        {"steps": 100, "tasks": {"pictures": None, "pairs": task}, "storage": storage}
    )
    for _ in steps_from(
        dataset_of(config, 0, 1), 0, 100, 0
    ):  # 400 samples: 36 of the large source, 18 epochs of the small
        pass
    # Two windows of five samples ahead of 36 samples: three shards at most, and the ring may begin
    # inside one.
    assert len(_fetched(server) - {"/000000.tar"}) <= 5


def test_pieces_make_the_batch_that_they_were_cut_from(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = recipe()
    whole = global_batches(config, 1, steps=2)
    for size in (1, 5, 24):
        monkeypatch.setattr(dataset_module, "PIECE", size)
        assert_same_batches(global_batches(config, 1, workers=0, steps=2), whole)
    batch = next(steps_from(dataset_of(config, 0, 1), 1, 2, 0))[0]
    assert batch.hard_negative_ids.shape == (12, 1)
    assert len(batch.texts.lengths) == 12 * 3
    assert len(samples_of(batch)) == 12


@pytest.mark.parametrize("is_killed", [False, True])
def test_an_array_is_handed_over_as_it_was_or_its_sender_is_said_to_be_gone(
    is_killed: bool,
) -> None:
    context = get_context("forkserver")
    queue = context.SimpleQueue()
    sent = context.Event()
    taken = context.Event()
    process = context.Process(target=_send, args=(queue, sent, taken))
    process.start()
    if is_killed:
        assert sent.wait(60)  # killed before that, there would be nothing to take
        process.kill()
        process.join(30)
        assert len(queue.get().array) == 5  # which went through the pipe
        with pytest.raises(
            ConnectionError,
            match="a loader process ended",
        ):
            queue.get()
        return
    for array in _arrays():
        received = queue.get().array
        np.testing.assert_array_equal(received, array)
    received[...] = 0  # it is the receiver's own
    taken.set()
    process.join(30)
    assert process.exitcode == 0


def _arrays() -> list[NDArray[Any]]:
    pixels = np.random.default_rng(0).integers(0, 255, (3, 64, 1000), dtype=np.uint8)
    return [
        np.arange(5, dtype=np.int32),
        pixels,
        pixels.transpose(2, 1, 0),
    ]  # the last not as it lies in memory


def _send(queue: Any, sent: Any, taken: Any) -> None:
    for array in _arrays():
        queue.put(Shared(array))
    sent.set()
    taken.wait(60)
