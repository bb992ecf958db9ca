"""Time the server beside the servers that one would write or use instead: `unimodal bench serve`.

Every server is a process of its own on this machine, and so are the clients. Both sides of a
comparison run at the same time and are put under load in turns. Models have the same weights on
both sides, and a speed is given only if their vectors agree. Like those of a search box, requests
hold one short text or one image.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import statistics
import tempfile
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unimodal.compare import BenchRow, Tick, make_row, measuring
from unimodal.photographs import draw_captions, draw_photograph, encode

from .encode import MIN_COSINE, minilm_folder
from .load import Answers, Load, client_process
from .servers import Running, Server, infinity_server, our_server, running, server_of

Send = Callable[[Load], Answers]

# Seconds of a forward pass, and of each text in it: those of a small tower on a GPU.
LAUNCH = 0.008
EACH = 0.0004


class ServeSizes(NamedTuple):
    """The size of the loads; smaller in the tests."""

    seconds: float = 5.0  # of load on a server per round
    requests: int = 4000  # to count CPU time
    crowd: int = 600  # more clients than a server can admit
    images: int = 32
    short: int = 320  # of an image, in pixels
    clip: str = "ViT-B-32"


class Speed(NamedTuple):
    """The speed of a server under load, the median of the rounds."""

    per_second: float
    cpu_ms: float  # per request, of all its threads: a busy machine does not stretch it


class Bench(NamedTuple):
    """The settings that all parts share."""

    sizes: ServeSizes
    rounds: int
    folder: Path
    threads: int | None
    send: Send
    tick: Tick


def bench_serve(
    sizes: ServeSizes | None = None, *, rounds: int = 3, threads: int | None = None
) -> list[BenchRow]:
    """Overhead, micro-batching, requests per second beside installed peers, and a crowd of clients.

    rounds: the median of them is taken. threads: of each server's torch; None: torch's own number.

    Raises ImportError without the files of MiniLM or a peer, and FloatingPointError if vectors
    differ.
    """
    sizes = sizes or ServeSizes()
    num_peers = 2 if infinity_server("") else 1
    # per round: overhead, batching, texts, images
    loads = 3 + 2 + (2 + num_peers) + 3
    with (
        tempfile.TemporaryDirectory() as folder,
        client_process() as send,
        measuring("bench serve", loads * rounds + 2, None) as tick,
    ):
        bench = Bench(sizes, rounds, Path(folder), threads, send, tick)
        return [
            *_overhead(bench),
            *_batching(bench),
            *_texts(bench),
            *_images(bench),
            *_crowd(bench),
        ]


def short_texts(count: int = 200) -> list[str]:
    """Texts for a search box: the captions of a shop, all different."""
    return list(dict.fromkeys(draw_captions(4 * count)))[:count]


def _overhead(bench: Bench) -> list[BenchRow]:
    """CPU time of the process per request, with a model that takes no time."""
    floats = _bodies(short_texts())
    as_base64 = _bodies(short_texts(), encoding_format="base64")
    plain_server = server_of("ready", "plain", "plain", "{port}")
    with (
        running(_ready(0, 0), bench.folder) as ours,
        running(plain_server, bench.folder) as plain,
    ):
        sides = {
            "floats": (ours, floats),
            "base64": (ours, as_base64),
            "plain": (plain, floats),
        }
        speeds: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(bench.rounds):
            for name, (server, bodies) in sides.items():
                bench.tick(f"overhead, {name}")
                load = Load(
                    server.port,
                    "/v1/embeddings",
                    bodies,
                    clients=16,
                    requests=bench.sizes.requests,
                )
                speeds[name].append(_speed(bench, server, load).cpu_ms)
    cost = {name: statistics.median(values) for name, values in speeds.items()}
    unit = "CPU ms per request, 16 clients"
    plain_name = "plain FastAPI endpoint, no tokenizer"
    return [
        make_row("overhead, floats", "limit", "<= 1", cost["floats"], 0.5, unit),
        make_row("overhead, base64", "limit", "<= 1", cost["base64"], 0.5, unit),
        make_row(
            "overhead, floats", plain_name, "", cost["floats"], cost["plain"], unit
        ),
    ]


def _batching(bench: Bench) -> list[BenchRow]:
    """Requests per second of 32 clients, with batches and without, of a model with a known time of
    a forward pass.
    """
    servers = {
        "ours": _ready(LAUNCH, EACH),
        "theirs": _ready(LAUNCH, EACH, "batch_tokens=1"),
    }
    bodies = _bodies(short_texts())
    speeds = _speeds(bench, "micro-batching", servers, bodies, clients=32)
    name = f"micro-batching, {1000 * LAUNCH:g} ms per forward pass and {1000 * EACH:g} ms per text"
    return [_rate_row(name, "one by one", ">= 4", speeds["ours"], speeds["theirs"], 32)]


def _texts(bench: Bench) -> list[BenchRow]:
    folder = str(minilm_folder())
    plain = server_of(
        "peers", "sentence-transformers in FastAPI", "sentences", folder, "{port}"
    )
    peers = [peer for peer in (plain, infinity_server(folder)) if peer]
    return _beside(
        bench,
        "short texts, MiniLM",
        f"hf:{folder}",
        peers,
        _bodies(short_texts()),
        clients=32,
    )


def _images(bench: Bench) -> list[BenchRow]:
    model, weights = _same_weights(bench.sizes.clip, bench.folder)
    short = bench.sizes.short
    items = []
    for seed in range(bench.sizes.images):
        jpeg = encode(draw_photograph(seed, short), short)
        items.append({"image": base64.b64encode(jpeg).decode()})
    plain = server_of(
        "peers",
        "open_clip in FastAPI",
        "images",
        bench.sizes.clip,
        str(weights),
        "{port}",
    )
    return _beside(
        bench,
        f"images, {bench.sizes.clip}",
        str(model),
        [plain],
        _bodies(items),
        clients=16,
    )


def _beside(
    bench: Bench,
    what: str,
    model: str,
    peers: Sequence[Server],
    bodies: Sequence[bytes],
    clients: int,
) -> list[BenchRow]:
    """Ours in both precisions beside peers in float32."""
    ours = {
        "fp32": our_server(model, "dtype=float32"),
        "bf16": our_server(model, "dtype=bfloat16"),
    }
    servers = ours | {peer.name: peer for peer in peers}
    speeds = _speeds(bench, what, servers, bodies, clients=clients, is_same_model=True)
    unit = f"CPU ms per request, {clients} clients"
    rows = []
    for peer in peers:
        theirs = speeds[peer.name]
        for kind in ours:
            name = f"{what}, {kind}"
            rows.append(
                _rate_row(name, peer.name, "> 1", speeds[kind], theirs, clients)
            )
        our_ms = speeds["fp32"].cpu_ms
        rows.append(
            make_row(f"{what}, fp32", peer.name, "", our_ms, theirs.cpu_ms, unit)
        )
    return rows


def _same_weights(clip: str, folder: Path) -> tuple[Path, Path]:
    """A model directory of ours, and a file for open_clip with the same random weights."""
    import open_clip
    from safetensors.torch import save_file

    from unimodal.formats import native
    from unimodal.formats.open_clip import load

    peer = open_clip.create_model(clip)
    save_file(peer.state_dict(), folder / "open_clip.safetensors")
    model, tokenizer = load(f"open_clip:{clip}")
    assert model.image is not None
    model.image.backbone.load_state_dict(peer.visual.state_dict())
    native.save(folder / "model", model, tokenizer)
    return folder / "model", folder / "open_clip.safetensors"


def _crowd(bench: Bench) -> list[BenchRow]:
    """More clients than the queue of a server holds: their statuses, the p99, and its memory."""
    clients = bench.sizes.crowd
    bodies = _bodies(short_texts())
    server = our_server(f"hf:{minilm_folder()}", "max_items=128", "queue_items=256")
    with running(server, bench.folder, bench.threads) as started:
        few_load = Load(
            started.port,
            "/v1/embeddings",
            bodies,
            clients=32,
            seconds=bench.sizes.seconds,
        )
        many_load = dataclasses.replace(few_load, clients=clients)
        bench.tick("32 clients")
        few = bench.send(few_load)
        before = started.peak_memory()
        bench.tick(f"{clients} clients")
        many = bench.send(many_load)
        after = started.peak_memory()

    name = f"{clients} clients, queue of 256"
    few_p99 = few.latency(0.99)
    many_p99 = many.latency(0.99)
    return [
        *_status_rows(name, many),
        make_row(
            f"{name}: p99 of those admitted", "32 clients", "", many_p99, few_p99, "s"
        ),
        make_row(f"{name}: peak memory", "32 clients", "<= 1.2", after, before, "MB"),
    ]


def _status_rows(name: str, answers: Answers) -> list[BenchRow]:
    """The share of other statuses, which has to be 0, and of refusals."""
    total = answers.statuses.total()
    refused = answers.statuses[429]
    other = total - refused - answers.statuses[200]
    shares = (
        ("neither 200 nor 429", other, "<= 0"),
        ("429", refused, ""),
    )
    rows = []
    for status, count, target in shares:
        row = BenchRow(
            name=f"{name}: {status}",
            peer="all answers",
            ratio=count / total,
            target=target,
            ours=count,
            theirs=total,
            unit="answers",
        )
        rows.append(row)
    return rows


def _speeds(
    bench: Bench,
    what: str,
    servers: Mapping[str, Server],
    bodies: Sequence[bytes],
    *,
    clients: int,
    is_same_model: bool = False,
) -> dict[str, Speed]:
    """Put each server under load in turns. is_same_model: all have to give the first's vector."""
    speeds: dict[str, list[Speed]] = {name: [] for name in servers}
    with ExitStack() as stack:
        started = {
            name: stack.enter_context(running(server, bench.folder, bench.threads))
            for name, server in servers.items()
        }
        if is_same_model:
            vectors = {
                name: _vector(started[name].port, server.path, bodies[0])
                for name, server in servers.items()
            }
            check_vectors(what, vectors)
        for _ in range(bench.rounds):
            for name, server in servers.items():
                bench.tick(f"{what}, {name}")
                load = Load(
                    started[name].port,
                    server.path,
                    bodies,
                    clients,
                    bench.sizes.seconds,
                )
                speeds[name].append(_speed(bench, started[name], load))
    return {name: _median(rounds) for name, rounds in speeds.items()}


