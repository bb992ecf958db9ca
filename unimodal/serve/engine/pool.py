"""Threads for work that blocks, and a bound on how many requests may wait for one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from .engine import OverloadedError

Result = TypeVar("Result")


class Waiting:
    """A pool of `threads`, for which at most `queue` requests wait; the next one is refused at
    once.
    """

    def __init__(self, threads: int, queue: int) -> None:
        self.threads = threads
        self.queue = queue
        self.admitted = 0
        self._seconds = 0.0  # that a call takes, smoothed
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="search")

    @asynccontextmanager
    async def life(self, _: object) -> AsyncIterator[None]:
        """A router's lifespan, at whose end the threads end with what they are doing."""
        try:
            yield
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)

    async def run(self, call: Callable[[], Result]) -> Result:
        """Run it in a thread; raises OverloadedError when too many wait. Cancelled while it waits,
        it never runs.
        """
        if self.admitted >= self.threads + self.queue:
            raise OverloadedError(
                max(1.0, self.admitted * self._seconds / self.threads)
            )
        self.admitted += 1
        loop = asyncio.get_running_loop()
        try:
            result, seconds = await loop.run_in_executor(
                self._pool, _timed, call, loop.time
            )
        finally:
            self.admitted -= 1
        self._seconds += 0.1 * (seconds - self._seconds)
        return result


def _timed(
    call: Callable[[], Result], clock: Callable[[], float]
) -> tuple[Result, float]:
    started = clock()
    return call(), clock() - started
