"""Repositories become tables with the columns that suites and recipes name; each is tried on a
small one like it.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eval.prepare.coco_captions_text import convert_coco_captions_text
from eval.prepare.emoji_noto import KEYWORD_LANGUAGES, LANGUAGES, convert_emoji_noto
from eval.prepare.grocery_store import convert_grocery_store
from eval.prepare.images import shrink
from eval.prepare.luma_shop import convert_luma_shop
from eval.suites import load_tasks, read_suite


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def image(path: Path, size: tuple[int, int] = (400, 500)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(path)


def table(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(
            file, list(dict.fromkeys(name for row in rows for name in row)), restval=""
        )
        writer.writeheader()
        writer.writerows(rows)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_images_shrink_and_do_not_grow(tmp_path: Path) -> None:
    for name, size, expected in (
        ("large", (400, 500), (179, 224)),
        ("small", (30, 20), (30, 20)),
    ):
        image(tmp_path / f"{name}.png", size)
        shrink(tmp_path / f"{name}.png", tmp_path / f"{name}.jpg", 224)
        assert Image.open(tmp_path / f"{name}.jpg").size == expected


def test_sizes_of_a_garment_are_one_row_and_colours_are_several(
    source: Path, target: Path
) -> None:
    def simple(size: str, colour: str, images: str = "") -> dict[str, str]:
        sku = f"MH01-{size}-{colour}"
        number = colour.lower()
        return {
            "sku": sku,
            "product_type": "simple",
            "additional_attributes": f"size={size},color={colour}",
            "base_image": f"/m/h/{number}_main.jpg",
            "additional_images": images,
        }

    variations = "|".join(
        f"sku=MH01-{size}-{colour},size={size},color={colour}"
        for size in "SM"
        for colour in ("Red", "Blue")
    )
    parent = {
        "sku": "MH01",
        "product_type": "configurable",
        "name": "Mars HeatTech&trade; Hoodie",
        "price": "52",
        "categories": "Default Category/Men/Tops,Default Category/Collections/New,Default Category",
        "description": "<p>Warm &amp; dry.</p>\n<p>&bull; Washable.</p>",
        "configurable_variations": variations,
        "additional_attributes": "has_options=1,material=Wool, soft,pattern=Solid",
    }
    table(
        source / "app/code/Magento/ConfigurableSampleData/fixtures/products.csv",
        [
            simple("S", "Red", "/m/h/red_back.jpg"),
            simple("S", "Blue"),
            simple("M", "Red"),
            simple("M", "Blue"),
            parent,
        ],
    )
    gear = source / "app/code/Magento/CatalogSampleData/fixtures/SimpleProduct"
    for name in (
        "bags",
        "fitness_equipment",
        "fitness_equipment_ball",
        "fitness_equipment_strap",
        "watches",
    ):
        row = {
            "sku": f"24-{name}",
            "name": name,
            "category": "Gear\nBags\nCollections\nNew",
            "price": "5",
            "description": "<ul><li>Good.\n</ul>",
            "material": "Nylon\nMesh",
        }
        table(
            gear / f"products_gear_{name}.csv",
            [{**row, "color": "Gray"} if name.endswith("ball") else row],
        )
        table(
            gear / f"images_gear_{name}.csv",
            [{"sku": f"24-{name}", "image": f"/g/e/{name}.jpg"}],
        )
        image(source / f"pub/media/catalog/product/g/e/{name}.jpg")
    for name in ("red_main", "red_back", "blue_main"):
        image(source / f"pub/media/catalog/product/m/h/{name}.jpg")
    write(source / "LICENSE.txt", "OSL")
    write(source / "LICENSE_AFL.txt", "AFL")

    convert_luma_shop(source, target)
    rows = rows_of(target / "products.jsonl")
    assert [row["sku"] for row in rows[:3]] == ["MH01-Red", "MH01-Blue", "24-bags"]
    assert rows[0] == {
        "sku": "MH01-Red",
        "parent": "MH01",
        "title": "Mars HeatTech™ Hoodie",
        "color": "Red",
        "category": ["Men/Tops"],
        "description": "Warm & dry. • Washable.",
        "attributes": {"material": "Wool, soft", "pattern": "Solid"},
        "price": "52",
        "images": ["images/red_main.jpg", "images/red_back.jpg"],
    }
    assert (rows[2]["category"], rows[2]["color"]) == (["Gear/Bags"], None)
    assert rows[2]["attributes"] == {"material": "Nylon, Mesh"}
    assert {row["color"] for row in rows[2:]} == {None, "Gray"}
    assert Image.open(target / "images" / "red_back.jpg").size == (179, 224)
    assert (target / "LICENSE.AFL-3.0.txt").read_text() == "AFL"


def grocery(source: Path) -> None:
    """Two products, the first with 22 photos of each split."""
    rows = []
    lines = dict[str, list[str]](train=[], val=[], test=[])
    for number, name in enumerate(("Pink-Lady", "Cabbage")):
        folder = f"/iconic/{name}/{name}"
        rows.append(
            {
                "Class Name (str)": name,
                "Class ID (int)": str(number),
                "Coarse Class Name (str)": "Fruit-or-so",
                "Iconic Image Path (str)": f"{folder}_Iconic.jpg",
                "Product Description Path (str)": f"{folder}_Description.txt",
            }
        )
        image(source / f"dataset{folder}_Iconic.jpg", (300, 300))
        write(source / f"dataset{folder}_Description.txt", f"{name} is\ngood.\n")
        for split in lines:
            for photo in range(1, 3 if number else 23):
                path = f"{split}/{name}/{name}_{photo:03d}.jpg"
                image(source / "dataset" / path, (150, 100))
                lines[split].append(f"{path}, {number}, 0")
    write(
        source / "dataset/iconic/Pink-Lady/Pink-Lady_Information.txt",
        "Title: Apple Pink Lady \nURL: none",
    )
    table(source / "dataset/classes.csv", rows)
    for split, of_split in lines.items():
        write(source / f"dataset/{split}.txt", "\n".join(of_split) + "\n")
    write(source / "LICENSE", "MIT")


def test_groceries_keep_a_share_of_the_photos_of_each_product(
    source: Path, target: Path
) -> None:
    grocery(source)
    convert_grocery_store(source, target)
    products = rows_of(target / "products.jsonl")
    photos = rows_of(target / "photos.jsonl")
    assert products[0] == {
        "id": 0,
        "name": "Pink Lady",
        "coarse": "Fruit or so",
        "title": "Apple Pink Lady",
        "description": "Pink-Lady is good.",
        "iconic": "images/iconic_00.jpg",
    }
    assert products[1]["title"] == ""
    counts = [
        sum(one["split"] == split and one["product"] == 0 for one in photos)
        for split in ("train", "val", "test")
    ]
    assert counts == [20, 22, 15]
    assert photos[0] == {
        "image": "images/train_Pink-Lady_001.jpg",
        "product": 0,
        "split": "train",
    }
    assert Image.open(target / photos[0]["image"]).size == (112, 75)


def test_the_shop_suite_reads_what_was_converted(source: Path, tmp_path: Path) -> None:
    grocery(source)
    (tmp_path / "grocery_store").mkdir()
    convert_grocery_store(source, tmp_path / "grocery_store")
    suite = read_suite("shop")
    groceries = [
        name for name, task in suite.tasks.items() if task.get == "grocery_store"
    ]
    others = [f"tasks.{name}=null" for name in suite.tasks if name not in groceries]
    loaded = load_tasks(
        read_suite("shop", [*others, "averages=null"]), tmp_path, "test"
    )
    assert groceries
    assert {name.partition("/")[0] for name in loaded} == {
        name.partition("/")[0] for name in groceries
    }


def test_emoji_have_names_where_a_language_has_one_and_no_skin_tones(
    source: Path, target: Path
) -> None:
    names: dict[str, Any] = {
        "😀": {"default": ["face", "grin"], "tts": ["grinning face"]},
        "☀": {
            "default": ["sun"],
            "tts": ["sun"],
        },  # written without the variation that the image's name has
        "👋🏽": {"tts": ["waving hand: medium skin tone"]},
    }
    for package, key in (
        ("cldr-annotations-full", "annotations"),
        ("cldr-annotations-derived-full", "annotationsDerived"),
    ):
        for language in LANGUAGES:
            part = (
                names
                if language == "en"
                else {"😀": {"tts": [f"face in {language}"], "default": [language]}}
            )
            content = {key: {"annotations": part if key == "annotations" else {}}}
            write(
                source / f"cldr/cldr-json/{package}/{key}/{language}/annotations.json",
                json.dumps(content),
            )
    for code in ("1f600", "2600_fe0f", "1f44b_1f3fd", "fe4e5"):
        image(source / f"noto/png/72/emoji_u{code}.png", (72, 72))
    write(source / "noto/LICENSE", "Apache")
    write(source / "cldr/LICENSE", "Unicode")
    convert_emoji_noto(source, target)
    sun, face = sorted(
        rows_of(target / "emoji.jsonl"), key=lambda row: str(row["name"]), reverse=True
    )
    assert (face["id"], face["char"], face["name"], face["keywords"]) == (
        "1f600",
        "😀",
        "grinning face",
        ["face", "grin"],
    )
    assert face["names"] == {
        one: "grinning face" if one == "en" else f"face in {one}" for one in LANGUAGES
    }
    assert face["keywords_i18n"] == {one: [one] for one in KEYWORD_LANGUAGES}
    assert (sun["char"], sun["names"], sun["keywords_i18n"]) == ("☀️", {"en": "sun"}, {})
    assert sorted(path.name for path in (target / "images").iterdir()) == [
        "1f600.png",
        "2600_fe0f.png",
    ]


def test_pairs_of_captions_are_those_of_known_images(
    source: Path, target: Path
) -> None:
    annotations = [
        {"id": 10, "image_id": 139, "caption": " A woman  stands. "},
        {"id": 11, "image_id": 139, "caption": "She stands."},
        {"id": 12, "image_id": 42, "caption": "A shoe."},
    ]
    write(
        source / "annotations/captions_val2017.json",
        json.dumps({"annotations": annotations}),
    )
    pairs = [
        ("10", "12", "0.5", "c2c_isim"),
        ("10", "999", "4", "c2c_isim"),
        ("11", "10", "4.25", "c2c_cocap"),
    ]
    for split in ("val", "test"):
        table(
            source / f"data/sts_{split}.csv",
            [
                {
                    "caption1": f"COCO_val2014:sentid:{left}",
                    "caption2": f"COCO_val2014:sentid:{right}",
                    "agg_score": score,
                    "sampling_method": sampling,
                }
                for left, right, score, sampling in pairs
            ],
        )
    write(source / "LICENSE", "free")
    convert_coco_captions_text(source, target)
    rows = rows_of(target / "captions.jsonl")
    assert [(row["coco_id"], row["captions"]) for row in rows] == [
        (42, ["A shoe."]),
        (139, ["A woman stands.", "She stands."]),
    ]
    assert not any(row["in_coco_open"] for row in rows)
    lines = (target / "cxc_sts.tsv").read_text().splitlines()
    assert lines[0].split("\t") == [
        "sentence1",
        "sentence2",
        "score",
        "split",
        "sampling",
        "image1",
        "image2",
    ]
    assert lines[2].split("\t") == [
        "She stands.",
        "A woman stands.",
        "4.25",
        "val",
        "c2c_cocap",
        "139",
        "139",
    ]
    assert len(lines) == 5


def test_captions_that_are_kept_for_evaluation_are_marked(
    source: Path, target: Path
) -> None:
    annotations = [{"id": 1, "image_id": 285, "caption": "A bear."}]
    write(
        source / "annotations/captions_val2017.json",
        json.dumps({"annotations": annotations}),
    )
    for split in ("val", "test"):
        row = {
            "caption1": "x:1",
            "caption2": "x:2",
            "agg_score": "1",
            "sampling_method": "x",
        }
        table(source / f"data/sts_{split}.csv", [row])
    write(source / "LICENSE", "free")
    convert_coco_captions_text(source, target)
    assert rows_of(target / "captions.jsonl") == [
        {"coco_id": 285, "captions": ["A bear."], "in_coco_open": True}
    ]
