from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval.data.inputs import Fused
from eval.data.retrieval import RetrievalData
from eval.evaluate import evaluate
from eval.results import rows_of
from eval.suites import Suite, load_tasks
from tests.eval.layouts import make_image
from unimodal.config import parse_config
from unimodal.embedder import Embedder

PRODUCTS: list[dict[str, Any]] = [
    {
        "sku": sku,
        "parent": parent,
        "title": parent.title(),
        "color": color,
        "category": category,
        "images": images,
    }
    for sku, parent, color, category, images in [
        ("hat-red", "hat", "red", ["head", "new"], ["hr.jpg", "hr2.jpg"]),
        ("hat-blue", "hat", "blue", ["head"], ["hb.jpg", "hr.jpg", "hb2.jpg"]),
        ("cap", "cap", None, ["head"], ["c.jpg"]),
        ("shoe", "shoe", "red", ["feet", "new"], ["s.jpg"]),
    ]
]
ROWS: dict[str, Any] = {"input": "shop/products.jsonl"}
QUESTIONS: dict[str, Any] = {
    "text": {"rows": ROWS, "text": ["title", "color"]},
    "photo": {"rows": ROWS, "image": "images", "skip": 1},
    "photo+text": {
        "rows": ROWS,
        "image": "images",
        "skip": 1,
        "text": ["color"],
        "sibling": "parent",
    },
}
TASK: dict[str, Any] = {
    "kind": "lookup",
    "catalogue": {"rows": ROWS, "text": ["title", "color"], "image": "images"},
    "questions": QUESTIONS,
    "grades": {"sku": 3, "parent": 2, "category": 1},
}


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with shop/products.jsonl and its images."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "products.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in PRODUCTS)
    )
    for number, name in enumerate(
        sorted({image for row in PRODUCTS for image in row["images"]})
    ):
        (tmp_path / "shop" / name).write_bytes(make_image(number))
    return tmp_path


def load(root: Path, task: dict[str, Any] = TASK) -> dict[str, RetrievalData]:
    loaded = load_tasks(parse_config(Suite, {"tasks": {"shop": task}}), root, "test")
    return {
        name: data for name, data in loaded.items() if isinstance(data, RetrievalData)
    }


def grades(data: RetrievalData, query: int) -> dict[int, float]:
    assert data.gains is not None
    return dict(zip(data.relevant[query], data.gains[query], strict=True))


def test_every_question_searches_every_form_of_the_catalogue(shop: Path) -> None:
    loaded = load(shop)
    assert list(loaded) == [
        f"shop/{question}->{form}"
        for question in ("text", "photo", "photo+text")
        for form in ("text", "image", "fused")
    ]
    assert loaded["shop/text->text"].documents == [
        "Hat, red",
        "Hat, blue",
        "Cap",
        "Shoe, red",
    ]
    assert loaded["shop/text->image"].documents == [
        shop / "shop" / name for name in ("hr.jpg", "hb.jpg", "c.jpg", "s.jpg")
    ]
    assert loaded["shop/text->fused"].documents[0] == Fused(
        "Hat, red", shop / "shop" / "hr.jpg"
    )


def test_relevance_is_the_highest_grade_of_the_fields_that_agree(shop: Path) -> None:
    data = load(shop)["shop/text->text"]
    assert data.queries == ["Hat, red", "Hat, blue", "Cap", "Shoe, red"]
    assert grades(data, 0) == {0: 3, 1: 2, 2: 1, 3: 1}
    assert grades(data, 2) == {2: 3, 0: 1, 1: 1}
    assert data.hit_gain == 3


def test_a_photo_that_is_in_the_catalogue_is_not_asked_with(shop: Path) -> None:
    data = load(shop)["shop/photo->image"]
    assert data.queries == [shop / "shop" / "hr2.jpg", shop / "shop" / "hb2.jpg"]
    assert not set(data.queries) & set(data.documents)
    assert grades(data, 1) == {1: 3, 0: 2, 2: 1}


def test_a_photo_of_a_sibling_asks_for_another_colour(shop: Path) -> None:
    data = load(shop)["shop/photo+text->image"]
    assert data.queries == [
        Fused("red", shop / "shop" / "hb2.jpg"),
        Fused("blue", shop / "shop" / "hr2.jpg"),
    ]
    assert grades(data, 0) == {0: 3, 1: 2, 2: 1, 3: 1}
    assert grades(data, 1) == {1: 3, 0: 2, 2: 1}


def test_questions_that_read_alike_are_one_with_the_higher_grades(shop: Path) -> None:
    alike = {
        **TASK,
        "questions": {"text": {"rows": ROWS, "text": ["title"]}},
        "grades": {"sku": 3, "category": 1},
    }
    data = load(shop, alike)["shop/text->text"]
    assert data.queries == ["Hat", "Cap", "Shoe"]
    assert grades(data, 0) == {0: 3, 1: 3, 2: 1, 3: 1}


