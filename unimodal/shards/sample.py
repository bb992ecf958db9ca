"""What a sample's parts mean: an image with captions, or a pair of texts.

A ValueError says why a sample cannot be used.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from ..json_text import parse_json
from ..preprocess.image_formats import IMAGE_EXTENSIONS
from ..tables.fields import is_missing


class Sample(NamedTuple):
    """One sample as it lies in the tar: extension -> bytes."""

    key: str
    parts: dict[str, bytes]
    fault: str = ""  # why its bytes are not those that were indexed


class TextPair(NamedTuple):
    """Two texts that belong together; a score says how closely."""

    query: str
    document: str
    negatives: tuple[str, ...] = ()
    score: float | None = None
    # another model's similarities of the query with the document and each negative
    teacher: tuple[float, ...] = ()
    label: str = ""  # the class of the query


def captions_of(sample: Sample) -> list[str]:
    """The captions: `captions` of the .json, else the .txt, else `caption` of the .json.

    The last one is img2dataset's. Raises ValueError, as do the functions below, naming the key and
    its parts.
    """
    record = record_of(sample) if "json" in sample.parts else {}
    captions = record.get("captions")
    if captions is None:
        captions = [
            _decode(sample, "txt") if "txt" in sample.parts else record.get("caption")
        ]
    if not isinstance(captions, list) or not all(
        caption is None or isinstance(caption, str) for caption in captions
    ):
        raise _unusable(sample, "has captions that are not a list of texts")
    captions = [caption.strip() for caption in captions if caption and caption.strip()]
    if not captions:
        raise _unusable(
            sample,
            "has no caption",
            "" if sample.parts.keys() & {"txt", "json"} else _layout_of(sample),
        )
    return captions


def image_bytes_of(sample: Sample) -> bytes:
    """The image as it was packed."""
    for extension in IMAGE_EXTENSIONS:
        if extension in sample.parts:
            return sample.parts[extension]
    raise _unusable(sample, "has no image", _layout_of(sample))


def text_pair_of(sample: Sample) -> TextPair:
    """The pair in the .json: `query` and `document`.

    `negatives`, `score`, `teacher` and `label` are optional.
    """
    if "json" not in sample.parts:
        raise _unusable(sample, "has no text pair", _layout_of(sample))
    record = record_of(sample)
    for field in ("query", "document"):
        if not isinstance(record.get(field), str) or not record[field].strip():
            raise _unusable(sample, f"has no {field}")
    negatives = record.get("negatives") or []
    score = record.get("score")
    teacher = record.get("teacher") or []
    if not isinstance(negatives, list) or not all(
        isinstance(negative, str) and negative.strip() for negative in negatives
    ):
        raise _unusable(sample, "has negatives that are not a list of texts")
    if score is not None and not _is_number(score):
        raise _unusable(sample, f"has a score that is not a finite number ({score!r})")
    if not isinstance(teacher, list) or not all(map(_is_number, teacher)):
        raise _unusable(sample, "has a teacher that is not a list of finite numbers")
    if teacher and len(teacher) != 1 + len(negatives):
        raise _unusable(
            sample,
            f"has {len(teacher)} teacher numbers for a document and {len(negatives)} negatives",
        )
    return TextPair(
        record["query"],
        record["document"],
        tuple(negatives),
        None if score is None else float(score),
        tuple(map(float, teacher)),
        _label(record),
    )


def label_of(sample: Sample) -> str:
    """The class of an image, from its .json; empty where it has none."""
    return _label(record_of(sample)) if "json" in sample.parts else ""


def _label(record: dict[str, Any]) -> str:
    return "" if is_missing(record.get("label")) else str(record["label"])


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
    )


def record_of(sample: Sample) -> dict[str, Any]:
    """The object in its .json."""
    content = _decode(sample, "json")
    try:
        record = parse_json(content)
    except ValueError as error:
        raise _unusable(sample, f"has a .json that is not JSON ({error})") from None
    if not isinstance(record, dict):
        raise _unusable(sample, "has a .json that is not an object")
    if b"\\u" in sample.parts["json"]:
        _check_escapes(sample, record)
    return record


def _check_escapes(sample: Sample, record: dict[str, Any]) -> None:
    """Refuse half a surrogate pair: a JSON escape can hold it, and no tokenizer reads it."""
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise _unusable(
            sample, "has a .json with half a surrogate pair, which is not valid Unicode"
        ) from None


def _decode(sample: Sample, extension: str) -> str:
    try:
        return sample.parts[extension].decode()
    except UnicodeDecodeError as error:
        raise _unusable(
            sample,
            f"has a .{extension} that is not UTF-8 ({error.reason} at byte {error.start})",
        ) from None


def layout_rule(extensions: Iterable[str]) -> str:
    """The rule of webdataset that a sample without one of its parts may have broken.

    extensions: those that it has.
    """
    dotted = next((extension for extension in extensions if "." in extension), "")
    if dotted:
        return (
            "webdataset ends a key at the first dot of a file's name and takes the rest, "
            f"{dotted!r}, for the extension; use keys without dots"
        )
    return (
        "webdataset takes only files that are adjacent in the tar for one sample; write it "
        "with tar --sort=name"
    )


def _layout_of(sample: Sample) -> str:
    return f"; {layout_rule(sample.parts)}"


def _unusable(sample: Sample, what: str, rule: str = "") -> ValueError:
    parts = ", ".join(
        f"{name} ({len(content):,} bytes)" for name, content in sample.parts.items()
    )
    return ValueError(f"sample {sample.key!r} {what}; its parts are {parts}{rule}.")
