"""Task data made of rows of a table.

Rows that repeat a query or a document are merged: one query then has several relevant documents, as
nothing else would be fair to a model that finds the other one. Rows that repeat a query together
with its document count once, and a warning says how many they are.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unimodal.tables import fields
from unimodal.tables.fields import (
    Row,
    has_field,
    image_path,
    images_in,
    missing_field,
    names_in,
    value_of,
)

from .inputs import Input
from .pairs import PairData
from .retrieval import RetrievalData


def image_text_data(
    rows: Iterable[Row],
    folder: Path,
    image: str,
    text: str,
    *,
    first_caption: bool = False,
    source: str = "",
) -> RetrievalData:
    """Texts as queries, images as documents; `swap_sides` gives the other direction.

    folder: what the images' paths are relative to.
    image, text: a field (a list holds several) or, for the text, a template such as "{title},
        {color}".
    first_caption: take only the first of several texts, so that no image counts more than
        another.
    source: what the rows are of, for the warning that counts rows without a text or an image.

    Raises ValueError if that leaves no row.
    """
    data = RetrievalMaker()
    empty: list[list[str]] = []
    repeated: list[bool] = []
    rows = list(rows)
    check_fields(rows, (image, text), source)
    for row in rows:
        texts = texts_of(row, text)[: 1 if first_caption else None]
        images = images_of(row, image, folder)
        empty.append(_empty_of({text: texts, image: images}))
        news = [data.add(caption, images) for caption in texts]
        repeated.append(not empty[-1] and not any(news))
    _tell_left_out(empty, source)
    _tell_repeated(repeated, source)
    return dataclasses.replace(data.build(), both_ways=True)


def text_retrieval_data(
    rows: Sequence[Row],
    pool: Iterable[Row],
    query: str,
    document: str,
    *,
    first_of: Sequence[str] = (),
    every: int = 1,
    source: str = "",
) -> RetrievalData:
    """Texts that search a pool of texts.

    A query's relevant documents are those of all rows of the pool with its text.

    rows: those whose queries are used. pool: those whose documents are searched.
    first_of: fields; of the rows of the pool that share their values only the first gives a
        document. A row without one of these values stands alone.
    every: use only every n-th of the distinct queries.
    source: what the rows are of, for the warning that counts rows without a query or a document.

    Raises ValueError if that leaves no query or no document.
    """
    pool = list(pool)
    check_fields(rows, (query, document), source)
    check_fields(pool, (query, document, *first_of), source)
    empty_fields = [
        _empty_of({query: texts_of(row, query), document: texts_of(row, document)})
        for row in rows
    ]
    _refuse_all_empty(empty_fields, source)
    empty: list[list[str]] = []
    repeated: list[bool] = []
    data = RetrievalMaker()
    seen: set[tuple[Any, ...]] = set()
    for row in pool:
        values = [value_of(row, name) for name in first_of]
        group = tuple(str(value) for value in values if value is not None)
        if first_of and group in seen:
            continue
        if len(group) == len(first_of):  # a row with a missing value shares none
            seen.add(group)
        queries = texts_of(row, query)
        documents = texts_of(row, document)
        empty.append(_empty_of({query: queries, document: documents}))
        news = [data.add(text, documents) for text in queries]
        repeated.append(not empty[-1] and not any(news))
    _tell_left_out(empty, source)
    _tell_repeated(repeated, source)
    queries_of_rows = dict.fromkeys(
        text for row in rows for text in texts_of(row, query)
    )
    return data.build(list(queries_of_rows)[::every])


def _empty_of(fields: Mapping[str, Sequence[object]]) -> list[str]:
    return [name for name, values in fields.items() if not values]


def _tell_left_out(empty: Sequence[Sequence[str]], source: str) -> None:
    """Warn of rows with an empty field; empty: of each row the names of such fields."""
    _refuse_all_empty(empty, source)
    count = sum(map(bool, empty))
    if count:
        warnings.warn(
            f"{_of(source)}{count} of {len(empty)} rows left out: empty {_named(empty)}.",
            stacklevel=3,
        )


def _tell_repeated(repeated: Sequence[bool], source: str) -> None:
    """Warn of rows that repeat what earlier rows say."""
    if any(repeated):
        rows = f"{sum(repeated)} of {len(repeated)} rows"
        warnings.warn(
            f"{_of(source)}{rows} repeat others and count once.", stacklevel=3
        )


def _refuse_all_empty(empty: Sequence[Sequence[str]], source: str) -> None:
    if empty and all(empty):
        rows = "the only row has" if len(empty) == 1 else f"all {len(empty)} rows have"
        raise ValueError(
            f"{_of(source)}{rows} an empty {_named(empty)}; name the field that holds "
            "it, or fill it."
        )


def _named(empty: Sequence[Sequence[str]]) -> str:
    return " or ".join(
        map(repr, dict.fromkeys(name for names in empty for name in names))
    )


def _of(source: str) -> str:
    return f"{source}: " if source else ""


def pair_data(
    rows: Iterable[tuple[int, Row]],
    left: str,
    right: str,
    score: str,
    groups: Mapping[str, set[int]] | None = None,
) -> PairData:
    """Pairs of texts with their score, from numbered rows.

    groups: name -> the numbers of its rows.
    """
    pairs = PairData([], [], [], {name: [] for name in groups or {}})
    numbered = list(rows)
    check_fields([row for _, row in numbered], (left, right, score), "")
    for number, row in numbered:
        lefts = texts_of(row, left)
        rights = texts_of(row, right)
        value = value_of(row, score)
        try:
            pairs.scores.append(float(value))
        except (TypeError, ValueError):
            raise ValueError(
                f"{score!r} of row {number} is {value!r}; a similarity score is a number."
            ) from None
        if not math.isfinite(pairs.scores[-1]):
            raise ValueError(
                f"{score!r} of row {number} is {value!r}; a similarity score is a finite number."
            )
        if not lefts or not rights:
            raise ValueError(
                f"row {number} has no {right if lefts else left!r}; a pair needs both texts."
            )
        for name, numbers in (groups or {}).items():
            if number in numbers:
                pairs.groups[name].append(len(pairs.left))
        pairs.left.append(lefts[0])
        pairs.right.append(rights[0])
    return pairs


class RetrievalMaker:
    """Collects queries with their documents, and numbers each distinct one once."""

    def __init__(self) -> None:
        self._documents: dict[Input, int] = {}
        self._relevant: dict[Input, dict[int, None]] = {}

    def add(self, query: Input, documents: Iterable[Input]) -> bool:
        """Add documents that are relevant for a query; return whether one of them is new."""
        is_news = False
        for document in documents:
            position = self._documents.setdefault(document, len(self._documents))
            relevant = self._relevant.setdefault(query, {})
            is_news |= position not in relevant
            relevant[position] = None
        return is_news

    def build(self, queries: Sequence[Input] | None = None) -> RetrievalData:
        """All documents, with these queries, or all; queries without a document are left out."""
        candidates = self._relevant if queries is None else queries
        chosen = [query for query in candidates if query in self._relevant]
        return RetrievalData(
            chosen,
            list(self._documents),
            [list(self._relevant[query]) for query in chosen],
        )


def images_of(row: Row, name: str, folder: Path) -> list[Path | bytes]:
    """The images of a field: paths below `folder`, or bytes.

    The field may hold the {"bytes", "path"} of a Hugging Face data set.
    """
    images: list[Path | bytes] = []
    for image in images_in(value_of(row, name)):
        if not isinstance(image, (str, bytes)):
            raise ValueError(
                f"{name!r} holds a decoded image; give its path or its bytes."
            )
        images.append(image_path(image, folder) if isinstance(image, str) else image)
    return images


def texts_of(row: Row, name: str) -> list[str]:
    """The texts of a field or template, with their blanks: a benchmark's texts are not changed."""
    return fields.texts_of(row, name, verbatim=True)


def check_fields(rows: Sequence[Row], specs: Iterable[str], source: str) -> None:
    """Raise ValueError for a field that no row has, naming the nearest one."""
    for name in [name for spec in specs for name in names_in(spec)]:
        if rows and not any(has_field(row, name) for row in rows):
            raise missing_field(
                rows[0], name, f"any row of {source}" if source else "any row"
            )
