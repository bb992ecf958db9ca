"""`index` brings embeddings and a store to the state of an input, and does nothing twice."""

from __future__ import annotations

import io
import json
import os
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from tests.unimodal.search.index.days import index_day, inputs_of, prices_in, write_day
from tests.unimodal.search.index.runs import Run, wait_until
from unimodal.calibration import Calibration, save_calibration
from unimodal.config import parse_config
from unimodal.embedder import Embedder, load
from unimodal.formats.native import save_model
from unimodal.model import DualEncoder, build_model
from unimodal.preprocess.tokenizers import Tokenizer
from unimodal.search.index.fill import fill
from unimodal.search.index.items import IndexConfig
from unimodal.search.index.processes import Ranks, alone
from unimodal.search.index.run import (
    Summary,
    default_folder,
    forget,
    index,
    list_inputs,
)
from unimodal.search.index.skipped import SKIPPED
from unimodal.search.stores.copy import copy_store
from unimodal.search.stores.open import open_store

Catalogue = Callable[..., str]
NUM = 10


@pytest.fixture
def catalogue(tmp_path: Path, texts: list[str], images: list[Image.Image]) -> Catalogue:
    """A function that writes ten products, with some of their fields replaced (None: without the
    row).
    """
    for number, picture in enumerate(images):
        picture.save(tmp_path / f"{number}.png")

    def write(**changes: dict[str, Any] | None) -> str:
        rows = []
        for number, text in enumerate(texts[:NUM]):
            photo = f"{number}.png" if number < len(images) else None
            row = {"id": f"p{number}", "title": text, "photo": photo, "price": number}
            change = changes.get(f"p{number}", {})
            rows += [] if change is None else [row | change]
        (tmp_path / "rows.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
        )
        return str(tmp_path / "rows.jsonl")

    return write


def run(model: str, name: str, store: Path, **options: Any) -> Summary:
    values = {
        "text": "title",
        "image": "photo",
        "fields": ["price"],
        "per_unit": 4,
        **options,
    }
    kept = {
        key: values.pop(key) for key in ("overwrite", "embeddings") if key in values
    }
    return index(
        model,
        parse_config(IndexConfig, {"input": name, **values}),
        str(store),
        device="cpu",
        **kept,
    )


def stored(store: Path) -> dict[str, dict[str, Any]]:
    opened = open_store(str(store))
    rows = [row for batch in opened.scan() for row in batch.to_pylist()]
    opened.close()
    return {row["id"]: row for row in rows}


