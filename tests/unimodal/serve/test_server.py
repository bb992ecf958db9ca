"""The server as a process: signals, load, clients that go or dawdle, and OpenAI's own client."""

from __future__ import annotations

import asyncio
import base64
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import aiohttp
import httpx
import numpy as np
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.unimodal.serve.slow_server import PRELOADED, Running, running
from unimodal.embedder import Embedder
from unimodal.model_config import ModelConfig
from unimodal.serve.server import CUT_OFF, STUCK, bind_socket, end_threads

KEY = "a-key-of-some-length"


@pytest.fixture(scope="module")
def server(tiny: ModelConfig) -> Iterator[Running]:
    """20 ms for each forward pass, 50 items in its queue."""
    with running(tiny, 0.02, queue_items=50, max_items=50) as server:
        yield server


@pytest.fixture
def slow(tiny: ModelConfig) -> Iterator[Running]:
    """Half a second for each forward pass, of one text, and one second to come to an end."""
    with running(tiny, 0.5, batch_tokens=1, delay_seconds=0, drain_seconds=1) as slow:
        wait_until(lambda: httpx.get(f"{slow.url}/health/ready").status_code == 200)
        yield slow


@pytest.fixture(scope="module")
def hasty(tiny: ModelConfig) -> Iterator[Running]:
    """One second for a request to arrive."""
    with running(tiny, 0.0, request_seconds=1) as hasty:
        yield hasty


async def ask_all(
    url: str, clients: int, each: int = 1, timeout: float = 120.0
) -> tuple[Counter[int], list[float], list[dict[str, str]]]:
    """N clients with a connection each: statuses, seconds of the 200s, headers of the others."""
    statuses: Counter[int] = Counter()
    seconds: list[float] = []
    headers: list[dict[str, str]] = []

    async def ask(session: aiohttp.ClientSession, number: int) -> None:
        for turn in range(each):
            started = time.perf_counter()
            async with session.post(
                f"{url}/v1/embeddings", json={"input": f"ball {number} {turn}"}
            ) as response:
                await response.read()
                statuses[response.status] += 1
                if response.status == 200:
                    seconds.append(time.perf_counter() - started)
                else:
                    headers.append(dict(response.headers))

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        connector=connector, timeout=aiohttp.ClientTimeout(timeout)
    ) as session:
        await asyncio.gather(*(ask(session, number) for number in range(clients)))
    return statuses, seconds, headers


def counters(server: Running) -> dict[str, float]:
    families = text_string_to_metric_families(httpx.get(f"{server.url}/metrics").text)
    totals: Counter[str] = Counter()
    for family in families:
        for sample in family.samples:
            totals[sample.name] += sample.value  # type: ignore[assignment]  # a count of floats
    return dict(totals)


def wait_until(is_true: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end, "it has not happened"
        time.sleep(0.02)


def test_openais_own_client_gets_the_embedders_vectors(
    tiny: ModelConfig,
    served: Embedder,
    texts: list[str],
    png: Callable[[int], bytes],
    tmp_path: Path,
) -> None:
    (tmp_path / "keys").write_text(KEY + "\n")
    uri = "data:image/png;base64," + base64.encodebytes(png(3)).decode()
    with running(tiny, 0.0, names=[], api_keys_file=str(tmp_path / "keys")) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)
        by_default = client.embeddings.create(
            input=texts, model="text-embedding-3-small"
        )  # as base64
        image = (
            client.embeddings.create(
                input=["a hat", uri], model="text-embedding-ada-002"
            )
            .data[1]
            .embedding
        )
        azure = openai.AzureOpenAI(
            azure_endpoint=server.url,
            api_key=KEY,
            api_version="2024-10-21",
            max_retries=0,
        )
        of_azure = azure.embeddings.create(input=texts, model="shop").data
        as_floats = client.embeddings.create(
            input=texts, model="tiny", encoding_format="float", dimensions=8
        )
        assert [model.id for model in client.models.list()] == ["slow"]
        with pytest.raises(
            openai.BadRequestError, match="not between 1 and embed_dim 24"
        ):
            client.embeddings.create(input=texts, model="tiny", dimensions=99)
        with pytest.raises(
            openai.AuthenticationError, match="this API key is not known"
        ):
            client.with_options(api_key="wrong").embeddings.create(
                input=texts, model="tiny"
            )
    for data in (by_default.data, of_azure):
        np.testing.assert_allclose(
            [entry.embedding for entry in data], served.encode(texts), atol=1e-5
        )
    np.testing.assert_allclose([image], served.encode(png(3)), atol=1e-5)
    np.testing.assert_allclose(
        [entry.embedding for entry in as_floats.data],
        served.encode(texts, truncate_dim=8),
        atol=1e-5,
    )
    assert by_default.usage.total_tokens > len(texts)


def test_600_clients_at_once_get_200_or_429_in_bounded_time_and_memory(
    server: Running,
) -> None:
    asyncio.run(ask_all(server.url, 20))
    before = server.memory()
    statuses, seconds, headers = asyncio.run(ask_all(server.url, 600, each=3))
    assert statuses.keys() == {200, 429}
    assert statuses.total() == 1800
    assert all(int(refused["Retry-After"]) >= 1 for refused in headers)
    # 50 items wait at most, in batches of 20 ms; the rest of the time is 600 clients on this
    # machine.
    assert np.quantile(seconds, 0.99) < 10
    assert server.memory("VmHWM") - before < 100


async def queued(session: aiohttp.ClientSession, url: str, items: int) -> None:
    """Wait until this many items are in the server's queue."""
    while True:
        async with session.get(f"{url}/metrics") as response:
            if f"unimodal_queue_items {items}.0\n" in await response.text():
                return
        await asyncio.sleep(0.01)


