"""Search over HTTP: every kind of query, filters, what is refused, items and their images."""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pytest
import schemathesis
import torch
from hypothesis import HealthCheck, Phase, given, settings
from pydantic import ValidationError
from starlette.testclient import TestClient

from tests.unimodal.serve.shop import INJECTED, build_shop, jpeg, png, title
from unimodal.embedder import Embedder
from unimodal.model import build_model
from unimodal.model_config import ModelConfig
from unimodal.search.filters.parser import parse_where
from unimodal.serve.api.search import SearchBody
from unimodal.serve.app import create_app
from unimodal.serve.config import ServeConfig
from unimodal.serve.engine.engine import Engine


@pytest.fixture(scope="module")
def client(
    served: Embedder, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestClient]:
    store = build_shop(tmp_path_factory.mktemp("shop") / "store", served)
    config = ServeConfig(model="tiny", max_hits=50)
    with TestClient(create_app(Engine(served, config), config, store)) as client:
        yield client
    store.close()


def found(client: TestClient, **body: Any) -> list[dict[str, Any]]:
    answer = client.post("/v1/search", json=body)
    assert answer.status_code == 200, answer.text
    hits: list[dict[str, Any]] = answer.json()["hits"]
    assert answer.json()["count"] == len(hits)
    return hits


def ids(hits: list[dict[str, Any]]) -> list[str]:
    return [hit["id"] for hit in hits]


def refusal(client: TestClient, **body: Any) -> str:
    answer = client.post("/v1/search", json=body)
    assert answer.status_code == 400, answer.text
    message: str = answer.json()["error"]["message"]
    return message


def data_uri(number: int) -> str:
    return "data:image/png;base64," + base64.b64encode(png(number)).decode()


def test_words_find_the_item_that_they_are_the_title_of(client: TestClient) -> None:
    best = found(client, text=title(4), vectors=["text"], k=3)[0]
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
def test_an_image_finds_the_item_that_it_is_of(client: TestClient, image: str) -> None:
    best = found(client, image=image, vectors=["image"], k=3)[0]
    assert best["id"] == "p/11"
    assert best["cosine"] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("weight", "kind", "first"), [(0, "text", "p/4"), (1, "image", "p/11")]
)
def test_the_weight_is_the_images_share(
    client: TestClient, weight: float, kind: str, first: str
) -> None:
    assert ids(
        found(
            client,
            text=title(4),
            image=data_uri(11),
            weight=weight,
            vectors=[kind],
            k=1,
        )
    ) == [first]


def test_more_like_an_item_leaves_the_item_out(client: TestClient) -> None:
    hits = found(client, like="p/3", k=30)
    assert len(hits) == 29
    assert "p/3" not in ids(hits)


def test_words_that_are_not_wanted_push_an_item_down(client: TestClient) -> None:
    asked = {"text": title(4), "vectors": ["text"], "k": 30}
    second = ids(found(client, **asked))[1]
    without = found(client, **asked, negatives=[title(int(second.removeprefix("p/")))])
    assert ids(without).index(second) > 1


def test_a_where_and_a_forms_filters_both_hold(client: TestClient) -> None:
    hits = found(
        client,
        text="bag",
        where="price < 20 and colour = 'Red'",
        k=30,
        filters={"category": ["sale"], "price": {"low": 8}, "new": None},
    )
    assert {hit["id"] for hit in hits} == {"p/3", "p/9"}


def test_a_filter_of_a_form_takes_whole_numbers_for_a_whole_field_and_truth_for_a_truth(
    client: TestClient,
) -> None:
    hits = found(client, text="x", filters={"stock": {"low": 3.0}, "new": [True]}, k=30)
    assert {hit["id"] for hit in hits} == {"p/3", "p/7"}


def test_hybrid_finds_by_exact_words_too(client: TestClient) -> None:
    best = found(client, text=title(17), vectors=["text"], hybrid=True, k=5)[0]
    assert best["id"] == "p/17"
    assert best["score"] == pytest.approx(2 / 61)  # first in both lists
    assert best["cosine"] == pytest.approx(1, abs=1e-5)


