"""What a task is made of: queries, documents and which belong together; or pairs with a similarity
score.

Built from rows of a table. Rows that repeat a query or a document are merged: one query then has
several relevant documents, as nothing else would be fair to a model that finds the other one. Rows
that repeat a query together with its document count once, and a warning says how many they are.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from unimodal.inputs import Plain
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


@dataclass(frozen=True)
class Deferred:
    """An image that is read when it is needed: a part of a tar, a cell of a table. Its name says
    which it is.
    """

    name: str
    read: Callable[[], bytes] = field(compare=False, repr=False)


ImageSource: TypeAlias = Path | bytes | Deferred


@dataclass(frozen=True)
class Fused:
    """A text and an image that are asked, or found, together: their vector is the normalised sum
    of both.
    """

    text: str
    image: ImageSource


NO_TEXT = "."  # stands for an empty text, which no model of ours embeds and which some corpora hold
Input: TypeAlias = Plain | Deferred | Fused


@dataclass(frozen=True)
class RetrievalData:
    """Queries, the documents they search, and for each query the positions of its relevant
    documents.
    """

    queries: list[Input]
    documents: list[Input]
    relevant: list[list[int]]
    gains: list[list[float]] | None = (
        None  # how relevant each of them is; None: all alike, 1
    )
    query_ids: list[str] | None = None
    document_ids: list[str] | None = (
        None  # what ties are ordered by; None: the positions
    )
    excluded: list[list[int]] | None = (
        None  # documents that a query does not search, though others do: itself
    )
    # hit rates count documents of at least this gain: the product itself, not one like it
    hit_gain: float = 0.0
    both_ways: bool = False  # captions and images: score `swap_sides` of it too
    lost: list[list[float]] | None = (
        None  # gains of relevant documents that are not there: missed, whatever is found
    )
    notes: tuple[
        str, ...
    ] = ()  # what was left out or does not fit, for whoever reads the scores


@dataclass(frozen=True)
class PairData:
    """Pairs and how similar people find them; groups are named subsets, as positions of pairs."""

    left: list[str]
    right: list[str]
    scores: list[float]
    groups: dict[str, list[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class ZeroShotData:
    """Images, the class of each, and how a class is put into words.

    The vector of a class is the mean of its templates' vectors, as CLIP's prompt ensembles make it.
    """

    images: list[Input]
    labels: list[int]  # of each image: a position in class_names
    class_names: list[str]
    templates: list[str]  # "{c}" stands for the name of the class: "a photo of a {c}."


TaskData: TypeAlias = RetrievalData | PairData | ZeroShotData


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
    source: what the rows are of, for the warning that counts those left out for want of a text or a
        image.

    Raises ValueError if that leaves no row.
    """
    data = RetrievalMaker()
    empty: list[list[str]] = []
    repeated: list[bool] = []
    rows = list(rows)
    check_fields(rows, (image, text), source)
    for row in rows:
        texts = texts_of(row, text)[: 1 if first_caption else None]
        pictures = images_of(row, image, folder)
        empty.append(_empty_of({text: texts, image: pictures}))
        news = [data.add(one, pictures) for one in texts]
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
    """Texts that search a pool of texts; relevant are the documents of all rows of the pool with
    the query's text.

    rows: those whose queries are asked. pool: those whose documents are searched.
    first_of: fields; of the rows of the pool that share their values only the first gives a
        document. A row without one of these values stands alone.
    every: ask only every n-th of the distinct queries.
    source: what the rows are of, for the warning that counts those left out for want of a query or
        a document.

    Raises ValueError if that leaves no row to ask, or none to search.
    """
    pool = list(pool)
    check_fields(rows, (query, document), source)
    check_fields(pool, (query, document, *first_of), source)
    _refuse_all_empty(
        [
            _empty_of({name: texts_of(row, name) for name in (query, document)})
            for row in rows
        ],
        source,
    )
    empty: list[list[str]] = []
    repeated: list[bool] = []
    data = RetrievalMaker()
    seen: set[tuple[Any, ...]] = set()
    for row in pool:
        group = tuple(
            str(value_of(row, name))
            for name in first_of
            if value_of(row, name) is not None
        )
        if first_of and group in seen:
            continue
        if len(group) == len(
            first_of
        ):  # a row whose values are missing shares none with another
            seen.add(group)
        queries = texts_of(row, query)
        documents = texts_of(row, document)
        empty.append(_empty_of({query: queries, document: documents}))
        news = [data.add(text, documents) for text in queries]
        repeated.append(not empty[-1] and not any(news))
    _tell_left_out(empty, source)
    _tell_repeated(repeated, source)
    asked = dict.fromkeys(text for row in rows for text in texts_of(row, query))
    return data.build(list(asked)[::every])