def test_the_items_of_a_client_that_is_gone_never_reach_the_model(
    slow: Running,
) -> None:
    async def ask_and_go() -> int:
        def ask(texts: list[str]) -> asyncio.Task[aiohttp.ClientResponse]:
            return asyncio.ensure_future(
                session.post(f"{slow.url}/v1/embeddings", json={"input": texts})
            )

        async with aiohttp.ClientSession() as session:
            first = ask(
                ["a hat"]
            )  # the model is busy with it while the others come and go
            await queued(session, slow.url, 1)
            gone = [ask(["ball"] * 10) for _ in range(5)]
            await queued(session, slow.url, 51)
            for task in gone:
                task.cancel()
            await asyncio.gather(*gone, return_exceptions=True)
            await queued(session, slow.url, 1)
            return (await first).status

    before = counters(slow)
    assert asyncio.run(ask_and_go()) == 200
    after = counters(slow)
    assert after["unimodal_cancelled_total"] - before["unimodal_cancelled_total"] == 5
    assert after["unimodal_items_total"] - before["unimodal_items_total"] == 1


def test_what_is_not_done_when_the_drain_ends_is_answered_503_and_told_by_the_exit_status(
    slow: Running,
) -> None:
    async def ask_and_stop() -> int:
        async with aiohttp.ClientSession() as session:
            answer = asyncio.ensure_future(
                session.post(
                    f"{slow.url}/v1/embeddings", json={"input": ["a hat"] * 40}
                )
            )
            await queued(session, slow.url, 40)
            assert slow.process.pid is not None
            os.kill(slow.process.pid, signal.SIGTERM)
            return (await answer).status

    assert asyncio.run(ask_and_stop()) == 503
    slow.process.join(20)
    assert slow.process.exitcode == CUT_OFF


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nX-Slow",
        b"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\n"
        b"Content-Type: application/json\r\nContent-Length: 99\r\n\r\n{",
    ],
    ids=["nothing", "half a head", "half a body"],
)
def test_a_request_that_does_not_arrive_in_time_loses_its_connection(
    hasty: Running, sent: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", hasty.port), timeout=15) as client:
        started = time.monotonic()
        client.sendall(sent)
        with suppress(ConnectionResetError):
            assert client.recv(100) == b""
        assert 0.5 < time.monotonic() - started < 10


def test_a_head_without_end_is_refused(hasty: Running) -> None:
    with socket.create_connection(("127.0.0.1", hasty.port), timeout=15) as client:
        client.sendall(b"GET / HTTP/1.1\r\n" + b"X-Long: " + b"a" * 30_000)
        time.sleep(0.1)
        client.sendall(b"a" * 10_000)
        assert client.recv(100).startswith(b"HTTP/1.1 400")


def test_150_open_requests_are_all_answered_after_sigterm(tiny: ModelConfig) -> None:
    with running(tiny, 0.3, batch_tokens=200, delay_seconds=1) as server:

        async def ask_and_stop() -> tuple[Counter[int], int, Counter[int]]:
            wait = asyncio.ensure_future(ask_all(server.url, 150))
            async with aiohttp.ClientSession() as session:
                while True:
                    async with session.get(f"{server.url}/metrics") as response:
                        if (
                            "unimodal_queue_items 1" in (text := await response.text())
                            and _queued(text) >= 120
                        ):
                            break
                    await asyncio.sleep(0.01)
                assert server.process.pid is not None
                os.kill(server.process.pid, signal.SIGTERM)
                await asyncio.sleep(0.3)
                async with session.get(f"{server.url}/health/ready") as ready:
                    pass
            late = (await ask_all(server.url, 1))[
                0
            ]  # on a new connection, before the port is closed
            return (await wait)[0], ready.status, late

        statuses, ready, late = asyncio.run(ask_and_stop())
        assert statuses == {200: 150}
        assert (ready, late) == (503, {200: 1})
        server.process.join(20)
        assert server.process.exitcode == 0


def test_a_second_signal_ends_at_once(tiny: ModelConfig) -> None:
    with running(tiny, 0.5, delay_seconds=60) as server:
        wait_until(lambda: httpx.get(f"{server.url}/health/live").status_code == 200)
        assert server.process.pid is not None
        os.kill(server.process.pid, signal.SIGTERM)
        wait_until(lambda: httpx.get(f"{server.url}/health/ready").status_code == 503)
        os.kill(server.process.pid, signal.SIGTERM)
        server.process.join(10)
        assert server.process.exitcode == CUT_OFF


def test_a_model_that_hangs_ends_the_process(tiny: ModelConfig) -> None:
    with running(tiny, 60.0, stuck_seconds=0.5) as server:
        server.process.join(20)
        assert server.process.exitcode == STUCK


@pytest.mark.parametrize(("seconds", "status"), [(60.0, 3), (0.2, 0)])
def test_a_thread_that_does_not_come_back_does_not_keep_the_process(
    seconds: float, status: int
) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_leave, args=(seconds,))
    process.start()
    process.join(20)
    assert process.exitcode == status


def _leave(seconds: float) -> None:
    earlier = threading.enumerate()
    threading.Thread(target=time.sleep, args=(seconds,)).start()
    end_threads(earlier, 3)


def test_a_port_that_is_taken_is_known_before_a_model_is_loaded() -> None:
    with bind_socket("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(ValueError, match="choose another with port="):
            bind_socket("127.0.0.1", taken.getsockname()[1])


def _queued(metrics: str) -> float:
    return next(
        float(line.split()[1])
        for line in metrics.splitlines()
        if line.startswith("unimodal_queue_items ")
    )
