"""Many inputs -> a folder of vectors: vectors.npy (n, D) float32, and items.jsonl with what each row is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from .checkpoint import replace_folder
from .embedder import Item, load
from .rows import Row, RowsConfig, field_of, missing_field, read_numbered_rows

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
KINDS = {"text": "text", "image": "picture's path"}


def embed_source(
    model: str,
    source: Path,
    out: Path,
    *,
    text: str = "",
    image: str = "",
    device: str | None = None,
    overwrite: bool = False,
) -> tuple[int, int]:
    """Embed a folder of pictures, a .txt with a text a line, or a table's fields; returns (n, D).

    text, image: fields of a table; with both, a row's vector is that of the two together.
    Raises ValueError for an empty source, or an `out` that exists and is not to be overwritten.
    """
    if out.exists() and not overwrite:
        raise ValueError(f"{out} exists already; choose another folder or add --overwrite.")
    records = _records(source, text, image)
    if not records:
        raise ValueError(f"{source} holds nothing to embed; give a folder of pictures, a .txt of lines or a table.")
    vectors = load(model, device=device).encode_document([_item(record) for record in records])
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    np.save(part / "vectors.npy", vectors)
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    (part / "items.jsonl").write_text("".join(lines), encoding="utf-8")
    replace_folder(part, out)
    return vectors.shape[0], vectors.shape[1]


def _records(source: Path, text: str, image: str) -> list[dict[str, Any]]:
    if source.is_dir() and not (text or image):
        return [{"image": str(path)} for path in sorted(source.rglob("*")) if path.suffix.lower() in PICTURES]
    if source.suffix == ".txt":
        if not source.is_file():
            raise ValueError(f"{source} does not exist; give a folder of pictures, a .txt of lines or a table.")
        return [{"text": line} for line in source.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not (text or image):
        raise ValueError(f"{source} is a table; say which field to embed with --text FIELD, --image FIELD or both.")
    return [
        _record(row, {"text": text, "image": image}, f"row {number} of {source}", source.parent)
        for number, row in read_numbered_rows(RowsConfig(input=str(source)))
    ]


def _record(row: Row, fields: dict[str, str], place: str, folder: Path) -> dict[str, str]:
    record = {}
    for kind, field in fields.items():
        if not field:
            continue
        try:
            value = field_of(row, field)
        except KeyError:
            raise missing_field(row, field, place) from None
        if not isinstance(value, str):
            raise ValueError(f"{field!r} of {place} is {value!r}; name a field that holds a {KINDS[kind]}.")
        record[kind] = str(folder / value) if kind == "image" else value
    return record


def _item(record: dict[str, Any]) -> Item:
    return {**record, "image": Path(record["image"])} if "image" in record else record
