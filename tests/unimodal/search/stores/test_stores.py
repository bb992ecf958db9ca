"""What is checked once for every store: rows, queries, names and abilities, with errors that say
the way out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.unimodal.search.stores.store_case import DIM, MODEL, column, everything
from unimodal.search.filters.parser import parse_where
from unimodal.search.stores.base import VectorStore
from unimodal.search.stores.capabilities import UnsupportedError
from unimodal.search.stores.columns import (
    arrow_schema,
    checked_rows,
    vectors_of,
    with_copies,
)
from unimodal.search.stores.open import (
    create_store,
    open_store,
    store_exists,
    store_type,
)
from unimodal.search.stores.schema import Schema, schema_from_json, schema_to_json
from unimodal.tables.types import FieldType

pytest.importorskip("lancedb")

FIELDS: dict[str, FieldType] = {
    "price": "float",
    "stock": "int",
    "sale": "bool",
    "tags": "strings",
    "name": "string",
}
SCHEMA = Schema(
    DIM, MODEL, vectors=("text",), fields=FIELDS, prefix_dims=(8,), binary=True
)
AXES = np.eye(DIM, dtype=np.float32)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[VectorStore]:
    store = create_store(str(tmp_path / "store"), SCHEMA)
    yield store
    store.close()


def rows(**columns: Any) -> pa.Table:
    """Two good rows, with some columns replaced."""
    return pa.table({"id": ["a", "b"], "vector_text": column(AXES[:2]), **columns})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"prize": [1.0, 2.0]},
            "column 'prize' is not in the store's schema; did you mean 'price'",
        ),
        ({"words": ["a", "b"]}, "column 'words' is not in the store's schema"),
        ({"id": ["a", ""]}, "an id is empty"),
        ({"id": ["a", None]}, "an id is empty"),
        ({"id": ["a", "a"]}, "id 'a' .* twice"),
        ({"vector_text": column(AXES[:2] * 2)}, "row 0 has length 2, not 1"),
        (
            {
                "vector_text": column(
                    AXES[:2] * np.array([[1], [np.nan]], dtype=np.float32)
                )
            },
            "row 1 has length nan",
        ),
        (
            {"vector_text": column(AXES[:2] * 3, np.array([False, True]))},
            "row 1 has length 3, not 1",
        ),
        (
            {"vector_text": column(AXES[:2, :8])},
            "a vector of 8 dimensions; the store's have 32",
        ),
        ({"vector_text": [1.0, 2.0]}, "give a list of 32 numbers"),
        (
            {"stock": [1.5, 2.0]},
            "column 'stock' of type double does not fit int64 .*; give int64",
        ),
        (
            {"price": ["cheap", "dear"]},
            "column 'price' of type string does not fit double",
        ),
        ({"tags": [["a", None], []]}, "column 'tags' has a list with a null in it"),
    ],
)
def test_a_bad_row_is_refused_and_no_row_goes_in(
    store: VectorStore, columns: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        store.upsert(rows(**columns), fingerprint=MODEL)
    assert store.count() == 0


def test_rows_come_in_any_arrow_type_that_means_the_same(store: VectorStore) -> None:
    table = rows(
        vector_text=pa.array(
            AXES[:2].astype(np.float16).tolist(), pa.list_(pa.float16())
        ),
        price=pa.array([1, None], pa.int8()),
        stock=pa.array([1.0, 2.0]),
        name=pa.array(["x", None]).dictionary_encode(),
        tags=pa.array([["a"], None], pa.large_list(pa.large_string())),
    )
    assert store.upsert(table.to_batches()[0], fingerprint=MODEL) == 2
    first, second = everything(store)
    assert (first["price"], first["stock"], first["name"], first["tags"]) == (
        1.0,
        1,
        "x",
        ["a"],
    )
    assert (second["price"], second["name"], second["tags"], second["sale"]) == (
        None,
        None,
        None,
        None,
    )


def test_nan_is_no_value_and_minus_zero_is_zero(store: VectorStore) -> None:
    store.upsert(rows(price=[float("nan"), -0.0]), fingerprint=MODEL)
    store.upsert(pa.table({"id": ["c"], "price": [0.0]}), fingerprint=MODEL)
    for _ in range(2):  # the second time by the index
        assert store.count(parse_where("price is null")) == 1
        for where in (
            "price = 0",
            "price >= 0",
            "price in (0)",
            "price = -0.0",
            "price <= -0.0",
        ):
            assert store.count(parse_where(where)) == 2, where
        assert store.count(parse_where("price < 0 or price < -0.0 or price > 0")) == 0
        store.build()


def test_no_rows_are_no_error(store: VectorStore) -> None:
    assert store.upsert(rows().slice(0, 0), fingerprint=MODEL) == 0


def test_rows_without_a_single_vector_are_found_by_filter(store: VectorStore) -> None:
    store.upsert(
        pa.table({"id": ["a"], "name": ["x"], "vector_text": pa.nulls(1)}),
        fingerprint=MODEL,
    )
    assert store.count(parse_where("name = 'x'")) == 1
    assert store.search(AXES[:1], 3, fingerprint=MODEL, vector="text") == [[]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"queries": AXES[:1, :8]},
            r"queries of shape \(1, 8\) are not \(Q, 32\); give",
        ),
        ({"queries": AXES[0]}, r"queries of shape \(32,\)"),
        ({"queries": AXES[:1] * 3}, "query 0 has length 3, not 1"),
        ({"k": 0}, "k 0 gives no hits"),
        ({"vector": "txt"}, "no vector 'txt'; did you mean 'text'"),
        ({"fields": ["prise"]}, "no field 'prise'; did you mean 'price'"),
        (
            {"coarse": "prefix:16"},
            "coarse.*'prefix:16'; did you mean 'prefix:8'",
        ),
        ({"coarse": "half"}, "coarse.*half"),
        ({"fingerprint": "other"}, "these queries is another"),
    ],
)
def test_a_search_that_cannot_be_meant_says_why(
    store: VectorStore, options: dict[str, Any], message: str
) -> None:
    options = {
        "queries": AXES[:1],
        "k": 1,
        "vector": "text",
        "fingerprint": MODEL,
        **options,
    }
    with pytest.raises(ValueError, match=message):
        store.search(**options)


def test_words_and_columns_that_are_not_kept_are_errors(store: VectorStore) -> None:
    with pytest.raises(ValueError, match="no words"):
        store.search_full_text("x", 1)
    with pytest.raises(ValueError, match="no column 'words'"):
        store.scan(columns=["words"])


def test_a_store_that_cannot_filter_refuses_every_filter(store: VectorStore) -> None:
    store.capabilities = frozenset()
    where = parse_where("price > 1")
    for call in (
        lambda: store.search(
            AXES[:1], 1, fingerprint=MODEL, vector="text", where=where
        ),
        lambda: store.search(
            AXES[:1], 1, fingerprint=MODEL, vector="text", coarse="binary"
        ),
        lambda: store.delete(where=where),
        lambda: store.count(where),
        lambda: store.scan(where=where),
        lambda: store.search_full_text("x", 1),
    ):
        with pytest.raises(UnsupportedError, match="LanceDB cannot"):
            call()


def test_the_shorter_copies_are_the_vectors_first_dimensions_and_signs() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[1] = AXES[20]  # has no direction in its first 8 dimensions
    table = with_copies(
        checked_rows(
            pa.table(
                {
                    "id": ["a", "b", "c"],
                    "vector_text": column(vectors, np.arange(3) < 2),
                }
            ),
            SCHEMA,
        ),
        SCHEMA,
    )
    assert table.schema == arrow_schema(SCHEMA, copies=True)
    prefixes, valid = vectors_of(table["prefix_8_text"], 8)
    assert valid.tolist() == [True, False, False]
    np.testing.assert_allclose(
        prefixes[0], vectors[0, :8] / np.linalg.norm(vectors[0, :8]), rtol=1e-6
    )
    bits = np.unpackbits(np.array(table["binary_text"][0].as_py(), dtype=np.uint8))
    np.testing.assert_array_equal(bits, vectors[0] > 0)
    assert table["binary_text"].null_count == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "dim 0 is not the length"),
        ({"fingerprint": ""}, "fingerprint is empty"),
        ({"vectors": ()}, "one or more different names"),
        ({"vectors": ("a", "a")}, "one or more different names"),
        ({"vectors": ("A b",)}, "'A b' is not a valid name"),
        ({"prefix_dims": (8, 8)}, r"prefix_dims \(8, 8\) names one length twice"),
        ({"prefix_dims": (64,)}, "prefix_dims 64 is not shorter"),
        (
            {"fields": {"id": "string"}},
            "a name that the store itself uses; write 'item_id'",
        ),
        (
            {"fields": {"query_index": "int"}},
            "a name that the store itself uses; write 'item_query_index'",
        ),
        ({"fields": {"Vector_x": "string"}}, "a name that the store itself uses"),
        (
            {"fields": {"made in": "string"}},
            "not a name that a filter can use; .* for example 'made_in'",
        ),
        ({"fields": {"x` = 1 --": "string"}}, "not a name that a filter can use"),
        (
            {"fields": {"size": "int", "Size": "int"}},
            "'size' and 'Size' differ only in case",
        ),
        ({"fields": {"size": "integer"}}, "type 'integer'; did you mean 'int'"),
    ],
)
def test_a_schema_that_no_store_could_keep_is_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Schema(**{"dim": DIM, "fingerprint": MODEL, **options})


def test_a_schema_reads_back_as_it_was_written() -> None:
    assert schema_from_json(schema_to_json(SCHEMA), "here") == SCHEMA


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "here is not a unimodal store"),
        ("[]", "here is not a unimodal store"),
        ('{"dim": 3}', "here is not a unimodal store"),
        (
            '{"format_version": 2}',
            "here has format 2, and this version of unimodal reads 1; update",
        ),
    ],
)
def test_a_store_of_another_kind_or_of_a_newer_format_is_refused(
    text: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        schema_from_json(text, "here")


@pytest.mark.parametrize("scheme", ["", "lance://"])
def test_a_bare_path_is_a_lance_store(tmp_path: Path, scheme: str) -> None:
    url = f"{scheme}{tmp_path}/new/store"
    assert not store_exists(url)
    assert not (tmp_path / "new").exists()  # to ask makes nothing
    create_store(url, SCHEMA).close()
    assert store_exists(f"{tmp_path}/new/store")
    assert open_store(f"lance://{tmp_path}/new/store").count() == 0


def test_what_a_store_keeps_is_known_before_there_is_one(tmp_path: Path) -> None:
    pytest.importorskip("pymilvus")
    assert store_type(f"{tmp_path}/nothing").max_text_bytes is None
    assert store_type("milvus://nowhere:19530").max_text_bytes == 65_535


def test_a_place_that_holds_no_store_is_an_error(tmp_path: Path) -> None:
    import lancedb

    for url in (f"{tmp_path}/nothing", str(tmp_path)):
        with pytest.raises(
            ValueError, match="holds no store; make one with `unimodal index`"
        ):
            open_store(url)
    with pytest.raises(ValueError, match="names no folder"):
        open_store("lance://")
    with pytest.raises(ValueError, match="names a bucket"):
        create_store("lance://s3://bucket/store", SCHEMA)
    with pytest.raises(ValueError, match="unknown scheme"):
        open_store("redis://host")
    lancedb.connect(tmp_path).create_table("items", pa.table({"a": [1]}))
    with pytest.raises(ValueError, match="not a unimodal store"):
        open_store(str(tmp_path))
    with pytest.raises(ValueError, match="already holds a store"):
        create_store(str(tmp_path), SCHEMA)
    with pytest.raises(ValueError, match="not a unimodal store"):
        create_store(str(tmp_path), SCHEMA, overwrite=True)
    assert lancedb.connect(tmp_path).open_table("items").count_rows() == 1
