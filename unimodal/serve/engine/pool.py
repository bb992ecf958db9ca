"""Threads for blocking work, with a bound on how many requests may wait for one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from .errors import OverloadedError

Result = TypeVar("Result")

SMOOTHING = 0.1  # weight of the newest call in the mean duration


class BoundedPool:
    """A pool of `threads` for which at most `queue` calls wait; further calls are refused."""

    def __init__(self, threads: int, queue: int) -> None:
        self.threads = threads
        self.queue = queue
        self.admitted = 0
        self._mean_seconds = 0.0  # duration of a call, smoothed
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="search")

    @asynccontextmanager
    async def life(self, _: object) -> AsyncIterator[None]:
        """A router's lifespan; at its end the threads stop after their current call."""
        try:
            yield
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)

    async def run(self, call: Callable[[], Result]) -> Result:
        """Run a call in a thread.

        A call that is cancelled while it waits never runs.

        Raises OverloadedError when too many calls wait.
        """
        if self.admitted >= self.threads + self.queue:
            retry_after = self.admitted * self._mean_seconds / self.threads
            raise OverloadedError(max(1.0, retry_after))
        self.admitted += 1
        loop = asyncio.get_running_loop()
        try:
            result, seconds = await loop.run_in_executor(
                self._pool, _measure, call, loop.time
            )
        finally:
            self.admitted -= 1
        self._mean_seconds += SMOOTHING * (seconds - self._mean_seconds)
        return result


def _measure(
    call: Callable[[], Result], clock: Callable[[], float]
) -> tuple[Result, float]:
    """The result of a call, and its seconds."""
    started = clock()
    result = call()
    return result, clock() - started
