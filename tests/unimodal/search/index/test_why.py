"""What became of an item is said: where it is, why it is not, and what it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.unimodal.search.index.days import index_day, write_day
from unimodal.search.index.inputs import default_folder, forget
from unimodal.search.index.items import IndexConfig
from unimodal.search.index.removed import RemovedItem, note_removed, read_removed
from unimodal.search.index.run import index
from unimodal.search.index.why import explain


def test_what_became_of_an_item(saved: str, tmp_path: Path) -> None:
    store = str(tmp_path / "shop")
    folder = default_folder(store)
    day1 = write_day(tmp_path / "day1.jsonl", {"a": 1, "b": 1, "c": 1})
    index_day(saved, day1, store)
    day2 = tmp_path / "day2.jsonl"
    day2.write_text(
        '{"id": "a", "title": "a hat", "price": 2}\n{"id": "x", "title": "", "price": 2}\n'
        '{"id": "b", "title": "a hat", "price": "many"}\n{"id": "a", "title": "a hat", "price": '
        "3}\n"
    )
    index_day(saved, str(day2), store, per_unit=3)
    first, older, repeated = explain(store, folder, "a")
    assert first.startswith(f"a is in the store, from {day2} (indexed 20")
    assert older.startswith(f"{day1} (indexed 20")
    assert older.endswith("has it too, and was indexed before that one.")
    assert "an earlier row of the input has its id" in repeated
    (skipped,) = explain(store, folder, "x")
    assert skipped.startswith(f"row 1 of day2.jsonl of {day2}")
    assert "neither text nor" in skipped
    assert ["is in the store" in line for line in explain(store, folder, "b")] == [
        True,
        False,
    ]

    write_day(tmp_path / "day1.jsonl", {"b": 1})
    index_day(saved, day1, store)
    (gone,) = explain(store, folder, "c")
    assert "was taken out of the store at 20" in gone
    assert gone.endswith(f": it is not in the input any more ({day1}).")
    forget(store, day1)
    assert explain(store, folder, "b")[-1].endswith(
        f": the input was forgotten ({day1})."
    )
    with pytest.raises(
        ValueError, match=r"'nothing' is not an item of any input of .*shop"
    ):
        explain(store, folder, "nothing")


def test_a_reason_that_is_a_sentence_ends_with_one_full_stop(
    saved: str, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "images" / "a.png")
    (tmp_path / "images" / "b.png").write_bytes(b"not an image")
    store = str(tmp_path / "shop")
    index(saved, IndexConfig(input=str(tmp_path / "images")), store, device="cpu")

    (skipped,) = explain(store, default_folder(store), "b.png")

    assert "b.png is not a readable image" in skipped
    assert skipped.endswith("AVIF.")


def test_the_list_of_removed_items_is_bounded_and_outlives_a_cut_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unimodal.search.index.removed.MOST_LISTED", 3)
    note_removed(tmp_path, [RemovedItem("0", "day.jsonl", "why")])
    with (tmp_path / "_removed.jsonl").open("a") as file:
        file.write('\n{"id": "cut')
    for number in range(1, 10):
        note_removed(tmp_path, [RemovedItem(str(number), "day.jsonl", "why")])
        latest = [one.id for one in read_removed(tmp_path)]
        assert latest[-1] == str(number)
        assert len(latest) <= 6
