"""A folder, a list and a table become rows of vectors.npy with what each row is beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unimodal.checkpoint import save_model
from unimodal.embed import embed_source
from unimodal.embedder import Embedder
from unimodal.model import DualEncoder
from unimodal.preprocess import Tokenizer

NAMES = ("b.png", "9.png", "a.JPG", "deep/c.webp", "10.png", "z.jpeg")


@pytest.fixture
def saved(tmp_path: Path, model: DualEncoder, tokenizer: Tokenizer) -> str:
    save_model(tmp_path / "model", model, tokenizer)
    return str(tmp_path / "model")


@pytest.fixture
def gallery(tmp_path: Path, pictures: list[Image.Image]) -> Path:
    folder = tmp_path / "gallery"
    (folder / "deep").mkdir(parents=True)
    for name, picture in zip(NAMES, pictures, strict=True):
        picture.save(folder / name, "JPEG" if name.endswith("JPG") else None)
    (folder / "notes.md").write_text("no picture", encoding="utf-8")
    return folder


def embedded(out: Path) -> tuple[Any, list[dict[str, Any]]]:
    lines = (out / "items.jsonl").read_text(encoding="utf-8").splitlines()
    return np.load(out / "vectors.npy"), [json.loads(line) for line in lines]


def test_a_folder_gives_its_pictures_in_the_order_of_their_names(
    saved: str, gallery: Path, tmp_path: Path, embedder: Embedder
) -> None:
    assert embed_source(saved, gallery, tmp_path / "out", device="cpu") == (6, 24)
    vectors, items = embedded(tmp_path / "out")
    paths = sorted(gallery / name for name in NAMES)
    assert items == [{"image": str(path)} for path in paths]
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, embedder.encode(paths), rtol=0, atol=1e-6)


def test_a_list_gives_its_lines_as_documents(saved: str, tmp_path: Path, embedder: Embedder) -> None:
    (tmp_path / "lines.txt").write_text("a red hat\n\n ein grüner Hut \r\nthe old table\n", encoding="utf-8")
    assert embed_source(saved, tmp_path / "lines.txt", tmp_path / "out", device="cpu") == (3, 24)
    vectors, items = embedded(tmp_path / "out")
    assert [item["text"].strip() for item in items] == ["a red hat", "ein grüner Hut", "the old table"]
    assert "grüner" in (tmp_path / "out" / "items.jsonl").read_text(encoding="utf-8")
    np.testing.assert_allclose(vectors, embedder.encode_document([i["text"] for i in items]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("fields", [("title",), ("photo",), ("title", "photo")])
def test_a_table_gives_the_fields_that_are_named(
    saved: str, gallery: Path, tmp_path: Path, embedder: Embedder, fields: tuple[str, ...]
) -> None:
    rows = [{"title": "a red hat", "photo": "b.png"}, {"title": "a cup", "photo": "deep/c.webp"}]
    (gallery / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    options = {{"title": "text", "photo": "image"}[field]: field for field in fields}
    assert embed_source(saved, gallery / "rows.jsonl", tmp_path / "out", device="cpu", **options) == (2, 24)  # type: ignore[arg-type]  # text and image only
    wanted = [
        {kind: gallery / row[field] if kind == "image" else row[field] for kind, field in options.items()}
        for row in rows
    ]
    vectors, items = embedded(tmp_path / "out")
    np.testing.assert_allclose(vectors, embedder.encode_document(wanted), rtol=0, atol=1e-6)
    assert items == [{kind: str(part) for kind, part in item.items()} for item in wanted]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "is a table; say which field to embed with --text"),
        ({"text": "titel"}, "field 'titel' is not in .*did you mean 'title'"),
        ({"image": "title"}, "input 0: picture .* does not exist"),
        ({"text": "photos"}, "'photos' of row 0 of .* is .'b.png'.; name a field that holds a text"),
        ({"image": "photos"}, "'photos' of row 0 of .* is .'b.png'.; name a field that holds a picture's path"),
    ],
)
def test_a_field_that_cannot_be_embedded_is_refused(
    saved: str, tmp_path: Path, options: dict[str, str], message: str
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"title": "a", "photos": ["b.png"]}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        embed_source(saved, tmp_path / "rows.jsonl", tmp_path / "out", device="cpu", **options)  # type: ignore[arg-type]  # text and image only
    assert not (tmp_path / "out").exists()


def test_an_empty_source_is_refused(saved: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n\n", encoding="utf-8")
    for source in (tmp_path / "empty", tmp_path / "empty.txt"):
        with pytest.raises(ValueError, match="holds nothing to embed"):
            embed_source(saved, source, tmp_path / "out", device="cpu")


@pytest.mark.parametrize("name", ["nowhere", "nowhere.txt", "nowhere.jsonl"])
def test_a_source_that_is_nowhere_is_refused(saved: str, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        embed_source(saved, tmp_path / name, tmp_path / "out", text="title", device="cpu")


def test_what_is_there_is_replaced_only_when_that_is_asked_for(saved: str, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("a red hat\n", encoding="utf-8")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    with pytest.raises(ValueError, match=r"out exists already; choose another folder or add --overwrite"):
        embed_source(saved, tmp_path / "lines.txt", tmp_path / "out", device="cpu")
    assert (tmp_path / "out" / "old").exists()
    embed_source(saved, tmp_path / "lines.txt", tmp_path / "out", device="cpu", overwrite=True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["items.jsonl", "vectors.npy"]
    assert not list(tmp_path.glob("out.*"))
