"""Of several inputs with the same ids the one that was indexed last is in the store."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unimodal.search.index.days import (
    config_of,
    index_day,
    inputs_of,
    prices_in,
    write_day,
)
from tests.unimodal.search.index.runs import Run, wait_until
from unimodal.embedder import Embedder
from unimodal.search.index.fill import RECORD, SCHEMA, fill
from unimodal.search.index.folder import INPUTS, read_head, read_inputs
from unimodal.search.index.inputs import default_folder, forget, list_inputs
from unimodal.search.index.removed import read_removed
from unimodal.search.index.skipped import SKIPPED
from unimodal.search.index.why import explain

Url = Callable[[Path], str]


def lance(folder: Path) -> str:
    return str(folder / "shop")


def milvus(folder: Path) -> str:
    pytest.importorskip("milvus_lite")
    return f"milvus://{folder}/shop.db"


@pytest.mark.parametrize("url", [lance, milvus])
def test_the_newest_indexing_of_an_id_wins(
    saved: str, tmp_path: Path, url: Url
) -> None:
    store = url(tmp_path)
    day1 = write_day(tmp_path / "day1.jsonl", {"a": 1, "b": 1, "c": 1})
    index_day(saved, day1, store)
    day2 = write_day(tmp_path / "day2.jsonl", {"a": 2, "b": 2, "d": 2})
    summary = index_day(saved, day2, store)
    assert (summary.items, summary.skipped, summary.shared) == (3, 0, 2)
    assert (summary.stored, summary.kept, summary.removed) == (3, 1, 0)
    assert prices_in(store) == {"a": 2, "b": 2, "c": 1, "d": 2}
    assert not (default_folder(store) / SKIPPED).exists()

    write_day(tmp_path / "day2.jsonl", {"a": 3, "d": 3})
    index_day(saved, day2, store)
    # What left the newer input is as the older one has it.
    assert prices_in(store) == {"a": 3, "b": 1, "c": 1, "d": 3}

    assert index_day(saved, day1, store).embedded == 0
    assert inputs_of(store) == ["day2.jsonl", "day1.jsonl"]
    assert prices_in(store) == {"a": 1, "b": 1, "c": 1, "d": 3}

    forgotten = forget(store, day1)
    assert (forgotten.stored, forgotten.removed) == (1, 2)
    assert prices_in(store) == {"a": 3, "d": 3}


def test_the_order_outlives_the_times_of_the_files(saved: str, tmp_path: Path) -> None:
    store = lance(tmp_path)
    for number, name in enumerate(["z.jsonl", "a.jsonl", "m.jsonl"]):
        index_day(saved, write_day(tmp_path / name, {"a": number}), store)
    for file in default_folder(store).iterdir():
        file.touch()
    assert prices_in(store) == {"a": 2}
    assert fill(str(tmp_path / "another"), default_folder(store)).stored == 1
    assert prices_in(str(tmp_path / "another")) == {"a": 2}


@pytest.mark.parametrize("what", ["removed", "cut"])
def test_what_a_lost_file_of_embeddings_had_leaves_the_store_with_its_input(
    saved: str, tmp_path: Path, what: str
) -> None:
    store = lance(tmp_path)
    folder = default_folder(store)
    day1 = write_day(tmp_path / "day1.jsonl", {"a": 1, "b": 1})
    index_day(saved, day1, store)
    index_day(saved, write_day(tmp_path / "day2.jsonl", {"b": 2, "c": 2}), store)

    (lost,) = [
        folder / name
        for one in read_inputs(folder)
        if one.input == day1
        for name in one.files
    ]
    if what == "cut":
        lost.write_bytes(lost.read_bytes()[:100])
    else:
        lost.unlink()
    assert forget(store, day1).removed == 1
    assert prices_in(store) == {"b": 2, "c": 2}
    (removed,) = read_removed(folder)
    assert removed.id == "a"
    assert (
        removed.reason
        == "its file of embeddings was missing or broken, and no input has it now"
    )


def test_a_lost_file_of_embeddings_is_named_before_anything_changes(
    saved: str, tmp_path: Path
) -> None:
    store = lance(tmp_path)
    folder = default_folder(store)
    day1 = write_day(tmp_path / "day1.jsonl", {"a": 1, "b": 1})
    index_day(saved, day1, store)
    day2 = write_day(tmp_path / "day2.jsonl", {"b": 2, "c": 2})
    index_day(saved, day2, store)

    (lost,) = [
        folder / name
        for one in read_inputs(folder)
        if one.input == day1
        for name in one.files
    ]
    lost.unlink()
    named = r"has no readable day1.* of .*day1.jsonl any more; .*--forget"
    with pytest.raises(ValueError, match=named):
        forget(store, day2)
    with pytest.raises(ValueError, match=named):
        list_inputs(store)
    with pytest.raises(ValueError, match=named):
        explain(store, folder, "b")
    assert inputs_of(store) == ["day1.jsonl", "day2.jsonl"]
    assert prices_in(store) == {"a": 1, "b": 2, "c": 2}


def test_a_file_may_be_in_two_inputs(saved: str, tmp_path: Path) -> None:
    store = lance(tmp_path)
    day1 = write_day(tmp_path / "day1.jsonl", {"a": 1})
    index_day(saved, day1, store)
    write_day(tmp_path / "day2.jsonl", {"b": 2})
    days = str(tmp_path / "day*.jsonl")
    summary = index_day(saved, days, store)
    assert (summary.items, summary.skipped, summary.shared) == (2, 0, 1)
    assert (summary.stored, summary.kept) == (1, 1)
    assert prices_in(store) == {"a": 1, "b": 2}
    (tmp_path / "day2.jsonl").unlink()
    assert index_day(saved, days, store).removed == 1
    forget(store, days)
    assert prices_in(store) == {"a": 1}


def test_what_another_day_has_embedded_is_not_embedded_again(
    saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = lance(tmp_path)
    index_day(saved, write_day(tmp_path / "day1.jsonl", {"a": 1, "b": 1}), store)
    counts: list[int] = []
    encode = Embedder.encode

    def counted(self: Embedder, inputs: Any, **options: Any) -> Any:
        counts.append(len(inputs))
        return encode(self, inputs, **options)

    monkeypatch.setattr(Embedder, "encode", counted)
    index_day(
        saved, write_day(tmp_path / "day2.jsonl", {"a": 2, "b": 2, "new": 2}), store
    )
    assert counts == [1]


@pytest.mark.parametrize("what", ["write_inputs", "upsert", "delete"])
def test_a_kill_leaves_what_the_next_run_completes(
    saved: str, tmp_path: Path, what: str
) -> None:
    store = lance(tmp_path)
    folder = default_folder(store)
    index_day(
        saved, write_day(tmp_path / "day1.jsonl", {"a": 1, "b": 1, "c": 1}), store
    )
    day2 = write_day(tmp_path / "day2.jsonl", {"a": 2, "b": 2, "d": 2})
    index_day(saved, day2, store)
    write_day(tmp_path / "day2.jsonl", {"a": 3, "e": 3})
    values = config_of(day2).model_dump()
    killed = Run(saved, values, store, what=what, slow=600)
    reached = {
        "write_inputs": lambda: len(list(folder.glob("_*.parquet"))) == 1,
        "upsert": lambda: "" in json.loads((folder / RECORD).read_text()).values(),
        "delete": lambda: prices_in(store).get("e") == 3,
    }
    wait_until(reached[what])
    killed.kill()
    there = prices_in(store)
    if what != "delete":
        assert there == {"a": 2, "b": 2, "c": 1, "d": 2}
    other = write_day(tmp_path / "other.jsonl", {"o": 9})
    index_day(saved, other, store)
    # A run that did not get so far as to change the list has changed nothing for another one.
    wanted = {"a": 3, "b": 1, "c": 1, "e": 3, "o": 9}
    assert prices_in(store) == (
        {"a": 2, "b": 2, "c": 1, "d": 2, "o": 9} if what == "write_inputs" else wanted
    )
    assert index_day(saved, day2, store).embedded == 0
    assert prices_in(store) == wanted
    assert not list(folder.glob("_*.parquet"))


def test_a_folder_of_an_earlier_version_is_read(saved: str, tmp_path: Path) -> None:
    store = lance(tmp_path)
    folder = default_folder(store)
    day1 = write_day(tmp_path / "day1.jsonl", {"a": 1, "b": 1})
    index_day(saved, day1, store)
    index_day(
        saved, write_day(tmp_path / "day2.jsonl", {"a": 2, "b": 2, "c": 2}), store
    )
    (
        folder / INPUTS
    ).unlink()  # as it was: no list, names without what they are made of, and other side files
    record = {}
    for name, state in json.loads((folder / RECORD).read_text()).items():
        old = name.replace(f".{read_head(folder / name)['digest']}", "")
        (folder / name).rename(folder / old)
        record[old] = state
    (folder / RECORD).write_text(json.dumps(record))
    (folder / SCHEMA).rename(folder / "index.json")
    (folder / "skipped.jsonl").write_text("")
    assert [Path(one.input).name for one in read_inputs(folder)] == [
        "day2.jsonl",
        "day1.jsonl",
    ]

    index_day(saved, write_day(tmp_path / "day3.jsonl", {"a": 3}), store)
    assert prices_in(store) == {
        "a": 3,
        "b": 1,
        "c": 2,
    }  # of the older ones the first by name, as it was
    index_day(saved, day1, store)
    assert prices_in(store) == {"a": 1, "b": 1, "c": 2}
    assert len(list(folder.glob("*.parquet"))) == 3
    assert not (folder / "skipped.jsonl").exists()