def _median(speeds: Sequence[Speed]) -> Speed:
    return Speed(
        statistics.median(speed.per_second for speed in speeds),
        statistics.median(speed.cpu_ms for speed in speeds),
    )


def _speed(bench: Bench, server: Running, load: Load) -> Speed:
    before = server.cpu_seconds()
    answers = bench.send(load)
    used = server.cpu_seconds() - before
    if answers.statuses.keys() != {200}:
        raise RuntimeError(
            f"some requests were not answered with 200: {dict(answers.statuses)}."
        )
    return Speed(answers.per_second, 1000 * used / len(answers.latencies))


def check_vectors(what: str, vectors: Mapping[str, Any]) -> None:
    """Raise FloatingPointError unless all servers give the vector (D,) that the first gives."""
    first = next(iter(vectors.values()))
    for name, vector in vectors.items():
        if not (cosine := float(first @ vector)) >= MIN_COSINE:
            raise FloatingPointError(
                f"{what}: the cosine between our vector and that of {name!r} is {cosine:.6f}, "
                f"below {MIN_COSINE}; check the versions of the libraries."
            )


def _vector(port: int, path: str, body: bytes) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return np.array(json.load(answer)["data"][0]["embedding"], dtype=np.float32)


def _rate_row(
    name: str, peer: str, target: str, ours: Speed, theirs: Speed, clients: int
) -> BenchRow:
    ratio = ours.per_second / theirs.per_second
    return BenchRow(
        name,
        peer,
        ratio,
        target,
        ours.per_second,
        theirs.per_second,
        f"requests/s, {clients} clients",
    )


def _bodies(inputs: Sequence[Any], **options: str) -> list[bytes]:
    # without "model": each server has only one
    return [json.dumps({"input": [item], **options}).encode() for item in inputs]


def _ready(launch: float, each: float, *options: str) -> Server:
    """Ours with the model of ready.py."""
    tokenizer = str(minilm_folder() / "tokenizer.json")
    return server_of(
        "ready", "ours", "ours", "{port}", tokenizer, str(launch), str(each), *options
    )
