"""Threads for the store: how many wait is bounded, and who is gone waits no more."""

from __future__ import annotations

import asyncio
import threading

import pytest

from unimodal.serve.engine.errors import OverloadedError
from unimodal.serve.engine.pool import BoundedPool


def test_one_more_than_may_wait_is_refused_at_once_and_room_comes_back() -> None:
    async def ask() -> None:
        pool = BoundedPool(threads=1, queue=2)
        go = threading.Event()
        calls = [asyncio.ensure_future(pool.run(go.wait)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError) as refused:
            await pool.run(go.wait)
        assert refused.value.retry_after >= 1
        go.set()
        assert await asyncio.gather(*calls) == [True] * 3
        assert await pool.run(lambda: "again") == "again"
        assert pool.admitted == 0

    asyncio.run(ask())


def test_what_is_cancelled_while_it_waits_never_runs() -> None:
    async def ask() -> None:
        pool = BoundedPool(threads=1, queue=2)
        go = threading.Event()
        ran = []
        first = asyncio.ensure_future(pool.run(go.wait))
        second = asyncio.ensure_future(pool.run(lambda: ran.append("second")))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        go.set()
        await first
        await pool.run(lambda: ran.append("third"))
        assert ran == ["third"]

    asyncio.run(ask())


def test_at_the_end_of_its_life_its_threads_end_and_what_waits_never_runs() -> None:
    ran: list[str] = []

    async def ask() -> None:
        pool = BoundedPool(threads=1, queue=2)
        go = threading.Event()
        async with pool.life(None):
            first = asyncio.ensure_future(pool.run(go.wait))
            second = asyncio.ensure_future(pool.run(lambda: ran.append("second")))
            await asyncio.sleep(0)
        go.set()
        await asyncio.gather(first, second, return_exceptions=True)

    before = threading.enumerate()
    asyncio.run(ask())
    for thread in set(threading.enumerate()) - set(before):
        thread.join(5)
        assert not thread.is_alive()
    assert ran == []


def test_an_error_is_the_callers_and_frees_its_place() -> None:
    async def ask() -> None:
        pool = BoundedPool(threads=1, queue=0)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await pool.run(lambda: 1 / 0)

    asyncio.run(ask())
