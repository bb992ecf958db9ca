"""Bad rows are skipped and listed, and too many of them, or too many lost items, end a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.unimodal.search.index.days import index_day, prices_in, write_day
from tests.unimodal.search.index.products import (
    Catalogue,
    run,
    skipped,
    stored,
)


def test_bad_items_are_listed_and_the_others_indexed(
    saved: str, catalogue: Catalogue, tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    whole = (tmp_path / "4.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    name = catalogue(
        p1={"photo": "broken.png"},
        p2={"title": ""},
        p4={"photo": "cut.png"},
        p7={"title": " "},
        p8={"price": "cheap"},
    )
    summary = run(
        saved, name, tmp_path / "store", fields=["price:float"], missing_image="skip"
    )
    assert (summary.items, summary.skipped) == (6, 4)
    assert sorted(stored(tmp_path / "store")) == ["p0", "p2", "p3", "p5", "p6", "p9"]
    listed = {
        (one["file"], one["row"]): one["reason"] for one in skipped(tmp_path / "store")
    }
    reasons = {
        1: "not a readable image",
        4: "not a readable image",
        7: "neither text nor image",
        8: "is not a number",
    }
    for row, reason in reasons.items():
        assert reason in listed["rows.jsonl", row]
    run(saved, catalogue(), tmp_path / "store", fields=["price:float"])
    assert len(stored(tmp_path / "store")) == 10
    assert not skipped(tmp_path / "store")


def test_an_item_whose_image_cannot_be_read_is_found_by_its_text(
    saved: str, catalogue: Catalogue, tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(b"not an image")
    name = catalogue(
        p1={"photo": "broken.png"},
        p2={"photo": "nowhere.png"},
        p3={"photo": ""},
        p4={"photo": "broken.png", "title": ""},
    )
    summary = run(saved, name, tmp_path / "store")
    assert (summary.items, summary.skipped, summary.without_image) == (9, 1, 2)
    rows = stored(tmp_path / "store")
    for one in ("p1", "p2", "p3"):
        assert rows[one]["vector_image"] is None
        assert rows[one]["thumbnail"] is None
        assert rows[one]["vector_fused"] == rows[one]["vector_text"]
    listed = {
        one["id"]: (one["kept"], one["reason"]) for one in skipped(tmp_path / "store")
    }
    assert {one: kept for one, (kept, _) in listed.items()} == {
        "p1": True,
        "p2": True,
        "p4": False,
    }
    assert "not a readable" in listed["p1"][1]
    assert "does not exist" in listed["p2"][1]
    # Its image comes, and only this item is embedded again.
    Image.new("RGB", (8, 8), (9, 9, 9)).save(tmp_path / "nowhere.png")
    run(saved, name, tmp_path / "store")
    assert stored(tmp_path / "store")["p2"]["vector_image"] is not None
    with pytest.raises(ValueError, match=r"cannot be indexed.*, and max_skipped is 0"):
        run(saved, name, tmp_path / "store", max_skipped=0)


def test_a_bomb_is_a_bad_item(saved: str, catalogue: Catalogue, tmp_path: Path) -> None:
    Image.new("1", (8000, 6000)).save(tmp_path / "0.png")
    run(saved, catalogue(), tmp_path / "store")
    assert [
        "limit of 40000000" in one["reason"] for one in skipped(tmp_path / "store")
    ] == [True]


def test_a_run_ends_when_too_many_items_are_bad(
    saved: str, catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = catalogue(p0={"title": ""}, p1={"title": ""}, p4={"title": ""})
    options = {"image": "", "text": "title"}
    with pytest.raises(
        ValueError,
        match=r"2 of 4 rows of .* cannot be indexed \(the first, row 0: neither text nor",
    ):
        run(saved, name, tmp_path / "store", **options, max_skipped=0)
    monkeypatch.setattr("unimodal.tables.skipped.MIN_SKIPPED", 1)
    with pytest.raises(
        ValueError,
        match=r"2 of 4 rows of .*max_skipped 0.4, and more than 1; .*_skipped.jsonl",
    ):
        run(saved, name, tmp_path / "store", **options, max_skipped=0.4)
    assert run(saved, name, tmp_path / "store", **options, max_skipped=0.5).skipped == 3


def test_a_run_that_ends_for_bad_items_lists_those_that_it_found(
    saved: str, catalogue: Catalogue, tmp_path: Path
) -> None:
    name = catalogue(p0={"title": ""}, p4={"title": ""}, p5={"title": ""})
    options = {"image": "", "text": "title"}
    run(saved, name, tmp_path / "store", **options)
    catalogue(p4={"title": ""}, p5={"title": ""}, p9={"title": ""})
    with pytest.raises(
        ValueError,
        match=r"2 of 4 rows .*max_skipped is 0; .*_skipped.jsonl",
    ):
        run(
            saved,
            catalogue(
                p0={"title": "a"}, p4={"title": ""}, p5={"title": ""}, p7={"price": 9}
            ),
            tmp_path / "store",
            **options,
            max_skipped=0,
        )
    assert [one["id"] for one in skipped(tmp_path / "store")] == ["p4", "p5"]


def test_an_input_of_bad_items_alone_is_an_error(saved: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"title": ""}\n' * 3, encoding="utf-8")
    with pytest.raises(
        ValueError,
        match=r"all 3 rows of .* had to be skipped; the first: neither text nor image",
    ):
        run(
            saved, str(tmp_path / "rows.jsonl"), tmp_path / "store", image="", fields=[]
        )


def test_a_cut_export_is_refused_before_the_store_changes(
    saved: str, tmp_path: Path, forwards: list[int]
) -> None:
    store = str(tmp_path / "shop")
    whole = {f"p{number}": number for number in range(30)}
    day = write_day(tmp_path / "day.jsonl", whole)
    index_day(saved, day, store)
    write_day(tmp_path / "day.jsonl", dict(list(whole.items())[:5]))
    refused = (
        r"25 of 30 items of .*day.jsonl.* max_removed 0.2 .*add max_removed=0.84\."
    )
    with pytest.raises(ValueError, match=refused):
        index_day(saved, day, store)
    assert prices_in(store) == whole
    index_day(saved, write_day(tmp_path / "other.jsonl", {"o": 1}), store)
    assert prices_in(store) == {
        **whole,
        "o": 1,
    }  # what was refused is not put in by another run
    with pytest.raises(
        ValueError, match=r"26 of 31 items of the store are not in .*day.jsonl any more"
    ):
        index_day(saved, day, store, replace=True)
    forwards.clear()
    assert index_day(saved, day, store, max_removed=0.84).removed == 25
    assert not forwards
    assert len(prices_in(store)) == 6


def test_a_few_items_may_go_whatever_their_share(saved: str, tmp_path: Path) -> None:
    store = str(tmp_path / "shop")
    day = write_day(tmp_path / "day.jsonl", {f"p{number}": 1 for number in range(12)})
    index_day(saved, day, store)
    write_day(tmp_path / "day.jsonl", {"p0": 1, "p1": 1})
    with pytest.raises(
        ValueError,
        match=r"10 of 12 items .*max_removed is 0: .* add max_removed=0.84\.",
    ):
        index_day(saved, day, store, max_removed=0)
    assert index_day(saved, day, store).removed == 10


def test_what_an_older_input_still_has_counts_as_gone_from_its_own(
    saved: str, tmp_path: Path
) -> None:
    store = str(tmp_path / "shop")
    whole = {f"p{number}": 1 for number in range(20)}
    index_day(saved, write_day(tmp_path / "day1.jsonl", whole), store)
    day2 = write_day(tmp_path / "day2.jsonl", dict.fromkeys(whole, 2))
    index_day(saved, day2, store)
    write_day(tmp_path / "day2.jsonl", {"p0": 2})
    with pytest.raises(ValueError, match=r"19 of 20 items of .*day2.jsonl"):
        index_day(saved, day2, store)
    assert prices_in(store) == dict.fromkeys(whole, 2)


def test_rows_whose_id_came_before_count_as_skipped(saved: str, tmp_path: Path) -> None:
    store = str(tmp_path / "shop")
    day = tmp_path / "day.jsonl"
    day.write_text(
        '{"id": 1, "title": "a", "price": 1}\n{"id": "1", "title": "a", "price": 2}\n',
        encoding="utf-8",
    )
    for per_unit in (1, 10):
        with pytest.raises(
            ValueError,
            match=r"1 of 2 rows of .* cannot be indexed.*, and max_skipped is 0",
        ):
            index_day(saved, str(day), store, per_unit=per_unit, max_skipped=0)
        summary = index_day(saved, str(day), store, per_unit=per_unit)
        assert (summary.items, summary.skipped) == (1, 1)
        assert prices_in(store) == {"1": 1}
