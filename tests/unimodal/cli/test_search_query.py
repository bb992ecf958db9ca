"""A shop's catalogue is indexed and asked from the command line, and finds what its evaluation says
that it finds.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from rich.cells import cell_len
from rich.console import Console
from typer.testing import CliRunner, Result

from eval.data.retrieval import RetrievalData
from eval.evaluate import evaluate
from eval.suites import read_suite
from tests.conftest import COLOURS, THINGS, Recipe
from unimodal.cli import app
from unimodal.cli.search import LONGEST, _print
from unimodal.embedder import load
from unimodal.formats import native
from unimodal.model import build_model
from unimodal.preprocess.tokenizers import load_tokenizer
from unimodal.search.query.fusion import RankedHit
from unimodal.search.query.query import Query
from unimodal.search.query.search import search_many
from unimodal.search.stores.columns import fixed_size_list
from unimodal.search.stores.open import create_store, open_store
from unimodal.search.stores.schema import Schema
from unimodal.vectors import normalize

SUITE = """
tasks:
  shop:
    kind: lookup
    metrics: [ndcg_at_10, hit_rate_at_1, hit_rate_at_10]
    catalogue: {rows: {input: products.jsonl}, text: [title, colour], image: images}
    questions:
      text: {rows: {input: products.jsonl}, text: [title]}
      photo: {rows: {input: products.jsonl}, image: images, skip: 1}
      photo+text:
        {rows: {input: products.jsonl}, image: images, skip: 1, sibling: parent, text: [colour]}
    grades: {sku: 3, parent: 2, category: 1}