def test_groups_give_the_best_of_each_and_how_many_more(client: TestClient) -> None:
    hits = found(client, text="mug", group_by="parent", k=5)
    assert len({hit["fields"]["parent"] for hit in hits}) == 5
    assert {hit["more"] for hit in hits} == {2}


def test_nothing_asked_lists_what_there_is_without_a_score(client: TestClient) -> None:
    hits = found(client, k=7, where="colour = 'Blue'")
    assert len(hits) == 7
    assert {hit["fields"]["colour"] for hit in hits} == {"Blue"}
    assert {hit["score"] for hit in hits} == {None}


def test_hits_carry_the_fields_that_were_asked_for(client: TestClient) -> None:
    assert found(client, text="bag", fields=["price"], k=1)[0]["fields"].keys() == {
        "price"
    }
    assert found(client, fields=["price"], k=1)[0]["fields"].keys() == {"price"}


@pytest.mark.parametrize("query", [{"text": "bag"}, {}])
def test_a_field_that_is_named_twice_is_shown_once(
    client: TestClient, query: dict[str, str]
) -> None:
    hits = found(client, **query, fields=["price", "price"], k=1)
    assert hits[0]["fields"].keys() == {"price"}


def test_a_least_score_cuts_the_list(client: TestClient) -> None:
    assert ids(found(client, text=title(4), vectors=["text"], min_score=0.9999)) == [
        "p/4"
    ]


def test_a_link_with_a_key_that_is_none_is_refused(client: TestClient) -> None:
    answer = client.get("/v1/search", params={"text": "mug"})
    assert answer.status_code == 400
    said = "unknown key 'text'; there is: group_by, hybrid, k, like, q, where."
    assert answer.json()["error"]["message"] == said


def test_a_link_searches_as_a_body_does(client: TestClient) -> None:
    linked = client.get(
        "/v1/search", params={"q": "red bag", "k": 4, "where": "price < 30"}
    ).json()["hits"]
    assert linked == found(client, text="red bag", k=4, where="price < 30")


@pytest.mark.parametrize(
    ("body", "said"),
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
    client: TestClient, body: Any, said: str
) -> None:
    message = refusal(client, **body)
    assert said in message
    assert "\n" not in message


def test_a_key_that_is_null_is_absent(client: TestClient) -> None:
    nulls = {name: None for name in SearchBody.model_fields if name != "text"}
    assert found(client, text="mug", **nulls) == found(client, text="mug")
    assert found(client, text=None, **nulls) == found(client)
    assert (
        len(
            found(
                client,
                filters={"price": {"low": None, "high": None}, "colour": None},
                k=50,
            )
        )
        == 30
    )


@pytest.mark.parametrize(
    "asked", [{"filters": {"colour": []}}, {"where": "colour in ()"}]
)
@pytest.mark.parametrize("text", ["", "mug"])
def test_an_empty_list_of_wanted_values_matches_nothing(
    client: TestClient, asked: Any, text: str
) -> None:
    assert found(client, text=text, **asked) == []
    assert found(client, text=text, filters={"colour": ["Red"], "category": []}) == []
    assert len(found(client, text=text, where="colour not in ()", k=50)) == 30


def test_one_wanted_value_needs_no_list(client: TestClient) -> None:
    assert {
        hit["fields"]["colour"] for hit in found(client, filters={"colour": "Red"})
    } == {"Red"}


