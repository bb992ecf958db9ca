"""Search over HTTP: every kind of query, filters, what is refused, items and their images."""

from __future__ import annotations

import base64
from collections import Counter
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from pydantic import ValidationError
from starlette.testclient import TestClient

from tests.unimodal.serve.api.searching import data_uri, ids, refusal, search
from tests.unimodal.serve.shop import png, title
from unimodal.serve.api.search import SearchBody


def test_words_find_the_item_that_they_are_the_title_of(shop: TestClient) -> None:
    best = search(shop, text=title(4), vectors=["text"], k=3)[0]
    assert best["id"] == "p/4"
    assert best["score"] == best["cosine"] == pytest.approx(1, abs=1e-5)
    assert best["vector"] == "text"
    assert best["fields"]["title"] == title(4)
    assert best["fields"]["category"] == ["bag"]


@pytest.mark.parametrize(
    "image",
    [data_uri(11), base64.b64encode(png(11)).decode()],
    ids=["data URI", "base64"],
)
def test_an_image_finds_the_item_that_it_is_of(shop: TestClient, image: str) -> None:
    best = search(shop, image=image, vectors=["image"], k=3)[0]
    assert best["id"] == "p/11"
    assert best["cosine"] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("weight", "kind", "first"), [(0, "text", "p/4"), (1, "image", "p/11")]
)
def test_the_weight_is_the_images_share(
    shop: TestClient, weight: float, kind: str, first: str
) -> None:
    assert ids(
        search(
            shop,
            text=title(4),
            image=data_uri(11),
            weight=weight,
            vectors=[kind],
            k=1,
        )
    ) == [first]


def test_more_like_an_item_leaves_the_item_out(shop: TestClient) -> None:
    hits = search(shop, like="p/3", k=30)
    assert len(hits) == 29
    assert "p/3" not in ids(hits)


def test_words_that_are_not_wanted_push_an_item_down(shop: TestClient) -> None:
    body = {"text": title(4), "vectors": ["text"], "k": 30}
    second = ids(search(shop, **body))[1]
    without = search(shop, **body, negatives=[title(int(second.removeprefix("p/")))])
    assert ids(without).index(second) > 1


def test_hybrid_finds_by_exact_words_too(shop: TestClient) -> None:
    best = search(shop, text=title(17), vectors=["text"], hybrid=True, k=5)[0]
    assert best["id"] == "p/17"
    assert best["score"] == pytest.approx(2 / 61)  # first in both lists
    assert best["cosine"] == pytest.approx(1, abs=1e-5)


def test_groups_give_the_best_of_each_and_how_many_more(shop: TestClient) -> None:
    hits = search(shop, text="mug", group_by="parent", k=5)
    assert len({hit["fields"]["parent"] for hit in hits}) == 5
    assert {hit["more"] for hit in hits} == {2}


def test_nothing_asked_lists_what_there_is_without_a_score(shop: TestClient) -> None:
    hits = search(shop, k=7, where="colour = 'Blue'")
    assert len(hits) == 7
    assert {hit["fields"]["colour"] for hit in hits} == {"Blue"}
    assert {hit["score"] for hit in hits} == {None}


def test_hits_carry_the_fields_that_were_asked_for(shop: TestClient) -> None:
    assert search(shop, text="bag", fields=["price"], k=1)[0]["fields"].keys() == {
        "price"
    }
    assert search(shop, fields=["price"], k=1)[0]["fields"].keys() == {"price"}


@pytest.mark.parametrize("query", [{"text": "bag"}, {}])
def test_a_field_that_is_named_twice_is_shown_once(
    shop: TestClient, query: dict[str, str]
) -> None:
    hits = search(shop, **query, fields=["price", "price"], k=1)
    assert hits[0]["fields"].keys() == {"price"}


def test_a_least_score_cuts_the_list(shop: TestClient) -> None:
    assert ids(search(shop, text=title(4), vectors=["text"], min_score=0.9999)) == [
        "p/4"
    ]


def test_a_link_with_a_key_that_is_none_is_refused(shop: TestClient) -> None:
    answer = shop.get("/v1/search", params={"text": "mug"})
    assert answer.status_code == 400
    fragment = "unknown key 'text'; there is: group_by, hybrid, k, like, q, where."
    assert answer.json()["error"]["message"] == fragment


def test_a_link_searches_as_a_body_does(shop: TestClient) -> None:
    linked = shop.get(
        "/v1/search", params={"q": "red bag", "k": 4, "where": "price < 30"}
    ).json()["hits"]
    assert linked == search(shop, text="red bag", k=4, where="price < 30")


