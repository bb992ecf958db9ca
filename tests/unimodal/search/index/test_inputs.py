"""A store has several inputs, which are listed, replaced and forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unimodal.search.index.days import index_day, inputs_of, prices_in, write_day
from tests.unimodal.search.index.products import (
    Catalogue,
    one_more_input,
    run,
    skipped,
    stored,
)
from unimodal.search.index.inputs import default_folder, forget, list_inputs


def test_two_inputs_go_into_one_store(
    saved: str, catalogue: Catalogue, tmp_path: Path
) -> None:
    run(saved, catalogue(), tmp_path / "store")
    other = tmp_path / "other.jsonl"
    other.write_text(
        '{"id": "q", "title": "a hat", "photo": null, "price": 3}\n', encoding="utf-8"
    )
    assert run(saved, str(other), tmp_path / "store").stored == 1
    assert len(stored(tmp_path / "store")) == 11
    assert run(saved, catalogue(), tmp_path / "store").stored == 0
    assert len(stored(tmp_path / "store")) == 11


def test_an_input_is_the_same_however_it_is_spelled(
    saved: str, catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(saved, catalogue(), tmp_path / "store")
    catalogue(p5={"price": 99}, p9=None)
    monkeypatch.chdir(tmp_path)
    for name, embedded in (("rows.jsonl", 2), ("./rows.jsonl", 0)):
        summary = run(saved, name, tmp_path / "store")
        assert (summary.items, summary.skipped, summary.embedded) == (9, 0, embedded)
    rows = stored(tmp_path / "store")
    assert rows["p5"]["price"] == 99
    assert len(rows) == 9


def test_what_was_skipped_of_one_input_stays_listed_when_another_is_indexed(
    saved: str, catalogue: Catalogue, tmp_path: Path
) -> None:
    name = catalogue(p7={"title": ""})
    run(saved, name, tmp_path / "store")
    summary = run(saved, one_more_input(tmp_path), tmp_path / "store")
    assert summary.skipped == 0
    assert [
        (one["input"], one["row"], one["id"]) for one in skipped(tmp_path / "store")
    ] == [(name, 7, "p7")]


def test_of_two_items_with_one_id_in_two_files_the_first_is_taken(
    saved: str, catalogue: Catalogue, tmp_path: Path, texts: list[str]
) -> None:
    summary = run(saved, catalogue(p9={"id": "p0"}), tmp_path / "store")
    assert (summary.items, summary.skipped, summary.stored) == (9, 1, 9)
    assert len(rows := stored(tmp_path / "store")) == 9
    assert rows["p0"]["words"] == texts[0]
    (listed,) = skipped(tmp_path / "store")
    assert (listed["id"], listed["reason"]) == (
        "p0",
        "its id is that of an item in a file before it too",
    )
    run(saved, catalogue(p0=None, p9={"id": "p0"}), tmp_path / "store")
    assert stored(tmp_path / "store")["p0"]["words"] == texts[9]


@pytest.mark.parametrize(
    ("url", "folder"),
    [
        ("runs/shop", "runs/shop.embeddings"),
        ("lance:///a/shop/", "/a/shop.embeddings"),
        ("lance://rel/shop", "rel/shop.embeddings"),
        ("milvus:///a/shop.db", "/a/shop.embeddings"),
        (
            "milvus://host:19530/db?collection=shop",
            "host_19530_db_collection_shop.embeddings",
        ),
    ],
)
def test_embeddings_lie_beside_their_store(url: str, folder: str) -> None:
    assert default_folder(url) == Path(folder)


def test_replace_makes_an_input_the_whole_store(saved: str, tmp_path: Path) -> None:
    store = str(tmp_path / "shop")
    index_day(saved, write_day(tmp_path / "day1.jsonl", {"a": 1, "b": 1}), store)
    day2 = write_day(tmp_path / "day2.jsonl", {"b": 2, "c": 2})
    summary = index_day(saved, day2, store, replace=True)
    assert (summary.stored, summary.removed, summary.shared) == (2, 1, 0)
    assert prices_in(store) == {"b": 2, "c": 2}
    assert inputs_of(store) == ["day2.jsonl"]
    assert len(list(default_folder(store).glob("*.parquet"))) == 1


def test_the_inputs_are_listed_and_one_is_forgotten(saved: str, tmp_path: Path) -> None:
    store = str(tmp_path / "shop")
    day1 = write_day(tmp_path / "day1.jsonl", {"a": 1, "b": 1})
    index_day(saved, day1, store)
    index_day(
        saved, write_day(tmp_path / "day2.jsonl", {"b": 2, "c": 2, "d": 2}), store
    )
    bad = str(tmp_path / "bad.jsonl")
    Path(bad).write_text('{"id": "e", "title": "", "price": 1}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="all 1 rows"):
        index_day(saved, bad, store)
    states, unfinished = list_inputs(store)
    assert [(one.entry.input, one.entry.items, one.in_store) for one in states] == [
        (day1, 2, 1),
        (str(tmp_path / "day2.jsonl"), 3, 3),
    ]
    assert unfinished == {bad: 1}
    write_day(tmp_path / "day2.jsonl", {"b": 2})
    with pytest.raises(ValueError, match="2 of 3 items"):
        index_day(saved, str(tmp_path / "day2.jsonl"), store, max_removed=0)
    forget(store, bad)
    # What a refused run of another input has embedded stays.
    assert list_inputs(store)[1] == {str(tmp_path / "day2.jsonl"): 1}
    with pytest.raises(
        ValueError,
        match=r"has no input 'day3.jsonl'; there is: .*day1.jsonl, .*day2.jsonl",
    ):
        forget(store, "day3.jsonl")
    assert forget(store, day1).removed == 1
    assert forget(store, str(tmp_path / "day2.jsonl")).removed == 3
    assert prices_in(store) == {}
    assert (
        index_day(saved, day1, store, fields=["price:float"]).stored == 2
    )  # an empty store binds nothing


def test_a_file_of_embeddings_that_is_missing_is_made_again_or_its_input_is_named(
    saved: str, tmp_path: Path
) -> None:
    store = str(tmp_path / "shop")
    day1 = write_day(tmp_path / "day1.jsonl", {"a": 1, "b": 1})
    index_day(saved, day1, store)
    next(default_folder(store).glob("*.parquet")).unlink()
    day2 = write_day(tmp_path / "day2.jsonl", {"c": 2})
    with pytest.raises(
        ValueError,
        match=r"has no readable day1.* of .*day1.jsonl any more; index that input again",
    ):
        index_day(saved, day2, store)
    write_day(tmp_path / "day1.jsonl", {"a": 1, "b": 3})
    index_day(saved, day1, store)
    index_day(saved, day2, store)
    assert prices_in(store) == {"a": 1, "b": 3, "c": 2}


def test_an_input_of_any_name_has_its_files(saved: str, tmp_path: Path) -> None:
    store = str(tmp_path / "shop")
    day = write_day(tmp_path / f"{'冬' * 80}.jsonl", {"a": 1})
    index_day(saved, day, store)
    assert index_day(saved, day, store).reused == 1
    (file,) = default_folder(store).glob("*.parquet")
    assert file.name.isascii()
