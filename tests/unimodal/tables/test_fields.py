"""A field or template of a row gives the same texts, images and id to every command."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from unimodal.tables.fields import (
    UnreadableImageError,
    fill_template,
    id_of,
    image_folder,
    image_of,
    images_in,
    is_missing,
    names_in,
    text_of,
    texts_of,
    value_of,
)

MISSING = [
    None,
    float("nan"),
    np.float32("nan"),
    Decimal("NaN"),
    pd.NA,
    pd.NaT,
    np.datetime64("NaT"),
    "",
    " \n\t",
    b"",
    [],
    {},
    [None, " "],
    ("",),
    {"de": None, "en": float("nan")},
    np.array([float("nan")]),
]


@pytest.mark.parametrize("value", MISSING, ids=repr)
def test_a_missing_value_is_missing_whatever_wrote_it(value: Any) -> None:
    assert is_missing(value)
    row = {"title": "Hat", "color": value}
    assert texts_of(row, "color") == []
    assert texts_of(row, "{title}, {color}") == ["Hat"]
    assert value_of(row, "color") is None
    assert images_in(value) == []
    with pytest.raises(
        ValueError, match=r"color is .* and an id is a text or a whole number"
    ):
        id_of(value, "color")


@pytest.mark.parametrize(
    "value",
    [0, 0.0, False, "NA", "null", "None", "nan", [0], {"a": 0}, pd.Timestamp(0)],
    ids=repr,
)
def test_what_says_something_is_not_missing(value: Any) -> None:
    assert not is_missing(value)


def test_the_words_for_nothing_are_words() -> None:
    assert texts_of({"title": "NA"}, "{title} null") == ["NA null"]


def test_lists_and_objects_give_each_of_their_texts_and_a_template_joins_them() -> None:
    row = {
        "names": ["a", None, ["b", float("nan")]],
        "by": {"de": "Hut", "en": "hat", "fr": ""},
        "sizes": np.array([1, 2]),
    }
    assert texts_of(row, "names") == ["a", "b"]
    assert texts_of(row, "by") == ["Hut", "hat"]
    assert texts_of(row, "by.de") == ["Hut"]
    assert texts_of(row, "{names}: {by}, {sizes}") == ["a, b: Hut, hat, 1, 2"]
    assert text_of(row, ["names", "nowhere", "by.en"]) == "a\nb\nhat"


def test_a_text_has_no_blanks_around_it_and_json_s_words_for_truths() -> None:
    assert texts_of({"title": " Hat\n", "new": True}, "{title}, new: {new}") == [
        "Hat, new: true"
    ]


def test_bytes_are_not_a_text() -> None:
    with pytest.raises(ValueError, match="photo holds 3 bytes, which are not a text"):
        texts_of({"photo": b"abc"}, "{photo}")


@pytest.mark.parametrize(
    ("template", "values", "filled"),
    [
        ("{t}, {c}", {"t": "Hat", "c": "red"}, "Hat, red"),
        ("{t}, {c}", {"t": "Hat", "c": ""}, "Hat"),
        ("{t}, {c}", {"t": "", "c": "red"}, "red"),
        ("{t}, {c}", {"t": "", "c": ""}, ""),
        ("{t} in {c}", {"t": "Hat", "c": ""}, "Hat"),
        ("{t} ({c}), {s}", {"t": "Hat", "c": "", "s": "42"}, "Hat, 42"),
        ("{t} ({c}) {s}", {"t": "Hat", "c": "", "s": "42"}, "Hat 42"),
        ("{t}, size {s} cm. In {c}", {"t": "Hat", "c": "red", "s": ""}, "Hat. In red"),
        ("{t}, size {s} cm. In {c}", {"t": "Hat", "c": "", "s": "4"}, "Hat, size 4 cm"),
        ("a photo of a {t} in {c}.", {"t": "hat", "c": ""}, "a photo of a hat."),
        ("{a} {b} {c}", {"a": "1", "b": "", "c": "3"}, "1 3"),
        ("{a}\n{b}", {"a": "1", "b": ""}, "1"),
        ("{a}-{b}", {"a": "1", "b": "2"}, "1-2"),
        ("{a}-{b}", {"a": "", "b": "2"}, "2"),
        ("T-shirt {t} for {c}", {"t": "", "c": "men"}, "for men"),
        ("Product: {t}, {c}", {"t": "", "c": "red"}, "Product: red"),
        ("{t}", {"t": "{c}"}, "{c}"),
    ],
)
def test_a_template_leaves_out_what_is_missing_with_its_words_and_one_separator(
    template: str, values: dict[str, str], filled: str
) -> None:
    assert fill_template(template, values) == filled


def test_a_template_names_its_fields() -> None:
    assert names_in("{title}, {a.size}") == ["title", "a.size"]
    assert names_in("title") == ["title"]


@pytest.mark.parametrize(
    ("value", "text"),
    [("A 1", "A 1"), (7, "7"), (7.0, "7"), (np.int64(7), "7"), ("007", "007")],
)
def test_an_id_is_a_text_or_a_whole_number(value: Any, text: str) -> None:
    assert id_of(value, "id") == text


@pytest.mark.parametrize("value", [True, 7.5, [1], {"a": 1}, b"a", float("inf"), 1e300])
def test_what_is_neither_is_not_an_id(value: Any) -> None:
    with pytest.raises(ValueError, match="and an id is a text or a whole number"):
        id_of(value, "id")


@pytest.mark.parametrize(
    "value", ["a\nb", "a\r", "\0", "tab\there", "a\u2028b", "\ud83d"]
)
def test_an_id_with_a_line_break_is_refused(value: str) -> None:
    with pytest.raises(
        ValueError, match=r"id is .* and an id is one line of Unicode text"
    ):
        id_of(value, "id")


def test_an_image_is_a_path_bytes_or_what_a_data_set_holds_and_of_a_list_the_first(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.png").write_bytes(b"png")
    image = Image.new("RGB", (1, 1))
    path = tmp_path / "a.png"
    for value in (
        "a.png",
        ["a.png", "b.png"],
        {"bytes": None, "path": "a.png"},
        [None, "a.png"],
        str(path),
    ):
        assert image_of({"photo": value}, "photo", tmp_path) == path
    for content in (b"png", {"bytes": b"png", "path": "a.png"}, [{"bytes": b"png"}]):
        assert image_of({"photo": content}, "photo", tmp_path) == b"png"
    assert image_of({"photo": image}, "photo", tmp_path) is image
    assert image_of({}, "photo", tmp_path) is None


@pytest.mark.parametrize("value", [3, {"url": "a"}, [["a.png"]]])
def test_what_is_not_an_image_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(
        ValueError, match=r"the image is .*; an image is a path or bytes"
    ):
        image_of({"photo": value}, "photo", tmp_path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("b.png", "b.png' does not exist"),
        (
            "../a.png",
            r"image '../a.png' is not below .*; set image_root to a folder above it",
        ),
        ("/etc/passwd", "image '/etc/passwd' is not below"),
        (
            "https://shop.example/a.png",
            "is a URL; download it",
        ),
        (
            "data:image/png;base64,AAAA",
            "data URI; write it to a file",
        ),
        ("link.png", "link.png' is a link to a file that does not exist"),
        ("\ud83d.png", "does not exist"),
        ("a" * 5000, "does not exist"),
        ("50%/" + "a" * 300, "does not exist"),
    ],
)
def test_an_image_that_cannot_be_read_says_why(
    tmp_path: Path, name: str, reason: str
) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "a.png").touch()
    (tmp_path / "shop" / "link.png").symlink_to("nowhere")
    with pytest.raises(UnreadableImageError, match=reason):
        image_of({"photo": name}, "photo", tmp_path / "shop")


def test_images_are_relative_to_the_folder_of_their_table(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "a.csv").touch()
    assert image_folder("shop/a.csv", "", tmp_path) == tmp_path / "shop"
    assert image_folder("shop", "", tmp_path) == tmp_path / "shop"
    assert image_folder("shop/day*/a.csv", "", tmp_path) == tmp_path / "shop"
    assert image_folder("shop/a.csv", "photos", tmp_path) == tmp_path / "photos"
    assert image_folder("hf:shop", "", tmp_path) == tmp_path


@pytest.mark.parametrize("spec", ["photo", "{title}: {photo}"])
@pytest.mark.parametrize("content", ["data:image/png;base64,AAAA", "/9j/" + "A" * 60])
def test_an_image_is_not_a_text(spec: str, content: str) -> None:
    with pytest.raises(ValueError, match="photo holds an image"):
        texts_of({"title": "a hat", "photo": [content]}, spec)
