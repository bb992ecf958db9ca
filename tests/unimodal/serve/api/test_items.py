"""Single items and their thumbnails, under any id."""

from __future__ import annotations

from urllib.parse import quote

import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from tests.unimodal.serve.api.searching import search
from tests.unimodal.serve.shop import INJECTED, build_shop, jpeg, title
from unimodal.embedder import Embedder
from unimodal.search.filters.parser import parse_where
from unimodal.serve.app import create_app
from unimodal.serve.config import ServeConfig
from unimodal.serve.engine.engine import Engine

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
    with TestClient(create_app(Engine(served, config), config, store)) as shop:
        for id in ODD_IDS:
            item = shop.get(f"/v1/items/{quote(id, safe='')}")
            assert item.status_code == 200, (id, item.text)
            assert item.json()["id"] == id
            assert shop.get(item.json()["thumbnail"]).content == jpeg(3)
    store.close()


def test_an_item_and_its_thumbnail_are_found_under_an_id_with_a_slash(
    shop: TestClient,
) -> None:
    hit = search(shop, text=title(5), vectors=["text"], k=1)[0]
    item = shop.get("/v1/items/p%2F5").json()
    assert item == {"id": "p/5", "fields": hit["fields"], "thumbnail": hit["thumbnail"]}
    image = shop.get(hit["thumbnail"])
    assert image.content == jpeg(5)
    assert image.headers["content-type"] == "image/jpeg"
    assert image.headers["x-content-type-options"] == "nosniff"
    assert "max-age" in image.headers["cache-control"]


def test_an_id_may_be_anything(shop: TestClient) -> None:
    hit = next(hit for hit in search(shop, k=30) if INJECTED in hit["id"])
    assert shop.get(hit["thumbnail"]).content == jpeg(8)


@pytest.mark.parametrize(
    "path",
    ["/v1/items/none", "/v1/thumbnails/none", "/v1/thumbnails/p%2F5%27%20or%201=1"],
)
def test_an_item_that_is_not_there_is_404(shop: TestClient, path: str) -> None:
    answer = shop.get(path)
    assert answer.status_code == 404
    assert "does not exist" in answer.json()["error"]["message"]
