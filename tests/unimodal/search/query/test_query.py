"""What a query finds in a store, and what it is refused for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.unimodal.search.stores.exact_store import ExactStore
from unimodal.bm25 import bm25_scores
from unimodal.embedder import Embedder
from unimodal.search.filters.tree import And, Compare, In, Predicate
from unimodal.search.query import groups, ranking
from unimodal.search.query.fusion import RankedHit
from unimodal.search.query.query import Query, inputs_of
from unimodal.search.query.search import find, search, search_many
from unimodal.search.stores.base import VectorStore
from unimodal.search.stores.capabilities import UnsupportedError
from unimodal.search.stores.columns import fixed_size_list
from unimodal.search.stores.hits import Hit
from unimodal.search.stores.schema import Schema
from unimodal.vectors import normalize

DIM = 24
NUM_ITEMS = 60
KINDS = ("text", "image", "fused")
WORDS = ["red ball", "green hat", "small cup", "old lamp", "wood table", "large shoe"]
GONE = {
    "text": range(0, 6),
    "image": range(50, 60),
    "fused": range(0),
}  # items without that vector


def vectors_of(kind: str) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    return {name: normalize(rng.standard_normal((NUM_ITEMS, DIM))) for name in KINDS}[
        kind
    ]


def store_with(
    kinds: tuple[str, ...] = KINDS, fingerprint: str = "model", **schema: Any
) -> ExactStore:
    """60 items in 12 groups of 5, of which the last ten items have no group."""
    fields: dict[str, Any] = {
        "price": "float",
        "parent": "string",
        "colours": "strings",
    }
    store = ExactStore(
        Schema(
            dim=DIM,
            fingerprint=fingerprint,
            vectors=kinds,
            fields=fields,
            words=True,
            prefix_dims=(8,),
            **schema,
        )
    )
    there = {kind: ~np.isin(np.arange(NUM_ITEMS), list(GONE[kind])) for kind in kinds}
    columns = {
        "id": [f"i{row:02}" for row in range(NUM_ITEMS)],
        "words": [f"{WORDS[row % 6]} {row}" for row in range(NUM_ITEMS)],
        "price": [float(row) for row in range(NUM_ITEMS)],
        "parent": [f"p{row // 5}" if row < 50 else None for row in range(NUM_ITEMS)],
        "colours": [["red"]] * NUM_ITEMS,
        **{
            f"vector_{kind}": fixed_size_list(vectors_of(kind), there[kind])
            for kind in kinds
        },
    }
    store.upsert(pa.table(columns), fingerprint=fingerprint)
    return store


@pytest.fixture
def store() -> ExactStore:
    return store_with()


@pytest.fixture
def asked() -> NDArray[np.float32]:
    return normalize(np.random.default_rng(9).standard_normal((1, DIM)))


def ids(found: list[RankedHit]) -> list[str]:
    return [hit.id for hit in found]


def nearest(
    kind: str, query: NDArray[np.float32], k: int, but: tuple[str, ...] = ()
) -> list[str]:
    scores = vectors_of(kind) @ query
    order = [f"i{row:02}" for row in np.argsort(-scores) if row not in GONE[kind]]
    return [one for one in order if one not in but][:k]


def found_by(
    store: VectorStore, query: Query, vectors: NDArray[np.float32] | tuple[()] = ()
) -> list[RankedHit]:
    return find(store, query, list(vectors), fingerprint="model")


def test_what_is_embedded_are_words_image_and_each_negative(
    images: list[Image.Image],
) -> None:
    query = Query(text="a hat", image=images[0], negatives=("red", "wood"))
    assert inputs_of(query) == [
        ("text", "a hat"),
        ("image", images[0]),
        ("negative", "red"),
        ("negative", "wood"),
    ]
    assert inputs_of(Query(like="i01")) == []


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        (KINDS, ("fused",)),
        (("text", "image"), ("text", "image")),
        (("image",), ("image",)),
        (("text",), ("text",)),
    ],
)
def test_without_a_choice_fused_vectors_are_searched_or_all_there_are(
    there: tuple[str, ...], chosen: tuple[str, ...], asked: NDArray[np.float32]
) -> None:
    found = found_by(
        store_with(there, about={"calibrated": "true"}),
        Query(text="a hat", k=60),
        asked,
    )
    expected = {name for kind in chosen for name in nearest(kind, asked[0], 60)}
    assert {hit.vector for hit in found} == set(chosen)
    assert set(ids(found)) == expected


def test_hits_of_one_kind_come_by_their_cosine(
    store: ExactStore, asked: NDArray[np.float32]
) -> None:
    found = found_by(store, Query(text="a hat", k=7), asked)
    assert ids(found) == nearest("fused", asked[0], 7)
    assert [hit.score for hit in found] == [hit.cosine for hit in found]
    assert found[0].score == pytest.approx(
        float((vectors_of("fused") @ asked[0]).max()), abs=1e-6
    )


def test_merged_kinds_of_a_calibrated_model_miss_no_item(
    asked: NDArray[np.float32],
) -> None:
    store = store_with(("text", "image"), about={"calibrated": "true"})
    scores = {kind: vectors_of(kind) @ asked[0] for kind in ("text", "image")}
    for kind, gone in GONE.items():
        if kind in scores:
            scores[kind][list(gone)] = -2
    best = np.maximum(scores["text"], scores["image"])
    for k in (1, 5, 60):
        expected = [f"i{row:02}" for row in np.argsort(-best, kind="stable")][:k]
        assert ids(found_by(store, Query(text="a hat", k=k), asked)) == expected


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
            found_by(store, Query(text="a thing"), question[None])
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


def test_words_and_an_image_are_asked_as_one_vector(
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


def test_words_are_asked_with_the_query_prompt(embedder: Embedder) -> None:
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
    assert ids(found_by(store, query, np.stack([wanted, not_wanted]))) == nearest(
        "fused", moved, 60
    )


def test_more_like_an_item_is_by_its_own_vector_and_without_itself(
    store: ExactStore,
) -> None:
    found = found_by(store, Query(like="i20", k=8))
    assert ids(found) == nearest("fused", vectors_of("fused")[20], 8, but=("i20",))


def test_more_like_an_item_asks_each_kind_by_the_items_own_of_that_kind() -> None:
    store = store_with(("text", "image"), about={"calibrated": "true"})
    found = found_by(store, Query(like="i20", k=60))
    best = np.maximum(
        *(vectors_of(kind) @ vectors_of(kind)[20] for kind in ("text", "image"))
    )
    scores = {hit.id: hit.score for hit in found}
    assert "i20" not in scores
    assert scores["i30"] == pytest.approx(float(best[30]), abs=1e-6)


def test_an_item_that_lacks_a_kind_asks_it_with_another_vector_that_it_has(
    store: ExactStore,
) -> None:
    found = found_by(
        store, Query(like="i00", vectors=("text",), k=60)
    )  # it has no text
    assert ids(found) == nearest("text", vectors_of("image")[0], 60)


def test_words_beside_an_item_bend_what_is_like_it(
    store: ExactStore, asked: NDArray[np.float32]
) -> None:
    found = found_by(store, Query(like="i20", text="in red", weight=0.6, k=5), asked)
    bent = 0.4 * asked[0] + 0.6 * vectors_of("fused")[20]
    assert ids(found) == nearest("fused", bent, 5, but=("i20",))


def test_an_item_that_is_not_there_or_has_no_vector_is_refused(
    store: ExactStore,
) -> None:
    store.upsert(pa.table({"id": ["bare"]}), fingerprint="model")
    with pytest.raises(ValueError, match="like: the store has no item 'i99'"):
        found_by(store, Query(like="i99"))
    with pytest.raises(ValueError, match="like: item 'bare' has no vector"):
        found_by(store, Query(like="bare"))


CHEAP = Compare("price", "<", 12)


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
def test_a_filter_holds_whatever_is_asked(
    store: ExactStore, query: Query, asked: NDArray[np.float32]
) -> None:
    assert set(ids(found_by(store, query, asked))) == {
        f"i{row:02}" for row in range(12)
    }


def test_a_hybrid_search_fuses_the_ranks_of_vectors_and_words(
    store: ExactStore, asked: NDArray[np.float32]
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
        for one in (nearest("fused", asked[0], 60), words)
    ]
    scores = {
        name: sum(1 / (60 + rank[name]) for rank in ranks if name in rank)
        for name in ranks[0]
    }
    found = found_by(store, Query(text="green hat", hybrid=True, k=10), asked)
    assert ids(found) == sorted(scores, key=lambda name: (-scores[name], name))[:10]
    assert [hit.score for hit in found] == pytest.approx(
        [scores[hit.id] for hit in found]
    )
    cosines = vectors_of("fused") @ asked[0]
    assert [hit.cosine for hit in found] == pytest.approx(
        [float(cosines[int(hit.id[1:])]) for hit in found], abs=1e-6
    )


def test_what_only_the_words_find_has_no_cosine(
    store: ExactStore, asked: NDArray[np.float32]
) -> None:
    query = Query(
        text="green 7",
        hybrid=True,
        vectors=("text",),
        where=In("id", ("i01", "i07", "i12")),
        k=5,
    )
    found = {hit.id: hit for hit in found_by(store, query, asked)}
    assert (found["i01"].vector, found["i01"].cosine) == (
        "words",
        None,
    )  # it has no text vector
    assert found["i12"].vector == "text"


@pytest.mark.parametrize("k", [1, 4, 10])
def test_a_group_stands_for_itself_by_its_best_item_and_says_how_many_more(
    store: ExactStore, asked: NDArray[np.float32], k: int
) -> None:
    expected: dict[str, str] = {}
    for name in nearest("fused", asked[0], 60):
        row = int(name[1:])
        expected.setdefault(f"p{row // 5}" if row < 50 else name, name)
    found = found_by(store, Query(text="a hat", group_by="parent", k=k), asked)
    assert ids(found) == list(expected.values())[:k]
    assert [hit.more for hit in found] == [
        4 if hit.fields["parent"] else 0 for hit in found
    ]


def test_as_many_groups_come_as_were_asked_for_however_large_the_first_is(
    store: ExactStore,
) -> None:
    query = vectors_of("fused")[3]
    ranks = np.argsort(np.argsort(-vectors_of("fused") @ query))
    groups = pa.array(["all" if rank < 50 else f"rest {rank}" for rank in ranks])
    store.table = store.table.set_column(
        store.table.column_names.index("parent"), "parent", groups
    )
    found = found_by(store, Query(text="a hat", group_by="parent", k=5), query[None])
    assert [hit.fields["parent"] for hit in found] == [
        "all",
        "rest 50",
        "rest 51",
        "rest 52",
        "rest 53",
    ]
    assert found[0].more == 49
    assert store.depths[0] < 60  # it began with less than everything


def test_a_group_that_was_found_is_not_fetched_again_to_look_for_others(
    store: ExactStore, asked: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []
    nearest_of = ExactStore._nearest

    def counted(*words: Any) -> list[list[Hit]]:
        found = nearest_of(*words)
        fetched.extend(hit.id for hits in found for hit in hits)
        return found

    monkeypatch.setattr(ExactStore, "_nearest", counted)
    halves = pa.array([["all", "few"][row < 10] for row in range(NUM_ITEMS)])
    store.table = store.table.set_column(
        store.table.column_names.index("parent"), "parent", halves
    )
    found = found_by(store, Query(text="a hat", group_by="parent", k=5), asked)
    assert {hit.fields["parent"]: hit.more for hit in found} == {"all": 49, "few": 9}
    assert len(fetched) <= 20 + 10


@pytest.mark.parametrize("hybrid", [False, True])
def test_groups_found_in_several_rounds_are_each_there_once_best_first(
    store: ExactStore,
    asked: NDArray[np.float32],
    hybrid: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ranking, "HYBRID_DEPTH", 1)
    monkeypatch.setattr(groups, "GROUP_DEPTH", 1)
    found = found_by(
        store, Query(text="green hat", group_by="parent", k=20, hybrid=hybrid), asked
    )
    assert sorted(hit.fields["parent"] or hit.id for hit in found) == sorted(
        [*(f"p{number}" for number in range(10)), *(f"i{row}" for row in range(50, 60))]
    )
    assert [hit.score for hit in found] == sorted(
        (hit.score for hit in found), reverse=True
    )


def test_fewer_groups_than_asked_for_are_all_there_are(
    store: ExactStore, asked: NDArray[np.float32]
) -> None:
    found = found_by(
        store, Query(text="a hat", group_by="parent", k=50, where=CHEAP), asked
    )
    assert {hit.fields["parent"]: hit.more for hit in found} == {
        "p0": 4,
        "p1": 4,
        "p2": 1,
    }


def test_a_group_counts_and_holds_only_what_the_filter_keeps(
    store: ExactStore, asked: NDArray[np.float32]
) -> None:
    where = And((CHEAP, Compare("price", ">=", 3)))
    found = found_by(store, Query(text="a hat", group_by="parent", where=where), asked)
    assert {hit.fields["parent"]: hit.more for hit in found} == {
        "p0": 1,
        "p1": 4,
        "p2": 1,
    }


def test_the_group_is_no_field_of_a_hit_that_was_asked_for_others(
    store: ExactStore, asked: NDArray[np.float32]
) -> None:
    query = Query(text="a hat", group_by="parent", k=3)
    found = find(store, query, list(asked), fingerprint="model", fields=["price"])
    assert [list(hit.fields) for hit in found] == [["price"]] * 3


def test_hits_under_the_least_cosine_are_left_out(
    store: ExactStore, asked: NDArray[np.float32]
) -> None:
    every = found_by(store, Query(text="a hat", k=60), asked)
    least = every[20].score
    assert (
        ids(found_by(store, Query(text="a hat", k=60, min_score=least), asked))
        == ids(every)[:21]
    )
    grouped = found_by(
        store, Query(text="a hat", k=60, min_score=least, group_by="parent"), asked
    )
    best: dict[str, str] = {}
    for hit in every[:21]:
        best.setdefault(hit.fields["parent"] or hit.id, hit.id)
    assert ids(grouped) == list(best.values())


def test_a_first_pass_re_ranks_its_candidates_by_the_whole_vector(
    store: ExactStore, asked: NDArray[np.float32]
) -> None:
    short = normalize(vectors_of("fused")[:, :8]) @ normalize(asked[:, :8])[0]
    candidates = {f"i{row:02}" for row in np.argsort(-short)[:20]}
    expected = [name for name in nearest("fused", asked[0], 60) if name in candidates][
        :5
    ]
    found = found_by(
        store, Query(text="a hat", coarse="prefix:8", candidates=20, k=5), asked
    )
    assert ids(found) == expected


@pytest.mark.parametrize(
    ("wrong", "fields", "says"),
    [
        ({"where": Compare("prise", "<", 5)}, None, "'price'"),
        (
            {"coarse": "prefix:99"},
            None,
            "coarse: the store has no copies 'prefix:99'; did you mean 'prefix:8'",
        ),
        ({"coarse": "binary"}, None, "coarse: the store has no copies 'binary'"),
        ({}, ["id"], "fields: the store has no field 'id'"),
        (
            {},
            ["colour"],
            "fields: the store has no field 'colour'; did you mean 'colours'",
        ),
    ],
)
def test_what_the_store_has_not_is_refused_before_anything_is_embedded(
    embedder: Embedder, wrong: dict[str, Any], fields: list[str] | None, says: str
) -> None:
    store = store_with(fingerprint=embedder.fingerprint())
    with pytest.raises(ValueError, match=says):
        search(store, embedder, Query(image=b"no image", **wrong), fields=fields)


def test_words_are_a_field_that_hits_carry_where_they_are_named(
    store: ExactStore, asked: NDArray[np.float32]
) -> None:
    (hit,) = find(
        store,
        Query(text="a hat", k=1),
        list(asked),
        fingerprint="model",
        fields=["words"],
    )
    assert list(hit.fields) == ["words"]


def test_a_hybrid_search_of_a_store_without_words_is_refused(
    asked: NDArray[np.float32],
) -> None:
    store = ExactStore(Schema(dim=DIM, fingerprint="model"))
    with pytest.raises(ValueError, match="hybrid: the store has no words"):
        found_by(store, Query(text="a hat", hybrid=True), asked)


def test_another_models_query_is_refused_by_the_name_of_the_stores_before_it_is_embedded(
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
    ("wrong", "says"),
    [
        ({}, "the query is empty"),
        ({"text": "  "}, "the query is empty"),
        ({"negatives": ("red",)}, "the query is empty"),
        ({"image": b"", "like": "i01"}, "two queries"),
        ({"image": b"", "hybrid": True}, "hybrid: the query has no words"),
        ({"text": "a", "negatives": ("",)}, "hold an empty text"),
        ({"text": "a", "weight": 1.5}, "weight 1.5 is not between 0 and 1"),
        ({"text": "a", "negative_weight": -1}, "negative_weight -1 is not between"),
        ({"text": "a", "weight": float("nan")}, "weight nan is not between"),
        ({"text": "a", "min_score": float("nan")}, "min_score nan is not a cosine"),
        ({"text": "a", "min_score": 1.5}, "min_score 1.5 is not a cosine"),
        ({"text": "a", "k": 0}, "k 0 gives no hits"),
        (
            {"text": "a", "candidates": 50},
            "candidates 50 .*set coarse",
        ),
    ],
)
def test_a_query_that_contradicts_itself_is_refused(
    wrong: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        Query(**wrong)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"vectors": ("imag",)}, "no vector 'imag'; did you mean 'image'"),
        (
            {"group_by": "parents"},
            "group_by: the store has no field 'parents'; did you mean 'parent'",
        ),
        ({"group_by": "colours"}, "group_by: an item has several 'colours'"),
        ({"coarse": "binary"}, "binary"),
        ({"where": Compare("prise", "<", 5)}, "'price'"),
    ],
)
def test_what_the_store_has_not_is_refused(
    store: ExactStore, wrong: dict[str, Any], says: str, asked: NDArray[np.float32]
) -> None:
    with pytest.raises(ValueError, match=says):
        found_by(store, Query(text="a hat", **wrong), asked)


@pytest.mark.parametrize(
    ("lacking", "wish"),
    [
        ("full_text", {"hybrid": True}),
        ("filter", {"where": CHEAP}),
        ("prefix", {"coarse": "prefix:8"}),
    ],
)
def test_an_ability_that_the_store_lacks_is_an_error_and_never_left_out(
    store: ExactStore,
    lacking: str,
    wish: dict[str, Any],
    asked: NDArray[np.float32],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ExactStore, "capabilities", ExactStore.capabilities - {lacking})
    with pytest.raises(UnsupportedError):
        found_by(store, Query(text="a hat", **wish), asked)


def test_predicates_of_the_tree_reach_the_store_as_they_are(
    store: ExactStore, asked: NDArray[np.float32]
) -> None:
    where: Predicate = And(
        (
            Compare("price", ">=", 10),
            Compare("price", "<", 13),
            Compare("parent", "=", "p2"),
        )
    )
    assert sorted(ids(found_by(store, Query(text="a hat", where=where), asked))) == [
        "i10",
        "i11",
        "i12",
    ]
