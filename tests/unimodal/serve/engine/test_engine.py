"""Requests go in together or not at all, each item has its own fate, and the model is fed as soon
as it is free.
"""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.unimodal.serve.engine.test_images import png_header
from unimodal.embedder import Embedder, Item, Prepared
from unimodal.model import DualEncoder
from unimodal.preprocess.tokenizers import Tokenizer
from unimodal.serve.config import ServeConfig
from unimodal.serve.engine.engine import (
    DrainingError,
    Embedded,
    Engine,
    Failed,
    ModelError,
    OverloadedError,
)
from unimodal.serve.engine.worker import MODEL_FAULT
from unimodal.vectors import Vectors

PATIENCE = 20.0  # seconds until something that should happen at once counts as lost


class Watched:
    """Stands before an embedder's forward pass: notes what the model is given, holds it up, or
    makes it fail.
    """

    def __init__(self, embedder: Embedder) -> None:
        self.batches: list[int] = []
        self.opened = threading.Event()
        self.opened.set()
        self.fault: Callable[[Sequence[Prepared]], Exception | None] = lambda batch: (
            None
        )
        self._forward = embedder.encode_prepared
        embedder.encode_prepared = self  # type: ignore[method-assign, assignment]

    def __call__(self, batch: Sequence[Prepared], copy: int = 0) -> Vectors:
        self.batches.append(len(batch))
        assert self.opened.wait(PATIENCE)
        error = self.fault(batch)
        if error is not None:
            raise error
        return self._forward(batch, copy)


@pytest.fixture
def watched(embedder: Embedder) -> Watched:
    return Watched(embedder)


@contextmanager
def started(embedder: Embedder, **values: Any) -> Iterator[Engine]:
    """An engine that is warm and has counted nothing."""
    engine = Engine(embedder, ServeConfig(model="m", **values))
    engine.start()
    until(lambda: engine.ready()[1] != "warming up")
    if isinstance(embedder.encode_prepared, Watched):
        embedder.encode_prepared.batches.clear()
    try:
        yield engine
    finally:
        if isinstance(embedder.encode_prepared, Watched):
            embedder.encode_prepared.opened.set()
        engine.close()


def until(happened: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.002)