def skipped(store: Path) -> list[dict[str, Any]]:
    file = default_folder(str(store)) / SKIPPED
    return (
        [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        if file.is_file()
        else []
    )


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts or images each call of the model had."""
    counts: list[int] = []
    encode = Embedder.encode

    def counted(self: Embedder, inputs: Any, **options: Any) -> Any:
        counts.append(len(inputs))
        return encode(self, inputs, **options)

    monkeypatch.setattr(Embedder, "encode", counted)
    return counts


def test_an_item_has_the_vectors_that_the_embedder_gives_it(
    saved: str,
    catalogue: Catalogue,
    tmp_path: Path,
    embedder: Embedder,
    texts: list[str],
) -> None:
    summary = run(saved, catalogue(), tmp_path / "store", weight=0.3)
    assert (
        summary.items,
        summary.skipped,
        summary.embedded,
        summary.reused,
        summary.stored,
    ) == (10, 0, 3, 0, 10)
    rows = stored(tmp_path / "store")
    photo = tmp_path / "3.png"
    items: dict[str, Any] = {
        "text": texts[3],
        "image": photo,
        "fused": {"text": texts[3], "image": photo, "weight": 0.3},
    }
    for name, item in items.items():
        wanted = embedder.encode_document(item)[0]
        np.testing.assert_allclose(
            rows["p3"][f"vector_{name}"], wanted, rtol=0, atol=1e-6
        )
    assert (rows["p3"]["price"], rows["p3"]["words"]) == (3, texts[3])
    assert (
        Image.open(io.BytesIO(rows["p3"]["thumbnail"])).size == Image.open(photo).size
    )


def test_what_is_transparent_is_white_in_the_vector_and_in_the_thumbnail(
    saved: str, tmp_path: Path
) -> None:
    (tmp_path / "logos").mkdir()
    logo = Image.new("RGBA", (40, 40), (200, 0, 0, 0))
    logo.paste((0, 0, 0, 255), (0, 0, 20, 40))
    logo.save(tmp_path / "logos" / "a.png")
    values = parse_config(IndexConfig, {"input": str(tmp_path / "logos")})
    index(saved, values, str(tmp_path / "store"), device="cpu")
    (row,) = stored(tmp_path / "store").values()
    shown = Image.open(io.BytesIO(row["thumbnail"]))
    assert (shown.getpixel((5, 20)), shown.getpixel((35, 20))) == (
        (0, 0, 0),
        (255, 255, 255),
    )
    wanted = load(saved, device="cpu").encode_document(tmp_path / "logos" / "a.png")[0]
    np.testing.assert_allclose(row["vector_image"], wanted, rtol=0, atol=1e-6)


def test_an_item_of_one_part_has_its_vector_as_the_fused_one(
    saved: str, catalogue: Catalogue, tmp_path: Path
) -> None:
    run(saved, catalogue(), tmp_path / "store")
    row = stored(tmp_path / "store")["p9"]
    assert row["vector_image"] is None
    assert row["thumbnail"] is None
    np.testing.assert_allclose(
        row["vector_fused"], row["vector_text"], rtol=0, atol=1e-6
    )


def test_each_text_and_image_goes_through_the_model_once(
    saved: str, catalogue: Catalogue, tmp_path: Path, forwards: list[int]
) -> None:
    run(saved, catalogue(), tmp_path / "store", per_unit=100)
    assert forwards == [10, 6]


def test_vectors_may_be_chosen(
    saved: str, catalogue: Catalogue, tmp_path: Path, forwards: list[int]
) -> None:
    run(
        saved,
        catalogue(),
        tmp_path / "store",
        per_unit=100,
        vectors=["image"],
        thumbnail=0,
    )
    assert forwards == [6]
    opened = open_store(str(tmp_path / "store"))
    assert (opened.schema.vectors, opened.schema.thumbnails, opened.count()) == (
        ("image",),
        False,
        6,
    )
    assert {one["reason"] for one in skipped(tmp_path / "store")} == {"it has no image"}


def test_a_second_run_does_nothing(
    saved: str, catalogue: Catalogue, tmp_path: Path, forwards: list[int]
) -> None:
    run(saved, catalogue(), tmp_path / "store")
    forwards.clear()
    summary = run(saved, catalogue(), tmp_path / "store")
    assert (summary.items, summary.embedded, summary.reused, summary.stored) == (
        10,
        0,
        3,
        0,
    )
    assert not forwards


def test_a_store_that_was_removed_is_filled_again_without_embedding(
    saved: str, catalogue: Catalogue, tmp_path: Path, forwards: list[int]
) -> None:
    run(saved, catalogue(), tmp_path / "store")
    before = stored(tmp_path / "store")
    (tmp_path / "store").rename(tmp_path / "gone")
    forwards.clear()
    assert run(saved, catalogue(), tmp_path / "store").stored == 10
    assert not forwards
    assert stored(tmp_path / "store") == before
    assert (
        fill(str(tmp_path / "another"), default_folder(str(tmp_path / "store")))[0]
        == 10
    )  # without a model, too
    assert stored(tmp_path / "another") == before


def test_a_price_that_changes_costs_no_forward_pass(
    saved: str, catalogue: Catalogue, tmp_path: Path, forwards: list[int]
) -> None:
    run(saved, catalogue(), tmp_path / "store")
    before = stored(tmp_path / "store")
    forwards.clear()
    summary = run(saved, catalogue(p5={"price": 99}), tmp_path / "store")
    assert (summary.embedded, summary.stored, summary.kept) == (1, 1, 9)
    assert not forwards
    after = stored(tmp_path / "store")
    assert after.pop("p5") == {**before.pop("p5"), "price": 99}
    assert after == before


def test_a_row_that_moves_into_another_file_costs_no_forward_pass(
    saved: str, catalogue: Catalogue, tmp_path: Path, forwards: list[int]
) -> None:
    name = catalogue()
    run(saved, name, tmp_path / "store")
    before = stored(tmp_path / "store")
    forwards.clear()
    rows = Path(name).read_text(encoding="utf-8")
    Path(name).write_text(
        '{"id": "new", "title": "a new lamp", "price": 3}\n' + rows, encoding="utf-8"
    )
    assert run(saved, name, tmp_path / "store").embedded == 3
    assert forwards == [1]
    after = stored(tmp_path / "store")
    assert after.pop("new")["price"] == 3
    assert after == before


def test_a_title_or_an_image_that_changes_costs_one(
    saved: str,
    catalogue: Catalogue,
    tmp_path: Path,
    forwards: list[int],
    images: list[Image.Image],
    embedder: Embedder,
) -> None:
    run(saved, catalogue(), tmp_path / "store")
    images[0].save(tmp_path / "1.png")
    forwards.clear()
    run(saved, catalogue(p8={"title": "a new lamp"}), tmp_path / "store")
    assert forwards == [1, 1, 1]  # both parts of p1, and the text of p8
    rows = stored(tmp_path / "store")
    wanted = embedder.encode_document([images[0], "a new lamp"])
    np.testing.assert_allclose(
        [rows["p1"]["vector_image"], rows["p8"]["vector_text"]],
        wanted,
        rtol=0,
        atol=1e-6,
    )


def test_what_vanishes_from_an_input_vanishes_from_the_store(
    saved: str, catalogue: Catalogue, tmp_path: Path
) -> None:
    run(saved, catalogue(), tmp_path / "store")
    summary = run(saved, catalogue(p2=None, p9=None, p8=None), tmp_path / "store")
    assert (summary.stored, summary.kept, summary.removed) == (0, 7, 3)
    assert sorted(stored(tmp_path / "store")) == [
        "p0",
        "p1",
        "p3",
        "p4",
        "p5",
        "p6",
        "p7",
    ]
    assert not list(default_folder(str(tmp_path / "store")).glob("*.old"))


def test_what_comes_back_into_an_input_comes_back_into_the_store(
    saved: str, catalogue: Catalogue, tmp_path: Path
) -> None:
    run(saved, catalogue(), tmp_path / "store")
    run(saved, catalogue(p8=None, p9=None), tmp_path / "store")
    assert run(saved, one_more_input(tmp_path), tmp_path / "store").stored == 1
    assert run(saved, catalogue(), tmp_path / "store").stored == 2
    assert len(stored(tmp_path / "store")) == 11


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


def test_the_order_of_the_fields_does_not_matter(
    saved: str, catalogue: Catalogue, tmp_path: Path
) -> None:
    run(saved, catalogue(), tmp_path / "store", fields={"price": "price", "sku": "id"})
    other = one_more_input(tmp_path)
    assert (
        run(
            saved, other, tmp_path / "store", fields={"sku": "id", "price": "price"}
        ).stored
        == 1
    )
    assert stored(tmp_path / "store")["q"]["sku"] == "q"


def one_more_input(tmp_path: Path, **changes: Any) -> str:
    row = {"id": "q", "title": "a hat", "photo": None, "price": 3, **changes}
    (tmp_path / "other.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    return str(tmp_path / "other.jsonl")


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


def test_a_row_that_is_joined_is_part_of_what_is_indexed(
    saved: str,
    catalogue: Catalogue,
    tmp_path: Path,
    forwards: list[int],
    images: list[Image.Image],
) -> None:
    def write(stock: int) -> None:
        rows = [{"number": n, "stock": stock, "photo": "0.png"} for n in range(NUM)]
        (tmp_path / "joined.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
        )

    write(1)
    name = catalogue()
    join = {"price": f"{tmp_path / 'joined.jsonl'}:number"}
    options: dict[str, Any] = {
        "join": join,
        "image": "price.photo",
        "fields": {"stock": "price.stock"},
    }
    run(saved, name, tmp_path / "store", **options)
    forwards.clear()
    write(22)
    assert run(saved, name, tmp_path / "store", **options).stored == NUM
    assert {row["stock"] for row in stored(tmp_path / "store").values()} == {22}
    assert not forwards
    images[1].save(tmp_path / "0.png")
    assert run(saved, name, tmp_path / "store", **options).stored == NUM
    assert forwards


def test_a_folder_of_embeddings_fills_one_store(
    saved: str, catalogue: Catalogue, tmp_path: Path
) -> None:
    folder = tmp_path / "embeddings"
    run(saved, catalogue(), tmp_path / "first", embeddings=folder)
    run(saved, catalogue(), tmp_path / "second", embeddings=folder)
    with pytest.raises(
        ValueError,
        match=r"first is not the store that .*embeddings fills.*; .*--overwrite",
    ):
        run(saved, catalogue(p9=None), tmp_path / "first", embeddings=folder)
    assert (
        run(
            saved,
            catalogue(p9=None),
            tmp_path / "first",
            embeddings=folder,
            overwrite=True,
        ).stored
        == 9
    )
    assert sorted(stored(tmp_path / "first")) == [f"p{number}" for number in range(9)]


def test_a_copy_of_a_store_is_another_store(
    saved: str, catalogue: Catalogue, tmp_path: Path
) -> None:
    run(saved, catalogue(), tmp_path / "store")
    assert copy_store(open_store(str(tmp_path / "store")), str(tmp_path / "copy")) == 10
    with pytest.raises(ValueError, match=r"copy is not the store that .* fills"):
        run(
            saved,
            catalogue(),
            tmp_path / "copy",
            embeddings=default_folder(str(tmp_path / "store")),
        )


def test_a_store_is_filled_from_one_folder_of_embeddings(
    saved: str, catalogue: Catalogue, tmp_path: Path
) -> None:
    other = one_more_input(tmp_path)
    run(saved, catalogue(), tmp_path / "store", embeddings=tmp_path / "one")
    with pytest.raises(ValueError, match=r"is not the store that .*two fills"):
        run(saved, other, tmp_path / "store", embeddings=tmp_path / "two")
    run(saved, other, tmp_path / "store", embeddings=tmp_path / "two", overwrite=True)
    assert sorted(stored(tmp_path / "store")) == ["q"]
    with pytest.raises(ValueError, match=r"is not the store that .*one fills"):
        run(saved, catalogue(), tmp_path / "store", embeddings=tmp_path / "one")


@pytest.mark.parametrize(
    "change", [{"fields": ["price", "brand"]}, {"vectors": ["text"]}, {"weight": 0.9}]
)
def test_what_another_input_was_indexed_with_is_left_out_of_a_store_that_is_made_again(
    saved: str,
    catalogue: Catalogue,
    tmp_path: Path,
    forwards: list[int],
    change: dict[str, Any],
) -> None:
    run(saved, catalogue(), tmp_path / "store")
    other = one_more_input(tmp_path, brand="b")
    run(saved, other, tmp_path / "store")
    forwards.clear()
    with pytest.warns(
        UserWarning,
        match=r"rows.jsonl is left out of the store, for it was indexed with",
    ):
        run(saved, other, tmp_path / "store", overwrite=True, **change)
    assert list(stored(tmp_path / "store")) == ["q"]
    files = default_folder(str(tmp_path / "store")).glob("*.parquet")
    assert ["other" in file.name for file in files] == [True]


def test_a_store_has_fused_vectors_of_one_weight(
    saved: str, catalogue: Catalogue, tmp_path: Path
) -> None:
    run(saved, catalogue(), tmp_path / "store")
    with pytest.raises(
        ValueError, match=r"was made with weight 0.5, and this is 0.9; add --overwrite"
    ):
        run(saved, catalogue(), tmp_path / "store", weight=0.9)
    assert (
        run(saved, catalogue(), tmp_path / "store", weight=0.9, overwrite=True).stored
        == 10
    )


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


def test_a_broken_file_of_embeddings_is_made_again(
    saved: str, catalogue: Catalogue, tmp_path: Path
) -> None:
    run(saved, catalogue(), tmp_path / "store")
    min(default_folder(str(tmp_path / "store")).glob("*.parquet")).write_bytes(b"PAR1")
    assert run(saved, catalogue(), tmp_path / "store").embedded == 1


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
        "over the cap of 40000000" in one["reason"]
        for one in skipped(tmp_path / "store")
    ] == [True]


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
        match=r"2 of 4 rows of .*, over max_skipped 0.4, and more than 1; repair what .*",
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
        match=r"2 of 4 rows .*, and max_skipped is 0; .* listed in .*skipped.jsonl",
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


def test_a_store_of_other_fields_or_vectors_is_refused_before_anything_is_embedded(
    saved: str, catalogue: Catalogue, tmp_path: Path, forwards: list[int]
) -> None:
    run(saved, catalogue(), tmp_path / "store")
    forwards.clear()
    with pytest.raises(
        ValueError,
        match=r"was made with fields \{'price': 'int'\}, and this is \{\}; add --overwrite",
    ):
        run(saved, catalogue(), tmp_path / "store", fields=[])
    with pytest.raises(
        ValueError, match=r"was made with vectors .*; add --overwrite to make it again"
    ):
        run(saved, catalogue(), tmp_path / "store", vectors=["fused"])
    assert not forwards
    assert (
        run(
            saved, catalogue(), tmp_path / "store", vectors=["fused"], overwrite=True
        ).stored
        == 10
    )
    assert [
        name for name in stored(tmp_path / "store")["p0"] if name.startswith("vector_")
    ] == ["vector_fused"]


def test_a_calibrated_index_has_calibrated_vectors(
    saved: str, catalogue: Catalogue, tmp_path: Path, texts: list[str]
) -> None:
    means = [np.full(24, 0.02, np.float32), np.full(24, -0.03, np.float32)]
    save_calibration(Path(saved), Calibration(*means))
    run(saved, catalogue(), tmp_path / "plain", embeddings=tmp_path / "embeddings")
    run(
        saved,
        catalogue(),
        tmp_path / "store",
        embeddings=tmp_path / "calibrated",
        calibrated=True,
    )
    wanted = load(saved, device="cpu", calibrated=True).encode_document(texts[0])[0]
    np.testing.assert_allclose(
        stored(tmp_path / "store")["p0"]["vector_text"], wanted, rtol=0, atol=1e-6
    )
    opened = open_store(str(tmp_path / "store"))
    assert opened.schema.about["calibrated"] == "true"
    with pytest.raises(
        ValueError,
        match=r"was made with .* \(fingerprint .*; name another store, or add --overwrite",
    ):
        run(
            saved,
            one_more_input(tmp_path),
            tmp_path / "plain",
            embeddings=tmp_path / "embeddings",
            calibrated=True,
        )


def test_embeddings_of_another_model_are_not_mixed_in(
    saved: str, catalogue: Catalogue, tmp_path: Path, forwards: list[int]
) -> None:
    run(saved, catalogue(), tmp_path / "store", embeddings=tmp_path / "embeddings")
    forwards.clear()
    (tmp_path / "other.jsonl").write_text('{"title": "a hat"}\n', encoding="utf-8")
    save_calibration(
        Path(saved), Calibration(np.zeros(24, np.float32), np.full(24, 0.1, np.float32))
    )
    with pytest.raises(
        ValueError,
        match=r"has .*rows.jsonl too, indexed with another model or weight; .*--embeddings",
    ):
        run(
            saved,
            str(tmp_path / "other.jsonl"),
            tmp_path / "new",
            embeddings=tmp_path / "embeddings",
            calibrated=True,
            image="",
            fields=[],
        )
    assert not forwards


def test_a_text_model_indexes_texts_and_keeps_thumbnails(
    tmp_path: Path, catalogue: Catalogue, model: DualEncoder, tokenizer: Tokenizer
) -> None:
    save_model(
        tmp_path / "texts",
        build_model(model.config.model_copy(update={"image": None})),
        tokenizer,
    )
    run(str(tmp_path / "texts"), catalogue(), tmp_path / "store")
    rows = stored(tmp_path / "store")
    assert [name for name in rows["p0"] if name.startswith("vector_")] == [
        "vector_text"
    ]
    assert rows["p0"]["thumbnail"]
    with pytest.raises(
        ValueError, match=r"vectors 'image' are wanted and .* embeds text alone"
    ):
        run(
            str(tmp_path / "texts"),
            catalogue(),
            tmp_path / "another",
            vectors=["image"],
        )


def test_two_runs_do_not_write_to_one_folder_at_a_time(
    saved: str, catalogue: Catalogue, tmp_path: Path
) -> None:
    folder = default_folder(str(tmp_path / "store"))
    folder.mkdir()
    with (
        alone(folder, Ranks()),
        pytest.raises(ValueError, match="another run writes embeddings to"),
    ):
        run(saved, catalogue(), tmp_path / "store")


def test_the_files_hold_what_the_store_holds(
    saved: str, catalogue: Catalogue, tmp_path: Path
) -> None:
    run(saved, catalogue(), tmp_path / "store")
    files = sorted(default_folder(str(tmp_path / "store")).glob("*.parquet"))
    rows = [
        row
        for file in files
        for row in parquet.read_table(file).drop_columns("_content").to_pylist()
    ]
    assert {row["id"]: row for row in rows} == stored(tmp_path / "store")


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


@pytest.fixture
def world() -> dict[str, str]:
    """The environment of two ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return {
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free.getsockname()[1]),
        }


