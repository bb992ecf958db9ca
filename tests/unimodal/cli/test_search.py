"""`unimodal index` as a user meets it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.conftest import Recipe
from unimodal.cli import app
from unimodal.formats import native
from unimodal.model import build_model
from unimodal.preprocess.tokenizers import load_tokenizer


@pytest.fixture
def model(recipe: Recipe, tmp_path: Path) -> Path:
    config = recipe().model
    assert config is not None
    assert config.text is not None
    native.save(tmp_path / "model", build_model(config), load_tokenizer(config.text)[0])
    return tmp_path / "model"


@pytest.fixture
def products(world: Path, tmp_path: Path) -> Path:
    """A table beside the images of the world."""
    rows = [
        {
            "sku": f"s{n}",
            "title": f"lamp {n}",
            "photo": f"images/{n}.png",
            "price": str(n),
        }
        for n in range(5)
    ]
    rows.append(
        {"sku": "no image", "title": "lamp", "photo": "images/none.png", "price": "1"}
    )
    rows.append({"sku": "bad", "title": "", "photo": "", "price": "1"})
    (tmp_path / "products.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    return tmp_path / "products.jsonl"


def test_index_says_what_it_did_and_does_it_once(
    model: Path, products: Path, world: Path, tmp_path: Path
) -> None:
    words = [
        "index",
        model,
        products,
        tmp_path / "shop",
        "id=sku",
        "text=title",
        "image=photo",
        f"image_root={world}",
        "fields=[price:float]",
        "--device",
        "cpu",
    ]
    first = CliRunner().invoke(app, list(map(str, words)))
    assert first.exit_code == 0, first.exception
    assert (
        f"6 items in {tmp_path}/shop: 6 new or changed, 0 as they were, 0 taken out; 1 row of"
        in first.stderr
    )
    assert (
        f"{products} skipped (reasons in {tmp_path}/shop.embeddings/_skipped.jsonl"
        in first.stderr
    )
    assert "; 1 item without image, which cannot be read (reasons in" in first.stderr
    again = CliRunner().invoke(app, list(map(str, words)))
    assert again.exit_code == 0, again.exception
    assert "0 new or changed, 6 as they were, 0 taken out" in again.stderr
    assert "0 of 1 unit embedded" in again.stderr


def test_a_dry_run_a_list_a_reason_and_the_end_of_an_input(
    model: Path, products: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(*words: str) -> str:
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.exception or result.stderr
        return result.output

    monkeypatch.chdir(tmp_path)
    options = ["id=sku", "text=title", "fields=[price:float]", "--device", "cpu"]
    index = ["index", str(model), "products.jsonl", "shop", *options]
    would = (
        "shop would get 6 new, 0 changed and 0 same items, and lose 0; 1 of 7 rows of "
        "products.jsonl skipped (the"
    )
    assert would in call(*index, "--dry-run")
    assert not (tmp_path / "shop").exists()
    call(*index)
    assert re.search(
        r"20.*products.jsonl: 6 items, 6 of them in the store, 1 row skipped",
        call("index", "--list", "shop"),
    )
    assert "s1 is in the store, from" in call("why", "shop", "s1")
    assert "row 6 of products.jsonl of" in call("why", "shop", "bad")
    assert "0 items in shop without products.jsonl: 6 taken out" in call(
        "index", "--forget", "products.jsonl", "shop"
    )
    assert call("index", "--list", "shop") == "no inputs\n"
    for words in (
        ["index", "--list"],
        ["index", "--forget", "a", "b", "c"],
        ["index", str(model)],
    ):
        assert CliRunner().invoke(app, words).exit_code == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["text=titel"], "did you mean 'title'"),
        (["txt=title"], "unknown key 'txt'; did you mean 'text'"),
        (["text=title", "fields=[price:flat]"], "did you mean 'float'"),
    ],
)
def test_what_does_not_fit_is_said_before_a_model_is_loaded(
    products: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    result = CliRunner().invoke(
        app, ["index", "no model", str(products), str(tmp_path / "shop"), *words]
    )
    assert isinstance(result.exception, ValueError)
    assert message in str(result.exception)
