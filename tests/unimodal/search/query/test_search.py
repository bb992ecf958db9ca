"""What a query finds in a store."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from tests.unimodal.search.query.catalogue import (
    CHEAP,
    DIM,
    KINDS,
    MISSING,
    NUM_ITEMS,
    WORDS,
    hits_of,
    ids,
    nearest,
    store_with,
    vectors_of,
)
from tests.unimodal.search.stores.exact_store import ExactStore
from unimodal.bm25 import bm25_scores
from unimodal.embedder import Embedder
from unimodal.search.filters.tree import And, Compare, In, Predicate
from unimodal.search.query.query import Query
from unimodal.search.query.search import find, search, search_many
from unimodal.search.stores.capabilities import UnsupportedError
from unimodal.search.stores.columns import fixed_size_list
from unimodal.search.stores.schema import Schema
from unimodal.vectors import Vectors, normalize


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        (KINDS, ("fused",)),
        (("text", "image"), ("text", "image")),
        (("image",), ("image",)),
        (("text",), ("text",)),
    ],
)
def test_by_default_the_fused_vectors_or_else_all_are_searched(
    there: tuple[str, ...], chosen: tuple[str, ...], query_vector: Vectors
) -> None:
    found = hits_of(
        store_with(there, about={"calibrated": "true"}),
        Query(text="a hat", k=60),
        query_vector,
    )
    expected = {name for kind in chosen for name in nearest(kind, query_vector[0], 60)}
    assert {hit.vector for hit in found} == set(chosen)
    assert set(ids(found)) == expected


def test_hits_of_one_kind_are_ordered_by_their_cosine(
    store: ExactStore, query_vector: Vectors
) -> None:
    found = hits_of(store, Query(text="a hat", k=7), query_vector)
    assert ids(found) == nearest("fused", query_vector[0], 7)
    assert [hit.score for hit in found] == [hit.cosine for hit in found]
    assert found[0].score == pytest.approx(
        float((vectors_of("fused") @ query_vector[0]).max()), abs=1e-6
    )


def test_merged_kinds_of_a_calibrated_model_miss_no_item(
    query_vector: Vectors,
) -> None:
    store = store_with(("text", "image"), about={"calibrated": "true"})
    scores = {kind: vectors_of(kind) @ query_vector[0] for kind in ("text", "image")}
    for kind, gone in MISSING.items():
        if kind in scores:
            scores[kind][list(gone)] = -2
    best = np.maximum(scores["text"], scores["image"])
    for k in (1, 5, 60):
        expected = [f"i{row:02}" for row in np.argsort(-best, kind="stable")][:k]
        assert ids(hits_of(store, Query(text="a hat", k=k), query_vector)) == expected


def test_texts_do_not_crowd_images_out_where_a_model_keeps_them_in_another_cone() -> (
    None
):
    """Item n is a text or an image of one of six things; texts lie around one axis, images
    around another.
    """
    rng = np.random.default_rng(3)
    across = np.arange(DIM) > 1  # what is meant has no part in either axis
    things = normalize(rng.standard_normal((6, DIM)) * across)
    meant = np.tile(things, (20, 1)) + 0.1 * rng.standard_normal((120, DIM)) * across
    is_text = np.arange(120) < 60
    cones = np.where(is_text[:, None], 4 * np.eye(DIM)[0], 4 * np.eye(DIM)[1])
    vectors = normalize(meant + cones)
    questions = normalize(things + 4 * np.eye(DIM)[0])
    shares = {}
    for calibrated in (
        "true",
        "false",
    ):  # "true" is a lie here: cosines are then compared as they are
        about = {"calibrated": calibrated}
        store = ExactStore(
            Schema(dim=DIM, fingerprint="model", vectors=("text", "image"), about=about)
        )
        columns = {
            "vector_text": fixed_size_list(vectors, is_text),
            "vector_image": fixed_size_list(vectors, ~is_text),
        }
        store.upsert(
            pa.table({"id": [str(row) for row in range(120)], **columns}),
            fingerprint="model",
        )
        found = [
            hits_of(store, Query(text="a thing"), question[None])
            for question in questions
        ]
        shares[calibrated] = np.mean(
            [hit.vector == "image" for hits in found for hit in hits]
        )
        if calibrated == "false":
            right = np.mean(
                [
                    int(hit.id) % 6 == row
                    for row, hits in enumerate(found)
                    for hit in hits
                ]
            )
            assert right > 0.8
    assert shares["true"] == 0
    assert 0.3 < shares["false"] < 0.7


def test_words_and_an_image_are_one_query_vector(
    embedder: Embedder, images: list[Image.Image], store: ExactStore
) -> None:
    both = embedder.encode_query(
        {"text": "a red hat", "image": images[0], "weight": 0.3}
    )
    store = store_with(fingerprint=embedder.fingerprint())
    found = search(
        store, embedder, Query(text="a red hat", image=images[0], weight=0.3, k=60)
    )
    assert ids(found) == nearest("fused", both[0], 60)


def test_words_are_embedded_with_the_query_prompt(embedder: Embedder) -> None:
    store = store_with(fingerprint=embedder.fingerprint())
    (hit,) = search(store, embedder, Query(text="a red hat", k=1))
    best = float(
        (vectors_of("fused") @ embedder.encode("search query: a red hat")[0]).max()
    )
    assert hit.score == pytest.approx(best, abs=1e-5)


def test_many_queries_find_what_each_finds_alone(
    embedder: Embedder, images: list[Image.Image]
) -> None:
    store = store_with(fingerprint=embedder.fingerprint())
    queries = [
        Query(text="a red hat", negatives=("wood",)),
        Query(like="i07"),
        Query(image=images[0]),
        Query(text="old lamp", image=images[1], k=3),
    ]
    together = search_many(store, embedder, queries)
    assert [ids(found) for found in together] == [
        ids(search(store, embedder, query)) for query in queries
    ]


def test_negative_words_move_the_query_away_from_them(store: ExactStore) -> None:
    wanted, not_wanted = normalize(np.random.default_rng(5).standard_normal((2, DIM)))
    query = Query(text="a hat", negatives=("red",), negative_weight=0.8, k=60)
    moved = wanted - 0.8 * not_wanted
    assert ids(hits_of(store, query, np.stack([wanted, not_wanted]))) == nearest(
        "fused", moved, 60
    )


def test_more_like_an_item_is_by_its_own_vector_and_without_itself(
    store: ExactStore,
) -> None:
    found = hits_of(store, Query(like="i20", k=8))
    assert ids(found) == nearest("fused", vectors_of("fused")[20], 8, without=("i20",))


def test_more_like_an_item_searches_each_kind_by_the_items_own_vector() -> None:
    store = store_with(("text", "image"), about={"calibrated": "true"})
    found = hits_of(store, Query(like="i20", k=60))
    best = np.maximum(
        *(vectors_of(kind) @ vectors_of(kind)[20] for kind in ("text", "image"))
    )
    scores = {hit.id: hit.score for hit in found}
    assert "i20" not in scores
    assert scores["i30"] == pytest.approx(float(best[30]), abs=1e-6)


def test_an_item_that_lacks_a_kind_searches_it_with_another_of_its_vectors(
    store: ExactStore,
) -> None:
    found = hits_of(store, Query(like="i00", vectors=("text",), k=60))  # it has no text
    assert ids(found) == nearest("text", vectors_of("image")[0], 60)


def test_words_refine_more_like_an_item(
    store: ExactStore, query_vector: Vectors
) -> None:
    found = hits_of(
        store, Query(like="i20", text="in red", weight=0.6, k=5), query_vector
    )
    bent = 0.4 * query_vector[0] + 0.6 * vectors_of("fused")[20]
    assert ids(found) == nearest("fused", bent, 5, without=("i20",))


def test_an_item_that_is_missing_or_has_no_vector_is_refused(
    store: ExactStore,
) -> None:
    store.upsert(pa.table({"id": ["bare"]}), fingerprint="model")
    with pytest.raises(ValueError, match="like: the store has no item 'i99'"):
        hits_of(store, Query(like="i99"))
    with pytest.raises(ValueError, match="like: item 'bare' has no vector"):
        hits_of(store, Query(like="bare"))


@pytest.mark.parametrize(
    "query",
    [
        Query(text="red ball", where=CHEAP, k=60),
        Query(text="red ball", where=CHEAP, k=60, hybrid=True),
        Query(text="red ball", where=CHEAP, k=60, vectors=("text", "image")),
        Query(text="red ball", where=CHEAP, k=60, coarse="prefix:8"),
        Query(text="red ball", where=CHEAP, k=60, exact=True),
        Query(text="red ball", where=CHEAP, k=60, like="i20"),
    ],
)
def test_a_filter_holds_for_every_query(
    store: ExactStore, query: Query, query_vector: Vectors
) -> None:
    assert set(ids(hits_of(store, query, query_vector))) == {
        f"i{row:02}" for row in range(12)
    }


def test_a_hybrid_search_fuses_the_ranks_of_vectors_and_words(
    store: ExactStore, query_vector: Vectors
) -> None:
    by_words = bm25_scores(
        ["green hat"], [f"{WORDS[row % 6]} {row}" for row in range(NUM_ITEMS)]
    )[0]
    words = [
        f"i{row:02}"
        for row in np.argsort(-by_words, kind="stable")
        if by_words[row] > 0
    ]
    ranks = [
        {name: rank for rank, name in enumerate(one, 1)}
        for one in (nearest("fused", query_vector[0], 60), words)
    ]
    scores = {
        name: sum(1 / (60 + rank[name]) for rank in ranks if name in rank)
        for name in ranks[0]
    }
    found = hits_of(store, Query(text="green hat", hybrid=True, k=10), query_vector)
    assert ids(found) == sorted(scores, key=lambda name: (-scores[name], name))[:10]
    assert [hit.score for hit in found] == pytest.approx(
        [scores[hit.id] for hit in found]
    )
    cosines = vectors_of("fused") @ query_vector[0]
    assert [hit.cosine for hit in found] == pytest.approx(
        [float(cosines[int(hit.id[1:])]) for hit in found], abs=1e-6
    )


def test_a_hit_of_full_text_alone_has_no_cosine(
    store: ExactStore, query_vector: Vectors
) -> None:
    query = Query(
        text="green 7",
        hybrid=True,
        vectors=("text",),
        where=In("id", ("i01", "i07", "i12")),
        k=5,
    )
    found = {hit.id: hit for hit in hits_of(store, query, query_vector)}
    assert (found["i01"].vector, found["i01"].cosine) == (
        "words",
        None,
    )  # it has no text vector
    assert found["i12"].vector == "text"


def test_hits_below_the_minimum_cosine_are_left_out(
    store: ExactStore, query_vector: Vectors
) -> None:
    every = hits_of(store, Query(text="a hat", k=60), query_vector)
    least = every[20].score
    assert (
        ids(hits_of(store, Query(text="a hat", k=60, min_score=least), query_vector))
        == ids(every)[:21]
    )
    grouped = hits_of(
        store,
        Query(text="a hat", k=60, min_score=least, group_by="parent"),
        query_vector,
    )
    best: dict[str, str] = {}
    for hit in every[:21]:
        best.setdefault(hit.fields["parent"] or hit.id, hit.id)
    assert ids(grouped) == list(best.values())


def test_a_first_pass_re_ranks_its_candidates_by_the_whole_vector(
    store: ExactStore, query_vector: Vectors
) -> None:
    short = normalize(vectors_of("fused")[:, :8]) @ normalize(query_vector[:, :8])[0]
    candidates = {f"i{row:02}" for row in np.argsort(-short)[:20]}
    expected = [
        name for name in nearest("fused", query_vector[0], 60) if name in candidates
    ][:5]
    found = hits_of(
        store, Query(text="a hat", coarse="prefix:8", candidates=20, k=5), query_vector
    )
    assert ids(found) == expected


def test_hits_carry_words_where_the_fields_name_them(
    store: ExactStore, query_vector: Vectors
) -> None:
    (hit,) = find(
        store,
        Query(text="a hat", k=1),
        list(query_vector),
        fingerprint="model",
        fields=["words"],
    )
    assert list(hit.fields) == ["words"]


def test_a_query_of_another_model_is_refused_before_it_is_embedded(
    embedder: Embedder,
) -> None:
    store = store_with(about={"model": "runs/shop/model"})
    with pytest.raises(
        ValueError, match=r"the store holds vectors of runs/shop/model .*load that one"
    ):
        search(store, embedder, Query(image=b"no image"))
    with pytest.raises(ValueError, match="runs/shop/model"):
        find(store, Query(text="a hat"), [vectors_of("text")[0]], fingerprint="another")


@pytest.mark.parametrize(
    ("lacking", "wish"),
    [
        ("full_text", {"hybrid": True}),
        ("filter", {"where": CHEAP}),
        ("prefix", {"coarse": "prefix:8"}),
    ],
)
def test_an_ability_that_the_store_lacks_is_an_error(
    store: ExactStore,
    lacking: str,
    wish: dict[str, Any],
    query_vector: Vectors,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ExactStore, "capabilities", ExactStore.capabilities - {lacking})
    with pytest.raises(UnsupportedError):
        hits_of(store, Query(text="a hat", **wish), query_vector)


def test_predicates_of_the_tree_reach_the_store_as_they_are(
    store: ExactStore, query_vector: Vectors
) -> None:
    where: Predicate = And(
        (
            Compare("price", ">=", 10),
            Compare("price", "<", 13),
            Compare("parent", "=", "p2"),
        )
    )
    assert sorted(
        ids(hits_of(store, Query(text="a hat", where=where), query_vector))
    ) == [
        "i10",
        "i11",
        "i12",
    ]
