"""Requests are admitted whole or not at all, may be cancelled, and are answered before the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from tests.unimodal.serve.engine.image_files import png_header
from tests.unimodal.serve.engine.running import (
    PATIENCE,
    Watched,
    run,
    soon,
    started,
    vectors_of,
)
from unimodal.embedder import Embedder, Item
from unimodal.serve.engine.engine import Engine
from unimodal.serve.engine.errors import DrainingError, OverloadedError
from unimodal.serve.engine.jobs import Embedded, Failed


@pytest.mark.parametrize(
    ("item", "status", "reason"),
    [
        ("", 400, "text is ''; give a text that is not empty"),
        ({"txt": "a"}, 400, "its keys are"),
        (b"<html>", 400, "not a readable image"),
        ("a" * 101, 413, "the text is longer than 100 characters"),
        (b"\xff" * 5001, 413, "the image is larger than 5000 bytes"),
        (png_header(30_000, 30_000), 413, "more than 40000000 pixels"),
        (Path("/etc/hostname"), 400, "a server opens no files by name"),
        ("half a pair: \ud800", 400, "half a surrogate pair"),
        ({"text": "a", "image": b"<html>"}, 400, "not a readable image"),
    ],
)
def test_what_cannot_be_embedded_fails_alone_with_its_reason(
    embedder: Embedder, item: Item, status: int, reason: str
) -> None:
    with started(embedder, max_text_chars=100, max_image_bytes=5000) as engine:
        before, failed, after = run(engine.embed(["a hat", item, "a cup"]))
        assert engine.queue.num_items == engine.queue.num_bytes == 0
    assert isinstance(failed, Failed)
    assert (failed.status, reason in failed.reason) == (status, True), failed
    assert isinstance(before, Embedded)
    assert isinstance(after, Embedded)


def test_a_request_that_does_not_fit_whole_is_refused_whole(
    embedder: Embedder, watched: Watched, texts: list[str]
) -> None:
    async def ask(engine: Engine) -> None:
        watched.opened.clear()
        waiting = [asyncio.create_task(engine.embed(texts[:6])) for _ in range(3)]
        await soon(lambda: engine.queue.num_items == 18)
        with pytest.raises(OverloadedError) as refusal:
            await engine.embed(texts[:3])
        assert 1 <= refusal.value.retry_after <= 60
        assert engine.stats.rejected == 1
        last = asyncio.create_task(engine.embed(texts[:2]))
        await soon(lambda: engine.queue.num_items == 20)
        watched.opened.set()
        assert [len(outcomes) for outcomes in await asyncio.gather(*waiting, last)] == [
            6,
            6,
            6,
            2,
        ]

    with started(embedder, queue_items=20, max_items=20) as engine:
        run(ask(engine))
        assert sum(watched.batches) == 20
        assert engine.queue.num_items == 0
        with pytest.raises(ValueError, match="21 items are more than max_items 20"):
            run(engine.embed(["a"] * 21))


def test_the_queue_is_bounded_in_bytes_too(
    embedder: Embedder, watched: Watched
) -> None:
    async def ask(engine: Engine) -> None:
        watched.opened.clear()
        waiting = asyncio.create_task(engine.embed(["a" * 600]))
        await soon(lambda: engine.queue.num_bytes == 600)
        with pytest.raises(OverloadedError):
            await engine.embed(["a" * 600])
        watched.opened.set()
        await waiting
        first, second = await engine.embed(["a" * 600, "a" * 600])
        assert isinstance(first, Embedded)
        assert second == Failed("the request is larger than 1000 bytes; split it.", 413)

    with started(embedder, queue_bytes=1000, max_body_bytes=1000) as engine:
        run(ask(engine))


def test_the_items_of_a_client_that_went_away_never_reach_the_model(
    embedder: Embedder, watched: Watched, texts: list[str], images: list[Image.Image]
) -> None:
    async def ask(engine: Engine) -> None:
        watched.opened.clear()
        first = asyncio.create_task(engine.embed(["a hat"]))
        await soon(lambda: watched.batches)
        gone = asyncio.create_task(engine.embed([*texts, *images]))
        stays = asyncio.create_task(engine.embed(["a cup", "a shoe"]))
        await soon(lambda: engine.queue.num_items == 19)
        await soon(lambda: engine.model.batcher.num_decoded)
        gone.cancel()
        with suppress(asyncio.CancelledError):
            await gone
        assert engine.queue.num_items == 3
        watched.opened.set()
        vectors_of([*await first, *await stays])

    with started(embedder) as engine:
        run(ask(engine))
        assert watched.batches == [1, 2]
        assert (engine.stats.cancelled, engine.queue.num_bytes) == (1, 0)


def test_draining_answers_all_that_was_admitted_and_takes_nothing_new(
    embedder: Embedder, watched: Watched, texts: list[str], images: list[Image.Image]
) -> None:
    async def ask(engine: Engine) -> list[list[Embedded | Failed]]:
        watched.opened.clear()
        waiting = [
            asyncio.create_task(engine.embed([*texts, *images])) for _ in range(20)
        ]
        await soon(lambda: engine.queue.num_items == 320)
        draining = asyncio.create_task(engine.drain())
        await asyncio.sleep(0)
        assert engine.ready() == (False, "the server is shutting down")
        with pytest.raises(DrainingError):
            await engine.embed(["a hat"])
        watched.opened.set()
        await draining
        return await asyncio.gather(*waiting)

    with started(embedder) as engine:
        for outcomes in run(ask(engine)):
            assert len(vectors_of(outcomes)) == 16
        assert not any(worker.thread.is_alive() for worker in engine.model.workers)


def test_draining_does_not_wait_for_a_client_that_goes_away_while_its_text_is_tokenized(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = embedder.tokenizer
    may_go_on = threading.Event()

    def slowly(texts: Sequence[str]) -> list[list[int]]:
        assert tokenizer is not None
        assert may_go_on.wait(PATIENCE)
        return tokenizer(texts)

    async def ask(engine: Engine) -> None:
        monkeypatch.setattr(embedder, "tokenizer", slowly)
        gone = asyncio.create_task(
            engine.embed(["a" * 5000])
        )  # so long that the pool does it
        await soon(lambda: engine.queue.num_items)
        draining = asyncio.create_task(engine.drain())
        await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.wait_for(draining, PATIENCE / 2)
        may_go_on.set()

    with started(embedder) as engine:
        run(ask(engine))


def test_closing_lets_those_who_wait_go(
    embedder: Embedder, watched: Watched, texts: list[str]
) -> None:
    async def ask(engine: Engine) -> None:
        watched.opened.clear()
        waiting = [asyncio.create_task(engine.embed([text])) for text in texts]
        await soon(lambda: engine.queue.num_items == 10 and watched.batches)
        threading.Timer(0.1, watched.opened.set).start()
        engine.close()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(outcome, DrainingError) for outcome in outcomes)

    with started(embedder) as engine:
        run(ask(engine))