@pytest.mark.parametrize(
    ("body", "fragment"),
    [
        ({"text": "x", "where": "prize < 20"}, "did you mean 'price'?"),
        ({"text": "x", "where": "price <"}, "expected a value"),
        ({"text": "x", "filters": {"colour": [1]}}, "colour"),
        ({"text": "x", "vectors": ["txt"]}, "did you mean 'text'?"),
        ({"text": "x", "fields": ["prize"]}, "did you mean 'price'?"),
        ({"fields": ["prize"]}, "did you mean 'price'?"),
        ({"fields": ["id"]}, "fields: the store has no field 'id'"),
        (
            {"text": "x", "filters": {"price": [True]}},
            "the filter's value true does not fit 'price'",
        ),
        ({"text": "x", "group_by": "prent"}, "did you mean 'parent'?"),
        ({"text": "x", "coarse": "binary"}, "coarse"),
        ({"text": "x", "k": 51}, "k 51 is more than 50"),
        ({"text": "x", "k": 0}, "k"),
        ({"text": "x", "weight": 2}, "weight"),
        ({"like": "p/99"}, "no item 'p/99'"),
        ({"image": "data:image/png;base64,AAAA"}, "image"),
        ({"image": "https://127.0.0.1/a.png"}, ""),
        ({"texts": "x"}, "did you mean 'text'?"),
        ({"query": "x"}, "did you mean 'text'?"),
        ({"q": "x"}, "did you mean 'text'?"),
        ({"text": "x", "without": ["y"]}, "did you mean 'negatives'?"),
        ({"text": "x", "top_k": 3}, "did you mean 'k'?"),
        ({"text": "x", "limit": 3}, "did you mean 'k'?"),
        ({"text": "x", "filter": "price < 20"}, "did you mean 'where'?"),
        (
            {"filters": {str(number): [] for number in range(101)}},
            "101 fields",
        ),
        ({"negatives": ["mug"]}, "negatives belongs to a query"),
        ({"where": "price < 20", "min_score": 0.9}, "min_score belongs to a query"),
        ({"text": " ", "vectors": ["nope"]}, "vectors belongs to a query"),
        ({"hybrid": True, "image": data_uri(1)}, "hybrid"),
    ],
)
def test_what_cannot_be_searched_for_is_refused_in_a_sentence(
    shop: TestClient, body: Any, fragment: str
) -> None:
    message = refusal(shop, **body)
    assert fragment in message
    assert "\n" not in message


def test_a_key_that_is_null_is_absent(shop: TestClient) -> None:
    nulls = {name: None for name in SearchBody.model_fields if name != "text"}
    assert search(shop, text="mug", **nulls) == search(shop, text="mug")
    assert search(shop, text=None, **nulls) == search(shop)
    assert (
        len(
            search(
                shop,
                filters={"price": {"low": None, "high": None}, "colour": None},
                k=50,
            )
        )
        == 30
    )


@pytest.mark.parametrize("key", ["text", "negatives"])
def test_an_image_in_base64_where_words_are_wanted_is_refused(
    shop: TestClient, key: str
) -> None:
    encoded = base64.b64encode(png(1)).decode()
    body = (
        {"text": encoded} if key == "text" else {"text": "mug", "negatives": [encoded]}
    )
    assert (
        refusal(shop, **body)
        == f"{key}: the text is an image in base64; send it as an image."
    )


@pytest.mark.parametrize("key", ["text", "negatives"])
def test_a_data_uri_where_words_are_asked_for_is_refused(
    shop: TestClient, key: str
) -> None:
    uri = data_uri(1)[:5_000]
    body = {"text": uri} if key == "text" else {"text": "mug", "negatives": [uri]}
    assert (
        refusal(shop, **body)
        == f"{key}: the text is an image as a data URI; send it as an image."
    )
    assert shop.get("/v1/search", params={"q": uri[:200]}).status_code == 400


def test_an_image_in_lines_and_without_padding_is_found(shop: TestClient) -> None:
    encoded = base64.encodebytes(png(11)).decode().rstrip("=\n")
    for image in (encoded, f"data:image/png;charset=utf-8;base64,{encoded}"):
        assert ids(search(shop, image=image, vectors=["image"], k=1)) == ["p/11"]


@pytest.mark.parametrize(
    "body",
    [
        {"filters": {"price": [{}] * 10_000}},
        {"filters": {str(number): [[]] for number in range(10_000)}},
        {"filters": {"price": {str(number): 0 for number in range(10_000)}}},
        {"negatives": [0] * 10_000},
        {str(number): 0 for number in range(10_000)},
    ],
)
def test_a_body_full_of_faults_ends_at_the_first(body: Any) -> None:
    with pytest.raises(ValidationError) as faults:
        SearchBody.model_validate(body)
    assert faults.value.error_count() < 10


def test_what_the_store_has_not_is_refused_before_anything_is_embedded(
    shop: TestClient,
) -> None:
    app: Any = shop.app
    before = app.state.engine.stats.requests
    assert "did you mean 'text'?" in refusal(shop, text="x", vectors=["txt"])
    assert app.state.engine.stats.requests == before


@pytest.mark.parametrize("examples", [15, pytest.param(500, marks=pytest.mark.slow)])
def test_nothing_that_can_be_sent_gives_a_5xx(shop: TestClient, examples: int) -> None:
    schema = schemathesis.openapi.from_dict(shop.get("/openapi.json").json())
    statuses: Counter[int] = Counter()

    def ask(case: Any) -> None:
        sent = case.as_transport_kwargs(base_url="http://testserver")
        sent = {
            key: sent.get(key) for key in ("method", "url", "params", "json", "headers")
        }
        if len(str(sent["params"])) > 10_000:
            return  # httpx sends no address so long
        answer = shop.request(**sent)  # an exception of the server's is raised here
        statuses[answer.status_code] += 1
        assert answer.status_code < 500, f"{sent} -> {answer.text}"

    for operation in (result.ok() for result in schema.get_all_operations()):
        if not operation.path.startswith(
            ("/v1/search", "/v1/items", "/v1/thumbnails", "/v1/store")
        ):
            continue
        for mode in schemathesis.GenerationMode:
            if mode == schemathesis.GenerationMode.NEGATIVE and not (
                operation.body or list(operation.query)
            ):
                continue  # nothing to get wrong: any text is an id
            settings(
                max_examples=examples,
                derandomize=True,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )(given(case=operation.as_strategy(generation_mode=mode))(ask))()
    assert {200, 400, 404} <= statuses.keys()