def test_a_list_of_strings_begins_as_one_of_its_elements_does(
    client: TestClient,
) -> None:
    hits = found(client, where="category like 'sa%' and not category like 'ba%'", k=50)
    assert {hit["id"] for hit in hits} == {
        "p/" + str(number) for number in range(7, 30, 2)
    }


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        (
            [],
            "filters: it is not an object; send {FIELD: [VALUE, ...]} or {FIELD: {low, high}}.",
        ),
        (
            {"price": {"gte": 5}},
            "filters: 'price' has 'gte'; a range is {\"low\": 5, \"high\": 20}, both included.",
        ),
        (
            {"price": {"low": "5"}},
            "filters: 'price' has a range whose low is '5'; send a number.",
        ),
        (
            {"price": {"low": True}},
            "filters: 'price' has a range whose low is true; send a number.",
        ),
        (
            {"colour": [None]},
            "filters: 'colour' has the value null",
        ),
        ({"colour": [["Red"]]}, "filters: 'colour' has the value a list of 1"),
        (
            {"colour": ["Red"] * 1001},
            "filters: 'colour' has 1001 values, and 1000",
        ),
        ({"c" * 2000: ["Red"]}, "is longer than 1000 characters"),
    ],
)
def test_filters_that_cannot_be_read_are_refused_in_jsons_words(
    client: TestClient, filters: Any, said: str
) -> None:
    assert said in refusal(client, filters=filters)


@pytest.mark.parametrize("key", list(SearchBody.model_fields))
@pytest.mark.parametrize(
    "sent",
    [
        "true",
        "[null]",
        '{"a": null}',
        "1e400",
        "[[]]",
        "-7",
        '"\\u0000"',
        '{"a": [true, {}]}',
    ],
)
def test_no_message_holds_a_word_of_pythons(
    client: TestClient, key: str, sent: str
) -> None:
    content = '{"' + key + '": ' + sent + "}"
    answer = client.post(
        "/v1/search", content=content, headers={"Content-Type": "application/json"}
    )
    words = (
        set(re.findall(r"[A-Za-z_]+", answer.text))
        if answer.status_code == 400
        else set()
    )
    assert (
        not {
            "None",
            "True",
            "False",
            "dict",
            "str",
            "union",
            "Union",
            "NoneType",
            "Range",
        }
        & words
    ), answer.text
    assert "list[" not in answer.text


@pytest.mark.parametrize("key", ["text", "negatives"])
def test_an_image_in_base64_where_words_are_wanted_is_refused(
    client: TestClient, key: str
) -> None:
    encoded = base64.b64encode(png(1)).decode()
    body = (
        {"text": encoded} if key == "text" else {"text": "mug", "negatives": [encoded]}
    )
    assert (
        refusal(client, **body)
        == f"{key}: the text is an image in base64; send it as an image."
    )


@pytest.mark.parametrize("key", ["text", "negatives"])
def test_a_data_uri_where_words_are_asked_for_is_refused(
    client: TestClient, key: str
) -> None:
    uri = data_uri(1)[:5_000]
    body = {"text": uri} if key == "text" else {"text": "mug", "negatives": [uri]}
    assert (
        refusal(client, **body)
        == f"{key}: the text is an image as a data URI; send it as an image."
    )
    assert client.get("/v1/search", params={"q": uri[:200]}).status_code == 400


def test_an_image_in_lines_and_without_padding_is_found(client: TestClient) -> None:
    encoded = base64.encodebytes(png(11)).decode().rstrip("=\n")
    for image in (encoded, f"data:image/png;charset=utf-8;base64,{encoded}"):
        assert ids(found(client, image=image, vectors=["image"], k=1)) == ["p/11"]


ODD_IDS = [
    "two\nlines",
    "ends\n",
    "\n",
    "slash/",
    "a//b",
    "100%",
    "ü?#",
    "a b",
    " ",
    "../up",
    "a/./b",
]