async def soon(happened: Callable[[], Any]) -> None:
    """As `until`, while the event loop goes on."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.002)


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, PATIENCE))


def vectors_of(outcomes: Sequence[Embedded | Failed]) -> Vectors:
    assert all(isinstance(outcome, Embedded) for outcome in outcomes), outcomes
    return np.stack(
        [outcome.vector for outcome in outcomes if isinstance(outcome, Embedded)]
    )


def jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG")
    return buffer.getvalue()


def is_text(batch: Sequence[Prepared]) -> bool:
    return isinstance(batch[0], list)


def test_an_engine_gives_the_vectors_of_encode(
    embedder: Embedder, texts: list[str], images: list[Image.Image]
) -> None:
    files = [jpeg(picture) for picture in images]
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
        found = vectors_of(run(engine.embed(items, prompt="search query: ")))
        np.testing.assert_allclose(found, prompted, atol=1e-6)
        assert run(engine.embed([])) == []
        assert engine.queued_items == engine.queued_bytes == 0


def test_tokens_are_those_of_the_text_and_the_patches_of_the_image_and_one(
    embedder: Embedder, images: list[Image.Image]
) -> None:
    with started(embedder) as engine:
        text, picture, both = run(
            engine.embed(
                ["a red hat", images[0], {"text": "a red hat", "image": images[0]}]
            )
        )
    assert (text.tokens, picture.tokens, both.tokens) == (
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
        return await asyncio.gather(
            *(engine.embed([pool[index] for index in wanted]) for wanted in requests)
        )

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
        await soon(lambda: engine.queued_items == 11)
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
        one = asyncio.create_task(engine.embed(["a hat"]))
        await soon(lambda: engine.stats.requests == 2)
        watched.opened.set()
        await one
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
        await soon(lambda: len(engine._batcher._decoded) == 4)
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
        assert engine.queued_items == engine.queued_bytes == 0
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
        await soon(lambda: engine.queued_items == 18)
        with pytest.raises(OverloadedError) as refusal:
            await engine.embed(texts[:3])
        assert 1 <= refusal.value.retry_after <= 60
        assert engine.stats.rejected == 1
        last = asyncio.create_task(engine.embed(texts[:2]))
        await soon(lambda: engine.queued_items == 20)
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
        assert engine.queued_items == 0
        with pytest.raises(ValueError, match="21 items are more than max_items 20"):
            run(engine.embed(["a"] * 21))


def test_the_queue_is_bounded_in_bytes_too(
    embedder: Embedder, watched: Watched
) -> None:
    async def ask(engine: Engine) -> None:
        watched.opened.clear()
        waiting = asyncio.create_task(engine.embed(["a" * 600]))
        await soon(lambda: engine.queued_bytes == 600)
        with pytest.raises(OverloadedError):
            await engine.embed(["a" * 600])
        watched.opened.set()
        await waiting
        first, second = await engine.embed(["a" * 600, "a" * 600])
        assert isinstance(first, Embedded)
        assert second == Failed(
            "the request is larger than 1000 bytes; ask in parts.", 413
        )

    with started(embedder, queue_bytes=1000, max_body_bytes=1000) as engine:
        run(ask(engine))


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
        decode = engine._batcher._decode

        def noted(picture: Any) -> torch.Tensor:
            decoded.append(1)
            return decode(picture)

        monkeypatch.setattr(engine._batcher, "_decode", noted)
        run(ask(engine))
    assert len(decoded) == 60


def test_the_items_of_a_client_that_went_away_never_reach_the_model(
    embedder: Embedder, watched: Watched, texts: list[str], images: list[Image.Image]
) -> None:
    async def ask(engine: Engine) -> None:
        watched.opened.clear()
        first = asyncio.create_task(engine.embed(["a hat"]))
        await soon(lambda: watched.batches)
        gone = asyncio.create_task(engine.embed([*texts, *images]))
        stays = asyncio.create_task(engine.embed(["a cup", "a shoe"]))
        await soon(lambda: engine.queued_items == 19)
        await soon(lambda: engine._batcher._decoded)
        gone.cancel()
        with suppress(asyncio.CancelledError):
            await gone
        assert engine.queued_items == 3
        watched.opened.set()
        vectors_of([*await first, *await stays])

    with started(embedder) as engine:
        run(ask(engine))
        assert watched.batches == [1, 2]
        assert (engine.stats.cancelled, engine.queued_bytes) == (1, 0)


def test_a_long_text_does_not_wait_for_the_decoders(
    embedder: Embedder, images: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go_on = threading.Event()

    async def ask(engine: Engine) -> None:
        slow = asyncio.create_task(engine.embed(images))
        await soon(lambda: engine._batcher._num_decoding)
        vectors_of(await engine.embed(["a hat " * 1000]))
        assert not slow.done()
        may_go_on.set()
        await slow

    with started(embedder, decoders=1) as engine:
        decode = engine._batcher._decode

        def slowly(picture: Any) -> torch.Tensor:
            assert may_go_on.wait(PATIENCE)
            return decode(picture)

        monkeypatch.setattr(engine._batcher, "_decode", slowly)
        try:
            run(ask(engine))
        finally:
            may_go_on.set()


def test_draining_answers_all_that_was_admitted_and_takes_nothing_new(
    embedder: Embedder, watched: Watched, texts: list[str], images: list[Image.Image]
) -> None:
    async def ask(engine: Engine) -> list[list[Embedded | Failed]]:
        watched.opened.clear()
        waiting = [
            asyncio.create_task(engine.embed([*texts, *images])) for _ in range(20)
        ]
        await soon(lambda: engine.queued_items == 320)
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
        assert not any(worker.thread.is_alive() for worker in engine._workers)


def test_draining_does_not_wait_for_a_client_that_goes_away_while_its_text_is_tokenised(
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
        await soon(lambda: engine.queued_items)
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
        await soon(lambda: engine.queued_items == 10 and watched.batches)
        threading.Timer(0.1, watched.opened.set).start()
        engine.close()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(outcome, DrainingError) for outcome in outcomes)

    with started(embedder) as engine:
        run(ask(engine))


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
    costs = [embedder.padded_length(embedder.prepare(text)) for text in texts]  # type: ignore[arg-type]  # of texts
    with started(embedder, batch_tokens=400) as engine:
        (worker,) = engine._workers
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
        (worker,) = engine._workers
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
        text, picture, both = run(
            engine.embed(["a hat", images[0], {"text": "a hat", "image": images[1]}])
        )
        assert isinstance(text, Embedded)
        assert picture == both == MODEL_FAULT
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
        until(lambda: all(worker.last_good for worker in engine._workers))
        watched.batches.clear()
        np.testing.assert_allclose(run(ask(engine)), expected, atol=1e-6)


def test_every_copy_of_the_model_has_to_have_run_lately(
    model: DualEncoder, tokenizer: Tokenizer
) -> None:
    with started(Embedder(model, tokenizer, device=["cpu", "cpu"])) as engine:
        until(lambda: engine.ready()[0])
        engine._workers[1].last_good = time.monotonic() - 100
        assert "forward pass that went well was 100 s ago" in engine.ready()[1]