def test_two_processes_share_the_units_and_one_fills_the_store(
    saved: str, catalogue: Catalogue, tmp_path: Path, world: dict[str, str]
) -> None:
    values = {"input": catalogue(), "text": "title", "image": "photo", "per_unit": 2}
    runs = [
        Run(saved, values, str(tmp_path / "store"), **world, RANK=str(rank))
        for rank in range(2)
    ]
    first, second = (one.summary() for one in runs)
    assert (first.embedded, first.reused, first.stored, first.rank) == (5, 0, 10, 0)
    assert (second.embedded, second.reused, second.stored, second.rank) == (5, 0, 0, 1)
    assert len(stored(tmp_path / "store")) == 10


def test_one_process_alone_opens_the_store(
    saved: str, catalogue: Catalogue, tmp_path: Path, world: dict[str, str]
) -> None:
    name = catalogue()
    store = tmp_path / "store"
    run(saved, name, store, fields=[])
    values = {"input": name, "text": "title", "image": "photo", "per_unit": 4}
    first = Run(saved, values, str(store), **world, RANK="0")
    second = Run(
        saved, values, str(store), **world, RANK="1", what="open_store", slow=600
    )
    assert [one.summary(60).reused for one in (first, second)] == [3, 3]


def test_a_process_ends_when_another_is_killed(
    saved: str, catalogue: Catalogue, tmp_path: Path, world: dict[str, str]
) -> None:
    values = {"input": catalogue(), "text": "title", "image": "photo", "per_unit": 2}
    first = Run(saved, values, str(tmp_path / "store"), **world, RANK="0")
    second = Run(
        saved,
        values,
        str(tmp_path / "store"),
        **world,
        RANK="1",
        what="encode",
        slow=600,
    )
    wait_until(
        lambda: (
            len(list(default_folder(str(tmp_path / "store")).glob("*.parquet"))) == 3
        )
    )
    second.kill()
    error = first.summary()
    assert "waited in vain for another rank" in str(error)