def test_an_id_of_any_signs_is_found_percent_encoded(
    served: Embedder, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = build_shop(tmp_path_factory.mktemp("odd") / "store", served)
    row = pa.Table.from_batches(list(store.scan(where=parse_where("id = 'p/3'"))))
    for id in ODD_IDS:
        place = row.column_names.index("id")
        store.upsert(
            row.set_column(place, "id", pa.array([id])),
            fingerprint=served.fingerprint(),
        )
    config = ServeConfig(model="tiny")
    with TestClient(create_app(Engine(served, config), config, store)) as client:
        for id in ODD_IDS:
            item = client.get(f"/v1/items/{quote(id, safe='')}")
            assert item.status_code == 200, (id, item.text)
            assert item.json()["id"] == id
            assert client.get(item.json()["thumbnail"]).content == jpeg(3)
    store.close()


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
    client: TestClient,
) -> None:
    app: Any = client.app
    before = app.state.engine.stats.requests
    assert "did you mean 'text'?" in refusal(client, text="x", vectors=["txt"])
    assert app.state.engine.stats.requests == before


def test_an_item_and_its_thumbnail_are_found_under_an_id_with_a_slash(
    client: TestClient,
) -> None:
    hit = found(client, text=title(5), vectors=["text"], k=1)[0]
    item = client.get("/v1/items/p%2F5").json()
    assert item == {"id": "p/5", "fields": hit["fields"], "thumbnail": hit["thumbnail"]}
    image = client.get(hit["thumbnail"])
    assert image.content == jpeg(5)
    assert image.headers["content-type"] == "image/jpeg"
    assert image.headers["x-content-type-options"] == "nosniff"
    assert "max-age" in image.headers["cache-control"]


def test_an_id_may_be_anything(client: TestClient) -> None:
    hit = next(hit for hit in found(client, k=30) if INJECTED in hit["id"])
    assert client.get(hit["thumbnail"]).content == jpeg(8)


@pytest.mark.parametrize(
    "path",
    ["/v1/items/none", "/v1/thumbnails/none", "/v1/thumbnails/p%2F5%27%20or%201=1"],
)
def test_an_item_that_is_not_there_is_404(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert "does not exist" in answer.json()["error"]["message"]


def test_the_store_says_what_a_page_needs(client: TestClient) -> None:
    said = client.get("/v1/store").json()
    assert {
        key: said[key]
        for key in (
            "model",
            "count",
            "vectors",
            "words",
            "modalities",
            "parent",
            "max_k",
        )
    } == {
        "model": "tiny",
        "count": 30,
        "vectors": ["text", "image", "fused"],
        "words": True,
        "modalities": ["image", "text"],
        "parent": "parent",
        "max_k": 50,
    }
    assert [field["name"] for field in said["fields"]] == [
        "title",
        "price",
        "stock",
        "category",
        "colour",
        "new",
        "parent",
    ]


def test_a_store_of_another_model_is_refused_before_anything_is_served(
    served: Embedder, tiny: ModelConfig, tmp_path_factory: pytest.TempPathFactory
) -> None:
    torch.manual_seed(1)
    other = Embedder(build_model(tiny).eval(), served.tokenizer, device="cpu")
    store = build_shop(tmp_path_factory.mktemp("other") / "store", other)
    config = ServeConfig(model="tiny")
    with pytest.raises(ValueError, match="holds vectors of tiny"):
        create_app(Engine(served, config), config, store)


def test_a_store_without_thumbnails_names_none(
    served: Embedder, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = build_shop(
        tmp_path_factory.mktemp("plain") / "store", served, thumbnails=False
    )
    config = ServeConfig(model="tiny")
    with TestClient(create_app(Engine(served, config), config, store)) as client:
        assert found(client, text="bag", k=1)[0]["thumbnail"] is None
        assert client.get("/v1/thumbnails/p%2F5").status_code == 404


@pytest.mark.parametrize("examples", [15, pytest.param(500, marks=pytest.mark.slow)])
def test_nothing_that_can_be_sent_gives_a_5xx(
    client: TestClient, examples: int
) -> None:
    schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    statuses: Counter[int] = Counter()

    def ask(case: Any) -> None:
        sent = case.as_transport_kwargs(base_url="http://testserver")
        sent = {
            key: sent.get(key) for key in ("method", "url", "params", "json", "headers")
        }
        if len(str(sent["params"])) > 10_000:
            return  # httpx sends no address so long
        answer = client.request(**sent)  # an exception of the server's is raised here
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
