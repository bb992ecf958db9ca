"""A table with relative image paths has the same images in every command."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from eval.data.retrieval import RetrievalData
from eval.data.tasks import ImageTextTask
from unimodal.embed import embed_source
from unimodal.formats import native
from unimodal.model import DualEncoder
from unimodal.preprocess.tokenizers import Tokenizer
from unimodal.search.index.items import (
    IndexConfig,
    Item,
    cut_input,
    infer_types,
    items,
)
from unimodal.shards.config import PackConfig
from unimodal.shards.read import open_shards
from unimodal.shards.sample import image_bytes_of
from unimodal.shards.write import pack

NAMES = ("a.png", "photos/b.png", "photos/../c.png")


@pytest.mark.parametrize(
    ("table", "image_root", "images"),
    [
        ("shop/rows.jsonl", "", "shop"),
        ("shop/*.jsonl", "", "shop"),
        ("*/rows.jsonl", "", "."),
        ("shop/rows.jsonl", "pool", "pool"),
    ],
)
def test_image_paths_are_relative_to_the_same_folder_in_every_command(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: DualEncoder,
    tokenizer: Tokenizer,
    table: str,
    image_root: str,
    images: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop").mkdir()
    folder = tmp_path / images
    contents = []
    for number, name in enumerate(NAMES):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        (folder / "photos").mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), (number * 90, 0, 0)).save(file)
        contents.append(file.read_bytes())
    rows = [{"image": name, "text": f"hat {name}"} for name in NAMES]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "shop" / "rows.jsonl").write_text(lines, encoding="utf-8")
    native.save(tmp_path / "model", model, tokenizer)

    assert _packed(table, image_root) == contents
    assert [path.read_bytes() for path in _indexed(table, image_root)] == contents
    assert [path.read_bytes() for path in _embedded(table, image_root)] == contents
    assert [path.read_bytes() for path in _evaluated(table, image_root)] == contents


def _packed(table: str, image_root: str) -> list[bytes]:
    config = PackConfig(
        input=table,
        image="image",
        captions=("text",),
        image_root=image_root,
        shuffle=False,
    )
    pack(config, Path("shards"), show_progress=False)
    shards = open_shards("shards")
    return [image_bytes_of(shards.read(0, number)) for number in range(len(NAMES))]


def _indexed(table: str, image_root: str) -> list[Path]:
    config = IndexConfig(
        input=os.path.abspath(table), image="image", image_root=image_root
    )
    partitions = cut_input(config)
    config, types = infer_types(config, partitions, {})
    paths = []
    for partition in partitions:
        for item in items(partition, config, types):
            assert isinstance(item, Item)
            assert isinstance(item.image, Path)
            paths.append(item.image)
    return paths


def _embedded(table: str, image_root: str) -> list[Path]:
    overrides = [f"image_root={image_root}"] if image_root else []
    embed_source("model", table, Path("vectors"), overrides, image="image")
    lines = Path("vectors/items.jsonl").read_text(encoding="utf-8").splitlines()
    return [Path(json.loads(line)["image"]) for line in lines]


def _evaluated(table: str, image_root: str) -> list[Path]:
    task = ImageTextTask(
        kind="image-text", rows={"input": table}, image_root=image_root
    )
    (data,) = task.load(Path(), "").values()
    assert isinstance(data, RetrievalData)
    paths = [query for query in data.documents if isinstance(query, Path)]
    return paths or [query for query in data.queries if isinstance(query, Path)]
