"""Many clients at once, in a process of their own: requests per second, latencies, statuses.

Each client is a connection that stays open and sends its next request after the answer. It reads
only what an answer with a Content-Length needs, so that a small machine spends its time on the
server.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Load:
    """The requests and the number of clients; ends after `seconds` or `requests`, the first of
    them.
    """

    port: int
    path: str
    bodies: Sequence[bytes]  # JSON, in turns
    clients: int
    seconds: float = 1e9
    requests: int = 10**9


@dataclass
class Answers:
    """The answers to a load."""

    # seconds, of the requests answered with 200
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)  # 0: the connection broke
    seconds: float = 0.0  # from the first request to the last answer

    @property
    def per_second(self) -> float:
        """Requests per second answered with 200."""
        return len(self.latencies) / self.seconds

    def latency(self, quantile: float) -> float:
        """Seconds within which this share of the answers with 200 arrived."""
        return float(np.quantile(self.latencies, quantile))


@contextmanager
def client_process() -> Iterator[Callable[[Load], Answers]]:
    """A function that puts a server under load from another process and waits for all answers."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        yield lambda load: pool.submit(_run, load).result()


def _run(load: Load) -> Answers:
    return asyncio.run(_send_all(load))


async def _send_all(load: Load) -> Answers:
    loop = asyncio.get_running_loop()
    answers = Answers()
    bodies = [_request(load, body) for body in load.bodies]
    requests = itertools.islice(itertools.cycle(bodies), load.requests)
    started = loop.time()
    end = started + load.seconds
    clients = [_client(load.port, requests, end, answers) for _ in range(load.clients)]
    await asyncio.gather(*clients)
    answers.seconds = loop.time() - started
    return answers


def _request(load: Load, body: bytes) -> bytes:
    head = f"POST {load.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def _client(
    port: int, requests: Iterator[bytes], end: float, answers: Answers
) -> None:
    """Send requests until the end, and add to the answers."""
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while loop.time() < end:
            request = next(requests, None)
            if request is None:
                break
            sent = loop.time()
            writer.write(request)
            status = await _status(reader)
            answers.statuses[status] += 1
            if status == 200:
                answers.latencies.append(loop.time() - sent)
            elif status == 429:
                # a client that has to wait does not send again at once
                await asyncio.sleep(0.01)
    except (ConnectionError, asyncio.IncompleteReadError):
        answers.statuses[0] += 1
    finally:
        writer.close()


async def _status(reader: asyncio.StreamReader) -> int:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
    await reader.readexactly(int(length))
    return int(head.split(maxsplit=2)[1])