def _empty_of(fields: Mapping[str, Sequence[object]]) -> list[str]:
    return [name for name, found in fields.items() if not found]


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
    """Warn of rows that say nothing that no row before them says."""
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
    """Pairs of texts with their score, from numbered rows; groups: name -> the
    numbers of its rows.
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


def swap_sides(data: RetrievalData) -> RetrievalData:
    """The same pairs searched in the other direction; a document that nobody asked for asks
    nothing.
    """
    gains = data.gains or [[1.0] * len(documents) for documents in data.relevant]
    found: dict[int, list[tuple[int, float]]] = {}
    for query, documents in enumerate(data.relevant):
        for document, gain in zip(documents, gains[query], strict=True):
            found.setdefault(document, []).append((query, gain))
    asked = sorted(found)
    return RetrievalData(
        queries=[data.documents[document] for document in asked],
        documents=data.queries,
        relevant=[[query for query, _ in found[document]] for document in asked],
        gains=None
        if data.gains is None
        else [[gain for _, gain in found[document]] for document in asked],
        query_ids=None
        if data.document_ids is None
        else [data.document_ids[document] for document in asked],
        document_ids=data.query_ids,
    )


def checked(name: str, data: TaskData) -> TaskData:
    """The data as it is, once it is seen that it can be scored.

    Raises ValueError, naming the task, for no queries or documents, ids that are not distinct, a
    query without a relevant document, empty texts, a label without a class. A query whose relevant
    documents are lost, or not among those it searches, scores 0; a note counts the latter.
    """
    if isinstance(data, RetrievalData):
        _check_retrieval(name, data)
        return _with_note_of_hopeless(data)
    if isinstance(data, PairData):
        _refuse_empty(name, "texts", [*data.left, *data.right])
        unknown = next(
            (
                number
                for number, score in enumerate(data.scores)
                if not math.isfinite(score)
            ),
            None,
        )
        if unknown is not None:
            raise ValueError(
                f"{name}: the score of pair {unknown} is {data.scores[unknown]}; remove "
                "or repair the pair."
            )
    else:
        _refuse_empty(name, "pictures", data.images)
        _refuse_empty(name, "class names", data.class_names)
        outside = sorted(
            {label for label in data.labels if not 0 <= label < len(data.class_names)}
        )
        if outside:
            raise ValueError(
                f"{name}: label {outside[0]} is of none of its {len(data.class_names)} "
                "classes; add it."
            )
        same = [one for one, count in Counter(data.class_names).items() if count > 1]
        if same:
            warnings.warn(
                f"{name}: {same[0]!r} is the name of several classes ({len(same)} such names), "
                "which no model can tell apart: all images but those of one of them count as "
                "wrong; write other words into classnames.txt.",
                stacklevel=2,
            )
        if (
            not all("{c}" in template for template in data.templates)
            or not data.templates
        ):
            raise ValueError(
                f"{name}: templates {data.templates[:2]} must say where the class goes; "
                f'write "{{c}}".'
            )
    return data


def _check_retrieval(name: str, data: RetrievalData) -> None:
    for what, inputs, ids in (
        ("queries", data.queries, data.query_ids),
        ("documents", data.documents, data.document_ids),
    ):
        _refuse_empty(name, what, inputs)
        twice = next(
            (one for one, count in Counter(ids or ()).items() if count > 1), None
        )
        if twice is not None:
            raise ValueError(
                f"{name}: id {twice!r} is that of several {what}; ids must be distinct."
            )
    for query, documents in enumerate(data.relevant):
        if not documents and not (data.lost and data.lost[query]):
            named = data.query_ids[query] if data.query_ids else str(query)
            raise ValueError(
                f"{name}: query {named!r} has no relevant document; leave it out."
            )


def _with_note_of_hopeless(data: RetrievalData) -> RetrievalData:
    """The data, with a note of how many queries search none of their relevant documents."""
    if not data.excluded:
        return data
    count = sum(
        bool(documents) and set(documents) <= set(excluded)
        for documents, excluded in zip(data.relevant, data.excluded, strict=True)
    )
    if not count:
        return data
    note = (
        f"{count} of {len(data.queries)} queries search none of their relevant documents and "
        "score 0"
    )
    return dataclasses.replace(data, notes=(*data.notes, note))


def _refuse_empty(name: str, what: str, inputs: Sequence[Input]) -> None:
    if not inputs:
        raise ValueError(
            f"{name} has no {what}; check where its data lies and its split."
        )
    for number, one in enumerate(inputs):
        text = one.text if isinstance(one, Fused) else one
        if isinstance(text, str) and not text.strip():
            raise ValueError(
                f"{name}: number {number} of its {what} is an empty text; remove or repair it."
            )


class RetrievalMaker:
    """Collects (query, its documents) and numbers each distinct query and document once."""

    def __init__(self) -> None:
        self._documents: dict[Input, int] = {}
        self._relevant: dict[Input, dict[int, None]] = {}

    def add(self, query: Input, documents: Iterable[Input]) -> bool:
        """Say that these documents are relevant for this query, known ones are merged; whether that
        was news.
        """
        is_news = False
        for document in documents:
            position = self._documents.setdefault(document, len(self._documents))
            relevant = self._relevant.setdefault(query, {})
            is_news |= position not in relevant
            relevant[position] = None
        return is_news

    def build(self, queries: Sequence[Input] | None = None) -> RetrievalData:
        """All documents, with these queries (those without a document are left out) or with all
        there are.
        """
        asked = [
            query
            for query in (self._relevant if queries is None else queries)
            if query in self._relevant
        ]
        return RetrievalData(
            asked,
            list(self._documents),
            [list(self._relevant[query]) for query in asked],
        )


def images_of(row: Row, name: str, folder: Path) -> list[Path | bytes]:
    """The images of a field: paths below `folder`, bytes, or the {"bytes", "path"} of a Hugging
    Face data set.
    """
    images: list[Path | bytes] = []
    for one in images_in(value_of(row, name)):
        if not isinstance(one, (str, bytes)):
            raise ValueError(
                f"{name!r} holds a decoded image; give its path or its bytes."
            )
        images.append(image_path(one, folder) if isinstance(one, str) else one)
    return images


def texts_of(row: Row, name: str) -> list[str]:
    """The texts of a field or template, with their blanks: a model gets a benchmark's texts as they
    are.
    """
    return fields.texts_of(row, name, verbatim=True)


def check_fields(rows: Sequence[Row], specs: Iterable[str], source: str) -> None:
    """Raises ValueError for a field that is in no row, naming the nearest; of some rows it may be
    missing.
    """
    for name in [name for spec in specs for name in names_in(spec)]:
        if rows and not any(has_field(row, name) for row in rows):
            raise missing_field(
                rows[0], name, f"any row of {source}" if source else "any row"
            )