def test_a_run_killed_while_it_embeds_redoes_the_unit_in_flight_alone(
    saved: str, catalogue: Catalogue, tmp_path: Path
) -> None:
    name = catalogue()
    folder = default_folder(str(tmp_path / "store"))
    values = {
        "input": name,
        "text": "title",
        "image": "photo",
        "fields": ["price"],
        "per_unit": 1,
    }
    killed = Run(saved, values, str(tmp_path / "store"), what="encode", slow=0.1)
    wait_until(lambda: len(list(folder.glob("*.parquet"))) >= 3)
    killed.kill()
    there = len(list(folder.glob("*.parquet")))
    assert 3 <= there < NUM
    summary = run(saved, name, tmp_path / "store", per_unit=1)
    assert (summary.embedded, summary.reused) == (NUM - there, there)
    run(saved, name, tmp_path / "whole", per_unit=1)
    rows = stored(tmp_path / "store")
    whole = stored(tmp_path / "whole")
    assert rows.keys() == whole.keys()
    for one, row in rows.items():  # two processes may differ in a vector's last bit
        np.testing.assert_allclose(
            row["vector_fused"], whole[one]["vector_fused"], rtol=0, atol=1e-6
        )


def test_a_run_killed_while_it_fills_the_store_redoes_the_file_in_flight_alone(
    saved: str, catalogue: Catalogue, tmp_path: Path
) -> None:
    name = catalogue()
    folder = default_folder(str(tmp_path / "store"))
    values = {
        "input": name,
        "text": "title",
        "image": "photo",
        "fields": ["price"],
        "per_unit": 1,
    }
    killed = Run(saved, values, str(tmp_path / "store"), what="upsert", slow=0.1)
    wait_until(lambda: num_filled(folder) >= 3)
    killed.kill()
    there = num_filled(folder)
    assert 3 <= there < NUM
    summary = run(saved, name, tmp_path / "store", per_unit=1)
    assert summary.embedded == 0
    assert (
        NUM - there - 1 <= summary.stored <= NUM - there
    )  # the file in flight may have been put in
    assert len(stored(tmp_path / "store")) == NUM


