"""The rows of a partition are decoded for a store, and what it cannot keep is skipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unimodal.search.index.products import plan_of
from unimodal.formats import native
from unimodal.model import DualEncoder
from unimodal.preprocess.tokenizers import Tokenizer
from unimodal.search.index.decode import decode_partition
from unimodal.search.index.items import cut_input
from unimodal.search.index.plan import Plan
from unimodal.search.index.run import index
from unimodal.search.index.skipped import Skipped


def skipped(plan: Plan) -> list[Skipped]:
    (partition,) = cut_input(plan.config)
    skipped: list[Skipped] = []
    for block in decode_partition(plan, partition):
        skipped += block.skipped
    return skipped


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"title": "a" * 21}, "words has 21 bytes, and the store keeps 20"),
        ({"tags": ["a" * 21]}, "tags has 21 bytes, and the store keeps 20"),
        ({"tags": ["a"] * 3}, "tags has 3 strings, and the store keeps 2"),
        ({"id": "a" * 21}, "id has 21 bytes, and the store keeps 20"),
        ({"title": "half a \ud83d"}, "words is not Unicode text"),
        (
            {"id": "half a \ud83d"},
            "id is 'half a \\ud83d', and an id is one line of Unicode text",
        ),
    ],
)
def test_a_row_that_the_store_cannot_keep_is_skipped(
    tmp_path: Path, row: dict[str, Any], reason: str
) -> None:
    good = {"id": "good", "title": "a" * 20, "tags": ["a" * 20, "b"]}
    plan = plan_of(
        tmp_path, [good, {**good, "id": "bad", **row}], max_text_bytes=20, max_strings=2
    )
    (one,) = skipped(plan)
    assert one.row == 1
    assert one.reason.startswith(reason)
    json.dumps(one, ensure_ascii=False).encode()  # as it is listed


def test_a_store_of_other_limits_makes_the_files_again(tmp_path: Path) -> None:
    rows = [{"id": "a", "title": "a", "tags": []}]
    digests = [
        plan.digest(partition)
        for plan in (
            plan_of(tmp_path, rows),
            plan_of(tmp_path, rows, max_text_bytes=20),
        )
        for partition in cut_input(plan.config)
    ]
    assert digests[0] != digests[1]


def test_a_text_that_is_too_long_for_milvus_leaves_the_others_in(
    tmp_path: Path, model: DualEncoder, tokenizer: Tokenizer
) -> None:
    pytest.importorskip("milvus_lite")
    native.save(tmp_path / "model", model, tokenizer)
    rows = [
        {"id": "a", "title": "a hat", "tags": ["b"]},
        {"id": "b", "title": "a" * 65_536, "tags": ["b"]},
    ]
    config = plan_of(tmp_path, rows).config
    found = index(
        str(tmp_path / "model"), config, f"milvus://{tmp_path}/shop.db", device="cpu"
    )
    assert (found.items, found.skipped, found.stored) == (1, 1, 1)


def test_milvus_has_an_item_as_it_was_put_in(
    tmp_path: Path, model: DualEncoder, tokenizer: Tokenizer
) -> None:
    pytest.importorskip("milvus_lite")
    native.save(tmp_path / "model", model, tokenizer)
    url = f"milvus://{tmp_path}/shop.db"
    rows: list[dict[str, Any]] = [
        {"id": "a", "title": "a hat", "tags": ["a"]},
        {"id": "b", "title": "a"},
    ]
    index(str(tmp_path / "model"), plan_of(tmp_path, rows).config, url, device="cpu")
    rows.append({"id": "c", "title": "a", "tags": ["b"]})
    again = index(
        str(tmp_path / "model"), plan_of(tmp_path, rows).config, url, device="cpu"
    )
    assert (again.stored, again.kept) == (1, 2)
