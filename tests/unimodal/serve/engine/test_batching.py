"""Jobs wait in one line per request, batches take one from each, and images are decoded ahead."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from unimodal.serve.engine.batching import Batcher, FairQueue
from unimodal.serve.engine.errors import TooLargeError
from unimodal.serve.engine.jobs import EncodeJob, Failed, PendingRequest

BUDGETS = {"text": 10, "image": 2}


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def jobs_of(
    loop: asyncio.AbstractEventLoop,
    contents: Sequence[Any],
    *,
    kind: str = "text",
    cost: int = 1,
) -> list[EncodeJob]:
    """The jobs of one new request."""
    request = PendingRequest(loop, loop.create_future(), [None] * len(contents))
    return [
        EncodeJob(request, row, kind, content, 1.0, 0.0, cost=cost)
        for row, content in enumerate(contents)
    ]


def queue_of(*requests: Sequence[EncodeJob]) -> FairQueue:
    queue = FairQueue()
    for jobs in requests:
        for job in jobs:
            queue.add(job)
    return queue


def contents(batch: Sequence[EncodeJob] | None) -> str:
    return "".join(str(job.content) for job in batch or ())


def decode(content: Any) -> Tensor:
    if content == "broken":
        raise ValueError("broken")
    if content == "large":
        raise TooLargeError("large")
    if content == "odd":
        raise RuntimeError("of the decoder")
    return torch.tensor(float(content))


def test_a_batch_takes_one_from_each_request_in_turn(
    loop: asyncio.AbstractEventLoop,
) -> None:
    queue = queue_of(jobs_of(loop, "abcdef"), jobs_of(loop, "1"), jobs_of(loop, "xyz"))
    assert [contents(queue.take(4)) for _ in range(3)] == ["a1xb", "yczd", "ef"]
    assert not queue


def test_a_batch_is_within_its_budget_unless_one_job_alone_is_over_it(
    loop: asyncio.AbstractEventLoop,
) -> None:
    queue = queue_of(
        jobs_of(loop, "abc", cost=4),
        jobs_of(loop, "1", cost=30),
        jobs_of(loop, "x", cost=3),
    )
    assert [contents(queue.take(10)) for _ in range(4)] == ["a", "1", "xb", "c"]
    assert queue.take(10) == []


def test_a_request_that_is_removed_leaves_the_others_in_their_order(
    loop: asyncio.AbstractEventLoop,
) -> None:
    gone = jobs_of(loop, "123")
    queue = queue_of(jobs_of(loop, "ab"), gone, jobs_of(loop, "xy"))
    queue.remove(gone[0].request)
    queue.remove(gone[0].request)
    assert contents(queue.take(10)) == "axby"


def test_a_batch_is_of_one_kind_and_the_kinds_take_turns(
    loop: asyncio.AbstractEventLoop, pool: ThreadPoolExecutor
) -> None:
    batcher = Batcher(decode, lambda job, failed: None, pool, ahead=9)
    images = jobs_of(loop, range(4), kind="image")
    batcher.add(images)
    pool.shutdown()  # all are decoded
    batcher.add(jobs_of(loop, "abcd", cost=5))
    batches = [batcher.next_batch(BUDGETS, 20) or [] for _ in range(4)]
    assert [(batch[0].kind, len(batch)) for batch in batches] == [
        ("text", 2),
        ("image", 2),
    ] * 2


def test_nothing_to_do_gives_an_empty_batch_and_the_end_none(
    loop: asyncio.AbstractEventLoop, pool: ThreadPoolExecutor
) -> None:
    batcher = Batcher(decode, lambda job, failed: None, pool, ahead=2)
    assert batcher.next_batch(BUDGETS, 0.01) == []
    threading.Timer(0.05, batcher.close).start()
    assert batcher.next_batch(BUDGETS, 20) is None


def test_whoever_waits_gets_what_comes_at_once(
    loop: asyncio.AbstractEventLoop, pool: ThreadPoolExecutor
) -> None:
    batcher = Batcher(decode, lambda job, failed: None, pool, ahead=2)
    waiting = [pool.submit(batcher.next_batch, BUDGETS, 20) for _ in range(2)]
    time.sleep(0.2)  # both wait now, or find the jobs at once
    batcher.add(jobs_of(loop, "abcd", cost=5))  # two batches, one notice
    assert sorted(contents(future.result(10)) for future in waiting) == ["ab", "cd"]


def test_an_image_that_cannot_be_decoded_is_told_of_whatever_the_decoder_raised(
    loop: asyncio.AbstractEventLoop, pool: ThreadPoolExecutor
) -> None:
    failures: dict[str, Failed] = {}
    batcher = Batcher(
        decode,
        lambda job, failed: failures.update({job.content: failed}),
        pool,
        ahead=1,
    )
    batcher.add(jobs_of(loop, ["broken", "odd", "large", 7], kind="image"))
    assert [job.index for job in batcher.next_batch(BUDGETS, 20) or ()] == [3]
    pool.shutdown()
    assert {name: failed.status for name, failed in failures.items()} == {
        "broken": 400,
        "odd": 500,
        "large": 413,
    }
    assert (
        failures["odd"].reason
        == "the image could not be decoded; save it again, or in another format."
    )


def test_texts_that_were_cancelled_make_room_in_the_batch(
    loop: asyncio.AbstractEventLoop, pool: ThreadPoolExecutor
) -> None:
    batcher = Batcher(decode, lambda job, failed: None, pool, ahead=2)
    gone = jobs_of(loop, "123", cost=5)
    stays = jobs_of(loop, "ab", cost=5)
    batcher.add([*gone, *stays])
    batcher.remove(gone[0].request)
    assert contents(batcher.next_batch(BUDGETS, 20)) == "ab"


def test_images_that_were_cancelled_are_neither_decoded_nor_batched(
    loop: asyncio.AbstractEventLoop, pool: ThreadPoolExecutor
) -> None:
    decoded: list[Any] = []
    may_go_on = threading.Event()

    def slowly(content: Any) -> Tensor:
        decoded.append(content)
        assert may_go_on.wait(20)
        return torch.zeros(1)

    batcher = Batcher(slowly, lambda job, failed: None, pool, ahead=2)
    gone = jobs_of(loop, range(8), kind="image")
    stays = jobs_of(loop, [10], kind="image")
    batcher.add(gone)
    batcher.add(stays)
    batcher.remove(gone[0].request)
    batcher.add(gone[4:])  # came too late to be taken out
    may_go_on.set()
    batch = batcher.next_batch(BUDGETS, 20)
    assert [job.request for job in batch or ()] == [stays[0].request]
    assert len(decoded) <= 3
    assert batcher.next_batch(BUDGETS, 0.05) == []
