"""Small data sets laid out as others lay theirs out: tars, tables and images for the tests of the
readers.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CORPUS = [
    {"_id": "d1", "title": "Cells", "text": "Cells are small."},
    {"_id": "d2", "title": "", "text": "Atoms are smaller."},
    {"_id": "q2", "title": "Quarks", "text": ""},
]
QUERIES = [
    {"_id": "q1", "text": "what is small"},
    {"_id": "q2", "text": "quarks"},
    {"_id": "q3", "text": "of train"},
]
QRELS = [("q1", "d2", 2), ("q1", "d1", 1), ("q1", "q2", 0), ("q2", "d2", 1)]


def make_image(number: int, form: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (number * 20, 0, 0)).save(buffer, form)
    return buffer.getvalue()


def write_tar(file: Path, parts: dict[str, bytes]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for name, content in parts.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def write_captioned(
    root: Path, captions: list[list[str]], per_tar: int = 2, form: str = "jpg"
) -> Path:
    """As clip-benchmark/wds_flickr30k lies on the hub."""
    count = -(-len(captions) // per_tar)
    for tar in range(count):
        numbers = range(tar * per_tar, min((tar + 1) * per_tar, len(captions)))
        parts: dict[str, bytes] = {}
        for number in numbers:
            parts[f"s{number:07d}.{form}"] = make_image(
                number, {"jpg": "JPEG"}.get(form, form.upper())
            )
            parts[f"s{number:07d}.txt"] = "\n".join(captions[number]).encode()
        write_tar(root / "test" / f"{tar}.tar", parts)
    (root / "test" / "nshards.txt").write_text(str(count))
    (root / "dataset_type.txt").write_text("retrieval\n")
    return root


def write_classes(root: Path, labels: list[str]) -> Path:
    """As clip-benchmark/wds_vtab-cifar10 lies on the hub."""
    parts: dict[str, bytes] = {}
    for number, label in enumerate(labels):
        parts[f"s{number:07d}.webp"] = make_image(number, "WEBP")
        parts[f"s{number:07d}.cls"] = label.encode()
    write_tar(root / "test" / "0.tar", parts)
    (root / "test" / "nshards.txt").write_text("1\n")
    (root / "classnames.txt").write_text("cat\ndog\n")
    (root / "zeroshot_classification_templates.txt").write_text(
        "a photo of a {c}.\na drawing of a {c}.\n"
    )
    return root


def write_crossmodal3600(root: Path) -> Path:
    (root / "images").mkdir(parents=True)
    rows = []
    for number in range(3):
        (root / "images" / f"key{number}.jpg").write_bytes(make_image(number))
        words = {
            one: {
                "caption": [f"{one} {number} {n}" for n in range(2)],
                "caption/tokenized": [],
            }
            for one in ("de", "en")
        }
        rows.append({"image/key": f"key{number}", "image/locale": "en", **words})
    (root / "captions.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows)
    )
    return root


def write_xtd10(root: Path) -> Path:
    for part, language in (("XTD10", "en"), ("MIC", "de"), ("STAIR", "jp")):
        (root / part).mkdir(parents=True)
        captions = "".join(f"{language} {number}\n" for number in range(3))
        (root / part / f"test_1kcaptions_{language}.txt").write_text(captions)
    (root / "XTD10" / "test_image_names.txt").write_text("a.jpg\nb.jpg\nc.jpg\n")
    (root / "images").mkdir()
    for number, name in enumerate("abc"):
        (root / "images" / f"{name}.jpg").write_bytes(make_image(number))
    return root


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_beir(
    folder: Path,
    corpus: list[dict[str, Any]] = CORPUS,
    queries: list[dict[str, Any]] = QUERIES,
    qrels: list[tuple[str, str, int]] = QRELS,
) -> Path:
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text(lines(*corpus))
    (folder / "queries.jsonl").write_text(lines(*queries))
    header = "query-id\tcorpus-id\tscore\n"
    (folder / "qrels" / "test.tsv").write_text(
        header + "".join(f"{q}\t{d}\t{s}\n" for q, d, s in qrels)
    )
    return folder


def write_tables(
    folder: Path,
    corpus: list[dict[str, Any]],
    queries: list[dict[str, Any]],
    qrels: list[dict[str, Any]],
) -> Path:
    for name, rows in (("corpus", corpus), ("queries", queries), ("qrels", qrels)):
        (folder / name).mkdir(parents=True)
        pq.write_table(
            pa.Table.from_pylist(rows), folder / name / "train-00000-of-00001.parquet"
        )
    return folder
