"""A store has what its input has, and nothing is embedded twice."""

from __future__ import annotations

import io
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from tests.unimodal.search.index.days import index_day, write_day
from tests.unimodal.search.index.products import (
    NUM,
    Catalogue,
    one_more_input,
    run,
    skipped,
    stored,
)
from unimodal.config import parse_config
from unimodal.embedder import Embedder, load
from unimodal.search.index import partitions, reading
from unimodal.search.index.fill import fill
from unimodal.search.index.inputs import default_folder
from unimodal.search.index.items import IndexConfig
from unimodal.search.index.run import index
from unimodal.tables import readers


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


def test_a_broken_file_of_embeddings_is_made_again(
    saved: str, catalogue: Catalogue, tmp_path: Path
) -> None:
    run(saved, catalogue(), tmp_path / "store")
    min(default_folder(str(tmp_path / "store")).glob("*.parquet")).write_bytes(b"PAR1")
    assert run(saved, catalogue(), tmp_path / "store").embedded == 1


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


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "tsv", "txt"])
def test_an_input_is_opened_and_parsed_once(
    saved: str,
    tmp_path: Path,
    ending: str,
    opened: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / f"rows.{ending}"
    _write_rows(file)
    parsed: list[bytes] = []
    parse_line = readers.parse_line

    def noted(line: bytes) -> dict[str, Any]:
        parsed.append(line)
        return parse_line(line)

    monkeypatch.setattr(reading, "parse_line", noted)
    options: dict[str, Any] = {"image": "", "fields": [], "text": "text"}
    if ending != "txt":
        options |= {"image": "photo", "fields": ["price"]}
    opened.clear()
    summary = run(saved, str(file), tmp_path / "store", **options)
    assert opened.count(str(file)) == 1
    assert (summary.items, summary.embedded) == (NUM, 3)
    assert len(parsed) == (NUM if ending == "jsonl" else 0)


def test_a_parquet_file_is_opened_once(
    saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rows.parquet"
    _write_rows(file)
    opened: list[Path] = []
    open_parquet = readers.open_parquet

    def noted(path: Path) -> Any:
        opened.append(path)
        return open_parquet(path)

    monkeypatch.setattr(partitions, "open_parquet", noted)
    monkeypatch.setattr(reading, "open_parquet", noted)
    assert run(saved, str(file), tmp_path / "store", text="text").items == NUM
    assert opened == [file]


def _write_rows(file: Path) -> None:
    """Ten rows, each with an image of its own."""
    rows = []
    for number in range(NUM):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(file.with_name(f"{number}.png"))
        rows.append(
            {"text": f"hat {number}", "photo": f"{number}.png", "price": number}
        )
    if file.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), file)
        return
    if file.suffix == ".json":
        file.write_text(json.dumps(rows), encoding="utf-8")
        return
    if file.suffix == ".jsonl":
        lines = [json.dumps(row) for row in rows]
    elif file.suffix == ".txt":
        lines = [str(row["text"]) for row in rows]
    else:
        mark = "," if file.suffix == ".csv" else "\t"
        lines = [
            mark.join(rows[0]),
            *(mark.join(map(str, row.values())) for row in rows),
        ]
    file.write_text("\n".join(lines), encoding="utf-8")
