"""What a Milvus server is told of our items where Lite is told something else; that it obeys is not
tested here.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

pymilvus = pytest.importorskip("pymilvus")

from unimodal.search.stores.milvus.rows import (  # noqa: E402  # after the skip
    collection_schema,
    index_params,
    index_types,
)
from unimodal.search.stores.schema import Schema  # noqa: E402

SCHEMA = Schema(
    20,
    "f",
    vectors=("text", "image"),
    fields={"n": "int", "tags": "strings"},
    words=True,
    prefix_dims=(8,),
    binary=True,
)


def test_a_server_keeps_whole_vectors_beside_those_it_searches() -> None:
    (index,) = index_params(pymilvus.MilvusClient, {"vector_text": "HNSW_SQ"})
    assert index.get_index_configs() == {
        "index_type": "HNSW_SQ",
        "metric_type": "IP",
        "M": 16,
        "efConstruction": 200,
        "sq_type": "SQ8",
        "refine": True,
        "refine_type": "FP32",
    }


def test_every_vector_and_field_of_a_server_has_an_index() -> None:
    assert index_types(SCHEMA, is_lite=False) == {
        "vector_text": "FLAT",
        "vector_image": "FLAT",
        "prefix_8_text": "FLAT",
        "prefix_8_image": "FLAT",
        "binary_text": "BIN_FLAT",
        "binary_image": "BIN_FLAT",
        "words_bm25": "SPARSE_INVERTED_INDEX",
        "field_n": "INVERTED",
        "field_tags": "INVERTED",
    }


def test_signs_are_kept_in_whole_bytes() -> None:
    schema = collection_schema(pymilvus.MilvusClient, SCHEMA)
    schema.verify()
    dims = {
        field.name: field.params["dim"]
        for field in schema.fields
        if "dim" in field.params
    }
    assert dims == {
        "vector_text": 20,
        "vector_image": 20,
        "prefix_8_text": 8,
        "prefix_8_image": 8,
        "binary_text": 24,
        "binary_image": 24,
    }


def test_both_deployments_tell_the_server_the_same() -> None:
    folder = Path(__file__).parents[5] / "deploy" / "milvus"
    compose, values = (
        yaml.safe_load((folder / name).read_text())
        for name in ("docker-compose.yml", "values.yaml")
    )
    settings = yaml.safe_load((folder / "user.yaml").read_text())
    assert yaml.safe_load(values["extraConfigFiles"]["user.yaml"]) == settings
    assert settings["proxy"]["maxVectorFieldNum"] == 10
    assert (
        "./user.yaml:/milvus/configs/user.yaml:ro"
        in compose["services"]["standalone"]["volumes"]
    )
    assert compose["services"]["standalone"]["image"].endswith(
        f"{values['image']['all']['tag']}}}"
    )
