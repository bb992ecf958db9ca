"""Data sets laid out as those of mteb's on the hub, small: SciFact, Flickr30k both ways, STS-B,
CIFAR-10.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

COLOURS = {
    "red": (200, 30, 30),
    "green": (30, 160, 60),
    "blue": (40, 60, 200),
    "yellow": (220, 210, 40),
}
THINGS = ("mug", "chair", "lamp", "shoe", "ball")
WORDS = (
    "a red green blue yellow mug chair lamp shoe ball number this is very well made and not "
    "like"
)
RETRIEVAL_CARD = """---
configs:
- config_name: corpus
  data_files:
  - {split: %(split)s, path: corpus.parquet}
- config_name: queries
  data_files:
  - {split: %(split)s, path: queries.parquet}
- config_name: %(qrels)s
  data_files:
  - {split: test, path: qrels.parquet}
---
"""


def write_hub(root: Path) -> Path:
    """Write them all below a folder."""
    _write_scifact(root / "mteb/scifact")
    _write_flickr(root)
    _write_sts(root / "mteb/stsbenchmark-sts")
    _write_cifar(root / "mteb/cifar10")
    return root


def write_retrieval(
    folder: Path,
    corpus: datasets.Dataset,
    queries: datasets.Dataset,
    judged: Mapping[str, Mapping[str, int]],
) -> None:
    """Write one retrieval data set as the hub has them; judged: query id -> document id ->
    relevance.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"query-id": q, "corpus-id": d, "score": s}
        for q, row in judged.items()
        for d, s in row.items()
    ]
    for name, table in (
        ("corpus", corpus),
        ("queries", queries),
        ("qrels", datasets.Dataset.from_list(rows)),
    ):
        table.to_parquet(str(folder / f"{name}.parquet"))
    (folder / "README.md").write_text(
        RETRIEVAL_CARD % {"split": "test", "qrels": "default"}
    )


def jpeg(number: int, colour: str) -> bytes:
    """A noisy square of a colour, another one for each number."""
    noise = np.random.default_rng(number).normal(0, 20, (24, 20, 3))
    pixels = np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)
    kept = io.BytesIO()
    Image.fromarray(pixels).save(kept, "JPEG")
    return kept.getvalue()


def image_rows(cells: list[bytes], **columns: Any) -> datasets.Dataset:
    """A table with a column of images, as the hub has them: bytes that are decoded when asked."""
    features = {"image": datasets.Image()}
    features.update({name: datasets.Value("string") for name in columns})
    image = [{"bytes": cell, "path": None} for cell in cells]
    return datasets.Dataset.from_dict(
        {**columns, "image": image}, features=datasets.Features(features)
    )


def _write_scifact(folder: Path) -> None:
    """60 documents, of which every sixth text is there twice; graded relevance, and a judgement of
    0.
    """
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(WORDS.split(), 8)) for _ in range(60)]
    titles = ["" if number % 3 else f"title {number % 7}" for number in range(60)]
    for number in range(6, 60, 6):
        texts[number], titles[number] = texts[number - 1], titles[number - 1]
    texts[7] = ""
    judged: dict[str, dict[str, int]] = {}
    for number in range(20):
        judged[f"q{number}"] = {
            f"d{number * 3}": 2,
            f"d{number * 3 - 1 if number else 5}": 1,
            f"d{59 - number}": 0,
        }
    corpus = datasets.Dataset.from_dict(
        {"_id": [f"d{n}" for n in range(60)], "title": titles, "text": texts}
    )
    queries = [
        " ".join((titles[3 * n] + " " + texts[3 * n]).split()[:4]) for n in range(20)
    ]
    asked = datasets.Dataset.from_dict(
        {"_id": [f"q{n}" for n in range(21)], "text": [*queries, "not judged"]}
    )
    write_retrieval(folder, corpus, asked, judged)


def _write_flickr(root: Path) -> None:
    names = [list(COLOURS)[number % 4] for number in range(24)]
    cells = [jpeg(number, name) for number, name in enumerate(names)]
    captions = [
        f"a {name} {THINGS[(n + k) % 5]} number {n}"
        for n, name in enumerate(names)
        for k in range(3)
    ]
    shown = image_rows(cells, id=[f"{n}.jpg" for n in range(24)])
    said = datasets.Dataset.from_dict(
        {"id": [f"c{n}" for n in range(72)], "text": captions}
    )
    write_retrieval(
        root / "mteb/flickr30kt2i",
        shown,
        said,
        {f"c{n}": {f"{n // 3}.jpg": 1} for n in range(72)},
    )
    judged = {f"{n}.jpg": {f"c{3 * n + k}": 1 for k in range(3)} for n in range(24)}
    write_retrieval(root / "mteb/flickr30ki2t", said, shown, judged)


def _write_sts(folder: Path) -> None:
    draw = np.random.default_rng(1)
    left = [" ".join(draw.choice(WORDS.split(), 6)) for _ in range(50)]
    right = [
        " ".join([*text.split()[: n % 6], *draw.choice(WORDS.split(), 6 - n % 6)])
        for n, text in enumerate(left)
    ]
    scores = [float(n % 6) for n in range(50)]
    folder.mkdir(parents=True)
    table = datasets.Dataset.from_dict(
        {"sentence1": left, "sentence2": right, "score": scores}
    )
    table.to_parquet(str(folder / "test.parquet"))


def _write_cifar(folder: Path) -> None:
    names = list(COLOURS)
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=names)}
    )
    cells = [
        {"bytes": jpeg(100 + n, names[n * n % 4]), "path": None} for n in range(40)
    ]
    rows = {"img": cells, "label": [n * n % 4 for n in range(40)]}
    folder.mkdir(parents=True)
    datasets.Dataset.from_dict(rows, features=features).to_parquet(
        str(folder / "test-00000.parquet")
    )
