"""The names that stores have on disk: a change of one would orphan the stores of today."""

from __future__ import annotations

from pathlib import Path

import pytest

from unimodal.search.stores.lance import LanceStore
from unimodal.search.stores.open import create_store
from unimodal.search.stores.schema import Schema, schema_from_json, schema_to_json

SCHEMA = Schema(
    dim=16,
    fingerprint="f",
    vectors=("text", "image"),
    fields={"price": "float", "tags": "strings"},
    words=True,
    thumbnails=True,
    prefix_dims=(8,),
    binary=True,
    about={"model": "m"},
)
JSON = (
    '{"format_version": 1, "dim": 16, "fingerprint": "f", "vectors": ["text", "image"], '
    '"fields": {"price": "float", "tags": "strings"}, "words": true, "thumbnails": true, '
    '"prefix_dims": [8], "binary": true, "about": {"model": "m"}}'
)


def test_the_schema_is_this_line_of_json() -> None:
    assert schema_to_json(SCHEMA) == JSON
    assert schema_from_json(JSON, "here") == SCHEMA


def test_a_lancedb_store_is_a_table_of_these_columns(tmp_path: Path) -> None:
    lancedb = pytest.importorskip("lancedb")
    create_store(str(tmp_path), SCHEMA).close()
    table = lancedb.connect(tmp_path).open_table("items")
    assert {field.name: str(field.type) for field in table.schema} == {
        "id": "string",
        "vector_text": "fixed_size_list<item: float>[16]",
        "vector_image": "fixed_size_list<item: float>[16]",
        "words": "string",
        "thumbnail": "binary",
        "price": "double",
        "tags": "list<item: string>",
        "prefix_8_text": "fixed_size_list<item: float>[8]",
        "binary_text": "fixed_size_list<item: uint8>[2]",
        "prefix_8_image": "fixed_size_list<item: float>[8]",
        "binary_image": "fixed_size_list<item: uint8>[2]",
    }
    assert table.schema.metadata[b"unimodal.schema"].decode() == JSON


def test_lancedb_indexes_are_found_again_by_column(tmp_path: Path) -> None:
    pytest.importorskip("lancedb")
    store = create_store(str(tmp_path), SCHEMA)
    assert isinstance(store, LanceStore)
    assert set(store.indexed()) == {"id", "price", "tags", "words"}


def test_a_milvus_collection_has_these_columns() -> None:
    pymilvus = pytest.importorskip("pymilvus")
    from unimodal.search.stores.milvus import rows

    columns = rows.collection_schema(pymilvus.MilvusClient, SCHEMA)
    assert {field.name: field.dtype.name for field in columns.fields} == {
        "id": "VARCHAR",
        "vector_text": "FLOAT_VECTOR",
        "vector_image": "FLOAT_VECTOR",
        "prefix_8_text": "FLOAT_VECTOR",
        "prefix_8_image": "FLOAT_VECTOR",
        "has_text": "BOOL",
        "has_image": "BOOL",
        "binary_text": "BINARY_VECTOR",
        "binary_image": "BINARY_VECTOR",
        "words": "VARCHAR",
        "words_bm25": "SPARSE_FLOAT_VECTOR",
        "thumbnail": "VARCHAR",
        "field_price": "DOUBLE",
        "field_tags": "ARRAY",
    }
    assert rows.PROPERTY == "unimodal.schema"
    assert rows.index_name("vector_text") == "vector_text_idx"
