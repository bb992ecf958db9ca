"""The engine gives the vectors of `encode`, and feeds the model whenever it is free."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.unimodal.serve.engine.running import (
    PATIENCE,
    Watched,
    is_text,
    jpeg,
    run,
    soon,
    started,
    until,
    vectors_of,
)
from unimodal.embedder import Embedder, Item, Prepared
from unimodal.model import DualEncoder
from unimodal.preprocess.tokenizers import Tokenizer
from unimodal.serve.config import ServeConfig
from unimodal.serve.engine.engine import Engine
from unimodal.serve.engine.images import open_checked
from unimodal.serve.engine.jobs import Failed
from unimodal.vectors import Vectors


def test_an_engine_gives_the_vectors_of_encode(
    embedder: Embedder, texts: list[str], images: list[Image.Image]
) -> None:
    files = [jpeg(image) for image in images]
    items: list[Item] = [
        *texts,
        *files,
        {"text": texts[0], "image": files[1], "weight": 0.3},
        {"text": texts[2]},
    ]
    items += [
        {"image": files[3], "weight": 0.1},
        {"text": texts[3], "image": images[0]},
    ]
    expected = embedder.encode(items)
    prompted = embedder.encode(items, prompt="search query: ")
    with started(embedder) as engine:
        np.testing.assert_allclose(
            vectors_of(run(engine.embed(items))), expected, atol=1e-6
        )
        vectors = vectors_of(run(engine.embed(items, prompt="search query: ")))
        np.testing.assert_allclose(vectors, prompted, atol=1e-6)
        assert run(engine.embed([])) == []
        assert engine.queue.num_items == engine.queue.num_bytes == 0


def test_tokens_are_those_of_the_text_and_the_patches_of_the_image_and_one(
    embedder: Embedder, images: list[Image.Image]
) -> None:
    with started(embedder) as engine:
        text, image, both = run(
            engine.embed(
                ["a red hat", images[0], {"text": "a red hat", "image": images[0]}]
            )
        )
    assert (text.tokens, image.tokens, both.tokens) == (
        5,
        5,
        10,
    )  # 32 x 32 in patches of 16


def test_a_vector_does_not_depend_on_its_company(
    embedder: Embedder, texts: list[str], images: list[Image.Image]
) -> None:
    pool: list[Item] = [
        *texts,
        *images,
        *({"text": text, "image": images[0]} for text in texts[:4]),
    ]
    alone = np.concatenate([embedder.encode(item) for item in pool])
    draw = np.random.default_rng(0)
    requests = [draw.integers(0, len(pool), size) for size in draw.integers(1, 12, 60)]

    async def ask(engine: Engine) -> list[Any]:
        calls = []
        for wanted in requests:
            calls.append(engine.embed([pool[index] for index in wanted]))
        return await asyncio.gather(*calls)

    with started(embedder, batch_tokens=256, batch_pixels=3 * 32 * 32) as engine:
        for wanted, outcomes in zip(requests, run(ask(engine)), strict=True):
            assert np.abs(vectors_of(outcomes) - alone[wanted]).max() <= 1e-5
        assert max(engine.stats.text.sizes) > 4
        assert max(engine.stats.image.sizes) == 3


def test_an_idle_model_starts_at_once_and_a_busy_one_gathers(
    embedder: Embedder, watched: Watched, texts: list[str]
) -> None:
    async def ask(engine: Engine) -> None:
        watched.opened.clear()
        first = asyncio.create_task(engine.embed(texts[:1]))
        await soon(lambda: watched.batches)
        others = [asyncio.create_task(engine.embed([text])) for text in texts]
        await soon(lambda: engine.queue.num_items == 11)
        watched.opened.set()
        await asyncio.gather(first, *others)

    with started(embedder) as engine:
        run(ask(engine))
        assert watched.batches == [1, 10]
        assert engine.stats.text.sizes == {1: 1, 10: 1}
        assert (engine.stats.requests, engine.stats.text.items) == (11, 11)
        assert engine.stats.text.wait_seconds > 0
        assert engine.stats.text.forward_seconds > 0


def test_a_query_passes_two_thousand_items_of_another_request(
    embedder: Embedder, watched: Watched
) -> None:
    async def ask(engine: Engine) -> int:
        watched.opened.clear()
        crowd = asyncio.create_task(engine.embed(["a cup"] * 2000))
        await soon(lambda: watched.batches)
        query = asyncio.create_task(engine.embed(["a hat"]))
        await soon(lambda: engine.stats.requests == 2)
        watched.opened.set()
        await query
        so_far = sum(watched.batches)
        await crowd
        return so_far

    with started(embedder, batch_tokens=256) as engine:
        assert run(ask(engine)) < 500
        assert sum(watched.batches) == 2001


def test_texts_and_images_take_turns(
    embedder: Embedder, watched: Watched, images: list[Image.Image]
) -> None:
    kinds: list[str] = []

    def note(batch: Sequence[Prepared]) -> None:
        kinds.append("text" if is_text(batch) else "image")

    async def ask(engine: Engine) -> None:
        watched.opened.clear()
        first = asyncio.create_task(engine.embed(["a hat"]))
        await soon(lambda: watched.batches)
        others = [
            asyncio.create_task(engine.embed(["a large hat"] * 4)),
            asyncio.create_task(engine.embed(images)),
        ]
        await soon(lambda: engine.model.batcher.num_decoded == 4)
        watched.opened.set()
        await asyncio.gather(first, *others)

    watched.fault = note
    assert embedder.tokenizer is not None
    two = 2 * len(embedder.tokenizer(["a large hat"])[0])
    with started(embedder, batch_tokens=two, batch_pixels=2 * 32 * 32) as engine:
        kinds.clear()
        run(ask(engine))
    assert kinds == ["text", "image", "text", "image", "text", "image"]


def test_one_broken_image_among_64_fails_alone(
    embedder: Embedder, images: list[Image.Image]
) -> None:
    items: list[Item] = [jpeg(images[number % 6]) for number in range(64)]
    items[17] = jpeg(images[0])[:-40]
    good = [row for row in range(64) if row != 17]
    with started(embedder) as engine:
        outcomes = run(engine.embed(items))
    assert outcomes[17] == Failed(
        "it is not a readable image; send a whole JPEG, PNG, WebP or GIF.", 400
    )
    expected = embedder.encode([items[row] for row in good])
    np.testing.assert_allclose(
        vectors_of([outcomes[row] for row in good]), expected, atol=1e-6
    )


def test_images_are_decoded_just_ahead_of_the_model(
    embedder: Embedder,
    watched: Watched,
    images: list[Image.Image],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoded: list[int] = []

    async def ask(engine: Engine) -> None:
        watched.opened.clear()
        task = asyncio.create_task(engine.embed(images * 10))
        await soon(lambda: watched.batches and len(decoded) >= watched.batches[0] + 4)
        await asyncio.sleep(0.1)
        assert (
            len(decoded) == watched.batches[0] + 4
        )  # what the model has, and two batches of two
        watched.opened.set()
        vectors_of(await task)

    with started(embedder, batch_pixels=2 * 32 * 32, decoders=2) as engine:

        def noted(image: Any, config: ServeConfig) -> Image.Image:
            decoded.append(1)
            return open_checked(image, config)

        monkeypatch.setattr("unimodal.serve.engine.engine.open_checked", noted)
        run(ask(engine))
    assert len(decoded) == 60


def test_a_long_text_does_not_wait_for_the_decoders(
    embedder: Embedder, images: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go_on = threading.Event()

    async def ask(engine: Engine) -> None:
        slow = asyncio.create_task(engine.embed(images))
        await soon(lambda: engine.model.batcher.num_decoding)
        vectors_of(await engine.embed(["a hat " * 1000]))
        assert not slow.done()
        may_go_on.set()
        await slow

    with started(embedder, decoders=1) as engine:

        def slowly(image: Any, config: ServeConfig) -> Image.Image:
            assert may_go_on.wait(PATIENCE)
            return open_checked(image, config)

        monkeypatch.setattr("unimodal.serve.engine.engine.open_checked", slowly)
        try:
            run(ask(engine))
        finally:
            may_go_on.set()


def test_several_copies_of_the_model_work_at_the_same_time(
    model: DualEncoder, tokenizer: Tokenizer, texts: list[str]
) -> None:
    several = Embedder(model, tokenizer, device=["cpu", "cpu"])
    expected = several.encode(texts)
    watched = Watched(several)

    async def ask(engine: Engine) -> Vectors:
        watched.opened.clear()
        task = asyncio.create_task(engine.embed(texts))
        await soon(lambda: len(watched.batches) == 2)
        watched.opened.set()
        return vectors_of(await task)

    with started(several, batch_tokens=80) as engine:
        until(lambda: all(worker.last_good for worker in engine.model.workers))
        watched.batches.clear()
        np.testing.assert_allclose(run(ask(engine)), expected, atol=1e-6)
