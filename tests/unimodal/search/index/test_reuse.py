"""Vectors of before are found by what the model saw, in as many files as may be read for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from unimodal.search.index.reuse import CONTENT, MOST_FILES, KnownVectors, content_of
from unimodal.search.stores.columns import fixed_size_list
from unimodal.search.stores.schema import Schema

SCHEMA = Schema(dim=2, fingerprint="m", vectors=("text",), fields={})


def write(file: Path, texts: list[str]) -> Path:
    """A file of embeddings in which the vector of a text is (its length, 0)."""
    vectors = np.array([[len(text), 0] for text in texts], dtype=np.float32)
    contents = pa.array([content_of(text, None) for text in texts], pa.binary(16))
    columns = {
        "vector_text": fixed_size_list(vectors, np.ones(len(texts), dtype=bool)),
        CONTENT: contents,
    }
    parquet.write_table(pa.table(columns), file)
    return file


def lengths(before: KnownVectors, texts: list[str]) -> list[float | None]:
    found = before.vectors([content_of(text, None) for text in texts])
    return [None if one is None else float(one["text"][0]) for one in found]


def test_a_vector_is_found_in_whichever_file_has_it(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{n}.parquet", ["a" * n, "b" * n]) for n in (1, 2, 3)]
    before = KnownVectors(files, SCHEMA)
    assert lengths(before, ["bbb", "a", "no", "bb"]) == [3, 1, None, 2]
    assert lengths(KnownVectors([], SCHEMA), ["a"]) == [None]


def test_a_file_without_the_vectors_of_the_schema_is_not_used(tmp_path: Path) -> None:
    contents = pa.array([content_of("a", None)], pa.binary(16))
    parquet.write_table(pa.table({CONTENT: contents}), tmp_path / "0.parquet")
    before = KnownVectors(
        [tmp_path / "0.parquet", write(tmp_path / "1.parquet", ["a"])], SCHEMA
    )
    assert lengths(before, ["a"]) == [1]


def test_of_many_files_those_that_have_most_are_read(tmp_path: Path) -> None:
    files = [
        write(tmp_path / f"{n}.parquet", ["a" * (n + 1), "b" * (n + 1)])
        for n in range(MOST_FILES + 1)
    ]
    before = KnownVectors(files, SCHEMA)
    texts = [
        "a",
        *(letter * (n + 1) for n in range(1, MOST_FILES + 1) for letter in "ab"),
    ]
    assert lengths(before, texts) == [None, *(len(text) for text in texts[1:])]


def test_a_broken_file_has_none(tmp_path: Path) -> None:
    (tmp_path / "1.parquet").write_bytes(b"PAR1")
    assert lengths(KnownVectors([tmp_path / "1.parquet"], SCHEMA), ["a"]) == [None]