def test_questions_may_come_from_another_table_with_fields_of_another_name(
    shop: Path,
) -> None:
    (shop / "photos.jsonl").write_text(
        json.dumps({"file": "p.jpg", "of": "shoe", "split": "test"})
        + "\n"
        + json.dumps({"file": "q.jpg", "of": "cap", "split": "val"})
        + "\n"
    )
    (shop / "p.jpg").touch()
    photos = {
        "rows": {"input": "photos.jsonl", "join": {"of": "shop/products.jsonl:sku"}},
        "image": "file",
        "splits": {"test": {"where": {"split": "test"}}},
        "fields": {"sku": "of.sku", "category": "of.category"},
    }
    loaded = load(
        shop,
        {**TASK, "questions": {"photo": photos}, "grades": {"sku": 3, "category": 1}},
    )
    assert loaded["shop/photo->text"].queries == [shop / "p.jpg"]
    assert grades(loaded["shop/photo->text"], 0) == {3: 3, 0: 1}


def test_questions_that_can_be_no_hit_are_counted(shop: Path) -> None:
    """A product that is sold no more is asked for, and only its like are in the catalogue."""
    (shop / "old.jsonl").write_text(
        json.dumps({**PRODUCTS[0], "sku": "hat-green", "color": "green"}) + "\n"
    )
    asked = {
        **TASK,
        "questions": {
            "text": {"rows": {"input": "old.jsonl"}, "text": ["title", "color"]}
        },
    }
    said = "1 of 1 questions have no product of grade 3 .*first 'Hat, green'"
    with pytest.warns(UserWarning, match=said):
        data = load(shop, asked)["shop/text->text"]
    assert grades(data, 0) == {0: 2, 1: 2, 2: 1, 3: 1}


def test_a_catalogue_of_texts_alone_has_one_form(shop: Path) -> None:
    texts = {
        **TASK,
        "catalogue": {"rows": ROWS, "text": ["title"]},
        "questions": {"text": QUESTIONS["text"]},
    }
    assert list(load(shop, texts)) == ["shop/text->text"]


def test_a_product_without_an_image_is_named(shop: Path) -> None:
    (shop / "shop" / "products.jsonl").write_text(
        json.dumps({**PRODUCTS[0], "images": []}) + "\n"
    )
    with pytest.raises(
        ValueError, match=r"a product without an image: .*hat-red.*; leave its row out"
    ):
        load(shop)


def test_photos_of_questions_that_are_missing_are_named_too(shop: Path) -> None:
    (shop / "shop" / "hb2.jpg").unlink()
    with pytest.raises(ValueError, match=r"\(1\): .*hb2\.jpg; "):
        load(shop)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grades": {"sku": 0}}, r"grades \{'sku': 0.0\} must be above 0"),
        (
            {"questions": {"text": {"rows": ROWS}}},
            "described by a text, an image or both; set one",
        ),
        (
            {
                "questions": {
                    "text": {
                        "rows": ROWS,
                        "text": ["title"],
                        "splits": {"a": {"wher": 1}},
                    }
                }
            },
            "did you mean 'where'",
        ),
    ],
)
def test_a_mistake_is_told_when_the_suite_is_read(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        parse_config(Suite, {"tasks": {"shop": {**TASK, **change}}})


class TextAlone:
    """A model without its image tower."""

    def __init__(self, embedder: Embedder) -> None:
        self.modalities = frozenset({"text"})
        self.encode = embedder.encode
        self.encode_query = embedder.encode_query
        self.encode_document = embedder.encode_document
        self.fingerprint = embedder.fingerprint
        self.prompts = embedder.prompts


def test_every_question_is_scored_beside_chance_and_beside_bm25_where_both_sides_have_words(
    shop: Path, tiny_embedder: Callable[[int], Embedder]
) -> None:
    suite = parse_config(
        Suite, {"tasks": {"shop": {**TASK, "metrics": ["ndcg_at_10", "hit_rate_at_1"]}}}
    )
    rows = {
        (row.task, row.metric): row
        for row in rows_of(evaluate(tiny_embedder(0), suite, shop))
    }
    assert len(rows) == 18
    for (task, metric), row in rows.items():
        question, _, form = task.removeprefix("shop/").partition("->")
        assert row.value is not None
        assert row.chance is not None
        assert (row.baseline is not None) is (
            question != "photo" and form != "image"
        ), (task, metric)
    assert rows["shop/text->text", "hit_rate_at_1"].chance == pytest.approx(
        1 / 4
    )  # the product itself, not its like
    assert rows["shop/text->text", "hit_rate_at_1"].baseline == 1.0


def test_a_text_model_is_scored_on_texts_alone(
    shop: Path, tiny_embedder: Callable[[int], Embedder]
) -> None:
    for image in (shop / "shop").glob("*.jpg"):
        image.unlink()
    suite = parse_config(Suite, {"tasks": {"shop": TASK}})
    rows = rows_of(evaluate(TextAlone(tiny_embedder(0)), suite, shop))
    assert {row.task for row in rows if row.value is not None} == {"shop/text->text"}