def num_filled(folder: Path) -> int:
    record = folder / ".filled.json"
    states = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    return sum(state != "" for state in states.values())


def test_a_cut_export_is_refused_before_the_store_changes(
    saved: str, tmp_path: Path, forwards: list[int]
) -> None:
    store = str(tmp_path / "shop")
    whole = {f"p{number}": number for number in range(30)}
    day = write_day(tmp_path / "day.jsonl", whole)
    index_day(saved, day, store)
    write_day(tmp_path / "day.jsonl", dict(list(whole.items())[:5]))
    refused = (
        r"25 of 30 items of .*day.jsonl are not in .*day.jsonl any more, over max_removed 0.2, and more than 10: the "
        r"store is as it was; if they shall go, add max_removed=0.84\."
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
        match=r"10 of 12 items .*, and max_removed is 0: .* add max_removed=0.84\.",
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


def test_a_try_that_stored_nothing_binds_nothing(saved: str, tmp_path: Path) -> None:
    store = str(tmp_path / "shop")
    day = write_day(tmp_path / "day.jsonl", {"a": 1})
    with pytest.raises(ValueError, match="all 1 rows"):
        index_day(saved, day, store, fields={"price": "title:int"})
    assert not Path(store).exists()
    assert index_day(saved, day, store, thumbnail=0, words=[]).stored == 1
    assert prices_in(store) == {"a": 1}


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


def test_other_readers_take_the_folder_for_one_table(
    saved: str, tmp_path: Path
) -> None:
    store = str(tmp_path / "shop")
    day = write_day(tmp_path / "_day.jsonl", {"a": 1, "b": 1})
    Path(day).write_text(Path(day).read_text() + "no JSON\n")
    index_day(saved, day, store, per_unit=1)
    assert skipped(tmp_path / "shop")
    write_day(tmp_path / "_day.jsonl", {"c": 2})
    with pytest.raises(ValueError, match="2 of 2 items"):
        index_day(saved, day, store, max_removed=0)
    read = parquet.read_table(default_folder(store))
    assert sorted(
        zip(read["id"].to_pylist(), read["price"].to_pylist(), strict=True)
    ) == [("a", 1), ("b", 1)]


def test_who_holds_the_folder_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    holder = rf"\(process {os.getpid()} on .* since 20"
    for _ in range(2):  # the second finds the file of the first
        with (
            alone(folder, Ranks()),
            pytest.raises(ValueError, match=holder),
            alone(folder, Ranks()),
        ):
            raise AssertionError
    (tmp_path / "file").touch()
    is_file = r"file is a file, and embeddings need a folder"
    with pytest.raises(ValueError, match=is_file), alone(tmp_path / "file", Ranks()):
        raise AssertionError


def test_a_file_in_the_place_of_a_store_is_refused_at_once(
    saved: str, tmp_path: Path, forwards: list[int]
) -> None:
    day = write_day(tmp_path / "day.jsonl", {"a": 1})
    (tmp_path / "file").touch()
    for overwrite in (False, True):
        with pytest.raises(
            ValueError,
            match=r"file is a file, and a store is a folder; name another place",
        ):
            index_day(saved, day, str(tmp_path / "file"), overwrite=overwrite)
    assert not forwards


def test_days_do_not_make_a_store_grow(
    saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unimodal.search.stores.lance.KEEP_VERSIONS", timedelta(0))
    store = tmp_path / "shop"
    sizes = list[int]()
    for number in range(5):
        day = write_day(
            tmp_path / "day.jsonl", {f"p{one}": number for one in range(20)}
        )
        index_day(saved, day, str(store))
        sizes.append(
            sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
        )
    assert sizes[-1] < 1.2 * sizes[1]


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
