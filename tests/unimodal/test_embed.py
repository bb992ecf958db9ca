"""A folder, a list and a table become rows of vectors.npy with what each row is beside them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unimodal.embed import embed_source
from unimodal.embedder import Embedder
from unimodal.formats import native
from unimodal.model import DualEncoder, build_model
from unimodal.preprocess.tokenizers import Tokenizer
from unimodal.tables.files import read_name

NAMES = ("b.png", "9.png", "a.JPG", "deep/c.webp", "10.png", "z.jpeg")


@pytest.fixture
def saved(tmp_path: Path, model: DualEncoder, tokenizer: Tokenizer) -> str:
    native.save(tmp_path / "model", model, tokenizer)
    return str(tmp_path / "model")


@pytest.fixture
def gallery(tmp_path: Path, images: list[Image.Image]) -> Path:
    folder = tmp_path / "gallery"
    (folder / "deep").mkdir(parents=True)
    for name, image in zip(NAMES, images, strict=True):
        image.save(folder / name, "JPEG" if name.endswith("JPG") else None)
    (folder / "notes.md").write_text("no image", encoding="utf-8")
    return folder


def embedded(out: Path) -> tuple[Any, list[dict[str, Any]]]:
    lines = (out / "items.jsonl").read_text(encoding="utf-8").splitlines()
    return np.load(out / "vectors.npy"), [json.loads(line) for line in lines]


def test_a_folder_gives_its_images_in_the_order_of_their_names(
    saved: str, gallery: Path, tmp_path: Path, embedder: Embedder
) -> None:
    assert embed_source(saved, gallery, tmp_path / "out", device="cpu") == (6, 24, 0, 0)
    vectors, items = embedded(tmp_path / "out")
    paths = sorted(gallery / name for name in NAMES)
    ids = sorted(NAMES, key=Path)
    assert items == [{"id": name, "image": str(gallery / name)} for name in ids]
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, embedder.encode(paths), rtol=0, atol=1e-6)


def test_a_list_gives_its_lines_as_documents(
    saved: str, tmp_path: Path, embedder: Embedder
) -> None:
    (tmp_path / "lines.txt").write_text(
        "\ufeffa red hat\n\n ein grüner Hut \r\nthe old table\n", encoding="utf-8"
    )
    assert embed_source(
        saved, tmp_path / "lines.txt", tmp_path / "out", device="cpu"
    ) == (3, 24, 0, 0)
    vectors, items = embedded(tmp_path / "out")
    texts = ["a red hat", "ein grüner Hut", "the old table"]
    assert items == [
        {"id": f"lines.txt/{number}", "text": text} for number, text in enumerate(texts)
    ]
    assert "grüner" in (tmp_path / "out" / "items.jsonl").read_text(encoding="utf-8")
    np.testing.assert_allclose(
        vectors, embedder.encode_document([i["text"] for i in items]), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("fields", [("title",), ("photo",), ("title", "photo")])
def test_a_table_gives_the_fields_that_are_named(
    saved: str,
    gallery: Path,
    tmp_path: Path,
    embedder: Embedder,
    fields: tuple[str, ...],
) -> None:
    rows = [
        {"title": "a red hat", "photo": "b.png"},
        {"title": "a cup", "photo": "deep/c.webp"},
    ]
    (gallery / "rows.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    options: Any = {
        {"title": "text", "photo": "image"}[field]: field for field in fields
    }
    assert embed_source(
        saved, gallery / "rows.jsonl", tmp_path / "out", device="cpu", **options
    ) == (2, 24, 0, 0)
    wanted = [
        {
            kind: gallery / row[field] if kind == "image" else row[field]
            for kind, field in options.items()
        }
        for row in rows
    ]
    vectors, items = embedded(tmp_path / "out")
    np.testing.assert_allclose(
        vectors, embedder.encode_document(wanted), rtol=0, atol=1e-6
    )
    expected = [{kind: str(part) for kind, part in item.items()} for item in wanted]
    assert items == [
        {"id": f"rows.jsonl/{number}", **one} for number, one in enumerate(expected)
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {},
            "text=FIELD.*image=FIELD.*: title, photos",
        ),
        ({"text": "titel"}, "field 'titel' is not in .*did you mean 'title'"),
        (
            {"image": "title"},
            "all 1 rows had to be skipped; the first: image .*a' does not exist",
        ),
        (
            {"image": "photos"},
            "all 1 rows had to be skipped; the first: image .*b.png' does not exist",
        ),
    ],
)
def test_a_field_that_cannot_be_embedded_is_refused(
    saved: str, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    (tmp_path / "rows.jsonl").write_text(
        '{"title": "a", "photos": ["b.png"]}\n', encoding="utf-8"
    )
    with pytest.raises(ValueError, match=message):
        embed_source(
            saved, tmp_path / "rows.jsonl", tmp_path / "out", device="cpu", **options
        )
    assert not (tmp_path / "out").exists()


def test_an_empty_source_is_refused(saved: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n\n", encoding="utf-8")
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "._a.png").touch()
    for name, message in (
        ("empty", "empty is empty; give a folder of images"),
        ("empty.txt", "empty.txt holds no rows"),
        ("hidden", "hidden is empty; give a folder of images"),
    ):
        with pytest.raises(ValueError, match=message):
            embed_source(saved, tmp_path / name, tmp_path / "out", device="cpu")


@pytest.mark.parametrize("name", ["nowhere", "nowhere.txt", "nowhere.jsonl"])
def test_a_source_that_is_nowhere_is_refused(
    saved: str, tmp_path: Path, name: str
) -> None:
    with pytest.raises(ValueError, match=name):
        embed_source(
            saved, tmp_path / name, tmp_path / "out", text="title", device="cpu"
        )


def skipped(out: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in (out / "skipped.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def test_broken_images_and_hidden_files_do_not_end_a_run(
    saved: str, gallery: Path, tmp_path: Path, embedder: Embedder
) -> None:
    (gallery / "cut.jpg").write_bytes((gallery / "a.JPG").read_bytes()[:200])
    (gallery / "page.png").write_text("<html>not found</html>", encoding="utf-8")
    (gallery / "__MACOSX").mkdir()
    for name in (
        "._a.JPG",
        ".hidden.png",
        "__MACOSX/b.png",
        "Thumbs.db",
        "desktop.ini",
    ):
        (gallery / name).write_bytes(b"not an image")
    assert embed_source(
        saved, gallery, tmp_path / "out", ["max_skipped=1"], device="cpu"
    ) == (6, 24, 2, 0)
    vectors, items = embedded(tmp_path / "out")
    names = sorted(NAMES, key=Path)
    assert [item["id"] for item in items] == names
    np.testing.assert_allclose(
        vectors, embedder.encode([gallery / name for name in names]), rtol=0, atol=1e-6
    )
    faults = skipped(tmp_path / "out")
    assert [(one["id"], one["kept"]) for one in faults] == [
        ("cut.jpg", False),
        ("page.png", False),
    ]
    assert all("not a readable" in one["reason"] for one in faults)


def test_a_name_that_is_not_utf_8_comes_back_as_it_was(
    saved: str, gallery: Path, tmp_path: Path, embedder: Embedder
) -> None:
    name = os.fsdecode(b"caf\xe9 50%.png")
    os.rename(gallery / "b.png", gallery / name)
    os.rename(gallery / "9.png", gallery / "two\nlines.png")
    assert embed_source(saved, gallery, tmp_path / "out", device="cpu").rows == 6
    vectors, items = embedded(tmp_path / "out")
    ids = [item["id"] for item in items]
    assert {"caf%E9 50%25.png", "two%0Alines.png"} <= set(ids)
    assert read_name("caf%E9 50%25.png") == name
    # What was written names the same images when it is read again.
    (gallery / "again.jsonl").write_bytes(
        (tmp_path / "out" / "items.jsonl").read_bytes()
    )
    embed_source(
        saved, gallery / "again.jsonl", tmp_path / "again", image="image", device="cpu"
    )
    assert embedded(tmp_path / "again")[1] == items
    np.testing.assert_allclose(
        embedded(tmp_path / "again")[0], vectors, rtol=0, atol=1e-6
    )


def test_an_item_whose_image_cannot_be_read_is_embedded_by_its_text(
    saved: str, gallery: Path, tmp_path: Path, embedder: Embedder
) -> None:
    (gallery / "cut.jpg").write_bytes((gallery / "a.JPG").read_bytes()[:200])
    photos: list[Any] = [
        "b.png",
        "cut.jpg",
        "nowhere.png",
        None,
        float("nan"),
        "../b.png",
    ]
    rows = [
        {"sku": f"s{number}", "title": f"hat {number}", "photo": photo}
        for number, photo in enumerate(photos)
    ]
    (gallery / "rows.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    options = ["id=sku", "text=title", "image=photo"]
    assert embed_source(
        saved, gallery / "rows.jsonl", tmp_path / "out", options, device="cpu"
    ) == (6, 24, 0, 3)
    vectors, items = embedded(tmp_path / "out")
    assert items[0] == {"id": "s0", "text": "hat 0", "image": str(gallery / "b.png")}
    assert items[1:] == [
        {"id": f"s{number}", "text": f"hat {number}"} for number in range(1, 6)
    ]
    wanted: list[Any] = [
        {"text": "hat 0", "image": gallery / "b.png"},
        *(f"hat {number}" for number in range(1, 6)),
    ]
    np.testing.assert_allclose(
        vectors, embedder.encode_document(wanted), rtol=0, atol=1e-6
    )
    assert [
        (one["row"], one["id"], one["kept"]) for one in skipped(tmp_path / "out")
    ] == [
        (1, "s1", True),
        (2, "s2", True),
        (5, "s5", True),
    ]
    options += ["missing_image=skip", "max_skipped=1"]
    again = embed_source(
        saved,
        gallery / "rows.jsonl",
        tmp_path / "out",
        options,
        device="cpu",
        overwrite=True,
    )
    assert again == (3, 24, 3, 0)


def test_several_fields_and_templates_are_one_text(
    saved: str, tmp_path: Path, embedder: Embedder
) -> None:
    rows = [
        {"id": 7, "title": "a hat", "about": ["warm", None], "color": None},
        {"id": 7, "title": "a cup"},
    ]
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    text = ["{title}, {color}", "about"]
    assert embed_source(
        saved, tmp_path / "rows.jsonl", tmp_path / "out", text=text, device="cpu"
    ) == (1, 24, 1, 0)
    assert embedded(tmp_path / "out")[1] == [{"id": "7", "text": "a hat\nwarm"}]
    assert skipped(tmp_path / "out")[0]["reason"] == "its id '7' is that of row 0 too"


def test_too_many_bad_rows_end_a_run_and_are_listed(saved: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(3):
        (tmp_path / "in" / f"{number}.png").write_bytes(b"not an image")
    with pytest.raises(
        ValueError,
        match=r"3 of 3 rows of .* cannot be embedded \(the first, row 0: .* max_skipped is 0",
    ):
        embed_source(
            saved, tmp_path / "in", tmp_path / "out", ["max_skipped=0"], device="cpu"
        )
    assert not (tmp_path / "out").exists()
    assert (
        len((tmp_path / "out.skipped.jsonl").read_text(encoding="utf-8").splitlines())
        == 3
    )


def test_one_image_is_an_input(saved: str, gallery: Path, tmp_path: Path) -> None:
    assert (
        embed_source(saved, gallery / "b.png", tmp_path / "out", device="cpu").rows == 1
    )
    assert embedded(tmp_path / "out")[1] == [
        {"id": "b.png", "image": str(gallery / "b.png")}
    ]


def test_a_list_in_another_encoding_is_refused_by_file_and_line(
    saved: str, tmp_path: Path
) -> None:
    (tmp_path / "lines.txt").write_bytes("a hat\nein grüner Hut\n".encode("latin-1"))
    with pytest.raises(
        ValueError, match=r"lines.txt, line 2 is not UTF-8 .*; save it as UTF-8"
    ):
        embed_source(saved, tmp_path / "lines.txt", tmp_path / "out", device="cpu")


def test_a_model_without_images_refuses_images_at_once(
    gallery: Path, tmp_path: Path, model: DualEncoder, tokenizer: Tokenizer
) -> None:
    native.save(
        tmp_path / "texts",
        build_model(model.config.model_copy(update={"image": None})),
        tokenizer,
    )
    with pytest.raises(
        ValueError, match=r"has images to embed, and .* embeds text alone"
    ):
        embed_source(str(tmp_path / "texts"), gallery, tmp_path / "out", device="cpu")


def test_what_is_there_is_replaced_only_when_that_is_asked_for(
    saved: str, tmp_path: Path
) -> None:
    (tmp_path / "lines.txt").write_text("a red hat\n", encoding="utf-8")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "items.jsonl").touch()
    with pytest.raises(
        ValueError,
        match=r"out exists already; choose another folder or add --overwrite",
    ):
        embed_source(saved, tmp_path / "lines.txt", tmp_path / "out", device="cpu")
    assert (tmp_path / "out" / "items.jsonl").exists()
    embed_source(
        saved, tmp_path / "lines.txt", tmp_path / "out", device="cpu", overwrite=True
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "items.jsonl",
        "vectors.npy",
    ]
    assert not list(tmp_path.glob("out.*"))


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_was_not_written_by_embed_is_never_replaced(
    saved: str, tmp_path: Path, overwrite: bool
) -> None:
    (tmp_path / "lines.txt").write_text("a red hat\n", encoding="utf-8")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "vectors.npy").write_bytes(b"old")
    (tmp_path / "mine" / "thesis.txt").write_text("a year of work", encoding="utf-8")
    (tmp_path / "notes").write_text("notes", encoding="utf-8")

    for name, held in (("mine", "thesis.txt"), ("notes", "notes")):
        with pytest.raises(
            ValueError,
            match=f"{name} holds '{held}', which was not written by embed; choose another",
        ):
            embed_source(
                saved,
                tmp_path / "lines.txt",
                tmp_path / name,
                device="cpu",
                overwrite=overwrite,
            )

    assert (tmp_path / "mine" / "thesis.txt").read_text(
        encoding="utf-8"
    ) == "a year of work"
    assert (tmp_path / "notes").read_text(encoding="utf-8") == "notes"
