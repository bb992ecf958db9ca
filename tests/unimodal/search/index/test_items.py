"""Rows become items: id, text, image and fields; one that cannot says why."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from unimodal.config import parse_config
from unimodal.search.index.items import (
    IndexConfig,
    Item,
    cut_input,
    image_identity,
    infer_types,
    items,
)
from unimodal.search.index.reading import RawRow

ROWS = [
    {
        "sku": "A",
        "title": "a red hat",
        "about": ["warm", "soft"],
        "price": "52",
        "attributes": {"size": 3},
    },
    {
        "sku": "B",
        "title": "a cup",
        "about": [],
        "price": "7.5",
        "attributes": {"size": 4},
    },
]


def table(folder: Path, rows: list[dict[str, Any]]) -> str:
    (folder / "rows.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    return str(folder / "rows.jsonl")


def found(name: str, **options: Any) -> list[Item | RawRow]:
    config = parse_config(IndexConfig, {"input": name, **options})
    cut = cut_input(config)
    config, types = infer_types(config, cut, {})
    return [item for partition in cut for item in items(partition, config, types)]


def faults(name: str, **options: Any) -> dict[int, str]:
    return {
        item.number: item.fault
        for item in found(name, **options)
        if isinstance(item, RawRow)
    }


def test_an_item_has_its_texts_joined_and_its_fields_cast(tmp_path: Path) -> None:
    name = table(tmp_path, ROWS)
    first, second = found(
        name,
        id="sku",
        text=["title", "about"],
        words="title",
        fields=["price:float", "attributes.size"],
    )
    assert first == Item(
        0, "A", "a red hat\nwarm\nsoft", None, "a red hat", {"price": 52.0, "size": 3}
    )
    assert second == Item(1, "B", "a cup", None, "a cup", {"price": 7.5, "size": 4})


def test_a_text_may_be_a_template_of_fields(tmp_path: Path) -> None:
    first, _ = found(
        table(tmp_path, ROWS), id="sku", text="{title}, size {attributes.size}"
    )
    assert isinstance(first, Item)
    assert first.text == "a red hat, size 3"


def test_an_id_is_that_of_the_rows_or_else_their_place(tmp_path: Path) -> None:
    name = table(tmp_path, ROWS)
    assert [
        item.id for item in found(name, text="title") if isinstance(item, Item)
    ] == ["rows.jsonl/0", "rows.jsonl/1"]
    name = table(tmp_path, [{"id": 7, **ROWS[0]}, {"id": "8", **ROWS[1]}])
    assert [
        item.id for item in found(name, text="title") if isinstance(item, Item)
    ] == ["7", "8"]


def test_full_text_search_can_be_left_out(tmp_path: Path) -> None:
    first, _ = found(table(tmp_path, ROWS), text="title", words=[])
    assert isinstance(first, Item)
    assert first.full_text == ""


def test_the_parent_is_a_field(tmp_path: Path) -> None:
    first, _ = found(table(tmp_path, ROWS), text="title", parent="attributes.size")
    assert isinstance(first, Item)
    assert first.fields == {"size": 3}


def test_a_parent_by_the_name_of_another_field_is_refused() -> None:
    message = (
        "parent 'meta.group' would be called 'group', as is 'shelf'; name it: fields={NAME: "
        "meta.group}"
    )
    with pytest.raises(ValueError, match=message):
        parse_config(
            IndexConfig,
            {"input": "a.jsonl", "parent": "meta.group", "fields": {"group": "shelf"}},
        )


def test_an_image_is_a_path_below_the_input_the_first_of_a_list_or_bytes(
    tmp_path: Path, images: list[Image.Image]
) -> None:
    images[0].save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    name = table(
        tmp_path,
        [
            {"photo": "a.png"},
            {"photo": ["a.png", "b.png"]},
            {"photo": {"bytes": None, "path": "a.png"}},
        ],
    )
    assert [
        item.image for item in found(name, image="photo") if isinstance(item, Item)
    ] == [tmp_path / "a.png"] * 3
    rows = [{"photo": content}, {"photo": content}]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    inside = found(str(tmp_path / "a.parquet"), image="photo")
    assert [item.image for item in inside if isinstance(item, Item)] == [content] * 2


def test_images_may_lie_in_another_folder(
    tmp_path: Path, images: list[Image.Image]
) -> None:
    (tmp_path / "photos").mkdir()
    images[0].save(tmp_path / "photos" / "a.png")
    (first,) = found(
        table(tmp_path, [{"photo": "a.png"}]),
        image="photo",
        image_root=str(tmp_path / "photos"),
    )
    assert isinstance(first, Item)
    assert first.image == tmp_path / "photos" / "a.png"


@pytest.mark.parametrize(
    "outside", ["../secret.png", "photos/../../secret.png", "{}/secret.png"]
)
def test_an_image_outside_of_its_folder_is_not_read(
    tmp_path: Path, images: list[Image.Image], outside: str
) -> None:
    (tmp_path / "shop" / "photos").mkdir(parents=True)
    images[0].save(tmp_path / "secret.png")
    rows: list[dict[str, Any]] = [
        {"title": "a", "photo": None},
        {"title": "b", "photo": outside.format(tmp_path)},
    ]
    name = table(tmp_path / "shop", rows)
    (fault,) = faults(name, text="title", image="photo", missing_image="skip").values()
    assert re.search(
        r"secret.png' is not below .*shop; set image_root to a folder above it", fault
    )


def test_an_image_may_be_named_from_the_root_if_it_is_below_its_folder(
    tmp_path: Path, images: list[Image.Image]
) -> None:
    images[0].save(tmp_path / "a.png")
    (first,) = found(
        table(tmp_path, [{"photo": str(tmp_path / "a.png")}]), image="photo"
    )
    assert isinstance(first, Item)
    assert first.image == tmp_path / "a.png"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"title": " "}, "neither text nor image in title, photo"),
        ({"title": None}, "neither text nor image in title, photo"),
        ({"title": "a", "photo": "nowhere.png"}, "nowhere.png' does not exist"),
        (
            {"title": "a", "photo": "large.png"},
            "1,001 bytes.*max_image_bytes is 1,000",
        ),
        (
            {"title": "a", "price": "cheap"},
            "price: 'cheap' is not a number, it is of type string",
        ),
        (
            {"title": "a", "id": None},
            "id is empty, and an id is a text or a whole number",
        ),
        (
            {"title": "a", "id": [1]},
            r"id is \[1\], and an id is a text or a whole number",
        ),
        ({"title": "a", "id": "good"}, "its id 'good' is that of row 0 too"),
    ],
)
def test_a_row_that_cannot_be_indexed_says_why(
    tmp_path: Path, row: dict[str, Any], reason: str
) -> None:
    (tmp_path / "large.png").write_bytes(bytes(1001))
    good = {"id": "good", "title": "a", "photo": None, "price": 1}
    rows = [good, {"id": "bad", **row}, {**good, "id": "better"}]
    ((number, fault),) = faults(
        table(tmp_path, rows),
        text="title",
        image="photo",
        fields=["price:float"],
        max_image_bytes=1000,
        missing_image="skip",
    ).items()
    assert number == 1
    assert re.search(reason, fault)


@pytest.mark.parametrize(
    "photo", ["nowhere.png", "../b.png", "large.png", 3, "https://shop.example/a.png"]
)
def test_an_item_whose_image_cannot_be_read_stays_and_says_why(
    tmp_path: Path, photo: Any
) -> None:
    (tmp_path / "large.png").write_bytes(bytes(1001))
    name = table(
        tmp_path, [{"title": "a", "photo": photo}, {"title": None, "photo": photo}]
    )
    item, row = found(name, text="title", image="photo", max_image_bytes=1000)
    assert isinstance(item, Item)
    assert (item.text, item.image) == ("a", None)
    assert isinstance(row, RawRow)
    assert item.fault == row.fault != ""


NOTHING = [None, float("nan"), "", "  ", [], [None]]


@pytest.mark.parametrize("value", NOTHING, ids=repr)
def test_a_missing_value_is_missing_in_every_part_of_an_item(
    tmp_path: Path, value: Any
) -> None:
    row = {
        "title": "Hat",
        "color": value,
        "photo": value,
        "price": value,
        "tags": value,
    }
    name = table(
        tmp_path, [row, {**row, "color": "red", "price": 2.5, "tags": ["a", value]}]
    )
    options = {
        "text": "{title}, {color}",
        "image": "photo",
        "fields": ["price:float", "color", "tags:strings"],
    }
    first, second = found(name, **options)
    assert isinstance(first, Item)
    assert isinstance(second, Item)
    assert (first.text, first.image, first.fault) == ("Hat", None, "")
    assert first.fields == {"price": None, "color": None, "tags": None}
    assert second.text == "Hat, red"
    assert second.fields == {"price": 2.5, "color": "red", "tags": ["a"]}
    assert (
        "id is empty, and an id is a text or a whole number"
        in faults(table(tmp_path, [{"id": 1, **row}, {"id": value, **row}]), **options)[
            1
        ]
    )


def test_the_numbers_of_a_csv_are_numbers_and_its_codes_are_texts(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.csv").write_text(
        "title,price,stock,code,lot,seen\na,5.50,1,00123,1e5,true\nb,, 2,7,12,False\n",
        encoding="utf-8",
    )
    first, second = found(
        str(tmp_path / "a.csv"),
        text="title",
        fields=["price", "stock", "code", "lot", "seen"],
    )
    assert isinstance(first, Item)
    assert isinstance(second, Item)
    assert first.fields == {
        "price": 5.5,
        "stock": 1,
        "code": "00123",
        "lot": "1e5",
        "seen": True,
    }
    assert second.fields == {
        "price": None,
        "stock": 2,
        "code": "7",
        "lot": "12",
        "seen": False,
    }


@pytest.mark.parametrize("value", ["a\nb", "\ud83d"])
def test_an_id_that_is_not_one_line_of_text_is_refused(
    tmp_path: Path, value: str
) -> None:
    name = table(tmp_path, [{"id": "good", "title": "a"}, {"id": value, "title": "b"}])
    assert "and an id is one line of Unicode text" in faults(name, text="title")[1]


def test_a_link_to_no_image_says_so(tmp_path: Path, images: list[Image.Image]) -> None:
    images[0].save(tmp_path / "a.png")
    (tmp_path / "b.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert "b.jpg' is a link to a file that does not exist" in faults(str(tmp_path))[1]


def test_filters_and_joins_are_those_of_tables(tmp_path: Path) -> None:
    (tmp_path / "stock.csv").write_text("sku,left\nA,3\nB,0\n", encoding="utf-8")
    options = {
        "id": "sku",
        "text": "title",
        "join": {"sku_of": f"{tmp_path}/stock.csv:sku"},
    }
    name = table(tmp_path, [{**row, "sku_of": row["sku"]} for row in ROWS])
    kept = found(name, **options, where={"sku_of.left": 3}, fields=["sku_of.left:int"])
    assert [(item.id, item.fields) for item in kept if isinstance(item, Item)] == [
        ("A", {"left": 3})
    ]
    assert not [item for item in kept if isinstance(item, RawRow)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"text": "titel"},
            "field 'titel' is not in any row of .*; did you mean 'title'",
        ),
        (
            {"text": "title", "fields": ["prize"]},
            "field 'prize' is not in any row of .*; did you mean 'price'",
        ),
        (
            {"text": "title", "id": "skus"},
            "field 'skus' is not in any row of .*; did you mean 'sku'",
        ),
        ({"text": "title", "where": {"sku": "C"}}, "0 rows are left; loosen where"),
        (
            {"text": "title", "where": {"skuu": "A"}},
            "field 'skuu' is not in any row of .*; did you mean 'sku'",
        ),
        (
            {},
            "text=FIELD.*image=FIELD.*: sku, title",
        ),
    ],
)
def test_what_fits_no_row_at_all_ends_the_run_at_once(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        found(table(tmp_path, ROWS), **options)


def test_a_field_that_few_rows_have_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unimodal.search.index.items.NUM_INFERRED", 2)
    rows = [{"title": "a"}] * 5 + [{"title": "b", "sale": 3}]
    last = found(table(tmp_path, rows), text="title", fields=["sale:int"])[-1]
    assert isinstance(last, Item)
    assert last.fields == {"sale": 3}


def test_an_image_that_a_table_names_is_part_of_its_partition(
    tmp_path: Path, images: list[Image.Image]
) -> None:
    images[0].save(tmp_path / "a.png")
    config = parse_config(
        IndexConfig, {"input": table(tmp_path, [{"photo": "a.png"}]), "image": "photo"}
    )
    before = image_identity(cut_input(config)[0], config)
    assert image_identity(cut_input(config)[0], config) == before
    images[1].save(tmp_path / "a.png")
    assert image_identity(cut_input(config)[0], config) != before


def test_an_image_whose_name_is_no_unicode_text_does_not_exist(tmp_path: Path) -> None:
    name = table(
        tmp_path, [{"title": "a", "photo": "\ud83d.png"}, {"title": "b", "photo": None}]
    )
    config = parse_config(
        IndexConfig, {"input": name, "text": "title", "image": "photo"}
    )
    assert image_identity(cut_input(config)[0], config)
    assert (
        "does not exist"
        in faults(name, text="title", image="photo", missing_image="skip")[0]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vectors": "sound"}, "vectors"),
        ({"weight": 2}, "weight"),
        ({"fields": ["price:money"]}, "'price:money' ends with the type 'money'"),
        ({"titel": "a"}, "unknown key 'titel'"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        parse_config(IndexConfig, {"input": "a.jsonl", **options})