"""


@pytest.fixture
def shop(recipe: Recipe, tmp_path: Path) -> Path:
    """A folder with products.jsonl, 24 products in 6 groups with two photos each; a model; and a
    store of both.
    """
    draw = np.random.default_rng(0)
    rows = []
    (tmp_path / "images").mkdir()
    for number, (thing, colour) in enumerate(
        (thing, colour) for thing in THINGS for colour in COLOURS
    ):
        images = [f"images/{number}_{view}.png" for view in ("main", "back")]
        for image in images:
            pixels = np.clip(
                np.array(COLOURS[colour]) + draw.normal(0, 30, (16, 16, 3)), 0, 255
            ).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / image)
        category = ["Home/Kitchen"] if thing == "mug" else ["Home"]
        rows.append(
            {
                "sku": f"{thing}-{colour}",
                "parent": thing,
                "title": f"[b]{thing}[/b] number {number}",
                "colour": colour,
                "category": category,
                "price": str(10 + number),
                "images": images,
            }
        )
    (tmp_path / "products.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows)
    )
    torch.manual_seed(0)
    config = recipe(
        {"model": {"prompts": {"query": "a query for ", "document": "this is "}}}
    ).model
    assert config is not None
    assert config.text is not None
    native.save(tmp_path / "model", build_model(config), load_tokenizer(config.text)[0])
    indexed = unimodal(
        "index",
        tmp_path / "model",
        tmp_path / "products.jsonl",
        tmp_path / "store",
        "id=sku",
        'text="{title}, {colour}"',
        "image=images",
        "fields=[title,colour,category,price:float]",
        "parent=parent",
        "thumbnail=0",
    )
    assert indexed.exit_code == 0, indexed.output
    return tmp_path


def _store_of(folder: Path, ids: list[str], titles: list[str]) -> Path:
    schema = Schema(
        dim=8, fingerprint="none", vectors=("text",), fields={"title": "string"}
    )
    store = create_store(str(folder / "store"), schema)
    vectors = normalize(np.random.default_rng(0).standard_normal((len(ids), 8)))
    if ids:
        columns = {
            "id": ids,
            "vector_text": fixed_size_list(vectors, np.ones(len(ids), bool)),
            "title": titles,
        }
        store.upsert(pa.table(columns), fingerprint="none")
    store.close()
    return folder / "store"


def unimodal(*words: object) -> Result:
    return CliRunner().invoke(
        app, [str(word) for word in words], catch_exceptions=False
    )


def hits(*words: object) -> list[dict[str, Any]]:
    result = unimodal("search", *words, "--json")
    assert result.exit_code == 0, result.output
    found: list[dict[str, Any]] = json.loads(result.stdout)["hits"]
    return found


def test_words_a_photo_both_and_an_item_find_products_with_filters(shop: Path) -> None:
    store = shop / "store"
    photo = shop / "images/0_main.png"
    assert len(hits(store, "mug")) == 10
    assert (
        hits(store, "--image", photo, "--vectors", "image", "-k", 1)[0]["id"]
        == "mug-red"
    )
    both = hits(
        store,
        "in blue",
        "--image",
        photo,
        "--weight",
        0.3,
        "--where",
        "price < 20 and colour = 'blue'",
    )
    assert {hit["id"]: hit["fields"]["price"] for hit in both} == {
        "mug-blue": 12.0,
        "chair-blue": 16.0,
    }
    like = hits(store, "--like", "mug-red", "--where", "category = 'Home/Kitchen'")
    assert {hit["id"] for hit in like} == {"mug-green", "mug-blue", "mug-yellow"}
    grouped = hits(store, "mug", "--group-by", "parent", "--fields", "title")
    assert len(grouped) == len(THINGS)
    assert all(
        hit["more"] == len(COLOURS) - 1 and list(hit["fields"]) == ["title"]
        for hit in grouped
    )
    merged = hits(
        store, "mug", "--vectors", "text,image", "-k", len(THINGS) * len(COLOURS)
    )
    assert {hit["vector"] for hit in merged} == {"text", "image"}
    assert sorted((hit["score"] for hit in merged), reverse=True) == [
        hit["score"] for hit in merged
    ]
    assert any(
        hit["score"] != hit["cosine"] for hit in merged
    )  # standardised, for the model is not calibrated
    hybrid = hits(store, "mug red", "--hybrid", "--without", "yellow chair")
    assert "mug-red" in {
        hit["id"] for hit in hybrid[:3]
    }  # the first of those that the words find
    assert all(hit["score"] <= 2 / 61 and hit["cosine"] is not None for hit in hybrid)


def test_more_like_an_item_needs_no_model(shop: Path) -> None:
    (shop / "model").rename(shop / "gone")
    assert len(hits(shop / "store", "--like", "mug-red", "-k", 3)) == 3
    with pytest.raises(
        ValueError,
        match=r"the store's model cannot be loaded: .*--model",
    ):
        unimodal("search", shop / "store", "mug")
    assert len(hits(shop / "store", "mug", "--model", shop / "gone", "-k", 3)) == 3


def test_a_line_shows_rank_score_id_and_the_fields_as_they_are(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    result = unimodal(
        "search",
        shop / "store",
        "mug",
        "-k",
        2,
        "--fields",
        "price,title,colour,category",
    )
    (hit, _) = hits(shop / "store", "mug", "-k", 2)
    line = next(line for line in result.output.splitlines() if hit["id"] in line)
    fields = hit["fields"]
    assert re.split(" {2,}", line.strip()) == [
        "1",
        f"{hit['score']:.3f}",
        hit["id"],
        fields["title"],
        f"price {fields['price']:g} · {fields['colour']} · {fields['category'][0]}",
    ]
    assert "2 of 24 items;" in result.output
    assert "ms to search" in result.output


def test_a_truth_value_is_shown_as_json_writes_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    hit = RankedHit(
        id="a",
        score=0.5,
        cosine=0.5,
        vector="text",
        more=0,
        fields={"title": "a hat", "sale": True},
    )
    _print([hit], Console(width=80))
    assert "sale true" in capsys.readouterr().out


@pytest.mark.parametrize("width", [40, 80, 140])
def test_no_line_is_wider_than_the_terminal_and_each_field_is_there(
    shop: Path, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    output = unimodal(
        "search", shop / "store", "mug", "--where", "id = 'mug-green'"
    ).stdout
    assert max(map(len, output.splitlines())) <= width
    assert len(output.splitlines()) <= 1 + {40: 4, 80: 2, 140: 1}[width]
    words = output.split()
    assert not [
        one
        for one in ("mug-green", "[b]mug[/b]", "green", "Home/Kitchen", "price", "11")
        if one not in words
    ]


def test_the_installed_command_shows_ids_whole_on_a_narrow_terminal(
    recipe: Recipe, tmp_path: Path
) -> None:
    """80 columns; ids of 36 letters, long texts, a cell in brackets, wide letters."""
    ids = [f"0f8fad5b-d9cb-469f-a165-70867728950{number}" for number in range(3)]
    store = _store_of(tmp_path, ids, ["a mug " * 50, "[red]/mug", "杯子" * 30])
    command = [
        str(Path(sys.executable).with_name("unimodal")),
        "search",
        str(store),
        "--like",
        ids[0],
        "-k",
        "2",
    ]
    environment = {**os.environ, "COLUMNS": "80", "PYTHONIOENCODING": "utf-8"}
    result = subprocess.run(
        command, capture_output=True, encoding="utf-8", timeout=100, env=environment
    )
    assert result.returncode == 0, result.stderr
    assert max(map(cell_len, result.stdout.splitlines())) <= 80
    assert all(one in result.stdout for one in ids[1:])
    assert "[red]/mug" in result.stdout
    assert result.stdout.count("杯") <= LONGEST
    assert len(result.stdout.splitlines()) <= 12


def test_an_empty_store_says_how_to_fill_it_and_its_json_is_json(
    tmp_path: Path,
) -> None:
    store = _store_of(tmp_path, [], [])
    for words in (["mug"], ["mug", "--json"]):
        command = [sys.executable, "-m", "unimodal", "search", str(store), *words]
        result = subprocess.run(command, capture_output=True, text=True, timeout=100)
        assert result.returncode == 1
        assert (
            result.stderr
            == f"error: the store {store} is empty; run `unimodal index` to put items into it.\n"
        )
        assert not result.stdout or json.loads(result.stdout)["hits"] == []
    assert result.stdout


def test_an_empty_filter_is_refused_and_not_ignored(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "unimodal",
        "search",
        str(tmp_path / "store"),
        "mug",
        "--where",
        "",
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert result.returncode == 1
    assert (
        "error: where: expected a field's name at character 1, found the end; write for example"
        in result.stderr
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--where", "price > 1e6"], "0 of 24 items; .*nothing matches --where"),
        (
            ["--where", "price > 0", "--min-score", 1],
            "0 of 24 items; .*; loosen --where or --min-score",
        ),
        (["--min-score", 1], "0 of 24 items; .*; loosen --min-score"),
    ],
)
def test_where_nothing_is_found_it_says_what_kept_everything_out(
    shop: Path, words: list[Any], says: str
) -> None:
    assert re.search(says, unimodal("search", shop / "store", "mug", *words).stderr)


def test_which_vector_was_nearest_is_shown_where_hits_differ_in_it(shop: Path) -> None:
    one = unimodal("search", shop / "store", "mug", "--vectors", "text").stdout
    several = unimodal(
        "search", shop / "store", "mug", "--vectors", "text,image", "-k", 24
    ).stdout
    assert one.splitlines()[0].split() == ["score", "id"]
    assert several.splitlines()[0].split() == ["score", "cosine", "by", "id"]


def test_a_group_shows_how_many_more_it_has(shop: Path) -> None:
    assert unimodal(
        "search", shop / "store", "mug", "--group-by", "parent"
    ).stdout.count("+3 more") == len(THINGS)


def test_a_catalogue_steers_no_terminal_and_breaks_no_line() -> None:
    hit = RankedHit(
        "a\x1b[2Jb",
        0.5,
        "text",
        {"title": "red\n\x1b]0;hat\x07", "words": "x" * 1000},
        cosine=0.5,
    )
    _print([hit], Console(width=300, file=(written := io.StringIO())))
    line = written.getvalue().splitlines()[1]
    assert line.split() == ["1", "0.500", "a[2Jb", "red", "]0;hat", "x" * 99 + "…"]


def test_what_is_wrong_is_one_line(shop: Path) -> None:
    for words, says in (
        (["mug", "--where", "prise < 5"], "price"),
        ([], "the query is empty"),
        (["mug", "--image", shop / "nothing.png"], "nothing.png"),
        (["mug", "--group-by", "parnt"], "did you mean 'parent'"),
        (["mug", "-k", 0], "k 0 gives no hits"),
        (["mug", "--weight", 2], "weight 2.0 is not between 0 and 1"),
        (["mug", "--min-score", "nan"], "min_score nan is not a cosine"),
        (["--like", "cup"], "no item 'cup'"),
    ):
        with pytest.raises(ValueError, match=says):
            unimodal("search", shop / "store", *words)
    command = [
        sys.executable,
        "-m",
        "unimodal",
        "search",
        str(shop / "no store"),
        "mug",
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


def test_fields_and_copies_that_the_store_has_not_are_refused_before_the_model_is_loaded(
    shop: Path,
) -> None:
    (shop / "model").rename(shop / "gone")
    for option, value in (("--fields", "titel"), ("--coarse", "prefix:99")):
        with pytest.raises(ValueError, match=f"{option[2:]}: the store has no"):
            unimodal("search", shop / "store", "mug", option, value)


def test_the_store_finds_what_the_evaluation_of_the_shop_says(shop: Path) -> None:
    (shop / "suite.yaml").write_text(SUITE)
    embedder = load(shop / "model")
    store = open_store(str(shop / "store"))
    skus = [
        json.loads(line)["sku"]
        for line in (shop / "products.jsonl").read_text().splitlines()
    ]
    results = evaluate(embedder, read_suite(str(shop / "suite.yaml")), shop)
    assert len(results) == 9  # three kinds of questions to three forms of the catalogue
    for result in results:
        data = result.data
        assert isinstance(data, RetrievalData)
        form = result.name.rpartition("->")[2]
        queries = [
            Query(**_parts(question), vectors=(form,), k=len(skus))
            for question in data.queries
        ]
        values: dict[str, list[float]] = {row.metric: [] for row in result.rows}
        for number, found in enumerate(search_many(store, embedder, queries)):
            assert data.gains is not None
            gains = dict(zip(data.relevant[number], data.gains[number], strict=True))
            best = [gains.get(skus.index(hit.id), 0.0) for hit in found]
            ideal = sorted(gains.values(), reverse=True)
            values["ndcg_at_10"].append(_dcg(best[:10]) / _dcg(ideal[:10]))
            values["hit_rate_at_1"].append(best[0] == 3)
            values["hit_rate_at_10"].append(3 in best[:10])
        for row in result.rows:
            assert np.mean(values[row.metric]) == pytest.approx(row.value, abs=1e-9), (
                row.task,
                row.metric,
            )


def _parts(question: Any) -> dict[str, Any]:
    if isinstance(question, str):
        return {"text": question}
    return (
        {"image": question}
        if isinstance(question, Path)
        else {"text": question.text, "image": question.image}
    )


def _dcg(gains: list[float]) -> float:
    return float(sum(gain / np.log2(2 + rank) for rank, gain in enumerate(gains)))
