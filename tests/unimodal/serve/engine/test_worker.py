"""A model that fails, runs out of memory or hangs, and what the engine reports of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image

from tests.unimodal.serve.engine.running import (
    Watched,
    is_text,
    run,
    soon,
    started,
    until,
    vectors_of,
)
from unimodal.embedder import Embedder, Prepared
from unimodal.model import DualEncoder
from unimodal.preprocess.tokenizers import Tokenizer
from unimodal.serve.config import ServeConfig
from unimodal.serve.engine.engine import Engine
from unimodal.serve.engine.errors import ModelError
from unimodal.serve.engine.jobs import Embedded
from unimodal.serve.engine.worker import MODEL_FAULT


def test_an_engine_is_ready_once_both_towers_have_run(
    embedder: Embedder, watched: Watched
) -> None:
    watched.opened.clear()
    engine = Engine(embedder, ServeConfig(model="m"))
    engine.start()
    until(lambda: watched.batches)
    assert engine.ready() == (False, "warming up")
    watched.opened.set()
    until(lambda: engine.ready() == (True, "ready"))
    assert watched.batches == [1, 1]
    engine.close()


def test_an_idle_engine_proves_itself_and_stays_ready(
    embedder: Embedder, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unimodal.serve.engine.worker.RETRY_SECONDS", 0.05)
    with started(embedder, ready_seconds=1.5) as engine:
        until(lambda: len(watched.batches) >= 4)
        assert engine.ready() == (True, "ready")
        watched.fault = lambda batch: RuntimeError("the device is gone")
        until(
            lambda: (
                "times in a row" in engine.ready()[1] or "s ago" in engine.ready()[1]
            )
        )


def test_a_model_that_hangs_is_stuck(embedder: Embedder, watched: Watched) -> None:
    async def ask(engine: Engine) -> None:
        watched.opened.clear()
        task = asyncio.create_task(engine.embed(["a hat"]))
        await soon(engine.stuck)
        assert engine.ready() == (False, "the model is stuck")
        watched.opened.set()
        await task
        assert not engine.stuck()

    with started(embedder, stuck_seconds=0.5) as engine:
        assert not engine.stuck()
        run(ask(engine))


def test_a_batch_that_does_not_fit_into_memory_is_halved_until_it_does(
    embedder: Embedder, watched: Watched, texts: list[str]
) -> None:
    expected = embedder.encode(texts)
    with started(embedder) as engine:
        watched.fault = lambda batch: (
            torch.OutOfMemoryError("too much") if len(batch) > 3 else None
        )
        np.testing.assert_allclose(
            vectors_of(run(engine.embed(texts))), expected, atol=1e-6
        )
        assert watched.batches == [10, 5, 2, 3, 5, 2, 3]
        assert engine.stats.out_of_memory == 3
        assert engine.stats.failures == 0
        assert engine.ready() == (True, "ready")


def test_after_an_out_of_memory_batches_are_smaller_and_grow_again(
    embedder: Embedder,
    watched: Watched,
    texts: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("unimodal.serve.engine.worker.GROW_AFTER", 4)
    prepared = [embedder.prepare(text) for text in texts]
    costs = [embedder.padded_length(ids) for ids in prepared]  # type: ignore[arg-type]  # of texts
    with started(embedder, batch_tokens=400) as engine:
        (worker,) = engine.model.workers
        watched.fault = lambda batch: (
            torch.OutOfMemoryError("too much") if len(batch) > 5 else None
        )
        run(engine.embed(texts))
        assert (worker.budgets["text"], watched.batches) == (
            sum(costs) // 2,
            [10, 5, 5],
        )
        watched.fault = lambda batch: None
        for _ in range(2):
            run(engine.embed(["a hat"]))
        assert worker.budgets["text"] == 2 * (sum(costs) // 2)


def test_the_halves_of_a_batch_that_did_not_fit_do_not_make_the_next_one_smaller_still(
    embedder: Embedder, watched: Watched, texts: list[str]
) -> None:
    cost = embedder.padded_length(embedder.prepare(texts[0]))  # type: ignore[arg-type]  # of a text
    with started(embedder, batch_tokens=1000 * cost) as engine:
        (worker,) = engine.model.workers
        watched.fault = lambda batch: (
            torch.OutOfMemoryError("too much") if len(batch) > 2 else None
        )
        run(engine.embed(texts[:1] * 8))
        assert watched.batches == [8, 4, 2, 2, 4, 2, 2]
        assert worker.budgets["text"] == 2 * cost


def test_a_cpu_without_memory_counts_as_out_of_memory(
    embedder: Embedder, watched: Watched, texts: list[str]
) -> None:
    def too_much(batch: Sequence[Prepared]) -> Exception | None:
        try:
            torch.empty(1 << 60 if len(batch) > 5 else 1, dtype=torch.uint8)
        except RuntimeError as error:
            return error
        return None

    with started(embedder) as engine:
        watched.fault = too_much
        assert len(vectors_of(run(engine.embed(texts)))) == 10
        assert engine.stats.out_of_memory == 1


def test_an_item_that_does_not_fit_alone_fails_alone(
    embedder: Embedder, watched: Watched, images: list[Image.Image]
) -> None:
    with started(embedder) as engine:
        watched.fault = lambda batch: (
            None if is_text(batch) else torch.OutOfMemoryError("too much")
        )
        text, image, both = run(
            engine.embed(["a hat", images[0], {"text": "a hat", "image": images[1]}])
        )
        assert isinstance(text, Embedded)
        assert image == both == MODEL_FAULT
        assert engine.stats.failures == 2


def test_an_input_that_the_model_fails_on_does_not_fail_its_neighbours(
    embedder: Embedder, watched: Watched, texts: list[str]
) -> None:
    poison = embedder.prepare(texts[3])
    with started(embedder) as engine:
        watched.fault = lambda batch: (
            RuntimeError("secret 0x7f") if poison in batch else None
        )
        outcomes = run(engine.embed(texts))
        assert outcomes[3] == MODEL_FAULT
        assert len(vectors_of(outcomes[:3] + outcomes[4:])) == 9
        assert engine.ready() == (True, "ready")
        assert engine.stats.failures == 1
        with pytest.raises(ModelError, match="the model failed on every input"):
            run(engine.embed([texts[3]]))


def test_a_vector_that_is_no_number_is_a_failure(
    embedder: Embedder, model: DualEncoder, texts: list[str]
) -> None:
    with started(embedder) as engine:
        with torch.no_grad():
            next(model.text_projection.parameters()).fill_(float("nan"))  # type: ignore[union-attr]
        with pytest.raises(ModelError):
            run(engine.embed(texts[:2]))


def test_a_model_that_fails_again_and_again_is_not_ready_until_it_works(
    embedder: Embedder,
    watched: Watched,
    texts: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("unimodal.serve.engine.worker.RETRY_SECONDS", 0.05)
    with started(embedder, failures=3) as engine:
        watched.fault = lambda batch: RuntimeError("broken")
        for text in texts[:3]:
            with pytest.raises(ModelError):
                run(engine.embed([text]))
        ready, reason = engine.ready()
        assert not ready
        assert "times in a row" in reason
        watched.fault = lambda batch: None
        until(lambda: engine.ready() == (True, "ready"))


def test_a_model_that_has_failed_on_everything_for_long_is_stuck(
    embedder: Embedder, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unimodal.serve.engine.worker.RETRY_SECONDS", 0.05)
    with started(embedder, stuck_seconds=0.5) as engine:
        watched.fault = lambda batch: RuntimeError("broken")
        with pytest.raises(ModelError):
            run(engine.embed(["a hat"]))
        until(engine.stuck)


def test_every_copy_of_the_model_has_to_have_run_lately(
    model: DualEncoder, tokenizer: Tokenizer
) -> None:
    with started(Embedder(model, tokenizer, device=["cpu", "cpu"])) as engine:
        until(lambda: engine.ready()[0])
        engine.model.workers[1].last_good = time.monotonic() - 100
        assert "forward pass was 100 s ago" in engine.ready()[1]
