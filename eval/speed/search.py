"""Time and recall of our default store beside exact search in numpy: `unimodal bench search`.

One query at a time, both sides in turns. Vectors lie in clusters of 100, with the spectrum of a
trained model. Queries come from the same distribution and are not in the store. Exact search is
one product of the matrix (n, D) with the query and a partition, over all rows or over those that
the filter keeps.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unimodal.compare import BenchRow, Clock, Tick, cpu_clock, make_row, measuring
from unimodal.search.filters.tree import Compare
from unimodal.search.stores.base import VectorStore
from unimodal.search.stores.open import create_store
from unimodal.search.stores.schema import Schema, vector_column
from unimodal.vectors import Vectors

# A query (D,) -> the nearest rows, best first.
Find = Callable[[Vectors], list[int]]

K = 10
SHELVES = 50  # a filter on one of them keeps 2 %
FINGERPRINT = "random"
_SHELF = Compare("shelf", "=", 7)
_CLUSTER = 100  # rows per cluster
_BATCH = 20_000  # rows per upsert


class SearchSizes(NamedTuple):
    """How much is searched; less in the tests."""

    rows: int = 200_000
    dim: int = 768
    queries: int = 100
    prefix: int = 256


def bench_search(
    sizes: SearchSizes | None = None, *, rounds: int = 3, threads: int | None = None
) -> list[BenchRow]:
    """Build a store in a temporary folder, then time all queries once per round.

    rounds: after one that warms up and measures the recall. threads: of torch; 1: CPU time, of
        all threads.
    """
    sizes = sizes or SearchSizes()
    kinds = len(_ways(sizes))
    upserts = -(-sizes.rows // _BATCH)
    with measuring("bench search", upserts + 2 + kinds * (1 + rounds), threads) as tick:
        tick("drawing vectors")
        vectors, queries = draw_clusters(sizes.rows, sizes.dim, sizes.queries)
        with tempfile.TemporaryDirectory() as folder:
            store, filling, building = _filled(sizes, vectors, folder, tick)
            rows = _all_rows(sizes, store, vectors, queries, rounds, tick, cpu_clock())
            files = [file for file in Path(folder).rglob("*") if file.is_file()]
            disk = sum(file.stat().st_size for file in files) / 1e6
            store.close()
    return [
        *rows,
        make_row(
            "build of the indexes",
            "upsert of the rows",
            "",
            building,
            filling,
            "s wall",
        ),
        make_row(
            "on disk", "the vectors as float32", "", disk, vectors.nbytes / 1e6, "MB"
        ),
    ]


def draw_clusters(
    rows: int, dim: int, queries: int, seed: int = 0
) -> tuple[Vectors, Vectors]:
    """Unit vectors (rows, dim) and (queries, dim) of the same clusters; a function of the seed."""
    random = np.random.default_rng(seed)
    spectrum = (1 + np.arange(dim, dtype=np.float32) / 32) ** -0.5
    centres = random.standard_normal((-(-rows // _CLUSTER), dim), dtype=np.float32)

    def around_centres(count: int) -> Vectors:
        drawn = centres[random.integers(0, len(centres), count)]
        drawn += random.standard_normal((count, dim), dtype=np.float32)
        drawn *= spectrum
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        return drawn

    return around_centres(rows), around_centres(queries)


def exact(vectors: Vectors, kept: NDArray[np.int64] | None = None) -> Find:
    """Exact search in numpy; kept: the rows that a filter keeps, known beforehand."""

    def find(query: Vectors) -> list[int]:
        candidates = vectors if kept is None else vectors[kept]
        scores = candidates @ query
        best = np.arange(len(scores))
        if len(scores) > K:
            best = np.argpartition(-scores, K)[:K]
        best = best[np.argsort(-scores[best])]
        rows = best if kept is None else kept[best]
        return [int(row) for row in rows]

    return find


def _ways(sizes: SearchSizes) -> dict[str, tuple[dict[str, Any], str]]:
    """The kinds of search by name: the options of `VectorStore.search`, and the goal beside exact
    search.
    """
    return {
        "one query": ({}, "<= 0.2"),
        "filter that keeps 2 %": ({"where": _SHELF}, ""),
        f"prefix of {sizes.prefix}, re-ranked": (
            {"coarse": f"prefix:{sizes.prefix}"},
            "",
        ),
        "binary, re-ranked": ({"coarse": "binary"}, ""),
    }


def _filled(
    sizes: SearchSizes, vectors: Vectors, folder: str, tick: Tick
) -> tuple[VectorStore, float, float]:
    """The store, and the seconds for its rows and for its indexes."""
    schema = Schema(
        dim=sizes.dim,
        fingerprint=FINGERPRINT,
        fields={"shelf": "int"},
        prefix_dims=(sizes.prefix,),
        binary=True,
    )
    store = create_store(str(Path(folder) / "store"), schema)
    started = time.perf_counter()
    for start in range(0, sizes.rows, _BATCH):
        tick(f"upsert of {sizes.rows:,} rows")
        batch = _table(vectors[start : start + _BATCH], start)
        store.upsert(batch, fingerprint=FINGERPRINT)
    filled = time.perf_counter()
    tick("building the indexes, which takes minutes")
    store.build()
    return store, filled - started, time.perf_counter() - filled


def _table(vectors: Vectors, start: int) -> Any:
    import pyarrow as pa

    numbers = range(start, start + len(vectors))
    column = pa.FixedSizeListArray.from_arrays(
        pa.array(vectors.ravel()), vectors.shape[1]
    )
    shelves = [number % SHELVES for number in numbers]
    return pa.table(
        {
            "id": [str(number) for number in numbers],
            vector_column("fused"): column,
            "shelf": shelves,
        }
    )


def _all_rows(
    sizes: SearchSizes,
    store: VectorStore,
    vectors: Vectors,
    queries: Vectors,
    rounds: int,
    tick: Tick,
    clock: Clock,
) -> list[BenchRow]:
    """Two rows for each kind of search: its time and its recall."""
    kept = np.arange(_SHELF.value, sizes.rows, SHELVES)
    peer = f"exact, numpy {version('numpy')}"
    unit = clock.unit.replace("s wall", "ms wall").replace("CPU s", "CPU ms")
    rows = []
    for name, (options, target) in _ways(sizes).items():
        title = f"{name}, {sizes.rows:,} x {sizes.dim}"
        ours = _in_store(store, options)
        theirs = exact(vectors, kept if "where" in options else None)
        tick(f"{name}: recall")
        recall = _recall(queries, ours, theirs)
        seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
        for _ in range(rounds):
            tick(name)
            for side, duration in _timed(queries, ours, theirs, clock):
                seconds[side].append(duration)
        our_p50, their_p50 = (
            1000 * float(np.median(seconds[side])) for side in seconds
        )
        rows.append(make_row(f"{title}: p50", peer, target, our_p50, their_p50, unit))
        rows.append(
            BenchRow(f"{title}: recall@{K}", peer, recall, ">= 0.95", recall, 1.0, "")
        )
    return rows


def _recall(queries: Vectors, ours: Find, theirs: Find) -> float:
    """The mean share of the exact results that the store finds."""
    shares = []
    for query in queries:
        both = set(ours(query)) & set(theirs(query))
        shares.append(len(both) / K)
    return float(np.mean(shares))


def _in_store(store: VectorStore, options: dict[str, Any]) -> Find:
    def find(query: Vectors) -> list[int]:
        (hits,) = store.search(
            query[None],
            K,
            fingerprint=FINGERPRINT,
            vector="fused",
            fields=(),
            **options,
        )
        return [int(hit.id) for hit in hits]

    return find


def _timed(
    queries: Vectors, ours: Find, theirs: Find, clock: Clock
) -> Iterator[tuple[str, float]]:
    """The side and the seconds of each search."""
    for query in queries:
        for side, find in (("ours", ours), ("theirs", theirs)):
            started = clock.now()
            find(query)
            yield side, clock.now() - started
